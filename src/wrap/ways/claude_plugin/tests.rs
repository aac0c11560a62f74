//! Tests of the plugin against a fake module.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::super::AgentSign;
use super::super::Timing;
use super::listener::PluginEvent;
use super::unbound::NO_SESSION;
use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const LINE: &str = "[cbroker peer message from=a id=01] look [end]";

struct PluginFixture {
    folder: tempfile::TempDir,
    plugin: Plugin,
    reports: Receiver<(Way, WayReport)>,
    /// The submissions that were reported as handed over.
    handed_over: Vec<SubmissionNumber>,
}

impl PluginFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("plugin.sock");
        let (to, reports) = mpsc::channel(64);
        let reports_to = WayReporter::new(Way::Plugin, to);
        let plugin = Plugin::listen(&socket, "secret".into(), reports_to).unwrap();
        Self {
            folder,
            plugin,
            reports,
            handed_over: Vec::new(),
        }
    }

    fn transcript(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_row(&self, name: &str) {
        let row = json!({"type": "user", "message": {"content": LINE}});
        std::fs::write(self.transcript(name), format!("{row}\n")).unwrap();
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("plugin.sock"))
            .await
            .unwrap()
    }

    /// Posts events and returns the status of the response.
    async fn post(&self, token: &str, events: Value) -> String {
        let body = json!({"token": token, "instance": "one", "events": events}).to_string();
        let mut stream = self.connect().await;
        let head = format!(
            "POST /events HTTP/1.1\r\nhost: cbroker\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }

    async fn report(&self, events: Value) {
        assert_eq!(self.post("secret", events).await, "204");
    }

    /// Requests the orders, as `cbroker hook stream` does.
    async fn listen(&self, token: &str) -> BufReader<UnixStream> {
        let mut stream = self.connect().await;
        let request =
            format!("GET /orders HTTP/1.0\r\nhost: x\r\ntoken: {token}\r\ninstance: one\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        BufReader::new(stream)
    }

    /// Connects a module that sends a hello, and returns its stream of orders.
    async fn connected(&mut self) -> BufReader<UnixStream> {
        let hello = json!([{"is": "hello", "version": "1", "transcript": self.transcript("t")}]);
        self.report(hello).await;
        let transcript = WayReport::Sign(AgentSign::Transcript(self.transcript("t")));
        assert_eq!(self.next().await, transcript);
        let mut orders = self.listen("secret").await;
        while line(&mut orders).await != "\r\n" {}
        assert_eq!(self.next().await, WayReport::Open);
        orders
    }

    /// The next report other than that a text was handed over.
    async fn next(&mut self) -> WayReport {
        loop {
            let report = tokio::time::timeout(LIMIT, self.reports.recv()).await;
            match report.unwrap().unwrap().1 {
                WayReport::HandedOver(number) => self.handed_over.push(number),
                report => return report,
            }
        }
    }

    fn deliver(&self) {
        let text = Submission {
            number: 7,
            ids: vec!["01".into()],
            text: LINE.into(),
            is_hidden: false,
            timing: Timing::Idle,
        };
        assert!(self.plugin.deliver(text));
    }
}

async fn line(orders: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    tokio::time::timeout(LIMIT, orders.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    line
}

#[tokio::test]
async fn a_text_is_in_the_context_when_the_transcript_says_so() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    let order: Value = serde_json::from_str(&line(&mut orders).await).unwrap();
    assert_eq!(order, json!({"do": "submit", "key": 7, "text": LINE}));
    stage
        .report(json!([{"is": "turn"}, {"is": "submitted", "key": 7}]))
        .await;
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::TurnBegan));
    stage.write_row("t");
    assert_eq!(stage.next().await, WayReport::InContext(7));
    assert_eq!(stage.handed_over, [7]);
}

#[tokio::test]
async fn a_row_in_the_transcript_that_clear_began_is_a_proof_too() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    line(&mut orders).await;
    stage.write_row("u");
    let transcript = stage.transcript("u");
    stage
        .report(json!([{"is": "submitted", "key": 7, "transcript": transcript}]))
        .await;
    assert_eq!(
        stage.next().await,
        WayReport::Sign(AgentSign::Transcript(transcript))
    );
    assert_eq!(stage.next().await, WayReport::InContext(7));
}

#[tokio::test]
async fn a_drop_after_escape_says_that_the_person_stopped_the_session() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    line(&mut orders).await;
    stage
        .report(json!([{"is": "stopped"}, {"is": "dropped", "key": 7, "why": "no"}]))
        .await;
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::Escaped));
    let dropped = |refusal| WayReport::NotTaken {
        number: 7,
        why: "no".into(),
        refusal,
    };
    assert_eq!(stage.next().await, dropped(Refusal::Escaped));
    stage.report(json!([{"is": "person"}])).await;
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::PersonSpoke));
    stage.deliver();
    line(&mut orders).await;
    stage
        .report(json!([{"is": "dropped", "key": 7, "why": "no"}]))
        .await;
    assert_eq!(stage.next().await, dropped(Refusal::Refused));
}

#[tokio::test]
async fn a_drop_can_report_that_the_process_was_stopped() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    line(&mut orders).await;
    let why = "the session was stopped and nobody has sent input since";
    stage
        .report(json!([{"is": "dropped", "key": 7, "why": why}]))
        .await;
    let (number, why, refusal) = (7, why.to_owned(), Refusal::Escaped);
    assert_eq!(
        stage.next().await,
        WayReport::NotTaken {
            number,
            why,
            refusal
        }
    );
}

#[tokio::test]
async fn an_unbound_text_is_sent_again_and_another_error_fails() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    let order = line(&mut orders).await;
    let why = "prompt.submit: no session is bound";
    stage
        .report(json!([{"is": "failed", "key": 7, "why": why}]))
        .await;
    assert_eq!(stage.next().await, WayReport::Away);
    assert_eq!(line(&mut orders).await, order);
    stage.report(json!([{"is": "turn"}])).await;
    assert_eq!(stage.next().await, WayReport::Open);
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::TurnBegan));
    stage
        .report(json!([{"is": "failed", "key": 7, "why": "no such call"}]))
        .await;
    let failed = WayReport::NotTaken {
        number: 7,
        why: "no such call".into(),
        refusal: Refusal::Failed,
    };
    assert_eq!(stage.next().await, failed);
}

#[tokio::test]
async fn nothing_is_open_without_the_token_or_a_hello() {
    let mut stage = PluginFixture::new();
    assert_eq!(stage.post("wrong", json!([])).await, "403");
    let mut refused = stage.listen("wrong").await;
    assert!(line(&mut refused).await.contains(" 403 "));
    let _silent = stage.listen("secret").await;
    stage.deliver();
    assert!(matches!(
        stage.next().await,
        WayReport::NotTaken {
            number: 7,
            refusal: Refusal::Elsewhere,
            ..
        }
    ));
}

#[tokio::test]
async fn a_module_that_ends_closes_the_way() {
    let mut stage = PluginFixture::new();
    let orders = stage.connected().await;
    drop(orders);
    assert!(matches!(stage.next().await, WayReport::Closed(_)));
}

#[tokio::test]
async fn a_text_whose_stream_ended_before_the_module_reported_it_is_lost() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    line(&mut orders).await;
    drop(orders);
    assert!(matches!(stage.next().await, WayReport::Closed(_)));
    assert_eq!(stage.next().await, WayReport::Lost(7));
}

#[tokio::test]
async fn a_text_whose_turn_ended_without_its_row_is_lost() {
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    line(&mut orders).await;
    stage
        .report(json!([{"is": "submitted", "key": 7}, {"is": "rest", "why": "answer"}]))
        .await;
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::TurnEnded));
    assert_eq!(stage.next().await, WayReport::Lost(7));
}

#[tokio::test]
async fn a_dialog_is_open_until_its_tool_call_has_ended() {
    let mut stage = PluginFixture::new();
    let _orders = stage.connected().await;
    let asked = json!([{"is": "ask", "call": "1", "tool": "Bash"}, {"is": "called", "call": "0"},
        {"is": "ask", "call": "2", "tool": "Write"}, {"is": "called", "call": "2"},
        {"is": "called", "call": "1"}, {"is": "of a later version", "x": 1},
        {"is": "menu", "name": "model"}, {"is": "menu"}, {"is": "rest", "why": "answer"}]);
    stage.report(asked).await;
    for sign in [
        AgentSign::Asks("Bash".into()),
        AgentSign::Asks("Write".into()),
        AgentSign::Asks("Bash".into()),
        AgentSign::Answered,
        AgentSign::Menu("model".into()),
        AgentSign::MenuClosed,
        AgentSign::TurnEnded,
    ] {
        assert_eq!(stage.next().await, WayReport::Sign(sign));
    }
}

#[tokio::test]
async fn what_the_module_before_had_open_is_closed_with_the_next_hello() {
    // A menu stayed open for ever: its module reported the end after another had said hello.
    let mut stage = PluginFixture::new();
    let _orders = stage.connected().await;
    let open = json!([{"is": "ask", "call": "1", "tool": "Bash"}, {"is": "menu", "name": "model"}]);
    stage.report(open).await;
    assert_eq!(
        stage.next().await,
        WayReport::Sign(AgentSign::Asks("Bash".into()))
    );
    assert_eq!(
        stage.next().await,
        WayReport::Sign(AgentSign::Menu("model".into()))
    );
    let hello = json!([{"is": "hello", "version": "1", "transcript": stage.transcript("t")}]);
    stage.report(hello).await;
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::Answered));
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::MenuClosed));
}

#[tokio::test]
async fn an_event_that_cannot_be_read_takes_no_other_with_it() {
    // The result of a text was in the same request, and all later messages waited for it.
    let mut stage = PluginFixture::new();
    let mut orders = stage.connected().await;
    stage.deliver();
    line(&mut orders).await;
    let events = json!([{"is": "dropped"}, 3, {"is": "rest"}, {"is": "called"},
        {"is": "dropped", "key": 7, "why": "no"}]);
    stage.report(events).await;
    assert_eq!(stage.next().await, WayReport::Sign(AgentSign::TurnEnded));
    let refused = stage.next().await;
    assert!(
        matches!(refused, WayReport::NotTaken { number: 7, .. }),
        "{refused:?}"
    );
}

/// A way whose only text was refused with "no session is bound" `seconds` ago.
fn unbound_text(folder: &Path, seconds: u64) -> (Work, Receiver<(Way, WayReport)>) {
    let (to, reports) = mpsc::channel(64);
    let (listener, _) = Listener::bind(&folder.join("s"), "secret".into()).unwrap();
    let (_, hooked) = watch::channel(None);
    let mut work = Work::new(listener, hooked, WayReporter::new(Way::Plugin, to));
    (work.location, work.reported) = (SessionLocation::Away, PluginAvailability::Away);
    work.choice.continues_in(instance("old"));
    work.choice.set_transcript(&folder.join("one.jsonl"));
    let since = Instant::now() - Duration::from_secs(seconds);
    let text = InFlight {
        instance: instance("old"),
        order: Bytes::from_static(b"{}\n"),
        stage: Progress::Unbound(since),
        unbound_since: Some(since),
    };
    work.in_flight.insert(7, text);
    (work, reports)
}

fn instance(name: &str) -> PluginProcess {
    let pid = i32::try_from(std::process::id()).unwrap();
    PluginProcess {
        name: name.to_owned(),
        pid,
    }
}

#[tokio::test]
async fn a_text_goes_to_the_process_that_the_transcript_names() {
    let folder = tempfile::tempdir().unwrap();
    let (mut work, mut reports) = unbound_text(folder.path(), 2);
    let two = folder.path().join("two.jsonl");
    work.other_instances.push((instance("new"), two.clone()));
    let (orders, mut given) = mpsc::channel(4);
    work.streams.insert("new".to_owned(), orders);
    work.resend_or_give_up().await;
    assert!(given.try_recv().is_err(), "nothing says that it is ours");
    let row = json!({"type": "continued-in", "continuedInSessionId": "two"});
    std::fs::write(folder.path().join("one.jsonl"), format!("{row}\n")).unwrap();
    work.resend_or_give_up().await;
    assert_eq!(given.try_recv().unwrap(), Bytes::from_static(b"{}\n"));
    let moved = WayReport::Sign(AgentSign::Transcript(two));
    assert_eq!(reports.recv().await.unwrap().1, moved);
    assert_eq!(reports.recv().await.unwrap().1, WayReport::Open);
}

fn seconds_ago(seconds: u64) -> Instant {
    Instant::now() - Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_text_waits_for_the_session_and_goes_another_way_if_that_has_no_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let here = instance("old").pid;
    let hour = seconds_ago(3600);
    for (seconds, hooked) in [
        (3600, None),
        (3600, Some((here, hour))),
        (5, Some((1, hour))),
    ] {
        let (mut work, mut reports) = unbound_text(folder.path(), seconds);
        work.hooked = watch::channel(hooked).1;
        work.resend_or_give_up().await;
        assert!(reports.try_recv().is_err(), "{seconds} {hooked:?}");
    }
    let (mut work, mut reports) = unbound_text(folder.path(), 15);
    work.hooked = watch::channel(Some((1, hour))).1;
    work.resend_or_give_up().await;
    let closed = WayReport::Closed(NO_SESSION.to_owned());
    assert_eq!(reports.recv().await.unwrap().1, closed);
    let (number, why, refusal) = (7, NO_SESSION.to_owned(), Refusal::Elsewhere);
    let given_up = WayReport::NotTaken {
        number,
        why,
        refusal,
    };
    assert_eq!(reports.recv().await.unwrap().1, given_up);
}

#[tokio::test]
async fn a_process_that_the_session_moved_to_has_its_time_to_load_the_plugin() {
    // Two moves on a slow machine, whose processes began half a minute after the text was refused,
    // switched the plugin off.
    let folder = tempfile::tempdir().unwrap();
    let (mut work, mut reports) = unbound_text(folder.path(), 3600);
    work.hooked = watch::channel(Some((1, seconds_ago(5)))).1;
    work.resend_or_give_up().await;
    assert!(reports.try_recv().is_err(), "its first hook ran just now");
    work.hooked = watch::channel(Some((1, seconds_ago(15)))).1;
    work.resend_or_give_up().await;
    let closed = WayReport::Closed(NO_SESSION.to_owned());
    assert_eq!(reports.recv().await.unwrap().1, closed);
}

#[tokio::test]
async fn a_way_that_lost_the_session_opens_only_where_the_session_is() {
    let folder = tempfile::tempdir().unwrap();
    let (mut work, mut reports) = unbound_text(folder.path(), 3600);
    let (orders, mut given) = mpsc::channel(4);
    work.streams.insert("old".to_owned(), orders.clone());
    work.hooked = watch::channel(Some((1, seconds_ago(3600)))).1;
    work.resend_or_give_up().await;
    while reports.try_recv().is_ok() {}
    let rest = || PluginEvent::Rest { why: String::new() };
    work.handle_event("old", None, rest()).await;
    let (name, listens) = ("spare".to_owned(), orders.clone());
    work.handle_listener_event(ListenerEvent::Orders {
        instance: name,
        orders: listens,
    })
    .await;
    assert_eq!(
        reports.recv().await.unwrap().1,
        WayReport::Sign(AgentSign::TurnEnded)
    );
    let text = Submission {
        number: 8,
        ids: vec!["01".into()],
        text: LINE.into(),
        is_hidden: false,
        timing: Timing::Idle,
    };
    work.deliver(text).await;
    let refused = reports.recv().await.unwrap().1;
    let is_elsewhere = matches!(
        refused,
        WayReport::NotTaken {
            number: 8,
            refusal: Refusal::Elsewhere,
            ..
        }
    );
    assert!(is_elsewhere, "{refused:?}");
    assert!(given.try_recv().is_err(), "the old process takes no text");
    work.streams.insert("new".to_owned(), orders);
    work.choice.continues_in(instance("new"));
    work.adopt("new", &folder.path().join("two.jsonl")).await;
    let moved = WayReport::Sign(AgentSign::Transcript(folder.path().join("two.jsonl")));
    assert_eq!(reports.recv().await.unwrap().1, moved);
    assert_eq!(reports.recv().await.unwrap().1, WayReport::Open);
}
