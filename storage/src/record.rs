//! The records of a frame, read from untrusted bytes. `frame` writes them.

use crate::frame::to_usize;

/// Bytes that do not follow the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes do not follow the format")]
pub struct Malformed;

/// Reads fields one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    /// Offset of the next byte.
    pub at: usize,
}

impl<'a> Fields<'a> {
    /// Begins at an offset.
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Whether all bytes are read.
    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    /// One varint.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
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

    /// So many bytes.
    pub fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(to_usize(length)).ok_or(Malformed)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    /// Bytes after their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        self.take(length)
    }

    /// Ranges as [`crate::frame::FrameBuilder::settles`] writes them.
    pub fn ranges(&mut self, mut after: u64) -> Result<Vec<(u64, u64)>, Malformed> {
        let count = self.varint()?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            let first = after.checked_add(self.varint()?).ok_or(Malformed)?;
            let length = self.varint()?.checked_sub(1).ok_or(Malformed)?;
            let last = first.checked_add(length).ok_or(Malformed)?;
            ranges.push((first, last));
            after = last.checked_add(1).ok_or(Malformed)?;
        }
        Ok(ranges)
    }
}

/// Whether a group was written by a publisher or by compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GroupKind {
    /// New messages.
    Messages = 1,
    /// Copies of messages of older segments.
    Copies = 7,
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
    /// How many messages.
    pub count: u64,
    /// Sequences have gaps.
    pub is_gappy: bool,
    /// Lengths and bodies.
    pub data: &'a [u8],
    /// Offset of the data in the records.
    pub data_at: usize,
}

impl<'a> Group<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let (queue, base) = (fields.varint()?, fields.varint()?);
        let first = base.checked_add(fields.varint()?).ok_or(Malformed)?;
        let flags = fields.varint()?;
        let length = fields.varint()?;
        fields.take(4)?;
        let data_at = fields.at;
        let data = fields.take(length)?;
        Ok(Self {
            queue,
            base,
            first,
            count: flags >> 1,
            is_gappy: flags & 1 == 1,
            data,
            data_at,
        })
    }

    /// Sequence, and offset and length of the body in the data, of each message.
    pub fn entries(self) -> impl Iterator<Item = Result<(u64, usize, usize), Malformed>> + 'a {
        let mut fields = Fields::new(self.data, 0);
        let mut next = Some(self.first);
        (0..self.count).map(move |_| {
            let gap = if self.is_gappy { fields.varint()? } else { 0 };
            let sequence = next
                .and_then(|next| next.checked_add(gap))
                .ok_or(Malformed)?;
            next = sequence.checked_add(1);
            let body = fields.bytes()?;
            Ok((sequence, fields.at - body.len(), body.len()))
        })
    }
}

/// One record of a frame.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// New messages, or copies.
    Group(GroupKind, Group<'a>),
    /// Queue, base, sequence, file and length of a large body.
    Large([u64; 5]),
    /// Queue and settled ranges.
    Settles(u64, Vec<(u64, u64)>),
    /// Key and value.
    Put(&'a [u8], &'a [u8]),
    /// Key.
    Remove(&'a [u8]),
    /// Queue and last sequence.
    Purge(u64, u64),
    /// Queue.
    Drop(u64),
    /// Queue, next, delivered below.
    Numbers(u64, u64, u64),
    /// All numbers.
    Snapshot(Snapshot<'a>),
}

/// The numbers of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueNumbers {
    /// The queue.
    pub queue: u64,
    /// The first sequence never used.
    pub next: u64,
    /// Everything below is gone.
    pub floor: u64,
    /// Everything below was delivered.
    pub delivered_below: u64,
    /// What is gone from the floor on.
    pub settled: Vec<(u64, u64)>,
}

/// A changed definition: its key, and its value if it is still there.
pub type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// All numbers, and the definitions changed since the last checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Snapshot<'a> {
    /// The last commit that changed a definition and is in that checkpoint.
    pub defined: u64,
    /// By rising number.
    pub queues: Vec<QueueNumbers>,
    /// Changed definitions.
    pub definitions: Vec<Change<'a>>,
}

impl<'a> Snapshot<'a> {
    /// Reads a snapshot record behind its kind.
    pub fn read(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let mut snapshot = Self {
            defined: fields.varint()?,
            ..Self::default()
        };
        for _ in 0..fields.varint()? {
            let (queue, next) = (fields.varint()?, fields.varint()?);
            let floor = next.checked_sub(fields.varint()?).ok_or(Malformed)?;
            snapshot.queues.push(QueueNumbers {
                queue,
                next,
                floor,
                delivered_below: fields.varint()?,
                settled: fields.ranges(floor)?,
            });
        }
        for _ in 0..fields.varint()? {
            let key = fields.bytes()?;
            let value = match fields.varint()?.checked_sub(1) {
                Some(length) => Some(fields.take(length)?),
                None => None,
            };
            snapshot.definitions.push((key, value));
        }
        Ok(snapshot)
    }
}

/// The records of a frame's body. Ends after the first that is malformed.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    let mut fields = Fields::new(body, 0);
    std::iter::from_fn(move || {
        if fields.is_at_end() {
            return None;
        }
        let record = read_record(&mut fields);
        if record.is_err() {
            fields.at = usize::MAX;
        }
        Some(record)
    })
}

fn read_record<'a>(fields: &mut Fields<'a>) -> Result<Record<'a>, Malformed> {
    Ok(match fields.byte()? {
        1 => Record::Group(GroupKind::Messages, Group::read(fields)?),
        7 => Record::Group(GroupKind::Copies, Group::read(fields)?),
        2 => Record::Settles(fields.varint()?, fields.ranges(0)?),
        3 => Record::Put(fields.bytes()?, fields.bytes()?),
        4 => Record::Remove(fields.bytes()?),
        5 => Record::Purge(fields.varint()?, fields.varint()?),
        6 => Record::Drop(fields.varint()?),
        8 => Record::Numbers(fields.varint()?, fields.varint()?, fields.varint()?),
        9 => Record::Snapshot(Snapshot::read(fields)?),
        10 => {
            let mut numbers = [0; 5];
            for number in &mut numbers {
                *number = fields.varint()?;
            }
            numbers[2] = numbers[1].checked_add(numbers[2]).ok_or(Malformed)?;
            Record::Large(numbers)
        }
        _ => return Err(Malformed),
    })
}
