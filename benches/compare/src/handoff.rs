//! The loads that run for a time: publishers and consumers side by side, sampled in the middle.

use std::io;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{Life, Settling};
use crate::histogram::Histogram;
use crate::load::{Counters, End, Expect, Pace, Watch, drive};
use crate::message::{Layout, Mode};
use crate::peer::Peer;
use crate::process::{self, Usage};
use crate::wire::fault;

const WARM_UP: Duration = Duration::from_millis(700);
const DRAIN: Duration = Duration::from_mins(1);

/// What flows, and between how many.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) size: usize,
    pub(crate) mode: Mode,
    pub(crate) life: Life,
    pub(crate) settling: Settling,
    pub(crate) pace: Pace,
    pub(crate) queues: usize,
    pub(crate) consumers_per_queue: usize,
    /// Empty for the default exchange; another one is bound to each queue by the queue's name.
    pub(crate) exchange: String,
}

/// One load on one broker.
pub(crate) struct Measured {
    /// Messages a second: consumed, or confirmed where nobody consumes.
    pub(crate) rate: f64,
    pub(crate) usage: Usage,
    pub(crate) messages: f64,
    /// From the socket of the publisher to that of the consumer, or to the confirm.
    pub(crate) latencies: Histogram,
    /// Messages of the consumer that got most and of the one that got least.
    pub(crate) shares: (u64, u64),
}

impl Measured {
    /// Broker CPU a message, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.messages.max(1.0)
    }
}

/// Runs `shape` against `peer` and samples it for `seconds`.
pub(crate) fn run(peer: &Peer, shape: &Shape, seconds: f64) -> io::Result<Measured> {
    let watch = Watch::start();
    let counters = &watch.counters;
    let names: Vec<String> = (0..shape.queues).map(|n| format!("load{n}")).collect();
    let (publishers, consumers) = connect_ends(peer, shape, &names, &watch)?;
    let mut threads = vec![thread::spawn(move || drive(publishers))];
    if !consumers.is_empty() {
        threads.push(thread::spawn(move || drive(consumers)));
    }
    let has_consumers = threads.len() > 1;
    let counted = |counters: &Counters| {
        let counter = if has_consumers {
            &counters.consumed
        } else {
            &counters.confirmed
        };
        counter.load(Ordering::Relaxed)
    };
    process::reset_peak(peer.pid());
    wait(&threads, WARM_UP);
    let (began, before, count_before) = (Instant::now(), peer.usage(), counted(counters));
    wait(&threads, Duration::from_secs_f64(seconds));
    let (elapsed, after, count_after) = (began.elapsed(), peer.usage(), counted(counters));
    counters.stop.store(true, Ordering::Relaxed);
    let publishers = join(threads.remove(0), counters)?;
    if !has_consumers {
        clean_up(peer, &names)?;
        let messages = (count_after - count_before) as f64;
        return Ok(summary(
            &publishers,
            messages,
            messages / elapsed.as_secs_f64(),
            after - before,
        ));
    }
    let published: u64 = publishers.iter().map(|end| end.count).sum();
    wait_for_all(&threads, counters, published);
    counters.finished.store(true, Ordering::Relaxed);
    let consumers = join(threads.remove(0), counters)?;
    let received: u64 = consumers.iter().map(|end| end.count).sum();
    if received != published {
        return Err(fault(format!("{published} published, {received} received")));
    }
    let ends = consumers;
    clean_up(peer, &names)?;
    let messages = (count_after - count_before) as f64;
    Ok(summary(
        &ends,
        messages,
        messages / elapsed.as_secs_f64(),
        after - before,
    ))
}

fn summary(ends: &[End], messages: f64, rate: f64, usage: Usage) -> Measured {
    let mut latencies = Histogram::default();
    for end in ends {
        latencies.add(&end.latencies);
    }
    let counts = || ends.iter().map(|end| end.count);
    let shares = (counts().max().unwrap_or(0), counts().min().unwrap_or(0));
    Measured {
        rate,
        usage,
        messages,
        latencies,
        shares,
    }
}

type Ends = (Vec<End>, Vec<End>);

fn connect_ends(peer: &Peer, shape: &Shape, names: &[String], watch: &Watch) -> io::Result<Ends> {
    let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
    for name in names {
        let mut client = peer.connect()?;
        client.delete(name)?;
        client.declare(name, shape.life)?;
        if !shape.exchange.is_empty() {
            client.bind(name, &shape.exchange, name)?;
        }
        let expect = if shape.consumers_per_queue == 1 {
            Expect::Next(0)
        } else {
            Expect::Above(None)
        };
        for _ in 0..shape.consumers_per_queue {
            let mut client = peer.connect()?;
            client.consume(name, shape.settling)?;
            consumers.push(End::consumer(
                client,
                shape.size,
                shape.settling,
                expect,
                watch,
            )?);
        }
        if matches!(shape.pace, Pace::Confirmed { .. }) {
            client.confirm()?;
        }
        let layout = Layout::new(
            &shape.exchange,
            name,
            shape.size,
            shape.mode,
            client.frame_max,
        );
        publishers.push(End::publisher(client, layout, shape.pace, watch)?);
    }
    Ok((publishers, consumers))
}

fn clean_up(peer: &Peer, names: &[String]) -> io::Result<()> {
    let mut client = peer.connect()?;
    names.iter().try_for_each(|name| client.delete(name))?;
    client.close()
}

/// Sleeps, but not on after a thread ended early with an error.
fn wait(threads: &[JoinHandle<io::Result<Vec<End>>>], time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time && !threads.iter().any(JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(5).min(time));
    }
}

fn wait_for_all(threads: &[JoinHandle<io::Result<Vec<End>>>], counters: &Counters, published: u64) {
    let began = Instant::now();
    while counters.consumed.load(Ordering::Relaxed) < published
        && began.elapsed() < DRAIN
        && !threads.iter().any(JoinHandle::is_finished)
    {
        thread::sleep(Duration::from_millis(2));
    }
}

/// The ends of a thread; on its error all others are told to stop.
fn join(thread: JoinHandle<io::Result<Vec<End>>>, counters: &Counters) -> io::Result<Vec<End>> {
    let outcome = thread
        .join()
        .unwrap_or_else(|_| Err(fault("a load thread panicked")));
    if outcome.is_err() {
        counters.stop.store(true, Ordering::Relaxed);
        counters.finished.store(true, Ordering::Relaxed);
    }
    outcome
}
