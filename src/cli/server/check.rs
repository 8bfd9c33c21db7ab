//! `pixii server --check`.

use std::path::Path;

use pixii::config::Config;
use pixii::disk::{DirectoryState, inspect};
use pixii_kit::outcome::{CommandError, CommandResult, Exit, complain, emit};

/// Checks what a start would read first: the configuration, its secrets, the data directory. A
/// line for each problem goes to standard error.
pub(super) fn run(file: &Path) -> CommandResult {
    let usage = |error: &dyn std::fmt::Display| CommandError::usage(error.to_string());
    let config = Config::read(file).map_err(|error| usage(&error))?;
    let mut problems: Vec<String> = Vec::new();
    if let Err(error) = config.read_secrets() {
        problems.push(format!("{}: {error}", file.display()));
    }
    let state = inspect(&config.data_dir);
    if let Err(error) = &state {
        problems.push(format!("{}: {error}", file.display()));
    }
    config.warnings.iter().for_each(|warning| complain(warning));
    problems.iter().for_each(|problem| complain(problem));
    let Ok(state) = state else { return Ok(Exit::Usage) };
    if !problems.is_empty() {
        return Ok(Exit::Usage);
    }
    let data = match state {
        DirectoryState::Missing => "will be created",
        DirectoryState::Empty => "is empty",
        DirectoryState::HasStore => "has a store",
    };
    emit(format!(
        "{}: the configuration is valid: node {} of cluster {}; the data directory {} {data}\n",
        file.display(),
        config.name,
        config.cluster,
        config.data_dir.display()
    ))?;
    Ok(Exit::Done)
}
