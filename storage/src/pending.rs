//! Pending changes of one queue: messages and settlements that are not committed yet.
//!
//! Messages lie one after the other in chunks of about 64 KiB. Settling a pending message marks it.
//! A chunk whose messages are all settled releases its memory at once, so little memory is needed
//! while consumers keep up. An append copies the bytes once and rarely allocates; settling in order
//! needs no search.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::extent::{Ranges, WrittenBody};
use crate::frame::{LARGE_BYTES, SequenceRange};
use crate::read_plan::ReadLimit;
use crate::terms::{QueueId, Sequence, Urgency};

/// A chunk takes no further message beyond this size.
const CHUNK_BYTES: usize = 64 * 1024;
/// Memory of a message beside its bytes.
const CHUNK_ENTRY_BYTES: usize = size_of::<ChunkEntry>();
/// Memory of a chunk beside its messages: the chunk itself, the allocator's overhead, and its
/// queue, because with many queues most of them have one chunk.
const PLACE_BYTES: usize = size_of::<Chunk>() + size_of::<PendingQueue>() + 64;
/// Emptied chunks that are kept for the next queues.
const SPARE_CHUNKS: usize = 4;

#[derive(Debug, Clone, Copy)]
struct ChunkEntry {
    sequence: u64,
    end: u32,
    /// A publisher waits for the batch.
    is_awaited: bool,
    is_settled: bool,
}

/// Some messages of one queue and one batch, in order; never empty.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    batch: u64,
    entries: Vec<ChunkEntry>,
    pub(crate) bytes: Vec<u8>,
    live: usize,
    /// A large body that is alone in its chunk is on the disk already.
    pub(crate) written: Option<WrittenBody>,
}

impl Chunk {
    /// Bytes of memory that the chunk occupies. The capacity of its buffers counts, not their
    /// length: they grow by doubling.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * CHUNK_ENTRY_BYTES + PLACE_BYTES
    }

    fn first(&self) -> u64 {
        self.entries
            .first()
            .map_or(u64::MAX, |entry| entry.sequence)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.sequence)
    }

    /// Index of the first entry with this sequence or a higher one.
    fn find(&self, sequence: u64) -> usize {
        let guess = usize::try_from(sequence.saturating_sub(self.first())).unwrap_or(usize::MAX);
        match self.entries.get(guess) {
            Some(entry) if entry.sequence == sequence => guess,
            _ => self
                .entries
                .partition_point(|entry| entry.sequence < sequence),
        }
    }

    /// The messages that are not settled, in order.
    pub(crate) fn live(&self) -> impl DoubleEndedIterator<Item = (u64, &[u8])> {
        let live = (0..self.entries.len()).filter(|at| !self.entries[*at].is_settled);
        live.map(|at| {
            let before = at.checked_sub(1).map(|before| self.entries[before].end);
            let (start, entry) = (before.unwrap_or(0) as usize, self.entries[at]);
            (entry.sequence, &self.bytes[start..entry.end as usize])
        })
    }

    /// Keeps the memory for another queue that needs a chunk, if it is of the ordinary size.
    pub(crate) fn recycle(mut self, spare: &mut Vec<Self>) {
        if spare.len() < SPARE_CHUNKS && self.bytes.capacity() <= 2 * CHUNK_BYTES {
            self.entries.clear();
            self.bytes.clear();
            self.live = 0;
            spare.push(self);
        }
    }
}

/// The changes of one queue in one commit.
#[derive(Debug, Default)]
pub(crate) struct CommitShare {
    /// Messages to write, where not settled since.
    pub(crate) chunks: Vec<Chunk>,
    /// Older ones that are settled.
    pub(crate) settled: Vec<(SequenceRange, Grouping)>,
    /// The queue is gone.
    pub(crate) is_dropped: bool,
    /// Everything below was handed out.
    pub(crate) delivered_below: u64,
}

impl CommitShare {
    /// The file of a large body that was written before this commit.
    pub(crate) fn written_body(&self, sequence: u64) -> Option<&WrittenBody> {
        let at = self.chunks.partition_point(|chunk| chunk.last() < sequence);
        self.chunks.get(at)?.written.as_ref()
    }
}

/// One change of one definition: the new value, or none.
pub(crate) type DefinitionChange = (Vec<u8>, Option<Vec<u8>>);

/// The changes of one commit.
#[derive(Debug, Default)]
pub(crate) struct CommitBatch {
    /// The last batch in it; 0 if no caller waits for it.
    pub(crate) through: u64,
    pub(crate) queues: Vec<(QueueId, Arc<CommitShare>)>,
    pub(crate) definitions: Vec<DefinitionChange>,
    pub(crate) atomicity: Atomicity,
}

/// The batch that a change belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TargetBatch {
    pub(crate) number: u64,
    pub(crate) grouping: Grouping,
}

/// Whether a settlement may be committed before the rest of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// It may be: no caller paused commits when it was made, or its own caller says that it belongs
    /// to no pause.
    Alone,
    /// It may belong to a caller that paused commits, and is committed with the whole batch.
    Together,
}

/// What of a batch must be committed together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Atomicity {
    /// Nothing.
    #[default]
    None,
    /// All of it, in one frame.
    Whole,
    /// All of it, and not before the batch in front of it: that one has the earlier changes of a
    /// caller whose pause lost its effect.
    Continued,
}

impl CommitBatch {
    /// Whether all of its changes that free space may be written before an earlier batch that waits
    /// for room. Settlements that belong to no pause may be in any case.
    pub(crate) fn may_go_ahead(&self) -> bool {
        match self.atomicity {
            Atomicity::None => true,
            Atomicity::Whole => self.only_frees(),
            Atomicity::Continued => false,
        }
    }

    /// Whether it neither adds a message nor sets a definition, so that one small frame holds all
    /// of it.
    fn only_frees(&self) -> bool {
        let has_messages = |taken: &CommitShare| {
            taken
                .chunks
                .iter()
                .any(|chunk| chunk.live().next().is_some())
        };
        !self.queues.iter().any(|(_, taken)| has_messages(taken))
            && self.definitions.iter().all(|(_, value)| value.is_none())
    }
}

/// The pending changes of one queue.
#[derive(Debug, Default)]
pub(crate) struct PendingQueue {
    chunks: VecDeque<Chunk>,
    /// Settled messages that are on disk or in an earlier commit, with the batch of the settlement.
    settled: VecDeque<(TargetBatch, SequenceRange)>,
    /// The batch in which the queue was dropped. Later changes are ignored.
    dropped: Option<u64>,
    /// Taken by the committer and not durable yet, oldest first. More than one only while the disk
    /// is full.
    committing: VecDeque<Arc<CommitShare>>,
    delivered_below: u64,
    /// The first sequence that was not appended.
    next: u64,
    /// Changes belong to this batch at the earliest: it has a large body of the queue. 0 if there
    /// is none.
    pub(crate) not_before: u64,
}

impl PendingQueue {
    /// Adds a message. Returns by how many bytes the memory of the queue has grown.
    pub(crate) fn append(
        &mut self,
        sequence: u64,
        (parts, urgency): (&[&[u8]], Urgency),
        batch: u64,
        spare: &mut Vec<Chunk>,
    ) -> usize {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let fits =
            |chunk: &Chunk| chunk.batch == batch && chunk.bytes.len() + length <= CHUNK_BYTES;
        let mut added = 0;
        if !self.chunks.back().is_some_and(fits) {
            let chunk = spare.pop().unwrap_or_default();
            added += chunk.memory_bytes();
            // Most queues of many need one.
            self.chunks.reserve_exact(1);
            self.chunks.push_back(Chunk { batch, ..chunk });
        }
        if let Some(chunk) = self.chunks.back_mut() {
            let before = chunk.memory_bytes();
            for part in parts {
                chunk.bytes.extend_from_slice(part);
            }
            let end = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
            let is_awaited = urgency == Urgency::Confirmed;
            let is_settled = false;
            chunk.entries.push(ChunkEntry {
                sequence,
                end,
                is_awaited,
                is_settled,
            });
            chunk.live += 1;
            added += chunk.memory_bytes() - before;
        }
        self.next = self.next.max(sequence.saturating_add(1));
        added
    }

    /// Settles a message. If it is still pending, it is never written, and the bytes of memory that
    /// became free are returned; otherwise `None`.
    ///
    /// A message whose publisher waits for a confirm is dropped only while its own batch gathers:
    /// if it becomes a dead letter, the publisher must not be confirmed before that is durable.
    pub(crate) fn settle(
        &mut self,
        sequence: u64,
        batch: TargetBatch,
        spare: &mut Vec<Chunk>,
    ) -> Option<usize> {
        let may_go = |entry: &ChunkEntry, of| !entry.is_awaited || of == batch.number;
        let (gone, freed) = self.mark_settled((sequence, sequence), may_go, spare);
        if gone > 0 {
            return Some(freed);
        }
        match self.settled.back_mut() {
            Some((of, (_, last))) if *of == batch && last.saturating_add(1) == sequence => {
                *last = sequence;
            }
            _ => self.settled.push_back((batch, (sequence, sequence))),
        }
        None
    }

    /// Settles everything from one sequence to another, but nothing that was never appended:
    /// `known` is the first sequence that the log does not have. Returns the bytes of memory that
    /// became free. Messages whose publishers wait are dropped too: none of them becomes a dead
    /// letter, so a confirm promises nothing that is lost.
    pub(crate) fn settle_all(
        &mut self,
        (first, last): SequenceRange,
        known: u64,
        batch: TargetBatch,
        spare: &mut Vec<Chunk>,
    ) -> usize {
        let last = last.min(self.next.max(known).saturating_sub(1));
        if first > last || self.next.max(known) == 0 {
            return 0;
        }
        self.settled.push_back((batch, (first, last)));
        self.mark_settled((first, last), |_, _| true, spare).1
    }

    /// Marks the pending messages of a range as settled. Returns their number and the bytes of
    /// memory that became free.
    fn mark_settled(
        &mut self,
        (first, last): SequenceRange,
        may_go: impl Fn(&ChunkEntry, u64) -> bool,
        spare: &mut Vec<Chunk>,
    ) -> (usize, usize) {
        let (mut gone, mut freed) = (0, 0);
        let mut at = self.chunks.partition_point(|chunk| chunk.last() < first);
        let chunks = &mut self.chunks;
        while let Some(chunk) = chunks.get_mut(at).filter(|chunk| chunk.first() <= last) {
            let from = chunk.find(first);
            let entries = chunk.entries[from..].iter_mut();
            for entry in entries.take_while(|entry| entry.sequence <= last) {
                if !entry.is_settled && may_go(entry, chunk.batch) {
                    entry.is_settled = true;
                    chunk.live -= 1;
                    gone += 1;
                }
            }
            if chunk.live > 0 {
                at += 1;
            } else if let Some(chunk) = chunks.remove(at) {
                freed += chunk.memory_bytes();
                chunk.recycle(spare);
            }
        }
        (gone, freed)
    }

    /// The chunk of a large body that the committer has not taken.
    pub(crate) fn large_body_chunk(&mut self, sequence: u64) -> Option<&mut Chunk> {
        let at = self.chunks.partition_point(|chunk| chunk.last() < sequence);
        let chunk = self.chunks.get_mut(at);
        chunk.filter(|chunk| chunk.first() == sequence && chunk.bytes.len() > LARGE_BYTES)
    }

    /// Drops the queue. Returns the bytes of memory that became free.
    pub(crate) fn drop_all(&mut self, batch: TargetBatch, spare: &mut Vec<Chunk>) -> usize {
        self.dropped = Some(batch.number);
        self.mark_settled((0, u64::MAX), |_, _| true, spare).1
    }

    /// Records that the sequences up to `through` were delivered.
    pub(crate) fn delivered(&mut self, through: u64) {
        self.delivered_below = self.delivered_below.max(through.saturating_add(1));
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.is_some()
    }

    /// Takes the changes of the batches up to `through`, if there are any.
    pub(crate) fn take_share(&mut self, through: u64) -> Option<Arc<CommitShare>> {
        let chunks = self.chunks.partition_point(|chunk| chunk.batch <= through);
        let settled = self
            .settled
            .partition_point(|(batch, _)| batch.number <= through);
        let is_dropped = self.dropped.is_some_and(|batch| batch <= through);
        let delivered_below = std::mem::take(&mut self.delivered_below);
        if chunks == 0 && settled == 0 && !is_dropped && delivered_below == 0 {
            return None;
        }
        let later = self.chunks.split_off(chunks);
        let chunks = std::mem::replace(&mut self.chunks, later).into();
        let settled = self.settled.drain(..settled);
        let settled = settled.map(|(batch, range)| (range, batch.grouping));
        let settled = settled.collect();
        let taken = CommitShare {
            chunks,
            settled,
            is_dropped,
            delivered_below,
        };
        let taken = Arc::new(taken);
        self.committing.push_back(Arc::clone(&taken));
        Some(taken)
    }

    /// Records that the oldest commit is durable, and with it the batches up to `through`.
    pub(crate) fn committed(&mut self, through: u64) {
        self.committing.pop_front();
        self.dropped = self.dropped.filter(|batch| *batch > through);
    }

    /// Whether nothing is pending for the queue.
    pub(crate) fn is_idle(&self) -> bool {
        let has_messages = !self.committing.is_empty() || !self.chunks.is_empty();
        let has_more = self.dropped.is_some() || self.delivered_below > 0;
        !has_messages && !has_more && self.settled.is_empty()
    }

    /// Copies what a reader must add to what is on disk: pending messages, and what is settled.
    pub(crate) fn copy_pending(&self, from: Sequence, limit: ReadLimit) -> QueueCopy {
        let committing = || self.committing.iter().map(Arc::as_ref);
        let mut settled = Ranges::default();
        let taken = committing().flat_map(|taken| taken.settled.iter().map(|(range, _)| range));
        for (first, last) in taken.chain(self.settled.iter().map(|(_, range)| range)) {
            settled.add(*first, *last);
        }
        if self.is_dropped() {
            settled.add(0, u64::MAX - 1);
        }
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        let chunks = committing().flat_map(|taken| &taken.chunks);
        for (sequence, body) in chunks.chain(&self.chunks).flat_map(Chunk::live) {
            if bytes > limit.bytes {
                break;
            }
            let is_wanted = sequence >= from.0 && body.len() <= limit.message_bytes;
            if is_wanted && !settled.has(sequence) {
                bytes += body.len() + CHUNK_ENTRY_BYTES;
                waiting.push((Sequence(sequence), body.to_vec()));
            }
        }
        QueueCopy { waiting, settled }
    }
}

/// A copy of the pending changes of a queue, so that no lock is held while the disk is read.
#[derive(Debug, Default)]
pub(crate) struct QueueCopy {
    /// Messages not on disk yet, from the sequence asked for, up to about the limit.
    pub(crate) waiting: Vec<(Sequence, Vec<u8>)>,
    /// Sequences that are settled, where the settlement is not on disk yet.
    pub(crate) settled: Ranges,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64) -> TargetBatch {
        let grouping = Grouping::Alone;
        TargetBatch { number, grouping }
    }

    fn append(pending: &mut PendingQueue, number: u64, urgency: Urgency, batch: u64) {
        pending.append(number, (&[b"text"], urgency), batch, &mut Vec::new());
    }

    #[test]
    fn the_room_of_buffers_counts_and_all_that_was_counted_is_released() {
        let (mut counted, mut freed, mut spare) = (0, 0, Vec::new());
        let mut pending = PendingQueue::default();
        for number in 0..10_000 {
            let text = vec![7; usize::try_from(number % 300).unwrap()];
            counted += pending.append(number, (&[&text], Urgency::Eventually), 1, &mut spare);
            freed += pending
                .settle(number / 2, batch(1), &mut spare)
                .unwrap_or(0);
            let chunks = pending.chunks.iter();
            let occupied = chunks.map(|chunk| chunk.bytes.capacity() + chunk.entries.capacity());
            assert!(counted - freed >= occupied.sum::<usize>());
        }
        assert!(
            pending.chunks.len() < 20,
            "chunks stay that nothing lives in"
        );
        for number in 5_000..10_000 {
            freed += pending.settle(number, batch(1), &mut spare).unwrap();
        }
        assert_eq!((freed, pending.chunks.len()), (counted, 0));
        // One small message in each of many queues takes far more than its bytes.
        let alone =
            PendingQueue::default().append(1, (&[b"x"], Urgency::Eventually), 1, &mut spare);
        assert!(alone > size_of::<PendingQueue>() + size_of::<Chunk>());
    }

    #[test]
    fn an_awaited_message_of_a_closed_batch_is_written_and_another_is_not() {
        let mut pending = PendingQueue::default();
        append(&mut pending, 1, Urgency::Confirmed, 7);
        append(&mut pending, 2, Urgency::Eventually, 7);
        assert_eq!(pending.settle(1, batch(8), &mut Vec::new()), None);
        assert_eq!(pending.settle(2, batch(8), &mut Vec::new()), Some(0));
        let taken = pending.take_share(7).unwrap();
        let written: Vec<_> = taken.chunks.iter().flat_map(Chunk::live).collect();
        assert_eq!(written, [(1, &b"text"[..])]);
        assert_eq!(taken.settled, []);
        pending.committed(7);
        assert!(!pending.is_idle(), "the settlement is for the next batch");
    }
}
