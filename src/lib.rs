//! cbroker: terminal coding agents that talk to each other.

pub mod config;
pub mod envelope;
pub mod error;
pub mod exit;
pub mod journal;
pub mod name;
pub mod peer;
pub mod wrap;
