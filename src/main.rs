//! The program's entry point: parses the command line, runs the command, and reports an error.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use cbroker::cli::{self, ParsedArgs};
use cbroker::commands;
use cbroker::config::{Environment, Home};
use cbroker::exit::Exit;

fn main() -> ExitCode {
    cbroker::panics::install_hook();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = cbroker::wrap::hidden(arguments.get(1..).unwrap_or_default()) {
        return code.into();
    }
    // Profiles that other users may have written are not read.
    let is_of_others = |home: &Home| home.objection().is_some_and(|why| why.is_of_others());
    if let Some(home) = Home::of(&Environment::of_process()).filter(|home| !is_of_others(home)) {
        cbroker::wrap::use_profiles(home.agents());
    }
    if commands::complete(&arguments) {
        return Exit::Done.into();
    }
    let mut is_verbose = false;
    let outcome =
        cli::parse(arguments, cbroker::wrap::agent_programs).and_then(|parsed| match parsed {
            ParsedArgs::Invocation(invocation) => {
                is_verbose = invocation.is_verbose();
                commands::execute(*invocation, Environment::of_process())
            }
            ParsedArgs::Text(text) => cbroker::output::raw(&text).map(|()| Exit::Done),
        });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            if !error.is_silent() {
                // If stderr is closed, there is no place to report that.
                let _ = writeln!(std::io::stderr(), "{}", error.report(is_verbose));
            }
            error.exit().into()
        }
    }
}
