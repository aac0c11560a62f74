//! A wrapped toy agent in a terminal of its own, with a readable screen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::Winsize;

use super::frame::DemoScreen;
use super::sandbox::Sandbox;
use crate::error::Error;
use crate::wrap::pty;

const ROWS: NonZeroU16 = NonZeroU16::new(14).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(52).unwrap();
const LEAVE: u8 = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One wrapped session. It is killed on drop.
pub(super) struct DemoSession {
    name: String,
    child: Child,
    terminal: File,
    drawn: Arc<Mutex<vt100::Parser>>,
    began: Instant,
}

impl DemoSession {
    /// Runs `cbroker --name NAME run -- cbroker toy` in a new terminal.
    pub(super) fn open(sandbox: &Sandbox, name: &str) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            Error::new(format!("cannot open the session {name}")).caused_by(error)
        };
        let (ours, theirs) = terminal().map_err(failed)?;
        let end = |terminal: &OwnedFd| terminal.try_clone().map(Stdio::from);
        let child = sandbox
            .command()
            .args([
                "--name",
                name,
                "--no-fallback",
                "--delivery",
                "pty",
                "run",
                "--",
            ])
            .arg(sandbox.program())
            .arg("toy")
            .stdin(end(&theirs).map_err(failed)?)
            .stdout(end(&theirs).map_err(failed)?)
            .stderr(end(&theirs).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let drawn = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let terminal = File::from(ours);
        draw(terminal.try_clone().map_err(failed)?, Arc::clone(&drawn));
        Ok(Self {
            name: name.to_owned(),
            child,
            terminal,
            drawn,
            began: Instant::now(),
        })
    }

    /// Waits until the text was submitted in the session. Returns the time since the session was
    /// opened.
    pub(super) fn wait_for(&self, text: &str, limit: Duration) -> Result<Duration, Error> {
        let until = Instant::now() + limit;
        let wanted = squeezed(text);
        loop {
            let screen = squeezed(&self.screen().rows.join(""));
            if screen.contains("*received:") && screen.contains(&wanted) {
                return Ok(self.began.elapsed());
            }
            if Instant::now() > until {
                return Err(
                    Error::new(format!("the message did not reach {}", self.name)).caused_by(
                        format!("its screen shows: {}", self.screen().rows.join(" ")),
                    ),
                );
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Returns the content of the session's screen.
    pub(super) fn screen(&self) -> DemoScreen {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = drawn.screen().rows(0, COLUMNS.get()).collect();
        DemoScreen {
            name: self.name.clone(),
            columns: usize::from(COLUMNS.get()),
            rows,
        }
    }

    /// Ends the toy agent with its quit key, as a person would, and waits for the wrap to end.
    pub(super) fn close(mut self, limit: Duration) -> Result<(), Error> {
        let failed =
            |error: io::Error| Error::new(format!("cannot close {}", self.name)).caused_by(error);
        self.terminal.write_all(&[LEAVE]).map_err(failed)?;
        let until = Instant::now() + limit;
        while self.child.try_wait().map_err(failed)?.is_none() {
            if Instant::now() > until {
                return Err(Error::new(format!(
                    "the session {} did not end in time",
                    self.name
                )));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for DemoSession {
    fn drop(&mut self) {
        // The session has ended already, or the demo has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes all white space, so that line wrapping does not matter.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    pty::open(Winsize {
        ws_row: ROWS.get(),
        ws_col: COLUMNS.get(),
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

/// Draws the session's output until its terminal is closed.
fn draw(mut terminal: File, drawn: Arc<Mutex<vt100::Parser>>) {
    thread::spawn(move || {
        let mut bytes = [0; 8192];
        while let Ok(count @ 1..) = terminal.read(&mut bytes) {
            drawn
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .process(&bytes[..count]);
        }
    });
}
