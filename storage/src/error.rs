//! Failures, by who has to act on them.
//!
//! [`OpenError`] goes to the person who starts a broker, [`ReadError`] to the queue that wanted a slice,
//! [`Stopped`] to everybody: after it nothing more is promised.

use std::path::PathBuf;
use std::sync::Arc;

/// Why a folder could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder. It must be ended first, or another folder chosen.
    #[error("the store {} is in use by {}", folder.display(), holder_text(*.holder))]
    InUse {
        /// The store's folder.
        folder: PathBuf,
        /// The process that holds it, where it has written its number down.
        holder: Option<u32>,
    },
    /// The folder was written by a newer program.
    #[error("the store {} has format {found}, this program reads up to {known}: use the newer program", folder.display())]
    Newer {
        /// The store's folder.
        folder: PathBuf,
        /// The version found on disk.
        found: u16,
        /// The newest version that this program knows.
        known: u16,
    },
    /// The disk has no room even for opening; nothing was changed.
    #[error("no room on the disk of the store {}: free some space and start again", folder.display())]
    NoRoom {
        /// The store's folder.
        folder: PathBuf,
    },
    /// The operating system refused something.
    #[error("the store {} cannot be {doing}: {source}", folder.display())]
    Io {
        /// The store's folder.
        folder: PathBuf,
        /// What was being done, as a participle: "created", "locked".
        doing: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// The rows could not be read even after every repair; everything was kept where it was.
    #[error("the store {} cannot be read after every repair: {reason}; nothing was deleted", folder.display())]
    Unreadable {
        /// The store's folder.
        folder: PathBuf,
        /// What the engine said last.
        reason: String,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// Why a slice of a queue could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Some messages are damaged on disk. They are left there untouched; reading may go on at `next`.
    #[error("messages of queue {queue} from {first} up to {next} are damaged on disk")]
    Damaged {
        /// The queue read.
        queue: u64,
        /// The first sequence that the damage may cover.
        first: u64,
        /// The first sequence after it.
        next: u64,
    },
    /// The disk is full and the engine waits for room; try again after [`crate::Progress::Room`].
    #[error("the store waits for room on the disk")]
    NoRoom,
    /// The store has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The store has stopped for good: nothing after the last durable ticket is promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store has stopped: {reason}")]
pub struct Stopped {
    /// What went wrong, for the log.
    pub reason: Arc<str>,
}

impl Stopped {
    pub(crate) fn because(reason: impl AsRef<str>) -> Self {
        Self {
            reason: Arc::from(reason.as_ref()),
        }
    }

    pub(crate) fn closed() -> Self {
        Self::because("it was closed")
    }
}
