//! Splits the command line into our own arguments and those of the wrapped program.
//!
//! Only a `claude`, a `run` or an agent's name in the position of a command counts: in `send --to
//! claude` and `--name run` they are names.

use std::ffi::{OsStr, OsString};

use clap::Command;

/// The wrapped program, and its arguments, which are passed on unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramArgs {
    /// Claude Code with these arguments.
    Claude(Vec<OsString>),
    /// Another known agent by its name, and its arguments.
    Agent(Vec<OsString>),
    /// A program behind `run`, and its arguments.
    Other(Vec<OsString>),
}

impl ProgramArgs {
    /// The command that stands in front of the arguments: `claude`, an agent's name or `run`.
    pub(super) fn verb(&self) -> String {
        match self {
            Self::Claude(_) => "claude".to_owned(),
            Self::Agent(words) => first_word(words).unwrap_or_default(),
            Self::Other(_) => "run".to_owned(),
        }
    }

    /// The command line that wraps it, without its arguments.
    pub(super) fn line_with(&self, name: &str) -> String {
        match self {
            Self::Claude(_) | Self::Agent(_) => format!("cbroker --name {name} {}", self.verb()),
            Self::Other(words) => {
                let program = first_word(words).unwrap_or_else(|| "PROGRAM".to_owned());
                format!("cbroker --name {name} run -- {program}")
            }
        }
    }

    /// The option that asks for help, if it is the first argument.
    pub(super) fn help_option(&self) -> Option<&OsStr> {
        let arguments = match self {
            Self::Claude(arguments) | Self::Other(arguments) => arguments.as_slice(),
            Self::Agent(words) => words.get(1..).unwrap_or_default(),
        };
        let first = arguments.first()?.as_os_str();
        (first == "-h" || first == "--help").then_some(first)
    }

    /// The option that stands behind `run` in the place of a program.
    pub(super) fn misplaced_option(&self) -> Option<String> {
        let Self::Other(words) = self else {
            return None;
        };
        first_word(words).filter(|word| word.starts_with('-'))
    }
}

fn first_word(words: &[OsString]) -> Option<String> {
    words
        .first()
        .map(|word| word.to_string_lossy().into_owned())
}

/// Splits at the first command if it wraps a program: `claude`, `run`, or the name of an agent,
/// which stands for `run -- AGENT`. A `--` directly after `claude` or `run` is dropped.
pub(super) fn cut(
    mut argv: Vec<OsString>,
    command: &Command,
    is_agent: impl Fn(&str) -> bool,
) -> (Vec<OsString>, Option<ProgramArgs>) {
    let Some(at) = first_command(&argv, command) else {
        return (argv, None);
    };
    let is_verb = |word: &str| command.find_subcommand(word).is_some();
    let make = match argv[at].to_str() {
        Some("claude") => ProgramArgs::Claude,
        Some("run") => ProgramArgs::Other,
        Some(word) if !is_verb(word) && is_agent(word) => {
            return (argv.drain(..at).collect(), Some(ProgramArgs::Agent(argv)));
        }
        _ => return (argv, None),
    };
    let mut rest = argv.split_off(at + 1);
    argv.truncate(at);
    if rest.first().is_some_and(|first| first == OsStr::new("--")) {
        rest.remove(0);
    }
    (argv, Some(make(rest)))
}

/// Returns the index of the command: the first argument that is neither an option nor an option's
/// value.
pub(super) fn first_command(argv: &[OsString], command: &Command) -> Option<usize> {
    let takes_a_value = |text: &str| {
        text.strip_prefix("--").is_some_and(|name| {
            let mut options = command.get_arguments();
            options
                .any(|option| option.get_long() == Some(name) && option.get_action().takes_values())
        })
    };
    let mut at = 1;
    while let Some(argument) = argv.get(at) {
        let text = argument.to_string_lossy();
        if !text.starts_with('-') {
            return Some(at);
        }
        at += if takes_a_value(&text) { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> (String, Option<ProgramArgs>) {
        let (ours, program) = cut(words(line), &crate::cli::command(), |name| name == "codex");
        let ours: Vec<_> = ours
            .iter()
            .map(|argument| argument.to_string_lossy())
            .collect();
        (ours.join(" "), program)
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn what_follows_claude_passes_untouched() {
        let (ours, program) = split("cbroker --name backend claude --resume --name x run");
        assert_eq!(ours, "cbroker --name backend");
        assert_eq!(
            program,
            Some(ProgramArgs::Claude(words("--resume --name x run")))
        );
    }

    #[test]
    fn one_leading_separator_is_dropped_and_no_more() {
        assert_eq!(
            split("cbroker --name b claude -- --help").1,
            Some(ProgramArgs::Claude(words("--help")))
        );
        assert_eq!(
            split("cbroker --name b claude -- -- x").1,
            Some(ProgramArgs::Claude(words("-- x")))
        );
        assert_eq!(
            split("cbroker --name b run -- sh -c x").1,
            Some(ProgramArgs::Other(words("sh -c x")))
        );
        assert_eq!(
            split("cbroker --name b run sh -- x").1,
            Some(ProgramArgs::Other(words("sh -- x")))
        );
    }

    #[test]
    fn the_words_mean_names_where_a_name_is_expected() {
        assert_eq!(split("cbroker send --to claude -m run").1, None);
        assert_eq!(
            split("cbroker --name claude run x").1,
            Some(ProgramArgs::Other(words("x")))
        );
        assert_eq!(
            split("cbroker --name run claude").1,
            Some(ProgramArgs::Claude(vec![]))
        );
        assert_eq!(
            split("cbroker --name=run --json claude").0,
            "cbroker --name=run --json"
        );
    }

    #[test]
    fn an_agents_name_stands_for_run() {
        let (ours, program) = split("cbroker --name backend codex --model x -- y");
        assert_eq!(ours, "cbroker --name backend");
        assert_eq!(
            program,
            Some(ProgramArgs::Agent(words("codex --model x -- y")))
        );
        assert_eq!(split("cbroker --name backend other").1, None);
    }

    #[test]
    fn every_option_with_a_value_is_stepped_over() {
        for option in ["--url", "--ca-cert", "--ttl", "--batch", "--delivery"] {
            let line = format!("cbroker {option} run --name backend claude");
            assert_eq!(split(&line).1, Some(ProgramArgs::Claude(vec![])), "{line}");
        }
    }

    #[test]
    fn a_line_without_a_command_stays_whole() {
        assert_eq!(split("cbroker --help"), ("cbroker --help".into(), None));
        assert_eq!(split("cbroker --name"), ("cbroker --name".into(), None));
    }
}
