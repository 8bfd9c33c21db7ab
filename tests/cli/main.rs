//! The client and the command against fake nodes: what needs no daemon.
#![cfg(test)]

mod client;
mod command;
mod reference;
mod transfer;
mod values;
