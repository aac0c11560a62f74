//! The rows of the comparison: what is measured, and what is aimed at.

use std::io;

use crate::backlog::{self, Backlog, Moved};
use crate::churn;
use crate::client::{Life, Settling};
use crate::handoff::{self, Measured, Shape};
use crate::load::Pace;
use crate::message::{Mode, STAMP};
use crate::peer::Peer;
use crate::startup;

/// What a row measured on one broker, in one round.
#[derive(Clone, Default)]
pub(crate) struct Figures {
    /// The row's own figure, in the row's unit.
    pub(crate) value: f64,
    pub(crate) cpu_us: Option<f64>,
    /// Median and 99th percentile, milliseconds.
    pub(crate) latency_ms: Option<(f64, f64)>,
    pub(crate) peak_mib: Option<f64>,
    /// Bytes that reached the disk for each message.
    pub(crate) written: Option<f64>,
    pub(crate) note: String,
}

/// What the row asks of us.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// At least `factor` times `LavinMQ`; where none runs, its rate is derived from `RabbitMQ`'s of
    /// the same run by the quotient of two rates measured side by side elsewhere, in thousands a
    /// second.
    Rate {
        factor: f64,
        lavinmq: f64,
        rabbitmq: f64,
    },
    /// Ahead of every peer of the run.
    Ahead,
    AtMost(f64),
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) aim: Aim,
    /// Most CPU a message, in microseconds.
    pub(crate) cpu_at_most: Option<f64>,
    pub(crate) measure: fn(&Peer, f64) -> io::Result<Figures>,
}

const RATE: &str = "messages/s";

const fn row(name: &'static str, aim: Aim, measure: fn(&Peer, f64) -> io::Result<Figures>) -> Row {
    Row {
        name,
        unit: RATE,
        aim,
        cpu_at_most: None,
        measure,
    }
}

const fn lean(
    name: &'static str,
    aim: Aim,
    cpu: f64,
    measure: fn(&Peer, f64) -> io::Result<Figures>,
) -> Row {
    Row {
        name,
        unit: RATE,
        aim,
        cpu_at_most: Some(cpu),
        measure,
    }
}

const fn other(
    name: &'static str,
    unit: &'static str,
    aim: Aim,
    measure: fn(&Peer, f64) -> io::Result<Figures>,
) -> Row {
    Row {
        name,
        unit,
        aim,
        cpu_at_most: None,
        measure,
    }
}

const fn rate(factor: f64, lavinmq: f64, rabbitmq: f64) -> Aim {
    Aim::Rate {
        factor,
        lavinmq,
        rabbitmq,
    }
}

pub(crate) const ROWS: [Row; 23] = [
    lean(
        "16 B transient, 1 to 1, autoack",
        rate(1.5, 588.0, 104.0),
        0.45,
        |peer, s| flood(peer, s, STAMP, Mode::Transient),
    ),
    lean(
        "16 B persistent, 1 to 1, autoack",
        rate(1.5, 561.0, 82.0),
        0.45,
        |peer, s| flood(peer, s, STAMP, Mode::Persistent),
    ),
    row("16 B, producer only", rate(1.0, 767.0, 117.0), |peer, _| {
        one_way(peer).map(|(produced, _)| produced)
    }),
    row(
        "16 B, consumer only",
        rate(1.0, 1_200.0, 123.0),
        |peer, _| one_way(peer).map(|(_, consumed)| consumed),
    ),
    lean(
        "1 KiB persistent, acks every 100, prefetch 1000",
        rate(1.5, 192.0, 30.0),
        2.5,
        acked_kib,
    ),
    row(
        "16 B confirmed, consumer, 1 outstanding",
        rate(1.0, 2.7, 5.3),
        |peer, s| confirmed(peer, s, 1, 1),
    ),
    row(
        "16 B confirmed, consumer, 100 outstanding",
        rate(1.5, 75.0, 62.0),
        |peer, s| confirmed(peer, s, 100, 1),
    ),
    row(
        "16 B confirmed, consumer, 1000 outstanding",
        rate(1.5, 283.0, 73.0),
        |peer, s| confirmed(peer, s, 1000, 1),
    ),
    row(
        "16 B confirmed, 8 consumers, 1000 outstanding",
        Aim::Ahead,
        |peer, s| confirmed(peer, s, 1000, 8),
    ),
    row(
        "16 B confirmed, no consumer, 1 outstanding",
        rate(1.0, 3.5, 1.8),
        |peer, s| confirmed(peer, s, 1, 0),
    ),
    row(
        "16 B confirmed, no consumer, 100 outstanding",
        rate(1.0, 115.0, 22.0),
        |peer, s| confirmed(peer, s, 100, 0),
    ),
    row(
        "16 B confirmed, no consumer, 1000 outstanding",
        rate(1.0, 411.0, 28.0),
        |peer, s| confirmed(peer, s, 1000, 0),
    ),
    row(
        "64 KiB persistent, 1 to 1, autoack",
        Aim::Ahead,
        |peer, s| flood(peer, s, 65_536, Mode::Persistent),
    ),
    row(
        "100 to 100 over 100 queues, confirmed, 50 outstanding",
        rate(2.0, 107.0, 35.0),
        hundred,
    ),
    other(
        "connections opened and closed",
        "1/s",
        Aim::Ahead,
        |peer, s| plain(churn::connections(peer, s)),
    ),
    other(
        "queues declared and deleted",
        "1/s",
        Aim::Ahead,
        |peer, s| plain(churn::queues(peer, s)),
    ),
    other(
        "latency at 10,000/s persistent, median",
        "ms",
        Aim::AtMost(0.15),
        |peer, s| steady(peer, s, 0.5),
    ),
    other(
        "latency at 10,000/s persistent, p99",
        "ms",
        Aim::AtMost(1.0),
        |peer, s| steady(peer, s, 0.99),
    ),
    other("memory, idle", "MiB", Aim::AtMost(12.0), idle_memory),
    other(
        "memory, 100,000 waiting 1 KiB, peak",
        "MiB",
        Aim::AtMost(40.0),
        waiting_memory,
    ),
    other("start, empty", "s", Aim::AtMost(0.05), |peer, _| {
        plain(startup::empty(peer))
    }),
    other(
        "restart, 1,000,000 waiting 16 B",
        "s",
        Aim::AtMost(0.5),
        |peer, _| restart(peer, STAMP),
    ),
    other(
        "restart, 1,000,000 waiting 256 B",
        "s",
        Aim::AtMost(1.0),
        |peer, _| restart(peer, 256),
    ),
];

fn plain(value: io::Result<f64>) -> io::Result<Figures> {
    Ok(Figures {
        value: value?,
        ..Figures::default()
    })
}

fn of(measured: &Measured) -> Figures {
    let at = |quantile| measured.latencies.milliseconds_at(quantile);
    Figures {
        value: measured.rate,
        cpu_us: Some(measured.cpu_us()),
        latency_ms: Some((at(0.5), at(0.99))),
        peak_mib: Some(measured.usage.peak_mib),
        written: Some(measured.usage.written as f64 / measured.messages.max(1.0)),
        note: String::new(),
    }
}

fn of_moved(moved: &Moved) -> Figures {
    Figures {
        value: moved.rate,
        cpu_us: Some(moved.cpu_us()),
        latency_ms: None,
        peak_mib: Some(moved.usage.peak_mib),
        written: Some(moved.usage.written as f64 / moved.messages.max(1) as f64),
        note: String::new(),
    }
}

fn shape(size: usize, mode: Mode) -> Shape {
    Shape {
        size,
        mode,
        life: Life::Durable,
        settling: Settling::Automatic,
        pace: Pace::Flood { limit: u64::MAX },
        queues: 1,
        consumers_per_queue: 1,
        exchange: String::new(),
    }
}

fn flood(peer: &Peer, seconds: f64, size: usize, mode: Mode) -> io::Result<Figures> {
    handoff::run(peer, &shape(size, mode), seconds).map(|measured| of(&measured))
}

fn acked_kib(peer: &Peer, seconds: f64) -> io::Result<Figures> {
    let settling = Settling::Every {
        deliveries: 100,
        prefetch: 1000,
    };
    let shape = Shape {
        settling,
        ..shape(1024, Mode::Persistent)
    };
    handoff::run(peer, &shape, seconds).map(|measured| of(&measured))
}

fn confirmed(peer: &Peer, seconds: f64, outstanding: u64, consumers: usize) -> io::Result<Figures> {
    let pace = Pace::Confirmed {
        outstanding,
        limit: u64::MAX,
    };
    let shape = Shape {
        pace,
        consumers_per_queue: consumers,
        ..shape(STAMP, Mode::Persistent)
    };
    let measured = handoff::run(peer, &shape, seconds)?;
    let mut figures = of(&measured);
    if consumers > 1 {
        let (most, least) = measured.shares;
        figures.note = format!("consumers got {least} to {most} each");
    }
    Ok(figures)
}

fn hundred(peer: &Peer, seconds: f64) -> io::Result<Figures> {
    let pace = Pace::Confirmed {
        outstanding: 50,
        limit: u64::MAX,
    };
    let shape = Shape {
        pace,
        queues: 100,
        ..shape(STAMP, Mode::Persistent)
    };
    handoff::run(peer, &shape, seconds).map(|measured| of(&measured))
}

fn steady(peer: &Peer, seconds: f64, quantile: f64) -> io::Result<Figures> {
    let shape = Shape {
        pace: Pace::Steady { per_second: 10_000 },
        ..shape(STAMP, Mode::Persistent)
    };
    let measured = handoff::run(peer, &shape, seconds)?;
    Ok(Figures {
        value: measured.latencies.milliseconds_at(quantile),
        ..of(&measured)
    })
}

fn one_way(peer: &Peer) -> io::Result<(Figures, Figures)> {
    let waiting = Backlog {
        messages: 1_000_000,
        size: STAMP,
        mode: Mode::Transient,
        outstanding: 0,
    };
    let produced = backlog::fill(peer, "oneway", waiting)?;
    let consumed = backlog::empty(peer, "oneway", waiting, Settling::Automatic)?;
    peer.connect()?.delete("oneway")?;
    Ok((of_moved(&produced), of_moved(&consumed)))
}

fn idle_memory(peer: &Peer, _: f64) -> io::Result<Figures> {
    peer.start_fresh()?;
    plain(Ok(peer.usage().resident_mib))
}

fn waiting_memory(peer: &Peer, _: f64) -> io::Result<Figures> {
    peer.start_fresh()?;
    let waiting = Backlog {
        messages: 100_000,
        size: 1024,
        mode: Mode::Persistent,
        outstanding: 1000,
    };
    let filled = backlog::fill(peer, "waiting", waiting)?;
    let note = format!("{:.0} MiB resident afterwards", peer.usage().resident_mib);
    peer.connect()?.delete("waiting")?;
    Ok(Figures {
        value: filled.usage.peak_mib,
        note,
        ..of_moved(&filled)
    })
}

fn restart(peer: &Peer, size: usize) -> io::Result<Figures> {
    let waiting = Backlog {
        messages: 1_000_000,
        size,
        mode: Mode::Persistent,
        outstanding: 1000,
    };
    let (clean, killed) = startup::with_backlog(peer, waiting)?;
    peer.start_fresh()?;
    Ok(Figures {
        value: clean,
        note: format!("{killed:.2} s after kill -9"),
        ..Figures::default()
    })
}
