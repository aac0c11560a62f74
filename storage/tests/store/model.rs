//! What a store must still know after a fault: kept beside it while it works, compared with what
//! is found afterwards.

use std::collections::BTreeMap;

use storage::{Opened, QueueId, Sequence};

use crate::support::body;

/// What is known of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It must be there once the ticket is durable, and may be before.
    Appended(u64),
    /// It must be gone once the ticket is durable, and may be before.
    Settled(u64),
    /// Nobody knows: the call was under way.
    Open,
    /// It was settled before it reached the disk.
    Elided,
}

impl Fate {
    /// The store was closed after it.
    pub(crate) fn is_past(&mut self) {
        match self {
            Self::Appended(ticket) | Self::Settled(ticket) => *ticket = 0,
            Self::Open | Self::Elided => {}
        }
    }
}

/// A definition's value from a ticket on.
pub(crate) type Change = (u64, Option<Vec<u8>>);

/// Every message of every queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) queues: BTreeMap<QueueId, BTreeMap<u64, Fate>>,
    /// Facts with the ticket of their last change, and what they were before it.
    pub(crate) definitions: BTreeMap<Vec<u8>, Vec<Change>>,
    pub(crate) dropped: BTreeMap<QueueId, u64>,
}

impl Model {
    pub(crate) fn note(&mut self, queue: QueueId, number: u64, fate: Fate) {
        self.queues.entry(queue).or_default().insert(number, fate);
    }

    /// Compares what was promised up to `durable` with a store that was opened afterwards.
    pub(crate) fn check(&self, opened: &Opened, durable: u64, length_of: fn(u64) -> usize) {
        for (queue, messages) in &self.queues {
            self.check_queue(opened, *queue, messages, (durable, length_of));
        }
        for (name, history) in &self.definitions {
            let found = opened
                .definitions
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value);
            let settled = history.iter().rposition(|(ticket, _)| *ticket <= durable);
            let allowed = &history[settled.unwrap_or(0)..];
            let is_new = settled.is_none() && found.is_none();
            assert!(
                is_new || allowed.iter().any(|(_, value)| value.as_ref() == found),
                "definition {name:?}"
            );
        }
    }

    fn check_queue(
        &self,
        opened: &Opened,
        queue: QueueId,
        messages: &BTreeMap<u64, Fate>,
        (durable, length_of): (u64, fn(u64) -> usize),
    ) {
        let found = read_everything(opened, queue, length_of);
        let recovered = opened
            .queues
            .iter()
            .find(|recovered| recovered.queue == queue);
        let ready = recovered.map_or(0, |recovered| recovered.ready);
        assert_eq!(found.len() as u64, ready, "the count of queue {}", queue.0);
        if self.dropped.contains_key(&queue) {
            let is_final = self.dropped[&queue] <= durable;
            assert!(
                !is_final || recovered.is_none(),
                "queue {} came back",
                queue.0
            );
            return;
        }
        let highest = messages.keys().next_back().copied().unwrap_or(0);
        for number in &found {
            match messages.get(number) {
                Some(Fate::Settled(by)) => {
                    assert!(*by > durable, "message {number} of {} came back", queue.0);
                }
                Some(Fate::Elided) => {
                    panic!("message {number} of {} was elided and came back", queue.0);
                }
                Some(Fate::Appended(_) | Fate::Open) => {}
                None => assert!(
                    *number > highest,
                    "message {number} of {} was never appended",
                    queue.0
                ),
            }
        }
        for (number, fate) in messages {
            if matches!(fate, Fate::Appended(ticket) if *ticket <= durable) {
                assert!(
                    found.binary_search(number).is_ok(),
                    "confirmed message {number} of {} is lost",
                    queue.0
                );
            }
        }
        if let (Some(recovered), Some(last)) = (recovered, found.last()) {
            assert!(
                recovered.first.0 <= found[0] && *last < recovered.next.0,
                "the bounds of queue {}",
                queue.0
            );
        }
    }
}

/// Reads a whole queue in slices, checks every body and the order, and returns the numbers.
pub(crate) fn read_everything(
    opened: &Opened,
    queue: QueueId,
    length_of: fn(u64) -> usize,
) -> Vec<u64> {
    let mut from = Sequence(0);
    let mut seen: Vec<u64> = Vec::new();
    loop {
        let slice = opened.store.read(queue, from, 50_000).unwrap();
        let Some((last, _)) = slice.last() else {
            return seen;
        };
        from = Sequence(last.0 + 1);
        for (sequence, found) in &slice {
            assert!(
                found[..] == body(queue, sequence.0, length_of(sequence.0))[..],
                "the body of message {}",
                sequence.0
            );
            assert!(
                seen.last().is_none_or(|last| *last < sequence.0),
                "the order at message {}",
                sequence.0
            );
            seen.push(sequence.0);
        }
    }
}
