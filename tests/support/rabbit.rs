//! A RabbitMQ with its management plugin: the one that the environment names, or one on free ports.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::{Request, free_port, outside_is_required, skip, wait_until};

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Its addresses.
#[derive(Debug, Clone)]
pub(crate) struct Rabbit {
    pub(crate) url: String,
    pub(crate) management: String,
}

/// The RabbitMQ that is started once for a test binary. Statics are not dropped, so a keeper
/// process ends it when the pipe to the test process breaks.
struct Own {
    rabbit: Rabbit,
    _keeper: Child,
}

static OWN: OnceLock<Own> = OnceLock::new();

/// Ends the node and its name server, and removes the folder.
const KEEPER: &str = r#"
"$1" </dev/null >"$2/out" 2>/dev/null &
read -r _
[ ! -s "$2/pid" ] || kill "$(cat "$2/pid")"
wait
epmd -port "$ERL_EPMD_PORT" -kill >/dev/null 2>&1
rm -rf "$2"
"#;

impl Rabbit {
    /// Returns the RabbitMQ, or skips the test. All tests share it, so each uses names of its own.
    pub(crate) fn find() -> Option<Self> {
        if let Ok(url) = std::env::var("CBROKER_TEST_RABBITMQ") {
            let management = std::env::var("CBROKER_TEST_RABBITMQ_MGMT")
                .unwrap_or_else(|_| "http://localhost:15672".into());
            return Some(Self { url, management });
        }
        if !outside_is_required() {
            skip("CBROKER_TEST_RABBITMQ names no RabbitMQ");
            return None;
        }
        if !Path::new(SERVER).exists() {
            skip("rabbitmq-server is not installed");
            return None;
        }
        Some(OWN.get_or_init(start).rabbit.clone())
    }

    /// Returns it with a new virtual host, for tests that would affect the queues of others.
    pub(crate) fn with_vhost(&self, name: &str) -> Self {
        self.put(&format!("vhosts/{name}"), "{}");
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        self.put(&format!("permissions/{name}/guest"), all);
        Self {
            url: format!("{}/{name}", self.url),
            management: self.management.clone(),
        }
    }

    /// Makes an object with the management API.
    pub(crate) fn put(&self, path: &str, body: &str) {
        let answer = Request::to_url(&self.management, "PUT", &format!("/api/{path}"))
            .password("guest", "guest")
            .header("content-type", "application/json")
            .send(body);
        assert!(answer.status < 300, "{answer:?}");
    }
}

fn start() -> Own {
    let folder = tempfile::Builder::new()
        .prefix("rabbit")
        .tempdir_in("/tmp")
        .unwrap();
    let path = |name: &str| folder.path().join(name);
    let (port, distribution, management, names) =
        (free_port(), free_port(), free_port(), free_port());
    fs::write(path("plugins"), "[rabbitmq_management].").unwrap();
    let keeper = Command::new("sh")
        .args(["-c", KEEPER, "keeper", SERVER])
        .arg(folder.path())
        .env("HOME", folder.path())
        .env("RABBITMQ_NODENAME", format!("test{port}@localhost"))
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("ERL_EPMD_PORT", names.to_string())
        .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
        .env("RABBITMQ_LOG_BASE", path("log"))
        .env("RABBITMQ_PID_FILE", path("pid"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            format!("-rabbitmq_management listener [{{port,{management}}}]"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(path("out")).unwrap_or_default();
    wait_until(
        || said().contains("completed with"),
        || format!("RabbitMQ starts; it said {:?}", said()),
    );
    let rabbit = Rabbit {
        url: format!("amqp://guest:guest@localhost:{port}"),
        management: format!("http://localhost:{management}"),
    };
    // The keeper removes the folder.
    let _ = folder.keep();
    Own {
        rabbit,
        _keeper: keeper,
    }
}
