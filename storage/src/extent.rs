//! The index of one queue: its counts, and where its messages are on disk, a few bytes per group.
//!
//! An extent describes a group of messages in one frame. An [`ExtentRun`] holds packed extents of
//! one queue in one segment; the runs of a queue are sorted and do not overlap. Every sequence
//! below `next` is either settled or in a run. A run may also contain settled sequences.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::disk::{LogFile, to_usize};
use crate::frame::{CRC, Entry, GroupHeads, Malformed, SequenceRange, group_crc, push};

/// A segment as the index knows it.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Readers hold clones: the slot of a segment is reused only after all of them are dropped.
    pub(crate) file: Arc<LogFile>,
    /// Live messages in it, and their bytes.
    pub(crate) live: u64,
    pub(crate) bytes: u64,
    /// It is the file of a large body, which is not part of the chain of segments.
    pub(crate) is_body: bool,
    /// Something in it could not be read, so it is not compacted.
    pub(crate) is_damaged: bool,
}

impl Segment {
    pub(crate) fn new(file: Arc<LogFile>, is_body: bool) -> Self {
        let (live, bytes, is_damaged) = (0, 0, false);
        Self {
            file,
            live,
            bytes,
            is_body,
            is_damaged,
        }
    }
}

/// All segments by number.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    pub(crate) all: BTreeMap<u64, Segment>,
    /// The segment being written; 0 before the first frame since the opening. Older ones may be
    /// freed.
    pub(crate) active: u64,
    /// A segment may have lost its last live message since [`remove_dead`](Self::remove_dead) last
    /// looked.
    pub(crate) may_free: bool,
}

impl Segments {
    /// Segments of the log that are full, by number.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = (u64, &Segment)> {
        let older = self.all.range(..self.active);
        let logs = older.filter(|(_, segment)| !segment.is_body);
        logs.map(|(number, segment)| (*number, segment))
    }

    /// Adds a large body that no frame refers to yet. Unless one does, its file is removed.
    pub(crate) fn add_body(&mut self, number: u64, file: Arc<LogFile>) {
        self.all.insert(number, Segment::new(file, true));
        self.may_free = true;
    }

    /// Removes the first segment that has no live message and that no reader holds.
    pub(crate) fn remove_dead(&mut self) -> Option<(u64, Segment)> {
        let may_go = |(number, segment): &(&u64, &Segment)| {
            segment.live == 0 && (segment.is_body || **number < self.active)
        };
        let mut dead = self.all.iter().filter(may_go).peekable();
        self.may_free = dead.peek().is_some();
        let free = dead.find(|(_, segment)| Arc::strong_count(&segment.file) == 1);
        let number = *free?.0;
        Some((number, self.all.remove(&number)?))
    }
}

/// A large body on the disk that no frame refers to yet.
#[derive(Debug)]
pub(crate) struct WrittenBody {
    /// The number of its file.
    pub(crate) number: u64,
    /// Its extent, packed.
    pub(crate) packed: Vec<u8>,
    /// Held so that the file is not removed as dead.
    pub(crate) file: Arc<LogFile>,
}

/// Disjoint ranges of sequences, both ends included, none of them the highest number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Whether all of these sequences are in one range.
    pub(crate) fn contains(&self, first: u64, last: u64) -> bool {
        let before = self.0.range(..=first).next_back();
        before.is_some_and(|(_, to)| *to >= last)
    }

    pub(crate) fn has(&self, sequence: u64) -> bool {
        self.contains(sequence, sequence)
    }

    /// Whether any of these sequences is in a range.
    pub(crate) fn touches(&self, first: u64, last: u64) -> bool {
        let before = self.0.range(..=last).next_back();
        before.is_some_and(|(_, to)| *to >= first)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SequenceRange> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    /// The lowest sequence that is not in a range.
    pub(crate) fn first_missing(&self) -> u64 {
        self.0.get(&0).map_or(0, |last| last + 1)
    }

    /// Adds `first..=last`, and joins it with the ranges that it overlaps or adjoins.
    pub(crate) fn add(&mut self, first: u64, mut last: u64) {
        while let Some((from, to)) = self.0.range_mut(..=last.saturating_add(1)).next_back()
            && to.saturating_add(1) >= first
        {
            if *from <= first {
                *to = last.max(*to);
                return;
            }
            let from = *from;
            last = last.max(*to);
            self.0.remove(&from);
        }
        self.0.insert(first, last);
    }
}

/// Where one group lies in a segment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Extent<'a> {
    #[serde(borrow)]
    heads: GroupHeads<'a>,
    /// Offset of its checksum in the segment.
    offset: u64,
}

impl<'a> Extent<'a> {
    /// Encodes an extent as a run holds it.
    pub(crate) fn pack(heads: GroupHeads<'a>, offset: u64) -> Vec<u8> {
        let mut packed = Vec::new();
        push(&mut packed, &Self { heads, offset });
        packed
    }
}

/// Where an extent lies in `ExtentRun::packed`.
type Bounds = std::ops::Range<usize>;

/// The extents of one queue in one segment.
#[derive(Debug)]
pub(crate) struct ExtentRun {
    pub(crate) segment: u64,
    /// No sequence in it is lower than this or higher than `last`.
    pub(crate) first: u64,
    pub(crate) last: u64,
    packed: Vec<u8>,
    /// The bytes of `packed` before this one are removed extents.
    start: usize,
}

impl ExtentRun {
    /// A run of extents that are known to be valid; `None` if there are none.
    fn from_sound(segment: u64, packed: Vec<u8>) -> Option<Self> {
        let mut run = Self {
            segment,
            first: 0,
            last: u64::MAX,
            packed,
            start: 0,
        };
        let mut heads = run.extents_in(0, u64::MAX).map(|(extent, _)| extent.heads);
        let first = heads.next()?;
        let last = heads.last().unwrap_or(first);
        (run.first, run.last) = (first.first, last.last());
        Some(run)
    }

    /// Decodes and validates what [`packed`](Self::packed) returned.
    pub(crate) fn read(segment: u64, packed: &[u8]) -> Result<Self, Malformed> {
        let (mut rest, mut next) = (packed, 0);
        while !rest.is_empty() {
            let (extent, behind) =
                postcard::take_from_bytes::<Extent<'_>>(rest).map_err(|_| Malformed)?;
            if extent.heads.first < next || !extent.heads.is_sound() {
                return Err(Malformed);
            }
            (rest, next) = (behind, extent.heads.last() + 1);
        }
        Self::from_sound(segment, packed.to_vec()).ok_or(Malformed)
    }

    /// A run of one group at an offset of a segment.
    pub(crate) fn of(segment: u64, heads: GroupHeads<'_>, offset: u64) -> Self {
        Self {
            segment,
            first: heads.first,
            last: heads.last(),
            packed: Extent::pack(heads, offset),
            start: 0,
        }
    }

    /// The encoded extents, for a checkpoint.
    pub(crate) fn packed(&self) -> &[u8] {
        &self.packed[self.start..]
    }

    /// The extents that overlap `first..=last`, and where each lies in `packed`.
    fn extents_in(&self, first: u64, last: u64) -> impl Iterator<Item = (Extent<'_>, Bounds)> {
        let mut begin = self.start;
        let extents = std::iter::from_fn(move || {
            let rest = &self.packed[begin..];
            let (extent, behind) = postcard::take_from_bytes::<Extent<'_>>(rest).ok()?;
            let end = self.packed.len() - behind.len();
            Some((extent, std::mem::replace(&mut begin, end)..end))
        });
        let older = extents.skip_while(move |(extent, _)| extent.heads.last() < first);
        older.take_while(move |(extent, _)| extent.heads.first <= last)
    }

    /// The messages from `first` to `last`, settled ones included.
    pub(crate) fn entries(&self, first: u64, last: u64) -> impl Iterator<Item = Entry> {
        let extents = self.extents_in(first, last);
        let entries = extents.flat_map(|(extent, _)| extent.heads.entries());
        entries.filter(move |entry| (first..=last).contains(&entry.sequence))
    }

    /// Whether any of its messages has at most `bytes` bytes.
    pub(crate) fn has_any_within(&self, bytes: u64) -> bool {
        self.entries(0, u64::MAX).any(|entry| entry.length <= bytes)
    }

    /// The sum of the costs of its groups; see [`GroupHeads::cost`].
    pub(crate) fn cost(&self) -> u64 {
        let extents = self.extents_in(0, u64::MAX);
        extents.map(|(extent, _)| extent.heads.cost()).sum()
    }

    /// Reads the bodies of the first group and checks them; `None` if they are damaged.
    pub(crate) fn read_bodies(&self, file: &LogFile, queue: u64) -> Option<Bytes> {
        let (Extent { heads, offset }, _) = self.extents_in(0, u64::MAX).next()?;
        let length = heads.bytes() + CRC as u64;
        // The length comes from the log, which may be damaged.
        if offset.checked_add(length)? > file.length {
            return None;
        }
        let mut bytes = vec![0; to_usize(length)];
        let read = file.read(&mut bytes, offset).ok()?;
        let (crc, bodies) = bytes.split_first_chunk()?;
        let is_sound =
            read == bytes.len() && u32::from_le_bytes(*crc) == group_crc(queue, heads, bodies);
        is_sound.then(|| Bytes::from(bytes).slice(CRC..))
    }

    /// The extents before, and those behind, the ones that overlap `first..=last`.
    fn split_around(&self, first: u64, last: u64) -> (Option<Self>, Option<Self>) {
        let end = self.packed.len();
        let before = self.extents_in(first, u64::MAX).next();
        let before = before.map_or(end, |(_, at)| at.start);
        let behind = self.extents_in(0, last).last();
        let behind = behind.map_or(self.start, |(_, at)| at.end);
        let part = |from, to| Self::from_sound(self.segment, self.packed[from..to].to_vec());
        (part(self.start, before), part(behind, end))
    }

    /// The first extent for which `is_gone` is false: its first sequence, and where it begins in
    /// `packed`.
    fn first_kept(&self, is_gone: impl Fn(GroupHeads<'_>) -> bool) -> Option<(u64, usize)> {
        let mut all = self.extents_in(0, u64::MAX);
        let (kept, at) = all.find(|(extent, _)| !is_gone(extent.heads))?;
        Some((kept.heads.first, at.start))
    }

    /// Removes the extents before the one that [`first_kept`](Self::first_kept) returned.
    fn drop_before(&mut self, (first, start): (u64, usize)) {
        (self.first, self.start) = (first, start);
        if self.start > self.packed.len() / 2 {
            self.packed.drain(..self.start);
            self.packed.shrink_to_fit();
            self.start = 0;
        }
    }
}

/// What the index knows of one queue.
#[derive(Debug, Default)]
pub(crate) struct QueueIndex {
    pub(crate) next: u64,
    pub(crate) delivered_below: u64,
    pub(crate) settled: Ranges,
    pub(crate) runs: Vec<ExtentRun>,
    pub(crate) live: u64,
    pub(crate) bytes: u64,
}

impl QueueIndex {
    /// Records that the sequences below `next` are used. Those from the old value of `next` on were
    /// in no frame and count as settled.
    pub(crate) fn mark_used_below(&mut self, next: u64) {
        if next > self.next {
            self.settled.add(self.next, next - 1);
            self.next = next;
        }
    }

    /// The number of live messages of a run from `first` to `last`, and their bytes.
    fn count_live(&self, run: &ExtentRun, (first, last): SequenceRange) -> (u64, u64) {
        let (mut live, mut bytes) = (0, 0);
        for (Extent { heads, .. }, _) in run.extents_in(first, last) {
            let is_whole = first <= heads.first && heads.last() <= last;
            if is_whole && !self.settled.touches(heads.first, heads.last()) {
                (live, bytes) = (live + heads.count, bytes + heads.bytes());
                continue;
            }
            let is_live = |entry: &Entry| {
                (first..=last).contains(&entry.sequence) && !self.settled.has(entry.sequence)
            };
            for entry in heads.entries().filter(is_live) {
                (live, bytes) = (live + 1, bytes + entry.length);
            }
        }
        (live, bytes)
    }

    /// Adds to the counts of the queue and of a segment, or subtracts from them; `change` is the
    /// operation.
    fn adjust_counts(
        &mut self,
        (live, bytes): (u64, u64),
        (number, segments): (u64, &mut Segments),
        change: fn(u64, u64) -> u64,
    ) {
        (self.live, self.bytes) = (change(self.live, live), change(self.bytes, bytes));
        if let Some(segment) = segments.all.get_mut(&number) {
            segment.live = change(segment.live, live);
            segment.bytes = change(segment.bytes, bytes);
            segments.may_free |= segment.live == 0 && number != segments.active;
        }
    }

    /// The indices of the runs that overlap `first..=last`.
    fn overlapping(&self, first: u64, last: u64) -> std::ops::Range<usize> {
        let from = self.runs.partition_point(|run| run.last < first);
        from..from + self.runs[from..].partition_point(|run| run.first <= last)
    }

    /// Adds a run. It replaces all other extents of its range.
    pub(crate) fn add_run(&mut self, run: ExtentRun, segments: &mut Segments) {
        self.remove_range(run.first, run.last, segments);
        let live = self.count_live(&run, (run.first, run.last));
        if live.0 == 0 {
            return;
        }
        self.adjust_counts(live, (run.segment, segments), u64::saturating_add);
        let at = self.runs.partition_point(|other| other.last < run.first);
        match at.checked_sub(1).map(|before| &mut self.runs[before]) {
            Some(before) if before.segment == run.segment => {
                let (packed, more) = (&mut before.packed, run.packed());
                if packed.capacity() - packed.len() < more.len() {
                    // Not doubled: each of many queues may have such a run.
                    packed.reserve_exact(more.len().max(packed.len() / 8));
                }
                packed.extend_from_slice(more);
                before.last = run.last;
            }
            _ => {
                self.runs.reserve_exact(1);
                self.runs.insert(at, run);
            }
        }
    }

    /// Removes the groups that overlap `first..=last` from the runs, always whole groups: the
    /// messages of a group that are not among its copies are settled.
    pub(crate) fn remove_range(&mut self, first: u64, last: u64, segments: &mut Segments) {
        for at in self.overlapping(first, last).rev() {
            let (run, settled) = (&self.runs[at], &self.settled);
            let kept = run.first_kept(|heads| {
                let is_cut = first <= heads.last() && heads.first <= last;
                is_cut || settled.contains(heads.first, heads.last())
            });
            // Compaction removes a run from its front, piece by piece: only the front is read.
            if let Some((next, start)) = kept.filter(|(next, _)| *next > last) {
                let gone = self.count_live(run, (0, next - 1));
                self.adjust_counts(gone, (run.segment, segments), u64::saturating_sub);
                self.runs[at].drop_before((next, start));
                continue;
            }
            let run = self.runs.remove(at);
            let (left, right) = run.split_around(first, last);
            let from = left.as_ref().map_or(0, |left| left.last + 1);
            let to = right.as_ref().map_or(u64::MAX, |right| right.first - 1);
            let gone = self.count_live(&run, (from, to));
            self.adjust_counts(gone, (run.segment, segments), u64::saturating_sub);
            for part in [right, left].into_iter().flatten() {
                self.runs.insert(at, part);
            }
        }
    }

    /// Settles those of the sequences from `first` to `last` that are live.
    pub(crate) fn settle(&mut self, first: u64, last: u64, segments: &mut Segments) {
        self.next = self.next.max(last.saturating_add(1));
        let hit = self.overlapping(first, last);
        for at in hit.clone() {
            let run = &self.runs[at];
            let (gone, number) = (self.count_live(run, (first, last)), run.segment);
            self.adjust_counts(gone, (number, segments), u64::saturating_sub);
        }
        self.settled.add(first, last);
        let settled = &self.settled;
        let is_gone = |run: &ExtentRun| settled.contains(run.first, run.last);
        if self.runs[hit.clone()].iter().any(is_gone) {
            self.runs.retain(|run| !is_gone(run));
        }
        if let Some(run) = self.runs.first_mut().filter(|_| hit.start == 0) {
            let floor = settled.first_missing();
            if let Some(kept) = run.first_kept(|heads| heads.last() < floor) {
                run.drop_before(kept);
            }
        }
    }

    /// Settles the sequences that are neither settled nor in a run. Returns how many there were.
    pub(crate) fn settle_lost(&mut self, segments: &mut Segments) -> u64 {
        let settled = self.settled.iter().map(|(first, last)| last - first + 1);
        let settled: u64 = settled.sum();
        let lost = self.next.saturating_sub(settled).saturating_sub(self.live);
        if lost > 0 {
            let mut known = self.settled.clone();
            let entries = self.runs.iter().flat_map(|run| run.entries(0, u64::MAX));
            entries.for_each(|entry| known.add(entry.sequence, entry.sequence));
            let mut next = 0;
            for (first, last) in known.iter().chain([(self.next, self.next)]) {
                if next < first {
                    self.settle(next, first - 1, segments);
                }
                next = last.saturating_add(1);
            }
        }
        lost
    }

    /// The groups that hold live messages from the sequence `from` on, of the runs for which
    /// `is_of` is true, up to about `limit` bytes.
    pub(crate) fn live_groups(
        &self,
        from: u64,
        limit: u64,
        is_of: impl Fn(&ExtentRun) -> bool,
    ) -> Vec<ExtentRun> {
        let (mut groups, mut bytes) = (Vec::new(), 0);
        let runs = &self.runs[self.overlapping(from, u64::MAX)];
        for run in runs.iter().filter(|run| is_of(run)) {
            for (Extent { heads, offset }, _) in run.extents_in(from, u64::MAX) {
                if self.settled.contains(heads.first.max(from), heads.last()) {
                    continue;
                }
                bytes += heads.cost();
                groups.push(ExtentRun::of(run.segment, heads, offset));
                if bytes >= limit {
                    return groups;
                }
            }
        }
        groups
    }
}
