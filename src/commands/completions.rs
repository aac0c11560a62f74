//! `cbroker completions`: prints a completion script for a shell.

use crate::cli::{self, CompletionsArgs};
use crate::error::Error;
use crate::exit::Exit;
use crate::output;

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "cbroker", &mut script);
    output::raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
