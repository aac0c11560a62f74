//! `cbroker hook EVENT --socket PATH --token TOKEN` (hidden): what an agent's hook runs.
//!
//! It passes the hook's input on to the wrap and ends, with 0 whatever happens: a hook must never
//! block or break the agent. As a waiter (`EVENT` is `wait`) it stays, until the wrap hands it a
//! text: that goes to standard error, and the exit code 2 makes Claude Code take it in. Until then
//! it writes to the agent's inbox socket what the wrap gives it, since it is a child of the agent.
//! The token tells the wrap that the caller is a hook of its own agent.
//!
//! Relies on little beside the standard library; at most 5 ms from start to end.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::platform;

use super::ways::claude_plugin::stream;

/// First argument that makes this binary a hook.
pub(super) const VERB: &str = "hook";
/// The event under which the waiter runs.
pub(super) const WAIT: &str = "wait";
/// The wrap's answer to a waiter that is not needed.
pub(super) const GO: u8 = b'-';
/// The wrap's answer before a text.
pub(super) const TAKE: u8 = b'+';

/// The wrap's order to write a line to a socket: behind it the length and the bytes of the socket's
/// path, and of the line. The waiter answers and waits on.
pub(super) const PASS: u8 = b'>';
/// The answer: all of it was written.
pub(super) const PASSED: u8 = b'1';
/// The answer: nothing of it was.
pub(super) const NOT_PASSED: u8 = b'0';
/// The answer: it may have been.
const PERHAPS_PASSED: u8 = b'?';

/// A wrap that does not take the input within this counts as gone.
const PATIENCE: Duration = Duration::from_millis(200);
/// An inbox that does not take a line within this counts as gone.
const INBOX_PATIENCE: Duration = Duration::from_secs(2);
/// Larger inputs are cut: only their beginning is of interest. A prompt may be 64 KiB, a tool's
/// result larger.
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
    let sent = send_event(&mut wrap, token, event);
    if event == WAIT && sent.is_ok() {
        wait(&mut wrap)
    } else {
        0
    }
}

/// What the environment of the agent's hooks says of the agent; empty where it says nothing.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AgentEnvironment {
    /// The path of a socket.
    #[serde(default)]
    pub(super) socket: String,
    /// What it may ask for.
    #[serde(default)]
    pub(super) token: String,
    /// The agent's process.
    #[serde(default)]
    pub(super) pid: String,
    /// The agent's own folder.
    #[serde(default)]
    pub(super) folder: String,
}

impl AgentEnvironment {
    fn of_environment() -> Self {
        let named = |name| std::env::var(name).unwrap_or_default();
        Self {
            socket: named("CLAUDE_CODE_MESSAGING_SOCKET"),
            token: named("CLAUDE_CODE_MESSAGING_TOKEN"),
            pid: named("CLAUDE_PID"),
            folder: match (named("CLAUDE_CONFIG_DIR"), named("HOME")) {
                (folder, _) if !folder.is_empty() => folder,
                (_, home) if !home.is_empty() => format!("{home}/.claude"),
                _ => String::new(),
            },
        }
    }
}

/// Four bytes of length, then a line each for token, event and environment, then the input.
fn send_event(wrap: &mut UnixStream, token: &str, event: &str) -> io::Result<()> {
    wrap.set_write_timeout(Some(PATIENCE))?;
    let mut message = vec![0; LENGTH];
    message.extend_from_slice(token.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(event.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(&serde_json::to_vec(&AgentEnvironment::of_environment())?);
    message.push(b'\n');
    let mut input = io::stdin().lock();
    (&mut input).take(INPUT_LIMIT).read_to_end(&mut message)?;
    // The agent must be able to write all of its input.
    io::copy(&mut input, &mut io::sink())?;
    let length = u32::try_from(message.len() - LENGTH).map_err(io::Error::other)?;
    message[..LENGTH].copy_from_slice(&length.to_be_bytes());
    wrap.write_all(&message)
}

fn wait(wrap: &mut UnixStream) -> i32 {
    let mut order = [0; 1];
    // The end of the wrap ends this wait too.
    while wrap.read_exact(&mut order).is_ok() {
        match order[0] {
            PASS if pass(wrap).is_ok() => {}
            TAKE => return take(wrap),
            _ => return 0,
        }
    }
    0
}

/// Hands the text to the model.
fn take(wrap: &mut UnixStream) -> i32 {
    let mut text = Vec::new();
    if wrap.read_to_end(&mut text).is_err() || text.is_empty() {
        return 0;
    }
    let shown = io::stderr()
        .write_all(&text)
        .and_then(|()| io::stderr().flush());
    if shown.is_ok() { DELIVER } else { 0 }
}

/// Writes a line to a socket, and tells the wrap what became of it.
fn pass(wrap: &mut UnixStream) -> io::Result<()> {
    let socket = read_part(wrap)?;
    let line = read_part(wrap)?;
    let path = PathBuf::from(OsString::from_vec(socket));
    let socket = UnixStream::connect(&path).ok();
    let answer = match socket.filter(|socket| platform::is_own_listener(socket)) {
        None => NOT_PASSED,
        Some(mut socket) => {
            let written = socket
                .set_write_timeout(Some(INBOX_PATIENCE))
                .and_then(|()| socket.write_all(&line));
            if written.is_ok() {
                PASSED
            } else {
                PERHAPS_PASSED
            }
        }
    };
    wrap.write_all(&[answer])
}

fn read_part(wrap: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; LENGTH];
    wrap.read_exact(&mut length)?;
    let mut part = vec![0; u32::from_be_bytes(length) as usize];
    wrap.read_exact(&mut part)?;
    Ok(part)
}
