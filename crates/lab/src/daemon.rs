//! The program of the daemons that are put to the test.

use std::path::PathBuf;
use std::process::Command;

use pixii_kit::outcome::CommandError;

/// The daemon's program: `pixii` in the directory of this one, of the same build.
pub(crate) fn program() -> Result<PathBuf, CommandError> {
    let own = std::env::current_exe().map_err(|error| CommandError::error(error.to_string()))?;
    let program = own.with_file_name("pixii");
    let fault = |what: &str| {
        let build = "`cargo build --release` builds both";
        CommandError::error(format!("{} {what}: {build}", program.display()))
    };
    let queried = Command::new(&program).arg("--version").output();
    let queried = queried.map_err(|error| fault(&format!("cannot be run ({error})")))?;
    let stated = String::from_utf8_lossy(&queried.stdout);
    let (stated, wanted) = (stated.trim(), format!("pixii {}", pixii::VERSION.as_str()));
    if stated != wanted {
        return Err(fault(&format!("is {stated}, and pixii-lab drives {wanted}")));
    }
    Ok(program)
}
