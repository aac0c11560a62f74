//! Finds out which of the daemon's threads is in the terminal.
//!
//! One daemon serves all Codex sessions of a user. This session's Codex was started with
//! `--add-dir` and a folder of its own, which is listed in its threads' `runtimeWorkspaceRoots`,
//! also after `/new`, `/resume` and `codex resume`. A thread that begins is in the terminal, and so
//! is one that is loaded again: `/resume` of an older thread has no notification of its own, but
//! reports that it is not loaded, and a moment later that it is idle. Seen with Codex 0.171.0.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::wrap::ways::AgentSign;

/// The status of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It waits for a prompt.
    Idle,
    /// A turn runs; `Some` is what it asks the person.
    Active(Option<&'static str>),
    /// It is not loaded.
    Unloaded,
    /// Its last turn ended with an error of the program.
    Failed,
}

impl Status {
    /// What the change to this status says of the agent.
    pub(super) fn signs_after(&self, before: Option<&Self>) -> Vec<AgentSign> {
        let was_busy = matches!(before, Some(Self::Active(_)));
        let asked = matches!(before, Some(Self::Active(Some(_))));
        match self {
            Self::Active(asks) => {
                let began = (!was_busy).then_some(AgentSign::TurnBegan);
                let asks = match asks {
                    Some(what) => Some(AgentSign::Asks((*what).to_owned())),
                    None => asked.then_some(AgentSign::Answered),
                };
                began.into_iter().chain(asks).collect()
            }
            Self::Idle | Self::Unloaded | Self::Failed => {
                let answered = asked.then_some(AgentSign::Answered);
                answered.into_iter().chain([AgentSign::TurnEnded]).collect()
            }
        }
    }
}

/// A thread of this session.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    /// Its id.
    pub(super) id: String,
    /// The file that the daemon writes its history to.
    pub(super) rollout: PathBuf,
    /// Its status.
    pub(super) status: Status,
    /// When it began, in seconds since 1970.
    began: i64,
}

/// The threads of this session.
#[derive(Debug)]
pub(super) struct Threads {
    marker: String,
    ours: BTreeMap<String, Thread>,
    current: Option<String>,
    /// The thread that was last reported as not loaded.
    unloaded: Option<String>,
    /// A thread that was loaded again and is being read.
    resumed: Option<String>,
}

impl Threads {
    /// Creates an empty list for threads with a root named like `marker`.
    pub(super) fn new(marker: &Path) -> Self {
        let marker = marker.file_name().unwrap_or_default();
        Self {
            marker: marker.to_string_lossy().into_owned(),
            ours: BTreeMap::new(),
            current: None,
            unloaded: None,
            resumed: None,
        }
    }

    /// The thread in the terminal.
    pub(super) fn current(&self) -> Option<&Thread> {
        self.ours.get(self.current.as_ref()?)
    }

    /// Removes all threads, after the daemon has ended.
    pub(super) fn clear(&mut self) {
        self.ours.clear();
        (self.current, self.unloaded, self.resumed) = (None, None, None);
    }

    /// Adds a thread as the daemon describes it. The newest thread of the session is the one in the
    /// terminal, or the one that was loaded again.
    pub(super) fn learn(&mut self, thread: &Value) {
        let (Some(id), Some(rollout)) = (thread["id"].as_str(), thread["path"].as_str()) else {
            return;
        };
        if !self.has_marker(thread) {
            // Another session has resumed it.
            return self.remove(id);
        }
        let learned = Thread {
            id: id.to_owned(),
            rollout: rollout.into(),
            status: status(&thread["status"]),
            began: thread["createdAt"].as_i64().unwrap_or_default(),
        };
        let is_newest = self
            .current()
            .is_none_or(|current| current.began <= learned.began);
        let is_resumed = self.resumed.take_if(|resumed| resumed == id).is_some();
        self.ours.insert(id.to_owned(), learned);
        if is_newest || is_resumed {
            self.current = Some(id.to_owned());
        }
    }

    /// Sets the status of a thread. If a turn began in another thread of the session, the person
    /// switched to it. Returns whether the thread must be read: it was loaded again, by this
    /// session or by another.
    pub(super) fn set_status(&mut self, id: &str, message: &Value) -> bool {
        let status = status(message);
        let was_unloaded = self.unloaded.as_deref() == Some(id);
        let is_resumed = was_unloaded && status == Status::Idle;
        if status == Status::Unloaded {
            self.unloaded = Some(id.to_owned());
        } else if was_unloaded {
            self.unloaded = None;
        }
        let Some(thread) = self.ours.get_mut(id) else {
            self.resumed = is_resumed.then(|| id.to_owned()).or(self.resumed.take());
            return is_resumed;
        };
        if thread.status == Status::Unloaded && status != Status::Unloaded {
            self.resumed = Some(id.to_owned());
            return true;
        }
        if matches!(status, Status::Active(_)) {
            self.current = Some(id.to_owned());
        }
        thread.status = status;
        false
    }

    /// Removes a thread that was unloaded, or belongs to another session.
    pub(super) fn remove(&mut self, id: &str) {
        self.ours.remove(id);
        if self.current.as_deref() == Some(id) {
            let newest = self.ours.values().max_by_key(|thread| thread.began);
            self.current = newest.map(|thread| thread.id.clone());
        }
    }

    fn has_marker(&self, thread: &Value) -> bool {
        let environments = thread["environments"].as_array().into_iter().flatten();
        environments
            .filter_map(|environment| environment["runtimeWorkspaceRoots"].as_array())
            .flatten()
            .filter_map(|root| Path::new(root.as_str()?).file_name())
            .any(|name| name == self.marker.as_str())
    }
}

fn status(message: &Value) -> Status {
    match message["type"].as_str() {
        Some("idle") => Status::Idle,
        Some("active") => {
            let flags = message["activeFlags"].as_array().into_iter().flatten();
            let mut asks = flags.filter_map(|flag| match flag.as_str()? {
                "waitingOnApproval" => Some("a command or a change"),
                "waitingOnUserInput" => Some("an answer"),
                _ => None,
            });
            Status::Active(asks.next_back())
        }
        Some("notLoaded") => Status::Unloaded,
        _ => Status::Failed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn thread(id: &str, roots: &[&str], began: i64) -> Value {
        json!({"id": id, "path": format!("/r/{id}.jsonl"), "createdAt": began,
            "environments": [{"runtimeWorkspaceRoots": roots}], "status": {"type": "idle"}})
    }

    fn current(threads: &Threads) -> Option<&str> {
        threads.current().map(|thread| thread.id.as_str())
    }

    #[test]
    fn only_threads_with_the_marker_belong_to_the_session_and_the_newest_is_current() {
        let mut threads = Threads::new(Path::new("/h/marker"));
        threads.learn(&thread("other", &["/w", "/h/marks"], 9));
        threads.learn(&thread("title", &[], 9));
        assert_eq!(current(&threads), None);
        threads.learn(&thread("two", &["/w", "/private/h/marker"], 2));
        threads.learn(&thread("one", &["/w", "/h/marker"], 1));
        assert_eq!(current(&threads), Some("two"));
        threads.learn(&thread("three", &["/w", "/h/marker"], 3));
        assert_eq!(current(&threads), Some("three"));
    }

    #[test]
    fn a_turn_in_another_thread_of_the_session_makes_it_current() {
        let mut threads = Threads::new(Path::new("/h/marker"));
        threads.learn(&thread("one", &["/h/marker"], 1));
        threads.learn(&thread("two", &["/h/marker"], 2));
        threads.set_status("other", &json!({"type": "active", "activeFlags": []}));
        threads.set_status("one", &json!({"type": "idle"}));
        assert_eq!(current(&threads), Some("two"));
        threads.set_status("one", &json!({"type": "active", "activeFlags": []}));
        assert_eq!(current(&threads), Some("one"));
        threads.remove("one");
        assert_eq!(current(&threads), Some("two"));
    }

    #[test]
    fn a_thread_that_is_loaded_again_is_in_the_terminal() {
        // After `/resume` of an older thread, a message began a turn in the newer one, which was
        // not shown.
        let mut threads = Threads::new(Path::new("/h/marker"));
        let unloaded = json!({"type": "notLoaded"});
        let idle = json!({"type": "idle"});
        threads.learn(&thread("one", &["/h/marker"], 1));
        threads.learn(&thread("two", &["/h/marker"], 2));
        assert!(!threads.set_status("one", &unloaded));
        assert_eq!(current(&threads), Some("two"));
        assert!(threads.set_status("one", &idle), "it is read");
        assert_eq!(current(&threads), Some("two"));
        threads.learn(&thread("one", &["/h/marker"], 1));
        assert_eq!(current(&threads), Some("one"));
        // One that is not known is read, and may be another session's.
        for (id, roots, shown) in [("zero", "/h/marker", "zero"), ("x", "/h/other", "two")] {
            threads.set_status("two", &json!({"type": "active", "activeFlags": []}));
            assert!(!threads.set_status(id, &unloaded));
            assert!(threads.set_status(id, &idle));
            assert_eq!(current(&threads), Some("two"));
            threads.learn(&thread(id, &[roots], 0));
            assert_eq!(current(&threads), Some(shown));
        }
    }

    #[test]
    fn a_known_thread_that_another_session_loads_again_is_not_in_the_terminal() {
        // A message began a turn in the terminal of the other session.
        for status in [
            json!({"type": "idle"}),
            json!({"type": "active", "activeFlags": []}),
        ] {
            let mut threads = Threads::new(Path::new("/h/marker"));
            threads.learn(&thread("one", &["/h/marker"], 1));
            threads.learn(&thread("two", &["/h/marker"], 2));
            threads.set_status("one", &json!({"type": "notLoaded"}));
            assert!(threads.set_status("one", &status));
            assert_eq!(current(&threads), Some("two"));
            threads.learn(&thread("one", &["/h/other"], 1));
            assert_eq!(current(&threads), Some("two"));
            // It says no more of this session.
            threads.set_status("one", &json!({"type": "active", "activeFlags": []}));
            assert_eq!(current(&threads), Some("two"));
        }
    }

    #[test]
    fn an_active_thread_names_what_it_asks_the_person() {
        let waits = json!({"type": "active", "activeFlags": ["waitingOnApproval"]});
        assert_eq!(
            status(&waits),
            Status::Active(Some("a command or a change"))
        );
        assert_eq!(status(&json!({"type": "systemError"})), Status::Failed);
    }
}
