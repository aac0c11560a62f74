//! Every byte of the log, as in `docs/storage.md`. The rows of the index hold the same records.
//!
//! Nothing a client wrote can pass as a frame: the sums of a frame are keyed with a secret made
//! from the segment's random salt.

use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_secret, xxh3_64_with_seed};

use crate::disk::to_usize;

/// Frames begin at multiples of this many bytes; the header of a segment fills one.
pub const BLOCK: u64 = 4096;
/// Bytes of a frame before its records.
pub const FRAME_HEADER: usize = 32;
/// Bodies above this many bytes get a file of their own.
pub(crate) const LARGE_BYTES: usize = 1 << 20;
const MAGIC: [u8; 8] = *b"cbrklog\x05";
/// Version of the format, the last byte of the magic.
pub(crate) const VERSION: u16 = MAGIC[7] as u16;
/// Where the second copy of the segment header begins.
pub(crate) const SECOND_COPY: usize = 2048;

/// Rounds up to whole blocks.
pub const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// What a segment file is used for: frames of the log, nothing any more, or one large body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SegmentState {
    /// Frames of the log.
    Log,
    /// Nothing in it counts any more.
    #[default]
    Free,
    /// One large body.
    Body,
}

/// The first block of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Length of the file.
    pub length: u64,
    /// What the file is used for.
    pub state: SegmentState,
}

impl SegmentHeader {
    /// The block, with two copies of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        push(&mut fields, self);
        let copy = [&MAGIC[..], &xxh3_64(&fields).to_le_bytes(), &fields].concat();
        let mut block = vec![0; to_usize(BLOCK)];
        for at in [0, SECOND_COPY] {
            block[at..at + copy.len()].copy_from_slice(&copy);
        }
        block
    }

    /// Reads the block; of two valid copies the one with the higher number counts, then the one in
    /// use.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let copies = [0, SECOND_COPY].map(|at| block.get(at..));
        let headers = copies.into_iter().flatten().filter_map(Self::parse_copy);
        headers.max_by_key(|header| (header.number, header.state != SegmentState::Free))
    }

    /// The version of another format that both copies name.
    pub(crate) fn foreign_version(block: &[u8]) -> Option<u16> {
        let name = |at: usize| block.get(at..at + MAGIC.len());
        let (first, second) = (name(0)?, name(SECOND_COPY)?);
        let is_foreign = first[..7] == MAGIC[..7] && first[7] != MAGIC[7] && first == second;
        is_foreign.then(|| first[7].into())
    }

    fn parse_copy(copy: &[u8]) -> Option<Self> {
        let (sum, fields) = copy.strip_prefix(&MAGIC)?.split_first_chunk()?;
        let (header, rest) = postcard::take_from_bytes(fields).ok()?;
        let sum_of_fields = xxh3_64(&fields[..fields.len() - rest.len()]);
        (u64::from_le_bytes(*sum) == sum_of_fields).then_some(header)
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
        Self::of(&[])
    }
}

impl FrameBuilder {
    /// A frame with these records.
    pub(crate) fn of(records: &[u8]) -> Self {
        let bytes = [&[0; FRAME_HEADER], records].concat();
        Self { bytes, padding: 0 }
    }

    /// Starts over.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
        self.bytes.resize(FRAME_HEADER, 0);
        self.padding = 0;
    }

    /// The records so far.
    pub fn body(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER..self.bytes.len() - self.padding]
    }

    /// Bytes on the disk, whole blocks.
    pub(crate) fn stride(&self) -> u64 {
        padded(self.bytes.len() as u64)
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Record<'_>) {
        push(&mut self.bytes, record);
    }

    /// Adds messages of one queue in rising order, or copies of them. `base` is the queue's next
    /// sequence before them.
    pub fn messages<'a>(
        &mut self,
        (queue, mut base): (u64, u64),
        entries: impl Iterator<Item = (u64, &'a [u8])>,
    ) {
        let mut entries = entries.peekable();
        while let Some((first, _)) = entries.peek().copied() {
            let (mut room, mut next) = (GROUP_BYTES, first);
            let (mut lengths, mut data) = (Vec::new(), vec![0; CRC]);
            let mut is_next =
                |next, room| entries.next_if(|(sequence, _)| *sequence == next && room > 0);
            while let Some((_, body)) = is_next(next, room) {
                lengths.push(body.len() as u64);
                data.extend_from_slice(body);
                room = room.saturating_sub(body.len() + MESSAGE_BYTES);
                next += 1;
            }
            let lengths = GroupHeads::pack(&lengths);
            let heads = GroupHeads::new(first, next - first, &lengths);
            let crc = group_crc(queue, heads, &data[CRC..]);
            data[..CRC].copy_from_slice(&crc.to_le_bytes());
            let group = Group {
                queue,
                base,
                heads,
                data: &data,
            };
            self.push(&Record::Group(group));
            base = base.max(next);
        }
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

/// Bytes that do not follow the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes do not follow the format")]
pub struct Malformed;

/// Sequences from the first to the last.
pub type SequenceRange = (u64, u64);

/// Packs ranges in rising order: for each how many sequences lie between it and the one before, and
/// how many more than one it has.
pub fn pack_ranges(ranges: impl Iterator<Item = SequenceRange>) -> Vec<u8> {
    let (mut packed, mut next) = (Vec::new(), 0);
    for (first, last) in ranges {
        push(&mut packed, &(first - next, last - first));
        next = last.saturating_add(1);
    }
    packed
}

/// The first of some packed ranges, and the others. `next` is the sequence behind the one before.
pub(crate) fn take_range(packed: &[u8], next: u64) -> Result<(SequenceRange, &[u8]), Malformed> {
    let taken = postcard::take_from_bytes::<SequenceRange>(packed).ok();
    let taken = taken.and_then(|((gap, more), others)| {
        let first = next.checked_add(gap)?;
        let last = first.checked_add(more).filter(|last| *last < u64::MAX)?;
        Some(((first, last), others))
    });
    taken.ok_or(Malformed)
}

/// Appends a value in the encoding of postcard: numbers as varints, bytes after their length.
pub(crate) fn push(out: &mut Vec<u8>, value: &impl Serialize) {
    // Only a value that does not know its own length can fail, and there is none.
    *out = postcard::to_extend(value, std::mem::take(out)).unwrap_or_default();
}

/// Writes bytes as one piece. The default goes byte by byte.
fn in_one_piece<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// The messages of a group: sequences that follow each other, and lengths.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GroupHeads<'a> {
    /// The first sequence.
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Varints. The last one counts for all further messages.
    #[serde(serialize_with = "in_one_piece")]
    lengths: &'a [u8],
}

/// One message of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// Where it begins in the bodies of the group, and how long it is.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Entry {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The body in the bodies of the group.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        to_usize(self.start)..to_usize(self.end())
    }
}

impl<'a> GroupHeads<'a> {
    /// No group has more messages, or more bytes, so that sums do not overflow.
    const MOST: u64 = 1 << 16;
    const MOST_BYTES: u64 = 1 << 40;

    /// `lengths` as [`pack`](Self::pack) gives them.
    pub(crate) fn new(first: u64, count: u64, lengths: &'a [u8]) -> Self {
        Self {
            first,
            count,
            lengths,
        }
    }

    /// The lengths of messages.
    pub(crate) fn pack(mut lengths: &[u64]) -> Vec<u8> {
        while let [.., before, last] = lengths
            && before == last
        {
            lengths = &lengths[..lengths.len() - 1];
        }
        let mut packed = Vec::new();
        for length in lengths {
            push(&mut packed, length);
        }
        packed
    }

    /// The last sequence.
    pub(crate) fn last(self) -> u64 {
        self.first + (self.count - 1)
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(self) -> u64 {
        let (mut rest, mut further, mut length, mut bytes) = (self.lengths, self.count, 0, 0_u64);
        while further > 0
            && let Ok(read) = postcard::take_from_bytes(rest)
        {
            (length, rest) = read;
            (bytes, further) = (bytes.saturating_add(length), further - 1);
        }
        bytes.saturating_add(further.saturating_mul(length))
    }

    /// What the group counts when groups are chosen: its bytes, and some more for each message.
    pub(crate) fn cost(self) -> u64 {
        self.bytes() + self.count * MESSAGE_BYTES as u64
    }

    /// Whether there is a message, and no number overflows.
    pub(crate) fn is_sound(self) -> bool {
        let is_counted = (1..=Self::MOST).contains(&self.count);
        is_counted
            && self.first.checked_add(self.count).is_some()
            && self.bytes() <= Self::MOST_BYTES
    }

    pub(crate) fn entries(self) -> impl Iterator<Item = Entry> + use<'a> {
        let (mut rest, mut start, mut length) = (self.lengths, 0_u64, 0);
        (self.first..self.first + self.count).map(move |sequence| {
            if let Ok(read) = postcard::take_from_bytes(rest) {
                (length, rest) = read;
            }
            let entry = Entry {
                sequence,
                start,
                length,
            };
            start = entry.end();
            entry
        })
    }
}

/// Messages of one queue, next to each other.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Group<'a> {
    pub(crate) queue: u64,
    /// The queue's next sequence before this group.
    pub(crate) base: u64,
    #[serde(borrow)]
    pub(crate) heads: GroupHeads<'a>,
    /// The CRC32C, then the bodies.
    #[serde(serialize_with = "in_one_piece")]
    pub(crate) data: &'a [u8],
}

/// Bytes of messages after which a group ends. Reading one of its messages reads the whole group.
const GROUP_BYTES: usize = 16 * 1024;
/// What a message counts for that beside its bytes.
pub(crate) const MESSAGE_BYTES: usize = 16;
/// Bytes of a checksum before the bodies of a group.
pub(crate) const CRC: usize = 4;

/// The checksum of a group's queue, heads and bodies.
pub(crate) fn group_crc(queue: u64, heads: GroupHeads<'_>, bodies: &[u8]) -> u32 {
    let mut head = queue.to_le_bytes().to_vec();
    push(&mut head, &heads);
    crc32c::crc32c_append(crc32c::crc32c(&head), bodies)
}

/// One record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record<'a> {
    /// Messages, or copies of them: of sequences that were used before.
    #[serde(borrow)]
    Group(Group<'a>),
    /// Messages of a queue that is known are gone: packed ranges.
    Settled(u64, #[serde(serialize_with = "in_one_piece")] &'a [u8]),
    /// A definition is set: key and value.
    Put(&'a [u8], &'a [u8]),
    /// The definition of a key is gone.
    Remove(&'a [u8]),
    /// A queue is gone.
    Drop(u64),
    /// Queue, the first sequence never used, everything below was delivered; packed ranges of what
    /// is gone.
    Numbers([u64; 3], #[serde(serialize_with = "in_one_piece")] &'a [u8]),
    /// Only queues count whose numbers follow in this frame. Holds the last commit that changed a
    /// definition and is in a checkpoint.
    Snapshot(u64),
    /// Messages that lie elsewhere: queue, its next sequence before, segment; packed extents.
    Run([u64; 3], #[serde(serialize_with = "in_one_piece")] &'a [u8]),
}

impl Record<'_> {
    fn is_sound(&self) -> bool {
        match self {
            Self::Group(Group { heads, data, .. }) => {
                heads.is_sound() && heads.bytes() + CRC as u64 == data.len() as u64
            }
            _ => true,
        }
    }
}

/// The records of a frame's body, each with the offset behind it. Ends after the first that is
/// malformed.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<(Record<'_>, usize), Malformed>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let read = (!rest.is_empty()).then(|| postcard::take_from_bytes::<Record<'_>>(rest))?;
        let sound = read.ok().filter(|(record, _)| record.is_sound());
        let record = sound.map(|(record, behind)| {
            rest = behind;
            (record, body.len() - behind.len())
        });
        if record.is_none() {
            rest = &[];
        }
        Some(record.ok_or(Malformed))
    })
}
