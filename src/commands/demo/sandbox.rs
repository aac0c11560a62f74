//! The environment of the demo: a temporary home, and a broker in a separate process that can be
//! killed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use ulid::Ulid;

use crate::config::{Config, private_folder};
use crate::error::Error;

const LOOK_AGAIN: Duration = Duration::from_millis(30);

/// The folder and the broker. Both are removed on drop.
pub(super) struct Sandbox {
    home: PathBuf,
    program: PathBuf,
    broker: Option<Child>,
    /// The port of the first start. Sessions reconnect to it, so later starts use it again.
    port: u16,
    management_port: u16,
}

impl Sandbox {
    /// Creates the temporary folder. The broker is not started yet.
    pub(super) fn set(config: &Config) -> Result<Self, Error> {
        let temporary = config
            .environment
            .get("TMPDIR")
            .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let home = temporary.join(format!("cbroker-demo-{}", Ulid::generate()));
        private_folder(&home).map_err(|error| {
            Error::new(format!("cannot make {}", home.display())).caused_by(error)
        })?;
        let program = std::env::current_exe();
        let program = program
            .map_err(|error| Error::new("cannot find this program's own file").caused_by(error))?;
        Ok(Self {
            home,
            program,
            broker: None,
            port: 0,
            management_port: 0,
        })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Returns a command that runs this program in the demo's home, without the user's own
    /// settings.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("CBROKER_HOME", &self.home)
            .env("TERM", "xterm-256color");
        for name in [
            "URL",
            "MGMT_URL",
            "MGMT_USER",
            "MGMT_PASS",
            "NAME",
            "SESSION",
            "DISABLED",
        ] {
            command.env_remove(format!("CBROKER_{name}"));
        }
        command
    }

    /// Starts the broker on free ports, or on the ports of the first start, and waits until it
    /// listens.
    pub(super) fn start_broker(&mut self, limit: Duration) -> Result<(), Error> {
        let failed = || Error::new("the demo's broker did not start");
        let (port, management_port) = (self.port.to_string(), self.management_port.to_string());
        let mut child = self
            .command()
            .args([
                "--json",
                "--quiet",
                "serve",
                "--port",
                &port,
                "--mgmt-port",
                &management_port,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed().caused_by(error))?;
        let said = first_line(&mut child, limit);
        let mut complaint = String::new();
        if said.is_none() {
            let _ = child.kill();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut complaint);
            }
        }
        self.broker = Some(child);
        // Its error text says more than the absence of JSON.
        let said: Value = serde_json::from_str(&said.unwrap_or_default())
            .map_err(|_| failed().caused_by(complaint))?;
        self.port = port_of(&said["url"]).unwrap_or(self.port);
        self.management_port = port_of(&said["mgmt_url"]).unwrap_or(self.management_port);
        Ok(())
    }

    /// Kills the broker with SIGKILL, so that it cannot flush or close anything.
    pub(super) fn kill_broker(&mut self) -> Result<(), Error> {
        let Some(mut broker) = self.broker.take() else {
            return Ok(());
        };
        let killed = broker.kill().and_then(|()| broker.wait());
        killed
            .map(|_| ())
            .map_err(|error| Error::new("cannot kill the demo's broker").caused_by(error))
    }

    /// Waits until these sessions are attached.
    pub(super) fn wait_until_attached(&self, names: &[&str], limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        loop {
            let told = self.command().args(["--json", "--quiet", "list"]).output();
            let rows: Value = told
                .ok()
                .and_then(|told| serde_json::from_slice(&told.stdout).ok())
                .unwrap_or_default();
            let attached = |name: &&str| {
                rows.as_array().is_some_and(|rows| {
                    rows.iter()
                        .any(|row| row["name"] == **name && row["consumers"] == 1)
                })
            };
            if names.iter().all(attached) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(
                    Error::new("the demo's sessions did not attach").caused_by(rows.to_string())
                );
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Sends a message with the `send` command. Returns its output.
    pub(super) fn send(&self, from: &str, to: &str, text: &str) -> Result<String, Error> {
        let failed = || Error::new("the demo's message was not sent");
        let told = self
            .command()
            .args(["send", "--no-start", "--from", from, "--to", to, "-m", text])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed().caused_by(error))?;
        if !told.status.success() {
            return Err(failed().caused_by(String::from_utf8_lossy(&told.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.kill_broker();
        // The folder is temporary; if it cannot be removed now, the system removes it.
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Returns the line that a broker prints once it listens. `None` if it ends or takes too long.
fn first_line(child: &mut Child, limit: Duration) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (tell, told) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let _ = tell.send(line);
        // The broker keeps writing, so its output must keep being read.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    told.recv_timeout(limit)
        .ok()
        .filter(|line| !line.trim().is_empty())
}

fn port_of(url: &Value) -> Option<u16> {
    url.as_str()?.rsplit_once(':')?.1.parse().ok()
}
