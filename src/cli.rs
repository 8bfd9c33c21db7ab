//! The verbs of the command, what they share, and how they end.

mod check;
mod completions;
mod delete;
mod demo;
mod dev;
mod dump;
mod emulate;
mod get;
mod hints;
mod keys;
mod lab;
mod load;
mod migrate;
mod node;
mod package;
mod put;
mod reference;
mod repair;
mod ring;
mod scan;
mod scratch;
mod server;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, finish};

const EXAMPLES: &str = "\
Examples:
  pixii demo                          the whole script in under a minute
  pixii dev                           five daemons in the foreground, to play with
  pixii put greeting hello            write a value
  pixii get greeting                  read it
  pixii keys --prefix user/           list the keys that begin so
  pixii load data.tsv                 write a file of key<TAB>value lines
  pixii hints                         hints for members that could not be reached

Exit codes: 0 done, 1 error, 2 usage, 3 absent, 4 no quorum, 5 unknown outcome of a write, \
6 several siblings, 7 a condition that does not hold.

--connect, or else PIXII_CONNECT, names the node to talk to; the default is 127.0.0.1:7432. A \
cluster with secrets requires the client secret, which is in the file that --secret-file or \
PIXII_SECRET_FILE names.";

/// A Dynamo-style key-value store that never loses an acknowledged write.
#[derive(Parser)]
#[command(name = "pixii", version = pixii::VERSION.as_str(), after_help = EXAMPLES,
    max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Server(server::Server),
    Get(get::Get),
    Put(put::Put),
    Delete(delete::Delete),
    Keys(keys::Keys),
    Load(load::Load),
    Dump(dump::Dump),
    Status(status::Status),
    Hints(hints::Hints),
    Repair(repair::Repair),
    Ring(ring::Ring),
    Node(node::Node),
    Emulate(emulate::Emulate),
    Check(check::Check),
    Migrate(migrate::Migrate),
    Dev(dev::Dev),
    Demo(demo::Demo),
    /// Try Pixii's promises in simulated clusters (run by pixii-lab)
    Sim(lab::Arguments),
    /// Measure rates, latencies and CPU of a cluster beside the limits of the machine (run by
    /// pixii-lab)
    Bench(lab::Arguments),
    /// Break a local cluster on purpose, and judge what clients saw (run by pixii-lab)
    Drill(lab::Arguments),
    /// Measure what delays and failures do, beside theory (run by pixii-lab)
    Lab(lab::Arguments),
    Completions(completions::Completions),
    #[command(hide = true)]
    Package(package::Package),
    #[command(hide = true)]
    Reference(reference::Reference),
}

/// Runs the command line that the process was given.
pub(crate) fn run() -> ExitCode {
    let Arguments { shared, verb } = Arguments::parse();
    let outcome = match verb {
        Verb::Server(_) | Verb::Dev(_) | Verb::Demo(_) if !shared.is_empty() => {
            let why = "server, dev and demo ask no cluster that runs: they take none of \
                --connect, --secret-file and --json";
            Err(CommandError::usage(why))
        }
        Verb::Server(verb) => verb.run(),
        Verb::Get(verb) => verb.run(&shared),
        Verb::Put(verb) => verb.run(&shared),
        Verb::Delete(verb) => verb.run(&shared),
        Verb::Keys(verb) => verb.run(&shared),
        Verb::Load(verb) => verb.run(&shared),
        Verb::Dump(verb) => verb.run(&shared),
        Verb::Status(verb) => verb.run(&shared),
        Verb::Hints(verb) => verb.run(&shared),
        Verb::Repair(verb) => verb.run(&shared),
        Verb::Ring(verb) => verb.run(&shared),
        Verb::Node(verb) => verb.run(&shared),
        Verb::Emulate(verb) => verb.run(&shared),
        Verb::Check(verb) => verb.run(&shared),
        Verb::Migrate(verb) => verb.run(&shared),
        Verb::Dev(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Sim(_) | Verb::Bench(_) | Verb::Drill(_) | Verb::Lab(_) => lab::run(),
        Verb::Completions(verb) => verb.run(),
        Verb::Package(verb) => verb.run(),
        Verb::Reference(verb) => verb.run(),
    };
    finish(outcome)
}
