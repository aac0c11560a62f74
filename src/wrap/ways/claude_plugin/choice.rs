//! Decides which of the processes that sent a hello holds the session.
//!
//! Claude Code starts more processes with the same plugin than the one in the terminal:
//!
//! - Left at an empty prompt moves the session to a new background process, whose arguments hold
//!   `--fork-session --resume <the transcript>`, or to a spare process, whose arguments do not name
//!   the session; the old process refuses prompts, and its transcript ends with the id of the new
//!   session;
//! - spare processes (`--bg-spare`) wait for a task. A prompt there starts a session of its own, so
//!   they must get none before the session has moved there.

use std::path::{Path, PathBuf};

use crate::wrap::ways::{WayReport, claude_moves};

/// Whether the plugin takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PluginAvailability {
    Open,
    Closed,
    /// The process that held the session holds none.
    Away,
}

impl PluginAvailability {
    /// Converts this to a report; `why` is the reason if it is closed.
    pub(super) fn to_report(self, why: &str) -> WayReport {
        match self {
            Self::Open => WayReport::Open,
            Self::Closed => WayReport::Closed(why.to_owned()),
            Self::Away => WayReport::Away,
        }
    }
}

/// The role of a process in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessRole {
    /// The process in the terminal.
    Main,
    /// The process that the session moved to.
    Moved,
    /// A spare or another session.
    Foreign,
}

/// A process that sent a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PluginProcess {
    /// The random name that its module chose.
    pub(super) name: String,
    /// Its process id.
    pub(super) pid: i32,
}

/// The processes that hold the session or held it.
#[derive(Debug, Default)]
pub(super) struct ProcessChoice {
    current: Option<PluginProcess>,
    /// Transcripts of the session, the newest last.
    transcripts: Vec<PathBuf>,
}

impl ProcessChoice {
    /// The process that holds the session.
    pub(super) fn current(&self) -> Option<&PluginProcess> {
        self.current.as_ref()
    }

    /// Whether this module's process holds the session.
    pub(super) fn is_current(&self, name: &str) -> bool {
        self.current
            .as_ref()
            .is_some_and(|instance| instance.name == name)
    }

    /// The transcript that the session writes.
    pub(super) fn transcript(&self) -> Option<&Path> {
        self.transcripts.last().map(PathBuf::as_path)
    }

    /// Records that the session writes this transcript from now on. Returns whether that is new.
    pub(super) fn set_transcript(&mut self, transcript: &Path) -> bool {
        if transcript.as_os_str().is_empty() || self.transcript() == Some(transcript) {
            return false;
        }
        self.transcripts.retain(|known| known != transcript);
        self.transcripts.push(transcript.to_owned());
        true
    }

    /// Handles the hello of a process and returns its role. `is_ours` says that it descends from
    /// this wrap; `is_alive` tells whether a process runs.
    pub(super) fn hello(
        &mut self,
        instance: PluginProcess,
        arguments: &[String],
        is_ours: bool,
        is_alive: impl Fn(i32) -> bool,
    ) -> ProcessRole {
        let role = if claude_moves::is_spare(arguments) {
            ProcessRole::Foreign
        } else if claude_moves::resumes_any_of(arguments, &self.transcripts) {
            ProcessRole::Moved
        } else {
            let is_free =
                |current: &PluginProcess| current.pid == instance.pid || !is_alive(current.pid);
            match &self.current {
                _ if !is_ours => ProcessRole::Foreign,
                None => ProcessRole::Main,
                Some(current) if is_free(current) => ProcessRole::Main,
                Some(_) => ProcessRole::Foreign,
            }
        };
        if role != ProcessRole::Foreign {
            self.current = Some(instance);
        }
        role
    }

    /// Records that the session continues in this process, according to its transcript.
    pub(super) fn continues_in(&mut self, instance: PluginProcess) -> ProcessRole {
        self.current = Some(instance);
        ProcessRole::Moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn instance(name: &str, pid: i32) -> PluginProcess {
        PluginProcess {
            name: name.to_owned(),
            pid,
        }
    }

    fn started() -> ProcessChoice {
        let mut choice = ProcessChoice::default();
        let role = choice.hello(instance("a", 10), &words("claude"), true, |_| true);
        assert_eq!(role, ProcessRole::Main);
        assert!(choice.set_transcript(Path::new("/p/one.jsonl")));
        choice
    }

    #[test]
    fn the_first_process_below_us_holds_the_session() {
        let choice = started();
        assert!(choice.is_current("a"));
        let mut other = ProcessChoice::default();
        let role = other.hello(instance("x", 9), &words("claude"), false, |_| true);
        assert_eq!((role, other.current()), (ProcessRole::Foreign, None));
    }

    #[test]
    fn the_session_moves_to_the_process_that_resumes_its_transcript() {
        let mut choice = started();
        let line = words("claude --session-id two --fork-session --resume /p/one.jsonl");
        assert_eq!(
            choice.hello(instance("b", 20), &line, false, |_| true),
            ProcessRole::Moved
        );
        assert!(choice.is_current("b"));
        choice.set_transcript(Path::new("/p/two.jsonl"));
        let line = words("claude --fork-session --resume=two");
        assert_eq!(
            choice.hello(instance("c", 30), &line, false, |_| true),
            ProcessRole::Moved
        );
    }

    #[test]
    fn a_spare_and_another_session_hold_nothing() {
        let mut choice = started();
        for line in [
            "claude bg-spare --bg-spare /tmp/x.sock",
            "claude bg-spare --bg-spare /tmp/x.sock --fork-session --resume /p/one.jsonl",
            "claude --fork-session --resume /p/other.jsonl",
            "claude --resume /p/one.jsonl",
            "claude --session-id three",
        ] {
            let role = choice.hello(instance("b", 20), &words(line), true, |_| true);
            assert_eq!(role, ProcessRole::Foreign, "{line}");
        }
        assert!(choice.is_current("a"));
    }

    #[test]
    fn a_module_that_was_loaded_again_replaces_the_one_before() {
        let mut choice = started();
        let again = choice.hello(instance("b", 10), &words("claude"), true, |_| true);
        assert_eq!(again, ProcessRole::Main);
        let after_its_end = choice.hello(instance("c", 11), &words("claude"), true, |_| false);
        assert_eq!(after_its_end, ProcessRole::Main);
        assert!(choice.is_current("c"));
    }

    #[test]
    fn a_spare_that_the_session_moved_to_holds_it() {
        let mut choice = started();
        assert_eq!(choice.continues_in(instance("b", 20)), ProcessRole::Moved);
        assert!(choice.is_current("b"));
    }

    #[test]
    fn only_a_new_transcript_is_news() {
        let mut choice = started();
        assert!(!choice.set_transcript(Path::new("/p/one.jsonl")));
        assert!(!choice.set_transcript(Path::new("")));
        assert!(choice.set_transcript(Path::new("/p/two.jsonl")));
        assert!(choice.set_transcript(Path::new("/p/one.jsonl")));
        assert_eq!(choice.transcript(), Some(Path::new("/p/one.jsonl")));
    }
}
