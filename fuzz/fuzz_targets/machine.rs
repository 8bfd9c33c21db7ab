//! A node that is reported things by peers and clients.

#![no_main]

#[allow(dead_code)]
#[path = "../../tests/fuzz/machine.rs"]
mod machine;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| machine::machine(bytes));
