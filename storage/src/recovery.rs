//! From files to a running index: the last checkpoint, then the frames of the log behind it.
//!
//! Without a usable checkpoint `definitions.json` and all segments are read instead. Damage never
//! prevents a start: what it took is counted by queue, reported, and set aside.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::checkpoint::{CheckpointMeta, CheckpointRows};
use crate::disk::{LogFile, is_refused, kept_text, set_aside, to_usize};
use crate::extent::Segment;
use crate::frame::{
    BLOCK, FRAME_HEADER, FrameHeader, SECOND_COPY, Secret, SegmentHeader, SegmentState, VERSION,
    padded,
};
use crate::index::{FramePlace, Index};
use crate::log::SpareSlots;
use crate::terms::{OpenError, OpenReport, Options};

/// A store as it was found.
pub(crate) struct RecoveredStore {
    pub(crate) index: Index,
    pub(crate) slots: SpareSlots,
    pub(crate) rows: CheckpointRows,
    pub(crate) report: OpenReport,
}

/// A segment of the log that is in use.
type LogSegment = (SegmentHeader, Arc<LogFile>);

struct Recovery<'a> {
    folder: &'a Path,
    options: &'a Options,
    index: Index,
    rows: CheckpointRows,
    slots: SpareSlots,
    /// Segments of the log by number.
    chain: BTreeMap<u64, LogSegment>,
    next_number: u64,
    report: OpenReport,
    /// The version of a segment that another program has written.
    foreign: Option<u16>,
    /// One segment's bytes, used again for the next.
    buffer: Vec<u8>,
}

/// Opens whatever is in the folder. Its lock must be held.
pub(crate) fn open(folder: &Path, options: &Options) -> Result<RecoveredStore, OpenError> {
    let owned = || folder.to_owned();
    let failed = |doing| OpenError::io(folder, doing);
    let disk = options.disk.as_ref();
    let log_folder = folder.join("log");
    let entries = disk.list(folder).map_err(failed("listed"))?;
    let is_here = |name: &&str| entries.contains(&folder.join(name));
    if ["rows", "journal", "witness"].iter().any(is_here) {
        return Err(OpenError::OldFormat { folder: owned() });
    }
    let prepared = disk.create_folder(&log_folder).and_then(|()| {
        disk.sync_folder(folder.parent().unwrap_or(folder))?;
        disk.sync_folder(folder)?;
        disk.sync_folder(&log_folder)
    });
    prepared.map_err(failed("created"))?;
    let (disk, least_free) = (Arc::clone(&options.disk), options.least_free_bytes / 4);
    let mut recovery = Recovery {
        folder,
        options,
        index: Index::default(),
        rows: CheckpointRows::new(folder, options),
        slots: SpareSlots::new(disk, &log_folder, options.segment_bytes, least_free),
        chain: BTreeMap::new(),
        next_number: 1,
        report: OpenReport::default(),
        foreign: None,
        buffer: Vec::new(),
    };
    recovery.find_segments().map_err(failed("read"))?;
    if let Some(found) = recovery.foreign {
        let (folder, known) = (owned(), VERSION);
        if found < known {
            return Err(OpenError::OldFormat { folder });
        }
        return Err(OpenError::Newer {
            folder,
            found,
            known,
        });
    }
    recovery.drop_void_segments();
    recovery.restore().map_err(failed("read"))?;
    recovery.keep_unnamed_bodies();
    Ok(recovery.finish())
}

impl Recovery<'_> {
    /// Opens every file of the log and reads its header.
    fn find_segments(&mut self) -> io::Result<()> {
        let disk = Arc::clone(&self.slots.disk);
        for path in disk.list(&self.slots.folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(".log").unwrap_or_default();
            let number = name.strip_prefix("body-").map(str::parse::<u64>);
            let slot = match (name.parse(), number) {
                (Ok(slot), _) => slot,
                (_, Some(Ok(number))) => {
                    self.note_used_number(number);
                    0
                }
                _ => continue,
            };
            let open = || disk.open(&path).and_then(|file| Ok((file.length()?, file)));
            // A failure may pass.
            let opened = open().or_else(|_| open());
            let length = opened.as_ref().map_or(0, |(length, _)| *length);
            self.slots.found(slot, length);
            let place = path.display();
            let unreadable = |error| format!("{place} cannot be opened: {error}");
            match opened {
                // What is in it is whole: it must not count as lost.
                Err(error) if is_refused(&error) => return Err(error),
                Err(error) => self.report.lost(unreadable(error)),
                Ok((length, file)) => self.found(Arc::new(LogFile { path, file, length })),
            }
        }
        Ok(())
    }

    /// A segment or a large body had this number: it is not used again.
    fn note_used_number(&mut self, number: u64) {
        self.next_number = self.next_number.max(number.saturating_add(1));
    }

    /// Sorts a file by its header.
    fn found(&mut self, file: Arc<LogFile>) {
        let mut block = vec![0; to_usize(BLOCK.min(file.length))];
        let is_read = file.read_pieces(&mut block, 0, SECOND_COPY).is_ok();
        self.foreign = self.foreign.or(SegmentHeader::foreign_version(&block));
        let whole = file.length == self.slots.segment_bytes;
        match SegmentHeader::parse(&block) {
            _ if self.foreign.is_some() => {}
            None if is_read && block.iter().all(|byte| *byte == 0) => self.found_unused(file),
            None => self.put_aside(&file, "has no readable header"),
            Some(header) => self.found_segment(header, file, whole),
        }
    }

    fn found_segment(&mut self, header: SegmentHeader, file: Arc<LogFile>, is_whole: bool) {
        let number = header.number;
        self.note_used_number(number);
        let segments = &mut self.index.segments.all;
        match header.state {
            SegmentState::Free if is_whole => self.slots.keep(file, true),
            SegmentState::Free => drop(self.slots.remove(&file)),
            _ if segments.contains_key(&number) => self.put_aside(&file, "is a double of another"),
            state => {
                let is_body = state == SegmentState::Body;
                segments.insert(number, Segment::new(Arc::clone(&file), is_body));
                let (path, was, length) = (file.path.display(), header.length, file.length);
                if length < was && !is_body {
                    let line = format!("{path} was cut from {was} to {length} bytes");
                    self.report.repaired(line);
                }
                if !is_body {
                    self.chain.insert(number, (header, file));
                }
            }
        }
    }

    /// A slot whose header block was never written. Frames without one belong to a first write that
    /// was cut short.
    fn found_unused(&mut self, file: Arc<LogFile>) {
        let (path, length) = (file.path.display(), file.length);
        if length != self.slots.segment_bytes {
            let what = "bytes and nothing in them: it is not needed";
            self.report.repaired(format!("{path} has {length} {what}"));
            return drop(self.slots.remove(&file));
        }
        let mut head = [0; 64];
        let was_written = file.read(&mut head, BLOCK).is_err() || head != [0; 64];
        if was_written {
            let line = format!("the first write of {path} was cut short: it was never in use");
            self.report.repaired(line);
        }
        self.slots.keep(file, was_written);
    }

    /// Puts a file under `set-aside/`. Where that fails, on a read-only disk say, it stays where it
    /// is, and is not used.
    fn put_aside(&mut self, file: &LogFile, why: &str) {
        let aside = set_aside(self.slots.disk.as_ref(), self.folder, &file.path);
        if aside.is_ok() {
            self.slots.bytes.fetch_sub(file.length, Ordering::Relaxed);
        }
        let (path, kept) = (file.path.display(), kept_text(aside));
        self.report.lost(format!("{path} {why}; it is {kept}"));
    }

    /// Segments whose first write failed: a later one says that it follows an earlier one.
    fn drop_void_segments(&mut self) {
        let mut newest = u64::MAX;
        let chain = std::mem::take(&mut self.chain).into_iter().rev();
        let follows = |(number, (header, _)): &(u64, LogSegment)| {
            let counts = *number <= newest;
            if counts {
                newest = header.previous;
            }
            counts
        };
        self.chain = chain.filter(follows).collect();
    }

    /// Loads the last checkpoint, or the definitions alone, and replays the log behind it.
    fn restore(&mut self) -> io::Result<()> {
        match self.rows.open(&mut self.index) {
            Ok(note) => self.report.repairs.extend(note),
            Err(error) => self.report.repaired(format!(
                "the index could not be opened ({error}); the log is read instead"
            )),
        }
        let commit = self.rows.meta.commit;
        if commit == 0 {
            self.load_definitions()?;
        }
        self.replay()?;
        if self.index.checkpointed_definitions > commit && commit > 0 {
            let what = "the index is older than the log expects; the log was read instead";
            self.report.repaired(what);
            self.index.clear();
            self.rows.meta = CheckpointMeta::default();
            self.load_definitions()?;
            self.replay()?;
        }
        // `definitions.json` can be newer than what is left of the log. What is defined from now on
        // is newer than both.
        self.index.commit = self.index.commit.max(self.index.definitions_commit);
        Ok(())
    }

    fn load_definitions(&mut self) -> io::Result<()> {
        let (index, report) = (&mut self.index, &mut self.report);
        self.rows.load_definitions(index, report)
    }

    /// Applies the frames behind the checkpoint, segment by segment. What a killed process had not
    /// synced may be in the kernel's cache alone, so what is applied is made durable before
    /// the store builds on it.
    fn replay(&mut self) -> io::Result<()> {
        let chain = std::mem::take(&mut self.chain);
        let start = self.index.tail;
        let mut segments = chain.range(start.segment..).peekable();
        while let Some((number, segment)) = segments.next() {
            // Where the next segment says that this one ended.
            let next = segments.peek().map(|(_, (next, _))| next);
            let next = next.filter(|next| next.previous == *number);
            let bound = next.map(|next| next.previous_end);
            let is_start = *number == start.segment;
            let from = if is_start { start.end } else { BLOCK };
            let end = self.replay_segment(segment, from, bound);
            (self.index.tail.segment, self.index.tail.end) = (*number, end);
            let (_, file) = segment;
            file.file.sync()?;
        }
        self.chain = chain;
        Ok(())
    }

    /// Reads a whole segment.
    fn read_segment(&mut self, file: &LogFile) -> Vec<u8> {
        // What the segment before has left in it does not fit this one's sums.
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.resize(to_usize(file.length), 0);
        if let Err(error) = file.read_pieces(&mut bytes, 0, to_usize(BLOCK)) {
            let line = format!("{}: {error}", file.path.display());
            self.report.lost(line);
        }
        bytes
    }

    /// Applies the frames of one segment from an offset on. Returns the offset behind the last.
    fn replay_segment(
        &mut self,
        (header, file): &LogSegment,
        from: u64,
        bound: Option<u64>,
    ) -> u64 {
        let (bytes, secret) = (self.read_segment(file), Secret::new(&header.salt));
        let segment = header.number;
        let limit = bound.unwrap_or(u64::MAX);
        let frame_at = |at| {
            let bytes = bytes.get(to_usize(at)..)?;
            Some((at, FrameHeader::parse(bytes, &secret, segment, at)?))
        };
        // Headers from an offset on. Only block boundaries are looked at, and no bodies.
        let behind = |from| {
            let places = (from..limit.min(padded(bytes.len() as u64))).step_by(to_usize(BLOCK));
            places.filter_map(frame_at)
        };
        let mut at = from;
        while at < limit {
            let found = frame_at(at).map(|(_, frame)| frame);
            let next = || behind(at + BLOCK).next().map(|(at, _)| at).or(bound);
            let end = found.map(|frame| at.saturating_add(frame.stride()));
            let Some(end) = end.or_else(next) else {
                break;
            };
            let body = found.and_then(|frame| {
                let from = to_usize(at) + FRAME_HEADER;
                let body = bytes.get(from..from.saturating_add(to_usize(frame.length)))?;
                frame.matches(body, &secret).then_some((frame.commit, body))
            });
            let is_newer = |(_, frame): (u64, FrameHeader)| frame.commit > header.first_commit;
            if let Some((commit, body)) = body {
                let place = FramePlace::new(segment, at, commit);
                if self.index.apply(body, place).is_err() {
                    self.damaged(segment, (at, end), &bytes);
                }
            } else if at == BLOCK && !behind(at + BLOCK).any(is_newer) {
                // The snapshot may be bad and the first commit whole, which counts all the same.
                self.report.repaired(format!(
                    "the snapshot of segment {segment} is not whole: its first write was cut short"
                ));
            } else if let Some(frame) = found
                && bound.is_none_or(|bound| bound < end)
                && behind(end).next().is_none()
            {
                self.report.repaired(format!(
                    "commit {} at the end of the log was not whole: it was never confirmed",
                    frame.commit
                ));
                break;
            } else {
                self.damaged(segment, (at, end), &bytes);
            }
            at = end;
        }
        self.buffer = bytes;
        bound.unwrap_or(at)
    }

    /// Keeps a copy of a damaged stretch, since its slot will be used again.
    fn damaged(&mut self, segment: u64, (from, to): (u64, u64), bytes: &[u8]) {
        if let Some(found) = self.index.segments.all.get_mut(&segment) {
            found.is_damaged = true;
        }
        let stretch = bytes.get(to_usize(from)..to_usize(to).min(bytes.len()));
        let (disk, aside) = (self.options.disk.as_ref(), self.folder.join("set-aside"));
        let copy = aside.join(format!("frame-{segment}-{from}"));
        let kept = disk.create_folder(&aside).and_then(|()| {
            disk.write_file(&copy, stretch.unwrap_or_default())?;
            disk.sync_folder(&aside)?;
            disk.sync_folder(self.folder)
        });
        let (length, kept) = (to - from, kept_text(kept.map(|()| copy)));
        let place = format!("{length} bytes of segment {segment} at {from}");
        self.report
            .lost(format!("{place} are damaged; a copy is {kept}"));
    }

    /// Puts large bodies aside that no record names, where one that is damaged may have named them.
    fn keep_unnamed_bodies(&mut self) {
        let segments = &mut self.index.segments.all;
        if !self.report.losses.is_empty() {
            let is_unnamed = |_: &u64, body: &mut Segment| body.is_body && body.live == 0;
            let unnamed: Vec<_> = segments.extract_if(.., is_unnamed).collect();
            for (_, body) in unnamed {
                self.put_aside(&body.file, "is named by no record that can be read");
            }
        }
    }

    fn finish(self) -> RecoveredStore {
        let Self {
            mut index,
            slots,
            rows,
            mut report,
            ..
        } = self;
        let mut lost = BTreeMap::new();
        for (number, queue) in &mut index.queues {
            lost.insert(*number, queue.settle_lost(&mut index.segments));
        }
        for (queue, count) in lost.into_iter().filter(|(_, count)| *count > 0) {
            report.lost(format!("{count} messages of queue {queue} are lost"));
        }
        if index.checkpointed_definitions > rows.meta.commit.max(index.definitions_commit) {
            report.lost("the definitions are older than the log expects: changes may be missing");
        }
        if index.unknown > 0 {
            let what = "records of queues that are not there were left out";
            report.repaired(format!("{} {what}", index.unknown));
        }
        // Orphans of large bodies, and segments whose first write failed.
        index.segments.may_free = true;
        let tail = &mut index.tail;
        let newest = tail.segment.saturating_add(1).max(self.next_number);
        tail.next_number = tail.next_number.max(newest);
        slots.next_number.store(tail.next_number, Ordering::Relaxed);
        RecoveredStore {
            index,
            slots,
            rows,
            report,
        }
    }
}
