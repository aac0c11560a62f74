//! A stage for one test: a home of its own, a broker, a person's terminal with a wrap in it, and the means to look.
//!
//! Relies on the broker in this process, on the `cbroker` binary, and on the wrap's own pseudo-terminal for the
//! person's side.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cbroker::wrap::monitor::Report;
use cbroker::wrap::pty::{CommandLine, Program, Shape};
use rustix::termios::Winsize;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The program under test.
pub(crate) const CBROKER: &str = env!("CARGO_BIN_EXE_cbroker");
/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
const USER: &str = "tester";
const PASSWORD: &str = "secret";

/// Waits for something to become true.
pub(crate) fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_true() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A home, a broker, and programs to wrap.
pub(crate) struct Stage {
    folder: TempDir,
    runtime: Runtime,
    broker: Option<broker::Broker>,
    address: SocketAddr,
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
        let mut stage = Self {
            folder,
            runtime,
            broker: None,
            address: ([127, 0, 0, 1], 0).into(),
        };
        for role in ["claude", "sink"] {
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

    /// Starts the broker, at the first time on a free port and then on the same.
    pub(crate) fn start_broker(&mut self) {
        let config = broker::Config {
            port: self.address.port(),
            management_port: None,
            data_dir: self.path("data"),
            first_user: Some(broker::FirstUser {
                name: USER.into(),
                password: PASSWORD.into(),
            }),
            ..broker::Config::default()
        };
        let started = self
            .runtime
            .block_on(broker::Broker::start(config))
            .unwrap();
        self.address = started.addresses().amqp;
        self.broker = Some(started);
    }

    /// Stops the broker; what it has confirmed stays.
    pub(crate) fn stop_broker(&mut self) {
        if let Some(broker) = self.broker.take() {
            self.runtime.block_on(broker.shutdown());
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
        let url = self.url();
        self.runtime.block_on(async {
            let properties = lapin::ConnectionProperties::default();
            let connection = lapin::Connection::connect(&url, properties).await.unwrap();
            let done = work(connection.create_channel().await.unwrap()).await;
            let _closing = connection.close(200, "done".into()).await;
            done
        })
    }

    /// Publishes any bytes to a session's queue.
    pub(crate) fn publish(&self, queue: &str, body: &[u8]) {
        let options = lapin::options::BasicPublishOptions::default();
        self.with_channel(|channel| async move {
            let properties = lapin::BasicProperties::default().with_delivery_mode(2);
            channel
                .confirm_select(lapin::options::ConfirmSelectOptions::default())
                .await
                .unwrap();
            channel
                .basic_publish(
                    "claudeBroker".into(),
                    queue.into(),
                    options,
                    body,
                    properties,
                )
                .await
                .unwrap()
                .await
                .unwrap();
        });
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
        ];
        for inherited in ["CBROKER_NAME", "CBROKER_SESSION", "CBROKER_DISABLED"] {
            environment.push((inherited.into(), None));
        }
        environment
    }
}

/// A person's terminal: what it shows, and hands to type with.
pub(crate) struct Terminal {
    program: Program,
    output: Arc<Mutex<Vec<u8>>>,
    end: Option<Report>,
    reader: Option<std::thread::JoinHandle<()>>,
    is_closing: Arc<AtomicBool>,
}

impl Terminal {
    fn open(command: &CommandLine) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let program = Program::start(command, &Shape { modes: None, size }).unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut from = std::fs::File::from(program.master().try_clone_to_owned().unwrap());
        let into = Arc::clone(&output);
        let is_closing = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&is_closing);
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 65536];
            while !closing.load(Ordering::Relaxed) && wait_readable(&from) {
                match from.read(&mut piece) {
                    Ok(count) if count > 0 => {
                        into.lock().unwrap().extend_from_slice(&piece[..count]);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    _ => return,
                }
            }
        });
        Self {
            program,
            output,
            end: None,
            reader: Some(reader),
            is_closing,
        }
    }

    /// Everything that was written to the terminal.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.output.lock().unwrap().clone()
    }

    /// The same as text.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.output()).into_owned()
    }

    /// What stands on the screen now.
    pub(crate) fn screen(&self) -> String {
        let mut parser = vt100::Parser::new(24.try_into().unwrap(), 100.try_into().unwrap(), 0);
        parser.process(&self.output());
        parser.screen().contents()
    }

    /// Waits until a text was written.
    pub(crate) fn wait_for(&self, text: &str) {
        wait_for(
            &format!("`{text}` on the terminal, which shows:\n{}", self.screen()),
            || self.shown().contains(text),
        );
    }

    /// Waits until a text stands on the screen.
    pub(crate) fn wait_for_screen(&self, text: &str) {
        let until = Instant::now() + LIMIT;
        while !self.screen().contains(text) {
            assert!(
                Instant::now() < until,
                "waited in vain for `{text}` on this screen:\n{}",
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    pub(crate) fn keys(&self, bytes: &[u8]) {
        let mut to = std::fs::File::from(self.program.master().try_clone_to_owned().unwrap());
        let mut rest = bytes;
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Types a line into a box and, when it is seen there, Enter.
    pub(crate) fn submit(&self, line: &str) {
        self.keys(line.as_bytes());
        self.wait_for_screen(line);
        self.keys(b"\r");
    }

    /// Drags a corner of the window.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.program
            .resize(Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            })
            .unwrap();
    }

    /// Sends a signal to the program in the terminal: the wrap.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.program.signal(signal);
    }

    /// Lets a stopped program run again, as a shell's `fg` does.
    pub(crate) fn foreground(&self) {
        self.program.continue_group();
    }

    /// Waits for a report of the monitor.
    pub(crate) fn wait_for_report(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        let mut found = None;
        wait_for("a report of the monitor", || {
            let reports = match self.program.reports() {
                Ok(Some(reports)) => reports,
                _ => Vec::new(),
            };
            found = found.or_else(|| reports.into_iter().find(|report| wanted(report)));
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until the program is known to run, so that it can be signalled.
    pub(crate) fn wait_for_start(&mut self) {
        self.wait_for_report(|report| matches!(report, Report::Started(_)));
    }

    /// Waits for the program's end: what the shell would see.
    pub(crate) fn wait_for_end(&mut self) -> Report {
        let end =
            self.wait_for_report(|report| matches!(report, Report::Exited(_) | Report::Killed(_)));
        self.end = Some(end);
        end
    }

    /// Closes the window.
    pub(crate) fn close(mut self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.reader.take().unwrap().join().unwrap();
        // Nothing is said to the wrap but what the system says: its terminal is gone.
        self.end = Some(Report::Killed(rustix::process::Signal::HUP.as_raw()));
    }

    /// Modes of the terminal: whether a shell would find it as it left it.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(self.program.master()).unwrap();
        !modes
            .local_modes
            .contains(rustix::termios::LocalModes::ICANON)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.end.is_none() {
            let _reports = self.program.reports();
            self.program.signal(rustix::process::Signal::TERM);
        }
    }
}

/// Waits until something may be there, but not for ever: whoever closes the terminal waits for this.
fn wait_readable(from: &std::fs::File) -> bool {
    let limit = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut descriptors = [rustix::event::PollFd::new(
        from,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut descriptors, Some(&limit)).is_ok()
}

/// Whether a path exists, for tests that look for what a text must not do.
pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}
