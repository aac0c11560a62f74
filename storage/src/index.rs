//! What the log says, in memory: definitions, numbers and extents of every queue, live bytes of
//! every segment.
//!
//! The committer applies each frame after it is durable, and recovery applies the same frames in
//! the same order, so both come to the same index. Readers plan under the lock and read files
//! without it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::extent::{Entry, QueueIndex, Ranges, Run, Segments};
use crate::frame::{
    BODY_AT, FRAME_HEADER, Fields, Group, GroupKind, Malformed, QueueNumbers, Record, Snapshot,
    push_bytes, push_ranges, push_varint, records, varint_length,
};
use crate::terms::{QueueId, Recovered, Sequence};

/// Where a frame lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    /// Offset of the frame's header.
    pub(crate) offset: u64,
    pub(crate) commit: u64,
}

/// Everything that the log says.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) queues: HashMap<u64, QueueIndex>,
    pub(crate) segments: Segments,
    pub(crate) definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Definitions changed since the last checkpoint, with the commit of the change.
    pub(crate) changed: BTreeMap<Vec<u8>, u64>,
    /// The last commit applied.
    pub(crate) commit: u64,
    /// The commit of the last durable checkpoint.
    pub(crate) checkpoint: u64,
    /// The last commit that changed a definition and is in a durable checkpoint.
    pub(crate) defined: u64,
    /// Definition records up to this commit are known from elsewhere.
    pub(crate) definitions_commit: u64,
    /// Records of queues that are not known, which were left out.
    pub(crate) unknown: u64,
    /// A segment may have lost its last live message since somebody looked.
    pub(crate) may_free: bool,
}

/// Locks the index.
pub(crate) fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    /// Applies the records of one frame.
    pub(crate) fn apply(&mut self, body: &[u8], place: Place) -> Result<(), Malformed> {
        for record in records(body) {
            self.apply_record(record?, place)?;
        }
        self.commit = self.commit.max(place.commit);
        Ok(())
    }

    fn apply_record(&mut self, record: Record<'_>, place: Place) -> Result<(), Malformed> {
        match record {
            Record::Group(kind, group) => self.apply_group(kind, group, place)?,
            Record::Large([queue, base, sequence, file, length]) => {
                self.apply_large((queue, base), sequence, (file, length));
            }
            Record::Settles(queue, ranges) => self.settle(queue, &ranges),
            Record::Purge(queue, through) => self.settle(queue, &[(0, through)]),
            Record::Drop(queue) => self.drop_queue(queue),
            Record::Put(key, value) => self.define(key, Some(value), place.commit),
            Record::Remove(key) => self.define(key, None, place.commit),
            Record::Numbers(queue, next, delivered_below) => {
                if let Some(queue) = self.known(queue) {
                    queue.skip_to(next);
                    queue.delivered_below = queue.delivered_below.max(delivered_below);
                }
            }
            Record::Snapshot(snapshot) => self.apply_snapshot(&snapshot, place),
        }
        Ok(())
    }

    fn known(&mut self, queue: u64) -> Option<&mut QueueIndex> {
        let known = self.queues.get_mut(&queue);
        self.unknown += u64::from(known.is_none());
        known
    }

    fn settle(&mut self, queue: u64, ranges: &[(u64, u64)]) {
        let Some(queue) = self.queues.get_mut(&queue) else {
            self.unknown += 1;
            return;
        };
        for (first, last) in ranges {
            queue.settle(*first, *last, &mut self.segments);
        }
        self.may_free = true;
    }

    fn drop_queue(&mut self, queue: u64) {
        if let Some(mut queue) = self.queues.remove(&queue) {
            queue.clear(&mut self.segments);
            self.may_free = true;
        }
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

    /// A queue that is about to get messages. Sequences below the base that no frame has brought
    /// count as live, so that recovery finds them missing.
    fn prepare(&mut self, number: u64, base: u64) -> &mut QueueIndex {
        let queue = self.queues.entry(number).or_default();
        queue.next = queue.next.max(base);
        queue
    }

    fn apply_group(
        &mut self,
        kind: GroupKind,
        group: Group<'_>,
        place: Place,
    ) -> Result<(), Malformed> {
        let mut entries = Vec::with_capacity(usize::try_from(group.count).unwrap_or(0).min(65_536));
        for entry in group.entries() {
            let (sequence, start, length) = entry?;
            entries.push(Entry {
                sequence,
                start: start as u64,
                length: length as u64,
            });
        }
        let offset = place.offset + FRAME_HEADER as u64 + group.data_at as u64;
        let at = (place.segment, offset, group.data.len() as u64);
        match kind {
            GroupKind::Messages => {
                let queue = self.prepare(group.queue, group.base);
                let is_new = group.first >= queue.next;
                if is_new && let Some(queue) = self.queues.get_mut(&group.queue) {
                    queue.add(at, &entries, &mut self.segments);
                }
            }
            GroupKind::Copies => match self.queues.get_mut(&group.queue) {
                Some(queue) => queue.relocate(at, &entries, &mut self.segments),
                None => self.unknown += 1,
            },
        }
        self.may_free = true;
        Ok(())
    }

    fn apply_large(
        &mut self,
        (number, base): (u64, u64),
        sequence: u64,
        (file, length): (u64, u64),
    ) {
        let queue = self.prepare(number, base);
        if sequence < queue.next {
            return;
        }
        let is_there = self.segments.contains_key(&file);
        let Some(queue) = self.queues.get_mut(&number) else {
            return;
        };
        queue.skip_to(sequence);
        queue.next = sequence.saturating_add(1);
        if is_there {
            let start = varint_length(length) as u64;
            let entry = Entry {
                sequence,
                start,
                length,
            };
            queue.relocate(
                (file, BODY_AT, start + length),
                &[entry],
                &mut self.segments,
            );
        }
    }

    fn apply_snapshot(&mut self, snapshot: &Snapshot<'_>, place: Place) {
        self.defined = self.defined.max(snapshot.defined);
        let mut before = std::mem::take(&mut self.queues);
        for numbers in &snapshot.queues {
            let mut queue = before.remove(&numbers.queue).unwrap_or_default();
            queue.next = queue.next.max(numbers.next);
            if numbers.floor > 0 {
                queue.settle(0, numbers.floor - 1, &mut self.segments);
            }
            for (first, last) in &numbers.settled {
                queue.settle(*first, *last, &mut self.segments);
            }
            queue.delivered_below = queue.delivered_below.max(numbers.delivered_below);
            self.queues.insert(numbers.queue, queue);
        }
        for mut queue in before.into_values() {
            queue.clear(&mut self.segments);
        }
        for (key, value) in &snapshot.definitions {
            self.define(key, *value, place.commit);
        }
        self.may_free = true;
    }

    /// Writes all numbers, as in [`Snapshot`]; with the definitions changed since the last
    /// checkpoint.
    pub(crate) fn write_snapshot(&self, out: &mut Vec<u8>, with_definitions: bool) {
        let mut numbers: Vec<u64> = self.queues.keys().copied().collect();
        numbers.sort_unstable();
        push_varint(out, self.defined);
        push_varint(out, numbers.len() as u64);
        for number in numbers {
            let queue = &self.queues[&number];
            let floor = queue.floor.min(queue.next);
            push_varint(out, number);
            push_varint(out, queue.next);
            push_varint(out, queue.next - floor);
            push_varint(out, queue.delivered_below);
            push_ranges(out, floor, queue.settled.len(), queue.settled.iter());
        }
        let changed = self.changed.keys().filter(|_| with_definitions);
        push_varint(out, changed.clone().count() as u64);
        for key in changed {
            push_bytes(out, key);
            match self.definitions.get(key) {
                Some(value) => {
                    push_varint(out, value.len() as u64 + 1);
                    out.extend_from_slice(value);
                }
                None => push_varint(out, 0),
            }
        }
    }

    /// Takes over the numbers of a checkpoint.
    pub(crate) fn load_numbers(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for numbers in Snapshot::read(&mut Fields::new(bytes, 0))?.queues {
            let QueueNumbers {
                queue,
                next,
                floor,
                delivered_below,
                settled,
            } = numbers;
            let mut ranges = Ranges::default();
            for (first, last) in settled {
                ranges.add(first, last);
            }
            let queue_index = QueueIndex {
                next,
                floor,
                delivered_below,
                settled: ranges,
                ..QueueIndex::default()
            };
            self.queues.insert(queue, queue_index);
        }
        Ok(())
    }

    /// Writes the extents that lie in some segments.
    pub(crate) fn write_extents(&self, out: &mut Vec<u8>, is_wanted: impl Fn(u64) -> bool) {
        for (number, queue) in &self.queues {
            for run in queue.runs.iter().filter(|run| is_wanted(run.segment)) {
                push_varint(out, *number);
                push_varint(out, run.segment);
                run.save(out);
            }
        }
    }

    /// Takes over extents of a checkpoint; those whose segment is not there are left out.
    pub(crate) fn load_extents(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(bytes, 0);
        while !fields.is_at_end() {
            let (number, segment) = (fields.varint()?, fields.varint()?);
            let run = Run::load(segment, &mut fields)?;
            if !self.segments.contains_key(&segment) {
                continue;
            }
            if let Some(queue) = self.queues.get_mut(&number) {
                queue.adopt(run, &mut self.segments);
            }
        }
        Ok(())
    }

    /// Every queue, by rising number.
    pub(crate) fn recovered(&self) -> Vec<Recovered> {
        let mut queues: Vec<Recovered> = self
            .queues
            .iter()
            .map(|(number, queue)| Recovered {
                queue: QueueId(*number),
                first: Sequence(queue.floor),
                // A watermark above it was left by messages that never reached the disk.
                next: Sequence(queue.next.max(queue.delivered_below)),
                ready: queue.live,
                bytes: queue.bytes,
                delivered: queue.delivered_below.checked_sub(1).map(Sequence),
            })
            .collect();
        queues.sort_unstable_by_key(|queue| queue.queue);
        queues
    }

    /// Segments before `active` without a live message that no reader holds. They are taken out.
    pub(crate) fn take_dead(&mut self, active: u64) -> Vec<(u64, crate::extent::Segment)> {
        let dead: Vec<u64> = self
            .segments
            .iter()
            .filter(|(number, segment)| {
                segment.live == 0
                    && (segment.is_body || **number < active)
                    && std::sync::Arc::strong_count(&segment.file) == 1
            })
            .map(|(number, _)| *number)
            .collect();
        let taken = dead
            .into_iter()
            .filter_map(|number| Some((number, self.segments.remove(&number)?)))
            .collect();
        let mut rest = self.segments.iter();
        self.may_free = rest
            .any(|(number, segment)| segment.live == 0 && (segment.is_body || *number < active));
        taken
    }
}
