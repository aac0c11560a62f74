//! The store under the real binary: long backlogs, kills, and the memory that they take.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod waiting;
