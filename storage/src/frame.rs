//! Segment headers and frames, byte by byte as in `docs/storage.md`.
//!
//! All numbers are little-endian. Nothing a client wrote can pass as a frame: the sums of a frame
//! are keyed with a secret made from the segment's random salt.

use crate::record::push_groups;
pub use crate::record::{Group, Malformed, Range, Record, records};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_secret, xxh3_64_with_seed};

/// Frames begin at multiples of this many bytes; the header of a segment fills one.
pub const BLOCK: u64 = 4096;
/// Bytes of a frame before its records.
pub const FRAME_HEADER: usize = 32;
/// Bodies above this many bytes get a file of their own.
pub(crate) const LARGE_BYTES: usize = 1 << 20;
/// Where the data begins in a file of a large body, behind its block and checksum.
pub(crate) const BODY_AT: u64 = BLOCK + 4;
const MAGIC: [u8; 8] = *b"cbrklog\x03";
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
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// What a segment file is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Frames of the log.
    Log = 1,
    /// Nothing in it counts any more.
    #[default]
    Free = 2,
    /// One large body.
    Body = 3,
}

/// The first block of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
        let mut copy = Vec::with_capacity(SEGMENT_HEADER);
        copy.extend_from_slice(&MAGIC);
        copy.extend_from_slice(&self.number.to_le_bytes());
        copy.extend_from_slice(&self.salt);
        let places = [self.first_commit, self.previous, self.previous_end];
        for number in places
            .into_iter()
            .chain([self.previous_commit, self.length])
        {
            copy.extend_from_slice(&number.to_le_bytes());
        }
        copy.extend_from_slice(&[self.state as u8, 0, 0, 0, 0, 0, 0, 0]);
        copy.extend_from_slice(&xxh3_64(&copy).to_le_bytes());
        let mut block = vec![0; to_usize(BLOCK)];
        for at in [0, SECOND_COPY] {
            block[at..at + SEGMENT_HEADER].copy_from_slice(&copy);
        }
        block
    }

    /// Reads the block; of two valid copies the one with the higher number counts, then the one in
    /// use.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let copies = [0, SECOND_COPY].into_iter().filter_map(|at| {
            let copy = block.get(at..at + SEGMENT_HEADER)?;
            Self::parse_copy(copy)
        });
        copies.max_by_key(|header| (header.number, header.state != State::Free))
    }

    /// The version of another format that both copies name.
    pub(crate) fn foreign_version(block: &[u8]) -> Option<u16> {
        let name = |at: usize| block.get(at..at + MAGIC.len());
        let (first, second) = (name(0)?, name(SECOND_COPY)?);
        let is_foreign = first[..7] == MAGIC[..7] && first[7] != MAGIC[7] && first == second;
        is_foreign.then(|| first[7].into())
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
    pub length: u64,
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
            length: read_u64(header, 16)?,
            body_sum: read_u64(header, 24)?,
        })
    }

    /// Whether these are the records that the header was written for.
    pub(crate) fn matches(&self, body: &[u8], secret: &Secret) -> bool {
        xxh3_64_with_secret(body, &secret.0) == self.body_sum
    }

    /// Bytes from this frame to the next.
    pub fn stride(&self) -> u64 {
        padded((FRAME_HEADER as u64).saturating_add(self.length))
    }
}

/// Builds one frame in a buffer that is used again.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    /// Zeros that a seal has added at the end.
    padding: usize,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self {
            bytes: vec![0; FRAME_HEADER],
            padding: 0,
        }
    }
}

impl FrameBuilder {
    const KEPT_BYTES: usize = 1 << 20;

    /// A frame with these records.
    pub(crate) fn of(records: &[u8]) -> Self {
        let mut frame = Self::default();
        frame.bytes.extend_from_slice(records);
        frame
    }

    /// Starts over.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEPT_BYTES);
        self.bytes.resize(FRAME_HEADER, 0);
        self.padding = 0;
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.body().is_empty()
    }

    /// The records so far.
    pub fn body(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER..self.bytes.len() - self.padding]
    }

    /// Bytes on the disk, whole blocks.
    pub(crate) fn stride(&self) -> u64 {
        padded(self.bytes.len() as u64)
    }

    /// Adds a record that is no group.
    pub fn push(&mut self, record: &Record<'_>) {
        record.write(&mut self.bytes);
    }

    /// Adds messages of one queue in rising order, or copies of them. `base` is the queue's next
    /// sequence before them.
    pub fn messages<'a>(
        &mut self,
        (queue, base): (u64, u64),
        entries: impl Iterator<Item = (u64, &'a [u8])>,
    ) {
        push_groups(&mut self.bytes, (queue, base), entries);
    }

    /// Fills the header for a place in the log and returns whole blocks.
    pub fn seal(&mut self, secret: &Secret, number: u64, offset: u64, commit: u64) -> &[u8] {
        self.bytes.truncate(self.bytes.len() - self.padding);
        let body = &self.bytes[FRAME_HEADER..];
        let (length, sum) = (body.len() as u64, xxh3_64_with_secret(body, &secret.0));
        for (at, field) in [(8, commit), (16, length), (24, sum)] {
            self.bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let sum = secret.header_sum(&self.bytes[..FRAME_HEADER], number, offset);
        self.bytes[..8].copy_from_slice(&sum.to_le_bytes());
        let end = self.bytes.len();
        self.bytes.resize(to_usize(padded(end as u64)), 0);
        self.padding = self.bytes.len() - end;
        &self.bytes
    }
}
