//! How a line gets to the inbox socket: through a hook's process that waits, or from here.
//!
//! In a session that asks for no permissions, Claude Code holds a message of an outside process
//! back behind a dialog, whose Enter means "Deny". A message of a process that descends from
//! Claude Code passes: a hook that waits is one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::platform;

/// A socket that does not take a line within this counts as gone.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// All of it was written.
    Sent,
    /// Nothing of it was.
    NotSent,
    /// It may have been.
    Unknown,
}

/// A line for the waiting hook to write.
#[derive(Debug)]
pub struct Errand {
    /// Where to.
    pub socket: PathBuf,
    /// What.
    pub line: Bytes,
    /// Says what became of it.
    pub done: oneshot::Sender<Passed>,
}

/// A hook that waits, as far as it writes lines. It may be gone.
#[derive(Clone, Debug)]
pub struct Porter(mpsc::WeakSender<Errand>);

impl Porter {
    /// Errands go this way, for as long as the hook's own handle lives.
    pub fn new(errands: &mpsc::Sender<Errand>) -> Self {
        Self(errands.downgrade())
    }

    /// The hook still waits.
    pub(super) fn waits(&self) -> bool {
        self.0.upgrade().is_some_and(|errands| !errands.is_closed())
    }

    /// Has the line written by the hook.
    async fn carry(&self, socket: &Path, line: Bytes) -> Passed {
        let Some(errands) = self.0.upgrade() else {
            return Passed::NotSent;
        };
        let (done, heard) = oneshot::channel();
        let socket = socket.to_owned();
        let errand = Errand { socket, line, done };
        if errands.send(errand).await.is_err() {
            return Passed::NotSent;
        }
        drop(errands);
        heard.await.unwrap_or(Passed::Unknown)
    }
}

/// Connects to a socket on which this user's program listens.
async fn connect(socket: &Path) -> Option<UnixStream> {
    let connecting = tokio::time::timeout(PATIENCE, UnixStream::connect(socket)).await;
    let stream = connecting.ok()?.ok()?;
    platform::is_own_listener(&stream).then_some(stream)
}

/// Who may write to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// The hook alone.
    Hook,
    /// The hook where one waits, else this process.
    Any,
}

/// Writes the line to the socket, by the hook where one waits.
pub(super) async fn send(
    porter: Option<Porter>,
    writer: Writer,
    socket: &Path,
    line: Bytes,
) -> Passed {
    if let Some(porter) = porter {
        let passed = porter.carry(socket, line.clone()).await;
        if passed != Passed::NotSent {
            return passed;
        }
    }
    if writer == Writer::Hook {
        return Passed::NotSent;
    }
    let Some(mut stream) = connect(socket).await else {
        return Passed::NotSent;
    };
    let written = async {
        stream.write_all(&line).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(PATIENCE, written).await {
        Ok(Ok(())) => Passed::Sent,
        _ => Passed::Unknown,
    }
}

/// Whether the agent listens there.
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

    /// Says that it listens, and then what it is sent.
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
        let passed = send(None, Writer::Any, &socket, Bytes::from_static(b"secret")).await;
        assert_eq!(passed, Passed::NotSent);
        let mut told = String::new();
        heard.read_to_string(&mut told).unwrap();
        listener.wait().unwrap();
        assert!(!told.contains("secret"), "{told}");
    }

    #[tokio::test]
    async fn a_socket_of_our_own_is_sent_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("1.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        assert!(is_open(&socket).await);
        let line = Bytes::from_static(b"line");
        let passed = send(None, Writer::Hook, &socket, line.clone()).await;
        assert_eq!(passed, Passed::NotSent);
        let passed = send(None, Writer::Any, &socket, line).await;
        assert_eq!(passed, Passed::Sent);
    }
}
