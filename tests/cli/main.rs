//! The real binary, verb by verb, and row by row of the TypeScript tool's README.
//!
//! What speaks AMQP runs against the embedded broker and, where there is one, against RabbitMQ (`everywhere`).

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../support/mod.rs"]
mod support;

mod agreement;
mod asking;
mod client;
mod crashes;
mod demo;
mod docker;
mod everywhere;
mod help;
mod lifecycle;
mod looking;
mod moving;
mod remote;
mod sending;
mod serving;
mod sessions;
mod strangers;
mod usage;
