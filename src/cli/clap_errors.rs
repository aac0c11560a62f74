//! Turns clap's errors into ours: one line for the problem, one for what to do.

use std::error::Error as StdError;
use std::num::ParseIntError;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Error;
use crate::nearest::nearest;

/// `verb` is the given command, if known. Its help is the hint if clap has no better one.
pub(super) fn in_our_words(error: &clap::Error, verb: Option<&str>) -> Error {
    let hint = suggestion(error).unwrap_or_else(|| match verb {
        Some(verb) => format!("cbroker {verb} --help"),
        None => "cbroker --help".to_owned(),
    });
    let problem = match (error.kind(), verb) {
        (
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            Some(verb),
        ) => format!("`cbroker {verb}` needs a subcommand: {}", subcommands(verb)),
        _ => problem(error),
    };
    let usage = Error::usage(problem).hint(hint);
    match reason(error) {
        Some(reason) => usage.because(reason),
        None => usage,
    }
}

/// The subcommands of a verb: `a, b or c`.
fn subcommands(verb: &str) -> String {
    let command = super::command();
    let names: Vec<&str> = command
        .find_subcommand(verb)
        .into_iter()
        .flat_map(clap::Command::get_subcommands)
        .map(clap::Command::get_name)
        .collect();
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        names => names.concat(),
    }
}

fn problem(error: &clap::Error) -> String {
    let argument = context(error, ContextKind::InvalidArg);
    let value = context(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let subcommand = context(error, ContextKind::InvalidSubcommand);
            format!("unrecognized subcommand '{subcommand}'")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument '{argument}' found"),
        ErrorKind::MissingRequiredArgument => {
            format!("the following required arguments were not provided: {argument}")
        }
        ErrorKind::ArgumentConflict => {
            let prior = context(error, ContextKind::PriorArg);
            if prior == argument || prior.is_empty() {
                format!("the argument '{argument}' cannot be used multiple times")
            } else {
                format!("the argument '{argument}' cannot be used with '{prior}'")
            }
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("a value is required for '{argument}' but none was supplied")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            format!("invalid value '{value}' for '{argument}'")
        }
        kind => {
            let known = kind.as_str().unwrap_or("the arguments cannot be read");
            [known, &argument, &value].join(" ").trim_end().to_owned()
        }
    }
}

/// Why a value is refused: what its parser says, or what would be valid.
fn reason(error: &clap::Error) -> Option<String> {
    if let Some(cause) = error.source() {
        let is_no_number = cause.is::<ParseIntError>();
        return Some(if is_no_number {
            "expected a number".to_owned()
        } else {
            cause.to_string()
        });
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            Some(format!("expected {}", values.join(", ")))
        }
        _ => None,
    }
}

/// What clap guesses was meant.
fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [
        (ContextKind::SuggestedSubcommand, "subcommand"),
        (ContextKind::SuggestedArg, "argument"),
        (ContextKind::SuggestedValue, "value"),
    ];
    kinds.into_iter().find_map(|(kind, what)| {
        let similar = context(error, kind);
        // clap takes values for similar that have little in common.
        let is_far = kind == ContextKind::SuggestedValue
            && nearest(&context(error, ContextKind::InvalidValue), [&*similar]).is_none();
        (!similar.is_empty() && !is_far).then(|| format!("a similar {what} exists: '{similar}'"))
    })
}

/// A part of the error as text, empty if clap does not have it.
fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        Some(ContextValue::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}
