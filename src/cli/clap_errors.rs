//! Turns clap's errors into ours: one line for the problem, one for what to do.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::num::ParseIntError;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::{AgentNames, split_args};
use crate::error::Error;
use crate::nearest::nearest;

/// The parts of a command line that hints repeat.
pub(super) struct TypedLine {
    /// The commands, as `mcp install`, if they are known.
    verb: Option<String>,
    /// The value of `--name` before the command.
    name: Option<String>,
}

impl TypedLine {
    pub(super) fn of(argv: &[OsString], command: &Command) -> Self {
        let at = split_args::first_command(argv, command).unwrap_or(argv.len());
        let (before, words) = argv.split_at(at);
        let mut verbs = Vec::new();
        let mut reached = command;
        for word in words.iter().filter_map(|word| word.to_str()) {
            let Some(next) = reached.find_subcommand(word) else {
                break;
            };
            verbs.push(word);
            reached = next;
        }
        let before: Vec<_> = before.iter().filter_map(|word| word.to_str()).collect();
        let joined = before.iter().find_map(|word| word.strip_prefix("--name="));
        let apart = || {
            let pairs = before.iter().zip(before.iter().skip(1));
            let mut names = pairs.filter(|(option, _)| **option == "--name");
            names.next().map(|(_, name)| *name)
        };
        Self {
            verb: (!verbs.is_empty()).then(|| verbs.join(" ")),
            name: joined.or_else(apart).map(str::to_owned),
        }
    }
}

impl TypedLine {
    /// Where an option of a wrap stands that was given before another command.
    pub(super) fn place_of(&self, option: &str, command: &Command) -> String {
        let verb = self.verb.as_deref().unwrap_or_default();
        let is_own = |option_of_verb: &Arg| {
            let long = option_of_verb.get_long();
            long.is_some() && long == option.strip_prefix("--")
        };
        match command.find_subcommand(verb) {
            Some(found) if found.get_arguments().any(is_own) => {
                format!(
                    "behind `{verb}` it is an option of that command: cbroker {verb} {option} …"
                )
            }
            _ => "cbroker --name NAME claude".to_owned(),
        }
    }
}

/// The help of the given command is the hint if there is no better one.
pub(super) fn in_our_words(error: &clap::Error, typed: &TypedLine, agents: AgentNames) -> Error {
    let verb = typed.verb.as_deref();
    let hint = match (error.kind(), verb) {
        (ErrorKind::InvalidSubcommand, None) => known_command(error, typed, agents),
        (_, Some(verb)) => suggestion(error).unwrap_or_else(|| format!("cbroker {verb} --help")),
        (_, None) => suggestion(error).unwrap_or_else(|| "cbroker --help".to_owned()),
    };
    let problem = match (error.kind(), verb) {
        (
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            Some(verb),
        ) => format!("`cbroker {verb}` needs a subcommand: {}", subcommands(verb)),
        _ => problem(error),
    };
    let usage = Error::usage(problem).with_hint(hint);
    match reason(error) {
        Some(reason) => usage.caused_by(reason),
        None => usage,
    }
}

/// What may be meant by an unknown command. With a name it is a program that is to be wrapped.
fn known_command(error: &clap::Error, typed: &TypedLine, agents: AgentNames) -> String {
    let word = context(error, ContextKind::InvalidSubcommand);
    let name = typed.name.as_deref();
    let wrap = |program: &str| format!("cbroker --name {} {program}", name.unwrap_or("NAME"));
    let agents = agents();
    // `help AGENT` is one with the agent's own name.
    let exact = agents.iter().find(|agent| **agent == word).copied();
    let agent = exact.or_else(|| nearest(&word, agents.iter().copied()));
    let agent = agent.map(&wrap);
    match (name, suggestion(error)) {
        (None, Some(similar)) => similar,
        (None, None) => agent.unwrap_or_else(|| {
            let wrap = wrap(&format!("run -- {word}"));
            format!("`cbroker --help` lists the commands; `{wrap}` wraps a program")
        }),
        (Some(_), _) => agent.unwrap_or_else(|| wrap(&format!("run -- {word}"))),
    }
}

/// The subcommands of a verb: `a, b or c`.
fn subcommands(verb: &str) -> String {
    let command = super::command();
    let mut words = verb.split(' ');
    let names: Vec<&str> = words
        .try_fold(&command, |reached, word| reached.find_subcommand(word))
        .into_iter()
        .flat_map(Command::get_subcommands)
        .map(Command::get_name)
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
