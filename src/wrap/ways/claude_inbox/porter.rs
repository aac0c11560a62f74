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

/// A socket that does not take a line within this is as good as gone.
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

/// Writes the line to the socket, by the hook where one waits.
pub(super) async fn send(porter: Option<Porter>, socket: &Path, line: Bytes) -> Passed {
    if let Some(porter) = porter {
        let passed = porter.carry(socket, line.clone()).await;
        if passed != Passed::NotSent {
            return passed;
        }
    }
    let connecting = tokio::time::timeout(PATIENCE, UnixStream::connect(socket)).await;
    let Ok(Ok(mut stream)) = connecting else {
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

/// Whether somebody listens there.
pub(super) async fn is_open(socket: &Path) -> bool {
    let connecting = tokio::time::timeout(PATIENCE, UnixStream::connect(socket)).await;
    matches!(connecting, Ok(Ok(_)))
}
