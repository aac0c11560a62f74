//! What sessions do, as `list`, `list --watch`, `wait`, `pause --all` and `resume --all` see it.

use std::env;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::client;
use crate::support::{Place, Server, Terminal, Wrapped, binary, wait_until};

/// The states of one name's rows.
fn states(place: &Place, name: &str) -> Vec<String> {
    let rows = place.json(["list", "-q"]).remove(0);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["name"] == name)
        .map(|row| row["state"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn two_sessions_of_one_name_are_two_rows() {
    let place = Place::new();
    let _server = Server::start(&place);
    let _first = Wrapped::open(&place, "backend", &[]);
    let _second = Wrapped::open(&place, "backend", &[]);
    wait_until(
        || states(&place, "backend") == ["idle", "idle"],
        || format!("{:?}", states(&place, "backend")),
    );
    let table = place.ok(["list"]);
    let heading = table.lines().next().unwrap();
    assert!(heading.contains("SINCE"), "{table}");
    let rows = table.lines().filter(|line| line.starts_with("backend "));
    assert_eq!(rows.count(), 2, "{table}");
}

#[test]
fn a_program_of_the_user_that_consumes_beside_a_session_and_says_nothing_has_a_row() {
    let place = Place::new();
    let server = Server::start(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    wait_until(
        || states(&place, "backend") == ["idle"],
        || format!("{:?}", states(&place, "backend")),
    );
    let user = json!({ "password": "pw", "tags": "" }).to_string();
    server.ask(&place, "PUT", "/api/users/bob", &user);
    let rights = json!({ "configure": "^$", "write": "^$", "read": "^backend$" });
    let path = "/api/permissions/%2f/bob";
    server.ask(&place, "PUT", path, &rights.to_string());
    let own = place.ok(["status", "--show-url"]);
    let of_bob = format!("amqp://bob:pw@127.0.0.1:{}", server.port);
    client::run(async {
        let (_bobs, channel) = client::connected(&of_bob).await;
        let _silent = client::consume_one(&channel, "backend").await;
        wait_until(
            || place.listed("backend").unwrap()["consumers"] == 2,
            || format!("{:?}", place.listed("backend")),
        );
        let mut seen = Vec::new();
        wait_until(
            || {
                seen = states(&place, "backend");
                seen.contains(&"idle".to_owned())
            },
            || "the session says nothing".to_owned(),
        );
        assert_eq!(seen, ["idle"], "bob is another user");
        let (_own, channel) = client::connected(&own).await;
        let _silent = client::consume_one(&channel, "backend").await;
        wait_until(
            || states(&place, "backend") == ["idle", "attached"],
            || format!("{:?}", states(&place, "backend")),
        );
    });
}

/// A program `claude` that reads a line and ends, for `cbroker --name … claude`.
fn stand_in(place: &Place) -> String {
    let programs = place.path().join("bin");
    fs::create_dir_all(&programs).unwrap();
    symlink(binary(), programs.join("cbroker")).unwrap();
    fs::write(programs.join("claude"), "#!/bin/sh\nread line\n").unwrap();
    fs::set_permissions(programs.join("claude"), Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", programs.display(), env::var("PATH").unwrap())
}

/// Opens a session with a line for the shell, in a folder.
fn open_by(place: &Place, line: &str, folder: &Path, path: &str) -> Terminal {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env_clear();
    for (name, value) in place.command().get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    Terminal::run({
        shell.env("PATH", path).current_dir(folder);
        shell
    })
}

#[test]
fn a_closed_session_with_messages_says_how_to_open_it() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "reviewer", "read this", "--no-start"]);
    // Only messages have to be looked at; an empty queue is nobody's work.
    client::make_queue(&place, "empty");
    let below = |name: &str| -> String {
        let table = place.ok(["list"]);
        let mut lines = table.lines().skip_while(|line| !line.starts_with(name));
        lines.nth(1).unwrap_or_default().to_owned()
    };
    let any = "cbroker --name reviewer <agent>";
    assert_eq!(below("reviewer "), format!("  open it: {any}"));
    assert_eq!(below("empty "), "");
    assert_eq!(place.listed("reviewer").unwrap()["open"], any);
    assert_eq!(place.listed("empty").unwrap()["open"], Value::Null);
    let url = place.ok(["status", "--show-url"]);
    let elsewhere = place.json(["list", "-q", "--url", url.trim()]).remove(0);
    assert_eq!(
        elsewhere[0]["open"],
        "cbroker --url <url> --name reviewer <agent>"
    );

    let folder = place.path().join("my work");
    fs::create_dir(&folder).unwrap();
    let path = stand_in(&place);
    let open = "cbroker --name reviewer --allow-send claude --model opus";
    let mut session = open_by(&place, open, &folder, &path);
    let consumers = || place.listed("reviewer").unwrap()["consumers"].clone();
    let attaches = || wait_until(|| consumers() == 1, || consumers().to_string());
    attaches();
    assert_eq!(place.listed("reviewer").unwrap()["open"], Value::Null);
    session.press(b"\r");
    assert_eq!(session.ended(), 0);
    let same = format!(
        "cd '{}' && cbroker --name reviewer --allow-send claude",
        folder.display()
    );
    wait_until(
        || below("reviewer ") == format!("  open it: {same}"),
        || place.ok(["list"]),
    );
    // It does what it says, wherever it is entered.
    let mut session = open_by(&place, &same, place.path(), &path);
    attaches();
    session.press(b"\r");
    session.ended();
}

#[test]
fn what_a_session_holds_and_why_and_since_when_is_in_its_row() {
    let place = Place::new();
    let _server = Server::start(&place);
    let _session = Wrapped::open(&place, "backend", &[]);
    place.ok(["pause", "backend"]);
    place.ok(["send", "backend", "x"]);
    let row = || -> String {
        let table = place.ok(["list"]);
        let row = table.lines().find(|line| line.starts_with("backend "));
        row.unwrap_or_default().to_owned()
    };
    wait_until(|| row().contains(" 0 + 1 held "), row);
    assert!(row().contains(" paused "), "{}", row());
    let listed = place.listed("backend").unwrap();
    assert_eq!(
        (&listed["held"], &listed["reason"]),
        (&json!(1), &json!("paused"))
    );
    let since = listed["since"].as_str().unwrap();
    assert!(
        chrono::DateTime::parse_from_rfc3339(since).is_ok(),
        "{since}"
    );
}

#[test]
fn sessions_that_need_a_person_come_first_then_those_to_open() {
    let place = Place::new();
    let _server = Server::start(&place);
    let _open = Wrapped::open(&place, "alpha", &[]);
    client::make_queue(&place, "beta");
    place.ok(["send", "zulu", "x"]);
    let rows = place.json(["list", "-q"]).remove(0);
    let rows = rows.as_array().unwrap().iter();
    let names: Vec<_> = rows.map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["zulu", "alpha", "beta"]);
}

#[test]
fn a_watched_list_is_printed_again_when_it_changed() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "backend", "x", "--no-start"]);
    let mut watching = place
        .command()
        .args(["list", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(
        (&first[0]["name"], &first[0]["state"], &first[0]["pending"]),
        (&json!("backend"), &json!("closed"), &json!(1))
    );
    place.ok(["send", "backend", "y"]);
    assert_eq!(next()[0]["pending"], 2);
    let pid = Pid::from_raw(watching.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watched_list_goes_on_when_the_broker_comes_back_elsewhere() {
    let place = Place::new();
    let mut server = Server::start(&place);
    place.ok(["send", "backend", "x", "--no-start"]);
    let mut watching = place
        .command()
        .args(["list", "--watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()[0]["pending"], 1);
    server.kill();
    // On other ports: the old ones may be in use by now.
    let _server = Server::start(&place);
    assert_eq!(next()[0]["pending"], 1);
    place.ok(["send", "backend", "y"]);
    assert_eq!(next()[0]["pending"], 2);
    let pid = Pid::from_raw(watching.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = watching.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("waiting for the broker") && said.contains("the broker is back"),
        "{said}"
    );
    assert!(!said.contains("channel"), "in a person's words: {said}");
}

#[test]
fn a_watched_list_says_once_that_no_api_answers() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "backend", "x", "--no-start"]);
    let mut watching = place
        .command()
        .args(["list", "--watch", "--json"])
        .args(["--mgmt-url", "http://localhost:1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    for pending in 1..=3 {
        // It looked once more for each.
        assert_eq!(next()[0]["pending"], pending);
        place.ok(["send", "backend", "more"]);
    }
    let pid = Pid::from_raw(watching.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = watching.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("no management API").count(), 1, "{said}");
}

#[test]
fn a_list_that_is_watched_on_a_terminal_stays_in_its_place() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "backend", "x", "--no-start"]);
    let mut command = place.command();
    command.args(["list", "--watch"]);
    let mut terminal = Terminal::run(command);
    let lists = || {
        let shown = terminal.shown();
        let lists = shown.split("\u{1b}[H\u{1b}[2J").skip(1);
        lists.map(str::to_owned).collect::<Vec<_>>()
    };
    let shows = |what: &str| lists().iter().any(|list| list.contains(what));
    wait_until(
        || shows("0          1        closed"),
        || format!("{:?}", lists()),
    );
    place.ok(["send", "backend", "y"]);
    wait_until(
        || shows("0          2        closed"),
        || format!("{:?}", lists()),
    );
    assert!(lists().iter().all(|list| list.matches("NAME").count() <= 1));
    let pid = Pid::from_raw(terminal.pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(terminal.ended(), 0);
}

#[test]
fn wait_returns_once_the_session_is_in_the_state() {
    let place = Place::new();
    let _server = Server::start(&place);
    let waiting = |until: &str| {
        let mut command = place.command();
        command.args(["wait", "backend", "--until", until]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let attached = waiting("attached");
    let idle = waiting("idle");
    let mut session = Wrapped::open_unattached(&place, "backend", &[]);
    for waited in [attached, idle] {
        let ended = waited.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(ended.stdout.starts_with(b"backend: "), "{ended:?}");
    }
    place
        .run([
            "wait",
            "backend",
            "--until",
            "needs-you",
            "--timeout",
            "10s",
        ])
        .fails(4, "`backend` is not in need of you: it is idle");
    let closed = waiting("closed");
    assert_eq!(session.leave(), 0);
    let ended = closed.wait_with_output().unwrap();
    assert_eq!(ended.stdout, b"backend: closed\n", "{ended:?}");
}

/// Attaches sessions of these names that answer every question one after another, each so late,
/// until the broker is gone.
fn attach_late_sessions(place: &Place, names: &[String], late: Duration) {
    let url = place.ok(["status", "--show-url"]);
    client::make_queues(place, names);
    // Declares the presence exchange.
    place.ok(["list"]);
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let names = names.to_vec();
    std::thread::spawn(move || client::run(answer_late(url, names, late, ready)));
    is_ready.recv().unwrap();
}

async fn answer_late(
    url: String,
    names: Vec<String>,
    late: Duration,
    ready: std::sync::mpsc::SyncSender<()>,
) {
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect_with_runtime(
        url.trim(),
        properties,
        cbroker::peer::runtime::current(),
    )
    .await
    .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let consume = |queue: &str| {
        let options = BasicConsumeOptions::default();
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default())
    };
    let mut attached = Vec::new();
    for name in &names {
        attached.push(consume(name).await.unwrap());
    }
    let options = QueueDeclareOptions::exclusive();
    let declared = channel.queue_declare("".into(), options, FieldTable::default());
    let queue = declared.await.unwrap().name().clone();
    let bound = channel.queue_bind(
        queue.clone(),
        "claudeBroker.presence".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    let mut questions = consume(queue.as_str()).await.unwrap();
    ready.send(()).unwrap();
    while let Some(Ok(question)) = questions.next().await {
        let Some(reply_to) = question.properties.reply_to() else {
            continue;
        };
        for name in &names {
            tokio::time::sleep(late).await;
            answer(&channel, reply_to.clone(), name).await;
        }
    }
}

async fn answer(channel: &lapin::Channel, reply_to: ShortString, name: &str) {
    let state = json!({"kind": "state", "name": name, "session": name, "agent": "late",
        "state": "paused", "held": 0, "pid": 1, "host": "h", "since": "2026-01-01T00:00:00Z"})
    .to_string();
    let published = channel.basic_publish(
        "".into(),
        reply_to,
        BasicPublishOptions::default(),
        state.as_bytes(),
        BasicProperties::default().with_user_id("cbroker".into()),
    );
    published.await.unwrap();
}

/// Sessions that answer one after another, each so late.
fn late_sessions(count: usize, late: Duration) -> (Place, Server) {
    let names: Vec<_> = (0..count).map(|number| format!("late{number}")).collect();
    let place = Place::new();
    let server = Server::start(&place);
    attach_late_sessions(&place, &names, late);
    (place, server)
}

/// `pause --all` and `resume --all` report each of these sessions.
fn are_all_told(place: &Place, count: usize) {
    for command in ["pause", "resume"] {
        let answered = place.json([command, "--all"]).remove(0);
        assert_eq!(answered.as_array().unwrap().len(), count, "{command}");
    }
}

/// So does `list`, which waits less long where a machine is busy.
fn are_all_listed(place: &Place, count: usize) {
    let answered = || {
        let rows = place.json(["list", "-q"]).remove(0);
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["state"] == "paused").count()
    };
    wait_until(|| answered() == count, || format!("{} rows", answered()));
}

#[test]
fn list_and_pause_wait_for_as_many_answers_as_sessions_are_attached() {
    // In all they take longer than one answer may.
    let (place, _server) = late_sessions(5, Duration::from_millis(200));
    are_all_listed(&place, 5);
    are_all_told(&place, 5);
}

#[test]
fn each_of_two_hundred_sessions_is_reported() {
    let (place, _server) = late_sessions(200, Duration::from_millis(10));
    are_all_listed(&place, 200);
    are_all_told(&place, 200);
}

#[test]
fn a_pause_of_all_waits_for_sessions_on_a_busy_machine() {
    let (place, _server) = late_sessions(3, Duration::from_millis(900));
    are_all_told(&place, 3);
}
