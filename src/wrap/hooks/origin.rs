//! Decides whether a hook belongs to the session, by the process that ran it.
//!
//! Spare processes and the session of the agents view run the same hooks with the same token. Their
//! events are not about this session, and a text that their waiting hook delivered would begin
//! another session.
//!
//! Relies on the system's list of processes and on the moves of a session.

use std::path::{Path, PathBuf};

use crate::wrap::session_files::SettingsUsers;
use crate::wrap::ways::{claude_moves, process};

/// Maximum number of transcripts that are remembered.
const REMEMBERED: usize = 16;

/// The processes that hold or held the session.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// Whether others run its hooks.
    users: SettingsUsers,
    /// The process in the terminal.
    main: Option<i32>,
    /// Processes that the session moved to.
    moved: Vec<i32>,
    /// Transcripts of the session, the newest last.
    transcripts: Vec<PathBuf>,
}

impl Origins {
    pub(super) fn new(users: SettingsUsers) -> Self {
        Self {
            users,
            ..Self::default()
        }
    }

    /// Whether a hook of this process, which writes `transcript`, belongs to the session. Versions
    /// that do not name the process have no spares.
    pub(super) fn holds_session(&mut self, pid: Option<i32>, transcript: Option<&Path>) -> bool {
        let is_it = pid.is_none_or(|pid| self.is_known(pid) || self.admits(pid, transcript));
        let may_be_other = match pid {
            Some(_) => pid != self.main,
            // Another transcript may be that of another process.
            None => transcript.is_some_and(|new| self.transcripts.iter().any(|old| old != new)),
        };
        if may_be_other {
            self.users.add_other();
        }
        if let Some(transcript) = transcript.filter(|_| is_it) {
            self.transcripts.retain(|known| known != transcript);
            self.transcripts.push(transcript.to_owned());
            let spare = self.transcripts.len().saturating_sub(REMEMBERED);
            self.transcripts.drain(..spare);
        }
        is_it
    }

    fn is_known(&self, pid: i32) -> bool {
        self.main == Some(pid) || self.moved.contains(&pid)
    }

    fn admits(&mut self, pid: i32, transcript: Option<&Path>) -> bool {
        let Some(found) = process::find_process(pid) else {
            return false;
        };
        let is_spare = claude_moves::is_spare(&found.arguments);
        let is_continuation = |to: &Path| {
            let mut known = self.transcripts.iter();
            known.any(|from| claude_moves::moved_to(from, to))
        };
        let resumes =
            !is_spare && claude_moves::resumes_any_of(&found.arguments, &self.transcripts);
        if resumes || transcript.is_some_and(is_continuation) {
            self.moved.retain(|&moved| process::is_alive(moved));
            self.moved.push(pid);
            return true;
        }
        let is_free = self.main.is_none_or(|main| !process::is_alive(main));
        let us = i32::try_from(std::process::id()).unwrap_or_default();
        let is_main = !is_spare && is_free && process::descends_from(pid, us);
        if is_main {
            self.main = Some(pid);
        }
        is_main
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// A child process with these arguments, which runs until its input ends.
    struct Running(Child);

    impl Running {
        fn with(arguments: &str) -> Self {
            let mut command = Command::new("sh");
            command.args(["-c", "read line", "claude"]);
            command.args(arguments.split_whitespace());
            let running = Self(command.stdin(Stdio::piped()).spawn().unwrap());
            // The system shows the arguments of a new program shortly after its start.
            let until = Instant::now() + Duration::from_secs(10);
            let shows_them = || {
                let found = running.pid().and_then(process::find_process);
                found.is_some_and(|found| found.arguments.iter().any(|word| word == "claude"))
            };
            while !shows_them() {
                assert!(Instant::now() < until, "no arguments");
                std::thread::yield_now();
            }
            running
        }

        fn pid(&self) -> Option<i32> {
            i32::try_from(self.0.id()).ok()
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            let _status = self.0.wait();
        }
    }

    fn started() -> (Origins, Running) {
        let mut origins = Origins::default();
        let main = Running::with("");
        assert!(origins.holds_session(main.pid(), Some(Path::new("/p/one.jsonl"))));
        (origins, main)
    }

    #[test]
    fn the_first_process_below_us_holds_the_session_and_no_other_does() {
        let (mut origins, main) = started();
        let other = Running::with("--session-id three");
        let transcript = Some(Path::new("/p/three.jsonl"));
        assert!(!origins.holds_session(other.pid(), transcript));
        assert!(!origins.holds_session(Some(1), transcript), "not below us");
        assert!(origins.holds_session(main.pid(), None));
        drop(main);
        assert!(
            origins.holds_session(other.pid(), transcript),
            "the only one"
        );
    }

    #[test]
    fn a_process_that_continues_the_session_holds_it() {
        let (mut origins, main) = started();
        let moved = Running::with("--fork-session --resume /p/one.jsonl");
        assert!(origins.holds_session(moved.pid(), Some(Path::new("/p/two.jsonl"))));
        let again = Running::with("--fork-session --resume=two");
        assert!(origins.holds_session(again.pid(), None));
        assert!(origins.holds_session(main.pid(), None), "it may come back");
    }

    #[test]
    fn a_spare_holds_the_session_only_once_it_moved_there() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (
            folder.path().join("one.jsonl"),
            folder.path().join("two.jsonl"),
        );
        let mut origins = Origins::default();
        let spare = Running::with("bg-spare --bg-spare /tmp/x.sock");
        assert!(
            !origins.holds_session(spare.pid(), Some(&two)),
            "the first hook"
        );
        let main = Running::with("");
        assert!(origins.holds_session(main.pid(), Some(&one)));
        assert!(!origins.holds_session(spare.pid(), Some(&two)));
        let row = "{\"type\":\"continued-in\",\"continuedInSessionId\":\"two\"}\n";
        std::fs::write(&one, row).unwrap();
        assert!(origins.holds_session(spare.pid(), Some(&two)));
        assert!(origins.holds_session(spare.pid(), None), "it stays known");
    }

    #[test]
    fn a_version_that_names_no_process_is_believed() {
        assert!(Origins::default().holds_session(None, None));
    }

    #[test]
    fn the_settings_have_other_users_once_another_process_may_have_run_a_hook() {
        let users = SettingsUsers::default();
        let mut origins = Origins::new(users.clone());
        let main = Running::with("");
        let transcript = Some(Path::new("/p/one.jsonl"));
        for _ in 0..2 {
            origins.holds_session(main.pid(), transcript);
        }
        assert!(!users.has_others());
        origins.holds_session(Running::with("--bg-spare").pid(), transcript);
        assert!(users.has_others());

        let users = SettingsUsers::default();
        let mut origins = Origins::new(users.clone());
        for _ in 0..2 {
            origins.holds_session(None, transcript);
        }
        assert!(!users.has_others());
        origins.holds_session(None, Some(Path::new("/p/two.jsonl")));
        assert!(users.has_others());
    }
}
