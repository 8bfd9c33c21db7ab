//! `pixii server`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use pixii::config::Config;
use pixii::engine::serve;
use sd_notify::NotifyState;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::{Exit, Outcome, Trouble};

/// Run a node: the daemon
#[derive(Args)]
#[command(after_help = "\
It logs to standard error, its last line says why it ended. Under systemd it tells when it is ready.

Exit codes: 0 stopped as it was told to; 1 something failed (the store, the port, the system), and starting \
it again may help; 2 starting it again cannot help: a mistake in the command line or the configuration, or \
a data directory of another node, of another format, or without permission, or a copy of the data of a node \
that runs elsewhere.

Examples:
  pixii server --config /etc/pixii/n1.toml")]
pub(crate) struct Server {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// This is a new cluster: found it with the members that answer, without waiting for all. Those
    /// that come later join as if they had lost their disks
    #[arg(long)]
    bootstrap: bool,
    /// What the data directory holds is of a removed member, under another name than the configured one: set it aside,
    /// unchanged, and begin anew. Without effect once that is done
    #[arg(long)]
    rejoin_empty: bool,
    /// What the data directory holds is a copy of that of a node which goes on elsewhere: make of
    /// it a node of a new cluster, with the same data. Said once, at the first start of every node
    /// of the copy
    #[arg(long, conflicts_with_all = ["bootstrap", "rejoin_empty"])]
    new_identity: bool,
    /// Stop when standard input ends, so that a daemon never outlives its parent
    #[arg(long, hide = true)]
    follow_stdin: bool,
}

impl Server {
    /// Serves until told to stop.
    pub(crate) fn run(self) -> Outcome {
        let outcome = self.serve();
        if let Err(trouble) = &outcome {
            // A service manager shows why; one that is not there changes nothing.
            let _ = sd_notify::notify(&[NotifyState::Status(&trouble.message)]);
        }
        outcome
    }

    fn serve(self) -> Outcome {
        let mut config =
            Config::load(&self.config).map_err(|error| Trouble::usage(error.to_string()))?;
        config.bootstrap = self.bootstrap;
        config.rejoin_empty = self.rejoin_empty;
        config.new_identity = self.new_identity;
        let logged = log(&config);
        let read = move || {
            let config = Config::load(&self.config)?;
            // It fails only when there is no logging any more.
            let _ = logged.reload(EnvFilter::new(&config.log));
            Ok(config)
        };
        serve(&config, self.follow_stdin, read).map_err(|error| match error.needs_operator() {
            true => Trouble::usage(error.to_string()),
            false => Trouble::error(error.to_string()),
        })?;
        Ok(Exit::Done)
    }
}

/// From now on, what happens is logged: as sentences, or as a JSON object a line, which also has their parts.
/// What gives back can change later what is logged.
fn log(config: &Config) -> Handle<EnvFilter, Registry> {
    let (filter, logged) = reload::Layer::new(EnvFilter::new(&config.log));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    if config.log_json {
        let lines = lines.json().flatten_event(true);
        registry.with(lines.with_current_span(false).with_span_list(false)).init();
        return logged;
    }
    // A sentence says all that its fields say.
    let sentence = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        _ => Ok(()),
    });
    registry.with(lines.with_ansi(io::stderr().is_terminal()).fmt_fields(sentence)).init();
    logged
}
