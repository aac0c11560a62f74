//! `move` between the container and the embedded broker, with a container that has a whole
//! management API: RabbitMQ and its plugin, from this machine's Debian packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use cbroker::peer::DeclareArguments;

use crate::client;
use crate::docker::{Engine, docker};
use crate::support::{Place, free_port, skip};

const IMAGE: &str = "cbroker-test-rabbitmq:latest";
const CONTAINER: &str = "cbroker-lavinmq";
const TTL_MS: u64 = 7_200_000;
/// What waits at which session.
const WAITING: [(&str, u32); 3] = [("backend", 500), ("docs", 100), ("tests", 30)];

/// Everything that RabbitMQ's package depends on, and what its scripts call.
const PACKAGES: &str = "apt-cache depends --recurse --installed --no-recommends --no-suggests \
    --no-conflicts --no-breaks --no-replaces --no-enhances \
    rabbitmq-server dash coreutils sed grep mawk findutils procps hostname libc-bin \
    | grep '^[a-z0-9]' | cut -d: -f1 | sort -u";

/// Takes user and password as LavinMQ's image does, and keeps its data where that does.
const ENTRY: &str = r#"#!/bin/sh
set -eu
mkdir -p /tmp/rabbit /var/lib/lavinmq
cat >/tmp/rabbit/definitions.json <<END
{"users": [{"name": "$LAVINMQ_DEFAULT_USER", "password_hash": "$LAVINMQ_DEFAULT_PASSWORD",
  "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "administrator"}],
 "vhosts": [{"name": "/"}],
 "permissions": [{"user": "$LAVINMQ_DEFAULT_USER", "vhost": "/", "configure": ".*",
  "write": ".*", "read": ".*"}]}
END
cat >/tmp/rabbit/rabbitmq.conf <<END
load_definitions = /tmp/rabbit/definitions.json
listeners.tcp.default = 0.0.0.0:5672
management.tcp.ip = 0.0.0.0
management.tcp.port = 15672
loopback_users = none
END
echo '[rabbitmq_management].' >/tmp/rabbit/enabled_plugins
export HOME=/var/lib/lavinmq LANG=C.UTF-8 RABBITMQ_NODENAME=rabbit@localhost
export RABBITMQ_MNESIA_BASE=/var/lib/lavinmq RABBITMQ_LOG_BASE=/tmp/rabbit
export RABBITMQ_CONFIG_FILE=/tmp/rabbit/rabbitmq.conf
export RABBITMQ_ENABLED_PLUGINS_FILE=/tmp/rabbit/enabled_plugins
exec /usr/lib/rabbitmq/bin/rabbitmq-server
"#;

/// An image of RabbitMQ's packages as they are installed here; false where they are not.
fn build_image(place: &Place) -> bool {
    if !Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server").exists() {
        skip("rabbitmq-server is not installed");
        return false;
    }
    let entry = place.path().join("entry");
    fs::write(&entry, ENTRY).unwrap();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = place.path().display();
    // Names of folders would bring everything in them. /bin and the like are links.
    let script = format!(
        "set -eu
         {{ dpkg -L $({PACKAGES}) 2>/dev/null
            printf '%s\\n' /etc/passwd /etc/group /bin /sbin /lib /lib64; }} |
             sed -E 's#^/(bin|sbin|lib|lib64)/#/usr/\\1/#' | while read -r path; do
                 [ -d \"$path\" ] && [ ! -L \"$path\" ] || [ ! -e \"$path\" ] || echo \"$path\"
             done | sort -u >{folder}/files
         mkdir -p {folder}/empty/tmp && chmod 1777 {folder}/empty/tmp
         tar -cf {folder}/image.tar --no-recursion -T {folder}/files 2>/dev/null
         tar -rf {folder}/image.tar -C {folder} entry
         tar -rf {folder}/image.tar -C {folder}/empty tmp"
    );
    let packed = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(packed.success());
    let archive = place.path().join("image.tar");
    let (imported, said) = docker(&[
        "import",
        "--change",
        r#"ENTRYPOINT ["/entry"]"#,
        archive.to_str().unwrap(),
        IMAGE,
    ]);
    assert!(imported, "{said}");
    fs::remove_file(archive).unwrap();
    true
}

/// What each session's queue has, in order.
fn waits_whole(place: &Place) {
    for (name, count) in WAITING {
        let waiting = place.json(["tail", name, "--no-ack"]);
        let texts: Vec<_> = waiting.iter().map(|one| one["message"].clone()).collect();
        let sent: Vec<_> = (0..count)
            .map(|number| format!("{name} {number}"))
            .collect();
        assert_eq!(texts, sent, "{name}");
        let declared = Some(DeclareArguments::of_session(Some(TTL_MS)));
        assert_eq!(client::arguments(place, name), declared, "{name}");
    }
}

fn moves_all(place: &Place, arguments: &[&str]) {
    let said = place.run(arguments);
    assert_eq!(said.code, 0, "{said:?}");
    for (name, count) in WAITING {
        assert!(
            said.out.contains(&format!("{name}: {count} messages\n")),
            "{said:?}"
        );
    }
    assert!(
        said.out.contains("moved 3 queues with 630 messages"),
        "{said:?}"
    );
}

#[test]
fn six_hundred_and_thirty_messages_move_out_of_a_container_and_back() {
    let Some(_engine) = Engine::find() else {
        return;
    };
    let place = Place::with_docker();
    if !build_image(&place) {
        return;
    }
    let (port, management) = (free_port().to_string(), free_port().to_string());
    let start = ["start", "--docker", "--image", IMAGE];
    let ports = ["--port", &port, "--mgmt-port", &management];
    place.ok(start.into_iter().chain(ports));
    for (name, count) in WAITING {
        client::make_queue_with(&place, name, TTL_MS);
        let texts = (0..count).map(|number| format!("{name} {number}"));
        client::publish(&place, name, texts);
    }
    waits_whole(&place);
    // Also from a container that has to be started for it, whose API opens after AMQP.
    place.ok(["stop"]);
    moves_all(&place, &["move", "--from", "docker"]);
    assert_eq!(place.json(["status"]).remove(0)["kind"], "embedded");
    let running = docker(&["inspect", "--format", "{{.State.Running}}", CONTAINER]).1;
    assert_eq!(running, "false");
    waits_whole(&place);

    moves_all(&place, &["move", "--to", "docker"]);
    assert_eq!(place.json(["status"]).remove(0)["kind"], "container");
    waits_whole(&place);
    place.ok(["nuke", "--yes"]);
    docker(&["image", "rm", "--force", IMAGE]);
}
