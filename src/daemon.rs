//! Starts the embedded broker in the background, finds it again, and stops it.
//!
//! A running `serve` records itself in `broker.json`. A process counts as that broker only if its
//! pid and its start time match, so a stale file is recognised (`process`). Starts and stops hold a
//! lock, so two concurrent starts end with one broker. The broker itself is in its own crate; here
//! it is only a process.

mod log;
mod ports;
mod process;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

pub use log::{CleanLines, RotatingFile, clean_lines};
pub use ports::{free_port_near, in_use};
pub use process::RunningProcess;
pub(crate) use process::start_time;

use crate::config::{BrokerKind, Config, Credentials, Home, LocalBroker, remove_own_variables};
use crate::error::Error;

const DEFAULT_PORT: u16 = 5672;
const DEFAULT_MANAGEMENT_PORT: u16 = 15672;

/// Recovering a large store takes time; a start that takes longer than this has failed.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// `serve` ends within 5 s of a SIGTERM. After twice that time it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

const LOCK_WITHIN: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The requested settings of the broker; `None` selects the default port.
#[derive(Debug, Clone, Default)]
pub struct RequestedSettings {
    /// The AMQP port.
    pub amqp: Option<u16>,
    /// The management port.
    pub management: Option<u16>,
    /// Further options of `serve`.
    pub arguments: Vec<String>,
}

impl RequestedSettings {
    /// Fills in the ports and options of the broker that ran before, because sessions try to
    /// reconnect to its ports.
    fn or_as_before(mut self, before: Option<LocalBroker>) -> Self {
        if let Some(LocalBroker {
            kind: BrokerKind::Embedded { arguments, .. },
            port,
            management_port,
            ..
        }) = before
        {
            if self.amqp.is_none() && self.arguments.is_empty() {
                self.arguments = arguments;
            }
            self.amqp = self.amqp.or(Some(port));
            self.management = self.management.or(management_port);
        }
        self
    }
}

/// A local broker that answers.
#[derive(Debug, Clone)]
pub struct StartedBroker {
    /// Its record in `broker.json`.
    pub local: LocalBroker,
    /// Whether it was running before.
    pub was_running: bool,
}

/// Held while a broker is started or stopped. Released on drop.
pub struct StartLock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl StartLock {
    /// Waits until no other start or stop is in progress.
    pub async fn acquire(home: &Home) -> Result<Self, Error> {
        home.prepare().map_err(|error| {
            Error::new(format!("cannot use {}", home.folder().display())).caused_by(error)
        })?;
        let path = home.start_lock();
        let cannot = |error: std::io::Error| {
            Error::new(format!("cannot lock {}", path.display())).caused_by(error)
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(cannot)?;
        let until = Instant::now() + LOCK_WITHIN;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if Instant::now() > until {
                return Err(
                    cannot(error.into()).with_hint("another `cbroker start` or `stop` hangs")
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(Self(file))
    }
}

/// Returns the running embedded broker, if any.
pub fn running(home: &Home) -> Option<(LocalBroker, RunningProcess)> {
    let local = LocalBroker::read(home)?;
    let BrokerKind::Embedded { pid, began, .. } = &local.kind else {
        return None;
    };
    let process = RunningProcess::alive(*pid, began)?;
    Some((local, process))
}

/// Starts the broker unless it runs, and waits until it accepts connections.
pub async fn start(config: &Config, requested: RequestedSettings) -> Result<StartedBroker, Error> {
    let _lock = StartLock::acquire(&config.home).await?;
    if let Some((local, _)) = running(&config.home) {
        return already_runs(local, &requested);
    }
    let requested = requested.or_as_before(LocalBroker::read(&config.home));
    let port = requested.amqp.unwrap_or(DEFAULT_PORT);
    let management_port = requested.management.unwrap_or(DEFAULT_MANAGEMENT_PORT);
    free(port, "--port")?;
    free(management_port, "--mgmt-port")?;
    Credentials::read_or_create(&config.home).map_err(|error| {
        Error::new(format!(
            "cannot write {}",
            config.home.credentials_file().display()
        ))
        .caused_by(error)
    })?;
    let mut child = spawn(&config.home, [port, management_port], &requested.arguments)?;
    let local = wait_until_ready(&config.home, &mut child).await?;
    Ok(StartedBroker {
        local,
        was_running: false,
    })
}

/// Stops the embedded broker cleanly. Returns false if none was running.
pub async fn stop(home: &Home) -> Result<bool, Error> {
    let _lock = StartLock::acquire(home).await?;
    let Some((_, process)) = running(home) else {
        return Ok(false);
    };
    process.signal(Signal::TERM);
    if !gone_within(&process, STOP_WITHIN).await {
        process.signal(Signal::KILL);
        if !gone_within(&process, STOP_WITHIN).await {
            return Err(Error::new(format!(
                "the broker (process {}) does not stop",
                process.pid()
            )));
        }
    }
    // Its record stays: the next start takes the same ports, and nobody looks elsewhere meanwhile.
    Ok(true)
}

/// Returns the last line of the background broker's log, for an error.
pub fn last_log_line(home: &Home) -> Option<String> {
    let text = fs::read_to_string(home.broker_log()).ok()?;
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(str::to_owned)
}

fn already_runs(local: LocalBroker, requested: &RequestedSettings) -> Result<StartedBroker, Error> {
    let other =
        |wanted: Option<u16>, live: Option<u16>| wanted.is_some_and(|wanted| Some(wanted) != live);
    if other(requested.amqp, Some(local.port)) || other(requested.management, local.management_port)
    {
        return Err(Error::new(format!(
            "the local broker already runs, on port {}",
            local.port
        ))
        .with_hint("`cbroker stop` first, then start it with the other ports"));
    }
    Ok(StartedBroker {
        local,
        was_running: true,
    })
}

fn free(port: u16, option: &str) -> Result<(), Error> {
    let Some(holder) = in_use(port) else {
        return Ok(());
    };
    Err(Error::new(format!("port {port} is in use"))
        .caused_by(holder)
        .with_hint(format!(
            "choose another with {option}, or use that broker with \
             --url amqp://guest:guest@localhost:{port}"
        )))
}

fn spawn(
    home: &Home,
    [port, management_port]: [u16; 2],
    arguments: &[String],
) -> Result<Child, Error> {
    let cannot = |error: std::io::Error| Error::new("cannot start the broker").caused_by(error);
    let program: PathBuf = std::env::current_exe().map_err(cannot)?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(home.broker_log())
        .map_err(cannot)?;
    let mut command = Command::new(program);
    // A session in which it is started has nothing to do with it, and may end before it does.
    remove_own_variables(&mut command);
    command
        .args([
            "serve",
            "--background",
            "--port",
            &port.to_string(),
            "--mgmt-port",
            &management_port.to_string(),
        ])
        .args(arguments)
        .env("CBROKER_HOME", home.folder())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(cannot)
}

/// Waits until the broker has written `broker.json`, which it does once it listens.
async fn wait_until_ready(home: &Home, child: &mut Child) -> Result<LocalBroker, Error> {
    let until = Instant::now() + READY_WITHIN;
    loop {
        if let Some((local, process)) = running(home)
            && process.pid() == child.id()
        {
            return Ok(local);
        }
        if let Ok(Some(status)) = child.try_wait() {
            let failed = Error::new("the broker did not start")
                .caused_by(last_log_line(home).unwrap_or_else(|| status.to_string()));
            return Err(failed.with_hint("`cbroker logs` shows all of it"));
        }
        if Instant::now() > until {
            // It may hang. What it has stored is safe.
            let _ = child.kill();
            return Err(Error::new("the broker did not start")
                .caused_by(format!(
                    "it was not ready within {} s",
                    READY_WITHIN.as_secs()
                ))
                .with_hint("see `cbroker logs`"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn gone_within(process: &RunningProcess, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    while process.is_alive() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    true
}
