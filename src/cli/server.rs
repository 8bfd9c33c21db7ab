//! `pixii server`.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use pixii::config::Config;
use pixii::engine::serve;
use pixii_kit::outcome::{CommandError, CommandResult, Exit};
use sd_notify::NotifyState;
use tracing::info;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Run a node: the daemon
#[derive(Args)]
#[command(after_help = "\
It logs to standard error, its last line says why it ended. Under systemd it reports when it is \
    ready.

Exit codes: 0 stopped as it was ordered to; 1 something failed (the store, the port, the system), \
    and starting \
it again may help; 2 starting it again cannot help: a mistake in the command line or the \
    configuration, or \
a data directory of another node, of another format, or without permission, or a copy of the data \
    of a node \
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
    /// What the data directory holds is of a removed member, under another name than the configured
    /// one: set it aside, unchanged, and begin anew. Without effect once that is done
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
    /// Serves until ordered to stop.
    pub(crate) fn run(self) -> CommandResult {
        let outcome = self.serve();
        if let Err(error) = &outcome {
            // A service manager shows why; one that is not there changes nothing.
            let _ = sd_notify::notify(&[NotifyState::Status(&error.message)]);
        }
        outcome
    }

    fn serve(self) -> CommandResult {
        let mut config =
            Config::load(&self.config).map_err(|error| CommandError::usage(error.to_string()))?;
        config.bootstrap = self.bootstrap;
        config.rejoin_empty = self.rejoin_empty;
        config.new_identity = self.new_identity;
        let logged = log(&config);
        say_start(&config, &self.config);
        let read = move || {
            let config = Config::reload(&self.config)?;
            // It fails only when there is no logging any more.
            let _ = logged.reload(EnvFilter::new(&config.log));
            Ok(config)
        };
        serve(&config, self.follow_stdin, read).map_err(|error| match error.needs_operator() {
            true => CommandError::usage(error.to_string()),
            false => CommandError::error(error.to_string()),
        })?;
        Ok(Exit::Done)
    }
}

/// The first line of the log: which program this is, and what it works with.
fn say_start(config: &Config, file: &Path) {
    let http = config.http_listen.as_ref().map(|http| format!(", HTTP on {http}"));
    info!(
        "pixii {} begins with {}: node {} of cluster {}, data in {}, address {}{}",
        env!("CARGO_PKG_VERSION"),
        file.display(),
        config.name,
        config.cluster,
        config.data_dir.display(),
        config.listen,
        http.unwrap_or_default()
    );
}

/// Whether what is logged has colours: on a terminal that can show them, unless the user wants none
/// (<https://no-color.org>).
fn has_colours(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty) && term != Some(OsStr::new("dumb"))
}

/// From now on, what happens is logged: as sentences, or as a JSON object a line, which also has
/// their parts. What gives back can change later what is logged.
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
    let (no_color, term) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
    let colours = has_colours(io::stderr().is_terminal(), no_color.as_deref(), term.as_deref());
    registry.with(lines.with_ansi(colours).fmt_fields(sentence)).init();
    logged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let on = |terminal, no_color: Option<&str>, term: Option<&str>| {
            has_colours(terminal, no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(on(true, None, Some("xterm")) && on(true, Some(""), None));
        assert!(!on(false, None, Some("xterm")), "a file");
        assert!(!on(true, Some("1"), Some("xterm")), "NO_COLOR");
        assert!(!on(true, None, Some("dumb")), "TERM=dumb");
    }
}
