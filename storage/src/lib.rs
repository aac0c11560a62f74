//! A durable message store: one append-only log of keyed frames, with sled for its index.
//!
//! The caller appends, settles and puts; each call returns a [`Ticket`], and the store says how far
//! it is durable. A commit is one frame, one write and one `fdatasync`; each large body has a sync
//! of its own before it. `docs/storage.md` has every byte.
//!
//! Where a message's bytes are:
//!
//! 1. From the call until its commit: in a chunk of its queue, a buffer of about 64 KiB
//!    ([`pending`]). A batch gathers, is closed, and is committed. A message that is settled before
//!    the committer takes its batch is never written. A dead letter, or a message whose publisher
//!    waits for a confirm, is left out only if it is settled while its batch gathers, or if its
//!    queue is purged or dropped.
//! 2. After its commit: in a group of messages in a frame of a segment ([`frame`], [`log`]); a body
//!    of more than 1 MiB in a file of its own. A run of the queue says where ([`extent`],
//!    [`index`]). The chunk is freed when the frame is durable.
//! 3. After its segment was compacted: in a copy at the end of the log ([`tidying`]).
//! 4. After it was settled: its bytes stay until no message in their segment is live, and a range
//!    of its queue marks it as settled. The tidying thread then marks the segment free, and its
//!    file is used again or removed.
//!
//! ```text
//! store       the calls, reading             terms       numbers, options, errors
//! handover    batches, shards, tickets       pending     messages that wait for their commit
//! committer   the thread that writes frames  log         slots, segments, switching to the next
//! frame       every byte of the log          extent      one queue: numbers, runs of extents
//! index       all queues, from records       tidying     compaction, and the tidying thread
//! checkpoint  the index in sled              recovery    files to index, damage
//! disk        file system, lock              engine      sled
//! read_plan   reads that are made later
//! ```
//! Knows no AMQP and no tokio.

pub mod disk;
pub mod engine;
pub mod frame;

mod checkpoint;
mod committer;
mod extent;
mod handover;
mod index;
mod log;
mod pending;
mod read_plan;
mod recovery;
mod store;
mod terms;
mod tidying;

pub use read_plan::{ReadLimit, ReadPlan};
pub use store::{CommitPause, Opened, Store};
pub use terms::{
    Definitions, OpenError, OpenReport, Options, ParseFailure, PendingAccount, QueueId, ReadError,
    Recovered, Sequence, Settled, Stopped, StoreEvent, Stored, Ticket, Urgency,
};
