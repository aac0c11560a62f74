//! AMQP clients of other projects against a real `cbroker serve`: lapin always, pika and amqplib if
//! they are installed.
//!
//! `CBROKER_INTEROP_URL` names another broker to run the same tests against, which shows that they
//! expect nothing special. `run.sh` in this folder runs the vendored test kit, which covers much
//! more.

#![allow(clippy::unwrap_used)]

#[path = "../support/certificate.rs"]
mod certificate;
mod lapin_client;
mod scripts;
mod server;
