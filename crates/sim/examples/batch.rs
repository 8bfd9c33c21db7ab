//! A batch of simulated clusters through the library alone: `cargo run -p pixii-sim --example batch
//! -- SEED RUNS`. Ends with 1 when a run breaks a promise, and says how to see it again; of a
//! single run, also what happened in it.

use std::process::ExitCode;
use std::thread::available_parallelism;

use pixii_sim::run_batch;

const OPERATIONS: u32 = 300;

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [seed, runs] = numbers[..] else {
        eprintln!("usage: batch SEED RUNS");
        return ExitCode::from(2);
    };
    let threads = available_parallelism().map_or(1, usize::from);
    let batch = run_batch(seed, runs, OPERATIONS, threads, &|_| {});
    match batch.failure {
        None => {
            println!("{runs} runs from seed {seed}: every promise held");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            println!("A promise is broken: {}", failure.what);
            println!("To see it again: pixii sim --seed {} --runs 1", failure.seed);
            if runs == 1 {
                println!("{}", failure.trace.join("\n"));
            }
            ExitCode::FAILURE
        }
    }
}
