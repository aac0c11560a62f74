//! Which of the daemon's threads is the one in our terminal.
//!
//! One daemon serves all of a user's Codex sessions. Ours was started with `--add-dir` and a folder
//! of its own, which is listed in the thread's `runtimeWorkspaceRoots`, also after `/new`,
//! `/resume` and `codex resume`. Seen with Codex 0.171.0.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It waits for a prompt.
    Idle,
    /// A turn runs; what it asks the person, if it does.
    Active(Option<&'static str>),
    /// It is not loaded, or its last turn ended in an error of the program's.
    Other,
}

/// A thread of ours.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    /// Its id.
    pub(super) id: String,
    /// The file that the daemon writes its history to.
    pub(super) rollout: PathBuf,
    /// What it does.
    pub(super) status: Status,
    /// When it began, in seconds.
    began: i64,
}

/// The threads of our session.
#[derive(Debug)]
pub(super) struct Threads {
    mark: String,
    ours: BTreeMap<String, Thread>,
    current: Option<String>,
}

impl Threads {
    /// Threads that have a root of this name.
    pub(super) fn marked(mark: &Path) -> Self {
        let mark = mark.file_name().unwrap_or_default();
        Self {
            mark: mark.to_string_lossy().into_owned(),
            ours: BTreeMap::new(),
            current: None,
        }
    }

    /// The thread in the terminal.
    pub(super) fn current(&self) -> Option<&Thread> {
        self.ours.get(self.current.as_ref()?)
    }

    /// Forgets all of them: the daemon has ended.
    pub(super) fn clear(&mut self) {
        self.ours.clear();
        self.current = None;
    }

    /// A thread as the daemon describes it. The newest of ours is the one in the terminal.
    pub(super) fn learn(&mut self, thread: &Value) {
        let (Some(id), Some(rollout)) = (thread["id"].as_str(), thread["path"].as_str()) else {
            return;
        };
        if !self.is_marked(thread) {
            return;
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
        self.ours.insert(id.to_owned(), learned);
        if is_newest {
            self.current = Some(id.to_owned());
        }
    }

    /// A thread does something else now. `true` when it is one of ours, and the one in the
    /// terminal: a turn that began in another one of ours shows that the person went there.
    pub(super) fn does(&mut self, id: &str, said: &Value) -> bool {
        let Some(thread) = self.ours.get_mut(id) else {
            return false;
        };
        thread.status = status(said);
        if matches!(thread.status, Status::Active(_)) {
            self.current = Some(id.to_owned());
        }
        self.current.as_deref() == Some(id)
    }

    /// A thread was unloaded.
    pub(super) fn closed(&mut self, id: &str) {
        self.ours.remove(id);
        if self.current.as_deref() == Some(id) {
            let newest = self.ours.values().max_by_key(|thread| thread.began);
            self.current = newest.map(|thread| thread.id.clone());
        }
    }

    fn is_marked(&self, thread: &Value) -> bool {
        let environments = thread["environments"].as_array().into_iter().flatten();
        environments
            .filter_map(|environment| environment["runtimeWorkspaceRoots"].as_array())
            .flatten()
            .filter_map(|root| Path::new(root.as_str()?).file_name())
            .any(|name| name == self.mark.as_str())
    }
}

fn status(said: &Value) -> Status {
    match said["type"].as_str() {
        Some("idle") => Status::Idle,
        Some("active") => {
            let flags = said["activeFlags"].as_array().into_iter().flatten();
            let mut asks = flags.filter_map(|flag| match flag.as_str()? {
                "waitingOnApproval" => Some("a command or a change"),
                "waitingOnUserInput" => Some("an answer"),
                _ => None,
            });
            Status::Active(asks.next_back())
        }
        _ => Status::Other,
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
    fn only_a_thread_with_our_folder_is_ours_and_the_newest_is_in_the_terminal() {
        let mut threads = Threads::marked(Path::new("/h/mark"));
        threads.learn(&thread("other", &["/w", "/h/marks"], 9));
        threads.learn(&thread("title", &[], 9));
        assert_eq!(current(&threads), None);
        threads.learn(&thread("two", &["/w", "/private/h/mark"], 2));
        threads.learn(&thread("one", &["/w", "/h/mark"], 1));
        assert_eq!(current(&threads), Some("two"));
        threads.learn(&thread("three", &["/w", "/h/mark"], 3));
        assert_eq!(current(&threads), Some("three"));
    }

    #[test]
    fn a_turn_in_another_thread_of_ours_moves_us_there() {
        let mut threads = Threads::marked(Path::new("/h/mark"));
        threads.learn(&thread("one", &["/h/mark"], 1));
        threads.learn(&thread("two", &["/h/mark"], 2));
        assert!(!threads.does("other", &json!({"type": "active", "activeFlags": []})));
        assert!(!threads.does("one", &json!({"type": "idle"})));
        assert!(threads.does("one", &json!({"type": "active", "activeFlags": []})));
        assert_eq!(current(&threads), Some("one"));
        threads.closed("one");
        assert_eq!(current(&threads), Some("two"));
    }

    #[test]
    fn a_turn_that_waits_for_the_person_says_so() {
        let waits = json!({"type": "active", "activeFlags": ["waitingOnApproval"]});
        assert_eq!(
            status(&waits),
            Status::Active(Some("a command or a change"))
        );
        assert_eq!(status(&json!({"type": "systemError"})), Status::Other);
    }
}
