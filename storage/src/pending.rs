//! Messages of one queue that wait for their commit, and what else the next commits have to do for
//! it.
//!
//! Messages lie one after the other in blocks of about 64 KiB. A message that is settled here is
//! only marked; a block whose messages are all settled gives its memory back at once, so a consumer
//! that keeps up keeps this small. Relies on nothing but the order of sequences.
//!
//! # Cost
//! Append: one copy of the bytes, amortised no allocation. Settle in order: no search.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::terms::{Sequence, Urgency};

/// A block takes no further message beyond this size.
const BLOCK_BYTES: usize = 64 * 1024;
/// What a message occupies beside its bytes.
const SLOT_BYTES: usize = size_of::<Slot>();

#[derive(Debug, Clone, Copy)]
struct Slot {
    sequence: Sequence,
    end: u32,
    /// A publisher waits for the group.
    is_awaited: bool,
    is_settled: bool,
}

/// Some messages of one queue and one group, in order.
#[derive(Debug, Default)]
pub(crate) struct Block {
    group: u64,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    live: usize,
}

impl Block {
    fn has_room_for(&self, length: usize, group: u64) -> bool {
        self.group == group && self.bytes.len() + length <= BLOCK_BYTES
    }

    fn push(&mut self, sequence: Sequence, parts: &[&[u8]], urgency: Urgency) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let end = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let is_awaited = urgency == Urgency::Confirmed;
        self.slots.push(Slot {
            sequence,
            end,
            is_awaited,
            is_settled: false,
        });
        self.live += 1;
    }

    /// Bytes of memory that the messages hold until the block is released.
    pub(crate) fn charge(&self) -> usize {
        self.bytes.len() + self.slots.len() * SLOT_BYTES
    }

    fn first(&self) -> Sequence {
        self.slots
            .first()
            .map_or(Sequence(u64::MAX), |slot| slot.sequence)
    }

    fn find(&self, sequence: Sequence) -> Option<usize> {
        let guess = usize::try_from(sequence.0.checked_sub(self.first().0)?).ok()?;
        match self.slots.get(guess) {
            Some(slot) if slot.sequence == sequence => Some(guess),
            _ => self
                .slots
                .binary_search_by_key(&sequence, |slot| slot.sequence)
                .ok(),
        }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.bytes.clear();
        self.live = 0;
    }

    /// Whether the block is of the ordinary size, so that its memory is worth keeping for another.
    pub(crate) fn is_reusable(&self) -> bool {
        self.bytes.capacity() <= 2 * BLOCK_BYTES
    }

    /// The messages that are not settled, in order.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Sequence, &[u8])> + Clone {
        let starts = std::iter::once(0).chain(self.slots.iter().map(|slot| slot.end as usize));
        let slots = self.slots.iter().zip(starts);
        slots
            .filter(|(slot, _)| !slot.is_settled)
            .map(|(slot, start)| (slot.sequence, &self.bytes[start..slot.end as usize]))
    }
}

/// Something to do with what is already on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// These are settled, first to last.
    Settle(Sequence, Sequence),
    /// Everything up to here is gone.
    Purge(Sequence),
    /// The queue is gone.
    Drop,
}

/// What one commit takes from one queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Messages to write, where not settled since.
    pub(crate) blocks: Vec<Block>,
    /// What happened to older ones.
    pub(crate) work: Vec<Work>,
    /// Everything below was handed out.
    pub(crate) delivered_below: u64,
}

/// What waits of one queue.
#[derive(Debug, Default)]
pub(crate) struct Line {
    blocks: VecDeque<Block>,
    work: VecDeque<(u64, Work)>,
    /// Taken and not durable yet, oldest first. More than one only while the disk is full.
    committing: VecDeque<Arc<Taken>>,
    delivered_below: u64,
    next: u64,
    gone_below: u64,
    is_dropped: bool,
    is_dirty: bool,
}

/// Memory that became free, and whether anything was found at all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Elision {
    /// The message was waiting and is not any more. So many bytes of memory are free again.
    Done {
        /// Bytes no longer held.
        freed: usize,
    },
    /// It is not among the waiting ones, so the disk has it or soon will.
    TooLate,
}

impl Line {
    /// Adds a message. Returns the bytes of memory that it occupies.
    pub(crate) fn append(
        &mut self,
        sequence: Sequence,
        (parts, urgency): (&[&[u8]], Urgency),
        group: u64,
        spare: &mut Vec<Block>,
    ) -> usize {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if !self
            .blocks
            .back()
            .is_some_and(|block| block.has_room_for(length, group))
        {
            let mut block = spare.pop().unwrap_or_default();
            block.group = group;
            self.blocks.push_back(block);
        }
        if let Some(block) = self.blocks.back_mut() {
            block.push(sequence, parts, urgency);
        }
        self.next = self.next.max(sequence.0.saturating_add(1));
        length + SLOT_BYTES
    }

    /// Settles a message if it still waits. One that a publisher waits for is let go only while its
    /// own group still gathers: should it live on elsewhere, as a dead letter, the publisher hears
    /// of neither before the other is safe.
    pub(crate) fn elide(
        &mut self,
        sequence: Sequence,
        group: u64,
        spare: &mut Vec<Block>,
    ) -> Elision {
        let Some(at) = self
            .blocks
            .partition_point(|block| block.first() <= sequence)
            .checked_sub(1)
        else {
            return Elision::TooLate;
        };
        let block = &mut self.blocks[at];
        let Some(index) = block.find(sequence) else {
            return Elision::TooLate;
        };
        if block.slots[index].is_awaited && block.group < group {
            return Elision::TooLate;
        }
        if !std::mem::replace(&mut block.slots[index].is_settled, true) {
            block.live -= 1;
        }
        if block.live > 0 {
            return Elision::Done { freed: 0 };
        }
        let freed = block.charge();
        if let Some(block) = self.blocks.remove(at) {
            recycle(block, spare);
        }
        Elision::Done { freed }
    }

    /// Notes that a message on disk is settled. `true` when it is the newest of the queue, so that
    /// the queue is empty as far as anyone can tell here.
    pub(crate) fn settle(&mut self, sequence: Sequence, group: u64) -> bool {
        match self.work.back_mut() {
            Some((of, Work::Settle(_, last)))
                if *of == group && last.0.checked_add(1) == Some(sequence.0) =>
            {
                *last = sequence;
            }
            _ => self
                .work
                .push_back((group, Work::Settle(sequence, sequence))),
        }
        sequence.0.saturating_add(1) == self.next
    }

    /// A sequence, or the last one that was ever used: nothing is settled before it is appended.
    /// `known` is the first that the log does not have.
    pub(crate) fn clipped(&self, last: Sequence, known: Sequence) -> Option<Sequence> {
        let used = self.next.max(known.0).checked_sub(1)?;
        Some(last.min(Sequence(used)))
    }

    /// Settles everything up to a sequence. Returns the bytes of memory that became free.
    pub(crate) fn purge(
        &mut self,
        through: Option<Sequence>,
        group: u64,
        spare: &mut Vec<Block>,
    ) -> usize {
        let Some(through) = through else {
            return 0;
        };
        self.work.push_back((group, Work::Purge(through)));
        self.gone_below = self.gone_below.max(through.0.saturating_add(1));
        self.let_go((Sequence(0), through), spare)
    }

    /// Settles everything from one sequence to another. Returns the bytes of memory that became
    /// free.
    pub(crate) fn settle_all(
        &mut self,
        (first, last): (Sequence, Option<Sequence>),
        group: u64,
        spare: &mut Vec<Block>,
    ) -> usize {
        let Some(last) = last.filter(|last| *last >= first) else {
            return 0;
        };
        self.work.push_back((group, Work::Settle(first, last)));
        self.let_go((first, last), spare)
    }

    /// Marks what waits of a range, awaited or not: it lives on nowhere, so a confirm promises
    /// nothing that is lost.
    fn let_go(&mut self, (first, last): (Sequence, Sequence), spare: &mut Vec<Block>) -> usize {
        let mut freed = 0;
        self.blocks.retain_mut(|block| {
            let from = block.slots.partition_point(|slot| slot.sequence < first);
            let until = block.slots.partition_point(|slot| slot.sequence <= last);
            let newly = block.slots[from..until.max(from)]
                .iter_mut()
                .filter(|slot| !slot.is_settled);
            block.live -= newly.map(|slot| slot.is_settled = true).count();
            if block.live > 0 {
                return true;
            }
            freed += block.charge();
            recycle(std::mem::take(block), spare);
            false
        });
        freed
    }

    /// Forgets the queue. Returns the bytes of memory that became free.
    pub(crate) fn drop_all(&mut self, group: u64, spare: &mut Vec<Block>) -> usize {
        self.work.push_back((group, Work::Drop));
        self.is_dropped = true;
        let freed = self.blocks.iter().map(Block::charge).sum();
        self.blocks
            .drain(..)
            .for_each(|block| recycle(block, spare));
        freed
    }

    /// Moves the watermark of what was handed out.
    pub(crate) fn delivered(&mut self, through: Sequence) {
        self.delivered_below = self.delivered_below.max(through.0.saturating_add(1));
    }

    /// Whether the queue was dropped, so that nothing more is taken for it.
    pub(crate) fn is_dropped(&self) -> bool {
        self.is_dropped
    }

    /// Marks the line for the next commit. `true` when it was not marked before.
    pub(crate) fn soil(&mut self) -> bool {
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Hands over everything of the groups up to `through`. The second is whether newer groups left
    /// something behind.
    pub(crate) fn take(&mut self, through: u64) -> (Arc<Taken>, bool) {
        let blocks = self.blocks.partition_point(|block| block.group <= through);
        let work = self.work.partition_point(|(group, _)| *group <= through);
        let taken = Arc::new(Taken {
            blocks: self.blocks.drain(..blocks).collect(),
            work: self.work.drain(..work).map(|(_, work)| work).collect(),
            delivered_below: self.delivered_below,
        });
        self.committing.push_back(Arc::clone(&taken));
        self.is_dirty = !self.blocks.is_empty() || !self.work.is_empty();
        (taken, self.is_dirty)
    }

    /// The commit of what was taken is over. `true` when nothing is left to remember of the queue.
    pub(crate) fn committed(&mut self) -> bool {
        self.committing.pop_front();
        let is_idle = self.committing.is_empty() && self.blocks.is_empty();
        self.is_dropped && is_idle && self.work.is_empty()
    }

    /// What a reader has to know beside the rows on disk.
    pub(crate) fn look(&self, from: Sequence, limit_bytes: usize) -> Look {
        let mut look = Look {
            gone_below: if self.is_dropped {
                u64::MAX
            } else {
                self.gone_below
            },
            ..Look::default()
        };
        let committing = || self.committing.iter().map(Arc::as_ref);
        let works = committing()
            .flat_map(|taken| &taken.work)
            .chain(self.work.iter().map(|(_, work)| work));
        let settled = works.filter_map(|work| match work {
            Work::Settle(first, last) => Some((*first, *last)),
            Work::Purge(_) | Work::Drop => None,
        });
        look.settled = joined(settled.collect());
        let blocks = committing()
            .flat_map(|taken| &taken.blocks)
            .chain(&self.blocks);
        let mut bytes = 0;
        for (sequence, body) in blocks
            .flat_map(Block::live)
            .filter(|(sequence, _)| *sequence >= from)
        {
            if bytes > limit_bytes {
                break;
            }
            bytes += body.len() + SLOT_BYTES;
            look.waiting.push((sequence, body.to_vec()));
        }
        look
    }
}

/// One look at a line: bodies copied out, so that no lock is held while the disk is read.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Messages not on disk yet, from the sequence asked for, up to about the limit.
    pub(crate) waiting: Vec<(Sequence, Vec<u8>)>,
    /// Ranges on disk that are settled although the disk does not know it yet, sorted and apart.
    pub(crate) settled: Vec<(Sequence, Sequence)>,
    /// Everything below is gone.
    pub(crate) gone_below: u64,
}

impl Look {
    /// Whether a message found on disk is still alive.
    pub(crate) fn is_live(&self, sequence: Sequence) -> bool {
        let before = self
            .settled
            .partition_point(|(first, _)| *first <= sequence);
        let is_settled = before
            .checked_sub(1)
            .is_some_and(|at| self.settled[at].1 >= sequence);
        sequence.0 >= self.gone_below && !is_settled
    }
}

/// Sorts ranges and joins those that touch or overlap.
pub(crate) fn joined(mut ranges: Vec<(Sequence, Sequence)>) -> Vec<(Sequence, Sequence)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0.0 <= kept.1.0.saturating_add(1);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
    ranges
}

/// Keeps an emptied block for the next line that needs one.
pub(crate) fn recycle(mut block: Block, spare: &mut Vec<Block>) {
    const SPARE_BLOCKS: usize = 4;
    if spare.len() < SPARE_BLOCKS && block.is_reusable() {
        block.clear();
        spare.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(line: &mut Line, number: u64, urgency: Urgency, group: u64) {
        line.append(
            Sequence(number),
            (&[b"text"], urgency),
            group,
            &mut Vec::new(),
        );
    }

    #[test]
    fn an_awaited_message_of_a_closed_group_is_written_and_another_is_not() {
        let mut line = Line::default();
        append(&mut line, 1, Urgency::Confirmed, 7);
        append(&mut line, 2, Urgency::Eventually, 7);
        assert_eq!(
            line.elide(Sequence(1), 8, &mut Vec::new()),
            Elision::TooLate
        );
        assert_eq!(
            line.elide(Sequence(2), 8, &mut Vec::new()),
            Elision::Done { freed: 0 }
        );
        line.settle(Sequence(1), 8);
        let (taken, has_more) = line.take(7);
        let written: Vec<_> = taken
            .blocks
            .iter()
            .flat_map(Block::live)
            .map(|(sequence, _)| sequence)
            .collect();
        assert_eq!((written, has_more), (vec![Sequence(1)], true));
        assert_eq!(taken.work, []);
    }

    #[test]
    fn a_block_whose_messages_are_all_settled_gives_its_memory_back() {
        let mut line = Line::default();
        let mut spare = Vec::new();
        let mut held = 0;
        for number in 0..10_000 {
            held += line.append(
                Sequence(number),
                (&[&[7; 100]], Urgency::Eventually),
                1,
                &mut spare,
            );
            if let Elision::Done { freed } = line.elide(Sequence(number / 2), 1, &mut spare) {
                held -= freed;
            }
        }
        for number in 0..10_000 {
            if let Elision::Done { freed } = line.elide(Sequence(number), 1, &mut spare) {
                held -= freed;
            }
        }
        assert_eq!(held, 0);
        assert!(line.blocks.is_empty());
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_joined() {
        let range = |first, last| (Sequence(first), Sequence(last));
        let ranges = vec![
            range(5, 6),
            range(1, 2),
            range(3, 3),
            range(6, 9),
            range(20, 20),
        ];
        assert_eq!(joined(ranges), [range(1, 3), range(5, 9), range(20, 20)]);
    }
}
