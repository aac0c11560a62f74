//! The program a user types: parse, resolve, run, report.

use std::io::Write;
use std::process::ExitCode;

use cbroker::cli::{self, Parsed};
use cbroker::commands;
use cbroker::config::Environment;
use cbroker::exit::Exit;

fn main() -> ExitCode {
    let outcome = cli::parse(std::env::args_os()).and_then(|parsed| match parsed {
        Parsed::Invocation(invocation) => commands::execute(*invocation, Environment::of_process()),
        Parsed::Text(text) => cbroker::output::raw(&text).map(|()| Exit::Done),
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            if !error.is_silent() {
                // Nobody can be told that stderr is closed.
                let _ = writeln!(std::io::stderr(), "{error}");
            }
            error.exit().into()
        }
    }
}
