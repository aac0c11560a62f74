//! Tests of the inbox against a socket that behaves like Claude Code's.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;

use super::super::Timing;
use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const LINE: &str = "[cbroker peer message from=api id=01] look [end]";

struct InboxFixture {
    folder: tempfile::TempDir,
    inbox: ClaudeInbox,
    /// Whether its hooks do not report the permission mode.
    is_unsaid: bool,
    reports: mpsc::Receiver<(Way, WayReport)>,
}

impl InboxFixture {
    fn new() -> Self {
        let (to, reports) = mpsc::channel(16);
        Self {
            folder: tempfile::tempdir().unwrap(),
            inbox: ClaudeInbox::start(WayReporter::new(Way::Inbox, to)),
            is_unsaid: false,
            reports,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.path(name)).unwrap()
    }

    /// Runs a hook in the process `pid` with this socket.
    fn hook(&self, socket: &str, pid: u32) {
        let socket = self.path(socket);
        self.inbox.hook_ran(&HookOrigin {
            pid: i32::try_from(pid).ok(),
            transcript: Some(self.path("transcript.jsonl")),
            status_file: None,
            inbox: InboxAddress::new(socket.to_str().unwrap(), "", &pid.to_string()),
            bypasses_permissions: (!self.is_unsaid).then_some(false),
        });
    }

    fn row(&self, row: &Value) {
        let path = self.path("transcript.jsonl");
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        writeln!(file, "{row}").unwrap();
    }

    /// Opens the inbox and hands a text over. Returns the agent's socket and the received line.
    async fn handed_over(&mut self) -> (UnixListener, Value) {
        let socket = self.socket("1.sock");
        self.hook("1.sock", std::process::id());
        assert_eq!(self.next_report().await, WayReport::Open);
        self.deliver(7);
        let line = line_of(&socket).await;
        assert_eq!(self.next().await, WayReport::HandedOver(7));
        (socket, line)
    }

    /// Checks that nothing is reported for this long.
    async fn reports_nothing_for(&mut self, time: Duration) {
        let nothing = tokio::time::timeout(time, self.reports.recv()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }

    async fn next(&mut self) -> WayReport {
        let said = tokio::time::timeout(LIMIT, self.reports.recv()).await;
        said.unwrap().unwrap().1
    }

    /// The next report other than that a text was handed over.
    async fn next_report(&mut self) -> WayReport {
        loop {
            match self.next().await {
                WayReport::HandedOver(_) => {}
                report => return report,
            }
        }
    }

    fn deliver(&self, number: SubmissionNumber) {
        let submission = Submission {
            number,
            ids: vec!["01".into()],
            text: LINE.to_owned(),
            is_hidden: false,
            timing: Timing::Next,
        };
        assert!(self.inbox.deliver(submission));
    }
}

/// The next line that is written to the socket.
async fn line_of(socket: &UnixListener) -> Value {
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        let line = BufReader::new(stream).lines().next_line().await.unwrap();
        if let Some(line) = line {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

fn content(line: &Value) -> String {
    line["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_text_is_proved_by_its_row_and_not_by_its_acceptance() {
    let mut stage = InboxFixture::new();
    let (_socket, line) = stage.handed_over().await;
    assert_eq!(line["priority"], "next");
    stage.row(&json!({"type": "queue-operation", "operation": "enqueue"}));
    // Longer than the time limit for the first row.
    stage
        .reports_nothing_for(ACCEPTED_WITHIN + Duration::from_secs(1))
        .await;
    stage.row(&json!({"type": "user", "message": {"content": content(&line)}}));
    assert_eq!(stage.next_report().await, WayReport::InContext(7));
}

#[tokio::test]
async fn a_row_after_three_seconds_is_in_time() {
    let mut stage = InboxFixture::new();
    let (_socket, line) = stage.handed_over().await;
    stage.reports_nothing_for(Duration::from_secs(3)).await;
    stage.row(&json!({"type": "user", "message": {"content": content(&line)}}));
    assert_eq!(stage.next_report().await, WayReport::InContext(7));
}

#[tokio::test]
async fn a_text_without_a_row_is_given_up() {
    let mut stage = InboxFixture::new();
    let (_socket, _line) = stage.handed_over().await;
    assert_eq!(stage.next_report().await, WayReport::Unseen(7));
}

#[tokio::test]
async fn a_text_lost_by_a_left_process_is_no_failure_of_the_way() {
    let mut stage = InboxFixture::new();
    let old = stage.socket("1.sock");
    stage.hook("1.sock", std::process::id());
    assert_eq!(stage.next_report().await, WayReport::Open);
    stage.deliver(7);
    line_of(&old).await;
    let new = stage.socket("2.sock");
    stage.hook("2.sock", std::process::id());
    assert_eq!(stage.next_report().await, WayReport::Lost(7));
    stage.deliver(8);
    assert!(content(&line_of(&new).await).contains("id=01"));
}

#[tokio::test]
async fn a_session_that_moved_has_no_inbox_before_a_hook_names_it() {
    let mut stage = InboxFixture::new();
    let _old = stage.socket("1.sock");
    let pid = std::process::id();
    stage.hook("1.sock", pid);
    assert_eq!(stage.next_report().await, WayReport::Open);
    stage.inbox.moved(1);
    assert_eq!(
        stage.next_report().await,
        WayReport::Closed(NO_SOCKET.to_owned())
    );
    let new = stage.socket("2.sock");
    stage.hook("2.sock", pid);
    assert_eq!(stage.next_report().await, WayReport::Open);
    stage.inbox.moved(i32::try_from(pid).unwrap());
    stage.deliver(7);
    assert!(content(&line_of(&new).await).contains("id=01"));
}

#[tokio::test]
async fn an_accepted_text_is_lost_with_its_process() {
    let mut stage = InboxFixture::new();
    let mut process = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let socket = stage.socket("1.sock");
    stage.hook("1.sock", process.id());
    assert_eq!(stage.next_report().await, WayReport::Open);
    stage.deliver(7);
    line_of(&socket).await;
    stage.row(&json!({"type": "queue-operation", "operation": "enqueue"}));
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(stage.next_report().await, WayReport::Lost(7));
}

#[tokio::test]
async fn without_a_socket_the_way_is_closed_with_a_reason() {
    let mut stage = InboxFixture::new();
    stage.inbox.hook_ran(&HookOrigin::default());
    assert_eq!(
        stage.next_report().await,
        WayReport::Closed(NO_SOCKET.to_owned())
    );
    stage.hook("gone.sock", std::process::id());
    let socket = stage.socket("1.sock");
    stage.hook("1.sock", std::process::id());
    assert_eq!(stage.next_report().await, WayReport::Open);
    drop(socket);
    stage.deliver(7);
    let (number, why, refusal) = (7, NO_LISTENER.to_owned(), Refusal::Failed);
    assert_eq!(
        stage.next_report().await,
        WayReport::NotTaken {
            number,
            why,
            refusal
        }
    );
    assert_eq!(
        stage.next_report().await,
        WayReport::Closed(NO_LISTENER.to_owned())
    );
}

#[tokio::test]
async fn a_hook_that_waits_writes_the_line() {
    let mut stage = InboxFixture::new();
    let _socket = stage.socket("1.sock");
    stage.hook("1.sock", std::process::id());
    assert_eq!(stage.next_report().await, WayReport::Open);
    let (writes, mut waiting) = mpsc::channel::<InboxWrite>(1);
    stage.inbox.hook_waits(HookWriter::new(&writes));
    stage.deliver(7);
    let write = next_write(&mut waiting).await;
    assert_eq!(write.socket, stage.path("1.sock"));
    assert!(String::from_utf8_lossy(&write.line).contains("id=01"));
    write.done.send(WriteResult::Written).unwrap();
    stage.row(&json!({"type": "user", "message": {"content": LINE}}));
    assert_eq!(stage.next_report().await, WayReport::InContext(7));
}

#[tokio::test]
async fn a_text_is_given_up_if_only_something_else_was_accepted() {
    let mut stage = InboxFixture::new();
    let (_socket, _line) = stage.handed_over().await;
    for operation in ["enqueue", "dequeue"] {
        stage.row(&json!({"type": "queue-operation", "operation": operation}));
    }
    assert_eq!(stage.next_report().await, WayReport::Unseen(7));
}

/// An inbox of a session whose hooks do not report the permission mode, and its socket.
async fn of_unknown_mode() -> (InboxFixture, UnixListener) {
    let mut stage = InboxFixture::new();
    stage.is_unsaid = true;
    let socket = stage.socket("1.sock");
    stage.hook("1.sock", std::process::id());
    assert_eq!(stage.next_report().await, WayReport::Open);
    (stage, socket)
}

/// The next write of a waiting hook.
async fn next_write(waiting: &mut mpsc::Receiver<InboxWrite>) -> InboxWrite {
    let write = tokio::time::timeout(LIMIT, waiting.recv()).await;
    write.unwrap().unwrap()
}

#[tokio::test]
async fn a_session_that_bypasses_permissions_needs_a_waiting_hook() {
    // After the hook had ended, the wrap wrote the line itself. Claude Code held it behind a
    // dialog, and the person's next Enter denied it.
    let (mut stage, _socket) = of_unknown_mode().await;
    let (writes, waiting) = mpsc::channel::<InboxWrite>(1);
    stage.inbox.hook_waits(HookWriter::new(&writes));
    drop((writes, waiting));
    stage.deliver(7);
    assert_eq!(
        stage.next_report().await,
        WayReport::Closed(NO_HOOK.to_owned())
    );
    let (number, why, refusal) = (7, NO_HOOK.to_owned(), Refusal::Elsewhere);
    assert_eq!(
        stage.next_report().await,
        WayReport::NotTaken {
            number,
            why,
            refusal
        }
    );
    let (writes, mut waiting) = mpsc::channel::<InboxWrite>(1);
    stage.inbox.hook_waits(HookWriter::new(&writes));
    assert_eq!(stage.next_report().await, WayReport::Open);
    stage.deliver(8);
    assert!(
        next_write(&mut waiting)
            .await
            .done
            .send(WriteResult::Written)
            .is_ok()
    );
    stage.row(&json!({"type": "user", "message": {"content": LINE}}));
    assert_eq!(stage.next_report().await, WayReport::InContext(8));
}

#[tokio::test]
async fn a_line_that_a_hook_could_not_write_is_written_by_the_next_hook() {
    let (stage, _socket) = of_unknown_mode().await;
    let (writes, mut waiting) = mpsc::channel::<InboxWrite>(1);
    stage.inbox.hook_waits(HookWriter::new(&writes));
    stage.deliver(7);
    let write = next_write(&mut waiting).await;
    let (others, mut next) = mpsc::channel::<InboxWrite>(1);
    stage.inbox.hook_waits(HookWriter::new(&others));
    assert!(write.done.send(WriteResult::NotWritten).is_ok());
    let write = next_write(&mut next).await;
    assert!(String::from_utf8_lossy(&write.line).contains("id=01"));
}
