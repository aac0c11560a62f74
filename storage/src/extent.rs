//! One queue's numbers, and where its messages lie: packed extents, a few bytes each.
//!
//! An extent is a group of messages in one frame. A [`Run`] is the extents of one queue in one
//! segment, packed as varints; the runs of a queue are sorted and do not overlap. A sequence below
//! the floor or in the settled ranges is gone; every other one below `next` lies in a run.

use std::collections::VecDeque;

use crate::frame::{Fields, Malformed, push_varint, to_usize, varint_length};
pub(crate) use crate::ranges::Ranges;
pub(crate) use crate::segment::{Segment, SegmentFile, Segments};

/// One group as it lies in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent<'a> {
    pub(crate) first: u64,
    pub(crate) last: u64,
    count: u64,
    /// Offset of the group's data in the segment.
    pub(crate) offset: u64,
    /// Length of the data.
    pub(crate) length: u64,
    /// The length of all messages, or of each.
    uniform: Option<u64>,
    lengths: &'a [u8],
    gaps: Option<&'a [u8]>,
}

/// One message of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    /// Where its body begins in the group's data, and how long it is.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Extent<'_> {
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let mut lengths = Fields::new(self.lengths, 0);
        let mut gaps = self.gaps.map(|gaps| Fields::new(gaps, 0));
        let (mut sequence, mut at) = (self.first, 0);
        (0..self.count).map_while(move |_| {
            let length = match self.uniform {
                Some(length) => length,
                None => lengths.varint().ok()?,
            };
            if let Some(gaps) = &mut gaps {
                let gap = gaps.varint().ok()?;
                sequence += gap;
                at += varint_length(gap) as u64;
            }
            let start = at + varint_length(length) as u64;
            let entry = Entry {
                sequence,
                start,
                length,
            };
            at = start + length;
            sequence = sequence.saturating_add(1);
            Some(entry)
        })
    }

    /// Messages from `first` to `last` and their bytes.
    fn sum(&self, first: u64, last: u64) -> (u64, u64) {
        let (first, last) = (first.max(self.first), last.min(self.last));
        if first > last {
            return (0, 0);
        }
        if let (Some(length), None) = (self.uniform, self.gaps) {
            let count = last - first + 1;
            return (count, count * length);
        }
        self.entries()
            .filter(|entry| (first..=last).contains(&entry.sequence))
            .fold((0, 0), |(count, bytes), entry| {
                (count + 1, bytes + entry.length)
            })
    }
}

/// A place in a packed run: byte, next sequence, and end of the group before.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    at: usize,
    next: u64,
    offset: u64,
}

/// The extents of one queue in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) segment: u64,
    /// Only sequences from here to `to` count.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) live: u64,
    bytes: u64,
    packed: Vec<u8>,
    start: Cursor,
    end: Cursor,
}

impl Run {
    fn new(segment: u64, first: u64) -> Self {
        let cursor = Cursor {
            at: 0,
            next: first,
            offset: 0,
        };
        Self {
            segment,
            from: first,
            to: first,
            live: 0,
            bytes: 0,
            packed: Vec::new(),
            start: cursor,
            end: cursor,
        }
    }

    fn push(&mut self, entries: &[Entry], offset: u64, length: u64) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let uniform = entries.iter().all(|entry| entry.length == first.length);
        let is_gappy = last.sequence - first.sequence + 1 != entries.len() as u64;
        let flags = u64::from(is_gappy) << 1 | u64::from(uniform);
        push_varint(&mut self.packed, first.sequence - self.end.next);
        push_varint(&mut self.packed, (entries.len() as u64) << 2 | flags);
        push_varint(&mut self.packed, offset - self.end.offset);
        if uniform {
            push_varint(&mut self.packed, first.length);
        } else {
            for entry in entries {
                push_varint(&mut self.packed, entry.length);
            }
        }
        if is_gappy {
            let mut expected = first.sequence;
            for entry in entries {
                push_varint(&mut self.packed, entry.sequence - expected);
                expected = entry.sequence + 1;
            }
        }
        self.to = last.sequence;
        self.end = Cursor {
            at: self.packed.len(),
            next: last.sequence.saturating_add(1),
            offset: offset + length,
        };
    }

    /// Extents from the cursor on, each with the cursor behind it.
    fn extents(&self, mut cursor: Cursor) -> impl Iterator<Item = (Extent<'_>, Cursor)> {
        std::iter::from_fn(move || {
            if cursor.at >= self.packed.len() {
                return None;
            }
            let extent = unpack(&self.packed, &mut cursor).ok()?;
            Some((extent, cursor))
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Extent<'_>> {
        self.extents(self.start).map(|(extent, _)| extent)
    }

    fn sum(&self, first: u64, last: u64) -> (u64, u64) {
        let (first, last) = (first.max(self.from), last.min(self.to));
        let (mut count, mut bytes) = (0, 0);
        for extent in self.all() {
            if extent.first > last {
                break;
            }
            let (some, their) = extent.sum(first, last);
            count += some;
            bytes += their;
        }
        (count, bytes)
    }

    /// Moves the start behind extents that are wholly below the floor.
    fn trim(&mut self, floor: u64) {
        let mut start = self.start;
        for (extent, behind) in self.extents(self.start) {
            if extent.last >= floor {
                break;
            }
            start = behind;
        }
        self.start = start;
        if self.start.at > 256 && self.start.at * 2 > self.packed.len() {
            self.packed.drain(..self.start.at);
            self.packed.shrink_to_fit();
            self.end.at -= self.start.at;
            self.start.at = 0;
        }
    }

    /// Appends the run for a checkpoint.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        for number in [self.from, self.to, self.start.next, self.start.offset] {
            push_varint(out, number);
        }
        crate::frame::push_bytes(out, &self.packed[self.start.at..]);
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(crate) fn load(segment: u64, fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let (from, to) = (fields.varint()?, fields.varint()?);
        let mut run = Self::new(segment, fields.varint()?);
        run.start.offset = fields.varint()?;
        run.packed = fields.bytes()?.to_vec();
        (run.from, run.to) = (from, to);
        let mut end = run.start;
        while end.at < run.packed.len() {
            unpack(&run.packed, &mut end)?;
        }
        run.end = end;
        Ok(run)
    }
}

fn unpack<'a>(packed: &'a [u8], cursor: &mut Cursor) -> Result<Extent<'a>, Malformed> {
    let mut fields = Fields::new(packed, cursor.at);
    let first = cursor.next.checked_add(fields.varint()?).ok_or(Malformed)?;
    let flags = fields.varint()?;
    let count = flags >> 2;
    let offset = cursor
        .offset
        .checked_add(fields.varint()?)
        .ok_or(Malformed)?;
    let mut length = 0_u64;
    let mut add = |bytes: u64| -> Result<(), Malformed> {
        length = length
            .checked_add(bytes + varint_length(bytes) as u64)
            .ok_or(Malformed)?;
        Ok(())
    };
    let lengths_at = fields.at;
    let mut uniform = None;
    if flags & 1 == 1 {
        let each = fields.varint()?;
        uniform = Some(each);
        length = (each + varint_length(each) as u64)
            .checked_mul(count)
            .ok_or(Malformed)?;
    } else {
        for _ in 0..count {
            add(fields.varint()?)?;
        }
    }
    let gaps_at = fields.at;
    let mut last = first
        .checked_add(count.checked_sub(1).ok_or(Malformed)?)
        .ok_or(Malformed)?;
    if flags & 2 == 2 {
        for _ in 0..count {
            let gap = fields.varint()?;
            last = last.checked_add(gap).ok_or(Malformed)?;
            length += varint_length(gap) as u64;
        }
    }
    let end = offset.checked_add(length).ok_or(Malformed)?;
    *cursor = Cursor {
        at: fields.at,
        next: last.saturating_add(1),
        offset: end,
    };
    Ok(Extent {
        first,
        last,
        count,
        offset,
        length,
        uniform,
        lengths: &packed[lengths_at..gaps_at],
        gaps: (flags & 2 == 2).then(|| &packed[gaps_at..fields.at]),
    })
}

/// A group to read, and which of its messages are wanted.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// First sequence of the group, which its checksum covers.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) wanted: Vec<Entry>,
}

/// Everything known of one queue on the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueIndex {
    pub(crate) next: u64,
    pub(crate) floor: u64,
    pub(crate) delivered_below: u64,
    pub(crate) settled: Ranges,
    pub(crate) runs: VecDeque<Run>,
    pub(crate) live: u64,
    pub(crate) bytes: u64,
}

impl QueueIndex {
    pub(crate) fn is_live(&self, sequence: u64) -> bool {
        sequence >= self.floor && sequence < self.next && !self.settled.contains(sequence)
    }

    /// Notes that the sequences from `next` up to `next` are used and gone.
    pub(crate) fn skip_to(&mut self, next: u64) {
        if next > self.next {
            self.settled.add(self.next, next - 1);
            self.next = next;
            self.floor = self.settled.raise(self.floor);
        }
    }

    /// Adds a group of new messages. All of its sequences must be `next` or above.
    pub(crate) fn add(
        &mut self,
        (segment, offset, length): (u64, u64, u64),
        entries: &[Entry],
        segments: &mut Segments,
    ) {
        for entry in entries {
            self.skip_to(entry.sequence);
            self.next = entry.sequence.saturating_add(1);
        }
        self.place((segment, offset, length), entries, segments);
    }

    /// Adds copies: what lies elsewhere of their range does not count any more.
    pub(crate) fn relocate(
        &mut self,
        (segment, offset, length): (u64, u64, u64),
        entries: &[Entry],
        segments: &mut Segments,
    ) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        if last.sequence >= self.next {
            return;
        }
        self.cut(first.sequence, last.sequence, segments);
        self.place((segment, offset, length), entries, segments);
    }

    fn place(
        &mut self,
        (segment, offset, length): (u64, u64, u64),
        entries: &[Entry],
        segments: &mut Segments,
    ) {
        let (Some(first), Some(_)) = (entries.first(), entries.last()) else {
            return;
        };
        let live = entries.iter().filter(|entry| self.is_live(entry.sequence));
        let (count, bytes) = live.fold((0, 0), |(count, bytes), entry| {
            (count + 1, bytes + entry.length)
        });
        if count == 0 {
            return;
        }
        let at = self.runs.partition_point(|run| run.to < first.sequence);
        let joins = at.checked_sub(1).filter(|before| {
            let run = &self.runs[*before];
            run.segment == segment && run.end.next <= first.sequence && run.end.offset <= offset
        });
        let at = joins.unwrap_or_else(|| {
            self.runs.insert(at, Run::new(segment, first.sequence));
            at
        });
        let run = &mut self.runs[at];
        run.push(entries, offset, length);
        run.live += count;
        run.bytes += bytes;
        self.live += count;
        self.bytes += bytes;
        if let Some(segment) = segments.get_mut(&segment) {
            segment.live += count;
            segment.bytes += bytes;
        }
    }

    /// Adds a run from a checkpoint, over older ones.
    pub(crate) fn adopt(&mut self, mut run: Run, segments: &mut Segments) {
        self.cut(run.from, run.to, segments);
        (run.live, run.bytes) = (0, 0);
        let (from, to) = (
            run.from.max(self.floor),
            run.to.min(self.next.saturating_sub(1)),
        );
        if from <= to {
            for (first, last) in self.settled.gaps(from, to) {
                let (count, bytes) = run.sum(first, last);
                run.live += count;
                run.bytes += bytes;
            }
        }
        if run.live == 0 {
            return;
        }
        self.live += run.live;
        self.bytes += run.bytes;
        if let Some(segment) = segments.get_mut(&run.segment) {
            segment.live += run.live;
            segment.bytes += run.bytes;
        }
        let at = self.runs.partition_point(|other| other.to < run.from);
        self.runs.insert(at, run);
    }

    /// Takes the sequences from `first` to `last` out of the runs, without settling them.
    fn cut(&mut self, first: u64, last: u64, segments: &mut Segments) {
        let mut at = self.runs.partition_point(|run| run.to < first);
        while at < self.runs.len() && self.runs[at].from <= last {
            let run = self.runs.remove(at).unwrap_or_else(|| Run::new(0, 0));
            self.uncount(&run, segments);
            if run.from < first {
                let mut left = run.clone();
                left.to = first - 1;
                at += usize::from(self.recount(at, left, segments));
            }
            if run.to > last {
                let mut right = run;
                right.from = last + 1;
                right.trim(last + 1);
                self.recount(at, right, segments);
                break;
            }
        }
    }

    fn uncount(&mut self, run: &Run, segments: &mut Segments) {
        self.live -= run.live;
        self.bytes -= run.bytes;
        if let Some(segment) = segments.get_mut(&run.segment) {
            segment.live -= run.live;
            segment.bytes -= run.bytes;
        }
    }

    /// Puts a run back with its live messages counted anew; false when there are none.
    fn recount(&mut self, at: usize, mut run: Run, segments: &mut Segments) -> bool {
        (run.live, run.bytes) = (0, 0);
        for (first, last) in self.settled.gaps(run.from.max(self.floor), run.to) {
            let (count, bytes) = run.sum(first, last);
            run.live += count;
            run.bytes += bytes;
        }
        if run.live == 0 {
            return false;
        }
        self.live += run.live;
        self.bytes += run.bytes;
        if let Some(segment) = segments.get_mut(&run.segment) {
            segment.live += run.live;
            segment.bytes += run.bytes;
        }
        self.runs.insert(at, run);
        true
    }

    /// Settles the sequences from `first` to `last`, whichever of them are live.
    pub(crate) fn settle(&mut self, first: u64, last: u64, segments: &mut Segments) {
        self.next = self.next.max(last.saturating_add(1));
        let first = first.max(self.floor);
        if first > last {
            return;
        }
        let mut has_empty = false;
        for (first, last) in self.settled.gaps(first, last) {
            let at = self.runs.partition_point(|run| run.to < first);
            for run in self.runs.range_mut(at..) {
                if run.from > last {
                    break;
                }
                let (count, bytes) = if first <= run.from && last >= run.to {
                    (run.live, run.bytes)
                } else {
                    run.sum(first, last)
                };
                run.live -= count;
                run.bytes -= bytes;
                self.live -= count;
                self.bytes -= bytes;
                if let Some(segment) = segments.get_mut(&run.segment) {
                    segment.live -= count;
                    segment.bytes -= bytes;
                }
                has_empty |= run.live == 0;
            }
        }
        self.settled.add(first, last);
        self.floor = self.settled.raise(self.floor);
        if has_empty {
            self.runs.retain(|run| run.live > 0);
        }
        if let Some(run) = self.runs.front_mut() {
            run.trim(self.floor);
        }
    }

    /// Takes everything out of the segments' counts, before the queue is forgotten.
    pub(crate) fn clear(&mut self, segments: &mut Segments) {
        while let Some(run) = self.runs.pop_front() {
            self.uncount(&run, segments);
        }
    }

    /// Sequences that should be live and lie nowhere. Settles them, and returns how many there
    /// were.
    pub(crate) fn settle_lost(&mut self, segments: &mut Segments) -> u64 {
        if self.floor >= self.next {
            return 0;
        }
        let expected = self.next - self.floor - self.settled.count();
        if expected == self.live {
            return 0;
        }
        let mut present = Ranges::default();
        for run in &self.runs {
            for entry in run.all().flat_map(|extent| {
                let entries: Vec<Entry> = extent.entries().collect();
                entries
            }) {
                if (run.from..=run.to).contains(&entry.sequence) {
                    present.add(entry.sequence, entry.sequence);
                }
            }
        }
        for (first, last) in present.gaps(self.floor, self.next - 1) {
            self.settle(first, last, segments);
        }
        expected - self.live
    }

    /// Groups that hold live messages from a sequence on, up to about `limit_bytes`.
    pub(crate) fn plan(
        &self,
        (from, limit_bytes): (u64, u64),
        is_wanted: impl Fn(u64) -> bool,
    ) -> Vec<Piece> {
        let from = from.max(self.floor);
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        let at = self.runs.partition_point(|run| run.to < from);
        for run in self.runs.range(at..) {
            for extent in run.all() {
                if bytes >= limit_bytes && !pieces.is_empty() || extent.first > run.to {
                    break;
                }
                if extent.last < from || extent.last < run.from {
                    continue;
                }
                let mut wanted = Vec::new();
                for entry in extent.entries() {
                    let is_in = entry.sequence >= from.max(run.from) && entry.sequence <= run.to;
                    if !is_in || !self.is_live(entry.sequence) || !is_wanted(entry.sequence) {
                        continue;
                    }
                    if bytes >= limit_bytes && (!pieces.is_empty() || !wanted.is_empty()) {
                        break;
                    }
                    bytes += entry.length + MESSAGE_BYTES;
                    wanted.push(entry);
                }
                if !wanted.is_empty() {
                    pieces.push(Piece {
                        segment: run.segment,
                        offset: extent.offset,
                        length: extent.length,
                        first: extent.first,
                        last: extent.last,
                        wanted,
                    });
                }
            }
            if bytes >= limit_bytes && !pieces.is_empty() {
                break;
            }
        }
        pieces
    }
}

/// What a message counts beside its bytes, so that a slice of empty ones is bounded too.
pub(crate) const MESSAGE_BYTES: u64 = 16;

impl Piece {
    /// The body of one wanted message in the group's data.
    pub(crate) fn range(entry: &Entry) -> std::ops::Range<usize> {
        to_usize(entry.start)..to_usize(entry.start.saturating_add(entry.length))
    }
}
