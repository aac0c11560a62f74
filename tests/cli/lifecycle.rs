//! `start`, `stop`, `restart`, `status`, `logs`, `ui`, `nuke`, and the automatic start.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::client;
use crate::support::{Place, Ran, Server, Terminal, Wrapped, free_port, wait_until};

/// A place whose background broker is stopped with it.
pub(crate) struct Own(pub(crate) Place);

impl Own {
    pub(crate) fn new() -> Self {
        Self(Place::new())
    }

    pub(crate) fn start(&self) -> Ran {
        self.0.run([
            "start",
            "--port",
            &free_port().to_string(),
            "--mgmt-port",
            &free_port().to_string(),
        ])
    }

    fn record(&self) -> Value {
        let text = fs::read(self.0.home().join("broker.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.command().arg("stop").stdout(Stdio::null()).status();
    }
}

#[test]
fn the_broker_runs_in_the_background_until_it_is_stopped_and_keeps_what_waits() {
    let own = Own::new();
    let place = &own.0;
    let started = own.start();
    assert_eq!(started.code, 0, "{started:?}");
    assert!(
        started
            .out
            .starts_with("broker started at amqp://127.0.0.1:"),
        "{started:?}"
    );
    let first = own.record();
    let api = u16::try_from(first["management_port"].as_u64().unwrap()).unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, api)).expect("the API is open when it has started");
    let again = place.ok(["start"]);
    assert!(again.starts_with("broker already runs at "), "{again}");
    assert_eq!(own.record(), first, "a second start changes nothing");
    place
        .run(["start", "--port", "1"])
        .fails(1, "the local broker already runs, on port")
        .hints("cbroker stop");

    place.ok(["send", "--to", "kept", "-m", "over a stop"]);
    assert_eq!(place.ok(["stop"]), "broker stopped; its data stays\n");
    assert_eq!(place.ok(["stop"]), "no local broker runs\n");
    assert_eq!(place.run(["status"]).code, 3);
    assert_eq!(place.json(["stop"]), [json!({ "was_running": false })]);
    // What was chosen is remembered: by commands that find nothing there, and by the next start.
    let at = format!("no broker answers at amqp://127.0.0.1:{}", first["port"]);
    place
        .run(["send", "--to", "kept", "-m", "x", "--no-start"])
        .fails(3, &at);
    place.ok(["start"]);
    for port in ["port", "management_port"] {
        assert_eq!(own.record()[port], first[port], "{port}");
    }
    assert_eq!(
        place.json(["tail", "kept", "--no-ack"])[0]["message"],
        "over a stop"
    );

    let before = own.record();
    place.ok(["restart"]);
    let after = own.record();
    assert_ne!(after["pid"], before["pid"]);
    assert_eq!(after["port"], before["port"]);
    assert_eq!(place.json(["tail", "kept", "--no-ack"]).len(), 1);

    place
        .run(["nuke"])
        .fails(2, "deleting all sessions' messages cannot be undone")
        .hints("--yes");
    place.ok(["nuke", "--yes"]);
    assert_eq!(place.run(["status"]).code, 3);
    own.start();
    assert!(place.listed("kept").is_none(), "nothing survives nuke");
}

#[test]
fn starts_at_the_same_time_end_with_one_broker() {
    let own = Own::new();
    let (port, management) = (free_port().to_string(), free_port().to_string());
    let start = || {
        own.0
            .command()
            .args(["start", "--port", &port, "--mgmt-port", &management])
            .output()
            .unwrap()
    };
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    let said: Vec<_> = outputs
        .iter()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .collect();
    assert!(
        outputs.iter().all(|output| output.status.success()),
        "{outputs:?}"
    );
    assert_eq!(
        said.iter()
            .filter(|line| line.starts_with("broker started"))
            .count(),
        1,
        "{said:?}"
    );
    assert_eq!(
        said.iter()
            .filter(|line| line.starts_with("broker already runs"))
            .count(),
        2,
        "{said:?}"
    );
}

#[test]
fn the_record_of_a_killed_broker_is_recognised_as_stale() {
    let own = Own::new();
    own.start();
    let pid = i32::try_from(own.record()["pid"].as_u64().unwrap()).unwrap();
    own.0.ok(["send", "--to", "kept", "-m", "over a kill"]);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_until(
        || own.0.run(["status"]).code == 3,
        || own.0.run(["status"]).out,
    );
    // The same number may belong to another process by now: ours, say. It must be left alone.
    let mut record = own.record();
    record["pid"] = json!(std::process::id());
    fs::write(own.0.home().join("broker.json"), record.to_string()).unwrap();
    assert_eq!(own.0.ok(["stop"]), "no local broker runs\n");
    let started = own.start();
    assert!(started.out.starts_with("broker started"), "{started:?}");
    assert_eq!(
        own.0.json(["tail", "kept", "--no-ack"])[0]["message"],
        "over a kill"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_broker_that_a_session_started_keeps_nothing_of_it() {
    // It kept the session's name and login for as long as it ran.
    let own = Own::new();
    let ports = [free_port().to_string(), free_port().to_string()];
    let mut start = own.0.command();
    start.args(["start", "--port", &ports[0], "--mgmt-port", &ports[1]]);
    start.envs([
        ("CBROKER_NAME", "agent"),
        ("CBROKER_SESSION", "01SESSION"),
        ("CBROKER_MGMT_PASS", "hush"),
    ]);
    assert!(start.status().unwrap().success());
    let environment = format!("/proc/{}/environ", own.record()["pid"]);
    let environment = String::from_utf8(fs::read(environment).unwrap()).unwrap();
    assert!(environment.contains("CBROKER_HOME="), "{environment}");
    for kept in ["CBROKER_NAME", "CBROKER_SESSION", "hush"] {
        assert!(!environment.contains(kept), "{kept} in {environment}");
    }
}

#[test]
fn the_broker_outlives_the_terminal_that_started_it() {
    let own = Own::new();
    let mut command = own.0.command();
    command.args([
        "start",
        "--port",
        &free_port().to_string(),
        "--mgmt-port",
        &free_port().to_string(),
    ]);
    let mut terminal = Terminal::run(command);
    assert_eq!(terminal.ended(), 0, "{}", terminal.shown());
    drop(terminal);
    let pid = i32::try_from(own.record()["pid"].as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
    own.0.ok(["send", "--to", "a", "-m", "still there"]);
    let session = rustix::process::getsid(Pid::from_raw(pid)).unwrap();
    assert_eq!(
        session.as_raw_pid(),
        pid,
        "it leads a session of its own, without a terminal"
    );
}

#[test]
fn a_port_in_use_is_named_with_its_holder() {
    let own = Own::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let refused = own.0.run(["start", "--port", &port]);
    refused
        .fails(1, &format!("port {port} is in use"))
        .hints("--port");
    if cfg!(target_os = "linux") {
        assert!(
            refused
                .err
                .contains(&format!("(process {} of", std::process::id())),
            "{refused:?}"
        );
    }
    own.0
        .run([
            "start",
            "--port",
            &free_port().to_string(),
            "--mgmt-port",
            &port,
        ])
        .fails(1, &format!("port {port} is in use"))
        .hints("--mgmt-port");
}

#[test]
fn the_log_is_shown_and_followed() {
    let own = Own::new();
    own.0
        .run(["logs"])
        .fails(1, "there is no log yet")
        .hints("cbroker start");
    own.start();
    own.0.ok(["send", "--to", "a", "-m", "x"]);
    wait_until(
        || own.0.ok(["logs"]).contains("listening at amqp://"),
        || own.0.ok(["logs"]),
    );
    assert_eq!(own.0.ok(["logs", "-n", "1"]).lines().count(), 1);
    // Clients come and go without a line.
    assert_eq!(own.0.ok(["logs"]).lines().count(), 1);
    let before = own.0.ok(["logs"]);
    for _ in 0..3 {
        own.0.ok(["send", "--to", "a", "-m", "x"]);
        own.0.ok(["list"]);
    }
    assert_eq!(own.0.ok(["logs"]), before);
    // Neither does one that says nothing, nor one that goes without a goodbye.
    let port = client::endpoint(&own.0).address.port;
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
    let mut tailing = own.0.command();
    tailing.args(["tail", "a"]).stdout(Stdio::piped());
    let mut tailing = tailing.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(tailing.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    tailing.kill().unwrap();
    tailing.wait().unwrap();
    own.0.ok(["send", "--to", "a", "-m", "x"]);
    assert_eq!(own.0.ok(["logs"]), before);
    let mut command = own.0.command();
    command
        .args(["logs", "-f", "-n", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut following = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(following.stderr.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert!(said.contains("following"), "{said}");
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    // A rotation on the way: the name leads to another file.
    let log = own.0.home().join("logs/broker.log");
    fs::rename(&log, own.0.home().join("logs/broker.log.1")).unwrap();
    fs::write(&log, "after the rotation\n").unwrap();
    assert!(lines.any(|line| line.unwrap() == "after the rotation"));
    kill_process(
        Pid::from_raw(i32::try_from(following.id()).unwrap()).unwrap(),
        Signal::INT,
    )
    .unwrap();
    assert_eq!(following.wait().unwrap().code(), Some(0));
}

#[test]
fn the_log_of_a_session_tells_what_it_was_given() {
    let place = Place::new();
    let _server = Server::start(&place);
    let session = Wrapped::open(&place, "myBackend", &[]);
    let sent = place.json(["send", "my-backend", "look here"]).remove(0);
    session.wait_for_submission("look here");
    let id = sent["id"].as_str().unwrap();
    let log = || place.ok(["logs", "--session", "my-backend"]);
    wait_until(|| log().contains(id), log);
    place
        .run(["logs", "--session", "another"])
        .fails(1, "there is no log of `another`")
        .hints("cbroker list");
}

#[test]
fn the_page_is_printed_where_no_browser_can_be_opened() {
    let own = Own::new();
    own.start();
    let port = own.record()["management_port"].clone();
    let ran = own.0.run(["ui"]);
    assert!(
        ran.code == 0 && ran.out.contains(&format!("http://127.0.0.1:{port}")),
        "{ran:?}"
    );
}

#[test]
fn send_starts_the_broker_by_itself_unless_it_must_not() {
    let place = Place::new();
    let server = Server::start(&place);
    let port = server.port;
    drop(server);
    // The record of the broker that was killed names its port: nothing answers there now.
    place
        .run(["send", "--to", "a", "-m", "x", "--no-start"])
        .fails(3, &format!("no broker answers at amqp://127.0.0.1:{port}"));
    fs::write(place.home().join("config.toml"), "autostart = false\n").unwrap();
    place
        .run(["send", "--to", "a", "-m", "x"])
        .fails(3, "no broker answers");
    fs::remove_file(place.home().join("config.toml")).unwrap();
    place.run(["list"]).fails(3, "no broker answers");
    let own = Own(place);
    let sent = own.0.run(["send", "--to", "a", "-m", "x"]);
    assert_eq!(sent.code, 0, "{sent:?}");
    // Where it was: sessions wait for it at that port.
    assert!(
        sent.err
            .contains(&format!("no broker answered; started one on port {port}")),
        "{sent:?}"
    );
    own.0.ok(["send", "--to", "a", "-m", "y", "--no-start"]);
}

#[test]
fn a_wrap_and_a_question_start_the_broker_too() {
    for command in [
        vec!["--name", "a", "run", "--", "true"],
        vec!["ask", "--to", "a", "-m", "x", "--timeout", "1"],
    ] {
        let place = Place::new();
        drop(Server::start(&place));
        let own = Own(place);
        let ran = own.0.run(&command);
        assert!(ran.err.contains("started one on port"), "{ran:?}");
        assert!(own.0.listed("a").is_some(), "its queue is there");
    }
}

#[test]
fn a_restart_keeps_the_options_of_a_broker_in_the_foreground() {
    let place = Place::new();
    let folder = place.path().join("elsewhere");
    let more = ["--data-dir", folder.to_str().unwrap(), "--allow-guest"];
    let server = Server::start_with(&place, 0, 0, &more);
    place.ok(["send", "--to", "kept", "-m", "x"]);
    let own = Own(place);
    own.0.ok(["restart"]);
    assert_eq!(own.record()["port"], server.port);
    assert_eq!(own.0.listed("kept").unwrap()["pending"], 1);
    let url = format!("amqp://guest:guest@localhost:{}", server.port);
    own.0.ok(["list", "--url", &url]);
}
