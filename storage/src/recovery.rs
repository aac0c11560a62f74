//! From files to a running index: the last checkpoint, then the frames of the log behind it.
//!
//! Without a usable checkpoint `definitions.json` and all segments are read instead. Damage never
//! prevents a start: what it took is counted by queue, reported, and set aside.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, Meta, set_aside};
use crate::disk::{Disk, read_up_to};
use crate::engine::{Engine, EngineError};
use crate::extent::{Segment, SegmentFile};
use crate::frame::{
    BLOCK, FRAME_HEADER, FrameHeader, Secret, SegmentHeader, State, VERSION, padded, to_usize,
};
use crate::index::{Index, Place};
use crate::log::{Slots, Tail};
use crate::terms::OpenError;
use crate::terms::{Options, Report};

/// A store as it was found.
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) slots: Slots,
    pub(crate) tail: Tail,
    pub(crate) next_number: u64,
    pub(crate) engine: Option<Box<dyn Engine>>,
    pub(crate) meta: Meta,
    pub(crate) report: Report,
}

/// A segment of the log that is in use.
struct LogSegment {
    header: SegmentHeader,
    file: Arc<SegmentFile>,
}

struct Recovery<'a> {
    folder: &'a Path,
    options: &'a Options,
    index: Index,
    slots: Slots,
    /// Segments of the log by number.
    chain: BTreeMap<u64, LogSegment>,
    tail: Tail,
    next_number: u64,
    report: Report,
    /// The version of a segment that a newer program has written.
    newer: Option<u16>,
    /// One segment's bytes, used again for the next.
    buffer: Vec<u8>,
}

/// Opens whatever is in the folder. Its lock must be held.
pub(crate) fn open(folder: &Path, options: &Options) -> Result<Found, OpenError> {
    let failed = |doing| {
        move |source| OpenError::Io {
            folder: folder.to_owned(),
            doing,
            source,
        }
    };
    let disk = options.disk.as_ref();
    let log_folder = folder.join("log");
    let entries = disk.list(folder).map_err(failed("listed"))?;
    if ["rows", "journal", "witness"]
        .iter()
        .any(|old| entries.contains(&folder.join(old)))
    {
        return Err(OpenError::OldFormat {
            folder: folder.to_owned(),
        });
    }
    let prepared = disk.create_folder(&log_folder).and_then(|()| {
        if let Some(parent) = folder.parent() {
            disk.sync_folder(parent)?;
        }
        disk.sync_folder(folder)
    });
    prepared.map_err(failed("created"))?;
    let slots = Slots::new(
        Arc::clone(&options.disk),
        &log_folder,
        (options.segment_bytes, options.least_free_bytes / 4),
    );
    let mut recovery = Recovery {
        folder,
        options,
        index: Index::default(),
        slots,
        chain: BTreeMap::new(),
        tail: Tail::default(),
        next_number: 1,
        report: Report::default(),
        newer: None,
        buffer: Vec::new(),
    };
    recovery.find_segments(disk).map_err(failed("read"))?;
    recovery.refuse_newer()?;
    recovery.drop_void_segments();
    let (engine, meta) = recovery.load_index();
    recovery.replay(&meta);
    if recovery.index.defined > meta.commit && meta != Meta::default() {
        let note = "the index is older than the log expects; the log was read instead";
        recovery.report.repairs.push(note.to_owned());
        recovery.start_over();
        recovery.replay(&Meta::default());
        return Ok(recovery.finish(engine, Meta::default()));
    }
    Ok(recovery.finish(engine, meta))
}

impl Recovery<'_> {
    /// Opens every file of the log and reads its header.
    fn find_segments(&mut self, disk: &dyn Disk) -> io::Result<()> {
        for path in disk.list(&self.slots.folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(name) = name.strip_suffix(".log").map(str::to_owned) else {
                continue;
            };
            let opened = disk.open(&path).and_then(|file| {
                let length = file.length()?;
                Ok((file, length))
            });
            let length = opened.as_ref().map_or(0, |(_, length)| *length);
            if let Ok(slot) = name.parse::<u64>() {
                self.slots.found(slot, length);
            } else if name.starts_with("body-") {
                self.slots.found(0, length);
            } else {
                continue;
            }
            let (file, length) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    self.report
                        .losses
                        .push(format!("{} cannot be opened: {error}", path.display()));
                    continue;
                }
            };
            let mut block = vec![0; to_usize(BLOCK)];
            // A sector that cannot be read is as good as a damaged one.
            let _ = read_up_to(file.as_ref(), &mut block, 0);
            let header = SegmentHeader::parse(&block);
            let file = Arc::new(SegmentFile { path, file, length });
            self.newer = self.newer.or(SegmentHeader::newer_version(&block));
            match header {
                _ if self.newer.is_some() => {}
                Some(header) => self.found_segment(header, file)?,
                None if block.iter().all(|byte| *byte == 0) => self.found_unused(file)?,
                None => self.put_aside(&file, "has no readable header")?,
            }
        }
        Ok(())
    }

    /// Fails where a newer program has written a segment.
    fn refuse_newer(&self) -> Result<(), OpenError> {
        self.newer.map_or(Ok(()), |found| {
            Err(OpenError::Newer {
                folder: self.folder.to_owned(),
                found,
                known: VERSION,
            })
        })
    }

    /// A slot whose header block was never written. Frames without one belong to a first write that
    /// was cut short.
    fn found_unused(&mut self, file: Arc<SegmentFile>) -> io::Result<()> {
        if file.length != self.slots.segment_bytes {
            self.report.repairs.push(format!(
                "{} has {} bytes and nothing in them: it was removed",
                file.path.display(),
                file.length
            ));
            return self.slots.disk.remove(&file.path);
        }
        let mut head = [0; 64];
        let read = read_up_to(file.file.as_ref(), &mut head, BLOCK);
        let was_written = read.is_err() || head != [0; 64];
        if was_written {
            self.report.repairs.push(format!(
                "the first write of {} was cut short: it was never in use",
                file.path.display()
            ));
        }
        self.slots.keep(file, was_written);
        Ok(())
    }

    fn found_segment(&mut self, header: SegmentHeader, file: Arc<SegmentFile>) -> io::Result<()> {
        self.next_number = self.next_number.max(header.number.saturating_add(1));
        let segment = Segment::new(Arc::clone(&file), header.state == State::Body);
        let is_double = self.index.segments.contains_key(&header.number);
        if is_double && header.state != State::Free {
            return self.put_aside(&file, "is a double of another");
        }
        match header.state {
            State::Free if file.length == self.slots.segment_bytes => self.slots.keep(file, true),
            State::Free => self.slots.disk.remove(&file.path)?,
            State::Body => drop(self.index.segments.insert(header.number, segment)),
            State::Log => {
                if file.length < header.length {
                    self.report.repairs.push(format!(
                        "{} was cut from {} to {} bytes",
                        file.path.display(),
                        header.length,
                        file.length
                    ));
                }
                self.index.segments.insert(header.number, segment);
                self.chain
                    .insert(header.number, LogSegment { header, file });
            }
        }
        Ok(())
    }

    fn put_aside(&mut self, file: &SegmentFile, why: &str) -> io::Result<()> {
        let aside = set_aside(self.slots.disk.as_ref(), self.folder, &file.path)?;
        self.report.losses.push(format!(
            "{} {why}; it is kept in {}",
            file.path.display(),
            aside.display()
        ));
        Ok(())
    }

    /// Segments whose first write failed: a later one says that it follows an earlier one.
    fn drop_void_segments(&mut self) {
        let headers: Vec<SegmentHeader> = self.chain.values().map(|found| found.header).collect();
        for header in headers.iter().rev() {
            if !self.chain.contains_key(&header.number) {
                continue;
            }
            let void: Vec<u64> = self
                .chain
                .range(header.previous.saturating_add(1)..header.number)
                .map(|(number, _)| *number)
                .collect();
            for number in void {
                self.chain.remove(&number);
            }
        }
    }

    /// Loads the last checkpoint, or the definitions alone.
    fn load_index(&mut self) -> (Option<Box<dyn Engine>>, Meta) {
        let opened = checkpoint::open(self.folder, self.options);
        let (engine, loaded, note) = match opened {
            Ok((engine, loaded, note)) => (Some(engine), loaded, note),
            Err(error) => {
                let note =
                    format!("the index could not be opened ({error}); the log is read instead");
                (None, None, Some(note))
            }
        };
        let is_lost = note.is_some() && loaded.is_none();
        self.report.repairs.extend(note);
        if let Some(loaded) = loaded {
            match self.adopt(&loaded) {
                Ok(()) => return (engine, loaded.meta),
                Err(error) => self.report.repairs.push(format!(
                    "the index is damaged ({error}); the log is read instead"
                )),
            }
        }
        self.load_definitions(is_lost);
        // Rows that do not fit are written over: nothing of them is known.
        (engine, Meta::default())
    }

    fn adopt(&mut self, loaded: &checkpoint::Loaded) -> Result<(), EngineError> {
        let broken = |_| EngineError::Broken("a row does not follow the format".to_owned());
        let mut index = Index {
            segments: std::mem::take(&mut self.index.segments),
            ..Index::default()
        };
        let outcome = index.load_numbers(&loaded.numbers).and_then(|()| {
            let mut extents = loaded.extents.iter();
            extents.try_for_each(|bytes| index.load_extents(bytes))
        });
        if let Err(malformed) = outcome {
            self.index.segments = index.segments;
            for segment in self.index.segments.values_mut() {
                (segment.live, segment.bytes) = (0, 0);
            }
            return Err(broken(malformed));
        }
        index.definitions = loaded.definitions.iter().cloned().collect();
        index.commit = loaded.meta.commit;
        index.checkpoint = loaded.meta.commit;
        index.defined = loaded.meta.defined;
        self.index = index;
        self.tail = loaded.meta.tail;
        self.next_number = self.next_number.max(loaded.meta.next_number);
        Ok(())
    }

    fn load_definitions(&mut self, is_expected: bool) {
        let Some(format) = self.options.definitions else {
            return;
        };
        match checkpoint::load_definitions(self.options.disk.as_ref(), self.folder, format) {
            Ok(Some((all, commit))) => {
                self.index.definitions = all.into_iter().collect();
                self.index.definitions_commit = commit;
                let note = "the definitions were taken from definitions.json";
                self.report.repairs.push(note.to_owned());
            }
            Ok(None) if is_expected => self.report.repairs.push(
                "there is no definitions.json; definitions come from the log alone".to_owned(),
            ),
            Ok(None) => {}
            Err(reason) => {
                let path = self.folder.join("definitions.json");
                let kept = set_aside(self.options.disk.as_ref(), self.folder, &path);
                let kept =
                    kept.map_or_else(|error| error.to_string(), |kept| kept.display().to_string());
                self.report.losses.push(format!(
                    "definitions.json cannot be read ({reason}); it is kept: {kept}"
                ));
            }
        }
    }

    /// Forgets the index that was loaded, for reading the whole log.
    fn start_over(&mut self) {
        let mut segments = std::mem::take(&mut self.index.segments);
        for segment in segments.values_mut() {
            (segment.live, segment.bytes) = (0, 0);
        }
        self.index = Index {
            segments,
            ..Index::default()
        };
        self.tail = Tail::default();
        self.load_definitions(true);
    }

    /// Applies the frames behind the checkpoint, segment by segment.
    fn replay(&mut self, meta: &Meta) {
        let chain = std::mem::take(&mut self.chain);
        let mut behind = chain.iter().skip(1).map(|(_, next)| next.header);
        for (number, segment) in &chain {
            let next = behind.next();
            let bound = next
                .filter(|next| next.previous == *number)
                .map(|next| next.previous_end);
            if *number < meta.tail.number {
                continue;
            }
            let (from, bound) = if *number == meta.tail.number {
                (meta.tail.end, bound)
            } else {
                (BLOCK, bound)
            };
            let end = self.replay_segment(segment, from, bound);
            self.tail = Tail {
                number: *number,
                end,
            };
        }
        self.chain = chain;
    }

    /// Reads a whole segment, in the buffer that is used again.
    fn read_segment(&mut self, segment: &LogSegment) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        bytes.resize(to_usize(segment.file.length), 0);
        let file = segment.file.file.as_ref();
        if let Err(error) = read_up_to(file, &mut bytes, 0) {
            self.report
                .losses
                .push(format!("{}: {error}", segment.file.path.display()));
            // Only the sectors that cannot be read are lost.
            for (at, block) in (0..)
                .step_by(to_usize(BLOCK))
                .zip(bytes.chunks_mut(to_usize(BLOCK)))
            {
                let _ = read_up_to(file, block, at);
            }
        }
        bytes
    }

    /// Applies the frames of one segment from an offset on. Returns the offset behind the last.
    fn replay_segment(&mut self, segment: &LogSegment, from: u64, bound: Option<u64>) -> u64 {
        let bytes = self.read_segment(segment);
        let reader = SegmentReader {
            bytes: &bytes,
            secret: Secret::new(&segment.header.salt),
            number: segment.header.number,
            limit: bound.unwrap_or(u64::MAX),
        };
        let mut at = from;
        while at < reader.limit {
            match reader.frame(at) {
                Some((header, Some(body))) => {
                    let place = reader.place(at, header.commit);
                    if self.index.apply(body, place).is_err() {
                        self.damaged(segment, (at, at + header.stride()), &bytes);
                    }
                    at += header.stride();
                }
                Some((header, None)) => {
                    let end = at + header.stride();
                    if self.is_first_write(&reader, segment, at) {
                        at = end;
                        continue;
                    }
                    if !reader.is_proved(end, bound) {
                        let note = format!(
                            "commit {} at the end of the log was not whole: it was never confirmed",
                            header.commit
                        );
                        self.report.repairs.push(note);
                        break;
                    }
                    self.damaged(segment, (at, end), &bytes);
                    at = end;
                }
                None => {
                    let Some(end) = reader
                        .next_frame(at + BLOCK)
                        .or(bound.filter(|end| *end > at))
                    else {
                        break;
                    };
                    if !self.is_first_write(&reader, segment, at) {
                        self.damaged(segment, (at, end), &bytes);
                    }
                    at = end;
                }
            }
        }
        self.buffer = bytes;
        bound.unwrap_or(at)
    }

    /// Whether a bad snapshot may be part of a first write that was cut short: nothing in the
    /// segment is newer. A first commit that is whole counts all the same.
    fn is_first_write(
        &mut self,
        reader: &SegmentReader<'_>,
        segment: &LogSegment,
        at: u64,
    ) -> bool {
        let is_newer = |header: FrameHeader| header.commit > segment.header.first_commit;
        let mut behind = reader.headers(at + BLOCK);
        if at != BLOCK || behind.any(|(_, header)| is_newer(header)) {
            return false;
        }
        self.report.repairs.push(format!(
            "the snapshot of segment {} is not whole: its first write was cut short",
            reader.number
        ));
        true
    }

    /// Keeps a copy of a damaged stretch, since its slot will be used again.
    fn damaged(&mut self, segment: &LogSegment, (from, to): (u64, u64), bytes: &[u8]) {
        if let Some(found) = self.index.segments.get_mut(&segment.header.number) {
            found.is_damaged = true;
        }
        let stretch = bytes.get(to_usize(from)..to_usize(to).min(bytes.len()));
        let aside = self.folder.join("set-aside");
        let name = format!("frame-{}-{from}", segment.header.number);
        let disk = self.options.disk.as_ref();
        let kept = disk.create_folder(&aside).and_then(|()| {
            disk.write_file(&aside.join(&name), stretch.unwrap_or_default())?;
            disk.sync_folder(&aside)
        });
        let kept = kept.map_or_else(|error| error.to_string(), |()| format!("set-aside/{name}"));
        self.report.losses.push(format!(
            "{} bytes of segment {} at {from} are damaged; a copy is kept: {kept}",
            to - from,
            segment.header.number
        ));
    }

    fn finish(mut self, engine: Option<Box<dyn Engine>>, meta: Meta) -> Found {
        let Index {
            queues, segments, ..
        } = &mut self.index;
        let mut lost = BTreeMap::new();
        for (number, queue) in queues {
            let count = queue.settle_lost(segments);
            if count > 0 {
                lost.insert(*number, count);
            }
        }
        for (queue, count) in lost {
            self.report
                .losses
                .push(format!("{count} messages of queue {queue} are lost"));
        }
        if self.index.unknown > 0 {
            self.report.repairs.push(format!(
                "{} records of queues that are not there were left out",
                self.index.unknown
            ));
        }
        if self.index.defined > meta.commit.max(self.index.definitions_commit) {
            self.report.losses.push(
                "the definitions are older than the log expects: changes may be missing".to_owned(),
            );
        }
        // Orphans of large bodies, and segments whose first write failed.
        self.index.may_free = true;
        Found {
            next_number: self.next_number.max(self.tail.number + 1),
            index: self.index,
            slots: self.slots,
            tail: self.tail,
            engine,
            meta,
            report: self.report,
        }
    }
}

/// Frames of one segment in memory.
struct SegmentReader<'a> {
    bytes: &'a [u8],
    secret: Secret,
    number: u64,
    /// Frames behind this offset do not count.
    limit: u64,
}

impl<'a> SegmentReader<'a> {
    fn place(&self, offset: u64, commit: u64) -> Place {
        Place {
            segment: self.number,
            offset,
            commit,
        }
    }

    fn header(&self, at: u64) -> Option<FrameHeader> {
        let bytes = self.bytes.get(to_usize(at)..)?;
        FrameHeader::parse(bytes, &self.secret, self.number, at)
    }

    /// The header at an offset, and the body if it is whole.
    fn frame(&self, at: u64) -> Option<(FrameHeader, Option<&'a [u8]>)> {
        let header = self.header(at)?;
        let from = to_usize(at) + FRAME_HEADER;
        let body = self.bytes.get(from..from + header.length as usize);
        Some((
            header,
            body.filter(|body| header.matches(body, &self.secret)),
        ))
    }

    /// The first valid header from an offset on. Only block boundaries are looked at, and no
    /// bodies.
    fn next_frame(&self, from: u64) -> Option<u64> {
        self.headers(from).next().map(|(at, _)| at)
    }

    fn headers(&self, from: u64) -> impl Iterator<Item = (u64, FrameHeader)> {
        let end = self.limit.min(padded(self.bytes.len() as u64));
        (from..end)
            .step_by(to_usize(BLOCK))
            .filter_map(|at| Some((at, self.header(at)?)))
    }

    /// Whether something shows that the log went on behind an offset.
    fn is_proved(&self, end: u64, bound: Option<u64>) -> bool {
        bound.is_some_and(|bound| bound >= end) || self.next_frame(end).is_some()
    }
}
