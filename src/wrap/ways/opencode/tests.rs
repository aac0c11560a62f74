//! The way against a server of the tests' own.

#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use super::*;

mod shown;

const LINE: &str = "[cbroker peer message from=a id=01] look [end]";
const LIMIT: Duration = Duration::from_secs(20);

/// A fake server that records requests and sends the events of the test.
struct Fake {
    port: u16,
    posted: Receiver<(String, Value)>,
    events: Arc<broadcast::Sender<Value>>,
    /// Whether it accepts connections.
    accepts: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Fake {
    /// `status` is its response to a prompt.
    async fn start(given: &OpencodeSetup, status: &'static str) -> Self {
        let address = (Ipv4Addr::LOCALHOST, given.port);
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let (tell, posted) = mpsc::channel(16);
        let (events, _) = broadcast::channel(64);
        let events = Arc::new(events);
        let sender = Arc::clone(&events);
        let credentials = format!("opencode:{}", given.password);
        let (accepts, mut may_accept) = watch::channel(true);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                may_accept.wait_for(|accepts| *accepts).await.unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                let (tell, events) = (tell.clone(), sender.subscribe());
                let credentials = credentials.clone();
                connections.spawn(serve(stream, credentials, status, tell, events));
            }
        });
        Self {
            port: given.port,
            posted,
            events,
            accepts,
            task,
        }
    }

    fn send(&self, kind: &str, properties: &Value) {
        let event = json!({"type": kind, "properties": properties});
        // The listener may have disconnected.
        let _nobody_listens = self.events.send(event);
    }

    /// Begins a session, as the person would.
    fn begin_session(&self, id: &str) {
        let info = json!({"id": id, "title": "New session - 1"});
        self.send("session.created", &json!({"sessionID": id, "info": info}));
    }

    fn set_status(&self, status: &str) {
        let properties = json!({"sessionID": "s1", "status": {"type": status}});
        self.send("session.status", &properties);
    }

    /// Adds the prompt to the list.
    fn add_prompt(&self) {
        let prompt = json!({"id": "m1", "role": "user"});
        self.send(
            "message.updated",
            &json!({"sessionID": "s1", "info": prompt}),
        );
        let part = json!({"type": "text", "messageID": "m1", "text": LINE});
        self.send(
            "message.part.updated",
            &json!({"sessionID": "s1", "part": part}),
        );
    }

    /// Adds the prompt to the list, and begins an answer to it.
    fn begin_answer(&self) {
        self.add_prompt();
        let answer = json!({"id": "m2", "role": "assistant", "parentID": "m1"});
        self.send(
            "message.updated",
            &json!({"sessionID": "s1", "info": answer}),
        );
    }

    async fn request(&mut self) -> (String, Value) {
        tokio::time::timeout(LIMIT, self.posted.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Waits until a client listens to the events.
    async fn wait_for_listener(&self) {
        while self.events.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn serve(
    stream: TcpStream,
    credentials: String,
    status: &'static str,
    tell: Sender<(String, Value)>,
    mut events: broadcast::Receiver<Value>,
) {
    use base64::Engine as _;
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if line.trim().is_empty() {
            break;
        }
        let line = line.trim().to_owned();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        head.push(line);
    }
    // The client gave up before the connection was accepted.
    if head.is_empty() {
        return;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let secret = base64::engine::general_purpose::STANDARD.encode(credentials);
    let is_known = head
        .iter()
        .any(|line| line.ends_with(&format!("Basic {secret}")));
    let empty = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    if !is_known {
        stream
            .write_all(empty("401 Unauthorized").as_bytes())
            .await
            .unwrap();
    } else if path == "/event" {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while let Ok(event) = events.recv().await {
            let line = format!("data: {event}\n\n");
            stream.write_all(line.as_bytes()).await.unwrap();
        }
    } else if path == "/session" {
        drop(events);
        let is_list = head[0].starts_with("GET");
        let body = if is_list { "[]" } else { r#"{"id":"s9"}"# };
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    } else {
        drop(events);
        let body = serde_json::from_slice(&body).unwrap_or_default();
        stream.write_all(empty(status).as_bytes()).await.unwrap();
        tell.send((path, body)).await.unwrap();
    }
}

struct Reports(Receiver<(Way, WayReport)>);

impl Reports {
    async fn next(&mut self) -> WayReport {
        tokio::time::timeout(LIMIT, self.0.recv())
            .await
            .unwrap()
            .unwrap()
            .1
    }

    async fn next_result(&mut self) -> WayReport {
        loop {
            match self.next().await {
                WayReport::Sign(_) | WayReport::HandedOver(_) => {}
                report => return report,
            }
        }
    }
}

async fn started(status: &'static str) -> (Fake, Opencode, Reports) {
    let given = OpencodeSetup::new().unwrap();
    let fake = Fake::start(&given, status).await;
    let (to, reports) = mpsc::channel(64);
    let way = Opencode::start(given, false, WayReporter::new(Way::Api, to));
    let mut reports = Reports(reports);
    fake.wait_for_listener().await;
    fake.begin_session("s1");
    assert_eq!(reports.next_result().await, WayReport::Open);
    (fake, way, reports)
}

fn submission(timing: Timing) -> Submission {
    Submission {
        number: 1,
        ids: vec!["01".into()],
        text: LINE.into(),
        is_hidden: false,
        timing,
    }
}

#[tokio::test]
async fn an_idle_session_gets_a_prompt_and_its_answer_proves_it() {
    let (mut fake, way, mut reports) = started("204 No Content").await;
    assert!(way.deliver(submission(Timing::Idle)));
    let (path, body) = fake.request().await;
    assert_eq!(path, "/session/s1/prompt_async");
    assert_eq!(body["parts"][0]["text"], LINE);
    while reports.next().await != WayReport::HandedOver(1) {}
    fake.begin_answer();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
}

#[tokio::test]
async fn a_text_waits_for_the_turns_end_and_one_between_tools_does_not() {
    let (mut fake, way, mut reports) = started("204 No Content").await;
    fake.set_status("busy");
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    assert!(way.deliver(submission(Timing::Idle)));
    let next = Submission {
        number: 2,
        ids: vec!["02".into()],
        text: LINE.replace("01", "02"),
        is_hidden: false,
        timing: Timing::Next,
    };
    assert!(way.deliver(next));
    assert_eq!(
        fake.request().await.1["parts"][0]["text"],
        LINE.replace("01", "02")
    );
    fake.set_status("idle");
    assert_eq!(fake.request().await.1["parts"][0]["text"], LINE);
}

#[tokio::test]
async fn a_prompt_whose_request_failed_in_the_server_may_have_been_read() {
    let (_fake, way, mut reports) = started("500 Internal Server Error").await;
    assert!(way.deliver(submission(Timing::Idle)));
    assert_eq!(reports.next_result().await, WayReport::Unseen(1));
}

#[tokio::test]
async fn a_refused_request_is_a_failure_of_the_way() {
    let (_fake, way, mut reports) = started("400 Bad Request").await;
    assert!(way.deliver(submission(Timing::Idle)));
    let (number, refusal) = (1, Refusal::Failed);
    let why = "its server answered 400".to_owned();
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
async fn an_unknown_session_closes_the_way_and_gives_back_unsent_texts() {
    let (fake, way, mut reports) = started("204 No Content").await;
    let info = json!({"id": "s1", "title": "Find a bug"});
    fake.send("session.updated", &json!({"sessionID": "s1", "info": info}));
    fake.set_status("busy");
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    assert!(way.deliver(submission(Timing::Idle)));
    way.title_changed("OC | Something else");
    assert_eq!(
        reports.next_result().await,
        WayReport::Closed(NO_SESSION.to_owned())
    );
    let given_back = reports.next_result().await;
    let is_failure = matches!(given_back, WayReport::NotTaken { number: 1, .. });
    assert!(is_failure, "{given_back:?}");
    way.title_changed("OC | Find a bug");
    assert_eq!(reports.next_result().await, WayReport::Open);
}

/// Starts a server whose program shows its first screen.
async fn at_the_first_screen(status: &'static str, resumes: bool) -> (Fake, Opencode, Reports) {
    let given = OpencodeSetup::new().unwrap();
    let fake = Fake::start(&given, status).await;
    let (to, reports) = mpsc::channel(64);
    let way = Opencode::start(given, resumes, WayReporter::new(Way::Api, to));
    way.title_changed("OpenCode");
    fake.wait_for_listener().await;
    (fake, way, Reports(reports))
}

#[tokio::test]
async fn on_the_first_screen_a_session_is_begun_and_shown_before_the_prompt() {
    let (mut fake, way, mut reports) = at_the_first_screen("204 No Content", false).await;
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(way.deliver(submission(Timing::Idle)));
    let shown = ("/tui/select-session".to_owned(), json!({"sessionID": "s9"}));
    assert_eq!(fake.request().await, shown);
    let (path, body) = fake.request().await;
    assert_eq!(path, "/session/s9/prompt_async");
    assert_eq!(body["parts"][0]["text"], LINE);
}

#[tokio::test]
async fn a_session_that_a_slow_program_did_not_show_is_shown_again() {
    let (mut fake, way, mut reports) = at_the_first_screen("204 No Content", false).await;
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(way.deliver(submission(Timing::Idle)));
    let shown = ("/tui/select-session".to_owned(), json!({"sessionID": "s9"}));
    assert_eq!(fake.request().await, shown);
    assert_eq!(fake.request().await.0, "/session/s9/prompt_async");
    // The session has a title now, and the terminal still has that of the first screen.
    let info = json!({"id": "s9", "title": "Find a bug"});
    fake.send("session.updated", &json!({"sessionID": "s9", "info": info}));
    assert_eq!(fake.request().await, shown);
    way.title_changed("OC | Find a bug");
    let more = tokio::time::timeout(3 * display_check::INTERVAL, fake.posted.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_session_that_the_person_left_for_another_is_not_shown_again() {
    let (mut fake, way, mut reports) = at_the_first_screen("204 No Content", false).await;
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(way.deliver(submission(Timing::Idle)));
    assert_eq!(fake.request().await.0, "/tui/select-session");
    assert_eq!(fake.request().await.0, "/session/s9/prompt_async");
    let info = json!({"id": "s9", "title": "Find a bug"});
    fake.begin_session("s1");
    fake.send("session.updated", &json!({"sessionID": "s9", "info": info}));
    let more = tokio::time::timeout(3 * display_check::INTERVAL, fake.posted.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_session_that_cannot_be_shown_gets_no_prompt_and_is_deleted() {
    let (mut fake, way, mut reports) = at_the_first_screen("404 Not Found", false).await;
    assert_eq!(reports.next_result().await, WayReport::Open);
    assert!(way.deliver(submission(Timing::Idle)));
    assert_eq!(fake.request().await.0, "/tui/select-session");
    assert_eq!(fake.request().await.0, "/session/s9");
    let result = reports.next_result().await;
    assert!(
        matches!(result, WayReport::NotTaken { number: 1, .. }),
        "{result:?}"
    );
}

#[tokio::test]
async fn no_session_is_begun_if_one_is_about_to_be_shown() {
    let (fake, way, mut reports) = at_the_first_screen("204 No Content", true).await;
    let info = json!({"id": "s1", "title": "Find a bug"});
    fake.send("session.created", &json!({"sessionID": "s1", "info": info}));
    assert_eq!(reports.next_result().await, WayReport::Open);
    drop(way);
}

#[tokio::test]
async fn a_prompt_runs_with_the_agent_and_the_model_of_the_last_one() {
    let (mut fake, way, mut reports) = started("204 No Content").await;
    let info = json!({"id": "m0", "role": "user", "agent": "plan",
        "model": {"providerID": "p", "modelID": "m"}});
    fake.send("message.updated", &json!({"sessionID": "s1", "info": info}));
    fake.set_status("busy");
    while reports.next().await != WayReport::Sign(AgentSign::TurnBegan) {}
    fake.set_status("idle");
    assert!(way.deliver(submission(Timing::Idle)));
    let body = fake.request().await.1;
    assert_eq!(body["agent"], "plan");
    assert_eq!(body["model"], json!({"providerID": "p", "modelID": "m"}));
}

#[tokio::test]
async fn the_end_of_the_server_loses_sent_texts() {
    let (mut fake, way, mut reports) = started("204 No Content").await;
    assert!(way.deliver(submission(Timing::Idle)));
    fake.request().await;
    fake.task.abort();
    let closed = reports.next_result().await;
    assert!(matches!(closed, WayReport::Closed(_)), "{closed:?}");
    assert_eq!(reports.next_result().await, WayReport::Lost(1));
}

#[test]
fn each_setup_has_its_own_port_and_password() {
    let (one, other) = (OpencodeSetup::new().unwrap(), OpencodeSetup::new().unwrap());
    assert_ne!(one.password, other.password);
    assert_eq!(one.arguments()[2..], ["--hostname", "127.0.0.1"]);
    assert_eq!(one.environment().1.len(), 32);
}

#[tokio::test]
async fn a_server_that_does_not_accept_yet_is_asked_again() {
    // On a busy machine nothing proved the server's owner. That counted as a failure, and the text
    // was typed.
    let (mut fake, way, mut reports) = started("204 No Content").await;
    fake.accepts.send_replace(false);
    // One more connection is accepted: it is in the backlog already.
    let _taken = TcpStream::connect((Ipv4Addr::LOCALHOST, fake.port))
        .await
        .unwrap();
    assert!(way.deliver(submission(Timing::Idle)));
    let nothing = tokio::time::timeout(Duration::from_secs(8), reports.next_result()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    fake.accepts.send_replace(true);
    assert_eq!(fake.request().await.1["parts"][0]["text"], LINE);
    fake.begin_answer();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
    assert!(fake.posted.try_recv().is_err(), "it was sent once");
}

#[tokio::test]
async fn a_server_that_does_not_accept_at_first_is_starting() {
    let given = OpencodeSetup::new().unwrap();
    let fake = Fake::start(&given, "204 No Content").await;
    fake.accepts.send_replace(false);
    let _taken = TcpStream::connect((Ipv4Addr::LOCALHOST, fake.port))
        .await
        .unwrap();
    let (to, reports) = mpsc::channel(64);
    let _way = Opencode::start(given, false, WayReporter::new(Way::Api, to));
    let mut reports = Reports(reports);
    assert_eq!(reports.next_result().await, WayReport::Starting);
    fake.accepts.send_replace(true);
    // Connections that the client gave up are accepted first.
    loop {
        fake.wait_for_listener().await;
        fake.begin_session("s1");
        let next = tokio::time::timeout(Duration::from_millis(200), reports.next_result());
        if next.await == Ok(WayReport::Open) {
            break;
        }
    }
}

#[tokio::test]
async fn a_prompt_that_is_answered_after_its_request_failed_was_read() {
    let (mut fake, way, mut reports) = started("500 Internal Server Error").await;
    assert!(way.deliver(submission(Timing::Idle)));
    fake.request().await;
    fake.add_prompt();
    let nothing = tokio::time::timeout(Duration::from_secs(18), reports.next_result()).await;
    assert!(nothing.is_err(), "the server has it: {nothing:?}");
    fake.begin_answer();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
}

#[tokio::test]
async fn an_answer_still_proves_a_prompt_that_was_given_up() {
    let (mut fake, way, mut reports) = started("500 Internal Server Error").await;
    assert!(way.deliver(submission(Timing::Idle)));
    fake.request().await;
    assert_eq!(reports.next_result().await, WayReport::Unseen(1));
    fake.begin_answer();
    assert_eq!(reports.next_result().await, WayReport::InContext(1));
}
