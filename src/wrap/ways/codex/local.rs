//! A Codex that runs without its daemon. Its process holds the lock of its thread, and `codex
//! queue` sends texts to it. Seen with Codex 0.171.0 and `--disable daemon_auto_start`.
//!
//! The process is found by its open files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use super::{NO_THREAD, Progress, Work, is_queued};
use crate::config::remove_own_variables;
use crate::platform::{self, Process};
use crate::wrap::ways::{Refusal, Submission, SubmissionNumber, WayReport, process};

/// The folder of the threads' locks, relative to Codex's home.
const LOCKS: &str = "thread-writer-locks";
/// The folder of the daemon's locks, relative to Codex's home. They are held while the daemon is
/// installed and started.
const DAEMON_LOCKS: &str = "app-server-daemon";
/// The daemon's argument.
const DAEMON: &str = "app-server";
/// Maximum bytes of a text in one program argument.
const ARGUMENT_LIMIT: usize = 120_000;
/// Time limit for `codex queue`, which needs a second on an idle machine.
const QUEUES_WITHIN: Duration = Duration::from_mins(1);

/// Why a text with words of its senders is not queued.
const EXPOSED: &str = "other users of the machine could read it in the arguments of `codex queue`";

/// Why `codex queue` did not confirm a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueError {
    /// The text was not queued.
    Refused(String),
    /// The text may have been queued: the command was ended before it reported.
    Unknown,
}

/// The result of the search for a process without the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum LocalSearch {
    /// No process that holds a thread.
    #[default]
    Nothing,
    /// The thread has had no turn yet: `codex queue` fails with `no rollout found`.
    NoTurn,
    /// The thread takes texts.
    Thread(LocalThread),
}

/// A process of Codex whose thread has had a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalThread {
    pub(super) pid: i32,
    pub(super) thread: String,
    /// The file that holds the thread's history.
    pub(super) rollout: PathBuf,
}

impl LocalThread {
    /// Looks for the thread among the processes that descend from `us`.
    pub(super) fn find(us: i32, home: &Path) -> LocalSearch {
        let Ok(home) = home.canonicalize() else {
            return LocalSearch::Nothing;
        };
        let locks = home.join(LOCKS);
        let found = descendants(us).into_iter().find_map(|pid| {
            let files = platform::open_files(pid);
            let held = files
                .iter()
                .filter(|file| file.parent() == Some(&locks))
                .filter_map(|file| file.file_stem()?.to_str())
                .filter(|name| !name.starts_with('.'));
            // Ids begin with the time, so the newest is the greatest.
            let thread = held.max()?.to_owned();
            let ending = format!("{thread}.jsonl");
            let mut histories = files
                .iter()
                .filter(|file| file.to_string_lossy().ends_with(&ending));
            Some(histories.next().map_or(LocalSearch::NoTurn, |rollout| {
                let rollout = rollout.clone();
                LocalSearch::Thread(Self {
                    pid,
                    thread,
                    rollout,
                })
            }))
        });
        found.unwrap_or_default()
    }

    /// Sends a text with `codex queue`.
    pub(super) async fn queue(&self, program: &OsStr, text: &str) -> Result<(), QueueError> {
        self.queue_within(program, text, QUEUES_WITHIN).await
    }

    async fn queue_within(
        &self,
        program: &OsStr,
        text: &str,
        limit: Duration,
    ) -> Result<(), QueueError> {
        if text.len() > ARGUMENT_LIMIT {
            let why = "the text is too long for `codex queue`";
            return Err(QueueError::Refused(why.to_owned()));
        }
        let mut command = Command::new(program);
        remove_own_variables(command.as_std_mut());
        let running = command
            .args(["queue", "--thread", &self.thread, "--message", text])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(limit, running).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                let why = format!("`codex queue` cannot be run: {error}");
                return Err(QueueError::Refused(why));
            }
            Err(_) => return Err(QueueError::Unknown),
        };
        if output.status.success() {
            return Ok(());
        }
        // It was ended by a signal.
        if output.status.code().is_none() {
            return Err(QueueError::Unknown);
        }
        let message = String::from_utf8_lossy(&output.stderr);
        let why = message.lines().last().unwrap_or("`codex queue` failed");
        Err(QueueError::Refused(why.to_owned()))
    }
}

impl Work {
    /// Sends a text with `codex queue`, which takes it as an argument. All users of the machine can
    /// read those, so a text with words of its senders is refused.
    pub(super) async fn queue(&mut self, number: SubmissionNumber) {
        // The person may have begun another thread since the last search.
        self.search_locally().await;
        self.report_availability().await;
        let Some(local) = self.local.clone() else {
            self.not_taken(number, NO_THREAD.to_owned(), Refusal::Elsewhere)
                .await;
            return;
        };
        if self.queued_to.as_ref() != Some(&local) {
            self.lose_where(is_queued).await;
            self.queued_to = Some(local.clone());
        }
        let Some(text) = self.in_flight.get(&number) else {
            return;
        };
        let Submission {
            ids,
            text,
            is_hidden,
            ..
        } = &text.submission;
        if !is_hidden {
            return self
                .not_taken(number, EXPOSED.to_owned(), Refusal::Exposed)
                .await;
        }
        self.proof.expect(number, ids.clone(), Some(&local.rollout));
        match local.queue(&self.setup.program, text).await {
            Ok(()) => {
                self.set_stage(number, Progress::Queued(Instant::now()));
                self.report_hand_over(number).await;
            }
            Err(QueueError::Refused(why)) => self.not_taken(number, why, Refusal::Failed).await,
            Err(QueueError::Unknown) => self.give_up(number, WayReport::Unseen(number)).await,
        }
    }
}

/// Whether a process that descends from `us` installs or starts its daemon. In a new home the files
/// of the daemon are copied first, which took more than two minutes on a busy machine.
pub(super) fn starts_daemon(us: i32, home: &Path) -> bool {
    let Ok(home) = home.canonicalize() else {
        return false;
    };
    let locks = home.join(DAEMON_LOCKS);
    let is_lock = |file: &PathBuf| {
        file.parent() == Some(&locks) && file.extension().is_some_and(|ending| ending == "lock")
    };
    descendants(us)
        .into_iter()
        .any(|pid| platform::open_files(pid).iter().any(is_lock))
}

/// The processes that descend from `us`, except the daemon, which holds locks of all sessions'
/// threads.
fn descendants(us: i32) -> Vec<i32> {
    let all = platform::processes();
    let parent_of = |pid| all.get(&pid).map(|found| found.parent);
    let is_daemon = |found: &Process| found.arguments.iter().any(|word| word == DAEMON);
    let others = all
        .iter()
        .filter(|&(&pid, found)| pid != us && !is_daemon(found));
    others
        .map(|(&pid, _)| pid)
        .filter(|&pid| process::is_below(pid, us, parent_of))
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::io::{Read, Write};

    use super::*;
    use crate::wrap::test_program::write_program;

    #[tokio::test]
    async fn a_child_that_holds_a_lock_is_found_with_its_rollout() {
        let home = tempfile::tempdir().unwrap();
        let locks = home.path().join(LOCKS);
        fs::create_dir(&locks).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        assert_eq!(LocalThread::find(us, home.path()), LocalSearch::Nothing);
        let script = "exec 3>$0/01a.lock 4>$0/01b.lock 5>$1/r-01a.jsonl 6>$0/.coordination.lock
            read x; exec 7>$1/r-01b.jsonl; echo; read x";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .args([&locks, home.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while platform::open_files(pid)
            .iter()
            .all(|file| !file.ends_with(".coordination.lock"))
        {
            tokio::task::yield_now().await;
        }
        assert_eq!(LocalThread::find(us, home.path()), LocalSearch::NoTurn);
        let mut to_child = child.stdin.take().unwrap();
        to_child.write_all(b"go\n").unwrap();
        let mut message = [0];
        child
            .stdout
            .take()
            .unwrap()
            .read_exact(&mut message)
            .unwrap();
        let local = LocalThread {
            pid,
            thread: "01b".to_owned(),
            rollout: home.path().canonicalize().unwrap().join("r-01b.jsonl"),
        };
        assert_eq!(
            LocalThread::find(us, home.path()),
            LocalSearch::Thread(local)
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(LocalThread::find(us, home.path()), LocalSearch::Nothing);
    }

    #[tokio::test]
    async fn a_child_that_holds_a_lock_of_the_daemon_starts_it() {
        let home = tempfile::tempdir().unwrap();
        let locks = home.path().join(DAEMON_LOCKS);
        fs::create_dir(&locks).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        assert!(!starts_daemon(us, home.path()));
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                "exec 3>$0/daemon.stderr.log; read x; exec 4>$0/daemon.lock; echo; read x",
            ])
            .arg(&locks)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(!starts_daemon(us, home.path()), "it holds no lock yet");
        let mut to_child = child.stdin.take().unwrap();
        to_child.write_all(b"go\n").unwrap();
        let mut message = [0];
        child
            .stdout
            .take()
            .unwrap()
            .read_exact(&mut message)
            .unwrap();
        assert!(starts_daemon(us, home.path()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!starts_daemon(us, home.path()));
    }

    #[tokio::test]
    async fn what_the_command_says_last_is_why_it_failed() {
        let local = LocalThread {
            pid: 1,
            thread: "01a".to_owned(),
            rollout: PathBuf::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("codex");
        let script = "#!/bin/sh\necho warning >&2\n\
            [ \"$5\" = hang ] && exec sleep 60\n[ \"$5\" = dies ] && kill -9 $$\n\
            [ \"$5\" = good ] || { echo no such thread >&2; exit 1; }\n";
        write_program(&program, script).unwrap();
        assert_eq!(local.queue(program.as_os_str(), "good").await, Ok(()));
        let why = local.queue(program.as_os_str(), "bad").await.unwrap_err();
        assert_eq!(why, QueueError::Refused("no such thread".to_owned()));
        let died = local.queue(program.as_os_str(), "dies").await;
        assert_eq!(died, Err(QueueError::Unknown), "it may have been queued");
        let soon = Duration::from_millis(100);
        let hung = local.queue_within(program.as_os_str(), "hang", soon).await;
        assert_eq!(hung, Err(QueueError::Unknown));
        let long = "x".repeat(ARGUMENT_LIMIT + 1);
        assert!(local.queue(program.as_os_str(), &long).await.is_err());
    }
}
