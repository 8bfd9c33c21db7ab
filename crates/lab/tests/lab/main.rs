//! `pixii lab`, `sim` and `bench` as users call them: through `pixii`, which runs `pixii-lab`.
#![cfg(test)]

mod bench;
mod cluster;
mod commands;
mod drills;
