//! Wrong input and its exact answers, beyond what the vendored kit asks.

use std::io::{self, Read, Write};
use std::time::Duration;

use broker::ClientLimits;
use broker::fault::{Fault, ReplyCode};

use crate::loaded::{declaring, publishing};
use crate::raw::{Raw, long, short};
use crate::running::Running;

fn limits() -> ClientLimits {
    ClientLimits {
        channels: 2,
        queues: 1,
        body_bytes: 100,
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
    let ended = waiting.await.unwrap();
    assert!(is_over(&ended), "{ended:?}");
}

/// Whether a connection was closed or reset, after this read of it: it is not still open.
fn is_over(read: &io::Result<usize>) -> bool {
    match read {
        Ok(bytes) => *bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
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
    let limits = ClientLimits {
        handshake: Duration::from_millis(400),
        ..ClientLimits::default()
    };
    let running = Running::with_limits(limits).await;
    let port = running.port();
    let ended = tokio::task::spawn_blocking(move || {
        let mut stream = Raw::silent(port).stream();
        // On a busy machine the time may be over before the broker gets it or sends its answer.
        let _ = stream.write_all(b"AMQP\0\0\x09\x01");
        loop {
            let read = stream.read(&mut [0; 1024]);
            if read.as_ref().map_or(true, |bytes| *bytes == 0) {
                break read;
            }
        }
    });
    let ended = ended.await.unwrap();
    assert!(is_over(&ended), "{ended:?}");
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
    while state
        .connections()
        .iter()
        .all(|link| link.channel_count() == 0)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop().await;
    let (code, text) = told.await.unwrap().unwrap();
    assert_eq!(code, 320);
    assert!(text.starts_with("CONNECTION_FORCED - "), "{text}");
    let fault = Fault::connection(ReplyCode::ConnectionForced, "vhost 'v' is deleted");
    assert_eq!(fault.text(), "CONNECTION_FORCED - vhost 'v' is deleted");
}

/// Properties with this content type.
fn content_type(value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    [&b"\x80\0"[..], &[length], value].concat()
}

/// Properties with a header table of one long string.
fn one_header(name: &[u8], bytes: usize) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    let table = [&[length], name, b"S", &long(&vec![b'x'; bytes])].concat();
    [&b"\x20\0"[..], &long(&table)].concat()
}

/// Clients end their connection at such a delivery, get it again, and hear nothing behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_client_can_read_is_refused() {
    let running = Running::new().await;
    let nested = {
        let inside = [&b"\x01\xffS"[..], &long(b"x")].concat();
        let table = [&b"\x01tF"[..], &long(&inside)].concat();
        [&b"\x20\0"[..], &long(&table)].concat()
    };
    for (properties, why) in [
        (content_type(b"\xff"), "content_type is not UTF-8"),
        (one_header(b"\xff", 1), "the name of a header is not UTF-8"),
        (nested, "the name of a header is not UTF-8"),
        (
            one_header(b"h", 131_000),
            "are larger than the maximum of 130560",
        ),
    ] {
        let publish = publishing(1, ("", "q"), 0, &properties, b"x");
        let answer = asked(&running, move |raw| {
            raw.bytes(&publish);
            raw.closed()
        });
        let (code, text) = answer.await;
        assert_eq!(code, 406);
        assert!(text.contains(why), "{text}");
    }
    let answer = asked(&running, |raw| {
        raw.method(1, (60, 40), b"\0\0\0\x01\xff\0");
        raw.header(1, 0);
        raw.closed()
    });
    assert!(answer.await.1.contains("the routing key is not UTF-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_text_or_large_still_goes_through() {
    let running = Running::new().await;
    let port = running.port();
    let reading = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::open(port);
        raw.method(1, (50, 10), &declaring("q", b"\0"));
        raw.expect(1, (50, 11));
        for properties in [
            content_type("tèxt".as_bytes()),
            one_header("größe".as_bytes(), 130_000),
        ] {
            raw.bytes(&publishing(1, ("", "q"), 0, &properties, b"x"));
            raw.method(1, (60, 70), &[&b"\0\0"[..], &short("q"), b"\x01"].concat());
            raw.expect(1, (60, 71));
            let (_, _, header) = raw.next().unwrap();
            assert_eq!(header[12..], properties);
            raw.next().unwrap();
        }
    });
    reading.await.unwrap();
}

/// Declares a queue whose dead letters go to another one, with further arguments.
fn declare_dying(raw: &mut Raw, queue: &str, target: &str, further: &[u8]) {
    let text = |name: &[u8], value: &[u8]| {
        let length = u8::try_from(name.len()).unwrap();
        [&[length], name, b"S", &long(value)].concat()
    };
    let mut arguments = text(b"x-dead-letter-exchange", b"");
    arguments.extend(text(b"x-dead-letter-routing-key", target.as_bytes()));
    arguments.extend(further);
    let declare = [&b"\0\0"[..], &short(queue), b"\0", &long(&arguments)].concat();
    raw.method(1, (50, 10), &declare);
    raw.expect(1, (50, 11));
}

/// Messages expire at once.
const NO_TIME: &[u8] = b"\x0dx-message-ttlI\0\0\0\0";

/// Waits for a message of the queue and takes it, to be settled. Returns its tag and its header.
fn take(raw: &mut Raw, queue: &str) -> (u64, Vec<u8>) {
    loop {
        raw.method(1, (60, 70), &[&b"\0\0"[..], &short(queue), b"\0"].concat());
        let (_, _, answer) = raw.next().unwrap();
        if answer[..4] == [0, 60, 0, 71] {
            let tag = u64::from_be_bytes(answer[4..12].try_into().unwrap());
            let (_, _, header) = raw.next().unwrap();
            raw.next().unwrap();
            return (tag, header);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has(header: &[u8], text: &str) -> bool {
    header
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_death_makes_no_header_larger_than_clients_take() {
    let running = Running::new().await;
    let port = running.port();
    let reading = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::open(port);
        raw.method(1, (50, 10), &declaring("target", b"\0"));
        raw.expect(1, (50, 11));
        declare_dying(&mut raw, "dying", "target", NO_TIME);
        let properties = one_header(b"h", 130_500);
        raw.bytes(&publishing(1, ("", "dying"), 0, &properties, b"x"));
        let (_, header) = take(&mut raw, "target");
        assert!(header.len() + 8 <= 131_072, "{} bytes", header.len());
        assert!(has(&header, "x-death"));
    });
    reading.await.unwrap();
}

/// A consumer that tries a message some times, with pauses in a queue with a time to live, counts
/// its rejects there. It began again, and so for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_on_record_after_a_death_that_made_the_header_too_large() {
    let running = Running::new().await;
    let port = running.port();
    let reading = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::open(port);
        declare_dying(&mut raw, "work", "pause", b"");
        declare_dying(&mut raw, "pause", "work", NO_TIME);
        // There is room for the first death, and not for the second.
        let properties = one_header(b"h", 130_160);
        raw.bytes(&publishing(1, ("", "work"), 0, &properties, b"x"));
        let (tag, header) = take(&mut raw, "work");
        assert!(!has(&header, "x-death"));
        raw.method(1, (60, 90), &[&tag.to_be_bytes()[..], &[0]].concat());
        let (_, header) = take(&mut raw, "work");
        assert!(!has(&header, "xxxxxxxx"), "it was not too large");
        assert!(has(&header, "expired") && has(&header, "rejected"));
    });
    reading.await.unwrap();
}

/// What a publisher writes there is no longer than what the broker does.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_record_of_deaths_by_a_publisher_is_cut_short() {
    let running = Running::new().await;
    let port = running.port();
    let reading = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::open(port);
        raw.method(1, (50, 10), &declaring("target", b"\0"));
        raw.expect(1, (50, 11));
        declare_dying(&mut raw, "dying", "target", NO_TIME);
        let text = |name: &str, value: &[u8]| [&short(name)[..], b"S", &long(value)].concat();
        let death = [
            text("queue", b"dying"),
            text("reason", b"expired"),
            text("exchange", &vec![b'x'; 130_420]),
        ];
        let deaths = [&b"F"[..], &long(&death.concat())].concat();
        let table = [&short("x-death")[..], b"A", &long(&deaths)].concat();
        let properties = [&b"\x20\0"[..], &long(&table)].concat();
        raw.bytes(&publishing(1, ("", "dying"), 0, &properties, b"x"));
        let (_, header) = take(&mut raw, "target");
        assert!(header.len() + 8 <= 131_072, "{} bytes", header.len());
        assert!(has(&header, "expired") && !has(&header, "xxxxxxxx"));
    });
    reading.await.unwrap();
}
