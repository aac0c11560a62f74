//! Benchmarks of the hot path: decoding, routing by each exchange type, the hand-off to a consumer
//! with and without acknowledgement, the outbox, confirms, and header tables.
//!
//! Run with `cargo bench -p cbroker-broker --features bench`. `cargo bench -p cbroker-storage`
//! measures the commit, and `benches/compare` the whole broker under load.

#![allow(clippy::unwrap_used, reason = "a bench that cannot start may panic")]
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use broker::bench::{self, ConsumerAcks, HandOff, OutboxBench};
use broker::exchange::{Declaration, Exchange, ExchangeType, RoutingSteps};
use broker::wire::table::{Table, Value};

/// How long a part runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long a sample lasts, about.
const SAMPLE: Duration = Duration::from_millis(20);
/// Samples of a part; their median is shown.
const SAMPLES: usize = 51;

/// Messages of one turn: what one read of a busy connection brings.
const TURN: usize = 64;

/// An exchange with `count` bindings to as many destinations, one of which `key(7)` reaches.
fn exchange(kind: ExchangeType, count: u32, key: impl Fn(u32) -> String) -> Exchange<u32> {
    let declaration = Declaration {
        kind,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    };
    let mut exchange = Exchange::new("bench", declaration);
    for n in 0..count {
        let mut arguments = Table::default();
        if kind == ExchangeType::Headers {
            arguments.set("x-match", Value::text("all"));
            arguments.set("region", Value::text(key(n)));
        }
        exchange.bind(&n, key(n), arguments).unwrap();
    }
    exchange
}

fn routed(exchange: &Exchange<u32>, key: &str, headers: &Table) -> u32 {
    let mut hits = 0;
    let mut steps = RoutingSteps::default();
    exchange.route(&[key.as_bytes()], Some(headers), &mut steps, &mut |_| {
        hits += 1;
        true
    });
    hits
}

/// Prints what one of `count` equal pieces of the work costs, in the median of many samples.
fn measure<R>(name: &str, count: usize, mut work: impl FnMut() -> R) {
    let begin = Instant::now();
    let mut calls = 0_u32;
    while begin.elapsed() < WARM_UP {
        black_box(work());
        calls += 1;
    }
    let calls = (f64::from(calls) * SAMPLE.as_secs_f64() / WARM_UP.as_secs_f64()).ceil();
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let begin = Instant::now();
            let mut done = 0.0;
            while done < calls {
                black_box(work());
                done += 1.0;
            }
            begin.elapsed().as_secs_f64() * 1e9 / calls
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let pieces = f64::from(u32::try_from(count).unwrap());
    println!("{name:<36} {:>9.1} ns", samples[SAMPLES / 2] / pieces);
}

fn route() {
    let mut headers = Table::default();
    headers.set("region", Value::text("area7.place.event"));
    for count in [1, 100, 10_000] {
        let plain = |n: u32| format!("area{n}.place.event");
        for kind in [
            ExchangeType::Direct,
            ExchangeType::Topic,
            ExchangeType::Headers,
        ] {
            let exchange = exchange(kind, count, plain);
            measure(&format!("route/{}/{count}", kind.as_str()), 1, || {
                routed(&exchange, black_box("area7.place.event"), &headers)
            });
        }
        let patterns = exchange(ExchangeType::Topic, count, |n| match n % 3 {
            0 => format!("area{n}.*.event"),
            1 => format!("area{n}.#"),
            _ => format!("*.place{n}.event"),
        });
        measure(&format!("route/topic patterns/{count}"), 1, || {
            routed(&patterns, black_box("area7.place.event"), &headers)
        });
    }
}

fn tables() {
    let mut table = Table::default();
    for n in 0..8 {
        table.set(&format!("header{n}"), Value::text("a value of some length"));
    }
    let bytes = table.to_bytes();
    measure("table/decode 8 strings", 1, || {
        Table::decode(black_box(&bytes)).unwrap()
    });
    measure("table/measure 8 strings", 1, || {
        Table::measure(black_box(&bytes)).unwrap()
    });
}

/// Each figure is for one message of a turn.
fn messages() {
    for size in [16, 1024] {
        let body = vec![b'x'; size];
        let frames = bench::published(&body).repeat(TURN);
        assert_eq!(bench::decode(&frames), TURN);
        measure(&format!("turn of {TURN}/decode/{size}"), TURN, || {
            bench::decode(black_box(&frames))
        });
        for (name, ack_mode) in [
            ("hand-off", ConsumerAcks::Automatic),
            ("hand-off and ledger", ConsumerAcks::Acked),
        ] {
            let mut path = HandOff::new(ack_mode);
            assert!(path.run(TURN, &body) > TURN * size);
            measure(&format!("turn of {TURN}/{name}/{size}"), TURN, || {
                path.run(TURN, black_box(&body))
            });
        }
        let mut outgoing = OutboxBench::default();
        assert_eq!(outgoing.run(TURN, &body), TURN * size);
        measure(&format!("turn of {TURN}/outbox/{size}"), TURN, || {
            outgoing.run(TURN, black_box(&body))
        });
    }
    assert!(bench::confirms(TURN) > 0);
    measure(&format!("turn of {TURN}/confirms"), TURN, || {
        bench::confirms(black_box(TURN))
    });
}

fn main() {
    messages();
    route();
    tables();
}
