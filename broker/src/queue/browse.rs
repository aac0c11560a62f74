//! Reads the messages of a queue without taking them, in memory and in the store. Depends on
//! `ready` and `persist`. It blocks on the disk, so it runs on a blocking thread.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::Queue;
use super::level::BrowsedPart;
use super::message::Message;
use crate::persist::{QueueStore, ReadFailed};

/// The bytes of one read of the store.
const SLICE_BYTES: usize = 1024 * 1024;

/// The position of a message in its queue. It does not change when messages before it are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    pub(crate) level: u8,
    pub(crate) position: u64,
}

/// A waiting message.
#[derive(Debug, Clone)]
pub(crate) struct WaitingMessage {
    pub(crate) place: QueuePosition,
    pub(crate) message: Message,
    pub(crate) redelivered: bool,
}

/// How much one browse may return, in messages and in their stored bytes. A single message always
/// fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BrowseLimit {
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
    /// The messages that wait behind `after`, in the order in which they would be delivered.
    /// Nothing changes.
    ///
    /// `charge` is called with the bytes that the reading takes in all, before each slice is read
    /// and once its size is known. It may refuse.
    pub(crate) fn browse<E: From<ReadFailed>>(
        &self,
        after: Option<QueuePosition>,
        most: BrowseLimit,
        charge: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<WaitingMessage>, E> {
        let (parts, delivered_before) = self.with(|state| {
            let parts = state.ready.browsed_parts(after, most.messages);
            (parts, state.delivered_before.clone())
        });
        let mut reading = StoreReading {
            held_bytes: 0,
            charge,
            has_some: false,
            is_refused: false,
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for mut part in parts {
            let left = BrowseLimit {
                messages: most.messages - found.len(),
                bytes: most.bytes.saturating_sub(bytes),
            };
            let before = delivered_before[usize::from(part.level)];
            reading.has_some = !found.is_empty();
            self.read_gap(&mut part, left, before, &mut reading)?;
            for (position, (message, redelivered)) in part.seen.into_iter().take(left.messages) {
                bytes += message.footprint();
                if bytes > most.bytes && !found.is_empty() {
                    return Ok(found);
                }
                found.push(WaitingMessage {
                    place: QueuePosition {
                        level: part.level,
                        position,
                    },
                    message,
                    redelivered,
                });
            }
            if reading.is_refused {
                break;
            }
        }
        Ok(found)
    }

    /// Adds messages that only the store has, until the part has as many as `wanted` without a gap.
    fn read_gap<E: From<ReadFailed>>(
        &self,
        part: &mut BrowsedPart,
        wanted: BrowseLimit,
        delivered_before: Option<u64>,
        reading: &mut StoreReading<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        let (Some(mut from), Some(store)) = (part.gap, self.store()) else {
            return Ok(());
        };
        loop {
            let before = part.seen.range(..from);
            let (messages, bytes) = before.fold((0, 0), |(messages, bytes), (_, (message, _))| {
                (messages + 1, bytes + message.footprint())
            });
            if messages >= wanted.messages || bytes >= wanted.bytes {
                break;
            }
            let limit_bytes = SLICE_BYTES.min(wanted.bytes - bytes);
            let slice = match reading.slice(store, (part.level, from), limit_bytes) {
                // The messages found so far may be shown.
                Err(StoreReadingEnd::Refused(_)) if reading.has_some || messages > 0 => {
                    reading.is_refused = true;
                    break;
                }
                Err(StoreReadingEnd::Refused(refusal)) => return Err(refusal),
                Err(StoreReadingEnd::Failed(error)) => return Err(error.into()),
                Ok(slice) => slice,
            };
            let Some((last, _)) = slice.last() else {
                return Ok(());
            };
            from = last + 1;
            for (position, bytes) in slice {
                // What cannot be read is reported when it is the next to be delivered.
                if let Ok(message) = Message::from_stored(&bytes) {
                    let redelivered = delivered_before.is_some_and(|through| position <= through);
                    part.seen.entry(position).or_insert((message, redelivered));
                }
            }
        }
        part.seen.split_off(&from);
        Ok(())
    }
}

/// The progress of reading from the store, and the charge for it.
struct StoreReading<H> {
    held_bytes: usize,
    charge: H,
    /// Some messages were found before.
    has_some: bool,
    /// Nothing more is shown: it would take too much memory.
    is_refused: bool,
}

/// Why a slice was not read.
enum StoreReadingEnd<E> {
    /// It would take too much memory.
    Refused(E),
    Failed(ReadFailed),
}

impl<E, H: FnMut(usize) -> Result<(), E>> StoreReading<H> {
    /// Reads a slice of about `limit_bytes`; a single message may be larger.
    fn slice(
        &mut self,
        store: &QueueStore,
        (level, from): (u8, u64),
        limit_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreReadingEnd<E>> {
        (self.charge)(self.held_bytes + limit_bytes).map_err(StoreReadingEnd::Refused)?;
        let read = store.read(level, from, limit_bytes);
        let slice = read.map_err(StoreReadingEnd::Failed)?;
        self.held_bytes += slice.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        (self.charge)(self.held_bytes).map_err(StoreReadingEnd::Refused)?;
        Ok(slice)
    }
}
