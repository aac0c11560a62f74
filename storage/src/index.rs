//! What the log says, in memory: definitions, numbers and extents of every queue, live bytes of
//! every segment.
//!
//! The committer applies each frame after it is durable; recovery applies the rows of the last
//! checkpoint and then the same frames in the same order, so both come to the same index. Readers
//! plan under the lock and read files without it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk::LogFile;
use crate::extent::{ExtentRun, QueueIndex, Segments};
use crate::frame::{FRAME_HEADER, Malformed, Record, pack_ranges, push, records, take_range};
use crate::terms::{QueueId, Recovered, Sequence};

/// Where a frame lies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FramePlace {
    pub(crate) segment: u64,
    /// Offset of the frame's header.
    pub(crate) offset: u64,
    pub(crate) commit: u64,
}

impl FramePlace {
    pub(crate) fn new(segment: u64, offset: u64, commit: u64) -> Self {
        Self {
            segment,
            offset,
            commit,
        }
    }
}

/// Where the log ends: a segment, the offset behind its last frame, and the number that the next
/// segment gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) end: u64,
    pub(crate) next_number: u64,
}

/// Everything that the log says.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) queues: HashMap<u64, QueueIndex>,
    pub(crate) segments: Segments,
    pub(crate) definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Definitions changed since the last checkpoint, with the commit of the change.
    pub(crate) changed: BTreeMap<Vec<u8>, u64>,
    /// The last commit applied, and where the log ended with it.
    pub(crate) commit: u64,
    pub(crate) tail: Tail,
    /// The last commit that changed a definition and is in a durable checkpoint.
    pub(crate) checkpointed_definitions: u64,
    /// Definition records up to this commit are known from elsewhere.
    pub(crate) definitions_commit: u64,
    /// Records of queues that are not known, which were left out.
    pub(crate) unknown: u64,
}

impl Index {
    /// Applies the records of one frame, or of a row.
    pub(crate) fn apply(&mut self, body: &[u8], place: FramePlace) -> Result<(), Malformed> {
        // Queues that a snapshot has not named yet.
        let mut unnamed_queues = HashMap::new();
        let mut records = records(body);
        let outcome =
            records.try_for_each(|read| self.apply_record(read?, place, &mut unnamed_queues));
        for mut queue in unnamed_queues.into_values() {
            queue.remove_range(0, u64::MAX, &mut self.segments);
        }
        self.commit = self.commit.max(place.commit);
        outcome
    }

    fn apply_record(
        &mut self,
        (record, end): (Record<'_>, usize),
        place: FramePlace,
        unnamed_queues: &mut HashMap<u64, QueueIndex>,
    ) -> Result<(), Malformed> {
        match record {
            Record::Group(group) => {
                // The data is the last field.
                let offset = place.offset + (FRAME_HEADER + end - group.data.len()) as u64;
                let run = ExtentRun::of(place.segment, group.heads, offset);
                self.add_extent(group.queue, group.base, run);
            }
            Record::Run([queue, base, segment], packed) => {
                let run = ExtentRun::read(segment, packed)?;
                // A row may be older than the drop of its queue.
                let is_row = place.segment == 0;
                if !is_row || self.queues.contains_key(&queue) {
                    self.add_extent(queue, base, run);
                }
            }
            Record::Settled(queue, ranges) => self.settle(queue, ranges)?,
            Record::Drop(queue) => {
                if let Some(mut queue) = self.queues.remove(&queue) {
                    queue.remove_range(0, u64::MAX, &mut self.segments);
                }
            }
            Record::Put(key, value) => self.define(key, Some(value), place.commit),
            Record::Remove(key) => self.define(key, None, place.commit),
            Record::Snapshot(defined) => {
                self.checkpointed_definitions = self.checkpointed_definitions.max(defined);
                *unnamed_queues = std::mem::take(&mut self.queues);
            }
            Record::Numbers([number, next, delivered_below], ranges) => {
                let queue = self.queues.entry(number);
                let queue =
                    queue.or_insert_with(|| unnamed_queues.remove(&number).unwrap_or_default());
                queue.next = queue.next.max(next);
                queue.delivered_below = queue.delivered_below.max(delivered_below);
                self.settle(number, ranges)?;
            }
        }
        Ok(())
    }

    /// Which groups to read, with their files, which are not used again while they are held: those
    /// with live messages from a sequence on, up to about a limit, in runs for which `is_read`.
    pub(crate) fn plan(
        &self,
        queue: QueueId,
        (from, limit): (u64, u64),
        is_read: impl Fn(&ExtentRun) -> bool,
    ) -> Vec<(ExtentRun, Arc<LogFile>)> {
        let queue = self.queues.get(&queue.0);
        let groups = queue.map(|queue| queue.live_groups(from, limit, is_read));
        let groups = groups.unwrap_or_default();
        let files = groups.into_iter().filter_map(|group| {
            let file = Arc::clone(&self.segments.all.get(&group.segment)?.file);
            Some((group, file))
        });
        files.collect()
    }

    fn settle(&mut self, queue: u64, mut ranges: &[u8]) -> Result<(), Malformed> {
        let Some(queue) = self.queues.get_mut(&queue) else {
            self.unknown += 1;
            return Ok(());
        };
        let mut next = 0;
        while !ranges.is_empty() {
            let ((first, last), others) = take_range(ranges, next)?;
            queue.settle(first, last, &mut self.segments);
            (ranges, next) = (others, last + 1);
        }
        Ok(())
    }

    fn define(&mut self, key: &[u8], value: Option<&[u8]>, commit: u64) {
        if commit <= self.definitions_commit {
            return;
        }
        match value {
            Some(value) => self.definitions.insert(key.to_vec(), value.to_vec()),
            None => self.definitions.remove(key),
        };
        self.changed.insert(key.to_vec(), commit);
    }

    /// Adds an extent of new messages, or of copies that replace older ones. Sequences below `base`
    /// that no frame has brought count as live, so that recovery reports them as missing. Sequences
    /// skipped from `base` on are gone.
    fn add_extent(&mut self, number: u64, base: u64, run: ExtentRun) {
        let queue = self.queues.entry(number).or_default();
        queue.next = queue.next.max(base);
        queue.mark_used_below(run.first);
        queue.next = queue.next.max(run.last + 1);
        if self.segments.all.contains_key(&run.segment) {
            queue.add_run(run, &mut self.segments);
        }
    }

    /// The records of a snapshot: the numbers of all queues.
    pub(crate) fn number_records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, &Record::Snapshot(self.checkpointed_definitions));
        for (number, queue) in &self.queues {
            let numbers = [*number, queue.next, queue.delivered_below];
            let settled = pack_ranges(queue.settled.iter());
            push(&mut out, &Record::Numbers(numbers, &settled));
        }
        out
    }

    /// Like [`Self::number_records`], with the definitions changed since the last checkpoint.
    pub(crate) fn snapshot_records(&self) -> Vec<u8> {
        let mut out = self.number_records();
        for key in self.changed.keys() {
            let value = self.definitions.get(key);
            let record = value.map_or(Record::Remove(key), |value| Record::Put(key, value));
            push(&mut out, &record);
        }
        out
    }

    /// The records of all definitions.
    pub(crate) fn definition_records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in &self.definitions {
            push(&mut out, &Record::Put(key, value));
        }
        out
    }

    /// The records of the extents that lie in some segments.
    pub(crate) fn run_records(&self, is_wanted: impl Fn(u64) -> bool) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, queue) in &self.queues {
            for run in queue.runs.iter().filter(|run| is_wanted(run.segment)) {
                push(
                    &mut out,
                    &Record::Run([*number, 0, run.segment], run.packed()),
                );
            }
        }
        out
    }

    /// Every queue, by rising number.
    pub(crate) fn recovered(&self) -> Vec<Recovered> {
        let queues = self.queues.iter().map(|(number, queue)| Recovered {
            queue: QueueId(*number),
            first: Sequence(queue.settled.first_missing()),
            // A watermark above it was left by messages that never reached the disk.
            next: Sequence(queue.next.max(queue.delivered_below)),
            ready: queue.live,
            bytes: queue.bytes,
            delivered: queue.delivered_below.checked_sub(1).map(Sequence),
        });
        let mut queues: Vec<Recovered> = queues.collect();
        queues.sort_unstable_by_key(|queue| queue.queue);
        queues
    }

    /// Forgets everything but the files.
    pub(crate) fn clear(&mut self) {
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.all.values_mut() {
            (segment.live, segment.bytes) = (0, 0);
        }
        *self = Self {
            segments,
            ..Self::default()
        };
    }
}
