//! Shared parts of the tests that run the real binary: a temporary home, a broker that can be
//! killed, a terminal to wrap in.
//!
//! A test that needs RabbitMQ, Docker or node looks for it here. With
//! `CBROKER_TEST_OUTSIDE=required`, as in CI, a missing program fails the test; otherwise the test
//! prints that it was skipped. `CBROKER_TEST_RABBITMQ` and `CBROKER_TEST_RABBITMQ_MGMT` name a
//! RabbitMQ that runs already; `CBROKER_TEST_DOCKER` says that tests may use the engine at
//! `DOCKER_HOST`.
//!
//! Include it with `#[path = "../support/mod.rs"] mod support;`.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod certificate;
mod http;
mod place;
mod rabbit;
mod server;
mod terminal;

use std::time::{Duration, Instant};

pub(crate) use certificate::certificate;
pub(crate) use http::{Answer, Request};
pub(crate) use place::{Place, Ran, binary};
pub(crate) use rabbit::Rabbit;
pub(crate) use server::Server;
pub(crate) use terminal::{Terminal, Wrapped};

/// How long a test waits for a state before it fails. It is generous, because test machines are
/// busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until the condition holds. Fails with the text of `otherwise`.
pub(crate) fn wait_until(mut holds: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < until,
            "it did not come to pass: {}",
            otherwise()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a missing outside program is a failure.
pub(crate) fn outside_is_required() -> bool {
    std::env::var_os("CBROKER_TEST_OUTSIDE").is_some_and(|value| value == "required")
}

/// Prints that a test was skipped, or fails if outside programs are required.
pub(crate) fn skip(why: &str) {
    assert!(!outside_is_required(), "required here: {why}");
    eprintln!("skipped: {why}");
}

/// Returns a port that is free at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
