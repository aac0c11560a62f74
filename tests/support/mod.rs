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
pub(crate) mod http;
mod place;
pub(crate) mod process;
mod rabbit;
mod server;
mod started;
mod terminal;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use certificate::certificate;
pub(crate) use http::{Answer, PageLogin, Request};
pub(crate) use place::{Place, Ran, binary};
pub(crate) use rabbit::Rabbit;
pub(crate) use server::Server;
pub(crate) use started::start_broker;
pub(crate) use terminal::{Terminal, Wrapped};

/// How long a test waits for a state before it fails. It is generous, because test machines are
/// busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

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

/// Returns a port that is free on both loopback addresses, another one at each call.
///
/// It lies below the ports that systems give out themselves (from 32768 on Linux), so that it stays
/// free: nothing that binds port 0 or connects gets it while a broker is down or not yet there.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 16_000;
    const COUNT: u32 = 16_000;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // Other test processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(61);
    loop {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(call) % COUNT;
        let port = u16::try_from(port).unwrap();
        // Any other error means that the machine has no such address.
        let is_taken = |address: IpAddr| {
            TcpListener::bind((address, port))
                .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        };
        if !is_taken(Ipv4Addr::LOCALHOST.into()) && !is_taken(Ipv6Addr::LOCALHOST.into()) {
            return port;
        }
    }
}
