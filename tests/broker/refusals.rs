//! Wrong input and its exact answers, beyond what the vendored kit asks.

use std::io::Read;
use std::time::Duration;

use broker::ClientLimits;
use broker::fault::{Fault, ReplyCode};

use crate::raw::{Raw, long, short};
use crate::running::Running;

fn limits() -> ClientLimits {
    ClientLimits {
        channels: 2,
        queues: 1,
        body_bytes: 100,
        handshake: Duration::from_millis(400),
        ..ClientLimits::default()
    }
}

fn declare(queue: &str) -> Vec<u8> {
    let mut declare = b"\0\0".to_vec();
    declare.extend(short(queue));
    declare.push(0);
    declare.extend(long(b""));
    declare
}

async fn asked(
    running: &Running,
    ask: impl FnOnce(&mut Raw) -> Option<(u16, String)> + Send + 'static,
) -> (u16, String) {
    let port = running.port();
    let answer = tokio::task::spawn_blocking(move || ask(&mut Raw::open(port)));
    answer.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_say_who_they_are_keep_nobody_out() {
    // Only others make the broker end them.
    let limits = ClientLimits {
        handshake: Duration::from_hours(1),
        ..ClientLimits::default()
    };
    let running = Running::with_limits(limits).await;
    let port = running.port();
    let idle = move || std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let waiting = tokio::task::spawn_blocking(move || {
        let mut first = idle();
        let rest: Vec<_> = (0..600).map(|_| idle()).collect();
        first
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        let ended = first.read(&mut [0; 8]);
        drop(Raw::open(port));
        drop(rest);
        ended
    });
    // Closed or reset, but not still open.
    let ended = waiting.await.unwrap();
    let is_open = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!ended.as_ref().is_err_and(is_open), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_before_they_cost_anything() {
    let running = Running::with_limits(limits()).await;
    let answer = asked(&running, |raw| {
        raw.publish(1, "q", &[b'x'; 101]);
        raw.closed()
    });
    assert_eq!(
        answer.await,
        (
            406,
            "PRECONDITION_FAILED - message size 101 is larger than configured max size 100".into()
        )
    );
    let answer = asked(&running, |raw| {
        raw.method(1, (50, 10), &declare("one"));
        raw.expect(1, (50, 11));
        raw.method(1, (50, 10), &declare("two"));
        raw.closed()
    });
    let (code, text) = answer.await;
    assert_eq!(code, 406);
    assert!(
        text.contains("queue limit in vhost '/' (1) is reached"),
        "{text}"
    );
    let answer = asked(&running, |raw| {
        raw.method(2, (20, 10), &short(""));
        raw.expect(2, (20, 11));
        raw.method(3, (20, 10), &short(""));
        raw.closed()
    });
    let text =
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    assert_eq!(answer.await, (530, text.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_longer_than_its_header_said_closes_the_connection() {
    let running = Running::new().await;
    let answer = asked(&running, |raw| {
        let mut publish = b"\0\0\0".to_vec();
        publish.extend(short("q"));
        publish.push(0);
        raw.method(1, (60, 40), &publish);
        raw.header(1, 3);
        raw.frame(3, 1, b"abcd");
        raw.closed()
    });
    assert_eq!(answer.await.0, 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_nests_without_end_is_refused_and_the_broker_lives_on() {
    let running = Running::new().await;
    let answer = asked(&running, |raw| {
        let mut table = Vec::new();
        for _ in 0..4000 {
            let mut outer = short("k");
            outer.push(b'F');
            outer.extend(long(&table));
            table = outer;
        }
        let mut declare = b"\0\0".to_vec();
        declare.extend(short("deep"));
        declare.push(0);
        declare.extend(long(&table));
        raw.method(1, (50, 10), &declare);
        raw.closed()
    });
    assert_eq!(answer.await.0, 502);
    let answer = asked(&running, |raw| {
        raw.method(1, (50, 10), &declare(""));
        raw.expect(1, (50, 11));
        raw.method(1, (50, 99), b"");
        raw.closed()
    });
    assert_eq!(answer.await.0, 540);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stands_still_is_dropped() {
    let running = Running::with_limits(limits()).await;
    let port = running.port();
    let ended = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::silent(port);
        raw.bytes(b"AMQP\0\0\x09\x01");
        raw.expect(0, (10, 10));
        raw.next().is_none()
    });
    assert!(ended.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_dropped_and_one_that_beats_is_kept() {
    let running = Running::new().await;
    let port = running.port();
    let seen = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::logged_in(port, 1);
        let mut beats = 0;
        while let Some((kind, channel, payload)) = raw.next() {
            assert_eq!(
                (kind, channel, payload),
                (8, 0, Vec::new()),
                "nothing but heartbeats"
            );
            beats += 1;
        }
        beats
    });
    assert!(
        seen.await.unwrap() > 0,
        "it was sent heartbeats until it was dropped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_of_a_shutdown_and_of_a_deleted_vhost() {
    let mut running = Running::new().await;
    let port = running.port();
    let told = tokio::task::spawn_blocking(move || Raw::open(port).closed());
    let state = running.broker().state().clone();
    while state.links().iter().all(|link| link.channel_count() == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop().await;
    let (code, text) = told.await.unwrap().unwrap();
    assert_eq!(code, 320);
    assert!(text.starts_with("CONNECTION_FORCED - "), "{text}");
    let fault = Fault::connection(ReplyCode::ConnectionForced, "vhost 'v' is deleted");
    assert_eq!(fault.text(), "CONNECTION_FORCED - vhost 'v' is deleted");
}
