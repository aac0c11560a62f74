//! The log: slot files, the segment that is written, and the switch to the next one.
//!
//! A slot is a file with a fixed name that holds one segment after the other. Dead segments are
//! marked free and synced before their slot may be written again ([`Slots::free`]). The header of a
//! new segment, its snapshot and its first commit are one write and one sync.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, is_no_room};
use crate::extent::{Segment, SegmentFile};
use crate::frame::{
    BLOCK, FrameBuilder, Secret, SegmentHeader, State, group_crc, padded, push_varint,
};
use crate::index::{Index, Place, lock};
use crate::terms::Stopped;

/// Never-written slots that messages leave to what frees space. Two, because an opening takes one
/// before it can free another.
const RESERVED: usize = 2;
/// Free slots that are kept beyond that.
const KEPT_FREE: usize = 4;

/// Slots that are not in use, shared by the committer and the keeper.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) segment_bytes: u64,
    /// Below this many free bytes no slot is created.
    pub(crate) least_free_bytes: u64,
    ready: Mutex<Ready>,
    /// The segment being written is half full: a slot for the next one is prepared too.
    needs_next: AtomicBool,
    /// Number of the next slot file.
    next_slot: AtomicU64,
    /// Bytes of all slots and body files.
    pub(crate) bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Ready {
    /// Marked free, used before.
    free: Vec<Arc<SegmentFile>>,
    /// Allocated and never written.
    spares: Vec<Arc<SegmentFile>>,
}

impl Ready {
    fn count(&self) -> usize {
        self.free.len() + self.spares.len()
    }

    /// Slots that were used before come first: those that were not take writes on every file system
    /// when it is full.
    fn next(&mut self) -> Option<Arc<SegmentFile>> {
        let spare = |spares: &mut Vec<_>| (!spares.is_empty()).then(|| spares.remove(0));
        self.free.pop().or_else(|| spare(&mut self.spares))
    }
}

/// What a new segment is for: who may take the last spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New messages leave the reserve alone.
    Messages,
    /// Settlements, purges, drops and copies take any slot.
    Relief,
}

/// Why something was not written.
#[derive(Debug)]
pub(crate) enum LogError {
    /// No room, or read-only: it may be tried again.
    NoRoom,
    /// It failed twice; nothing more is promised.
    Failed(Stopped),
}

impl Slots {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        folder: &Path,
        (segment_bytes, least_free_bytes): (u64, u64),
    ) -> Self {
        Self {
            disk,
            folder: folder.to_owned(),
            segment_bytes,
            least_free_bytes,
            ready: Mutex::default(),
            needs_next: AtomicBool::new(true),
            next_slot: AtomicU64::new(1),
            bytes: AtomicU64::new(0),
        }
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a slot file that was found.
    pub(crate) fn found(&self, slot: u64, length: u64) {
        self.next_slot.fetch_max(slot + 1, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
    }

    /// Keeps a slot whose free mark is durable, or that was never written.
    pub(crate) fn keep(&self, file: Arc<SegmentFile>, was_written: bool) {
        let mut ready = self.ready();
        if was_written {
            ready.free.push(file);
        } else {
            ready.spares.push(file);
        }
    }

    /// Creates a slot file. Its name is durable when this returns.
    fn create(&self, length: u64) -> io::Result<Arc<SegmentFile>> {
        if self.disk.free_bytes(&self.folder) < self.least_free_bytes.saturating_add(length) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
        self.create_file(&self.folder.join(format!("{slot:06}.log")), length)
    }

    fn create_file(&self, path: &Path, length: u64) -> io::Result<Arc<SegmentFile>> {
        let created = self.disk.create(path, length);
        let synced = created.and_then(|file| {
            self.disk.sync_folder(&self.folder)?;
            Ok(file)
        });
        match synced {
            Ok(file) => {
                self.bytes.fetch_add(length, Ordering::Relaxed);
                Ok(Arc::new(SegmentFile {
                    path: path.to_owned(),
                    file,
                    length,
                }))
            }
            Err(error) => {
                let _ = self.disk.remove(path);
                Err(error)
            }
        }
    }

    /// Creates spares until there are enough, or the disk has no room for more.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        while !self.is_prepared() {
            let spare = self.create(self.segment_bytes)?;
            self.ready().spares.push(spare);
        }
        Ok(())
    }

    /// Whether the reserve is whole, and a slot for the next segment is there if it is needed soon.
    pub(crate) fn is_prepared(&self) -> bool {
        let next = usize::from(self.needs_next.load(Ordering::Relaxed));
        let ready = self.ready();
        ready.spares.len() >= RESERVED && ready.count() >= RESERVED + next
    }

    /// Bytes of the slots that messages may take.
    pub(crate) fn next_bytes(&self) -> u64 {
        self.ready().count().saturating_sub(RESERVED) as u64 * self.segment_bytes
    }

    /// Bytes of the slots that messages leave alone.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.ready().count().min(RESERVED) as u64 * self.segment_bytes
    }

    /// A slot for a new segment; `true` when it is of the reserve, taken because no other can be
    /// had.
    fn take(&self, length: u64, purpose: Purpose) -> io::Result<(Arc<SegmentFile>, bool)> {
        if length > self.segment_bytes {
            return Ok((self.create(length)?, false));
        }
        if self.ready().count() > RESERVED
            && let Some(file) = self.ready().next()
        {
            return Ok((file, false));
        }
        match (self.create(self.segment_bytes), purpose) {
            (Ok(file), _) => Ok((file, false)),
            (Err(error), Purpose::Messages) => Err(error),
            (Err(error), Purpose::Relief) => Ok((self.ready().next().ok_or(error)?, true)),
        }
    }

    /// Marks dead segments free, in rising order, and keeps their slots, or removes the files that
    /// are not used again.
    ///
    /// Ends at the first that fails and gives back the rest: a later one may hold the acks of an
    /// earlier one.
    pub(crate) fn free(&self, dead: Vec<(u64, Segment)>) -> Result<(), Unfreed> {
        let mut dead = dead.into_iter().peekable();
        let mut has_removed = false;
        while let Some((number, segment)) = dead.peek() {
            match self.free_one(*number, segment) {
                Ok(is_removed) => has_removed |= is_removed,
                Err(error) => return Err(Unfreed(dead.collect(), error)),
            }
            dead.next();
        }
        if has_removed {
            // A name that comes back after a power cut belongs to a segment without live messages.
            let _ = self.disk.sync_folder(&self.folder);
        }
        Ok(())
    }

    /// `true` when the file was removed.
    fn free_one(&self, number: u64, segment: &Segment) -> io::Result<bool> {
        let file = &segment.file;
        if segment.is_body
            || file.length != self.segment_bytes
            || self.ready().free.len() >= KEPT_FREE
        {
            self.disk.remove(&file.path)?;
            self.bytes.fetch_sub(file.length, Ordering::Relaxed);
            return Ok(true);
        }
        let header = SegmentHeader {
            number,
            salt: [0; 16],
            first_commit: 0,
            previous: 0,
            previous_end: 0,
            previous_commit: 0,
            length: file.length,
            state: State::Free,
        };
        file.file.write_at(&header.encode(), 0)?;
        file.file.sync()?;
        self.keep(Arc::clone(file), true);
        Ok(false)
    }
}

/// Dead segments that could not be freed, and why.
pub(crate) struct Unfreed(pub(crate) Vec<(u64, Segment)>, pub(crate) io::Error);

/// Sixteen random bytes.
fn salt() -> io::Result<[u8; 16]> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(salt)
}

/// The segment that frames are appended to.
#[derive(Debug)]
struct Active {
    number: u64,
    file: Arc<SegmentFile>,
    secret: Secret,
    end: u64,
    /// It was taken from the reserve: only what frees space is written to it until the reserve is
    /// whole again.
    is_reserve: bool,
}

/// What the header of the next segment says of the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) number: u64,
    pub(crate) end: u64,
}

/// Appends frames. Owned by the committer.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) slots: Arc<Slots>,
    active: Option<Active>,
    tail: Tail,
    next_number: u64,
    snapshot: FrameBuilder,
    /// Large bodies whose frame is not written yet: they must not be taken for dead.
    bodies: Vec<Arc<SegmentFile>>,
}

impl Log {
    /// A log that begins a new segment with its first frame.
    pub(crate) fn new(slots: Arc<Slots>, tail: Tail, next_number: u64) -> Self {
        Self {
            slots,
            active: None,
            tail,
            next_number,
            snapshot: FrameBuilder::default(),
            bodies: Vec::new(),
        }
    }

    /// Number of the segment being written; everything older may be freed. 0 before the first
    /// frame.
    pub(crate) fn active(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.number)
    }

    /// Bytes left in the segment being written.
    pub(crate) fn rest(&self) -> u64 {
        self.active
            .as_ref()
            .map_or(0, |active| active.file.length - active.end)
    }

    /// Whether nothing more than what frees space fits: the segment is nearly full, and the reserve
    /// is whole.
    pub(crate) fn should_seal(&self) -> bool {
        let active = self.active.as_ref();
        let is_nearly_full = active.is_some_and(|active| active.end > active.file.length / 2);
        is_nearly_full && self.slots.ready().count() >= RESERVED
    }

    /// The next frame begins a new segment.
    pub(crate) fn seal(&mut self) {
        if let Some(active) = &mut self.active {
            active.end = active.file.length;
        }
    }

    /// Where the next frame will be, and the number of the next segment.
    pub(crate) fn position(&self) -> (Tail, u64) {
        (self.tail, self.next_number)
    }

    /// Writes a frame and makes it durable. `true` when that began a new segment.
    pub(crate) fn write(
        &mut self,
        frame: &mut FrameBuilder,
        commit: u64,
        purpose: Purpose,
        index: &Mutex<Index>,
    ) -> Result<(Place, bool), LogError> {
        if let Some(active) = &mut self.active
            && active.is_reserve
            && purpose == Purpose::Messages
        {
            if self.slots.ready().count() < RESERVED {
                return Err(LogError::NoRoom);
            }
            active.is_reserve = false;
        }
        if let Some(active) = &mut self.active
            && active.end + frame.stride() <= active.file.length
        {
            let bytes = frame.seal(&active.secret, active.number, active.end, commit);
            let file = &active.file.file;
            match file.write_at(bytes, active.end).and_then(|()| file.sync()) {
                Ok(()) => {
                    let place = Place {
                        segment: active.number,
                        offset: active.end,
                        commit,
                    };
                    active.end += bytes.len() as u64;
                    self.tail.end = active.end;
                    let is_half_full = active.end > active.file.length / 2;
                    self.slots.needs_next.store(is_half_full, Ordering::Relaxed);
                    return Ok((place, false));
                }
                Err(error) if is_no_room(&error) => return Err(LogError::NoRoom),
                Err(error) => {
                    // What this descriptor holds is unknown: the next segment says that it ended
                    // before.
                    tracing::error!(segment = active.number, %error, "the log could not be written; going on in a new segment");
                    self.active = None;
                    return self.begin(frame, commit, purpose, index).map_err(
                        |failed| match failed {
                            LogError::NoRoom => LogError::Failed(stopped(&error)),
                            LogError::Failed(stopped) => LogError::Failed(stopped),
                        },
                    );
                }
            }
        }
        self.begin(frame, commit, purpose, index)
            .or_else(|error| match error {
                // The slot may be the one that fails: one other is tried.
                LogError::Failed(_) => self.begin(frame, commit, purpose, index),
                LogError::NoRoom => Err(LogError::NoRoom),
            })
    }

    /// Begins a new segment with a snapshot and this frame.
    fn begin(
        &mut self,
        frame: &mut FrameBuilder,
        commit: u64,
        purpose: Purpose,
        index: &Mutex<Index>,
    ) -> Result<(Place, bool), LogError> {
        self.snapshot.clear();
        self.snapshot
            .snapshot(|out| lock(index).write_snapshot(out, true));
        let length = BLOCK + self.snapshot.stride() + frame.stride();
        let (file, is_reserve) = self
            .slots
            .take(padded(length), purpose)
            .map_err(log_error)?;
        let header = SegmentHeader {
            number: self.next_number,
            salt: salt().map_err(log_error)?,
            first_commit: commit,
            previous: self.tail.number,
            previous_end: self.tail.end,
            previous_commit: commit.saturating_sub(1),
            length: file.length,
            state: State::Log,
        };
        self.next_number += 1;
        let secret = Secret::new(&header.salt);
        let mut bytes = header.encode();
        let before = commit.saturating_sub(1);
        bytes.extend_from_slice(self.snapshot.seal(&secret, header.number, BLOCK, before));
        self.snapshot.clear();
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(frame.seal(&secret, header.number, offset, commit));
        self.write_first(&file, &bytes)?;
        let segment = Segment::new(Arc::clone(&file), false);
        {
            let mut index = lock(index);
            index.segments.insert(header.number, segment);
            index.may_free = true;
        }
        self.tail = Tail {
            number: header.number,
            end: bytes.len() as u64,
        };
        let is_half_full = self.tail.end > file.length / 2;
        self.slots.needs_next.store(is_half_full, Ordering::Relaxed);
        self.active = Some(Active {
            number: header.number,
            file,
            secret,
            end: self.tail.end,
            is_reserve,
        });
        let place = Place {
            segment: header.number,
            offset,
            commit,
        };
        Ok((place, true))
    }

    /// Writes the first bytes of a segment and makes them durable.
    fn write_first(&self, file: &Arc<SegmentFile>, bytes: &[u8]) -> Result<(), LogError> {
        let written = file.file.write_at(bytes, 0);
        match written.and_then(|()| file.file.sync()) {
            Ok(()) => Ok(()),
            Err(error) if is_no_room(&error) => {
                // Its number is not in the chain, so whatever was written does not count.
                self.slots.keep(Arc::clone(file), true);
                Err(LogError::NoRoom)
            }
            Err(error) => Err(LogError::Failed(stopped(&error))),
        }
    }

    /// The frame that names the large bodies is applied.
    pub(crate) fn release_bodies(&mut self) {
        self.bodies.clear();
    }

    /// Writes one large body to a file of its own and makes it durable. Returns the number of the
    /// file.
    pub(crate) fn write_body(
        &mut self,
        (queue, sequence): (u64, u64),
        body: &[u8],
        index: &Mutex<Index>,
    ) -> Result<u64, LogError> {
        let number = self.next_number;
        let mut prefix = Vec::with_capacity(16);
        push_varint(&mut prefix, body.len() as u64);
        let length = BLOCK + padded(4 + (prefix.len() + body.len()) as u64);
        let slots = &self.slots;
        if slots.disk.free_bytes(&slots.folder) < slots.least_free_bytes.saturating_add(length) {
            return Err(LogError::NoRoom);
        }
        let path = slots.folder.join(format!("body-{number:012}.log"));
        let file = slots.create_file(&path, length).map_err(log_error)?;
        let header = SegmentHeader {
            number,
            salt: salt().map_err(log_error)?,
            first_commit: 0,
            previous: 0,
            previous_end: 0,
            previous_commit: 0,
            length,
            state: State::Body,
        };
        let crc = crc32c::crc32c_append(group_crc(queue, sequence, &prefix), body);
        let mut first = header.encode();
        first.extend_from_slice(&crc.to_le_bytes());
        first.extend_from_slice(&prefix);
        let at = first.len() as u64;
        let written = file
            .file
            .write_at(&first, 0)
            .and_then(|()| file.file.write_at(body, at))
            .and_then(|()| file.file.sync());
        if let Err(error) = written {
            let _ = slots.disk.remove(&path);
            slots.bytes.fetch_sub(length, Ordering::Relaxed);
            return Err(log_error(error));
        }
        self.next_number += 1;
        self.bodies.push(Arc::clone(&file));
        let segment = Segment::new(file, true);
        lock(index).segments.insert(number, segment);
        Ok(number)
    }
}

fn stopped(error: &io::Error) -> Stopped {
    Stopped::because(error.to_string())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function for `map_err`"
)]
fn log_error(error: io::Error) -> LogError {
    if is_no_room(&error) {
        LogError::NoRoom
    } else {
        LogError::Failed(stopped(&error))
    }
}
