//! `move --to docker` where the engine is a fake one, and the container a broker on this machine.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cbroker::name::SessionName;
use cbroker::peer::Peer;
use serde_json::json;

use crate::background_broker::started;
use crate::client;
use crate::fake_http;
use crate::support::{Place, Rabbit, Ran, Server, free_port, wait_until};

/// A place whose Docker engine knows one container, which runs the broker at these ports until it
/// is stopped.
struct FakeEngine<'a> {
    place: &'a Place,
    is_stopped: Arc<AtomicBool>,
}

impl<'a> FakeEngine<'a> {
    fn start(place: &'a Place, (amqp, management): (u16, u16), env: &[&str]) -> Self {
        let bound = |port: u16| json!([{ "HostIp": "127.0.0.1", "HostPort": port.to_string() }]);
        let ports = json!({ "5672/tcp": bound(amqp), "15672/tcp": bound(management) });
        let env = json!(env);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        fake_http::on_socket(&place.path().join("engine"), move |request, _| {
            if request.contains("/stop") {
                stopped.store(true, Ordering::SeqCst);
                return (204, String::new());
            }
            let runs = !stopped.load(Ordering::SeqCst);
            let told = json!({ "State": { "Running": runs },
                "Config": { "Image": "fake", "Env": env },
                "HostConfig": { "PortBindings": ports } });
            (200, told.to_string())
        });
        Self { place, is_stopped }
    }

    /// A command that sees the engine.
    fn command(&self, arguments: &[&str]) -> Command {
        let socket = self.place.path().join("engine");
        let mut command = self.place.command();
        command.args(arguments);
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        command
    }
}

/// A broker that takes the login of this place.
fn beside(place: &Place) -> (Place, Server) {
    let there = Place::new();
    std::fs::create_dir_all(there.home()).unwrap();
    let [login, copy] = [place, &there].map(|place| place.home().join("credentials"));
    std::fs::copy(login, copy).unwrap();
    let server = Server::start_with(&there, free_port(), free_port(), &[]);
    (there, server)
}

/// Starts the move, and publishes while it is under way: once the first message is at the target.
fn publish_meanwhile(
    (here, there): (&Place, &Place),
    (to, count): (&str, usize),
    moving: &mut Command,
) -> Child {
    let to = SessionName::new(to).unwrap();
    let (here, there) = (client::endpoint(here), client::endpoint(there));
    client::run(async {
        // The move waits for no login.
        let mut publisher = Peer::connect(&here, "test").await.unwrap();
        let mut watcher = Peer::connect(&there, "test").await.unwrap();
        let moving = moving.spawn().unwrap();
        loop {
            let queue = watcher.queue_counts(&to).await.unwrap();
            if queue.is_some_and(|queue| queue.messages > 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let texts = (0..count).map(|number| format!("late {number}"));
        client::publish_by(&mut publisher, &to, texts).await;
        publisher.close().await;
        watcher.close().await;
        moving
    })
}

#[test]
fn messages_sent_during_a_move_into_a_container_move_too() {
    let place = Place::new();
    let _broker = started(&place);
    let (there, server) = beside(&place);
    let ports = (server.port, server.management_port.unwrap());
    let engine = FakeEngine::start(&place, ports, &["LAVINMQ_DEFAULT_USER=cbroker"]);
    for name in ["backend", "zulu"] {
        client::make_queue(&place, name);
    }
    client::publish(
        &place,
        "backend",
        (0..900).map(|number| format!("m{number}")),
    );
    let mut moving = engine.command(&["move", "--to", "docker"]);
    let moving = moving.stdout(Stdio::piped()).stderr(Stdio::piped());
    let moving = publish_meanwhile((&place, &there), ("backend", 20), moving);
    let ran = Ran::of(&moving.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(there.listed("backend").unwrap()["pending"], 920, "{ran:?}");
    assert!(
        ran.out.contains("moved 2 queues with 920 messages"),
        "{ran:?}"
    );
    let status = engine.command(&["status", "--json"]).output().unwrap();
    assert!(
        Ran::of(&status).out.contains(r#""kind":"container""#),
        "{status:?}"
    );
    assert!(!engine.is_stopped.load(Ordering::SeqCst));
}

#[test]
fn a_queue_that_stays_keeps_the_container_from_being_stopped() {
    let place = Place::new();
    let _broker = started(&place);
    let (there, server) = beside(&place);
    let ports = (server.port, server.management_port.unwrap());
    let engine = FakeEngine::start(&place, ports, &["LAVINMQ_DEFAULT_USER=cbroker"]);
    client::make_queue(&there, "backend");
    client::publish(&there, "backend", (0..3).map(|number| format!("m{number}")));
    let user = json!({ "password": "pw", "tags": "" }).to_string();
    server.ask(&there, "PUT", "/api/users/bob", &user);
    let rights = json!({ "configure": "^$", "write": "^$", "read": "^backend$" });
    let path = "/api/permissions/%2f/bob";
    server.ask(&there, "PUT", path, &rights.to_string());
    let from_docker = || {
        let mut command = engine.command(&["move", "--from", "docker"]);
        Ran::of(&command.output().unwrap())
    };
    let url = format!("amqp://bob:pw@127.0.0.1:{}", server.port);
    client::run(async {
        let (_connection, channel) = client::connected(&url).await;
        let _consumer = client::consume_one(&channel, "backend").await;
        let ran = from_docker();
        ran.fails(1, "not everything was moved out of the container");
        assert!(
            ran.err.contains("cbroker delete backend --yes --force"),
            "{ran:?}"
        );
        assert!(!engine.is_stopped.load(Ordering::SeqCst), "{ran:?}");
    });
    assert_eq!(place.listed("backend").unwrap()["pending"], 2);
    wait_until(
        || client::consumers(&there, "backend") == Some(0),
        || "it still consumes".into(),
    );
    let ran = from_docker();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(engine.is_stopped.load(Ordering::SeqCst), "{ran:?}");
    assert_eq!(place.listed("backend").unwrap()["pending"], 3);
}

#[test]
fn a_queue_that_was_moved_is_not_counted_among_those_that_stay() {
    let place = Place::new();
    let _broker = started(&place);
    let (there, server) = beside(&place);
    let ports = (server.port, server.management_port.unwrap());
    let engine = FakeEngine::start(&place, ports, &["LAVINMQ_DEFAULT_USER=cbroker"]);
    for queue in ["backend", "empty"] {
        client::make_queue(&there, queue);
    }
    client::publish(&there, "backend", ["m".to_owned()].into_iter());
    let user = json!({ "password": "pw", "tags": "" }).to_string();
    server.ask(&there, "PUT", "/api/users/bob", &user);
    let rights = json!({ "configure": "^$", "write": "^$", "read": "^backend$" });
    let path = "/api/permissions/%2f/bob";
    server.ask(&there, "PUT", path, &rights.to_string());
    let url = format!("amqp://bob:pw@127.0.0.1:{}", server.port);
    client::run(async {
        let (_connection, channel) = client::connected(&url).await;
        // It has the one message, so that no message is moved.
        let _consumer = client::consume_one(&channel, "backend").await;
        let mut command = engine.command(&["move", "--from", "docker"]);
        let ran = Ran::of(&command.output().unwrap());
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("1 queue stays"), "{ran:?}");
    });
    assert!(there.listed("empty").is_none());
}

#[test]
fn a_policy_at_the_target_drops_no_message() {
    let Some(rabbit) = Rabbit::find() else { return };
    let own = ulid::Ulid::generate().to_string().to_lowercase();
    let (free, tight) = (format!("free{own}"), format!("tight{own}"));
    let policy = json!({ "pattern": format!("^{tight}$"), "definition": { "max-length": 3 } });
    rabbit.put(&format!("policies/%2f/{own}"), &policy.to_string());
    // The queue is made by the move, and RabbitMQ's API tells of its policy seconds later.
    let there = Place::at(&rabbit.url, Some(&rabbit.management));
    let place = Place::new();
    let _broker = started(&place);
    let port = |url: &str| url.rsplit(':').next().unwrap().parse().unwrap();
    let ports = (port(&rabbit.url), port(&rabbit.management));
    let engine = FakeEngine::start(&place, ports, &[]);
    for queue in [&free, &tight] {
        client::make_queue(&place, queue);
        client::publish(&place, queue, (0..20).map(|number| format!("m{number}")));
    }
    let moved = engine
        .command(&["move", "--to", "docker"])
        .output()
        .unwrap();
    let ran = Ran::of(&moved);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.err.contains("at the target is full"), "{ran:?}");
    assert_eq!(place.listed(&tight).unwrap()["pending"], 17);
    assert_eq!(there.listed(&free).unwrap()["pending"], 20);
    assert_eq!(there.listed(&tight).unwrap()["pending"], 3);
    assert_eq!(place.json(["status"]).remove(0)["kind"], "embedded");
    for queue in [&free, &tight] {
        there.run(["delete", queue, "--yes"]);
    }
}
