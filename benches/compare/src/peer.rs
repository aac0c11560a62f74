//! A broker under measurement: where it is, its process, and how to start it again.
//!
//! A peer's folder holds `url`, `pid`, and `start`, a program that starts the broker in the
//! background and writes `pid`; `start fresh` empties the broker's data first. A peer without a
//! folder is only an address.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, test_kill_process};

use crate::client::{Address, Client};
use crate::process::{self, Usage, as_pid};
use crate::wire::fault;

const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) struct Peer {
    pub(crate) label: String,
    pub(crate) address: Address,
    folder: Option<PathBuf>,
    fixed_pid: u32,
}

/// How a broker is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Asked,
    Killed,
}

impl Peer {
    /// From `LABEL=FOLDER`, or `LABEL=URL` with an optional `,PID`.
    pub(crate) fn parse(argument: &str) -> Option<Self> {
        let (label, place) = argument.split_once('=')?;
        let label = label.to_owned();
        if place.starts_with("amqp://") {
            let (url, pid) = place.split_once(',').unwrap_or((place, "0"));
            return Some(Self {
                label,
                address: Address::parse(url)?,
                folder: None,
                fixed_pid: pid.parse().ok()?,
            });
        }
        let folder = PathBuf::from(place);
        let url = fs::read_to_string(folder.join("url")).ok()?;
        Some(Self {
            label,
            address: Address::parse(url.trim())?,
            folder: Some(folder),
            fixed_pid: 0,
        })
    }

    /// An address in this process.
    pub(crate) fn here(label: &str, address: Address) -> Self {
        Self {
            label: label.to_owned(),
            address,
            folder: None,
            fixed_pid: std::process::id(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        let Some(folder) = &self.folder else {
            return self.fixed_pid;
        };
        fs::read_to_string(folder.join("pid"))
            .ok()
            .and_then(|pid| pid.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Where its management API is (`host:port`), in the file `api` of its folder.
    pub(crate) fn api(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.as_ref()?.join("api")).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn can_restart(&self) -> bool {
        self.folder.is_some()
    }

    pub(crate) fn usage(&self) -> Usage {
        process::usage(self.pid())
    }

    pub(crate) fn connect(&self) -> io::Result<Client> {
        Client::connect(&self.address)
    }

    /// Ends the broker and waits until its processes are gone.
    pub(crate) fn stop(&self, how: End) -> io::Result<()> {
        let tree = process::tree(self.pid());
        let (targets, signal) = match how {
            End::Asked => (&tree[..tree.len().min(1)], Signal::TERM),
            End::Killed => (&tree[..], Signal::KILL),
        };
        for pid in targets.iter().filter_map(|pid| as_pid(*pid)) {
            let _already_gone = kill_process(pid, signal);
        }
        let began = Instant::now();
        while tree
            .iter()
            .filter_map(|pid| as_pid(*pid))
            .any(|pid| test_kill_process(pid).is_ok())
        {
            if began.elapsed() > PATIENCE {
                return Err(fault(format!("{} does not end", self.label)));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts it with its data; returns at once.
    pub(crate) fn start(&self) -> io::Result<()> {
        self.run_start(&[])
    }

    /// Ends it, empties its data, starts it and waits until it takes connections.
    pub(crate) fn start_fresh(&self) -> io::Result<()> {
        if !self.can_restart() {
            return Ok(());
        }
        if self.pid() != 0 {
            self.stop(End::Killed)?;
        }
        self.run_start(&["fresh"])?;
        self.wait_until_open().map(drop)
    }

    /// Tries to connect until it works.
    pub(crate) fn wait_until_open(&self) -> io::Result<Client> {
        let began = Instant::now();
        loop {
            match self.connect() {
                Ok(client) => return Ok(client),
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn run_start(&self, arguments: &[&str]) -> io::Result<()> {
        let Some(folder) = &self.folder else {
            return Err(fault(format!("{} cannot be restarted", self.label)));
        };
        let mut command = Command::new(folder.join("start"));
        let status = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(fault(format!("{} did not start", self.label)))
        }
    }
}
