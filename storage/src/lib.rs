//! A durable message store: rows in sled, made trustworthy, and written in groups.
//!
//! The caller appends, settles and puts; each call returns a [`Ticket`], and the store tells how far it is durable.
//!
//! ```text
//! store      the calls                         error      who must act
//! inbox      hand-over, shards, tickets        pending    one queue's waiting messages, elision
//! bell       how soon a commit is wanted       committer  the one thread that writes
//! committed  a group of work → changes         settling   floors, marks, deletions
//! steps      changes in a safe order           rows       slices of the engine
//! reading    slices of a queue                 gap        the way over what cannot be read
//! recovery   rows → facts and counts           folder     lock, room, place of the rows
//! repair     opening after a fault, by steps   rewrite    copies of rows: compaction, salvage
//! segments   sled's file, for repairs
//! engine     what is asked of sled, and sled   disk       what the committer asks of the place
//! journal    a file of small commits           journaled  it and sled as one engine
//! key, record   every byte, see docs/storage.md
//! ```
//! Knows no AMQP and no tokio.

pub mod disk;
pub mod engine;
pub mod error;
pub mod key;
pub mod record;

mod bell;
mod committed;
mod committer;
mod folder;
mod gap;
mod inbox;
mod journal;
mod journaled;
mod pending;
mod reading;
mod recovery;
mod repair;
mod rewrite;
mod rows;
mod segments;
mod settling;
mod steps;
mod store;
mod terms;

pub use error::{OpenError, ReadError, Stopped};
pub use store::{Opened, Store};
pub use terms::{
    Options, Progress, QueueId, Recovered, Report, Sequence, Settled, Ticket, Urgency,
};
