//! cbroker: terminal coding agents that talk to each other.

pub mod clean;
pub mod cli;
pub mod commands;
pub mod config;
pub mod container;
pub mod daemon;
pub mod envelope;
pub mod error;
pub mod exit;
pub mod management;
pub mod message_history;
pub mod name;
mod nearest;
pub mod output;
pub mod panics;
pub mod peer;
mod platform;
pub mod transport;
pub mod wrap;
