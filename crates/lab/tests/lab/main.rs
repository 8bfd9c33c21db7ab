//! `pixii lab`, `sim` and `bench` as users call them: through `pixii`, which runs `pixii-lab`.
#![cfg(test)]

mod cluster;
mod commands;
