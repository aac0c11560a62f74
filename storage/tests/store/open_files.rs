//! A process that may open no more files: commits wait, the store goes on, and no message is lost.
//!
//! In a process of its own, whose limit it changes.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use storage::{Options, QueueId, Sequence, Store, StoreEvent, Ticket, Urgency};

use crate::support::{body, close, open, until, wait};

const FOLDER: &str = "CBROKER_STORE_OPEN_FILES";
const QUEUE: QueueId = QueueId(1);
/// Each has a file of its own.
const LENGTH: usize = (1 << 20) + 1;
const MESSAGES: u64 = 40;

#[test]
fn without_more_open_files_commits_wait_and_a_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "open_files::runs_out_of_open_files",
        "--nocapture",
    ]);
    let status = child.env(FOLDER, folder.path()).status().unwrap();
    assert!(status.success());
}

/// Sets how many files may be open: so many more than there are, or as many as are allowed.
fn allow(more: Option<usize>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = more.map_or(maximum, |more| {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        Some((open + more) as u64)
    });
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[test]
fn runs_out_of_open_files() {
    // Only as the child of the test above.
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else {
        return;
    };
    let is_short = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&is_short);
    let opened = Store::open(&folder, Options::default(), move |event| {
        noted.fetch_or(matches!(event, StoreEvent::NoRoom), Ordering::Relaxed);
    });
    let opened = opened.unwrap();
    allow(Some(20));
    let mut last = Ticket::NONE;
    for number in 0..MESSAGES {
        let text = body(QUEUE, number, LENGTH);
        let appended = opened
            .store
            .append(QUEUE, Sequence(number), &[&text], Urgency::Confirmed);
        last = appended.unwrap();
    }
    until(
        || is_short.load(Ordering::Relaxed),
        "publishers have to wait",
    );
    assert!(opened.store.durable() < last);
    allow(None);
    wait(&opened.store, last);
    close(opened.store, &folder);

    allow(Some(20));
    let refused = Store::open(&folder, Options::default(), |_| {});
    let error = refused.unwrap_err().to_string();
    allow(None);
    assert!(error.contains("Too many open files"), "{error}");
    let opened = open(&folder);
    assert_eq!(opened.report.losses, [""; 0]);
    for number in 0..MESSAGES {
        let found = opened.store.read(QUEUE, Sequence(number), 1).unwrap();
        assert!(found[0].0 == Sequence(number) && found[0].1 == body(QUEUE, number, LENGTH)[..]);
    }
}
