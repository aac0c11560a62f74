//! What can be wrong with a wrap without a broker. It is checked first, so that a slip starts none.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::delivery_mode;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::wrap::agents::Profile;
use crate::wrap::delivery::DeliveryMode;
use crate::wrap::options::{BrokerStart, Fallback, WrapOptions};
use crate::wrap::pty::find_program;

/// A shell's exit code for a program that is not found.
const NOT_FOUND: Exit = Exit::Child(127);
/// A shell's exit code for a file that cannot be executed.
const NOT_EXECUTABLE: Exit = Exit::Child(126);

/// A wrap whose program exists and takes the wrap's options.
#[derive(Debug)]
pub struct CheckedWrap {
    pub(super) options: WrapOptions,
    pub(super) profile: &'static Profile,
    pub(super) mode: DeliveryMode,
}

impl CheckedWrap {
    /// The program does not wait for the local broker, which is still being started.
    pub fn without_waiting(&mut self) {
        self.options.broker_start = BrokerStart::GoesOn;
    }

    /// What happens if the broker cannot be reached at the start.
    pub fn fallback(&self) -> Fallback {
        self.options.fallback
    }
}

/// Checks what can be wrong with a wrap without a broker.
///
/// # Errors
/// If there is no such program, or it does not take the wrap's options.
pub fn check(options: WrapOptions, config: &Config) -> Result<CheckedWrap, Error> {
    let profile = Profile::of(&options.program, &options.arguments);
    let mode = delivery_mode::resolve(&options, profile, config)?;
    if find_program(&options.program, config.environment.get("PATH")).is_none() {
        return Err(cannot_be_run(&options.program, profile));
    }
    Ok(CheckedWrap {
        options,
        profile,
        mode,
    })
}

/// A shell's exit code for a program that could not be started for this reason.
pub(super) fn exit_of(error: &io::Error) -> Exit {
    match error.kind() {
        ErrorKind::PermissionDenied => NOT_EXECUTABLE,
        _ => NOT_FOUND,
    }
}

/// The error for a program that is not found, with a shell's exit code.
fn cannot_be_run(program: &OsStr, profile: &Profile) -> Error {
    let shown = program.to_string_lossy();
    let error = Error::new(format!("{shown} cannot be run"));
    let is_path = program.as_encoded_bytes().contains(&b'/');
    if is_path && Path::new(program).is_dir() {
        return error
            .caused_by("it is a folder")
            .with_hint(format!("name a program in it: {shown}/PROGRAM"))
            .exit_with(NOT_EXECUTABLE);
    }
    if is_path && Path::new(program).exists() {
        return error
            .caused_by("it is not an executable file")
            .with_hint(format!("`chmod +x {shown}` makes a program of a script"))
            .exit_with(NOT_EXECUTABLE);
    }
    if is_path {
        return error
            .caused_by("there is no such file")
            .with_hint("check the path; a name without `/` is looked up on the PATH")
            .exit_with(NOT_FOUND);
    }
    let by_path = format!("cbroker --name NAME run -- /PATH/TO/{shown}");
    let hint = if profile.programs.contains(&&*shown) {
        format!("install it, or name its file: {by_path}")
    } else {
        format!("check the name, or name its file: {by_path}")
    };
    error
        .caused_by("there is no such program on the PATH")
        .with_hint(hint)
        .exit_with(NOT_FOUND)
}
