//! Compaction: copies the live messages of the emptiest segment to the end of the log, in small
//! pieces.
//!
//! A piece rides along with a commit, or is one of its own when nothing else is to do. It is
//! bounded by the bytes read, so that a confirm waits for at most one piece.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::disk::{LogFile, lock};
use crate::extent::Piece;
use crate::frame::{FrameBuilder, to_usize};
use crate::index::Index;
use crate::record::{Entries, group_crc};

/// Bytes read for one piece.
const PIECE_BYTES: u64 = 16 * 1024;

/// The segment that is emptied.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    victim: u64,
    /// Queues with messages in the victim.
    queues: Vec<u64>,
}

impl Compaction {
    /// Looks for a segment to empty, if less than half of the sealed bytes are live.
    pub(crate) fn choose(&mut self, index: &Index, from_bytes: u64) {
        if self.is_under_way() {
            return;
        }
        self.victim = 0;
        let sealed = || index.segments.sealed();
        let allocated: u64 = sealed().map(|(_, segment)| segment.file.length).sum();
        let live: u64 = sealed().map(|(_, segment)| segment.bytes).sum();
        if allocated < from_bytes || live >= allocated / 2 {
            return;
        }
        let candidates = sealed().filter(|(_, segment)| {
            let is_worth = segment.bytes < segment.file.length / 4 * 3;
            !segment.is_damaged && segment.live > 0 && is_worth
        });
        let emptiest =
            candidates.min_by_key(|(_, segment)| segment.bytes * 1024 / segment.file.length);
        if let Some((victim, _)) = emptiest {
            self.victim = victim;
            let queues = index.queues.iter();
            let inside =
                queues.filter(|(_, queue)| queue.runs.iter().any(|run| run.segment == victim));
            self.queues = inside.map(|(number, _)| *number).collect();
        }
    }

    /// Whether there is something to copy.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Whether a segment was emptied and none chosen since.
    pub(crate) fn is_over(&self) -> bool {
        self.victim > 0 && self.queues.is_empty()
    }

    /// Adds one piece of copies to a frame. What is damaged stays where it is.
    pub(crate) fn add_piece(&mut self, index: &Mutex<Index>, frame: &mut FrameBuilder) {
        let mut left = PIECE_BYTES;
        while let Some(number) = self.queues.last().copied() {
            let planned = {
                let index = lock(index);
                let segment = index.segments.all.get(&self.victim);
                segment
                    .zip(index.queues.get(&number))
                    .map(|(segment, queue)| {
                        let pieces = queue.plan(0, left, |run| run.segment == self.victim);
                        (pieces, Arc::clone(&segment.file))
                    })
            };
            for (piece, file) in planned
                .iter()
                .flat_map(|(pieces, file)| pieces.iter().map(move |piece| (piece, file)))
            {
                let data = read_group(file, number, piece);
                let mut index = lock(index);
                let (Some(data), Some(queue)) = (data, index.queues.get(&number)) else {
                    tracing::error!(
                        segment = self.victim,
                        queue = number,
                        "damaged messages cannot be moved"
                    );
                    if let Some(segment) = index.segments.all.get_mut(&self.victim) {
                        segment.is_damaged = true;
                    }
                    self.queues.clear();
                    return;
                };
                let entries = Entries::bodies(&data, piece.first).flatten();
                let live =
                    entries.filter(|entry| !queue.settled.contains(entry.sequence, entry.sequence));
                let bodies = live.map(|entry| (entry.sequence, &data[entry.range()]));
                frame.messages((number, queue.next), bodies);
                left = left.saturating_sub(piece.length);
                if left == 0 {
                    // The copies count from the next commit on; the rest of the queue follows then.
                    return;
                }
            }
            self.queues.pop();
        }
    }
}

/// Reads the data of a group and checks it; `None` where it is damaged.
pub(crate) fn read_group(file: &LogFile, queue: u64, piece: &Piece) -> Option<Bytes> {
    // The length comes from the log, which may be damaged.
    if piece.offset.checked_add(piece.length)? > file.file.length().ok()? {
        return None;
    }
    let mut bytes = vec![0; to_usize(piece.length.checked_add(4)?)];
    let read = file.read(&mut bytes, piece.offset.checked_sub(4)?).ok()?;
    let crc = u32::from_le_bytes(bytes[..4].try_into().ok()?);
    let is_sound = read == bytes.len() && crc == group_crc(queue, piece.first, &bytes[4..]);
    is_sound.then(|| Bytes::from(bytes).slice(4..))
}
