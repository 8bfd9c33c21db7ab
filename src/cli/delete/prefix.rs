//! `pixii delete --prefix`.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::ProgressBar;
use pixii_client::{Client, ClientError, Quorum};
use pixii_kit::arguments::Shared;
use pixii_kit::outcome::{CommandError, CommandResult, Exit, block_on, emit, emit_json};
use pixii_kit::removal::{Removal, Removed};
use pixii_kit::signals::Interrupt;
use pixii_kit::text::count;
use serde_json::json;

use super::super::scan::{PartArguments, verdict};

/// Keys that begin with a prefix, to be deleted.
pub(super) struct Prefix {
    pub(super) part: PartArguments,
    pub(super) r: Option<u8>,
    pub(super) w: Quorum,
    pub(super) timeout_ms: u32,
}

impl Prefix {
    /// Deletes the keys; without `yes`, counts them.
    pub(super) fn run(&self, yes: bool, shared: &Shared) -> CommandResult {
        if !yes {
            return self.refuse(shared);
        }
        let mut removed = Removed::default();
        let interrupt = Interrupt::listen(true)?;
        let outcome = block_on(async {
            let work = async {
                let client = shared.client().await?;
                self.delete(&client, &mut removed, shared.json()).await
            };
            tokio::select! {
                biased;
                outcome = work => outcome,
                () = interrupt.wait() => Err(CommandError::error("interrupted")),
            }
        });
        self.report(&removed, outcome, shared.json())
    }

    fn name(&self) -> String {
        let given = self.part.prefix().unwrap_or_default();
        format!("\"{}\"", given.to_string_lossy().escape_debug())
    }

    fn refuse(&self, shared: &Shared) -> CommandResult {
        let (listed, missing) = block_on(async {
            let client = shared.client().await?;
            let mut scan = self.part.scan(&client, self.r, self.timeout_ms)?;
            let mut listed = 0;
            while scan.next().await?.is_some() {
                listed += 1;
            }
            Ok((listed, verdict(scan.missing())))
        })?;
        missing?;
        let (keys, name) = (count(listed, "key"), self.name());
        let begin = if listed == 1 { "begins" } else { "begin" };
        Err(CommandError::usage(format!(
            "{keys} {begin} with {name}: nothing is deleted without --yes"
        )))
    }

    async fn delete(
        &self,
        client: &Client,
        removed: &mut Removed,
        as_json: bool,
    ) -> Result<(), CommandError> {
        let shows = !as_json && io::stderr().is_terminal();
        let bar = shows.then(ProgressBar::new_spinner);
        let mut scan = self.part.scan(client, self.r, self.timeout_ms)?;
        let deadline = Duration::from_millis(self.timeout_ms.into());
        let removal = Removal { w: self.w, deadline };
        let done = removal.run(client, &mut scan, removed, |removed| {
            if let Some(bar) = &bar {
                bar.set_message(format!("deleted {}", count(removed.deleted, "key")));
                bar.tick();
            }
        });
        let done = done.await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        done?;
        verdict(scan.missing())
    }

    fn report(
        &self,
        removed: &Removed,
        outcome: Result<(), CommandError>,
        as_json: bool,
    ) -> CommandResult {
        let number = |part: &Option<(u64, ClientError)>| part.as_ref().map_or(0, |some| some.0);
        let (refused, unknown) = (number(&removed.refused), number(&removed.unknown));
        let is_usage = outcome.as_ref().is_err_and(|error| error.exit == Exit::Usage);
        if as_json {
            emit_json(&json!({
                "deleted": removed.deleted,
                "refused": refused,
                "unknown": unknown,
                "complete": outcome.is_ok(),
            }))?;
        } else if outcome.is_ok() || removed.deleted > 0 {
            let keys = count(removed.deleted, "key");
            emit(format!("deleted {keys} that began with {}\n", self.name()))?;
        }
        let again = if is_usage { "" } else { "; run it again to go on" };
        outcome.map_err(|error| CommandError { message: error.message + again, ..error })?;
        let left = |(count, why): &(u64, ClientError), what: &str, exit| {
            let keys = pixii_kit::text::count(*count, "key");
            let message = format!("{keys} {what}: {why}; run it again to go on");
            CommandError { exit, message }
        };
        match (&removed.unknown, &removed.refused) {
            (Some(unknown), _) => {
                Err(left(unknown, "may or may not have been deleted", Exit::Unknown))
            }
            (None, Some(refused)) => Err(left(refused, "could not be deleted", Exit::NoQuorum)),
            (None, None) => Ok(Exit::Done),
        }
    }
}
