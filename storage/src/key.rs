//! The keys of the one tree: one function to write each kind, one to read it back.
//!
//! Every number is big-endian, so the byte order of the keys is the order of the numbers. `docs/storage.md` has the
//! same table for people. Relies on nothing.

use crate::{QueueId, Sequence};

/// The format row: one key, one value, read before everything else.
pub const FORMAT: &[u8] = &[0x00];

/// Kinds above this one are followed by a queue.
pub const LAST_OF_FACTS: u8 = FACT;

const FACT: u8 = 0x01;
const SUMMARY: u8 = 0x02;
const DROPPED: u8 = 0x03;
/// The number of the last commit.
pub const SERIAL: &[u8] = &[0x04];
/// The number of the journal's round that the rows do not have yet.
pub const ROUND: &[u8] = &[0x05];

const UNFINISHED: u8 = 0x06;
const ROW: u8 = 0x10;
const MARKS: u8 = 0x11;
const PART: u8 = 0x12;

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The format row.
    Format,
    /// One part of a fact's value.
    Fact {
        /// The fact's own key.
        name: Vec<u8>,
        /// 0 for the first 6,000 bytes of the value, and so on.
        part: u16,
    },
    /// A queue's counts.
    Summary(QueueId),
    /// A queue that was dropped and whose rows are still being deleted.
    Dropped(QueueId),
    /// The number of the last commit.
    Serial,
    /// The journal's round.
    Round,
    /// A big message whose parts are being written or deleted: without its row they are worth nothing.
    Unfinished(QueueId, Sequence),
    /// A row of messages, keyed by the **last** sequence in it: the first key at or after a sequence holds it.
    Row(QueueId, Sequence),
    /// Which messages of that row are settled.
    Marks(QueueId, Sequence),
    /// A part of one big message.
    Part(QueueId, Sequence, u32),
}

impl Key {
    /// Reads a key back; `None` for a key that this format does not have.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        match (kind, rest.len()) {
            (0x00, 0) => Some(Self::Format),
            (FACT, 2..) => {
                let (name, part) = rest.split_last_chunk::<2>()?;
                Some(Self::Fact {
                    name: name.to_vec(),
                    part: u16::from_be_bytes(*part),
                })
            }
            (0x04, 0) => Some(Self::Serial),
            (0x05, 0) => Some(Self::Round),
            (SUMMARY, 8) => Some(Self::Summary(queue_at(rest)?)),
            (DROPPED, 8) => Some(Self::Dropped(queue_at(rest)?)),
            (UNFINISHED, 16) => Some(Self::Unfinished(queue_at(rest)?, sequence_at(rest)?)),
            (ROW, 16) => Some(Self::Row(queue_at(rest)?, sequence_at(rest)?)),
            (MARKS, 16) => Some(Self::Marks(queue_at(rest)?, sequence_at(rest)?)),
            (PART, 20) => {
                let part = u32::from_be_bytes(*rest.last_chunk::<4>()?);
                Some(Self::Part(queue_at(rest)?, sequence_at(rest)?, part))
            }
            _ => None,
        }
    }
}

fn queue_at(rest: &[u8]) -> Option<QueueId> {
    rest.first_chunk::<8>()
        .map(|bytes| QueueId(u64::from_be_bytes(*bytes)))
}

fn sequence_at(rest: &[u8]) -> Option<Sequence> {
    rest.get(8..)?
        .first_chunk::<8>()
        .map(|bytes| Sequence(u64::from_be_bytes(*bytes)))
}

/// The key of one part of a fact.
pub fn fact(name: &[u8], part: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    key.push(FACT);
    key.extend_from_slice(name);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// All facts: from, and up to but without.
pub fn facts() -> ([u8; 1], [u8; 1]) {
    ([FACT], [FACT + 1])
}

/// All summaries.
pub fn summaries() -> ([u8; 1], [u8; 1]) {
    ([SUMMARY], [SUMMARY + 1])
}

/// All queues that are being deleted.
pub fn all_dropped() -> ([u8; 1], [u8; 1]) {
    ([DROPPED], [DROPPED + 1])
}

/// All big messages whose parts are being written or deleted.
pub fn all_unfinished() -> ([u8; 1], [u8; 1]) {
    ([UNFINISHED], [UNFINISHED + 1])
}

/// The key that says that a big message's parts are being written or deleted.
pub fn unfinished(queue: QueueId, sequence: Sequence) -> Vec<u8> {
    of_sequence(UNFINISHED, queue, sequence)
}

/// All parts of one big message: from, and up to but without.
pub fn parts_at(queue: QueueId, sequence: Sequence) -> (Vec<u8>, Vec<u8>) {
    (
        part(queue, sequence, 0),
        past(part(queue, sequence, u32::MAX)),
    )
}

/// The key of a queue's counts.
pub fn summary(queue: QueueId) -> Vec<u8> {
    of_queue(SUMMARY, queue)
}

/// The key that says that a queue is being deleted.
pub fn dropped(queue: QueueId) -> Vec<u8> {
    of_queue(DROPPED, queue)
}

/// The key of the row whose last message is `last`.
pub fn row(queue: QueueId, last: Sequence) -> Vec<u8> {
    of_sequence(ROW, queue, last)
}

/// One past the last row that a queue can have.
pub fn rows_end(queue: QueueId) -> Vec<u8> {
    past(row(queue, Sequence(u64::MAX)))
}

/// All marks of a queue: from, and up to but without.
pub fn marks_of(queue: QueueId) -> (Vec<u8>, Vec<u8>) {
    (
        of_queue(MARKS, queue),
        past(of_sequence(MARKS, queue, Sequence(u64::MAX))),
    )
}

/// All parts of big messages of a queue: from, and up to but without.
pub fn parts_of(queue: QueueId) -> (Vec<u8>, Vec<u8>) {
    (
        of_queue(PART, queue),
        past(part(queue, Sequence(u64::MAX), u32::MAX)),
    )
}

fn past(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The key of the marks of the row whose last message is `last`.
pub fn marks(queue: QueueId, last: Sequence) -> Vec<u8> {
    of_sequence(MARKS, queue, last)
}

/// The key of one part of a big message.
pub fn part(queue: QueueId, sequence: Sequence, part: u32) -> Vec<u8> {
    let mut key = of_sequence(PART, queue, sequence);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn of_queue(kind: u8, queue: QueueId) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(kind);
    key.extend_from_slice(&queue.0.to_be_bytes());
    key
}

fn of_sequence(kind: u8, queue: QueueId, sequence: Sequence) -> Vec<u8> {
    let mut key = Vec::with_capacity(22);
    key.push(kind);
    key.extend_from_slice(&queue.0.to_be_bytes());
    key.extend_from_slice(&sequence.0.to_be_bytes());
    key
}
