//! The log: slot files, the segment that is written, and the switch to the next one.
//!
//! A slot is a file with a fixed name that holds one segment after the other. Dead segments are
//! marked free and synced before their slot may be written again ([`SpareSlots::free`]). The header
//! of a new segment, its snapshot and its first commit are one write and one sync.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, LogFile, is_no_room, lock, to_usize};
use crate::extent::{Extent, Segment, WrittenBody};
use crate::frame::{
    BLOCK, CRC, FrameBuilder, GroupHeads, Secret, SegmentHeader, SegmentState, group_crc, padded,
};
use crate::index::{FramePlace, Index, Tail};

/// Slots reserved for settlements and compaction, which free space. Two, because opening a store
/// takes one before it can free another.
const RESERVED: usize = 2;
/// A frame of one block in a slot that was never written takes so many bytes with it, the rest
/// zeros: the sync of a block that was never written also changes the extents of its file, and
/// takes twice as long. Only where a written block can be written again at 0 bytes free.
const AHEAD_BYTES: u64 = 64 * 1024;
/// Slots used before that are kept for the next segments.
const KEPT_FREE: usize = 4;
/// A large body is written in pieces of so many bytes.
const BODY_PIECE: usize = 1 << 20;

/// Slots that are not in use, shared by the committer and the tidying.
#[derive(Debug)]
pub(crate) struct SpareSlots {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) segment_bytes: u64,
    /// Zeros may be written ahead.
    writes_in_place: bool,
    /// Below this many free bytes no slot is created.
    least_free_bytes: u64,
    /// Those that were never written come first: they take writes on every file system when it is
    /// full. `true` for the others.
    ready: Mutex<Vec<(Arc<LogFile>, bool)>>,
    /// The segment being written is half full: a slot for the next one is prepared too.
    needs_next: AtomicBool,
    /// Number of the next slot file.
    next_slot: AtomicU64,
    /// Number of the next segment or large body.
    pub(crate) next_number: AtomicU64,
    /// Bytes of all slots and body files.
    pub(crate) bytes: AtomicU64,
}

/// What a frame is for: who may use the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FramePurpose {
    /// New messages leave the reserve alone.
    Messages,
    /// Settlements, purges, drops and copies take any slot.
    Relief,
}

impl SpareSlots {
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: &Path, bytes: u64, least_free: u64) -> Self {
        let writes_in_place = disk.writes_in_place(folder);
        Self {
            disk,
            writes_in_place,
            folder: folder.to_owned(),
            segment_bytes: bytes,
            least_free_bytes: least_free,
            ready: Mutex::default(),
            needs_next: AtomicBool::new(true),
            next_slot: AtomicU64::new(1),
            next_number: AtomicU64::new(1),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes note of a file that was found.
    pub(crate) fn found(&self, slot: u64, length: u64) {
        self.next_slot.fetch_max(slot + 1, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
    }

    /// Keeps a slot whose free mark is durable, or that was never written.
    pub(crate) fn keep(&self, file: Arc<LogFile>, was_written: bool) {
        let mut ready = lock(&self.ready);
        let at = if was_written { ready.len() } else { 0 };
        ready.insert(at, (file, was_written));
    }

    /// Creates a file and allocates its blocks. Its name is durable when this returns. Nothing that
    /// was written depends on it, so each failure counts as a want of room, which may pass.
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<LogFile>> {
        if self.disk.free_bytes(&self.folder) < self.least_free_bytes.saturating_add(length) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let path = self.folder.join(name);
        let created = self.disk.create(&path, length);
        let synced = created.and_then(|file| self.sync_names().map(|()| file));
        let file = synced.map_err(|error| {
            drop(self.disk.remove(&path));
            io::Error::new(io::ErrorKind::StorageFull, error)
        })?;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(Arc::new(LogFile { path, file, length }))
    }

    fn create_slot(&self, length: u64) -> io::Result<Arc<LogFile>> {
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
        self.create(&format!("{slot:06}.log"), length)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, file: &LogFile) -> io::Result<()> {
        self.disk.remove(&file.path)?;
        self.bytes.fetch_sub(file.length, Ordering::Relaxed);
        // A name that comes back after a power cut belongs to a segment without live messages.
        drop(self.sync_names());
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_folder(&self.folder)
    }

    /// Creates spares until there are enough, or the disk has no room for more.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        while !self.is_prepared() {
            self.keep(self.create_slot(self.segment_bytes)?, false);
        }
        Ok(())
    }

    /// Whether the reserve is whole, and a slot for the next segment is there if it is needed soon.
    pub(crate) fn is_prepared(&self) -> bool {
        let next = usize::from(self.needs_next.load(Ordering::Relaxed));
        let used = self.used_slots();
        let ready = lock(&self.ready).len();
        ready.saturating_sub(used) >= RESERVED && ready >= RESERVED + next
    }

    fn used_slots(&self) -> usize {
        let ready = lock(&self.ready);
        ready.iter().filter(|(_, was_written)| *was_written).count()
    }

    /// Bytes of the slots that messages may take, and of those that they leave alone.
    pub(crate) fn ready_bytes(&self) -> (u64, u64) {
        let ready = lock(&self.ready).len();
        let reserved = ready.min(RESERVED);
        let bytes = |slots: usize| slots as u64 * self.segment_bytes;
        (bytes(ready - reserved), bytes(reserved))
    }

    fn has_reserve(&self) -> bool {
        lock(&self.ready).len() >= RESERVED
    }

    /// A slot for a new segment: its file, and up to where that was written before; `true` when it
    /// is of the reserve, taken because no other can be had.
    fn take_slot(
        &self,
        length: u64,
        purpose: FramePurpose,
    ) -> io::Result<(Arc<LogFile>, u64, bool)> {
        let is_long = length > self.segment_bytes;
        if !is_long && self.ready_bytes().0 > 0 {
            let (file, written) = self.pop()?;
            return Ok((file, written, false));
        }
        match self.create_slot(length.max(self.segment_bytes)) {
            Err(_) if purpose == FramePurpose::Relief && !is_long => {
                let (file, written) = self.pop()?;
                Ok((file, written, true))
            }
            created => Ok((created?, 0, false)),
        }
    }

    fn pop(&self) -> io::Result<(Arc<LogFile>, u64)> {
        let slot = lock(&self.ready).pop();
        let (file, was_written) = slot.ok_or(io::ErrorKind::StorageFull)?;
        let written = if was_written { file.length } else { 0 };
        Ok((file, written))
    }

    /// Writes one large body to a file of its own, and makes it durable. `copy` fills a piece of it
    /// that begins at an offset; `false` gives up.
    pub(crate) fn write_body(
        &self,
        (queue, sequence, body_length): (u64, u64, usize),
        mut copy: impl FnMut(usize, &mut [u8]) -> bool,
    ) -> io::Result<WrittenBody> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let lengths = GroupHeads::pack(&[body_length as u64]);
        let heads = GroupHeads::new(sequence, 1, &lengths);
        let begin = BLOCK + CRC as u64;
        let length = padded(begin + body_length as u64);
        let file = self.create(&format!("body-{number:012}.log"), length)?;
        let header = SegmentHeader {
            number,
            length,
            state: SegmentState::Body,
            ..SegmentHeader::default()
        };
        let mut write = || {
            let (mut crc, mut buffer) = (group_crc(queue, heads, &[]), vec![0; BODY_PIECE]);
            for at in (0..body_length).step_by(BODY_PIECE) {
                let piece = &mut buffer[..BODY_PIECE.min(body_length - at)];
                if !copy(at, piece) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                crc = crc32c::crc32c_append(crc, piece);
                file.file.write_at(piece, begin + at as u64)?;
            }
            // Without a header the file counts as one that was never used.
            let first = [&header.encode()[..], &crc.to_le_bytes()].concat();
            file.write(&first, 0)
        };
        write().inspect_err(|_| drop(self.remove(&file)))?;
        let packed = Extent::pack(heads, BLOCK);
        Ok(WrittenBody {
            number,
            packed,
            file,
        })
    }

    /// Marks a dead segment free and keeps its slot, or removes a file that is not used again.
    pub(crate) fn free(&self, number: u64, file: &Arc<LogFile>, is_body: bool) -> io::Result<()> {
        let (length, has_enough) = (file.length, self.used_slots() >= KEPT_FREE);
        if is_body || length != self.segment_bytes || has_enough {
            return self.remove(file);
        }
        let header = SegmentHeader {
            number,
            length,
            ..SegmentHeader::default()
        };
        match file.write(&header.encode(), 0) {
            // Some file systems need room to write over what was written.
            Err(error) if is_no_room(&error) => self.remove(file),
            marked => marked.map(|()| self.keep(Arc::clone(file), true)),
        }
    }
}

/// Sixteen random bytes.
fn salt() -> io::Result<[u8; 16]> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    Ok(salt)
}

/// The segment that frames are appended to; the tail says where.
struct ActiveSegment {
    file: Arc<LogFile>,
    secret: Secret,
    /// Up to here the file was written before.
    written: u64,
    /// It was taken from the reserve: only what frees space is written to it until the reserve is
    /// whole again.
    is_reserve: bool,
}

/// Appends frames. Owned by the committer.
pub(crate) struct LogWriter {
    pub(crate) slots: Arc<SpareSlots>,
    pub(crate) index: Arc<Mutex<Index>>,
    active: Option<ActiveSegment>,
    tail: Tail,
    /// The next frame begins a new segment.
    is_sealed: bool,
    /// Large bodies whose frame is not written yet, by queue and sequence: a frame that found no
    /// room names them once there is some.
    bodies: BTreeMap<(u64, u64), WrittenBody>,
}

impl LogWriter {
    /// A log that begins a new segment with its first frame.
    pub(crate) fn new(slots: Arc<SpareSlots>, index: Arc<Mutex<Index>>) -> Self {
        let tail = lock(&index).tail;
        Self {
            slots,
            tail,
            index,
            active: None,
            is_sealed: false,
            bodies: BTreeMap::new(),
        }
    }

    /// Bytes left in the segment being written.
    pub(crate) fn segment_bytes_left(&self) -> u64 {
        let length = self.active.as_ref().map_or(0, |active| active.file.length);
        if self.is_sealed {
            0
        } else {
            length.saturating_sub(self.tail.end)
        }
    }

    fn is_half_full(&self) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| self.tail.end > active.file.length / 2)
    }

    /// Ends a segment that is half full, if the reserve is whole: only what is sealed can be
    /// emptied.
    pub(crate) fn seal(&mut self) -> bool {
        self.is_sealed |= self.is_half_full() && self.slots.has_reserve();
        self.is_sealed
    }

    /// Writes a frame, makes it durable and applies it to the index. A failed write or sync is
    /// never tried again in its segment: what that holds is unknown, and the next one says where it
    /// ended before. `true` when the frame began a new segment.
    pub(crate) fn write(
        &mut self,
        frame: &mut FrameBuilder,
        purpose: FramePurpose,
    ) -> io::Result<bool> {
        match self.try_write(frame, purpose) {
            Err(error) if !is_no_room(&error) => {
                let segment = self.tail.segment;
                tracing::error!(segment, %error, "the log failed; a new segment is tried");
                self.active = None;
                let again = self.try_write(frame, purpose);
                again.map_err(|_| io::Error::other(error))
            }
            outcome => outcome,
        }
    }

    fn try_write(&mut self, frame: &mut FrameBuilder, purpose: FramePurpose) -> io::Result<bool> {
        if let Some(active) = &mut self.active
            && active.is_reserve
            && purpose == FramePurpose::Messages
        {
            if !self.slots.has_reserve() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            active.is_reserve = false;
        }
        let commit = lock(&self.index).commit + 1;
        let begins = self.active.is_none() || self.segment_bytes_left() < frame.stride();
        let offset = if begins {
            self.begin_segment(frame, commit, purpose)?
        } else {
            self.append(frame, commit)?
        };
        let place = FramePlace::new(self.tail.segment, offset, commit);
        let needs_next = &self.slots.needs_next;
        needs_next.store(self.is_half_full(), Ordering::Relaxed);
        self.tail.next_number = self.slots.next_number.load(Ordering::Relaxed);
        let mut index = lock(&self.index);
        index.tail = self.tail;
        let applied = index.apply(frame.body(), place);
        if purpose == FramePurpose::Messages && !self.bodies.is_empty() {
            self.bodies.clear();
            // One whose message went while it waited for room has no name.
            index.segments.may_free = true;
        }
        applied.map_err(io::Error::other)?;
        Ok(begins)
    }

    fn append(&mut self, frame: &mut FrameBuilder, commit: u64) -> io::Result<u64> {
        let Some(active) = &mut self.active else {
            return Err(io::Error::other("no segment is being written"));
        };
        let (segment, offset, file) = (self.tail.segment, self.tail.end, &active.file);
        let mut bytes = frame.seal(&active.secret, segment, offset, commit);
        let end = offset + bytes.len() as u64;
        let mut ahead = Vec::new();
        let is_new = self.slots.writes_in_place && end > active.written;
        if is_new && bytes.len() as u64 == BLOCK {
            ahead.extend_from_slice(bytes);
            let rest = file.length.saturating_sub(offset);
            ahead.resize(to_usize(AHEAD_BYTES.min(rest)), 0);
            bytes = &ahead;
        }
        file.write(bytes, offset)?;
        active.written = active.written.max(offset + bytes.len() as u64);
        self.tail.end = end;
        Ok(offset)
    }

    /// Begins a new segment with a snapshot and this frame.
    fn begin_segment(
        &mut self,
        frame: &mut FrameBuilder,
        commit: u64,
        purpose: FramePurpose,
    ) -> io::Result<u64> {
        let mut snapshot = FrameBuilder::of(&lock(&self.index).snapshot_records());
        let length = BLOCK + snapshot.stride() + frame.stride();
        let (file, before, is_reserve) = self.slots.take_slot(padded(length), purpose)?;
        let segment = self.slots.next_number.fetch_add(1, Ordering::Relaxed);
        let header = SegmentHeader {
            number: segment,
            salt: salt()?,
            first_commit: commit,
            previous: self.tail.segment,
            previous_end: self.tail.end,
            length: file.length,
            state: SegmentState::Log,
        };
        let secret = Secret::new(&header.salt);
        let mut bytes = header.encode();
        bytes.extend_from_slice(snapshot.seal(&secret, segment, BLOCK, commit - 1));
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(frame.seal(&secret, segment, offset, commit));
        let written = file.write(&bytes, 0);
        if written.as_ref().is_err_and(is_no_room) {
            // Its header may be on the disk and say that the log went on from here.
            let freed = self.slots.free(segment, &file, false);
            if freed.and_then(|()| self.slots.sync_names()).is_err() {
                self.active = None;
                self.slots.keep(Arc::clone(&file), true);
            }
        }
        written?;
        (self.tail.segment, self.tail.end) = (segment, bytes.len() as u64);
        let segments = &mut lock(&self.index).segments;
        let inserted = Segment::new(Arc::clone(&file), false);
        segments.all.insert(segment, inserted);
        (segments.active, segments.may_free) = (segment, true);
        self.active = Some(ActiveSegment {
            file,
            secret,
            written: before.max(self.tail.end),
            is_reserve,
        });
        self.is_sealed = false;
        Ok(offset)
    }

    /// Writes one large body to a file of its own, once, and makes it durable. Returns the
    /// number of the file and the packed extent.
    pub(crate) fn write_body(
        &mut self,
        (queue, sequence): (u64, u64),
        body: &[u8],
    ) -> io::Result<(u64, Vec<u8>)> {
        if let Some(written) = self.bodies.get(&(queue, sequence)) {
            return Ok((written.number, written.packed.clone()));
        }
        let copy = |at: usize, piece: &mut [u8]| {
            piece.copy_from_slice(&body[at..at + piece.len()]);
            true
        };
        let written = self.slots.write_body((queue, sequence, body.len()), copy)?;
        lock(&self.index)
            .segments
            .add_body(written.number, Arc::clone(&written.file));
        let named = (written.number, written.packed.clone());
        self.bodies.insert((queue, sequence), written);
        Ok(named)
    }
}
