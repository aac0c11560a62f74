//! Rates of all counters between two samples, and totals that include what was deleted.
//!
//! The first request after [`STALE`] takes the next snapshot, and so does the ticker. Depends on
//! the broker's counters.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::history::{HistoryPoint, SPAN};
use super::system_metrics;
use crate::broker_state::BrokerState;
use crate::inspect::{self, ChannelView, ConnectionHandle, QueueSnapshot};
use crate::lock::lock;
use crate::stats::ChannelCounters;
use crate::vhost::Vhost;

/// A sample younger than this is used again.
const STALE: Duration = Duration::from_secs(1);

/// `publish`, `deliver_get`, `deliver`, `get`, `ack`, `redeliver`, then `messages`,
/// `messages_ready`, `messages_unacknowledged`.
pub(super) const QUEUE_FIELDS: [&str; 9] = [
    "publish",
    "deliver_get",
    "deliver",
    "get",
    "ack",
    "redeliver",
    "messages",
    "messages_ready",
    "messages_unacknowledged",
];
pub(super) const EXCHANGE_FIELDS: [&str; 2] = ["publish_in", "publish_out"];
pub(super) const LINK_FIELDS: [&str; 2] = ["recv_oct", "send_oct"];
pub(super) const CHANNEL_FIELDS: [&str; 5] =
    ["publish", "confirm", "return_unroutable", "ack", "get"];

/// Counters and their growth per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct CounterRates<const N: usize> {
    pub(super) counts: [u64; N],
    pub(super) rates: [f64; N],
}

impl<const N: usize> Default for CounterRates<N> {
    fn default() -> Self {
        Self {
            counts: [0; N],
            rates: [0.0; N],
        }
    }
}

impl<const N: usize> CounterRates<N> {
    /// Takes the next sample. Returns the growth of each counter.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn step(&mut self, counts: [u64; N], seconds: f64) -> [u64; N] {
        let mut grown = [0; N];
        for (place, (&new, old)) in counts.iter().zip(self.counts).enumerate() {
            grown[place] = new.saturating_sub(old);
            self.rates[place] = (new as f64 - old as f64) / seconds;
        }
        self.counts = counts;
        grown
    }

    fn add(&mut self, other: &Self) {
        for place in 0..N {
            self.counts[place] += other.counts[place];
            self.rates[place] += other.rates[place];
        }
    }
}

pub(super) fn queue_counts(snapshot: &QueueSnapshot) -> [u64; 9] {
    let counters = &snapshot.counters;
    [
        counters.published,
        counters.delivered + counters.got,
        counters.delivered,
        counters.got,
        counters.acked,
        counters.redelivered,
        snapshot.ready + snapshot.unsettled,
        snapshot.ready,
        snapshot.unsettled,
    ]
}

pub(super) fn connection_counts(connection: &ConnectionHandle) -> [u64; 2] {
    [connection.received.get(), connection.sent.get()]
}

pub(super) fn channel_counts(channel: &ChannelView) -> [u64; 5] {
    counted(&channel.counters)
}

fn counted(counters: &ChannelCounters) -> [u64; 5] {
    [
        counters.published.get(),
        counters.confirmed.get(),
        counters.returned.get(),
        counters.settled.get(),
        counters.got.get(),
    ]
}

type VhostAndQueue = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Observation {
    at: Option<Instant>,
    queues: HashMap<VhostAndQueue, CounterRates<9>>,
    /// How long messages of a queue have waited because no consumer took them, in milliseconds.
    stalls: HashMap<VhostAndQueue, CounterRates<1>>,
    exchanges: HashMap<(Arc<str>, Box<str>), CounterRates<2>>,
    vhosts: HashMap<Arc<str>, TotalRates>,
    connections: HashMap<u64, CounterRates<2>>,
    channels: HashMap<(u64, u16), CounterRates<5>>,
    /// All queues together, including deleted ones.
    overall: CounterRates<9>,
    /// All channels together, including closed ones.
    channels_overall: CounterRates<5>,
    points: VecDeque<HistoryPoint>,
}

/// Sampled rates.
///
/// Listings read the rates while they hold the tables of a vhost, and sampling needs those tables.
/// So no lock is taken under `last`, and no holder of another lock waits for `looking`.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Held while sampling.
    looking: Mutex<()>,
    last: Mutex<Arc<Observation>>,
}

/// All counters together at the last sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TotalRates {
    pub(super) queues: CounterRates<9>,
    pub(super) channels: CounterRates<5>,
}

impl Rates {
    /// Samples every counter, unless that was done just now. The caller must hold no lock.
    pub(super) fn observe(&self, broker: &BrokerState, now: Instant) {
        let _looking = lock(&self.looking);
        let last = self.last();
        let seconds = match last.at {
            Some(at) if now.duration_since(at) < STALE => return,
            Some(at) => now.duration_since(at).as_secs_f64(),
            None => 1.0,
        };
        let next = Arc::new(last.next(broker, now, seconds));
        *lock(&self.last) = next;
    }

    fn last(&self) -> Arc<Observation> {
        Arc::clone(&lock(&self.last))
    }

    /// A queue's counters, and the part of the time in which its consumers could take messages.
    pub(super) fn queue(&self, vhost: &Arc<str>, name: &Arc<str>) -> (CounterRates<9>, f64) {
        let last = self.last();
        let key = (Arc::clone(vhost), Arc::clone(name));
        let stalled = last.stalls.get(&key).map_or(0.0, |track| track.rates[0]);
        let utilisation = (1.0 - stalled / 1000.0).clamp(0.0, 1.0);
        (
            last.queues.get(&key).copied().unwrap_or_default(),
            utilisation,
        )
    }

    pub(super) fn exchange(&self, vhost: &str, name: &str) -> CounterRates<2> {
        let key = (Arc::from(vhost), Box::from(name));
        let last = self.last();
        last.exchanges.get(&key).copied().unwrap_or_default()
    }

    /// The counters of one vhost at the last sample.
    pub(super) fn vhost(&self, name: &Arc<str>) -> TotalRates {
        self.last().vhosts.get(name).copied().unwrap_or_default()
    }

    pub(super) fn connection(&self, id: u64) -> CounterRates<2> {
        self.last()
            .connections
            .get(&id)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn channel(&self, connection: u64, number: u16) -> CounterRates<5> {
        let key = (connection, number);
        self.last().channels.get(&key).copied().unwrap_or_default()
    }

    pub(super) fn overall(&self) -> TotalRates {
        let last = self.last();
        TotalRates {
            queues: last.overall,
            channels: last.channels_overall,
        }
    }

    /// The counters of these vhosts together at the last sample.
    pub(super) fn of_vhosts(&self, vhosts: &[Arc<Vhost>]) -> TotalRates {
        let last = self.last();
        let found = vhosts
            .iter()
            .filter_map(|vhost| last.vhosts.get(vhost.name()));
        let mut sum = TotalRates::default();
        for one in found {
            sum.queues.add(&one.queues);
            sum.channels.add(&one.channels);
        }
        sum
    }

    /// The last minutes, oldest first.
    pub(super) fn points(&self) -> Vec<HistoryPoint> {
        self.last().points.iter().copied().collect()
    }
}

/// Samples one thing again, if it was sampled before. Returns the growth of its counters.
fn follow<K: Eq + Hash, const N: usize>(
    old: &HashMap<K, CounterRates<N>>,
    seen: &mut HashMap<K, CounterRates<N>>,
    key: K,
    counts: [u64; N],
    seconds: f64,
) -> [u64; N] {
    let mut track = old.get(&key).copied().unwrap_or_default();
    let grown = track.step(counts, seconds);
    seen.insert(key, track);
    grown
}

impl Observation {
    /// The next sample. It contains only what still exists.
    fn next(&self, broker: &BrokerState, now: Instant, seconds: f64) -> Self {
        let mut next = Self {
            at: Some(now),
            queues: HashMap::with_capacity(self.queues.len()),
            overall: self.overall,
            channels_overall: self.channels_overall,
            points: self.points.clone(),
            ..Self::default()
        };
        next.look_at_queues(self, broker, seconds);
        next.look_at_vhosts(self, broker, seconds);
        let connections = next.look_at_links(self, broker, seconds);
        next.remember(broker, connections);
        next
    }

    fn look_at_queues(&mut self, old: &Self, broker: &BrokerState, seconds: f64) {
        let mut overall = self.overall.counts;
        // The last three are levels, not counts.
        overall[6..].fill(0);
        let vhosts = broker.vhosts();
        for queue in vhosts.iter().flat_map(|vhost| inspect::queues(vhost)) {
            let counts = queue_counts(&queue.snapshot());
            let key = (Arc::clone(queue.vhost()), Arc::clone(queue.name()));
            let grown = follow(&old.queues, &mut self.queues, key, counts, seconds);
            for place in 0..6 {
                overall[place] += grown[place];
            }
            for place in 6..9 {
                overall[place] += counts[place];
            }
        }
        self.overall.step(overall, seconds);
    }

    fn look_at_vhosts(&mut self, old: &Self, broker: &BrokerState, seconds: f64) {
        let connections = inspect::connections(broker);
        for vhost in broker.vhosts() {
            let mut counts = queue_counts(&inspect::deleted_queues(&vhost));
            for queue in inspect::queues(&vhost) {
                let snapshot = queue.snapshot();
                for (sum, count) in counts.iter_mut().zip(queue_counts(&snapshot)) {
                    *sum += count;
                }
                let key = (Arc::clone(queue.vhost()), Arc::clone(queue.name()));
                let stalled = [snapshot.stalled_ms];
                follow(&old.stalls, &mut self.stalls, key, stalled, seconds);
            }
            inspect::each_exchange(&vhost, |exchange| {
                let key = (Arc::clone(vhost.name()), exchange.name().into());
                let counts = exchange.counts();
                follow(&old.exchanges, &mut self.exchanges, key, counts, seconds);
            });
            let mut overall = old.vhosts.get(vhost.name()).copied().unwrap_or_default();
            overall.queues.step(counts, seconds);
            // A channel that closes between the two reads is in neither of them for a moment, so
            // totals are never allowed to fall.
            let mut channels = counted(&vhost.closed_channels);
            let is_here = |connection: &&Arc<ConnectionHandle>| {
                let opened = connection.opened.get();
                opened.is_some_and(|opened| opened.vhost == *vhost.name())
            };
            for connection in connections.iter().filter(is_here) {
                for channel in &connection.channels() {
                    for (sum, count) in channels.iter_mut().zip(channel_counts(channel)) {
                        *sum += count;
                    }
                }
            }
            for (sum, before) in channels.iter_mut().zip(overall.channels.counts) {
                *sum = before.max(*sum);
            }
            overall.channels.step(channels, seconds);
            self.vhosts.insert(Arc::clone(vhost.name()), overall);
        }
    }

    fn look_at_links(&mut self, old: &Self, broker: &BrokerState, seconds: f64) -> usize {
        let all = inspect::connections(broker);
        let mut overall = counted(&broker.totals.closed_channels);
        for connection in &all {
            follow(
                &old.connections,
                &mut self.connections,
                connection.id,
                connection_counts(connection),
                seconds,
            );
            for channel in connection.channels() {
                let key = (connection.id, channel.number);
                let counts = channel_counts(&channel);
                follow(&old.channels, &mut self.channels, key, counts, seconds);
                for (total, count) in overall.iter_mut().zip(counts) {
                    *total += count;
                }
            }
        }
        // A channel that closed between the two reads is in neither or in both of them for a
        // moment, so totals are never allowed to fall.
        for (total, before) in overall.iter_mut().zip(self.channels_overall.counts) {
            *total = before.max(*total);
        }
        self.channels_overall.step(overall, seconds);
        all.len()
    }

    fn remember(&mut self, broker: &BrokerState, connections: usize) {
        if self.points.len() >= SPAN {
            self.points.pop_front();
        }
        self.points.push_back(HistoryPoint {
            at_ms: crate::time::now_ms(),
            publish: self.channels_overall.rates[0].max(0.0),
            deliver: self.overall.rates[1].max(0.0),
            ack: self.overall.rates[4].max(0.0),
            ready: self.overall.counts[7],
            unsettled: self.overall.counts[8],
            connections,
            memory_bytes: system_metrics::memory_bytes(),
            disk_bytes: inspect::store_bytes(broker).0,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc::sync_channel;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::super::tests::TestApi;
    use super::{CounterRates, Rates};
    use crate::delivery::effects::Effects;
    use crate::lock::lock;
    use crate::vhost::DeleteCondition;

    #[test]
    fn a_rate_is_growth_over_time_and_a_level_may_fall() {
        let mut track = CounterRates::<2>::default();
        assert_eq!(track.step([10, 4], 2.0), [10, 4]);
        assert_eq!(track.step([30, 2], 2.0), [20, 0]);
        assert!((track.rates[0] - 10.0).abs() < f64::EPSILON);
        assert!((track.rates[1] + 1.0).abs() < f64::EPSILON);
    }

    /// While somebody else looks, only a thread of the ticker's own waits for it.
    #[tokio::test]
    async fn the_ticker_keeps_no_serving_thread() {
        let test = TestApi::start().await;
        let api = Arc::clone(&test.api);
        let (looks, is_looking) = sync_channel(1);
        let (end, ended) = sync_channel(1);
        let somebody = thread::spawn(move || {
            let _looking = lock(&api.rates.looking);
            looks.send(()).unwrap();
            ended.recv_timeout(Duration::from_mins(1)).is_ok()
        });
        is_looking.recv().unwrap();
        let ticking = async {
            super::super::tick(&test.api).await;
        };
        let serving = async {
            end.send(()).unwrap();
        };
        tokio::join!(ticking, serving);
        assert!(somebody.join().unwrap(), "nothing else ran meanwhile");
        test.stop().await;
    }

    /// Once a writer waits for the tables, no further reader gets them.
    #[tokio::test]
    async fn a_listing_of_exchanges_and_a_look_and_a_declare_do_not_wait_for_each_other() {
        let test = TestApi::start().await;
        let broker = &test.api.broker;
        let vhost = broker.vhost("/").unwrap();
        let rates = Rates::default();
        let (is_over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let (sender, answer) = sync_channel(1);
        let is_answered = thread::scope(|scope| {
            vhost.with_exchange("amq.topic", |_| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        vhost.queue_count();
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while reads.load(Ordering::Relaxed) == 0 {
                    thread::yield_now();
                }
                scope.spawn(|| {
                    let condition = DeleteCondition::default();
                    vhost.delete_exchange("none", condition, &mut Effects::new(0))
                });
                // The reader stands still because the writer waits, not because the machine is
                // busy.
                let (mut before, mut still) = (0, 0);
                while still < 10 {
                    thread::sleep(Duration::from_millis(50));
                    let now = reads.load(Ordering::Relaxed);
                    still = if now == before { still + 1 } else { 0 };
                    before = now;
                }
                scope.spawn(|| rates.observe(broker, Instant::now()));
                let limit = Instant::now() + Duration::from_mins(1);
                while rates.looking.try_lock().is_ok() {
                    assert!(Instant::now() < limit, "nobody looks");
                    thread::yield_now();
                }
                scope.spawn(|| sender.send(rates.exchange("/", "amq.topic")));
                is_over.store(true, Ordering::Relaxed);
                answer.recv_timeout(Duration::from_mins(1)).is_ok()
            })
        });
        assert_eq!(is_answered, Some(true));
        test.stop().await;
    }
}
