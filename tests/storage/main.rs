//! The store under the real binary: long backlogs, kills, and memory.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod waiting;
