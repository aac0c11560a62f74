//! Folders, stores and waiting with a limit.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use storage::{OpenError, Opened, Options, QueueId, Sequence, Store, StoreEvent, Ticket, Urgency};

pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Opens a store with the ordinary options.
pub(crate) fn open(folder: &Path) -> Opened {
    open_with(folder, Options::default()).0
}

/// Opens a store; what it tells comes out of the receiver.
pub(crate) fn open_with(folder: &Path, options: Options) -> (Opened, Receiver<StoreEvent>) {
    let (sender, receiver) = sync_channel(1 << 16);
    let tell = move |progress| drop(sender.try_send(progress));
    (open_telling(folder, options, tell), receiver)
}

/// Opens a store that tells `tell`. A store that was closed before keeps its folder until its last
/// checkpoint is written, which a busy machine can hold up.
#[expect(clippy::needless_pass_by_value, reason = "as `Store::open` takes them")]
pub(crate) fn open_telling(
    folder: &Path,
    options: Options,
    tell: impl Fn(StoreEvent) + Clone + Send + Sync + 'static,
) -> Opened {
    let limit = Instant::now() + LIMIT;
    loop {
        match Store::open(folder, options.clone(), tell.clone()) {
            Err(OpenError::InUse { .. }) if Instant::now() < limit => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Closes a store and waits until nothing of it holds the folder.
pub(crate) fn close(store: Store, folder: &Path) {
    store.close().unwrap();
    let lock = std::fs::File::open(folder.join("lock")).unwrap();
    until(|| lock.try_lock().is_ok(), "the store has ended");
}

/// Waits until a ticket is durable.
pub(crate) fn wait(store: &Store, ticket: Ticket) {
    let until = Instant::now() + LIMIT;
    while store.durable() < ticket {
        assert!(Instant::now() < until, "the ticket did not become durable");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Appends messages `from..to` with bodies of their own and waits until they are durable.
pub(crate) fn fill(store: &Store, queue: QueueId, range: std::ops::Range<u64>, length: usize) {
    let mut last = Ticket::NONE;
    for number in range {
        last = store
            .append(
                queue,
                Sequence(number),
                &[&body(queue, number, length)],
                Urgency::Confirmed,
            )
            .unwrap();
        while store.pending_bytes() > 8 << 20 {
            std::thread::yield_now();
        }
    }
    wait(store, last);
}

/// What message `number` of a queue holds: never twice the same.
pub(crate) fn body(queue: QueueId, number: u64, length: usize) -> Vec<u8> {
    let mut body = format!("{}/{number}/", queue.0).into_bytes();
    let seed = number as u8;
    body.resize(length.max(body.len()), seed);
    body
}

/// Reads a whole queue in slices and checks every body. Returns the sequences.
pub(crate) fn read_all(store: &Store, queue: QueueId, length: usize) -> Vec<u64> {
    let mut from = Sequence(0);
    let mut seen = Vec::new();
    loop {
        let slice = store.read(queue, from, 100_000).unwrap();
        let Some((last, _)) = slice.last() else {
            return seen;
        };
        from = Sequence(last.0 + 1);
        for (sequence, found) in &slice {
            assert_eq!(
                found[..],
                body(queue, sequence.0, length)[..],
                "message {}",
                sequence.0
            );
            assert!(seen.last().is_none_or(|last| *last < sequence.0));
            seen.push(sequence.0);
        }
    }
}

/// Waits until a condition holds.
pub(crate) fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "it did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
