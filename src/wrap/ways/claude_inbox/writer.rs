//! Writes lines to the inbox socket, either through a waiting hook or from this process.
//!
//! In a session that bypasses permissions, Claude Code holds a message of an outside process behind
//! a dialog, where Enter means "Deny". It accepts messages of processes that descend from it, such
//! as a waiting hook.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::platform;

/// Time limit for connecting to the socket, and for writing a line.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// The whole line was written.
    Written,
    /// Nothing was written.
    NotWritten,
    /// The line may have been written, in whole or in part.
    Unknown,
}

/// A line that a waiting hook is to write.
#[derive(Debug)]
pub struct InboxWrite {
    /// The path of the inbox socket.
    pub socket: PathBuf,
    /// The line.
    pub line: Bytes,
    /// Receives the result.
    pub done: oneshot::Sender<WriteResult>,
}

/// Writes lines through a waiting hook, which may have ended.
#[derive(Clone, Debug)]
pub struct HookWriter(mpsc::WeakSender<InboxWrite>);

impl HookWriter {
    /// Creates a writer that works for as long as the hook's own sender exists.
    pub fn new(writes: &mpsc::Sender<InboxWrite>) -> Self {
        Self(writes.downgrade())
    }

    /// Whether the hook still waits.
    pub(super) fn is_available(&self) -> bool {
        self.0.upgrade().is_some_and(|writes| !writes.is_closed())
    }

    /// Has the hook write the line.
    async fn write(&self, socket: &Path, line: Bytes) -> WriteResult {
        let Some(writes) = self.0.upgrade() else {
            return WriteResult::NotWritten;
        };
        let (done, result) = oneshot::channel();
        let socket = socket.to_owned();
        let write = InboxWrite { socket, line, done };
        if writes.send(write).await.is_err() {
            return WriteResult::NotWritten;
        }
        drop(writes);
        result.await.unwrap_or(WriteResult::Unknown)
    }
}

/// Connects to a socket if the listening process belongs to this user.
async fn connect(socket: &Path) -> Option<UnixStream> {
    let connecting = tokio::time::timeout(WRITE_TIMEOUT, UnixStream::connect(socket)).await;
    let stream = connecting.ok()?.ok()?;
    platform::is_own_listener(&stream).then_some(stream)
}

/// Which process may write to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllowedWriter {
    /// Only the hook.
    Hook,
    /// The hook if one waits, otherwise this process.
    Any,
}

/// Writes a line to the socket, through the hook if one waits.
pub(super) async fn send(
    hook_writer: Option<HookWriter>,
    allowed: AllowedWriter,
    socket: &Path,
    line: Bytes,
) -> WriteResult {
    if let Some(hook_writer) = hook_writer {
        let result = hook_writer.write(socket, line.clone()).await;
        if result != WriteResult::NotWritten {
            return result;
        }
    }
    if allowed == AllowedWriter::Hook {
        return WriteResult::NotWritten;
    }
    let Some(mut stream) = connect(socket).await else {
        return WriteResult::NotWritten;
    };
    let written = async {
        stream.write_all(&line).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(WRITE_TIMEOUT, written).await {
        Ok(Ok(())) => WriteResult::Written,
        _ => WriteResult::Unknown,
    }
}

/// Whether the agent listens on this socket.
pub(super) async fn is_open(socket: &Path) -> bool {
    connect(socket).await.is_some()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Prints `ready` once it listens, and then what it receives.
    const LISTENER: &str = "import socket, sys\nserver = socket.socket(socket.AF_UNIX)\n\
        server.bind(sys.argv[1])\nserver.listen()\nprint('ready', flush=True)\n\
        for _ in range(2):\n  print(server.accept()[0].recv(100))\n";

    #[tokio::test]
    async fn a_socket_of_another_user_in_a_shared_folder_is_sent_nothing() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root starts a listener of another user");
            return;
        }
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let shared = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(folder.path(), shared).unwrap();
        let socket = folder.path().join("1.sock");
        let mut listener = Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--clear-groups",
                "/usr/bin/python3",
                "-I",
                "-c",
            ])
            .args([LISTENER, socket.to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut heard = BufReader::new(listener.stdout.take().unwrap());
        let mut ready = String::new();
        heard.read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        assert!(!is_open(&socket).await);
        let result = send(
            None,
            AllowedWriter::Any,
            &socket,
            Bytes::from_static(b"secret"),
        )
        .await;
        assert_eq!(result, WriteResult::NotWritten);
        let mut received = String::new();
        heard.read_to_string(&mut received).unwrap();
        listener.wait().unwrap();
        assert!(!received.contains("secret"), "{received}");
    }

    #[tokio::test]
    async fn a_socket_of_our_own_is_sent_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("1.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        assert!(is_open(&socket).await);
        let line = Bytes::from_static(b"line");
        let result = send(None, AllowedWriter::Hook, &socket, line.clone()).await;
        assert_eq!(result, WriteResult::NotWritten);
        let result = send(None, AllowedWriter::Any, &socket, line).await;
        assert_eq!(result, WriteResult::Written);
    }
}
