//! `cbroker hook EVENT --socket PATH --token TOKEN` (hidden): what an agent's hook runs.
//!
//! It passes the hook's input on to the wrap and ends, with 0 whatever happens: a hook must never
//! block or break the agent. As a waiter (`EVENT` is `wait`) it stays, until the wrap hands it a
//! text: that goes to standard error, and the exit code 2 makes Claude Code take it in. The token
//! tells the wrap that the caller is a hook of its own agent.
//!
//! Relies on the standard library alone; at most 5 ms from start to end.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::ways::claude_plugin::stream;

/// First argument that makes this binary a hook.
pub(super) const VERB: &str = "hook";
/// The event under which the waiter runs.
pub(super) const WAIT: &str = "wait";
/// The wrap's answer to a waiter that nobody needs.
pub(super) const GO: u8 = b'-';
/// The wrap's answer before a text.
pub(super) const TAKE: u8 = b'+';

/// A wrap that does not take the input within this is as good as gone.
const PATIENCE: Duration = Duration::from_millis(200);
/// Larger inputs are cut: only their beginning is of interest. A prompt may be 64 KiB, a tool's result larger.
const INPUT_LIMIT: u64 = 1 << 20;
/// The length that comes before a message, in bytes.
pub(super) const LENGTH: usize = 4;
/// Exit code that hands standard error to the model.
const DELIVER: i32 = 2;

/// Runs the hook.
pub(super) fn run(arguments: &[OsString]) -> i32 {
    let [event, socket, path, secret @ ..] = arguments else {
        return 0;
    };
    let Some(event) = event.to_str().filter(|_| socket == "--socket") else {
        return 0;
    };
    if event == stream::STREAM {
        return stream::run(path);
    }
    let token = match secret {
        [option, token] if option == "--token" => token.to_str(),
        _ => None,
    };
    let Some(token) = token else {
        return 0;
    };
    let Ok(mut wrap) = UnixStream::connect(path) else {
        return 0;
    };
    let told = tell(&mut wrap, token, event);
    if event == WAIT && told.is_ok() {
        wait(&mut wrap)
    } else {
        0
    }
}

/// Four bytes of length, then token, line break, event, line break, input.
fn tell(wrap: &mut UnixStream, token: &str, event: &str) -> io::Result<()> {
    wrap.set_write_timeout(Some(PATIENCE))?;
    let mut message = vec![0; LENGTH];
    message.extend_from_slice(token.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(event.as_bytes());
    message.push(b'\n');
    let mut input = io::stdin().lock();
    (&mut input).take(INPUT_LIMIT).read_to_end(&mut message)?;
    // An agent must be able to say all that it has to say.
    io::copy(&mut input, &mut io::sink())?;
    let length = u32::try_from(message.len() - LENGTH).map_err(io::Error::other)?;
    message[..LENGTH].copy_from_slice(&length.to_be_bytes());
    wrap.write_all(&message)
}

fn wait(wrap: &mut UnixStream) -> i32 {
    let mut answer = Vec::new();
    // The end of the wrap ends this wait too.
    if wrap.read_to_end(&mut answer).is_err() {
        return 0;
    }
    match answer.split_first() {
        Some((&TAKE, text)) if !text.is_empty() => {
            let shown = io::stderr()
                .write_all(text)
                .and_then(|()| io::stderr().flush());
            if shown.is_ok() { DELIVER } else { 0 }
        }
        _ => 0,
    }
}
