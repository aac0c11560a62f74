//! Reformats clap's errors: one line for the problem, one for the remedy.

use crate::error::Error;

/// `verb` is the given command, if known. Its help is the hint if clap has no better one.
pub(super) fn in_our_words(error: &clap::Error, verb: Option<&str>) -> Error {
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
    let hint = match (tip, verb) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(verb)) => format!("cbroker {verb} --help"),
        (None, None) => "cbroker --help".to_owned(),
    };
    Error::usage(what.join(" ")).hint(hint)
}
