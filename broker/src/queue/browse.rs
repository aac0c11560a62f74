//! Looking through a line without taking anything, in memory and in the store. Relies on `ready`
//! and `persist`; blocks on the disk, so it runs on a thread of its own.

use std::fmt;
use std::str::FromStr;

use super::Queue;
use super::level::Stretch;
use super::message::Message;
use crate::persist::ReadFailed;

/// What one read of the store brings.
const SLICE_BYTES: usize = 1024 * 1024;

/// Where a message stands in its queue: stays the same however many messages before it go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    pub(crate) level: u8,
    pub(crate) position: u64,
}

/// A message as it waits.
#[derive(Debug, Clone)]
pub(crate) struct WaitingMessage {
    pub(crate) place: QueuePosition,
    pub(crate) message: Message,
    pub(crate) redelivered: bool,
}

/// How much one look may bring; a single message always fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl fmt::Display for QueuePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.level, self.position)
    }
}

impl FromStr for QueuePosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (level, position) = text.split_once('.').ok_or(())?;
        Ok(Self {
            level: level.parse().map_err(|_| ())?,
            position: position.parse().map_err(|_| ())?,
        })
    }
}

impl Queue {
    /// The messages that wait behind `after`, in the order in which they would be handed out.
    /// Nothing changes.
    pub(crate) fn browse(
        &self,
        after: Option<QueuePosition>,
        most: Most,
    ) -> Result<Vec<WaitingMessage>, ReadFailed> {
        let (stretches, delivered_before) = self.with(|state| {
            let stretches = state.ready.stretches(after, most.messages);
            (stretches, state.delivered_before.clone())
        });
        let mut found = Vec::new();
        let mut bytes = 0;
        for mut stretch in stretches {
            let left = most.messages - found.len();
            let before = delivered_before[usize::from(stretch.level)];
            self.read_gap(&mut stretch, left, before)?;
            for (position, (message, redelivered)) in stretch.seen.into_iter().take(left) {
                bytes += message.body_len();
                if bytes > most.bytes && !found.is_empty() {
                    return Ok(found);
                }
                found.push(WaitingMessage {
                    place: QueuePosition {
                        level: stretch.level,
                        position,
                    },
                    message,
                    redelivered,
                });
            }
        }
        Ok(found)
    }

    /// Adds what only the store holds, until the stretch has `wanted` messages without a hole
    /// before any of them.
    fn read_gap(
        &self,
        stretch: &mut Stretch,
        wanted: usize,
        delivered_before: Option<u64>,
    ) -> Result<(), ReadFailed> {
        let (Some(mut from), Some(store)) = (stretch.gap, self.store()) else {
            return Ok(());
        };
        while stretch.seen.range(..from).count() < wanted {
            let slice = store.read(stretch.level, from, SLICE_BYTES)?;
            let Some((last, _)) = slice.last() else {
                return Ok(());
            };
            from = last + 1;
            for (position, bytes) in slice {
                // What cannot be read is told when it is its turn to be handed out.
                if let Ok(message) = Message::from_stored(&bytes) {
                    let redelivered = delivered_before.is_some_and(|through| position <= through);
                    stretch
                        .seen
                        .entry(position)
                        .or_insert((message, redelivered));
                }
            }
        }
        stretch.seen.split_off(&from);
        Ok(())
    }
}
