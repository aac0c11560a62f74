//! `cbroker hook stream --socket PATH` (hidden): forwards orders to the plugin's module.
//!
//! The module starts it with the token on its standard input. It requests the orders from the
//! session's socket and prints them, one object a line, until the session or the reader of its
//! output ends: the plugin's process may be killed at any time.
//!
//! Relies only on the standard library and rustix, so that it starts quickly.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde::Deserialize;

/// The hook event that selects it.
pub const STREAM: &str = "stream";
/// Maximum bytes of standard input.
const INPUT_LIMIT: u64 = 4096;
/// Time limit for the session's response.
const PATIENCE: Duration = Duration::from_secs(5);
const PIECE: usize = 64 * 1024;

#[derive(Deserialize)]
struct Introduction {
    token: String,
    instance: String,
}

/// Runs until the session or the reader has ended, and returns the exit code.
pub fn run(socket: &OsString) -> i32 {
    i32::from(stream(socket).is_err())
}

fn stream(socket: &OsString) -> io::Result<()> {
    let mut input = Vec::new();
    io::stdin().take(INPUT_LIMIT).read_to_end(&mut input)?;
    let introduction: Introduction = serde_json::from_slice(&input)?;
    let mut session = UnixStream::connect(socket)?;
    session.set_read_timeout(Some(PATIENCE))?;
    session.set_write_timeout(Some(PATIENCE))?;
    session.write_all(request(&introduction)?.as_bytes())?;
    let mut session = BufReader::with_capacity(PIECE, session);
    read_head(&mut session)?;
    session.get_ref().set_read_timeout(None)?;
    pass_on(&mut session)
}

fn request(introduction: &Introduction) -> io::Result<String> {
    let Introduction { token, instance } = introduction;
    if [token, instance]
        .iter()
        .any(|value| value.chars().any(char::is_control))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(format!(
        "GET /orders HTTP/1.0\r\nhost: cbroker\r\ntoken: {token}\r\ninstance: {instance}\r\n\r\n"
    ))
}

/// Reads the answer up to its body.
fn read_head(session: &mut impl BufRead) -> io::Result<()> {
    let mut status = String::new();
    session.read_line(&mut status)?;
    if status.split(' ').nth(1) != Some("200") {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut header = String::new();
    while session.read_line(&mut header)? > "\r\n".len() {
        header.clear();
    }
    Ok(())
}

fn pass_on(session: &mut BufReader<UnixStream>) -> io::Result<()> {
    let mut output = io::stdout();
    loop {
        if session.buffer().is_empty() {
            let mut ends = [
                PollFd::new(session.get_ref(), PollFlags::IN),
                // Linux reports a hangup unasked; macOS only where it is asked for.
                PollFd::from_borrowed_fd(rustix::stdio::stdout(), PollFlags::HUP),
            ];
            poll(&mut ends, None)?;
            if !ends[1].revents().is_empty() {
                return Ok(());
            }
        }
        let orders = session.fill_buf()?;
        if orders.is_empty() {
            return Ok(());
        }
        let count = orders.len();
        output.write_all(orders)?;
        output.flush()?;
        session.consume(count);
    }
}
