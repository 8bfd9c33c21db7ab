//! `pixii lab`: experiments, beside what theory and the study say.

mod load;
mod predict;
mod run;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, emit, emit_json};
use pixii_kit::text::{row, table};
use serde_json::json;

use run::{EXPERIMENTS, Experiment};

/// Measure what delays and failures do, beside theory and the study that Pixii starts from
#[derive(Args)]
#[command(after_help = "\
What the study that Pixii starts from measured, measured on Pixii, beside theory and the study's \
    own numbers; and how stale a \
read can be, by model and as it is.

On an emulated network each message between nodes, and to and from clients, takes an \
    exponentially distributed time with \
the mean d, independently. Theory: a request at a live owner costs two ways of the client, 2d, \
    and the largest of R-1 round trips \
of two messages each, E[max] = integral of 1 - (1 - (1 + t/d) exp(-t/d))^(R-1) dt.

Examples:
  pixii lab list
  pixii lab run all --quick
  pixii lab load --nodes 3 --workload B --rate 500
  pixii lab predict --way \"exponential 5ms\"")]
pub(crate) struct Lab {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand)]
enum Order {
    /// Say what experiments there are
    List,
    /// Run one
    Run(run::Run),
    /// Put a cluster under load: YCSB's workloads, in a closed loop or at a rate
    Load(load::LoadArgs),
    /// Say how stale reads can be, by model, for every (R, W)
    Predict(predict::Predict),
}

impl Lab {
    /// Lists or runs.
    pub(crate) fn run(self, shared: &Shared) -> CommandResult {
        match self.order {
            Order::List => list(shared),
            Order::Run(run) => run.run(shared),
            Order::Load(load) => load.run(shared),
            Order::Predict(predict) => predict.run(shared),
        }
    }
}

/// Refuses a folder that exists, unless it is to be written into.
fn check_out(out: &Option<PathBuf>, force: bool) -> Result<(), CommandError> {
    match out {
        Some(out) if out.exists() && !force => {
            let out = out.display();
            Err(CommandError::usage(format!("{out} exists: name another, or say --force")))
        }
        _ => Ok(()),
    }
}

fn list(shared: &Shared) -> CommandResult {
    if shared.json() {
        let one =
            |Experiment { name, what, .. }: &Experiment| json!({ "name": name, "what": what });
        emit_json(&EXPERIMENTS.iter().map(one).collect())?;
    } else {
        let one = |Experiment { name, what, .. }: &Experiment| row([name, what]);
        emit(table(&EXPERIMENTS.iter().map(one).collect::<Vec<_>>()))?;
    }
    Ok(Exit::Done)
}
