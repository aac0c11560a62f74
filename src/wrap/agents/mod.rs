//! Profiles of agents: how their screens look when they are ready, busy or asking, and whether text
//! may be typed into them at all.
//!
//! Patterns name the version in which they were seen. If an agent's screen changes, messages are
//! held with `unknown screen`; text is never typed by guess.
//!
//! Relies on `toml` for the profiles.

pub mod arguments;
mod data;
pub mod history;
mod input_line;
mod known;
pub mod reading;
pub mod settings;
mod subcommands;
pub mod version;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

pub use data::{complaints, use_folder};
pub use input_line::InputLine;
#[cfg(test)]
pub use known::CLAUDE;
pub use known::{UNKNOWN, agent_programs, is_interpreter};
pub use subcommands::{other_sessions, shows_a_session};

/// The profile of a kind of program.
#[derive(Debug)]
pub struct Profile {
    /// Its name in logs and lists.
    pub name: &'static str,
    /// File names of the program.
    pub programs: &'static [&'static str],
    /// The versions whose screen is described; empty if none is.
    pub seen: &'static [&'static str],
    /// The meaning of `--delivery auto`.
    pub default_delivery: DefaultDelivery,
    /// Whether it reports its state through hooks.
    pub has_hooks: bool,
    /// The appearance of its input box.
    pub prompt: Option<Prompt>,
    /// The appearance of the input line, for an agent without a box.
    pub line: Option<InputLine>,
    /// Texts in the rows around its input while a turn runs.
    pub busy: &'static [&'static str],
    /// The beginnings of a row around its input while an entered text waits and the model has not
    /// read it.
    pub waits: &'static [&'static str],
    /// First characters of its title while a turn runs.
    pub busy_titles: &'static [char],
    /// First character of its title in its main view at rest; `None` if titles do not depend on the
    /// view.
    pub idle_title: Option<char>,
    /// Texts below its box, or grey texts in it, that only other views than the main one show.
    pub other_views: &'static [&'static str],
    /// Texts that only its dialogs show, with the dialog's name.
    pub dialogs: &'static [(&'static str, &'static str)],
    /// Texts below its input while keys are commands.
    pub command_modes: &'static [&'static str],
    /// The footers below the box in vim mode.
    pub vim: Option<VimFooter>,
    /// The pauses while a text is typed.
    pub pace: TypingPace,
}

/// The default delivery of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultDelivery {
    /// They are delivered by any way, and typed if that is safe.
    Typing,
    /// They are announced by title and bell, and typed only on request.
    Notice,
    /// They are announced, and never typed: the program executes its input.
    NoticeOnly,
}

/// An input box between two rules.
#[derive(Clone, Copy, Debug)]
pub struct Prompt {
    /// The beginning of its first row.
    pub mark: char,
    /// The beginning of its first row if the text would run in a shell.
    pub shell_mark: char,
    /// The character of the rules above and below.
    pub rule: char,
    /// Colours (of 256) of placeholder text.
    pub placeholder_colours: &'static [u8],
}

/// The footers of vim mode. NORMAL mode has no footer of its own: an agent that has shown INSERT
/// mode and now shows the plain footer is in NORMAL mode.
#[derive(Clone, Copy, Debug)]
pub struct VimFooter {
    /// The footer in INSERT mode.
    pub insert: &'static str,
    /// The footer at rest in any other mode.
    pub plain: &'static str,
}

/// Pauses while one text is typed.
#[derive(Clone, Copy, Debug)]
pub struct TypingPace {
    /// Minimum time from the text's last byte to Enter.
    pub before_enter: Duration,
    /// Minimum time without output before Enter.
    pub quiet_before_enter: Duration,
    /// Minimum time without output before the text.
    pub quiet_before_text: Duration,
    /// Minimum time without a person's key before the text.
    pub idle_hands: Duration,
}

impl Profile {
    /// Whether the profile describes the input box.
    pub fn knows_its_prompt(&self) -> bool {
        self.prompt.is_some()
    }

    /// Whether the profile describes anything on the screen.
    pub fn has_looks(&self) -> bool {
        self.prompt.is_some() || !self.dialogs.is_empty() || !self.busy.is_empty()
    }

    /// The profile of a program with these arguments.
    pub fn of(program: &OsStr, arguments: &[OsString]) -> &'static Self {
        known::all()
            .find(|profile| profile.matches(program))
            .filter(|profile| {
                profile.default_delivery != DefaultDelivery::NoticeOnly
                    || !known::runs_a_script(program, arguments)
            })
            .unwrap_or(&UNKNOWN)
    }

    /// The profile of a program with this file name. No file is accessed.
    pub fn named(name: &str, arguments: &[OsString]) -> &'static Self {
        known::all()
            .find(|profile| profile.has_name(name))
            .filter(|profile| {
                profile.default_delivery != DefaultDelivery::NoticeOnly
                    || !known::runs_a_script(OsStr::new(name), arguments)
            })
            .unwrap_or(&UNKNOWN)
    }

    fn matches(&self, program: &OsStr) -> bool {
        let path = Path::new(program);
        let real = path.canonicalize().ok();
        [Some(path), real.as_deref()]
            .into_iter()
            .flatten()
            .filter_map(Path::file_name)
            .any(|name| self.has_name(&name.to_string_lossy()))
    }

    fn has_name(&self, name: &str) -> bool {
        let name = name.trim_start_matches('-');
        let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        self.programs.contains(&name) || self.programs.contains(&bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> &'static Profile {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Profile::of(&words[0], &words[1..])
    }

    #[test]
    fn programs_that_execute_their_input_are_never_typed_into() {
        let shells = "bash|/bin/sh|zsh -l|fish|ssh host|python3|python3.11 -i|node|irb|psql db|\
            sqlite3 x.db|-bash|tmux|sudo claude|env bash|bash -i -c x|bash --rcfile x|\
            bash --|nu|mosh host|lua|python3 -q|python3 -m code|python3 -Im asyncio|\
            python3 -um pdb x.py|bash -l -i|sh -es|socat - EXEC:sh|nc -l 1|claudette";
        for line in shells.split('|').filter(|line| *line != "claudette") {
            assert_eq!(
                of(line).default_delivery,
                DefaultDelivery::NoticeOnly,
                "{line}"
            );
        }
    }

    #[test]
    fn a_script_is_not_an_interpreter() {
        for line in [
            "bash run.sh",
            "python3 app.py",
            "node server.js",
            "sh -c true",
            "my-tool",
            "python3 -m http",
            "python3 -um http.server",
            "bash -euc true",
            "bash -lc true",
        ] {
            assert_eq!(of(line).name, "unknown", "{line}");
        }
    }

    #[test]
    fn agents_are_recognized_by_their_file_names() {
        assert_eq!(of("/opt/bin/claude --resume").name, "claude");
        assert_eq!(of("codex").name, "codex");
        assert_eq!(of("aider").name, "aider");
    }
}
