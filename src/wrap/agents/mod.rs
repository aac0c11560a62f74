//! What is known of each agent, as data: how it looks when it is ready, busy or asking, and whether
//! it may be typed into at all.
//!
//! Patterns carry the version that they were seen in. An agent that changes its looks is held back
//! with `unknown screen`, never typed into by guess.
//!
//! Relies on `toml` for the profiles of agents.

pub mod arguments;
mod data;
pub mod history;
mod input_line;
mod known;
pub mod reading;
mod subcommands;
pub mod version;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

pub use data::{complaints, use_folder};
pub use input_line::InputLine;
#[cfg(test)]
pub use known::CLAUDE;
pub use known::{UNKNOWN, is_agent, is_interpreter};
pub use subcommands::{other_sessions, shows_a_session};

/// One kind of wrapped program.
#[derive(Debug)]
pub struct Profile {
    /// Its name in logs and lists.
    pub name: &'static str,
    /// File names that it goes by.
    pub programs: &'static [&'static str],
    /// The version whose looks are described here; empty where none are.
    pub seen: &'static str,
    /// What `--delivery auto` means for it.
    pub default_delivery: DefaultDelivery,
    /// Whether it says what happens in it through hooks.
    pub has_hooks: bool,
    /// The looks of its input box.
    pub prompt: Option<Prompt>,
    /// For an agent without such a box: the line at the cursor into which text is typed.
    pub line: Option<InputLine>,
    /// Texts in the rows around its input while a turn runs.
    pub busy: &'static [&'static str],
    /// What begins a row around its input while what was entered waits: the model has not read it.
    pub waits: &'static [&'static str],
    /// First characters of its title while a turn runs.
    pub busy_titles: &'static [char],
    /// First character of its title in its main view at rest; `None` where titles say nothing of
    /// views.
    pub idle_title: Option<char>,
    /// Texts below its box, or in grey in it, that other views than the main one show.
    pub other_views: &'static [&'static str],
    /// Texts that only its dialogs show, with the dialog's name.
    pub dialogs: &'static [(&'static str, &'static str)],
    /// Texts below its input that say its keys are commands.
    pub command_modes: &'static [&'static str],
    /// The footers below the box while vim's keys are used.
    pub vim: Option<VimFooter>,
    /// How long to wait for what.
    pub pace: TypingPace,
}

/// What happens to a message by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultDelivery {
    /// It is typed where that is safe.
    Typing,
    /// It is announced by title and bell, and typing is possible on request.
    Notice,
    /// It is announced, and typing is refused: this program executes what is typed.
    NoticeOnly,
}

/// An input box between two rules.
#[derive(Clone, Copy, Debug)]
pub struct Prompt {
    /// What begins its first row.
    pub mark: char,
    /// What begins its first row when the text would run in a shell.
    pub shell_mark: char,
    /// What the row above and the row below are made of.
    pub rule: char,
    /// Colours (of 256) of placeholder text in it.
    pub placeholder_colours: &'static [u8],
}

/// vim's NORMAL mode shows nothing of its own: an agent that has shown INSERT mode and now shows
/// the plain footer is in NORMAL mode.
#[derive(Clone, Copy, Debug)]
pub struct VimFooter {
    /// In INSERT mode.
    pub insert: &'static str,
    /// At rest, outside of it.
    pub plain: &'static str,
}

/// Pauses while one text is typed.
#[derive(Clone, Copy, Debug)]
pub struct TypingPace {
    /// From the text's last byte to Enter, at least.
    pub before_enter: Duration,
    /// Without output, before Enter.
    pub quiet_before_enter: Duration,
    /// Without output, before the text.
    pub quiet_before_text: Duration,
    /// Without a person's key, before the text.
    pub idle_hands: Duration,
}

impl Profile {
    /// Whether the input box can be recognised on the screen.
    pub fn knows_its_prompt(&self) -> bool {
        self.prompt.is_some()
    }

    /// Whether the profile describes the screen.
    pub fn has_looks(&self) -> bool {
        self.prompt.is_some() || !self.dialogs.is_empty() || !self.busy.is_empty()
    }

    /// The profile of a command.
    pub fn of(program: &OsStr, arguments: &[OsString]) -> &'static Self {
        known::all()
            .find(|profile| profile.matches(program))
            .filter(|profile| {
                profile.default_delivery != DefaultDelivery::NoticeOnly
                    || !known::runs_a_script(program, arguments)
            })
            .unwrap_or(&UNKNOWN)
    }

    /// The profile of a program of this file name; no file is looked at.
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
