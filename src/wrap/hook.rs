//! `cbroker hook EVENT --socket PATH --token-file FILE` (hidden): what an agent's hook runs.
//!
//! It sends the hook's input to the wrap and exits with 0, whatever happens: a hook must never
//! block or break the agent. A waiting hook (`EVENT` is `wait`) runs until the wrap sends it a
//! text. It prints the text to standard error and exits with 2, which makes Claude Code deliver it
//! to the model. Until then it writes lines to the agent's inbox socket on request, which it may do
//! as a child of the agent. The token proves to the wrap that the caller is a hook of its own
//! agent.
//!
//! Relies on little beside the standard library, and must run within 5 ms.

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
/// From the wrap: exit without a text.
pub(super) const RELEASE: u8 = b'-';
/// From the wrap: a text to deliver follows, up to the end of the stream.
pub(super) const DELIVER_TEXT: u8 = b'+';

/// From the wrap: write a line to a socket. The socket's path and the line follow, each as a length
/// and that many bytes. The waiter answers and keeps waiting.
pub(super) const WRITE_LINE: u8 = b'>';
/// Answer: the whole line was written.
pub(super) const LINE_WRITTEN: u8 = b'1';
/// Answer: nothing was written.
pub(super) const LINE_NOT_WRITTEN: u8 = b'0';
/// Answer: the line may have been written.
const LINE_MAYBE_WRITTEN: u8 = b'?';

/// Time limit for sending the input to the wrap.
const WRAP_TIMEOUT: Duration = Duration::from_millis(200);
/// Time limit for writing a line to the inbox socket.
const INBOX_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer inputs are truncated: only their beginning is used. A prompt may have 64 KiB, a tool's
/// result more.
const INPUT_LIMIT: u64 = 1 << 20;
/// Bytes of the length field before a message.
pub(super) const LENGTH_BYTES: usize = 4;
/// The exit code with which Claude Code delivers standard error to the model.
const DELIVER_EXIT_CODE: i32 = 2;

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
        [option, file] if option == "--token-file" => std::fs::read_to_string(file).ok(),
        _ => None,
    };
    let Some(token) = token else {
        return 0;
    };
    let Ok(mut wrap) = UnixStream::connect(path) else {
        return 0;
    };
    let sent = send_event(&mut wrap, &token, event);
    if event == WAIT && sent.is_ok() {
        wait_for_order(&mut wrap)
    } else {
        0
    }
}

/// The agent's variables in the environment of its hooks; empty where a variable is not set.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct AgentEnvironment {
    /// The path of the inbox socket.
    #[serde(default)]
    pub(super) socket: String,
    /// The token of the inbox socket.
    #[serde(default)]
    pub(super) token: String,
    /// The agent's process id.
    #[serde(default)]
    pub(super) pid: String,
    /// The agent's own folder.
    #[serde(default)]
    pub(super) folder: String,
}

impl AgentEnvironment {
    fn read() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self {
            socket: variable("CLAUDE_CODE_MESSAGING_SOCKET"),
            token: variable("CLAUDE_CODE_MESSAGING_TOKEN"),
            pid: variable("CLAUDE_PID"),
            folder: match (variable("CLAUDE_CONFIG_DIR"), variable("HOME")) {
                (folder, _) if !folder.is_empty() => folder,
                (_, home) if !home.is_empty() => format!("{home}/.claude"),
                _ => String::new(),
            },
        }
    }
}

/// Sends four bytes of length, one line each for token, event and environment, and the input.
fn send_event(wrap: &mut UnixStream, token: &str, event: &str) -> io::Result<()> {
    wrap.set_write_timeout(Some(WRAP_TIMEOUT))?;
    let mut message = vec![0; LENGTH_BYTES];
    message.extend_from_slice(token.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(event.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(&serde_json::to_vec(&AgentEnvironment::read())?);
    message.push(b'\n');
    let mut input = io::stdin().lock();
    (&mut input).take(INPUT_LIMIT).read_to_end(&mut message)?;
    // The rest is read too, so that the agent can write all of it.
    io::copy(&mut input, &mut io::sink())?;
    let length = u32::try_from(message.len() - LENGTH_BYTES).map_err(io::Error::other)?;
    message[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    wrap.write_all(&message)
}

fn wait_for_order(wrap: &mut UnixStream) -> i32 {
    let mut order = [0; 1];
    // The read fails when the wrap ends.
    while wrap.read_exact(&mut order).is_ok() {
        match order[0] {
            WRITE_LINE if write_line(wrap).is_ok() => {}
            DELIVER_TEXT => return deliver(wrap),
            _ => return 0,
        }
    }
    0
}

/// Delivers the text to the model.
fn deliver(wrap: &mut UnixStream) -> i32 {
    let mut text = Vec::new();
    if wrap.read_to_end(&mut text).is_err() || text.is_empty() {
        return 0;
    }
    let shown = io::stderr()
        .write_all(&text)
        .and_then(|()| io::stderr().flush());
    if shown.is_ok() { DELIVER_EXIT_CODE } else { 0 }
}

/// Writes a line to a socket, and sends the result to the wrap.
fn write_line(wrap: &mut UnixStream) -> io::Result<()> {
    let socket = read_part(wrap)?;
    let line = read_part(wrap)?;
    let path = PathBuf::from(OsString::from_vec(socket));
    let socket = UnixStream::connect(&path).ok();
    let answer = match socket.filter(|socket| platform::is_own_listener(socket)) {
        None => LINE_NOT_WRITTEN,
        Some(mut socket) => {
            let written = socket
                .set_write_timeout(Some(INBOX_TIMEOUT))
                .and_then(|()| socket.write_all(&line));
            if written.is_ok() {
                LINE_WRITTEN
            } else {
                LINE_MAYBE_WRITTEN
            }
        }
    };
    wrap.write_all(&[answer])
}

fn read_part(wrap: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; LENGTH_BYTES];
    wrap.read_exact(&mut length)?;
    let mut part = vec![0; u32::from_be_bytes(length) as usize];
    wrap.read_exact(&mut part)?;
    Ok(part)
}
