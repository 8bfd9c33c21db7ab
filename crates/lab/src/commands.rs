//! The verbs of `pixii-lab`, and how they end.

mod bench;
mod drill;
mod lab;
mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, Exit, finish};

/// What puts Pixii to the test: simulator, drills, experiments, benchmarks.
#[derive(Parser)]
// Users call these verbs as verbs of `pixii`, which runs this program.
#[command(name = "pixii-lab", bin_name = "pixii", version = pixii::VERSION.as_str(),
    max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Sim(sim::Sim),
    Bench(bench::Bench),
    Drill(drill::Drill),
    Lab(lab::Lab),
    /// The other side of the echo that `bench` measures
    #[command(name = crate::bench::echo::VERB, hide = true)]
    EchoServer,
}

/// Runs the command line that the process was given.
pub(crate) fn run() -> ExitCode {
    let Arguments { shared, verb } = Arguments::parse();
    let outcome = match verb {
        Verb::Sim(verb) => verb.run(&shared),
        Verb::Bench(verb) => verb.run(&shared),
        Verb::Drill(verb) => verb.run(&shared),
        Verb::Lab(verb) => verb.run(&shared),
        Verb::EchoServer => {
            crate::bench::echo::serve().map(|()| Exit::Done).map_err(CommandError::from)
        }
    };
    finish(outcome)
}
