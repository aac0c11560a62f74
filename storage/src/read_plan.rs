//! A read that is planned at one time and made later: it finds the messages as they were when it
//! was planned, although they are settled, or their queue is dropped, meanwhile.
//!
//! The plan holds the files, so that their slots are not used again before it is dropped.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::LogFile;
use crate::extent::{ExtentRun, Ranges};
use crate::frame::Entry;
use crate::pending::QueueCopy;
use crate::terms::{QueueId, Sequence};

/// Which messages a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// About how many bytes are read in all.
    pub bytes: usize,
    /// Longer messages are left out. Where one lies alone, as large bodies do, it is not read.
    pub message_bytes: usize,
}

/// A read that is planned and not made yet.
#[derive(Debug)]
pub struct ReadPlan {
    queue: u64,
    from: u64,
    message_bytes: u64,
    groups: std::vec::IntoIter<(ExtentRun, Arc<LogFile>)>,
    /// What was settled when it was planned: by the index, and by what waited for its commit.
    settled: [Ranges; 2],
    waiting: Vec<(Sequence, Vec<u8>)>,
    bytes: usize,
}

impl ReadPlan {
    /// `copy` was made before `groups` were planned: what was committed in between is in both.
    pub(crate) fn new(
        (queue, from): (QueueId, Sequence),
        limit: ReadLimit,
        (groups, settled): (Vec<(ExtentRun, Arc<LogFile>)>, Ranges),
        copy: QueueCopy,
    ) -> Self {
        let after = groups.last().map_or(from.0, |(group, _)| group.last + 1);
        let message_bytes = limit.message_bytes as u64;
        let is_read = |(group, _): &(ExtentRun, _)| group.has_any_within(message_bytes);
        let groups: Vec<_> = groups.into_iter().filter(is_read).collect();
        let is_waiting = |(sequence, body): &(Sequence, Vec<u8>)| {
            sequence.0 >= after && body.len() <= limit.message_bytes
        };
        let waiting: Vec<_> = copy.waiting.into_iter().filter(is_waiting).collect();
        let stored: u64 = groups.iter().map(|(group, _)| group.cost()).sum();
        let bytes = waiting.iter().map(|(_, body)| body.len()).sum();
        Self {
            queue: queue.0,
            from: from.0,
            message_bytes,
            groups: groups.into_iter(),
            settled: [settled, copy.settled],
            waiting,
            bytes: usize::try_from(stored)
                .unwrap_or(usize::MAX)
                .saturating_add(bytes),
        }
    }

    /// About how many bytes it reads, those in memory included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the next messages, in order; `None` when there are no more. Waits for the disk. What
    /// is damaged is left out.
    pub fn read_next(&mut self) -> Option<Vec<(Sequence, Bytes)>> {
        let Some((group, file)) = self.groups.next() else {
            let waiting = std::mem::take(&mut self.waiting);
            let owned = |(sequence, body)| (sequence, Bytes::from(body));
            return (!waiting.is_empty()).then(|| waiting.into_iter().map(owned).collect());
        };
        let bodies = group.read_bodies(&file, self.queue);
        let entries = group.entries(group.first.max(self.from), group.last);
        let is_wanted = |sequence, length| {
            length <= self.message_bytes && !self.settled.iter().any(|all| all.has(sequence))
        };
        let read = bodies.map(|bodies| {
            let wanted = entries.filter(|entry| is_wanted(entry.sequence, entry.length));
            let body = |entry: Entry| (Sequence(entry.sequence), bodies.slice(entry.range()));
            wanted.map(body).collect()
        });
        Some(read.unwrap_or_default())
    }
}
