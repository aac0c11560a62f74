//! Compaction: copies the live messages of the emptiest segment to the end of the log, in small
//! pieces.
//!
//! A piece rides along with a commit, or is one of its own when nothing else is to do. It is
//! bounded by the bytes read, so that a confirm waits for at most one piece.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use crate::disk::{DiskFile, read_up_to};
use crate::extent::Piece;
use crate::frame::{FrameBuilder, GroupKind, group_crc, to_usize};
use crate::index::{Index, lock};

/// Bytes read for one piece.
const PIECE_BYTES: u64 = 16 * 1024;

/// The segment that is emptied.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    victim: u64,
    /// Queues with messages in the victim.
    queues: VecDeque<u64>,
}

impl Compaction {
    /// Looks for a segment to empty, if less than half of the sealed bytes are live.
    pub(crate) fn choose(&mut self, index: &Index, active: u64, from_bytes: u64) {
        if !self.queues.is_empty() {
            return;
        }
        let sealed = || {
            index
                .segments
                .iter()
                .filter(|(number, segment)| **number < active && !segment.is_body)
        };
        let allocated: u64 = sealed().map(|(_, segment)| segment.file.length).sum();
        let live: u64 = sealed().map(|(_, segment)| segment.bytes).sum();
        if allocated < from_bytes || live >= allocated / 2 {
            return;
        }
        let emptiest = sealed()
            .filter(|(_, segment)| !segment.is_damaged && segment.live > 0)
            .min_by_key(|(_, segment)| segment.bytes * 1024 / segment.file.length.max(1));
        let Some((victim, segment)) = emptiest else {
            return;
        };
        if segment.bytes >= segment.file.length / 4 * 3 {
            return;
        }
        self.victim = *victim;
        self.queues = index
            .queues
            .iter()
            .filter(|(_, queue)| queue.runs.iter().any(|run| run.segment == self.victim))
            .map(|(number, _)| *number)
            .collect();
    }

    /// Whether there is something to copy.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Adds one piece of copies to a frame. What is damaged stays where it is.
    pub(crate) fn add_piece(&mut self, index: &Mutex<Index>, frame: &mut FrameBuilder) {
        let mut left = PIECE_BYTES;
        let mut first = None;
        while let Some(queue) = self.queues.front().copied() {
            let (pieces, file) = {
                let index = lock(index);
                let Some(segment) = index.segments.get(&self.victim) else {
                    self.queues.clear();
                    return;
                };
                (
                    self.pieces(&index, queue, left),
                    std::sync::Arc::clone(&segment.file),
                )
            };
            if pieces.is_empty() {
                self.queues.pop_front();
                continue;
            }
            for piece in pieces {
                if left == 0 {
                    return;
                }
                left = left.saturating_sub(piece.length);
                let Some(data) = read_group(file.file.as_ref(), queue, &piece) else {
                    tracing::error!(
                        segment = self.victim,
                        queue,
                        "damaged messages cannot be moved"
                    );
                    if let Some(segment) = lock(index).segments.get_mut(&self.victim) {
                        segment.is_damaged = true;
                    }
                    self.queues.clear();
                    return;
                };
                let entries = piece
                    .wanted
                    .iter()
                    .map(|entry| (entry.sequence, &data[Piece::range(entry)]));
                frame.messages(
                    GroupKind::Copies,
                    (queue, piece.wanted[0].sequence),
                    entries,
                );
            }
            if left == 0 {
                return;
            }
            // The copies count from the next commit on: until then this queue would be copied
            // again.
            first = first.or(Some(queue));
            self.queues.rotate_left(1);
            if self.queues.front().copied() == first {
                return;
            }
        }
    }

    /// The first groups of a queue in the victim.
    fn pieces(&self, index: &Index, queue: u64, limit: u64) -> Vec<Piece> {
        let Some(queue) = index.queues.get(&queue) else {
            return Vec::new();
        };
        let Some(run) = queue.runs.iter().find(|run| run.segment == self.victim) else {
            return Vec::new();
        };
        let mut pieces = queue.plan((run.from, limit), |sequence| sequence <= run.to);
        pieces.retain(|piece| piece.segment == self.victim);
        pieces
    }
}

/// Reads the data of a group and checks it; `None` where it is damaged.
pub(crate) fn read_group(file: &dyn DiskFile, queue: u64, piece: &Piece) -> Option<Bytes> {
    // The length comes from the log, which may be damaged.
    if piece.offset.checked_add(piece.length)? > file.length().ok()? {
        return None;
    }
    let mut bytes = vec![0; to_usize(piece.length.checked_add(4)?)];
    let read = read_up_to(file, &mut bytes, piece.offset.checked_sub(4)?).ok()?;
    if read < bytes.len() {
        return None;
    }
    let crc = u32::from_le_bytes(bytes[..4].try_into().ok()?);
    if crc != group_crc(queue, piece.first, &bytes[4..]) {
        return None;
    }
    Some(Bytes::from(bytes).slice(4..))
}
