//! The values of the one tree, byte by byte: written here, read back here, checked here.
//!
//! Every number is big-endian or a LEB128 varint, every value opens with its layout number and carries a CRC32C over
//! its content and the place where it belongs, so that a row read under the wrong key is damage and not a message.
//! `docs/storage.md` has the same tables for people. Relies on the `crc32c` crate.

use crate::{QueueId, Sequence};

/// The version in the format row. A store with a higher one is refused.
pub const FORMAT_VERSION: u16 = 1;
/// No value is longer, because anything above about 7,500 bytes may leave the engine's synced file (docs/storage.md).
pub const ROW_BYTES: usize = 6_960;
/// A message longer than this is cut into parts.
pub const INLINE_BYTES: usize = 6_900;
/// Bytes of a big message, or of a fact, in one part.
pub const PART_BYTES: usize = 6_900;
/// Bytes of a fact's value in one part; its key of up to 1 KiB stands in the same row.
pub const FACT_PART_BYTES: usize = 5_800;

const FORMAT_NAME: &[u8; 13] = b"cbroker store";
const ROW_OF_MESSAGES: u8 = 1;
const ROW_OF_ONE_BIG: u8 = 2;
const LAYOUT: u8 = 1;
const ROW_HEADER: usize = 11;

/// A value that does not hold what its key promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged value")]
pub struct Damaged;

/// The format row's value.
pub fn format_row() -> Vec<u8> {
    let mut value = FORMAT_NAME.to_vec();
    value.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    let sum = crc32c::crc32c(&value);
    value.extend_from_slice(&sum.to_be_bytes());
    value
}

/// The version in a format row.
pub fn parse_format(value: &[u8]) -> Result<u16, Damaged> {
    let (content, sum) = value.split_last_chunk::<4>().ok_or(Damaged)?;
    if crc32c::crc32c(content) != u32::from_be_bytes(*sum) {
        return Err(Damaged);
    }
    let version = content.strip_prefix(FORMAT_NAME).ok_or(Damaged)?;
    Ok(u16::from_be_bytes(version.try_into().map_err(|_| Damaged)?))
}

/// The value of a key that says everything by itself: a big message whose parts are being written or deleted.
pub fn unfinished_row() -> Vec<u8> {
    vec![LAYOUT]
}

/// The number of a commit.
pub fn serial_row(serial: u64) -> Vec<u8> {
    let mut value = vec![LAYOUT];
    value.extend_from_slice(&serial.to_be_bytes());
    let sum = crc32c::crc32c(&value);
    value.extend_from_slice(&sum.to_be_bytes());
    value
}

/// Reads it back.
pub fn parse_serial(value: &[u8]) -> Result<u64, Damaged> {
    let (content, sum) = value.split_last_chunk::<4>().ok_or(Damaged)?;
    let (layout, serial) = content.split_first().ok_or(Damaged)?;
    if *layout != LAYOUT || crc32c::crc32c(content) != u32::from_be_bytes(*sum) {
        return Err(Damaged);
    }
    serial
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| Damaged)
}

/// What is known of a queue without looking at its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// No live message has a lower sequence.
    pub floor: u64,
    /// The first sequence never used.
    pub next: u64,
    /// Live messages on disk.
    pub ready: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Everything below was handed out at least once. 0 is nothing.
    pub delivered_below: u64,
    /// Rows whose last sequence is below this are gone from the disk; those up to `floor` still have to go.
    pub swept: u64,
    /// How many rows have marks beside them.
    pub marked: u32,
}

impl Summary {
    /// The summary's value under its queue's key.
    pub fn encode(&self, queue: QueueId) -> Vec<u8> {
        let mut value = Vec::with_capacity(57);
        value.push(LAYOUT);
        for number in [
            self.floor,
            self.next,
            self.ready,
            self.bytes,
            self.delivered_below,
            self.swept,
        ] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        value.extend_from_slice(&self.marked.to_be_bytes());
        let sum = checksum(queue, Sequence(0), &value);
        value.extend_from_slice(&sum.to_be_bytes());
        value
    }

    /// Reads a summary back.
    pub fn parse(queue: QueueId, value: &[u8]) -> Result<Self, Damaged> {
        let (content, sum) = value.split_last_chunk::<4>().ok_or(Damaged)?;
        if content.len() != 53
            || content[0] != LAYOUT
            || checksum(queue, Sequence(0), content) != u32::from_be_bytes(*sum)
        {
            return Err(Damaged);
        }
        let number = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&content[1 + 8 * index..9 + 8 * index]);
            u64::from_be_bytes(bytes)
        };
        let mut marked = [0; 4];
        marked.copy_from_slice(&content[49..53]);
        Ok(Self {
            floor: number(0),
            next: number(1),
            ready: number(2),
            bytes: number(3),
            delivered_below: number(4),
            swept: number(5),
            marked: u32::from_be_bytes(marked),
        })
    }
}

/// A row of messages that is being filled.
#[derive(Debug)]
pub struct RowBuilder {
    queue: QueueId,
    value: Vec<u8>,
    count: u16,
    last: Sequence,
}

impl RowBuilder {
    /// An empty row of one queue.
    pub fn new(queue: QueueId) -> Self {
        Self {
            queue,
            value: Vec::new(),
            count: 0,
            last: Sequence(0),
        }
    }

    /// Adds a message of at most [`INLINE_BYTES`], higher than all before it. A row that was full comes back, and
    /// this one goes on with the message alone.
    pub fn push(&mut self, sequence: Sequence, body: &[u8]) -> Option<(Sequence, Vec<u8>)> {
        let full = (self.count > 0 && self.value.len() + body.len() + 17 > ROW_BYTES)
            .then(|| self.take())
            .flatten();
        if self.count == 0 {
            self.value.reserve(ROW_BYTES);
            self.value.push(ROW_OF_MESSAGES);
            self.value.extend_from_slice(&[0, 0]);
            self.value.extend_from_slice(&sequence.0.to_be_bytes());
            self.last = sequence;
        }
        push_varint(&mut self.value, sequence.0 - self.last.0);
        push_varint(&mut self.value, body.len() as u64);
        self.value
            .extend_from_slice(&checksum(self.queue, sequence, body).to_be_bytes());
        self.value.extend_from_slice(body);
        self.count += 1;
        self.last = sequence;
        full
    }

    /// The row so far, keyed by its last sequence; `None` when nothing is in it.
    pub fn take(&mut self) -> Option<(Sequence, Vec<u8>)> {
        if self.count == 0 {
            return None;
        }
        self.value[1..3].copy_from_slice(&self.count.to_be_bytes());
        self.count = 0;
        Some((self.last, std::mem::take(&mut self.value)))
    }
}

/// The head of a message that was cut into parts.
pub fn big_row(queue: QueueId, sequence: Sequence, length: u32) -> Vec<u8> {
    let mut value = vec![ROW_OF_ONE_BIG];
    value.extend_from_slice(&length.to_be_bytes());
    let sum = checksum(queue, sequence, &value);
    value.extend_from_slice(&sum.to_be_bytes());
    value
}

/// How many parts a big message of that length has.
pub fn parts_of(length: u32) -> u32 {
    u32::try_from(u64::from(length).div_ceil(PART_BYTES as u64)).unwrap_or(u32::MAX)
}

/// One part's value.
pub fn part_row(queue: QueueId, sequence: Sequence, part: u32, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes.len() + 4);
    let sum = crc32c::crc32c_append(checksum(queue, sequence, bytes), &part.to_be_bytes());
    value.extend_from_slice(&sum.to_be_bytes());
    value.extend_from_slice(bytes);
    value
}

/// The bytes of one part.
pub fn parse_part(
    queue: QueueId,
    sequence: Sequence,
    part: u32,
    value: &[u8],
) -> Result<&[u8], Damaged> {
    let (sum, bytes) = value.split_first_chunk::<4>().ok_or(Damaged)?;
    let found = crc32c::crc32c_append(checksum(queue, sequence, bytes), &part.to_be_bytes());
    if found == u32::from_be_bytes(*sum) {
        Ok(bytes)
    } else {
        Err(Damaged)
    }
}

/// One message's place in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The message.
    pub sequence: Sequence,
    /// Where its bytes begin in the row.
    pub start: u32,
    /// Its length in bytes.
    pub length: u32,
    /// What its bytes must sum to.
    pub sum: u32,
}

impl Entry {
    /// This message's bytes within its row, checked.
    pub fn body<'a>(&self, queue: QueueId, row: &'a [u8]) -> Result<&'a [u8], Damaged> {
        let bytes = row
            .get(self.start as usize..(self.start + self.length) as usize)
            .ok_or(Damaged)?;
        if checksum(queue, self.sequence, bytes) == self.sum {
            Ok(bytes)
        } else {
            Err(Damaged)
        }
    }
}

/// What a row says that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Whole messages, in order.
    Messages(Vec<Entry>),
    /// The head of one big message of so many bytes.
    Big {
        /// Its length in bytes.
        length: u32,
    },
}

impl Row {
    /// Reads a row's table. Bodies are checked one by one by [`Entry::body`].
    pub fn parse(queue: QueueId, last: Sequence, value: &[u8]) -> Result<Self, Damaged> {
        match value.first() {
            Some(&ROW_OF_MESSAGES) => parse_messages(last, value).map(Self::Messages),
            Some(&ROW_OF_ONE_BIG) if value.len() == 9 => {
                let (content, sum) = value.split_last_chunk::<4>().ok_or(Damaged)?;
                if checksum(queue, last, content) != u32::from_be_bytes(*sum) {
                    return Err(Damaged);
                }
                let length = content
                    .get(1..5)
                    .and_then(|bytes| bytes.first_chunk::<4>())
                    .ok_or(Damaged)?;
                Ok(Self::Big {
                    length: u32::from_be_bytes(*length),
                })
            }
            _ => Err(Damaged),
        }
    }
}

fn parse_messages(last: Sequence, value: &[u8]) -> Result<Vec<Entry>, Damaged> {
    let header = value.get(1..ROW_HEADER).ok_or(Damaged)?;
    let count = u16::from_be_bytes([header[0], header[1]]);
    let mut sequence = u64::from_be_bytes(*header[2..].first_chunk::<8>().ok_or(Damaged)?);
    let mut at = ROW_HEADER;
    let mut entries = Vec::with_capacity(usize::from(count).min(value.len() / 6));
    for _ in 0..count {
        let step = take_varint(value, &mut at)?;
        let length = take_varint(value, &mut at)?;
        let sum = *value
            .get(at..)
            .and_then(|rest| rest.first_chunk::<4>())
            .ok_or(Damaged)?;
        at += 4;
        sequence = sequence.checked_add(step).ok_or(Damaged)?;
        let length = u32::try_from(length).map_err(|_| Damaged)?;
        let start = u32::try_from(at).map_err(|_| Damaged)?;
        at += length as usize;
        if at > value.len() || (step == 0 && !entries.is_empty()) {
            return Err(Damaged);
        }
        entries.push(Entry {
            sequence: Sequence(sequence),
            start,
            length,
            sum: u32::from_be_bytes(sum),
        });
    }
    if at == value.len() && Sequence(sequence) == last && count > 0 {
        Ok(entries)
    } else {
        Err(Damaged)
    }
}

/// The marks of a row: one bit for each of its messages, set when it is settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(Vec<u8>);

impl Marks {
    /// Whether no message is marked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the message at that index of its row is settled.
    pub fn has(&self, index: usize) -> bool {
        self.0
            .get(index / 8)
            .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Marks a message as settled.
    pub fn set(&mut self, index: usize) {
        if self.0.len() <= index / 8 {
            self.0.resize(index / 8 + 1, 0);
        }
        self.0[index / 8] |= 1 << (index % 8);
    }

    /// The value under the marks' key.
    pub fn encode(&self, queue: QueueId, last: Sequence) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.0.len() + 5);
        value.push(LAYOUT);
        value.extend_from_slice(&checksum(queue, last, &self.0).to_be_bytes());
        value.extend_from_slice(&self.0);
        value
    }

    /// Reads marks back.
    pub fn parse(queue: QueueId, last: Sequence, value: &[u8]) -> Result<Self, Damaged> {
        let (&layout, rest) = value.split_first().ok_or(Damaged)?;
        let (sum, bits) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
        if layout != LAYOUT || checksum(queue, last, bits) != u32::from_be_bytes(*sum) {
            return Err(Damaged);
        }
        Ok(Self(bits.to_vec()))
    }
}

/// One part of a fact's value, with the number of parts that there are.
pub fn fact_row(name: &[u8], part: u16, parts: u16, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes.len() + 7);
    value.push(LAYOUT);
    value.extend_from_slice(&parts.to_be_bytes());
    value.extend_from_slice(&fact_sum(name, part, parts, bytes).to_be_bytes());
    value.extend_from_slice(bytes);
    value
}

/// The number of parts and this part's bytes.
pub fn parse_fact<'a>(name: &[u8], part: u16, value: &'a [u8]) -> Result<(u16, &'a [u8]), Damaged> {
    let (head, bytes) = value.split_first_chunk::<7>().ok_or(Damaged)?;
    let [layout, parts_high, parts_low, sum @ ..] = *head;
    let parts = u16::from_be_bytes([parts_high, parts_low]);
    if layout != LAYOUT || fact_sum(name, part, parts, bytes) != u32::from_be_bytes(sum) {
        return Err(Damaged);
    }
    Ok((parts, bytes))
}

fn fact_sum(name: &[u8], part: u16, parts: u16, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c(name);
    let sum = crc32c::crc32c_append(sum, &part.to_be_bytes());
    let sum = crc32c::crc32c_append(sum, &parts.to_be_bytes());
    crc32c::crc32c_append(sum, bytes)
}

/// The value under the key of a dropped queue, which says everything by being there.
pub fn dropped_row() -> Vec<u8> {
    vec![LAYOUT]
}

fn checksum(queue: QueueId, sequence: Sequence, bytes: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&queue.0.to_be_bytes());
    place[8..].copy_from_slice(&sequence.0.to_be_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

fn push_varint(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number.to_be_bytes()[7] | 0x80);
        number >>= 7;
    }
    value.push(number.to_be_bytes()[7]);
}

fn take_varint(value: &[u8], at: &mut usize) -> Result<u64, Damaged> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *value.get(*at).ok_or(Damaged)?;
        *at += 1;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damaged)
}
