//! A person's terminal: the wrap's own pseudo-terminal, seen from the side of whoever sits in front
//! of it.
//!
//! Relies on the wrap's `pty` and on `vt100` for what stands on the screen.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cbroker::wrap::monitor::{ChildStatus, OnWrapExit};
use cbroker::wrap::pty::{CommandLine, Program, ProgramSetup};
use rustix::termios::Winsize;

use super::{LIMIT, wait_for};

/// A person's terminal: what it shows, and hands to type with.
pub(crate) struct Terminal {
    program: Program,
    output: Arc<Mutex<Vec<u8>>>,
    end: Option<ChildStatus>,
    reader: Option<std::thread::JoinHandle<()>>,
    is_closing: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    is_stalled: Arc<AtomicBool>,
}

/// What a slow line brings in each [`SLOW_PAUSE`].
const SLOW_PIECE: usize = 1000;
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// How often a stalled line looks whether it goes on.
const STALLED_PAUSE: Duration = Duration::from_millis(20);

impl Terminal {
    pub(super) fn open(command: &CommandLine) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let on_wrap_exit = OnWrapExit::KeepRunning;
        let setup = ProgramSetup {
            modes: None,
            size,
            on_wrap_exit,
        };
        let program = Program::start(command, &setup).unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut from = std::fs::File::from(program.master().try_clone_to_owned().unwrap());
        let into = Arc::clone(&output);
        let is_closing = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&is_closing);
        let is_slow = Arc::new(AtomicBool::new(false));
        let slow = Arc::clone(&is_slow);
        let is_stalled = Arc::new(AtomicBool::new(false));
        let stalled = Arc::clone(&is_stalled);
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 65536];
            while !closing.load(Ordering::Relaxed) && wait_readable(&from) {
                let mut room = piece.len();
                if stalled.load(Ordering::Relaxed) {
                    std::thread::sleep(STALLED_PAUSE);
                    continue;
                }
                if slow.load(Ordering::Relaxed) {
                    std::thread::sleep(SLOW_PAUSE);
                    room = SLOW_PIECE;
                }
                match from.read(&mut piece[..room]) {
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
            is_slow,
            is_stalled,
        }
    }

    /// From now on the line behind the terminal brings nothing, or everything again.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.is_stalled.store(is_stalled, Ordering::Relaxed);
    }

    /// From now on the line behind the terminal brings 10 KB a second.
    pub(crate) fn slow_down(&self) {
        self.is_slow.store(true, Ordering::Relaxed);
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
    pub(crate) fn wait_for_report(&mut self, wanted: impl Fn(&ChildStatus) -> bool) -> ChildStatus {
        let mut found = None;
        wait_for("a report of the monitor", || {
            let statuses = match self.program.child_statuses() {
                Ok(Some(statuses)) => statuses,
                _ => Vec::new(),
            };
            found = found.or_else(|| statuses.into_iter().find(|status| wanted(status)));
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until the program is known to run, so that it can be signalled.
    pub(crate) fn wait_for_start(&mut self) {
        self.wait_for_report(|report| matches!(report, ChildStatus::Started(_)));
    }

    /// Waits for the program's end: what the shell would see.
    pub(crate) fn wait_for_end(&mut self) -> ChildStatus {
        let end = self.wait_for_report(|report| {
            matches!(report, ChildStatus::Exited(_) | ChildStatus::Killed(_))
        });
        self.end = Some(end);
        end
    }

    /// Closes the window.
    pub(crate) fn close(mut self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.reader.take().unwrap().join().unwrap();
        // Nothing is said to the wrap but what the system says: its terminal is gone.
        self.end = Some(ChildStatus::Killed(rustix::process::Signal::HUP.as_raw()));
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
            let _statuses = self.program.child_statuses();
            self.program.signal(rustix::process::Signal::TERM);
        }
    }
}

/// Waits until something may be there, but not for ever: whoever closes the terminal waits for
/// this.
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
