//! The life cycle of the container on a real Docker engine. The image contains the embedded broker
//! instead of LavinMQ, because the test is about the use of Docker.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::everywhere;
use crate::support::{Place, free_port, skip, wait_until};

const IMAGE: &str = "cbroker-test:latest";
const CONTAINER: &str = "cbroker-lavinmq";
const VOLUME: &str = "cbroker-data";
const PASSWORD: &str = "a-password-of-the-tests-only";

/// The container's name is one for the whole engine, so its tests run one after another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The engine with nothing of ours in it; cleared again at the end.
pub(crate) struct Engine {
    _alone: MutexGuard<'static, ()>,
}

impl Engine {
    pub(crate) fn find() -> Option<Self> {
        if std::env::var_os("CBROKER_TEST_DOCKER").is_none() {
            // CI starts an engine where the machine allows it, and says so where it does not.
            eprintln!("skipped: CBROKER_TEST_DOCKER names no Docker engine");
            return None;
        }
        if !docker(&["version"]).0 {
            skip("the Docker engine does not answer");
            return None;
        }
        let alone = ONE_AT_A_TIME.lock();
        let alone = alone.unwrap_or_else(PoisonError::into_inner);
        Self::clear();
        Some(Self { _alone: alone })
    }

    fn clear() {
        docker(&["rm", "--force", CONTAINER]);
        docker(&["volume", "rm", "--force", VOLUME]);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        Self::clear();
        docker(&["image", "rm", "--force", IMAGE]);
    }
}

pub(crate) fn docker(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// An image of the binary under test, what it is linked with, and the credentials of the place.
fn build_image(place: &Place) {
    let root = place.path().join("image");
    fs::create_dir_all(root.join("cb")).unwrap();
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::create_dir_all(place.home()).unwrap();
    let credentials = format!("version = 1\nuser = \"cbroker\"\npassword = \"{PASSWORD}\"\n");
    for folder in [place.home(), root.join("cb")] {
        fs::write(folder.join("credentials"), &credentials).unwrap();
    }
    let binary = env!("CARGO_BIN_EXE_cbroker");
    fs::copy(binary, root.join("cbroker")).unwrap();
    let linked = Command::new("ldd").arg(binary).output().unwrap();
    for path in String::from_utf8(linked.stdout)
        .unwrap()
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let inside = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
    let entry = concat!(
        r#"ENTRYPOINT ["/cbroker","serve","--bind","0.0.0.0","--insecure","#,
        r#""--data-dir","/var/lib/lavinmq"]"#
    );
    let archive = place.path().join("image.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status()
        .unwrap();
    assert!(packed.success());
    let imported = Command::new("docker")
        .args([
            "import",
            "--change",
            entry,
            "--change",
            "ENV CBROKER_HOME=/cb",
        ])
        .arg(&archive)
        .arg(IMAGE)
        .output()
        .unwrap();
    assert!(imported.status.success(), "{imported:?}");
}

fn start(place: &Place, ports: (&str, &str)) -> String {
    place.ok([
        "start",
        "--docker",
        "--image",
        IMAGE,
        "--port",
        ports.0,
        "--mgmt-port",
        ports.1,
    ])
}

#[test]
fn lavinmq_s_container_lives_as_the_embedded_broker_does() {
    let Some(_engine) = Engine::find() else {
        return;
    };
    let place = Place::with_docker();
    build_image(&place);
    let (port, management) = (free_port().to_string(), free_port().to_string());
    let ports = (port.as_str(), management.as_str());
    place
        .run([
            "start",
            "--docker",
            "--image",
            "cbroker.invalid/none:absent",
            "--port",
            &port,
            "--mgmt-port",
            &management,
        ])
        .fails(1, "cannot pull cbroker.invalid/none:absent")
        .hints("--image");

    assert!(
        start(&place, ports).starts_with(&format!("broker started at amqp://127.0.0.1:{port}"))
    );
    assert!(start(&place, ports).starts_with("broker already runs"));
    on_loopback_and_without_a_password();
    assert!(
        place.ok(["start"]).starts_with("broker already runs"),
        "the container is the local broker"
    );
    place
        .run(["start", "--port", "1"])
        .fails(1, &format!("the local broker is the container {CONTAINER}"))
        .hints("cbroker move --from docker");
    everywhere::a_working_day(&place, &str::to_owned);
    let status = place.json(["status"]).remove(0);
    assert_eq!(
        (&status["kind"], &status["reachable"]),
        (&"container".into(), &true.into()),
        "{status}"
    );
    place.ok(["send", "--to", "kept", "-m", "in the volume"]);
    wait_until(
        || place.ok(["logs"]).contains("listening"),
        || place.ok(["logs"]),
    );

    assert_eq!(place.ok(["stop"]), "broker stopped; its data stays\n");
    assert_eq!(place.ok(["stop"]), "no local broker runs\n");
    assert_eq!(place.run(["status"]).code, 3);
    start(&place, ports);
    assert_eq!(place.listed("kept").unwrap()["pending"], 1);
    place.ok(["restart"]);
    assert_eq!(place.listed("kept").unwrap()["pending"], 1);
    after_a_stop_the_container_starts_and_no_other_broker(&place, &port);
    a_queue_that_cannot_be_moved_is_reported(&place);

    place.ok(["nuke", "--yes"]);
    assert!(!docker(&["volume", "inspect", VOLUME]).0 && !docker(&["inspect", CONTAINER]).0);
    made_by_hand(&place, ports);
}

fn is_running() -> bool {
    docker(&["inspect", "--format", "{{.State.Running}}", CONTAINER]).1 == "true"
}

/// A command that needs a broker starts the one that has the messages.
fn after_a_stop_the_container_starts_and_no_other_broker(place: &Place, port: &str) {
    place.ok(["stop"]);
    place
        .run(["send", "kept", "x", "--no-start"])
        .fails(3, &format!("no broker answers at amqp://127.0.0.1:{port}"));
    assert!(!is_running());
    let sent = place.run(["send", "kept", "a second one"]);
    assert_eq!(sent.code, 0, "{sent:?}");
    assert!(
        sent.err
            .contains(&format!("started the container {CONTAINER}")),
        "{sent:?}"
    );
    assert!(is_running());
    assert_eq!(place.listed("kept").unwrap()["pending"], 2);
    assert!(
        !place.home().join("data").exists(),
        "no embedded broker ran"
    );
    place.ok(["stop"]);
    assert!(place.ok(["start"]).starts_with("broker started"));
    assert!(is_running());
}

/// The image has no management API, so the queues in it are not known. Nothing is lost by that.
fn a_queue_that_cannot_be_moved_is_reported(place: &Place) {
    place
        .run(["move", "--from", "docker", "--to", "docker"])
        .fails(
            2,
            "`docker` can be moved only from or to the embedded broker",
        );
    place
        .run(["move", "--to", "docker"])
        .fails(2, "the local broker is the container already");
    place
        .run(["move", "--from", "docker"])
        .fails(3, "not everything was moved out of the container")
        .hints("run the same command again");
    assert!(is_running());
    // Both brokers run; the way back is open.
    let sent = place
        .json(["send", "there", "by the embedded broker"])
        .remove(0);
    assert_eq!(sent["to"], "there");
    assert_eq!(place.json(["status"]).remove(0)["kind"], "embedded");
    place.ok(["move", "--to", "docker"]);
    assert_eq!(place.json(["status"]).remove(0)["kind"], "container");
    assert_eq!(place.listed("kept").unwrap()["pending"], 2);
    assert_eq!(place.listed("there").unwrap()["pending"], 1);
}

fn on_loopback_and_without_a_password() {
    let bindings = docker(&[
        "inspect",
        "--format",
        "{{json .HostConfig.PortBindings}}",
        CONTAINER,
    ])
    .1;
    assert_eq!(bindings.matches("127.0.0.1").count(), 2, "{bindings}");
    assert_eq!(bindings.matches("HostIp").count(), 2, "{bindings}");
    let all = docker(&["inspect", CONTAINER]).1;
    assert!(
        all.contains("LAVINMQ_DEFAULT_USER=cbroker") && all.contains("LAVINMQ_DEFAULT_PASSWORD="),
        "{all}"
    );
    assert!(!all.contains(PASSWORD));
}

/// By the name alone: with the stored user, and without cbroker.
fn made_by_hand(place: &Place, (port, management): (&str, &str)) {
    let (made, _) = docker(&[
        "run",
        "--env",
        "LAVINMQ_DEFAULT_USER=cbroker",
        "--detach",
        "--name",
        CONTAINER,
        "--volume",
        &format!("{VOLUME}:/var/lib/lavinmq"),
        "--publish",
        &format!("127.0.0.1:{port}:5672"),
        "--publish",
        &format!("127.0.0.1:{management}:15672"),
        IMAGE,
    ]);
    assert!(made);
    // Nothing was chosen before, so this is the local broker for every command.
    wait_until(
        || place.run(["list"]).code == 0,
        || format!("{:?}", place.run(["list"])),
    );
    place.ok(["send", "someone", "x"]);
    assert_eq!(place.listed("someone").unwrap()["pending"], 1);
    assert!(
        start(place, (port, management)).starts_with("broker already runs"),
        "it is recognised as the same one"
    );
    assert_eq!(place.ok(["stop"]), "broker stopped; its data stays\n");
}

/// As `docker compose -f compose/lavinmq.compose.yml up` makes it: it names no user, so guest is
/// the one. Guest signs in from loopback alone, so the broker in it has the host's network; the
/// ports that are published for it stand in what the engine says of it all the same.
#[test]
fn a_container_that_compose_made_is_used_as_guest() {
    let Some(_engine) = Engine::find() else {
        return;
    };
    let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("compose/lavinmq.compose.yml");
    let compose = fs::read_to_string(compose).unwrap();
    assert!(
        compose.contains(&format!("container_name: {CONTAINER}"))
            && compose.contains(&format!("name: {VOLUME}"))
            && !compose.contains("LAVINMQ_DEFAULT_USER")
    );
    build_image(&Place::new());
    let place = Place::with_docker();
    // A user of another broker of before, whom this one does not know.
    fs::create_dir_all(place.home()).unwrap();
    let credentials = "version = 1\nuser = \"cbroker\"\npassword = \"of another broker\"\n";
    fs::write(place.home().join("credentials"), credentials).unwrap();
    let (port, management) = (free_port().to_string(), free_port().to_string());
    let volume = format!("{VOLUME}:/var/lib/lavinmq");
    let published = [(&port, 5672), (&management, 15672)]
        .map(|(outside, inside)| format!("127.0.0.1:{outside}:{inside}"));
    let mut arguments = vec!["run", "--detach", "--name", CONTAINER, "--network", "host"];
    arguments.extend(["--volume", &volume]);
    for published in &published {
        arguments.extend(["--publish", published]);
    }
    arguments.extend([IMAGE, "--allow-guest", "--port", &port]);
    arguments.extend(["--mgmt-port", &management]);
    assert!(docker(&arguments).0);
    wait_until(
        || place.run(["list"]).code == 0,
        || format!("{:?}", place.run(["list"])),
    );
    let status = place.json(["status"]).remove(0);
    assert_eq!(
        (&status["kind"], &status["user"]),
        (&"container".into(), &"guest".into()),
        "{status}"
    );
    place.ok(["send", "someone", "x"]);
    assert_eq!(place.listed("someone").unwrap()["pending"], 1);
    assert_eq!(place.ok(["stop"]), "broker stopped; its data stays\n");
    assert!(place.ok(["start"]).starts_with("broker started"));
    assert_eq!(place.listed("someone").unwrap()["pending"], 1);
}
