//! A pseudo-terminal with a program in it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{grantpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::place::binary;
use super::{Place, wait_until};

/// A program in a terminal of 24 rows and 80 columns, killed on drop.
pub(crate) struct Terminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub(crate) fn run(mut command: Command) -> Self {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        // As `openpt` does it. Not every system's takes the last flag.
        let ours = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(ours.as_fd(), size).unwrap();
        let end = || Stdio::from(theirs.try_clone().unwrap());
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(ours);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (keys.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keys, shown }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Returns everything that was printed so far.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    pub(crate) fn wait_for(&self, text: &str) {
        wait_until(
            || self.shown().contains(text),
            || format!("{text:?} in {:?}", self.shown()),
        );
    }

    /// Waits for the program's end and returns its exit code.
    pub(crate) fn ended(&mut self) -> i32 {
        let mut code = None;
        wait_until(
            || {
                code = self.child.try_wait().unwrap();
                code.is_some()
            },
            || "the program ends".to_owned(),
        );
        code.unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A wrapped toy agent that appends each submission to a file as one line.
pub(crate) struct Wrapped {
    pub(crate) terminal: Terminal,
    record: PathBuf,
}

impl Wrapped {
    /// Runs `cbroker --name NAME OPTIONS run -- cbroker toy --record FILE` and waits until it is
    /// attached.
    pub(crate) fn open(place: &Place, name: &str, options: &[&str]) -> Self {
        let wrapped = Self::open_unattached(place, name, options);
        wait_until(
            || {
                place.listed(name).is_some_and(|row| {
                    row["consumers"].as_u64() >= Some(1) && row["agent"].is_string()
                })
            },
            || {
                format!(
                    "the session {name} attaches; its terminal shows {:?}",
                    wrapped.terminal.shown()
                )
            },
        );
        wrapped
    }

    pub(crate) fn open_unattached(place: &Place, name: &str, options: &[&str]) -> Self {
        let record = place.path().join(format!("{name}.record"));
        let mut command = place.command();
        command
            .args(["--name", name, "--delivery", "pty"])
            .args(options)
            .args(["run", "--", binary(), "toy"]);
        command.arg("--record").arg(&record);
        Self {
            terminal: Terminal::run(command),
            record,
        }
    }

    /// Returns the submissions so far.
    pub(crate) fn submitted(&self) -> Vec<String> {
        fs::read_to_string(&self.record)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a submission that contains this text.
    pub(crate) fn wait_for_submission(&self, text: &str) -> String {
        let find = || {
            self.submitted()
                .into_iter()
                .find(|line| line.contains(text))
        };
        wait_until(
            || find().is_some(),
            || format!("{text:?} among {:?}", self.submitted()),
        );
        find().unwrap()
    }

    /// Ends the toy agent with its quit key and returns the exit code of the wrap.
    ///
    /// A session attaches before its agent has switched its terminal to raw mode. A Ctrl-D that was
    /// pressed before is an end of input to the terminal, and a NUL to the agent.
    pub(crate) fn leave(&mut self) -> i32 {
        self.terminal.wait_for("Toy agent.");
        self.terminal.press(&[4]);
        self.terminal.ended()
    }
}
