//! The embedded broker from outside: a real client, and frames written by hand where a client would not send them.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod backlog;
mod blocked;
mod doors;
mod promises;
mod raw;
mod refusals;
mod running;
