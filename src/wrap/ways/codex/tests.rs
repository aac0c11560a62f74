//! The way against a daemon of the tests' own.

#![allow(clippy::unwrap_used)]

mod hand_over;

use std::fs;
use std::io::Write;
use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::UnixListener;
use tokio_tungstenite::tungstenite::Message;

use super::super::{AgentSign, Timing};
use super::*;
#[cfg(target_os = "linux")]
use crate::wrap::test_program::write_program;

const LINE: &str = "[cbroker peer message from=a id=01] look [end]";
const NOW: Duration = Duration::from_secs(20);

/// A fake daemon with one thread of this session and one of another.
struct Daemon {
    home: tempfile::TempDir,
    /// The requests about turns, in order.
    requests: Receiver<(String, Value)>,
    /// Notifications to send.
    notify: Sender<Value>,
    task: tokio::task::JoinHandle<()>,
}

/// How the daemon answers requests.
#[derive(Clone, Copy)]
struct Manner {
    status: &'static str,
    starts: bool,
    /// The thread of this session has begun.
    has_ours: bool,
}

const USUAL: Manner = Manner {
    status: "idle",
    starts: true,
    has_ours: true,
};

impl Daemon {
    fn start(manner: Manner) -> (Self, Setup) {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("app-server-control")).unwrap();
        let listener = UnixListener::bind(home.path().join(SOCKET)).unwrap();
        let marker = ThreadMarker::new(home.path().join("01MARK")).unwrap();
        let setup = Setup {
            home: home.path().to_owned(),
            program: "codex".into(),
            marker,
        };
        let (notify, mut notes) = mpsc::channel::<Value>(16);
        let (requested, requests) = mpsc::channel(16);
        let folder = home.path().to_owned();
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_tungstenite::accept_async(stream).await.unwrap();
            loop {
                let answer = tokio::select! {
                    Some(note) = notes.recv() => note,
                    message = stream.next() => {
                        let Some(Ok(Message::Text(message))) = message else { return };
                        let message: Value = serde_json::from_str(&message).unwrap();
                        let method = message["method"].as_str().unwrap().to_owned();
                        let params = &message["params"];
                        let Some(result) = answer(&folder, manner, &method, params) else {
                            continue;
                        };
                        if method.starts_with("turn/") {
                            requested.send((method, params.clone())).await.unwrap();
                        }
                        let mut answer = json!({"id": message["id"]});
                        match result {
                            Ok(result) => answer["result"] = result,
                            Err(why) => answer["error"] = json!({"code": -1, "message": why}),
                        }
                        answer
                    }
                };
                stream
                    .send(Message::text(answer.to_string()))
                    .await
                    .unwrap();
            }
        });
        let daemon = Self {
            home,
            requests,
            notify,
            task,
        };
        (daemon, setup)
    }

    async fn set_status(&self, status: Value) {
        let params = json!({"threadId": "ours", "status": status});
        let note = json!({"method": "thread/status/changed", "params": params});
        self.notify.send(note).await.unwrap();
    }

    /// The user's text in the rollout, as the model gets it.
    fn row(&self) {
        let content = json!([{"type": "input_text", "text": LINE}]);
        let row = json!({"type": "response_item",
            "payload": {"type": "message", "role": "user", "content": content}});
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.path().join("ours.jsonl"))
            .unwrap();
        file.write_all(format!("{row}\n").as_bytes()).unwrap();
    }

    async fn request(&mut self) -> (String, Value) {
        tokio::time::timeout(NOW, self.requests.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

fn answer(
    home: &Path,
    manner: Manner,
    method: &str,
    params: &Value,
) -> Option<Result<Value, &'static str>> {
    let thread = |id: &str, root: &str| {
        json!({"id": id, "path": home.join(format!("{id}.jsonl")), "createdAt": 1,
            "environments": [{"runtimeWorkspaceRoots": ["/w", root]}],
            "status": {"type": manner.status, "activeFlags": []}})
    };
    Some(match method {
        "initialized" => return None,
        "thread/loaded/list" if manner.has_ours => Ok(json!({"data": ["theirs", "ours"]})),
        "thread/loaded/list" => Ok(json!({"data": ["theirs"]})),
        "thread/read" if params["threadId"] == "ours" => {
            Ok(json!({"thread": thread("ours", "/h/01MARK")}))
        }
        "thread/read" => Ok(json!({"thread": thread("theirs", "/h/02MARK")})),
        "thread/turns/list" => Ok(json!({"data": [{"id": "t1", "status": "inProgress"}]})),
        "turn/start" if !manner.starts => Err("no such thread"),
        _ => Ok(json!({})),
    })
}

struct Reports(Receiver<(Way, WayReport)>);

impl Reports {
    async fn next(&mut self) -> WayReport {
        tokio::time::timeout(NOW, self.0.recv())
            .await
            .unwrap()
            .unwrap()
            .1
    }

    /// The next outcome of a text, or whether the way is open.
    async fn next_result(&mut self) -> WayReport {
        loop {
            match self.next().await {
                WayReport::Sign(_)
                | WayReport::Starting
                | WayReport::Exposed(_)
                | WayReport::HandedOver(_) => {}
                report => return report,
            }
        }
    }
}

fn start(setup: Setup) -> (Codex, Reports) {
    let (to, reports) = mpsc::channel(64);
    (
        Codex::start(setup, WayReporter::new(Way::Api, to)),
        Reports(reports),
    )
}

fn submission(timing: Timing) -> Submission {
    Submission {
        number: 1,
        ids: vec!["01".into()],
        text: LINE.into(),
        is_hidden: true,
        timing,
    }
}

#[tokio::test]
async fn an_idle_thread_gets_a_turn_and_the_rollout_proves_it() {
    let (mut daemon, setup) = Daemon::start(USUAL);
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Idle)));
    let (method, params) = daemon.request().await;
    assert_eq!(method, "turn/start");
    assert_eq!(params["threadId"], "ours");
    assert_eq!(params["input"][0]["text"], LINE);
    while reports.next().await != WayReport::HandedOver(1) {}
    daemon
        .set_status(json!({"type": "active", "activeFlags": []}))
        .await;
    daemon.row();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
}

#[tokio::test]
async fn the_way_is_starting_until_the_daemon_has_a_thread_of_this_session() {
    let (daemon, setup) = Daemon::start(Manner {
        has_ours: false,
        ..USUAL
    });
    let home = setup.home.clone();
    let (_codex, mut reports) = start(setup);
    for _ in 0..3 {
        assert_eq!(reports.next().await, WayReport::Starting);
    }
    let thread = json!({"id": "ours", "path": home.join("ours.jsonl"), "createdAt": 1,
        "environments": [{"runtimeWorkspaceRoots": ["/h/01MARK"]}],
        "status": {"type": "idle", "activeFlags": []}});
    let note = json!({"method": "thread/started", "params": {"thread": thread}});
    daemon.notify.send(note).await.unwrap();
    assert_eq!(reports.next_result().await, WayReport::Open);
}

#[tokio::test]
async fn a_text_waits_for_the_end_of_the_turn_and_of_a_dialog() {
    let (mut daemon, setup) = Daemon::start(Manner {
        status: "active",
        ..USUAL
    });
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Idle)));
    daemon
        .set_status(json!({"type": "active", "activeFlags": ["waitingOnApproval"]}))
        .await;
    let asks = AgentSign::Asks("a command or a change".into());
    while reports.next().await != WayReport::Sign(asks.clone()) {}
    assert!(daemon.requests.try_recv().is_err());
    daemon.set_status(json!({"type": "idle"})).await;
    assert_eq!(reports.next().await, WayReport::Sign(AgentSign::Answered));
    assert_eq!(daemon.request().await.0, "turn/start");
    daemon.row();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
}

#[tokio::test]
async fn a_text_that_may_come_between_tools_is_brought_into_the_running_turn() {
    let (mut daemon, setup) = Daemon::start(Manner {
        status: "active",
        ..USUAL
    });
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Next)));
    let (method, params) = daemon.request().await;
    assert_eq!(
        (method.as_str(), &params["expectedTurnId"]),
        ("turn/steer", &json!("t1"))
    );
    daemon.row();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
}

#[tokio::test]
async fn a_refused_turn_is_a_failure_of_the_way() {
    let (_daemon, setup) = Daemon::start(Manner {
        starts: false,
        ..USUAL
    });
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Idle)));
    let why = "no such thread".to_owned();
    let refusal = Refusal::Failed;
    let number = 1;
    assert_eq!(
        reports.next_result().await,
        WayReport::NotTaken {
            number,
            why,
            refusal
        }
    );
}

#[tokio::test]
async fn a_text_whose_turn_ends_without_a_row_may_have_been_read() {
    let (mut daemon, setup) = Daemon::start(USUAL);
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Idle)));
    daemon.request().await;
    daemon
        .set_status(json!({"type": "active", "activeFlags": []}))
        .await;
    daemon.set_status(json!({"type": "idle"})).await;
    // The daemon had accepted it, so it may have been read: a repeat is marked.
    assert_eq!(reports.next_result().await, WayReport::Unread(1));
}

#[tokio::test]
async fn the_end_of_the_daemon_loses_sent_texts_and_gives_back_waiting_ones() {
    let (mut daemon, setup) = Daemon::start(USUAL);
    let (codex, mut reports) = start(setup);
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(codex.deliver(submission(Timing::Idle)));
    daemon.request().await;
    daemon
        .set_status(json!({"type": "active", "activeFlags": []}))
        .await;
    let second = Submission {
        number: 2,
        ids: vec!["02".into()],
        ..submission(Timing::Idle)
    };
    assert!(codex.deliver(second));
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    daemon.task.abort();
    assert_eq!(
        reports.next().await,
        WayReport::Sign(AgentSign::Answered),
        "its turn held back what was to be typed"
    );
    assert_eq!(reports.next().await, WayReport::Sign(AgentSign::TurnEnded));
    assert_eq!(reports.next_result().await, WayReport::Lost(1));
    let given_back = reports.next_result().await;
    let is_failure = matches!(
        given_back,
        WayReport::NotTaken {
            number: 2,
            refusal: Refusal::Failed,
            ..
        }
    );
    assert!(is_failure, "{given_back:?}");
    assert_eq!(
        reports.next_result().await,
        WayReport::Closed(NO_THREAD.to_owned())
    );
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_disconnected_and_has_failed() {
    // The text went to it again every twenty seconds, without end.
    let home = tempfile::tempdir().unwrap();
    let marker = ThreadMarker::new(home.path().join("01MARK")).unwrap();
    let (home, program) = (home.path().to_owned(), "codex".into());
    let setup = Setup {
        home,
        program,
        marker,
    };
    let (to, reports) = mpsc::channel(64);
    let mut reports = Reports(reports);
    let mut work = Work::new(setup, WayReporter::new(Way::Api, to));
    let submission = submission(Timing::Idle);
    let now = Instant::now();
    let stage = Progress::Asked(now);
    work.in_flight.insert(1, InFlight { submission, stage });
    work.disconnect_if_silent().await;
    assert!(reports.0.try_recv().is_err(), "it was asked just now");
    work.set_stage(1, Progress::Asked(now - ANSWERS_WITHIN));
    work.disconnect_if_silent().await;
    assert_eq!(reports.next().await, WayReport::Unseen(1));
    assert!(work.in_flight.is_empty());
}

#[tokio::test]
async fn a_thread_of_another_session_never_opens_the_way() {
    let (daemon, mut setup) = Daemon::start(USUAL);
    setup.marker = ThreadMarker::new(daemon.home.path().join("03MARK")).unwrap();
    let (codex, mut reports) = start(setup);
    assert!(codex.deliver(submission(Timing::Idle)));
    let refused = reports.next_result().await;
    let is_failure = matches!(
        refused,
        WayReport::NotTaken {
            refusal: Refusal::Failed,
            ..
        }
    );
    assert!(is_failure, "{refused:?}");
}

/// A program that holds the lock of a thread from the start and its history from the line `go` on;
/// as `codex queue` it writes the text into that history. At the line `new` it goes on to another
/// thread, and what is queued is not read.
#[cfg(target_os = "linux")]
const WITHOUT_DAEMON: &str = r#"#!/bin/sh
folder=$(dirname "$0")
if [ "$1" = queue ]; then
    [ ! -e "$folder/unread" ] || exec touch "$folder/queued"
    [ "$2 $3" = "--thread 01a" ] || exit 1
    row='{"type":"response_item","payload":{"type":"message","role":"user","content":['
    printf '%s{"type":"input_text","text":"%s"}]}}\n' "$row" "$5" >>"$folder/r-01a.jsonl"
    exit
fi
exec 3>"$folder/thread-writer-locks/01a.lock"
read -r go
exec 4>>"$folder/r-01a.jsonl"
read -r line
[ "$line" = new ] || exit 0
exec 3>"$folder/thread-writer-locks/01b.lock" 4>&-
read -r end
"#;

/// Such a program, behind its first turn, and the way to it.
#[cfg(target_os = "linux")]
async fn without_daemon(folder: &Path) -> (std::process::Child, Codex, Reports) {
    use std::process::{Command, Stdio};

    fs::create_dir(folder.join("thread-writer-locks")).unwrap();
    let program = folder.join("codex");
    write_program(&program, WITHOUT_DAEMON).unwrap();
    let mut codex = Command::new(&program)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let marker = ThreadMarker::new(folder.join("01MARK")).unwrap();
    let setup = Setup {
        home: folder.to_owned(),
        program: program.into(),
        marker,
    };
    let (way, mut reports) = start(setup);
    let closed = WayReport::Closed(NO_TURN.to_owned());
    assert_eq!(reports.next_result().await, closed);
    let keys = codex.stdin.as_mut().unwrap();
    keys.write_all(b"go\n").unwrap();
    assert_eq!(reports.next_result().await, WayReport::Open);
    (codex, way, reports)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thread_without_the_daemon_is_queued_to_from_its_first_turn_on() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().canonicalize().unwrap();
    let (mut codex, way, mut reports) = without_daemon(&folder).await;
    assert!(way.deliver(submission(Timing::Idle)));
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
    drop(codex.stdin.take());
    codex.wait().unwrap();
    assert_eq!(
        reports.next_result().await,
        WayReport::Closed(NO_THREAD.to_owned())
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_text_in_the_queue_of_a_thread_that_the_person_left_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().canonicalize().unwrap();
    let (mut codex, way, mut reports) = without_daemon(&folder).await;
    fs::write(folder.join("unread"), "").unwrap();
    assert!(way.deliver(submission(Timing::Idle)));
    while !folder.join("queued").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut keys = codex.stdin.take().unwrap();
    keys.write_all(b"new\n").unwrap();
    let mut results = [reports.next_result().await, reports.next_result().await];
    results.sort_by_key(|result| format!("{result:?}"));
    let closed = WayReport::Closed(NO_TURN.to_owned());
    assert_eq!(results, [closed, WayReport::Lost(1)]);
    drop(keys);
    codex.wait().unwrap();
}

#[test]
fn the_home_is_where_the_environment_says() {
    let named = home(Some(Path::new("/c")), Some(Path::new("/h")));
    assert_eq!(named, Some("/c".into()));
    assert_eq!(home(None, Some(Path::new("/h"))), Some("/h/.codex".into()));
    let relative = home(Some(Path::new("c")), Some(Path::new("/h")));
    assert_eq!(relative, Some("/h/.codex".into()));
    assert_eq!(home(None, None), None);
}
