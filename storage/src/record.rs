//! The records of a frame: how each is written, and how it is read from untrusted bytes. The rows
//! of the index hold the same records.

use crate::frame::to_usize;

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
    /// Begins at an offset.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
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

/// Messages of one queue, next to each other.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// The queue.
    pub queue: u64,
    /// The queue's next sequence before this group.
    pub base: u64,
    /// The first sequence.
    pub first: u64,
    /// A head and a body for each message.
    pub data: &'a [u8],
    /// Offset of the data in the records.
    pub at: usize,
}

/// One message of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// Where its body begins in the group's data, and how long it is.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Entry {
    /// The body in the group's data.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        to_usize(self.start)..to_usize(self.start.saturating_add(self.length))
    }
}

impl<'a> Group<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let [queue, base, first] = fields.varints()?;
        let length = fields.take(4)?.try_into().map_err(|_| Malformed)?;
        fields.take(4)?;
        let at = fields.at;
        let data = fields.take(u32::from_le_bytes(length).into())?;
        Ok(Self {
            queue,
            base,
            first,
            data,
            at,
        })
    }

    /// The messages, up to the first that is malformed.
    pub(crate) fn entries(&self) -> Entries<'a> {
        Entries::bodies(self.data, self.first)
    }
}

/// Walks over the messages of a group, through its data or through a list of the heads alone.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    fields: Fields<'a>,
    has_bodies: bool,
    next: u64,
    at: u64,
}

impl<'a> Entries<'a> {
    /// Walks over the data of a group.
    pub(crate) fn bodies(data: &'a [u8], first: u64) -> Self {
        let fields = Fields::new(data, 0);
        Self {
            fields,
            has_bodies: true,
            next: first,
            at: 0,
        }
    }

    /// Walks over heads without bodies.
    pub(crate) fn heads(heads: &'a [u8], first: u64) -> Self {
        let fields = Fields::new(heads, 0);
        Self {
            fields,
            has_bodies: false,
            next: first,
            at: 0,
        }
    }

    fn read(&mut self) -> Result<Entry, Malformed> {
        let before = self.fields.at;
        let head = self.fields.varint()?;
        let gap = if head & 1 == 1 {
            self.fields.varint()?
        } else {
            0
        };
        let length = head >> 1;
        let sequence = self.next.checked_add(gap).ok_or(Malformed)?;
        self.next = sequence.checked_add(1).ok_or(Malformed)?;
        let start = self.at + (self.fields.at - before) as u64;
        self.at = start.checked_add(length).ok_or(Malformed)?;
        if self.has_bodies {
            self.fields.take(length)?;
        }
        Ok(Entry {
            sequence,
            start,
            length,
        })
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.fields.is_at_end()).then(|| self.read())
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

/// Appends messages in rising order, as groups. `base` is the queue's next sequence before them.
pub(crate) fn push_groups<'a>(
    out: &mut Vec<u8>,
    (queue, mut base): (u64, u64),
    entries: impl Iterator<Item = (u64, &'a [u8])>,
) {
    let mut entries = entries.peekable();
    while let Some((first, _)) = entries.peek().copied() {
        out.push(GROUP);
        for number in [queue, base, first] {
            push_varint(out, number);
        }
        let at = out.len();
        out.extend_from_slice(&[0; 8]);
        let (mut room, mut next) = (GROUP_BYTES, first);
        while let Some((sequence, body)) = entries.next_if(|_| room > 0) {
            push_head(out, body.len() as u64, sequence - next);
            out.extend_from_slice(body);
            room = room.saturating_sub(body.len() + MESSAGE_BYTES);
            next = sequence + 1;
        }
        base = base.max(next);
        let length = u32::try_from(out.len() - at - 8).unwrap_or(u32::MAX);
        let crc = group_crc(queue, first, &out[at + 8..]);
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The checksum of a group's bytes and place.
pub(crate) fn group_crc(queue: u64, first: u64, data: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&queue.to_le_bytes());
    place[8..].copy_from_slice(&first.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), data)
}

const GROUP: u8 = 1;

/// One record.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// Messages, or copies of them: of sequences that were used before. Written by
    /// [`FrameBuilder::messages`](crate::frame::FrameBuilder::messages).
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
    let mut fields = Fields::new(body, 0);
    std::iter::from_fn(move || {
        if fields.is_at_end() {
            return None;
        }
        let record = Record::read(&mut fields);
        if record.is_err() {
            fields.at = usize::MAX;
        }
        Some(record)
    })
}
