//! A view of the last publishes and settlements, for `cbroker tail` and the management page.
//! Depends on `lock`, `memory` and `wire`.
//!
//! # Cost
//! One relaxed load for each publish while there are no listeners.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::lock::lock;
use crate::memory::{self, ALLOCATION_BYTES, Charge};
use crate::wire::content::MessageContent;
use crate::wire::properties::Properties;

/// The maximum number of lines kept.
pub const KEPT: usize = 10_000;
/// How many bytes of a body a line shows.
pub const EXCERPT_BYTES: usize = 4096;
/// How many bytes of excerpts and properties a listener reads at once. The next event of each
/// listener is kept in memory, and JSON can write one byte as six.
const BATCH_BYTES: usize = 16 * 1024;
/// The maximum number of listeners of all users.
const LISTENERS: usize = 32;
/// The maximum number of listeners of one user, so that no user keeps the others out.
const OF_ONE_USER: usize = 8;
/// The maximum number of queues that a line names.
pub const QUEUES: usize = 16;

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapEventKind {
    /// It was published.
    Published,
    /// A consumer acknowledged it.
    Acked,
    /// The client that got it with `basic.get` acknowledged it. Sessions consume; commands get.
    Taken,
    /// A consumer gave it back to its queue.
    Returned,
    /// A consumer rejected it: it is not in its queue any more.
    Rejected,
}

/// One line of the tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapEvent {
    /// What happened.
    pub what: TapEventKind,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The vhost.
    pub vhost: Box<str>,
    /// The exchange that it was published to.
    pub exchange: Box<[u8]>,
    /// The routing key.
    pub routing_key: Box<[u8]>,
    /// The queue in which it was settled.
    pub queue: Option<TapQueue>,
    /// The first [`QUEUES`] queues that a published message was routed to.
    pub routed: Box<[TapQueue]>,
    /// Encoded properties: flags and values.
    pub properties: Box<[u8]>,
    /// The first [`EXCERPT_BYTES`] of the body.
    pub excerpt: Box<[u8]>,
    /// The size of the whole body in bytes.
    pub body_bytes: u64,
}

/// A queue that a line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapQueue {
    /// Its name.
    pub name: Arc<str>,
    /// Who can read from it.
    pub readers: TapReaders,
}

/// Who can read from a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapReaders {
    /// Users with the permission.
    Permitted,
    /// The one connection that may use it, which is this user's.
    Connection(Arc<str>),
    /// Nobody any more: the one connection that may use it is gone.
    Gone,
}

/// The recent traffic of the broker.
#[derive(Debug)]
pub struct Tap {
    /// All of them, the broker's own included.
    listeners: AtomicUsize,
    /// How many listeners each user has.
    by_user: Mutex<HashMap<Arc<str>, usize>>,
    buffer: Mutex<TapBuffer>,
    /// The number of the next line.
    next: watch::Sender<u64>,
}

/// The most recent lines, which every listener reads.
#[derive(Debug, Default)]
struct TapBuffer {
    /// `None` for a line that was forgotten: the others keep their numbers.
    lines: VecDeque<Option<Arc<TapEvent>>>,
    /// The memory that the lines use, in bytes.
    charge: Charge,
}

impl TapEvent {
    /// Creates a line about a message with this content, which names no queue yet.
    pub(crate) fn new(
        what: TapEventKind,
        at_ms: u64,
        vhost: &str,
        content: MessageContent<'_>,
    ) -> Self {
        Self {
            what,
            at_ms,
            vhost: vhost.into(),
            exchange: content.exchange.into(),
            routing_key: content.routing_key.into(),
            queue: None,
            routed: Box::default(),
            properties: content.properties.into(),
            excerpt: content.body[..content.body.len().min(EXCERPT_BYTES)].into(),
            body_bytes: content.body.len() as u64,
        }
    }

    /// Returns the memory that this line uses, in bytes.
    fn footprint(&self) -> usize {
        let names = self.exchange.len() + self.routing_key.len() + self.vhost.len();
        // The queues may be deleted; then the line alone keeps their names.
        let queue = self.queue.as_ref().map_or(0, |queue| queue.name.len());
        let routed = self.routed.iter();
        let routed = routed.map(|queue| size_of::<TapQueue>() + queue.name.len());
        let parts = names + queue + routed.sum::<usize>() + self.properties.len();
        size_of::<Self>() + parts + self.excerpt.len() + 4 * ALLOCATION_BYTES
    }

    /// Whether this user's name alone lets it see more of the line than others do.
    fn is_own_of(&self, user: &str) -> bool {
        let reader = TapReaders::Connection(user.into());
        let is_reader = |queue: &TapQueue| queue.readers == reader;
        let properties = Properties::scan(&self.properties).ok();
        let publisher = properties.and_then(|found| found.user_id);
        self.queue.iter().chain(&*self.routed).any(is_reader) || publisher == Some(user.as_bytes())
    }
}

/// The tap has as many listeners as it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TapBusy {
    /// Of all users together.
    #[error("the tap already has the maximum number of listeners")]
    Everybody,
    /// Of the user who asked.
    #[error("this user already has the maximum number of listeners at the tap")]
    User,
}

impl Default for Tap {
    fn default() -> Self {
        Self {
            listeners: AtomicUsize::new(0),
            by_user: Mutex::default(),
            buffer: Mutex::default(),
            next: watch::Sender::new(0),
        }
    }
}

/// A listener's position in the tap. The tap records while at least one listener exists.
///
/// Nothing is queued for a listener: it reads the lines that the tap keeps, at its own pace.
#[derive(Debug)]
pub struct TapListener {
    tap: Arc<Tap>,
    /// Who listens; `None` for the broker itself.
    user: Option<Arc<str>>,
    /// The number of the next line to read.
    position: u64,
    next: watch::Receiver<u64>,
}

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// Lines in order; empty if there is nothing new.
    Lines(Vec<Arc<TapEvent>>),
    /// This many lines were dropped or forgotten before this listener read them.
    Missed(u64),
}

impl TapListener {
    /// Returns up to `limit` unread lines, oldest first, with at most about [`BATCH_BYTES`] of
    /// excerpts and properties.
    pub fn take(&mut self, limit: usize) -> Batch {
        self.next.mark_unchanged();
        let buffer = lock(&self.tap.buffer);
        let next = *self.tap.next.borrow();
        let first = next - buffer.lines.len() as u64;
        if self.position < first {
            let missed = first - self.position;
            self.position = first;
            return Batch::Missed(missed);
        }
        let read = usize::try_from(self.position - first).unwrap_or(usize::MAX);
        let mut room = BATCH_BYTES;
        let has_room = |seen: &&Arc<TapEvent>| {
            let had_room = room > 0;
            room = room.saturating_sub(seen.excerpt.len() + seen.properties.len());
            had_room
        };
        let unread = buffer.lines.iter().skip(read);
        let forgotten = unread.clone().take_while(|line| line.is_none()).count() as u64;
        if forgotten > 0 {
            self.position += forgotten;
            return Batch::Missed(forgotten);
        }
        let lines = unread.take(limit).map_while(Option::as_ref);
        let lines: Vec<_> = lines.take_while(has_room).cloned().collect();
        self.position += lines.len() as u64;
        Batch::Lines(lines)
    }

    /// Waits for a line newer than the last [`take`](Self::take).
    pub async fn wait(&mut self) {
        if self.next.changed().await.is_err() {
            // The tap lives as long as its listener, and holds the sender.
            std::future::pending::<()>().await;
        }
    }
}

impl Tap {
    /// Whether there are listeners.
    pub fn is_open(&self) -> bool {
        self.listeners.load(Relaxed) > 0
    }

    /// Adds a listener of this user. It starts with the oldest line kept.
    pub fn listen(self: &Arc<Self>, user: &Arc<str>) -> Result<TapListener, TapBusy> {
        let mut by_user = lock(&self.by_user);
        if by_user.values().sum::<usize>() >= LISTENERS {
            return Err(TapBusy::Everybody);
        }
        let of_user = by_user.entry(Arc::clone(user)).or_default();
        if *of_user >= OF_ONE_USER {
            return Err(TapBusy::User);
        }
        *of_user += 1;
        drop(by_user);
        Ok(self.listener(Some(Arc::clone(user))))
    }

    /// Adds a listener of the broker itself, which takes no user's place.
    pub fn keep_open(self: &Arc<Self>) -> TapListener {
        self.listener(None)
    }

    fn listener(self: &Arc<Self>, user: Option<Arc<str>>) -> TapListener {
        self.listeners.fetch_add(1, Relaxed);
        let buffer = lock(&self.buffer);
        let next = self.next.subscribe();
        let position = *next.borrow() - buffer.lines.len() as u64;
        drop(buffer);
        TapListener {
            tap: Arc::clone(self),
            user,
            position,
            next,
        }
    }

    pub(crate) fn note(&self, seen: TapEvent) {
        let mut buffer = lock(&self.buffer);
        let mut bytes = buffer.charge.bytes() + seen.footprint();
        buffer.lines.push_back(Some(Arc::new(seen)));
        while buffer.lines.len() > KEPT || (bytes > memory::tap_bytes() && buffer.lines.len() > 1) {
            let oldest = buffer.lines.pop_front().flatten();
            bytes -= oldest.map_or(0, |seen| seen.footprint());
        }
        buffer.charge.set(bytes);
        // Under the lock, so that the number always agrees with the lines.
        self.next.send_modify(|next| *next += 1);
    }

    /// Forgets the lines of a deleted vhost: the users of the next one of its name may not see
    /// them.
    pub(crate) fn forget_vhost(&self, vhost: &str) {
        self.forget(|seen| *seen.vhost == *vhost);
    }

    /// Forgets the lines that a deleted user sees by its name: the next user of that name may not.
    pub(crate) fn forget_user(&self, user: &str) {
        self.forget(|seen| seen.is_own_of(user));
    }

    fn forget(&self, is_gone: impl Fn(&TapEvent) -> bool) {
        let mut buffer = lock(&self.buffer);
        let mut bytes = buffer.charge.bytes();
        for line in &mut buffer.lines {
            let gone = line.take_if(|seen| is_gone(seen));
            bytes -= gone.map_or(0, |seen| seen.footprint());
        }
        buffer.charge.set(bytes);
    }
}

impl Drop for TapListener {
    fn drop(&mut self) {
        self.tap.listeners.fetch_sub(1, Relaxed);
        let Some(user) = &self.user else { return };
        let mut by_user = lock(&self.tap.by_user);
        if let Some(of_user) = by_user.get_mut(user) {
            *of_user -= 1;
            if *of_user == 0 {
                by_user.remove(user);
            }
        }
    }
}

#[cfg(test)]
impl TapEvent {
    /// A publish in this vhost of an empty message without names.
    pub(crate) fn published_in(vhost: &str) -> Self {
        Self {
            what: TapEventKind::Published,
            at_ms: 0,
            vhost: vhost.into(),
            exchange: Box::default(),
            routing_key: Box::default(),
            queue: None,
            routed: Box::default(),
            properties: Box::default(),
            excerpt: Box::default(),
            body_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    fn seen(number: u64) -> TapEvent {
        TapEvent {
            body_bytes: number,
            ..TapEvent::published_in("/")
        }
    }

    #[test]
    fn large_properties_are_bounded_as_excerpts_are() {
        let tap = Arc::new(Tap::default());
        let mut listener = tap.keep_open();
        for number in 0..400 {
            tap.note(TapEvent {
                properties: vec![0; 100_000].into(),
                ..seen(number)
            });
        }
        let held = lock(&tap.buffer).charge.bytes();
        assert!(held <= memory::tap_bytes(), "{held}");
        assert!(matches!(listener.take(400), Batch::Missed(missed) if missed > 200));
        let Batch::Lines(lines) = listener.take(400) else {
            panic!("lines were missed twice");
        };
        assert_eq!(lines.len(), 1, "one event holds little");
    }

    #[test]
    fn the_names_of_queues_are_on_the_account() {
        let queue = || TapQueue {
            name: "q".repeat(200).into(),
            readers: TapReaders::Permitted,
        };
        let line = TapEvent {
            queue: Some(queue()),
            routed: (0..QUEUES).map(|_| queue()).collect(),
            ..seen(0)
        };
        assert!(line.footprint() > seen(0).footprint() + 17 * 200);
    }

    fn numbers(batch: Batch) -> Vec<u64> {
        match batch {
            Batch::Lines(lines) => lines.iter().map(|seen| seen.body_bytes).collect(),
            Batch::Missed(count) => panic!("{count} missed"),
        }
    }

    #[test]
    fn a_slow_listener_reads_every_line_that_is_kept() {
        let tap = Arc::new(Tap::default());
        let mut listener = tap.keep_open();
        (0..5000).for_each(|number| tap.note(seen(number)));
        assert_eq!(numbers(listener.take(2)), [0, 1]);
        assert_eq!(numbers(listener.take(9000)), (2..5000).collect::<Vec<_>>());
        assert!(numbers(listener.take(2)).is_empty());
    }

    #[test]
    fn a_listener_hears_how_many_lines_were_dropped_before_it_read_them() {
        let tap = Arc::new(Tap::default());
        let mut listener = tap.keep_open();
        let kept = KEPT as u64;
        (0..kept + 3).for_each(|number| tap.note(seen(number)));
        assert_eq!(listener.take(1), Batch::Missed(3));
        assert_eq!(numbers(listener.take(1)), [3]);
        assert_eq!(numbers(tap.keep_open().take(1)), [3]);
    }

    #[test]
    fn forgotten_lines_count_as_missed_and_give_back_their_memory() {
        let tap = Arc::new(Tap::default());
        let mut listener = tap.keep_open();
        let of = |number: u64| TapEvent {
            vhost: if number % 4 < 2 { "v" } else { "/" }.into(),
            ..seen(number)
        };
        (0..8).for_each(|number| tap.note(of(number)));
        let all = lock(&tap.buffer).charge.bytes();
        assert_eq!(numbers(listener.take(1)), [0]);
        tap.forget_vhost("v");
        tap.forget_vhost("v");
        assert!(lock(&tap.buffer).charge.bytes() <= all / 2);
        assert_eq!(listener.take(9), Batch::Missed(1));
        assert_eq!(numbers(listener.take(9)), [2, 3]);
        assert_eq!(listener.take(9), Batch::Missed(2));
        assert_eq!(numbers(listener.take(1)), [6]);
        assert_eq!(numbers(listener.take(1)), [7]);
        assert!(numbers(listener.take(1)).is_empty());
        (8..KEPT as u64 + 9).for_each(|number| tap.note(seen(number)));
        tap.forget_vhost("/");
        assert_eq!(lock(&tap.buffer).charge.bytes(), 0);
    }

    #[test]
    fn a_user_with_all_its_places_keeps_no_other_out_and_gets_them_back() {
        let tap = Arc::new(Tap::default());
        let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
        let of_bob: Vec<_> = (0..OF_ONE_USER)
            .map(|_| tap.listen(&bob).unwrap())
            .collect();
        assert_eq!(tap.listen(&bob).unwrap_err(), TapBusy::User);
        assert!(tap.listen(&ada).is_ok());
        drop(of_bob);
        assert!(tap.listen(&bob).is_ok());
        assert!(lock(&tap.by_user).is_empty() && !tap.is_open());
    }
}
