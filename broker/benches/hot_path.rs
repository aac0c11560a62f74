//! Benchmarks of the hot path: decoding, routing by each exchange type, the hand-off to a consumer
//! with and without acknowledgement, the outbox, confirms, and header tables.
//!
//! Run with `cargo bench -p cbroker-broker --features bench`. `cargo bench -p cbroker-storage`
//! measures the commit, and `benches/compare` the whole broker under load.

#![allow(clippy::unwrap_used, reason = "a bench that cannot start may panic")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use broker::bench::{self, ConsumerAcks, HandOff, OutboxBench};
use broker::exchange::{Declaration, Exchange, ExchangeType};
use broker::wire::table::{Table, Value};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

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
    exchange.route(key, || Some(headers.clone()), &mut |_| hits += 1);
    hits
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
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
            let name = BenchmarkId::new(kind.as_str(), count);
            group.bench_function(name, |bencher| {
                bencher.iter(|| routed(&exchange, black_box("area7.place.event"), &headers));
            });
        }
        let patterns = exchange(ExchangeType::Topic, count, |n| match n % 3 {
            0 => format!("area{n}.*.event"),
            1 => format!("area{n}.#"),
            _ => format!("*.place{n}.event"),
        });
        group.bench_function(BenchmarkId::new("topic patterns", count), |bencher| {
            bencher.iter(|| routed(&patterns, black_box("area7.place.event"), &headers));
        });
    }
    group.finish();
}

fn tables(criterion: &mut Criterion) {
    let mut table = Table::default();
    for n in 0..8 {
        table.set(&format!("header{n}"), Value::text("a value of some length"));
    }
    let bytes = table.to_bytes();
    criterion.bench_function("table/decode 8 strings", |bencher| {
        bencher.iter(|| Table::decode(black_box(&bytes)).unwrap());
    });
    criterion.bench_function("table/measure 8 strings", |bencher| {
        bencher.iter(|| Table::measure(black_box(&bytes)).unwrap());
    });
}

/// Each figure is for a turn; criterion's "elem/s" are messages.
fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn of 64");
    group.throughput(Throughput::Elements(TURN as u64));
    for size in [16, 1024] {
        let body = vec![b'x'; size];
        let frames = bench::published(&body).repeat(TURN);
        assert_eq!(bench::decode(&frames), TURN);
        group.bench_function(BenchmarkId::new("decode", size), |bencher| {
            bencher.iter(|| bench::decode(black_box(&frames)));
        });
        for (name, ack_mode) in [
            ("hand-off", ConsumerAcks::Automatic),
            ("hand-off and ledger", ConsumerAcks::Acked),
        ] {
            let mut path = HandOff::new(ack_mode);
            assert!(path.run(TURN, &body) > TURN * size);
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| path.run(TURN, black_box(&body)));
            });
        }
        let mut outgoing = OutboxBench::default();
        assert_eq!(outgoing.run(TURN, &body), TURN * size);
        group.bench_function(BenchmarkId::new("outbox", size), |bencher| {
            bencher.iter(|| outgoing.run(TURN, black_box(&body)));
        });
    }
    assert!(bench::confirms(TURN) > 0);
    group.bench_function("confirms", |bencher| {
        bencher.iter(|| bench::confirms(black_box(TURN)));
    });
    group.finish();
}

criterion_group!(hot_path, messages, route, tables);
criterion_main!(hot_path);
