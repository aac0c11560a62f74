//! The loads that run for a count: filling a queue with nobody there, and emptying it again.

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Life, Settling};
use crate::load::{End, Expect, Pace, Watch, drive};
use crate::message::{Layout, Mode};
use crate::peer::Peer;
use crate::process::{self, Usage};
use crate::wire::fault;

const PATIENCE: Duration = Duration::from_mins(5);

/// What waits in a queue.
#[derive(Clone, Copy)]
pub(crate) struct Backlog {
    pub(crate) messages: u64,
    pub(crate) size: usize,
    pub(crate) mode: Mode,
    /// Unconfirmed publishes allowed at once; 0 for publishing without confirms.
    pub(crate) outstanding: u64,
}

/// A rate and what it cost.
pub(crate) struct Moved {
    pub(crate) rate: f64,
    pub(crate) usage: Usage,
    pub(crate) messages: u64,
}

impl Moved {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.messages.max(1) as f64
    }
}

/// Publishes the whole backlog into the empty durable queue `queue`; ends when the broker counts it
/// all.
pub(crate) fn fill(peer: &Peer, queue: &str, backlog: Backlog) -> io::Result<Moved> {
    let watch = Watch::start();
    let mut watcher = peer.connect()?;
    watcher.delete(queue)?;
    watcher.declare(queue, Life::Durable)?;
    let mut client = peer.connect()?;
    let limit = backlog.messages;
    let pace = if backlog.outstanding == 0 {
        Pace::Flood { limit }
    } else {
        client.confirm()?;
        Pace::Confirmed {
            outstanding: backlog.outstanding,
            limit,
        }
    };
    let layout = Layout::new("", queue, backlog.size, backlog.mode, client.frame_max);
    let publisher = End::publisher(client, layout, pace, &watch)?;
    process::reset_peak(peer.pid());
    let (before, began) = (peer.usage(), Instant::now());
    // Kept open until all is counted: a close could overtake what the broker has not read yet.
    let _publisher = drive(vec![publisher])?;
    wait_for_count(&mut watcher, queue, limit)?;
    let elapsed = began.elapsed().as_secs_f64();
    Ok(Moved {
        rate: limit as f64 / elapsed,
        usage: peer.usage() - before,
        messages: limit,
    })
}

/// Consumes `backlog` from `queue`, checking each body and the order.
pub(crate) fn empty(
    peer: &Peer,
    queue: &str,
    backlog: Backlog,
    settling: Settling,
) -> io::Result<Moved> {
    let watch = Watch::start();
    let (before, began) = (peer.usage(), Instant::now());
    let mut client = peer.connect()?;
    client.consume(queue, settling)?;
    let consumer = End::consumer(client, backlog.size, settling, Expect::Next(0), &watch)?;
    let driven = thread::spawn(move || drive(vec![consumer]));
    while watch.counters.consumed.load(Ordering::Relaxed) < backlog.messages
        && !driven.is_finished()
    {
        if began.elapsed() > PATIENCE {
            let consumed = watch.counters.consumed.load(Ordering::Relaxed);
            return Err(fault(format!(
                "{consumed} of {} came back",
                backlog.messages
            )));
        }
        thread::sleep(Duration::from_millis(1));
    }
    let elapsed = began.elapsed().as_secs_f64();
    let usage = peer.usage() - before;
    watch.counters.finished.store(true, Ordering::Relaxed);
    driven
        .join()
        .unwrap_or_else(|_| Err(fault("a load thread panicked")))?;
    Ok(Moved {
        rate: backlog.messages as f64 / elapsed,
        usage,
        messages: backlog.messages,
    })
}

fn wait_for_count(watcher: &mut Client, queue: &str, wanted: u64) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let found = watcher.declare(queue, Life::Durable)?;
        if u64::from(found) >= wanted {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(fault(format!(
                "{found} of {wanted} messages are in the queue"
            )));
        }
        thread::sleep(Duration::from_millis(1));
    }
}
