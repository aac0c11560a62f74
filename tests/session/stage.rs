//! A stage for one test: a home of its own, a broker, a person's terminal with a wrap in it, and
//! the means to look.
//!
//! Relies on the broker in this process and on the `cbroker` binary; the person's side is in
//! `terminal`, messages are in `letters`.

mod letters;
mod terminal;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cbroker::wrap::pty::CommandLine;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) use letters::body;
pub(crate) use terminal::Terminal;

use crate::started::start_broker;

/// The program under test.
pub(crate) const CBROKER: &str = env!("CARGO_BIN_EXE_cbroker");
/// Longest wait for anything. It is generous, because test machines are busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(3);
/// Longest time for one piece of work on a connection of the test, in which it may wait for
/// something itself.
const WORK_LIMIT: Duration = Duration::from_mins(5);
/// Longest wait for the end of such a connection, which nothing depends on.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);
/// For a little less, a session keeps what it showed to a command that did not hear it any more.
const UNCONFIRMED_TAKE: Duration = Duration::from_secs(12);
pub(crate) const USER: &str = "tester";
const PASSWORD: &str = "secret";
/// Another user of the broker.
pub(crate) const GUEST: &str = "guest";

/// Waits for something to become true.
pub(crate) fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_true() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A socket that holds a port, and does not listen: a program that also allows the address to be
/// reused can listen there.
fn keep_a_port() -> (OwnedFd, SocketAddr) {
    let port = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_reuseaddr(&port, true).unwrap();
    bind(&port, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&port).unwrap().try_into().unwrap();
    (port, address)
}

/// A home, a broker, and programs to wrap.
pub(crate) struct Stage {
    folder: TempDir,
    runtime: Runtime,
    broker: Option<broker::Broker>,
    address: SocketAddr,
    /// While the broker is down, nobody else gets its port: neither a broker of another stage nor
    /// an outgoing connection.
    _port: OwnedFd,
}

impl Stage {
    /// A stage with a broker that runs.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("cb")
            .tempdir_in("/tmp")
            .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (port, address) = keep_a_port();
        let mut stage = Self {
            folder,
            runtime,
            broker: None,
            address,
            _port: port,
        };
        for role in ["claude", "codex", "gemini", "opencode", "sink"] {
            std::os::unix::fs::symlink(std::env::current_exe().unwrap(), stage.path(role)).unwrap();
        }
        stage.start_broker();
        stage
    }

    /// A path in this stage's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Text of a file; empty while there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The dead letters of `peer`: those of the session's own user, and those of others.
    pub(crate) fn dead_letters(&self) -> String {
        self.text("home/dlq/peer.jsonl") + &self.text("home/dlq/peer.others.jsonl")
    }

    /// Starts the broker on this stage's port.
    pub(crate) fn start_broker(&mut self) {
        let config = broker::BrokerConfig {
            port: self.address.port(),
            management_port: None,
            data_dir: self.path("data"),
            allow_guest: true,
            first_user: Some(broker::FirstUser {
                name: USER.into(),
                password: PASSWORD.into(),
            }),
            ..broker::BrokerConfig::default()
        };
        let started = self.runtime.block_on(start_broker(&config, LIMIT));
        self.broker = Some(started);
    }

    /// Stops the broker; what it has confirmed stays.
    pub(crate) fn stop_broker(&mut self) {
        if let Some(broker) = self.broker.take() {
            let ended = self.runtime.block_on(broker.shutdown());
            assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
        }
    }

    /// The broker's URL.
    pub(crate) fn url(&self) -> String {
        format!("amqp://{USER}:{PASSWORD}@{}", self.address)
    }

    /// Runs something against the broker with the library's own client.
    pub(crate) fn with_channel<T, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(lapin::Channel) -> F,
    ) -> T {
        self.with_channel_at(&self.url(), work)
    }

    /// The same as another user.
    pub(crate) fn with_channel_of_guest<T, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(lapin::Channel) -> F,
    ) -> T {
        let url = format!("amqp://{GUEST}:{GUEST}@{}", self.address);
        self.with_channel_at(&url, work)
    }

    fn with_channel_at<T, F: Future<Output = T>>(
        &self,
        url: &str,
        work: impl FnOnce(lapin::Channel) -> F,
    ) -> T {
        let answered = async {
            let properties = lapin::ConnectionProperties::default();
            let connection = lapin::Connection::connect_with_runtime(
                url,
                properties,
                cbroker::peer::runtime::current(),
            )
            .await
            .unwrap();
            let done = work(connection.create_channel().await.unwrap()).await;
            // Once in some ten thousand times lapin does not hear that it is closed.
            let closed = connection.close(200, "done".into());
            let _closed = tokio::time::timeout(CLOSE_LIMIT, closed).await;
            done
        };
        let limited = async { tokio::time::timeout(WORK_LIMIT, answered).await };
        let done = self.runtime.block_on(limited);
        done.expect("the broker does not answer")
    }

    /// Settings for every `cbroker` of this stage.
    pub(crate) fn configure(&self, settings: &str) {
        std::fs::create_dir_all(self.path("home")).unwrap();
        std::fs::write(self.path("home/config.toml"), settings).unwrap();
    }

    /// Runs `cbroker` with these arguments, successfully; what it prints. A session that answers
    /// too late, on a busy machine, is asked again.
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let output = self.cbroker(arguments).output().unwrap();
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            let error = String::from_utf8_lossy(&output.stderr);
            let is_late = error.contains("is attached");
            assert!(
                is_late && Instant::now() < until,
                "{arguments:?}: {output:?}"
            );
            if arguments.contains(&"--take") {
                std::thread::sleep(UNCONFIRMED_TAKE);
            }
        }
    }

    /// The `cbroker` command with these arguments, its environment that of this stage.
    pub(crate) fn cbroker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CBROKER);
        command.args(arguments);
        for (name, value) in self.environment() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Sends a message; its output.
    pub(crate) fn send(&self, to: &str, text: &str, more: &[&str]) -> String {
        let arguments = [&["send", "--to", to, "--from", "tester", "-m", text], more].concat();
        let output = self.cbroker(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "send: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Runs a command in a person's terminal.
    pub(crate) fn terminal(&self, command: &[&str]) -> Terminal {
        self.terminal_with(command, &[])
    }

    /// The same with more variables.
    pub(crate) fn terminal_with(&self, command: &[&str], more: &[(&str, &str)]) -> Terminal {
        let mut environment = self.environment();
        environment.extend(
            more.iter()
                .map(|(name, value)| (OsString::from(*name), Some(OsString::from(*value)))),
        );
        let line = CommandLine {
            program: command[0].into(),
            arguments: command[1..].iter().map(OsString::from).collect(),
            environment,
        };
        Terminal::open(&line)
    }

    /// A wrap of one of this stage's programs.
    pub(crate) fn wrap(&self, options: &[&str], program: &[&str]) -> Terminal {
        self.wrap_with(options, program, &[])
    }

    /// The same with more variables.
    pub(crate) fn wrap_with(
        &self,
        options: &[&str],
        program: &[&str],
        more: &[(&str, &str)],
    ) -> Terminal {
        let command = [
            &[CBROKER, "--name", "peer"],
            options,
            &["run", "--"],
            program,
        ]
        .concat();
        self.terminal_with(&command, more)
    }

    fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let path = std::env::join_paths(
            std::iter::once(self.folder.path().to_owned())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let mut environment: Vec<(OsString, Option<OsString>)> = vec![
            ("CBROKER_HOME".into(), Some(self.path("home").into())),
            ("CBROKER_URL".into(), Some(self.url().into())),
            ("TERM".into(), Some("xterm-256color".into())),
            ("PATH".into(), Some(path.unwrap())),
            ("STAGE".into(), Some(self.folder.path().into())),
            (
                "CLAUDE_CONFIG_DIR".into(),
                Some(self.path("claude-folder").into()),
            ),
        ];
        for inherited in ["CBROKER_NAME", "CBROKER_SESSION", "CBROKER_DISABLED"] {
            environment.push((inherited.into(), None));
        }
        environment
    }
}

/// Whether a path exists, for tests that look for what a text must not do.
pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}
