//! Cost as the work grows: a curve for each thing that a broker may hold many of. A cliff shows as
//! a fall in a row.

use std::io;

use crate::backlog::{Backlog, empty, fill};
use crate::client::{Client, Life, Settling};
use crate::handoff::{self, Shape};
use crate::load::Pace;
use crate::message::{Mode, STAMP};
use crate::peer::Peer;
use crate::wire::fault;

const SECONDS: f64 = 1.5;

/// One point: how many, and the figure there.
pub(crate) type Point = (u64, f64);

/// A named curve and its unit.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) measure: fn(&Peer) -> io::Result<Vec<Point>>,
}

pub(crate) const CURVES: [Curve; 6] = [
    Curve {
        name: "other queues",
        unit: "messages/s",
        measure: queues,
    },
    Curve {
        name: "idle connections",
        unit: "messages/s",
        measure: connections,
    },
    Curve {
        name: "backlog",
        unit: "messages/s out",
        measure: backlog,
    },
    Curve {
        name: "body bytes",
        unit: "MB/s",
        measure: bodies,
    },
    Curve {
        name: "bindings of a direct exchange",
        unit: "messages/s",
        measure: bindings,
    },
    Curve {
        name: "patterns of a topic exchange",
        unit: "messages/s",
        measure: patterns,
    },
];

fn flood(size: usize) -> Shape {
    Shape {
        size,
        mode: Mode::Transient,
        life: Life::Durable,
        settling: Settling::Automatic,
        pace: Pace::Flood { limit: u64::MAX },
        queues: 1,
        consumers_per_queue: 1,
        exchange: String::new(),
    }
}

fn queues(peer: &Peer) -> io::Result<Vec<Point>> {
    let mut client = peer.connect()?;
    let mut points = Vec::new();
    let mut existing = 0_u64;
    for wanted in [1, 10, 100, 1_000, 10_000] {
        for n in existing..wanted {
            client.declare(&format!("other{n}"), Life::Transient)?;
        }
        existing = wanted;
        points.push((wanted, handoff::run(peer, &flood(STAMP), SECONDS)?.rate));
    }
    for n in 0..existing {
        client.delete(&format!("other{n}"))?;
    }
    Ok(points)
}

fn connections(peer: &Peer) -> io::Result<Vec<Point>> {
    let mut idle: Vec<Client> = Vec::new();
    let mut points = Vec::new();
    for wanted in [1_u64, 10, 100, 1_000] {
        while (idle.len() as u64) < wanted {
            idle.push(peer.connect()?);
        }
        points.push((wanted, handoff::run(peer, &flood(STAMP), SECONDS)?.rate));
    }
    Ok(points)
}

fn backlog(peer: &Peer) -> io::Result<Vec<Point>> {
    [1_000, 10_000, 100_000, 1_000_000]
        .into_iter()
        .map(|messages| {
            let waiting = Backlog {
                messages,
                size: 256,
                mode: Mode::Persistent,
                outstanding: 1000,
            };
            fill(peer, "grown", waiting)?;
            let settling = Settling::Every {
                deliveries: 100,
                prefetch: 1000,
            };
            // A last batch smaller than one ack stays unsettled; the queue is deleted by the next
            // fill.
            Ok((messages, empty(peer, "grown", waiting, settling)?.rate))
        })
        .collect()
}

fn bodies(peer: &Peer) -> io::Result<Vec<Point>> {
    [16, 256, 4_096, 65_536, 1_048_576, 16_777_216]
        .into_iter()
        .map(|size: usize| {
            let rate = handoff::run(peer, &flood(size), SECONDS)?.rate;
            Ok((size as u64, rate * size as f64 / 1e6))
        })
        .collect()
}

fn bindings(peer: &Peer) -> io::Result<Vec<Point>> {
    bound(peer, "direct", &[1, 10, 100, 1_000, 10_000], |n| {
        format!("key{n}")
    })
}

fn patterns(peer: &Peer) -> io::Result<Vec<Point>> {
    bound(peer, "topic", &[1, 10, 100, 1_000], |n| match n % 3 {
        0 => format!("area{n}.*.event"),
        1 => format!("area{n}.#"),
        _ => format!("*.place{n}.event"),
    })
}

/// Publishes through an exchange that has many bindings of another queue, of which none matches.
fn bound(
    peer: &Peer,
    kind: &str,
    counts: &[u64],
    key: fn(u64) -> String,
) -> io::Result<Vec<Point>> {
    let mut client = peer.connect()?;
    let exchange = format!("grown.{kind}");
    client.declare_exchange(&exchange, kind)?;
    client.declare("elsewhere", Life::Transient)?;
    let mut points = Vec::new();
    let mut existing = 0;
    for &wanted in counts {
        for n in existing..wanted {
            client.bind("elsewhere", &exchange, &key(n))?;
        }
        existing = wanted;
        let shape = Shape {
            exchange: exchange.clone(),
            ..flood(STAMP)
        };
        points.push((wanted, handoff::run(peer, &shape, SECONDS)?.rate));
    }
    if client.declare("elsewhere", Life::Transient)? > 0 {
        return Err(fault("a binding matched that should not"));
    }
    client.delete("elsewhere")?;
    client.delete_exchange(&exchange)?;
    Ok(points)
}
