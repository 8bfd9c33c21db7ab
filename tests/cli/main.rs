//! The client and the command against fake nodes: what needs no daemon.

#[cfg(test)]
mod client;
#[cfg(test)]
mod command;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod transfer;
