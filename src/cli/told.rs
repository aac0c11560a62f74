//! clap's errors in our form: one line of what is wrong, one of what to do (SPEC §3).

use clap::error::{ContextKind, ContextValue};

use crate::error::Error;

pub(super) fn in_our_words(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let what = paragraphs.next().unwrap_or_default();
    let what: Vec<&str> = what
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    let tip = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("tip: "));
    let hint = tip.map_or_else(
        || format!("{} --help", command_of(error, &text)),
        str::to_owned,
    );
    Error::usage(what.join(" ")).hint(hint)
}

/// The command whose usage clap would show: `cbroker send`.
fn command_of(error: &clap::Error, text: &str) -> String {
    let usage = error
        .context()
        .find_map(|(kind, value)| match (kind, value) {
            (ContextKind::Usage, ContextValue::StyledStr(usage)) => Some(usage.to_string()),
            _ => None,
        });
    let usage = usage.unwrap_or_else(|| text.to_owned());
    let words = usage
        .split_once("cbroker ")
        .map_or("", |(_, after)| after)
        .split_whitespace();
    let verb: Vec<&str> = words
        .take_while(|word| {
            word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
        })
        .collect();
    ["cbroker"]
        .into_iter()
        .chain(verb)
        .collect::<Vec<_>>()
        .join(" ")
}
