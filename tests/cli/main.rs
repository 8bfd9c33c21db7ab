//! The client and the command against fake nodes: what needs no daemon.
#![cfg(test)]

mod client;
mod command;
mod decisions;
mod reference;
mod transfer;
mod values;
