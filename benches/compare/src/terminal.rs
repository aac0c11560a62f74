//! A terminal without a screen: a PTY whose master is read here, and the smallest relay that a wrap
//! could be.
//!
//! Relies on `setsid` of util-linux to make the PTY the controlling terminal of what runs in it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

const CHUNK: usize = 64 * 1024;

/// A program on a PTY of its own.
pub(crate) struct Terminal {
    pub(crate) master: File,
    pub(crate) child: Child,
}

impl Terminal {
    /// Starts `command` on a raw PTY of 80 by 24.
    pub(crate) fn start(command: &[String], environment: &[(&str, String)]) -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes());
        let slave = File::options().read(true).write(true).open(name)?;
        make_raw(&slave)?;
        tcsetwinsize(
            &slave,
            Winsize {
                ws_row: 24,
                ws_col: 80,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(command)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .spawn()?;
        Ok(Self {
            master: master.into(),
            child,
        })
    }

    /// Reads until the program has ended; how many bytes came.
    pub(crate) fn drain(&mut self) -> io::Result<u64> {
        let mut total = 0;
        let mut chunk = vec![0; CHUNK];
        // A master reads EIO once the last slave is closed.
        while let Ok(read) = self.master.read(&mut chunk) {
            if read == 0 {
                break;
            }
            total += read as u64;
        }
        self.child.wait()?;
        Ok(total)
    }

    /// Reads until `mark` has come.
    pub(crate) fn wait_for(&mut self, mark: &[u8]) -> io::Result<()> {
        let mut seen: Vec<u8> = Vec::new();
        let mut chunk = [0; 4096];
        while !seen.windows(mark.len()).any(|window| window == mark) {
            let read = self.master.read(&mut chunk)?;
            seen.extend(&chunk[..read]);
        }
        Ok(())
    }
}

fn make_raw(terminal: &File) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.make_raw();
    tcsetattr(terminal, OptionalActions::Now, &modes)?;
    Ok(())
}

/// Runs `command` on an inner PTY and passes bytes both ways between it and our own terminal.
pub(crate) fn relay(command: &[String]) -> io::Result<()> {
    let mut inner = Terminal::start(command, &[])?;
    let mut keys = inner.master.try_clone()?;
    thread::spawn(move || copy(own(rustix::stdio::stdin())?, &mut keys));
    let mut screen = own(rustix::stdio::stdout())?;
    let _ended = copy(inner.master.try_clone()?, &mut screen);
    inner.child.wait().map(drop)
}

fn own(descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<File> {
    let owned: OwnedFd = descriptor.try_clone_to_owned()?;
    Ok(owned.into())
}

fn copy(mut from: File, to: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..read])?;
    }
}

/// Runs a program to its end with nothing attached.
pub(crate) fn run_quietly(command: &[String], environment: &[(&str, String)]) -> io::Result<bool> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let environment = environment.iter().map(|(key, value)| (key, value));
    let mut child = Command::new(program);
    child
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(child.status()?.success())
}
