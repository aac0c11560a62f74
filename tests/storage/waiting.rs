//! Many waiting messages: their memory, and that all are there after a kill.
//!
//! `CBROKER_SOAK_WAITING` sets their number (`just soak`: a million).

use std::time::Instant;

use crate::client::Client;
use crate::support::process::{file_kib, peak_kib};
use crate::support::{Place, Server};

const WAITING: u64 = 50_000;
const BODY_BYTES: usize = 256;
const AT_ONCE: u64 = 1000;
/// The program's own pages are 10 MiB where it is built for use, which makes 300 and 64.
const FILLING_MIB: u64 = 290;
const DRAINING_MIB: u64 = 54;

/// Never twice the same.
fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    let mut seed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while body.len() < BODY_BYTES {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        body.extend(seed.to_be_bytes());
    }
    body
}

/// Returns the peak memory of a process in MiB, without the pages of its program, which are 45 MiB
/// in a debug build.
fn peak_mib(pid: u32) -> u64 {
    (peak_kib(pid) - file_kib(pid)).div_ceil(1024)
}

#[test]
fn a_long_backlog_outlives_kill_9_and_comes_out_in_order_through_little_memory() {
    let waiting =
        std::env::var("CBROKER_SOAK_WAITING").map_or(WAITING, |count| count.parse().unwrap());
    let place = Place::new();
    let guest = &["--allow-guest"];
    let mut server = Server::start_with(&place, 0, 0, guest);
    let began = Instant::now();
    let (mut client, count) = Client::open(server.port);
    assert_eq!(count, 0);
    client.fill(waiting, AT_ONCE, body);
    let filling = peak_mib(server.pid());
    eprintln!(
        "{waiting} confirmed in {:.1?}, peak {filling} MiB",
        began.elapsed()
    );
    server.kill();

    let began = Instant::now();
    let server = Server::start_with(&place, 0, 0, guest);
    let (mut client, count) = Client::open(server.port);
    eprintln!(
        "accepting connections {:.3?} after the kill, peak {} MiB",
        began.elapsed(),
        peak_mib(server.pid())
    );
    assert_eq!(count, waiting);
    let began = Instant::now();
    client.drain(waiting, body);
    client.close();
    let draining = peak_mib(server.pid());
    eprintln!("drained in {:.1?}, peak {draining} MiB", began.elapsed());
    assert_eq!(Client::open(server.port).1, 0);
    assert!(filling < FILLING_MIB, "{filling} MiB while filling");
    assert!(draining < DRAINING_MIB, "{draining} MiB while draining");
}
