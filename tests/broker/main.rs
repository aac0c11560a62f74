//! The embedded broker from outside: a real client, and frames written by hand where a client would
//! not send them.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod backlog;
mod blocked;
mod bodies;
#[cfg(target_os = "linux")]
mod clocks;
mod commit_memory;
mod credit;
mod crowds;
#[cfg(target_os = "linux")]
mod dead_peers;
mod deletions;
mod full_at_start;
mod held_memory;
mod kills;
mod letter_kills;
mod letter_memory;
mod loaded;
mod login;
mod loopback;
mod many_keys;
mod memory;
#[cfg(target_os = "linux")]
mod power;
mod promises;
mod raw;
mod real;
mod refusals;
mod reported_state;
mod running;
mod stopping;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod topology;
mod transactions;
mod unix_socket;
mod unread;
mod unreadable;
mod work_units;
