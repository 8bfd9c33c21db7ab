//! How the demo speaks: numbered steps with what happened, what was checked, and how long it took.

use std::time::{Duration, Instant};

use pixii_kit::outcome::{CommandError, emit};
use pixii_kit::text::{row, table};

/// The script so far.
pub(super) struct Script {
    begun: Instant,
    step: Instant,
    steps: Vec<(String, Duration)>,
    title: Option<String>,
    held: u32,
    failed: u32,
}

impl Script {
    /// Nothing has been reported.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Script { begun: now, step: now, steps: Vec::new(), title: None, held: 0, failed: 0 }
    }

    /// Ends the step before, and begins one.
    pub(super) fn step(&mut self, title: &str) -> Result<(), CommandError> {
        self.end_step()?;
        self.step = Instant::now();
        self.title = Some(title.into());
        emit(format!("{}. {title}\n", self.steps.len() + 1))
    }

    /// Says what happened.
    pub(super) fn report(&self, text: &str) -> Result<(), CommandError> {
        emit(format!("   {text}\n"))
    }

    /// Says what must hold, and whether it does.
    pub(super) fn check(&mut self, holds: bool, text: &str) -> Result<(), CommandError> {
        *(if holds { &mut self.held } else { &mut self.failed }) += 1;
        emit(format!("   [{}] {text}\n", if holds { "ok" } else { "FAILED" }))
    }

    /// Prints the summary; returns how many checks did not hold.
    pub(super) fn finish(mut self) -> Result<u32, CommandError> {
        self.end_step()?;
        let mut rows = Vec::new();
        for (number, (title, spent)) in self.steps.iter().enumerate() {
            rows.push(row([&format!("{}. {title}", number + 1), &seconds(*spent)]));
        }
        rows.push(row(["in all", &seconds(self.begun.elapsed())]));
        let end = match self.failed {
            0 => "Nothing is left behind. Next: `pixii dev` for a cluster to play with.\n",
            _ => "",
        };
        emit(format!(
            "Summary: {} checks held, {} did not.\n{}{end}",
            self.held,
            self.failed,
            table(&rows)
        ))?;
        Ok(self.failed)
    }

    fn end_step(&mut self) -> Result<(), CommandError> {
        let Some(title) = self.title.take() else { return Ok(()) };
        let spent = self.step.elapsed();
        self.steps.push((title, spent));
        emit(format!("   {}\n\n", seconds(spent)))
    }
}

fn seconds(spent: Duration) -> String {
    format!("{:.2} s", spent.as_secs_f64())
}
