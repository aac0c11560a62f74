//! Every byte of the log, as in `docs/storage.md`. The rows of the index hold the same records.
//!
//! Nothing a client wrote can pass as a frame: the sums of a frame are keyed with a secret made
//! from the segment's random salt.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_secret, xxh3_64_with_seed};

use crate::disk::to_usize;

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
const SEGMENT_HEADER: usize = 80;
/// Where the second copy of the segment header begins.
const SECOND_COPY: usize = 2048;

/// Rounds up to whole blocks.
pub const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// What a segment file is used for: frames of the log, nothing any more, or one large body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentState {
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
    /// Length of the file.
    pub length: u64,
    /// What the file is used for.
    pub state: SegmentState,
}

impl SegmentHeader {
    /// The block, with two copies of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [&MAGIC[..], &self.number.to_le_bytes(), &self.salt].concat();
        let places = [self.first_commit, self.previous, self.previous_end];
        for number in places.into_iter().chain([self.length, self.state as u64]) {
            copy.extend_from_slice(&number.to_le_bytes());
        }
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
        let copies = [0, SECOND_COPY].map(|at| block.get(at..at + SEGMENT_HEADER));
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
        let (fields, sum) = copy.split_at(SEGMENT_HEADER - 8);
        if fields[..8] != MAGIC || read_u64(sum, 0)? != xxh3_64(fields) {
            return None;
        }
        let states = [SegmentState::Log, SegmentState::Free, SegmentState::Body];
        let mut states = states.into_iter();
        Some(Self {
            number: read_u64(fields, 8)?,
            salt: fields[16..32].try_into().ok()?,
            first_commit: read_u64(fields, 32)?,
            previous: read_u64(fields, 40)?,
            previous_end: read_u64(fields, 48)?,
            length: read_u64(fields, 56)?,
            state: states.find(|state| Some(*state as u64) == read_u64(fields, 64))?,
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

    /// Adds a record that is no group.
    pub fn push(&mut self, record: &Record<'_>) {
        record.write(&mut self.bytes);
    }

    /// Adds messages of one queue in rising order, or copies of them. `base` is the queue's next
    /// sequence before them.
    pub fn messages<'a>(
        &mut self,
        (queue, mut base): (u64, u64),
        entries: impl Iterator<Item = (u64, &'a [u8])>,
    ) {
        let (mut entries, mut heads, mut bodies) = (entries.peekable(), Vec::new(), Vec::new());
        while let Some((first, _)) = entries.peek().copied() {
            let (mut room, mut next) = (GROUP_BYTES, first);
            heads.clear();
            while let Some((sequence, body)) = entries.next_if(|_| room > 0) {
                push_head(&mut heads, body.len() as u64, sequence - next);
                bodies.push(body);
                room = room.saturating_sub(body.len() + MESSAGE_BYTES);
                next = sequence + 1;
            }
            let (heads, out) = (Heads::of(first, &heads), &mut self.bytes);
            out.push(GROUP);
            push_varint(out, queue);
            push_varint(out, base);
            heads.write(out);
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            for body in bodies.drain(..) {
                out.extend_from_slice(body);
            }
            let crc = group_crc(queue, heads, &out[at + 4..]);
            out[at..at + 4].copy_from_slice(&crc.to_le_bytes());
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
pub type Range = (u64, u64);

/// Appends a varint.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends bytes after their length.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads fields one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    /// Offset of the next byte.
    pub(crate) at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    pub(crate) fn varints<const N: usize>(&mut self) -> Result<[u64; N], Malformed> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.varint()?;
        }
        Ok(numbers)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(to_usize(length)).ok_or(Malformed)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    /// Bytes after their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        self.take(length)
    }

    fn ranges(&mut self) -> Result<Vec<Range>, Malformed> {
        let (count, mut after) = (self.varint()?, 0_u64);
        let mut ranges = Vec::new();
        for _ in 0..count {
            let first = after.checked_add(self.varint()?).ok_or(Malformed)?;
            after = first.checked_add(self.varint()?).ok_or(Malformed)?;
            ranges.push((first, after.checked_sub(1).ok_or(Malformed)?));
        }
        Ok(ranges)
    }
}

/// Lengths of messages next to each other, and gaps between their sequences: some heads, so many
/// times.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// The first sequence.
    pub(crate) first: u64,
    times: u64,
    bytes: &'a [u8],
}

/// One message of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// Where it begins in the bodies of the group, and how long it is.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Entry {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The body in the bodies of the group.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        to_usize(self.start)..to_usize(self.end())
    }
}

impl<'a> Heads<'a> {
    /// No group has more messages.
    const MOST: u64 = 1 << 16;

    /// Those that [`push_head`] wrote. Messages of one length without gaps have one head.
    pub(crate) fn of(first: u64, heads: &'a [u8]) -> Self {
        let end = heads.iter().position(|byte| *byte < 0x80);
        let one = end.map_or(1, |end| end + 1);
        let has_gap = heads.first().is_none_or(|byte| byte & 1 == 1);
        let is_regular = !has_gap && heads.chunks(one).all(|head| *head == heads[..one]);
        let times = if is_regular { heads.len() / one } else { 1 };
        let bytes = &heads[..heads.len() / times];
        Self::new(first, times as u64, bytes)
    }

    fn new(first: u64, times: u64, bytes: &'a [u8]) -> Self {
        Self {
            first,
            times,
            bytes,
        }
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        push_varint(out, self.first);
        push_varint(
            out,
            (self.bytes.len() as u64) << 1 | u64::from(self.times > 1),
        );
        if self.times > 1 {
            push_varint(out, self.times);
        }
        out.extend_from_slice(self.bytes);
    }

    /// Whether these are the heads of one message, which no gap precedes.
    pub(crate) fn is_alone(self) -> bool {
        let end = self.bytes.iter().position(|byte| *byte < 0x80);
        self.times == 1 && end.is_some_and(|end| end + 1 == self.bytes.len())
    }

    pub(crate) fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let [first, tag] = fields.varints()?;
        let times = if tag & 1 == 1 { fields.varint()? } else { 1 };
        let bytes = fields.take(tag >> 1)?;
        let is_sound = (bytes.len() as u64).saturating_mul(times) <= Self::MOST;
        is_sound
            .then(|| Self::new(first, times, bytes))
            .ok_or(Malformed)
    }

    /// The messages, up to the first that is malformed.
    pub(crate) fn entries(self) -> impl Iterator<Item = Result<Entry, Malformed>> + use<'a> {
        let (mut fields, mut next, mut start, mut times) =
            (Fields::new(self.bytes), self.first, 0, self.times);
        std::iter::from_fn(move || {
            if fields.is_at_end() && times > 1 {
                (fields.at, times) = (0, times - 1);
            }
            (!fields.is_at_end()).then(|| {
                let head = fields.varint()?;
                let gap = if head & 1 == 1 { fields.varint()? } else { 0 };
                let sequence = u64::checked_add(next, gap).ok_or(Malformed)?;
                next = sequence.checked_add(1).ok_or(Malformed)?;
                let entry = Entry {
                    sequence,
                    start,
                    length: head >> 1,
                };
                start = start.checked_add(entry.length).ok_or(Malformed)?;
                Ok(entry)
            })
        })
    }

    /// The last message.
    pub(crate) fn last(self) -> Result<Entry, Malformed> {
        let last = self.entries().try_fold(None, |_, entry| entry.map(Some));
        last?.ok_or(Malformed)
    }
}

/// Messages of one queue, next to each other.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    pub(crate) queue: u64,
    /// The queue's next sequence before this group.
    pub(crate) base: u64,
    pub(crate) heads: Heads<'a>,
    /// Offset of the bodies in the records.
    pub(crate) at: usize,
}

impl<'a> Group<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let ([queue, base], heads) = (fields.varints()?, Heads::read(fields)?);
        fields.take(4)?;
        let at = fields.at;
        fields.take(heads.last()?.end())?;
        Ok(Self {
            queue,
            base,
            heads,
            at,
        })
    }
}

/// The head of a message: its length, and how many sequences before it are skipped.
pub(crate) fn push_head(out: &mut Vec<u8>, length: u64, gap: u64) {
    push_varint(out, length << 1 | u64::from(gap > 0));
    if gap > 0 {
        push_varint(out, gap);
    }
}

/// Bytes of messages after which a group ends. Whoever reads one of its messages reads all of it.
const GROUP_BYTES: usize = 16 * 1024;
/// What a message counts for that beside its bytes.
pub(crate) const MESSAGE_BYTES: usize = 16;

/// The checksum of a group's queue, heads and bodies.
pub(crate) fn group_crc(queue: u64, heads: Heads<'_>, bodies: &[u8]) -> u32 {
    let mut head = queue.to_le_bytes().to_vec();
    heads.write(&mut head);
    crc32c::crc32c_append(crc32c::crc32c(&head), bodies)
}

const GROUP: u8 = 1;

/// One record.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// Messages, or copies of them: of sequences that were used before. Written by
    /// [`FrameBuilder::messages`].
    Group(Group<'a>),
    /// Messages of a queue that is known are gone.
    Settled(u64, Vec<Range>),
    /// A definition is set: key and value.
    Put(&'a [u8], &'a [u8]),
    /// The definition of a key is gone.
    Remove(&'a [u8]),
    /// A queue is gone.
    Drop(u64),
    /// Queue, the first sequence never used, everything below was delivered; what is gone.
    Numbers([u64; 3], Vec<Range>),
    /// Only queues count whose numbers follow in this frame. Holds the last commit that changed a
    /// definition and is in a checkpoint.
    Snapshot(u64),
    /// Messages that lie elsewhere: queue, its next sequence before, segment; packed extents.
    Run([u64; 3], &'a [u8]),
}

impl<'a> Record<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        Ok(match fields.byte()? {
            GROUP => Self::Group(Group::read(fields)?),
            2 => Self::Settled(fields.varint()?, fields.ranges()?),
            3 => Self::Put(fields.bytes()?, fields.bytes()?),
            4 => Self::Remove(fields.bytes()?),
            5 => Self::Drop(fields.varint()?),
            6 => Self::Numbers(fields.varints()?, fields.ranges()?),
            7 => Self::Snapshot(fields.varint()?),
            8 => Self::Run(fields.varints()?, fields.bytes()?),
            _ => return Err(Malformed),
        })
    }

    /// Appends the record, unless it is a group.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (kind, numbers, bytes): (u8, &[u64], &[&[u8]]) = match self {
            Self::Group(..) => return,
            Self::Settled(queue, _) => (2, &[*queue], &[]),
            Self::Put(key, value) => (3, &[], &[key, value]),
            Self::Remove(key) => (4, &[], &[key]),
            Self::Drop(queue) => (5, &[*queue], &[]),
            Self::Numbers(numbers, _) => (6, numbers, &[]),
            Self::Snapshot(defined) => (7, &[*defined], &[]),
            Self::Run(numbers, packed) => (8, numbers, &[packed]),
        };
        out.push(kind);
        for number in numbers {
            push_varint(out, *number);
        }
        for bytes in bytes {
            push_bytes(out, bytes);
        }
        if let Self::Settled(_, ranges) | Self::Numbers(_, ranges) = self {
            push_varint(out, ranges.len() as u64);
            let mut after = 0;
            for (first, last) in ranges {
                push_varint(out, first - after);
                push_varint(out, last - first + 1);
                after = last + 1;
            }
        }
    }
}

/// The records of a frame's body. Ends after the first that is malformed.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    let mut fields = Fields::new(body);
    std::iter::from_fn(move || {
        let record = (!fields.is_at_end()).then(|| Record::read(&mut fields));
        if let Some(Err(Malformed)) = record {
            fields.at = usize::MAX;
        }
        record
    })
}
