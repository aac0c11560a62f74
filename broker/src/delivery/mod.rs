//! What lies between a queue and a client: deliveries on their way out, their acknowledgements, and
//! the confirms of publishers.
//!
//! ```text
//! queue ──pump──► ledger ──frames──► outbox ──► connection's writer
//!   ▲               │ ack, nack, reject
//!   └───────────────┘
//! store ──durable up to──► confirms ──ack, nack──► outbox
//! effects: what the steps above leave to do after their locks are released
//! ```
//!
//! - [`ledger`]: the unsettled deliveries of one channel, by delivery tag.
//! - [`outbox`]: the frames of one connection that are not sent yet.
//! - [`confirms`]: the publishes of one channel that are not confirmed yet.
//! - [`effects`]: the side effects of one unit of work.
//! - [`cascade`]: dead letters on their way, and those that wait for a later unit of work.
//! - [`ends`]: messages that ended in the broker, for the program that observes them.
//! - [`budget`]: how much one unit of work may do.
//!
//! `queue` and the first four use each other, `cascade` uses them. Lock order: queue → ledger
//! → outbox, and queue → confirms → outbox.

pub(crate) mod budget;
pub(crate) mod cascade;
pub(crate) mod confirms;
pub(crate) mod effects;
pub(crate) mod ends;
pub(crate) mod ledger;
pub(crate) mod outbox;
