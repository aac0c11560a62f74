//! Access to the files that the surrounding program keeps for its user, for the page: the
//! conversation, the dead letters, and the commands that open sessions. Depends on nothing.
//!
//! The broker passes JSON texts on without parsing them.

use std::error::Error;
use std::fmt::Debug;
use std::io;

/// A JSON text, or why there is none.
pub type ArchiveResult = Result<String, ArchiveError>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no entry of that name.
    #[error("nothing of that name is kept")]
    Missing,
    /// It could not be read from disk.
    #[error("cannot read what is kept: {0}")]
    Unreadable(#[from] io::Error),
    /// It could not be sent again.
    #[error("it was not sent: {0}")]
    NotSent(#[source] Box<dyn Error + Send + Sync>),
    /// Another user may have published it, and the request did not agree to that.
    #[error("the broker does not vouch that your user published it; yes=true sends it as yours")]
    NotVouched,
    /// It would take more memory than the caller may hold.
    #[error("this user makes the broker hold too much already")]
    TooMuch,
}

/// Charges memory while a response is built. Called with the total of bytes held for it so far.
pub type ArchiveCharge<'a> = &'a mut dyn FnMut(usize) -> Result<(), ArchiveError>;

/// The stored data. Every function may wait for the disk, and [`Archive::resend`] for the broker
/// too, so they run on threads of their own.
pub trait Archive: Debug + Send + Sync {
    /// Whether these are the credentials stored for the local user. A program that has them can
    /// also read the files.
    fn is_stored_login(&self, user: &str, password: &str) -> bool;

    /// The latest messages of the conversation, oldest first, and what became of each. Long texts
    /// are cut. `known` is the version of an earlier response: where nothing has changed since, the
    /// messages are left out.
    fn conversation(&self, known: Option<&str>, charge: ArchiveCharge<'_>) -> ArchiveResult;

    /// One message to the session `queue`, with its whole text if that is kept. `publisher` is the
    /// mark that the conversation gives a message of another user; the user's own have none.
    fn message(&self, queue: &str, id: &str, publisher: Option<&str>) -> ArchiveResult;

    /// The command that opens each session as it was opened last, by the sessions' names.
    fn openings(&self, charge: ArchiveCharge<'_>) -> ArchiveResult;

    /// The latest dead letters, oldest first, with the beginning of each body. Those of other users
    /// have a limit of their own.
    fn dead_letters(&self, charge: ArchiveCharge<'_>) -> ArchiveResult;

    /// One dead letter, with all that is kept of its body.
    fn dead_letter(&self, id: &str) -> ArchiveResult;

    /// Drops one dead letter for good.
    fn drop_dead_letter(&self, id: &str) -> ArchiveResult;

    /// Sends one dead letter to its session again, and drops it once that is confirmed. One that
    /// another user may have published is sent only where `is_agreed` says so: it goes as the
    /// user's own.
    fn resend(&self, id: &str, is_agreed: bool) -> ArchiveResult;
}
