//! Other people's AMQP clients against a real `cbroker serve`: lapin always, pika and amqplib where they are installed.
//!
//! `CBROKER_INTEROP_URL` names another broker to run the same tests on, which shows that they ask nothing special.
//! `run.sh` beside this file runs the vendored kit, which asks far more.

#![allow(clippy::unwrap_used)]

#[path = "../support/certificate.rs"]
mod certificate;
mod lapin_client;
mod scripts;
mod server;
