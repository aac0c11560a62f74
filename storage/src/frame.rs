//! Every byte of the log: segment headers and frames; `record` reads their records.
//! `docs/storage.md` describes the same.
//!
//! All numbers are little-endian, varints are LEB128. Nothing a client wrote can pass as a frame:
//! the sums of a frame are keyed with a secret made from the segment's random salt.

pub use crate::record::{
    Change, Fields, Group, GroupKind, Malformed, QueueNumbers, Record, Snapshot, records,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_secret, xxh3_64_with_seed};

/// Frames begin at multiples of this many bytes; the header of a segment fills one.
pub const BLOCK: u64 = 4096;
/// Bytes of a frame before its records.
pub const FRAME_HEADER: usize = 32;
/// Bodies above this many bytes get a file of their own.
pub const LARGE_BYTES: usize = 1 << 20;
/// Where the body begins in a file of its own, behind its block and checksum.
pub const BODY_AT: u64 = BLOCK + 4;
const MAGIC: [u8; 8] = *b"cbrklog\x02";
/// Version of the format, the last byte of the magic.
pub(crate) const VERSION: u16 = MAGIC[7] as u16;
const SEGMENT_HEADER: usize = 88;
/// Where the second copy of the segment header begins.
const SECOND_COPY: usize = 2048;

/// Bytes from a number that a file or memory can hold.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Rounds up to whole blocks.
pub const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// What a segment file is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Frames of the log.
    Log = 1,
    /// Nothing in it counts any more.
    Free = 2,
    /// One large body.
    Body = 3,
}

/// The first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Rises with each use of any slot, from 1.
    pub number: u64,
    /// Random; makes the secret.
    pub salt: [u8; 16],
    /// Commit number of the first frame after the snapshot.
    pub first_commit: u64,
    /// The segment before this one; 0 for none.
    pub previous: u64,
    /// Offset behind the last frame of the segment before.
    pub previous_end: u64,
    /// The last commit in the segment before.
    pub previous_commit: u64,
    /// Length of the file.
    pub length: u64,
    /// What the file is used for.
    pub state: State,
}

impl SegmentHeader {
    /// The block, with two copies of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [0; SEGMENT_HEADER];
        copy[..8].copy_from_slice(&MAGIC);
        copy[8..16].copy_from_slice(&self.number.to_le_bytes());
        copy[16..32].copy_from_slice(&self.salt);
        let numbers = [
            self.first_commit,
            self.previous,
            self.previous_end,
            self.previous_commit,
            self.length,
        ];
        for (at, number) in (32..).step_by(8).zip(numbers) {
            copy[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        copy[72] = self.state as u8;
        let sum = xxh3_64(&copy[..80]);
        copy[80..].copy_from_slice(&sum.to_le_bytes());
        let mut block = vec![0; to_usize(BLOCK)];
        block[..SEGMENT_HEADER].copy_from_slice(&copy);
        block[SECOND_COPY..SECOND_COPY + SEGMENT_HEADER].copy_from_slice(&copy);
        block
    }

    /// Reads the block; of two valid copies the one with the higher number counts, then the one in
    /// use.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let first = Self::parse_copy(block.get(..SEGMENT_HEADER)?);
        let second = block
            .get(SECOND_COPY..SECOND_COPY + SEGMENT_HEADER)
            .and_then(Self::parse_copy);
        match (first, second) {
            (Some(first), Some(second)) => {
                let rank = |header: &Self| (header.number, header.state != State::Free);
                Some(if rank(&second) > rank(&first) {
                    second
                } else {
                    first
                })
            }
            (first, second) => first.or(second),
        }
    }

    /// The version of a newer format that both copies name.
    pub(crate) fn newer_version(block: &[u8]) -> Option<u16> {
        let name = |at: usize| block.get(at..at + MAGIC.len());
        let (first, second) = (name(0)?, name(SECOND_COPY)?);
        let is_newer = first[..7] == MAGIC[..7] && first[7] > MAGIC[7] && first == second;
        is_newer.then(|| first[7].into())
    }

    fn parse_copy(copy: &[u8]) -> Option<Self> {
        if copy[..8] != MAGIC || read_u64(copy, 80)? != xxh3_64(&copy[..80]) {
            return None;
        }
        Some(Self {
            number: read_u64(copy, 8)?,
            salt: copy[16..32].try_into().ok()?,
            first_commit: read_u64(copy, 32)?,
            previous: read_u64(copy, 40)?,
            previous_end: read_u64(copy, 48)?,
            previous_commit: read_u64(copy, 56)?,
            length: read_u64(copy, 64)?,
            state: match copy[72] {
                1 => State::Log,
                2 => State::Free,
                3 => State::Body,
                _ => return None,
            },
        })
    }
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The key of a segment's sums.
#[derive(Clone)]
pub struct Secret([u8; 192]);

impl Secret {
    /// Makes the secret from a segment's salt.
    pub fn new(salt: &[u8; 16]) -> Self {
        let mut secret = [0; 192];
        for (index, word) in (0..).zip(secret.chunks_exact_mut(8)) {
            word.copy_from_slice(&xxh3_64_with_seed(salt, index).to_le_bytes());
        }
        Self(secret)
    }

    fn header_sum(&self, header: &[u8], number: u64, offset: u64) -> u64 {
        let mut bytes = [0; 40];
        bytes[..24].copy_from_slice(&header[8..FRAME_HEADER]);
        bytes[24..32].copy_from_slice(&number.to_le_bytes());
        bytes[32..].copy_from_slice(&offset.to_le_bytes());
        xxh3_64_with_secret(&bytes, &self.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Number of the commit.
    pub commit: u64,
    /// Bytes of the records.
    pub length: u32,
    /// How many records.
    pub records: u32,
    body_sum: u64,
}

impl FrameHeader {
    /// Reads a header that stands at `offset` of segment `number`.
    pub fn parse(bytes: &[u8], secret: &Secret, number: u64, offset: u64) -> Option<Self> {
        let header = bytes.get(..FRAME_HEADER)?;
        if read_u64(header, 0)? != secret.header_sum(header, number, offset) {
            return None;
        }
        Some(Self {
            commit: read_u64(header, 8)?,
            length: read_u32(header, 16)?,
            records: read_u32(header, 20)?,
            body_sum: read_u64(header, 24)?,
        })
    }

    /// Whether these are the records that the header was written for.
    pub fn matches(&self, body: &[u8], secret: &Secret) -> bool {
        xxh3_64_with_secret(body, &secret.0) == self.body_sum
    }

    /// Bytes from this frame to the next.
    pub fn stride(&self) -> u64 {
        padded(FRAME_HEADER as u64 + u64::from(self.length))
    }
}

/// Builds one frame in a buffer that is used again.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    records: u32,
    /// Zeros that a seal has added at the end.
    padding: usize,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self {
            bytes: vec![0; FRAME_HEADER],
            records: 0,
            padding: 0,
        }
    }
}

impl FrameBuilder {
    const KEPT_BYTES: usize = 1 << 20;

    /// Starts over.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEPT_BYTES);
        self.bytes.resize(FRAME_HEADER, 0);
        self.records = 0;
        self.padding = 0;
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The records so far.
    pub fn body(&self) -> &[u8] {
        let end = self.bytes.len() - self.padding;
        self.bytes.get(FRAME_HEADER..end).unwrap_or_default()
    }

    /// Bytes on the disk, whole blocks.
    pub fn stride(&self) -> u64 {
        padded(self.bytes.len() as u64)
    }

    /// Fills the header for a place in the log and returns whole blocks.
    pub fn seal(&mut self, secret: &Secret, number: u64, offset: u64, commit: u64) -> &[u8] {
        self.bytes.truncate(self.bytes.len() - self.padding);
        let body = &self.bytes[FRAME_HEADER..];
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let body_sum = xxh3_64_with_secret(body, &secret.0);
        self.bytes[8..16].copy_from_slice(&commit.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&length.to_le_bytes());
        self.bytes[20..24].copy_from_slice(&self.records.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&body_sum.to_le_bytes());
        let sum = secret.header_sum(&self.bytes[..FRAME_HEADER], number, offset);
        self.bytes[..8].copy_from_slice(&sum.to_le_bytes());
        let end = self.bytes.len();
        self.bytes.resize(to_usize(padded(end as u64)), 0);
        self.padding = self.bytes.len() - end;
        &self.bytes
    }

    fn begin(&mut self, kind: u8) -> &mut Vec<u8> {
        self.records += 1;
        self.bytes.push(kind);
        &mut self.bytes
    }

    /// A definition is set.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let out = self.begin(3);
        push_bytes(out, key);
        push_bytes(out, value);
    }

    /// A definition is gone.
    pub fn remove(&mut self, key: &[u8]) {
        push_bytes(self.begin(4), key);
    }

    /// Messages of one queue in rising order, or copies of them.
    pub fn messages<'a>(
        &mut self,
        kind: GroupKind,
        (queue, base): (u64, u64),
        entries: impl Iterator<Item = (u64, &'a [u8])> + Clone,
    ) {
        let Some((first, _)) = entries.clone().next() else {
            return;
        };
        let mut expected = first;
        let (mut count, mut gaps, mut lengths, mut is_gappy) = (0_u64, 0, 0, false);
        for (sequence, body) in entries.clone() {
            count += 1;
            is_gappy |= sequence != expected;
            gaps += varint_length(sequence - expected);
            lengths += varint_length(body.len() as u64) + body.len();
            expected = sequence + 1;
        }
        let length = lengths + if is_gappy { gaps } else { 0 };
        let base = base.min(first);
        let out = self.begin(kind as u8);
        out.reserve(length + 64);
        push_varint(out, queue);
        push_varint(out, base);
        push_varint(out, first - base);
        push_varint(out, count << 1 | u64::from(is_gappy));
        push_varint(out, length as u64);
        let crc_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut expected = first;
        for (sequence, body) in entries {
            if is_gappy {
                push_varint(out, sequence - expected);
                expected = sequence + 1;
            }
            push_bytes(out, body);
        }
        let crc = group_crc(queue, first, &out[crc_at + 4..]);
        out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// A message whose body has a file of its own.
    pub fn large(&mut self, (queue, base): (u64, u64), sequence: u64, file: u64, length: u64) {
        let base = base.min(sequence);
        let out = self.begin(10);
        for number in [queue, base, sequence - base, file, length] {
            push_varint(out, number);
        }
    }

    /// Messages are settled: ranges of sequences, sorted and apart.
    pub fn settles(&mut self, queue: u64, ranges: &[(u64, u64)]) {
        let out = self.begin(2);
        push_varint(out, queue);
        push_ranges(out, 0, ranges.len(), ranges.iter().copied());
    }

    /// Everything up to a sequence is gone.
    pub fn purge(&mut self, queue: u64, through: u64) {
        let out = self.begin(5);
        push_varint(out, queue);
        push_varint(out, through);
    }

    /// The queue is gone.
    pub fn drop_queue(&mut self, queue: u64) {
        push_varint(self.begin(6), queue);
    }

    /// Numbers of a queue: the first never used, and everything below was delivered.
    pub fn numbers(&mut self, queue: u64, next: u64, delivered_below: u64) {
        let out = self.begin(8);
        for number in [queue, next, delivered_below] {
            push_varint(out, number);
        }
    }

    /// All numbers of all queues, written by the caller.
    pub fn snapshot(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(self.begin(9));
    }
}

/// Appends a varint.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Bytes of a varint.
pub(crate) fn varint_length(number: u64) -> usize {
    (70 - to_usize(u64::from((number | 1).leading_zeros()))) / 7
}

/// Appends bytes after their length.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends ranges: their number, then the gap before each and its length.
pub(crate) fn push_ranges(
    out: &mut Vec<u8>,
    mut after: u64,
    count: usize,
    ranges: impl Iterator<Item = (u64, u64)>,
) {
    push_varint(out, count as u64);
    for (first, last) in ranges {
        push_varint(out, first - after);
        push_varint(out, last - first + 1);
        after = last + 1;
    }
}

/// The checksum of a group's bytes and place.
pub(crate) fn group_crc(queue: u64, first: u64, data: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&queue.to_le_bytes());
    place[8..].copy_from_slice(&first.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), data)
}
