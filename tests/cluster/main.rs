//! End to end: the real command against real daemons, each a process with a directory of its own.
#![cfg(test)]

mod causes;
mod copies;
mod damage;
mod data;
mod deaths;
mod draining;
mod exhaustion;
mod foreground;
mod growing;
mod intruders;
mod listing;
mod mistakes;
mod network;
mod replacing;
mod secrets;
mod starts;
mod transfer;
mod trees;
mod writes;
