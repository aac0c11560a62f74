//! `start --docker` with an engine that this test plays: what it is asked to make, and what a
//! person sees of a pull. `docker.rs` has the same with a real engine.

use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::background_broker::started;
use crate::fake_http;
use crate::support::{Place, Ran, Server, Terminal, free_port};

/// An engine without images and containers. Its container is a broker of this machine.
struct Engine<'a> {
    place: &'a Place,
    inside: Arc<Mutex<Inside>>,
    ports: [String; 2],
}

/// What the engine has.
struct Inside {
    /// The ports of the container's broker.
    ports: [u16; 2],
    /// What was pulled.
    pulled: Vec<String>,
    /// What the container was made of.
    made: Option<Value>,
    broker: Option<Server>,
    /// The broker's home, until the engine ends.
    home: Option<Place>,
}

/// The thread that answers never ends, so what it has is ended here.
impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let mut inside = self.inside();
        drop(inside.broker.take());
        drop(inside.home.take());
    }
}

impl<'a> Engine<'a> {
    /// An engine whose container's broker takes the logins of `home`.
    fn start(place: &'a Place, home: Place) -> Self {
        let ports = [free_port(), free_port()];
        let inside = Arc::new(Mutex::new(Inside {
            ports,
            pulled: Vec::new(),
            made: None,
            broker: None,
            home: Some(home),
        }));
        let served = Arc::clone(&inside);
        fake_http::on_socket(&place.path().join("engine"), move |request, body| {
            served.lock().unwrap().answer(request, body)
        });
        Self {
            place,
            inside,
            ports: ports.map(|port| port.to_string()),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    /// A command that sees the engine.
    fn command(&self, arguments: &[&str]) -> Command {
        let socket = self.place.path().join("engine");
        let mut command = self.place.command();
        command.args(arguments);
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().unwrap())
    }

    /// `start --docker` with these options.
    fn make(&self, more: &[&str]) -> Command {
        let [port, management] = &self.ports;
        let start = [
            "start",
            "--docker",
            "--port",
            port,
            "--mgmt-port",
            management,
        ];
        self.command(&[&start[..], more].concat())
    }
}

impl Inside {
    fn answer(&mut self, request: &str, body: &[u8]) -> (u16, String) {
        let (method, path) = request.split_once(' ').unwrap();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let missing = || (404, json!({ "message": "no such thing" }).to_string());
        match (method, path) {
            ("POST", path) if path.ends_with("/images/create") => {
                self.pulled.push(query.to_owned());
                (200, pull())
            }
            ("POST", path) if path.ends_with("/containers/create") => {
                self.made = Some(serde_json::from_slice(body).unwrap());
                (201, json!({ "Id": "1", "Warnings": [] }).to_string())
            }
            ("POST", path) if path.ends_with("/start") => {
                let home = self.home.as_ref().unwrap();
                let [port, management] = self.ports;
                self.broker = Some(Server::start_with(
                    home,
                    port,
                    management,
                    &["--allow-guest"],
                ));
                (204, String::new())
            }
            ("GET", path) if path.contains("/containers/") => {
                self.made.as_ref().map_or_else(missing, |made| {
                    let described = json!({
                        "Id": "1", "State": { "Running": self.broker.is_some() },
                        "Config": { "Image": made["Image"], "Env": made["Env"] },
                        "HostConfig": { "PortBindings": made["HostConfig"]["PortBindings"] },
                    });
                    (200, described.to_string())
                })
            }
            _ => missing(),
        }
    }
}

/// The steps of a pull, as an engine tells them: with one layer that is known from the start, and
/// one that comes later.
fn pull() -> String {
    let step = |id: &str, current: u32, total: u32| {
        let detail = json!({ "current": current, "total": total });
        let step = json!({ "status": "Downloading", "id": id, "progressDetail": detail });
        format!("{step}\r\n")
    };
    [
        step("first", 5_000_000, 15_000_000),
        step("second", 5_000_000, 5_000_000),
        step("first", 15_000_000, 15_000_000),
    ]
    .concat()
}

#[test]
fn a_container_for_guest_names_no_user_and_its_pull_is_shown_on_one_line() {
    let place = Place::new();
    let engine = Engine::start(&place, Place::new());
    let mut command = engine.make(&["--guest"]);
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::run(command);
    assert_eq!(terminal.ended(), 0, "{}", terminal.shown());
    terminal.wait_for("broker started");
    let shown = terminal.shown();
    let pulling = shown.split("broker started").next().unwrap();
    // Each step replaces the one before, and the line is gone at the end.
    let steps: Vec<&str> = pulling.split("\r\u{1b}[K").collect();
    let [first, steps @ .., last] = steps.as_slice() else {
        panic!("{pulling:?}");
    };
    assert_eq!((*first, *last), ("", ""), "{pulling:?}");
    let bar = |done: usize, total: usize, filled: usize| {
        let bar = "#".repeat(filled) + &" ".repeat(30 - filled);
        format!("pulling cloudamqp/lavinmq:latest [{bar}] {done} of {total} MB")
    };
    let expected = [bar(5, 15, 10), bar(10, 20, 15), bar(20, 20, 30)];
    assert_eq!(steps, expected, "{pulling:?}");

    assert_eq!(engine.inside().pulled.len(), 1);
    let made = engine.inside().made.clone().unwrap();
    assert_eq!(made["Image"], "cloudamqp/lavinmq:latest");
    assert!(!made.to_string().contains("LAVINMQ_DEFAULT"), "{made}");
    let status: Value = serde_json::from_str(&engine.run(&["status", "--json"]).out).unwrap();
    assert_eq!(
        (&status["kind"], &status["user"]),
        (&"container".into(), &"guest".into()),
        "{status}"
    );
    let sent = engine.run(&["send", "someone", "x"]);
    assert_eq!(sent.code, 0, "{sent:?}");
    let listed: Value = serde_json::from_str(&engine.run(&["list", "--json"]).out).unwrap();
    assert_eq!(listed[0]["pending"], 1, "{listed}");
}

#[test]
fn a_container_without_guest_has_the_stored_user_and_no_password_in_clear() {
    let place = Place::new();
    let inside = Place::new();
    let [here, there] = [&place, &inside].map(Place::home);
    let credentials = "version = 1\nuser = \"cbroker\"\npassword = \"of-the-tests-only\"\n";
    for home in [here, there] {
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("credentials"), credentials).unwrap();
    }
    let engine = Engine::start(&place, inside);
    let started = Ran::of(&engine.make(&[]).output().unwrap());
    assert_eq!(started.code, 0, "{started:?}");
    // Nobody watches: no bar, which would fill a log.
    assert!(!started.err.contains('#'), "{started:?}");
    let made = engine.inside().made.clone().unwrap().to_string();
    assert!(made.contains("LAVINMQ_DEFAULT_USER=cbroker"), "{made}");
    assert!(!made.contains("of-the-tests-only"), "{made}");
    let sent = engine.run(&["send", "someone", "x"]);
    assert_eq!(sent.code, 0, "{sent:?}");
}

#[test]
fn a_move_out_of_a_container_that_there_is_not_names_no_command_that_deletes() {
    // It said that `cbroker nuke --yes` deletes its data: that of the embedded broker.
    let place = Place::new();
    let _broker = started(&place);
    place.ok(["send", "backend", "kept"]);
    let failure = "the broker in the container cbroker-lavinmq cannot be started";
    let without_engine = place.run(["move", "--from", "docker"]);
    let engine = Engine::start(&place, Place::new());
    let without_container = engine.run(&["move", "--from", "docker"]);
    for ran in [without_engine, without_container] {
        ran.fails(3, failure).hints("docker ps -a");
        assert!(
            !ran.err.contains("nuke") && !ran.err.contains("again"),
            "{ran:?}"
        );
    }
}
