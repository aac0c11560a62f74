//! The index on the disk, as of a commit: records in rows of sled, and `definitions.json`.
//!
//! A checkpoint writes what changed under new numbers, then one row that names everything that
//! counts; until that is written the checkpoint before counts. Nothing of it is needed to start:
//! the log is complete by itself.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::{Disk, FileDisk, is_refused, kept_text, set_aside, to_usize};
use crate::engine::{Change, Engine, snapshots};
use crate::frame::{VERSION, push};
use crate::index::{FramePlace, Index, Tail};
use crate::terms::{Definitions, OpenReport, Options, ParseFailure, Stored};

/// Bytes of one row; longer values would become files that sled does not sync.
const ROW_BYTES: usize = 6_900;
/// Rows of one step: about 350 KiB.
const STEP_ROWS: usize = 50;
/// Damaged indexes that are kept.
const KEPT_ASIDE: usize = 3;

/// What a table holds, beside the number of a sealed segment for its extents.
const NUMBERS: u64 = 0;
const DEFINITIONS: u64 = u64::MAX - 1;
const OPEN_EXTENTS: u64 = u64::MAX;

/// Records of a checkpoint: what they are, the number of their rows, their length and their sum.
type CheckpointTable = [u64; 4];

/// What a checkpoint says of itself; its rows are written last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointMeta {
    pub(crate) commit: u64,
    /// The log is replayed from here on.
    pub(crate) tail: Tail,
    /// The last commit that changed a definition.
    pub(crate) checkpointed_definitions: u64,
    /// In the order in which they are applied.
    tables: Vec<CheckpointTable>,
}

/// The index as of a commit, on its way to the disk.
pub(crate) struct CheckpointImage {
    pub(crate) meta: CheckpointMeta,
    /// The records of each table; none where those on the disk still count.
    records: Vec<(u64, Option<Vec<u8>>)>,
    /// All definitions, if they changed.
    definitions: Option<Vec<Stored>>,
}

impl CheckpointImage {
    /// Copies what a checkpoint needs out of the index. `before` is what is on the disk.
    pub(crate) fn of(index: &Index, before: &CheckpointMeta) -> Self {
        let (mut meta, tables) = (CheckpointMeta::default(), &index.segments.all);
        (meta.commit, meta.tail, meta.checkpointed_definitions) =
            (index.commit, index.tail, index.checkpointed_definitions);
        for commit in index.changed.values() {
            meta.checkpointed_definitions = meta.checkpointed_definitions.max(*commit);
        }
        // An older checkpoint than the last may be all that is left on the disk.
        let has_new = meta.checkpointed_definitions != before.checkpointed_definitions
            || before.table(DEFINITIONS).is_none();
        let mut records = vec![
            (NUMBERS, Some(index.number_records())),
            (DEFINITIONS, has_new.then(|| index.definition_records())),
        ];
        let is_sealed = |number| {
            let segment = tables.get(&number).filter(|segment| !segment.is_body);
            number < meta.tail.segment && segment.is_some()
        };
        for number in tables.keys().copied().filter(|number| is_sealed(*number)) {
            let is_new = before.table(number).is_none();
            records.push((number, is_new.then(|| index.run_records(|of| of == number))));
        }
        records.push((
            OPEN_EXTENTS,
            Some(index.run_records(|number| !is_sealed(number))),
        ));
        let definitions = has_new.then(|| index.definitions.clone().into_iter().collect());
        Self {
            meta,
            records,
            definitions,
        }
    }
}

impl CheckpointMeta {
    fn table(&self, content: u64) -> Option<CheckpointTable> {
        let mut tables = self.tables.iter();
        tables.find(|table| table[0] == content).copied()
    }
}

fn row_key(number: u64, part: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &part.to_be_bytes()].concat()
}

/// Writes bytes as rows, step by step.
fn write_rows(engine: &dyn Engine, number: u64, bytes: &[u8]) -> io::Result<()> {
    let parts = (0..).zip(bytes.chunks(ROW_BYTES));
    let mut rows = parts.map(|(part, row)| (row_key(number, part), Some(row.to_vec())));
    loop {
        let step: Vec<Change> = rows.by_ref().take(STEP_ROWS).collect();
        if step.is_empty() {
            return Ok(());
        }
        engine.commit(&step)?;
    }
}

/// The bytes in rows.
fn read_rows(engine: &dyn Engine, number: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (from, until) = (row_key(number, 0), row_key(number, u32::MAX));
    engine.scan(&from, &until, &mut |_, value| {
        bytes.extend_from_slice(&value);
        ControlFlow::Continue(())
    })?;
    Ok(bytes)
}

fn damaged() -> io::Error {
    io::Error::other("rows are missing or damaged")
}

/// A value at the start of these bytes.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    let read = postcard::take_from_bytes(bytes);
    read.map(|(value, _)| value).map_err(|_| damaged())
}

/// The first of these bytes, if their sum is right. What an interrupted checkpoint has left behind
/// them does not count.
fn checked(bytes: &[u8], length: u64, sum: u64) -> io::Result<&[u8]> {
    let bytes = bytes.get(..to_usize(length));
    bytes
        .filter(|bytes| xxh3_64(bytes) == sum)
        .ok_or_else(damaged)
}

/// Applies the last checkpoint to an index without queues. What it says of itself is empty where
/// there is none.
fn load(engine: &dyn Engine, index: &mut Index) -> io::Result<CheckpointMeta> {
    let rows = read_rows(engine, 0)?;
    if rows.is_empty() {
        // What a first checkpoint that was cut short has left does not count.
        return Ok(CheckpointMeta::default());
    }
    let (sum, meta): (u64, Vec<u8>) = read(&rows)?;
    let (version, meta): (u16, CheckpointMeta) = read(checked(&meta, meta.len() as u64, sum)?)?;
    if version != VERSION {
        return Err(damaged());
    }
    let place = FramePlace::new(0, 0, meta.commit);
    for [_, number, length, sum] in &meta.tables {
        let rows = read_rows(engine, *number)?;
        let records = checked(&rows, *length, *sum)?;
        index.apply(records, place).map_err(|_| damaged())?;
    }
    index.changed.clear();
    (index.tail, index.checkpointed_definitions) = (meta.tail, meta.checkpointed_definitions);
    Ok(meta)
}

/// Writes a checkpoint; returns its metadata.
fn write(
    engine: &dyn Engine,
    before: &CheckpointMeta,
    image: &CheckpointImage,
) -> io::Result<CheckpointMeta> {
    let mut meta = image.meta.clone();
    let numbers = before.tables.iter().map(|table| table[1]);
    let mut number = numbers.max().unwrap_or(0);
    for (content, records) in &image.records {
        meta.tables.extend(if let Some(bytes) = records {
            number += 1;
            write_rows(engine, number, bytes)?;
            Some([*content, number, bytes.len() as u64, xxh3_64(bytes)])
        } else {
            before.table(*content)
        });
    }
    let (mut bytes, mut summed) = (Vec::new(), Vec::new());
    push(&mut bytes, &(VERSION, &meta));
    push(&mut summed, &(xxh3_64(&bytes), &bytes));
    write_rows(engine, 0, &summed)?;
    let numbers = meta.tables.iter().map(|table| table[1].to_be_bytes());
    let needed: Vec<[u8; 8]> = numbers.chain([[0; 8]]).collect();
    let mut old = Vec::new();
    engine.scan(&[0; 8], &[u8::MAX], &mut |key, _| {
        if !needed.iter().any(|number| key.starts_with(number)) {
            old.push((key.to_vec(), None));
        }
        ControlFlow::Continue(())
    })?;
    old.chunks(STEP_ROWS)
        .try_for_each(|step| engine.commit(step))?;
    Ok(meta)
}

/// The rows on the disk. Any of their failures costs the checkpoint alone.
pub(crate) struct CheckpointRows {
    folder: PathBuf,
    pub(crate) options: Options,
    /// Opened with the next checkpoint where it is missing.
    pub(crate) engine: Option<Box<dyn Engine>>,
    pub(crate) meta: CheckpointMeta,
}

impl CheckpointRows {
    pub(crate) fn new(folder: &Path, options: &Options) -> Self {
        let (folder, options) = (folder.to_owned(), options.clone());
        let (engine, meta) = (None, CheckpointMeta::default());
        Self {
            folder,
            options,
            engine,
            meta,
        }
    }

    /// Opens the rows and applies the last checkpoint to an index without queues. Rows that cannot
    /// be read are set aside, and new ones begun. Returns what was done about them.
    pub(crate) fn open(&mut self, index: &mut Index) -> io::Result<Option<String>> {
        let (path, mut note) = (self.folder.join("index"), None);
        let mut outcome = self.try_open(&path, index);
        // sled rebuilds its snapshot from the rest of its file.
        let snapshot = ("the snapshot of the index", snapshots(&path), "");
        let then = "; the log was read instead";
        let all = ("the index", vec![path.clone()], then);
        for (what, parts, then) in [snapshot, all] {
            // Where it may not be opened, it is not damaged.
            let Some(reason) = outcome.as_ref().err().filter(|error| !is_refused(error)) else {
                break;
            };
            let kept = parts.iter().map(|part| self.keep_aside(part));
            if let Some(kept) = kept.flatten().last() {
                let kept = kept.display();
                note = Some(format!(
                    "{what} cannot be read ({reason}) and is kept in {kept}{then}"
                ));
                outcome = self.try_open(&path, index);
            }
        }
        outcome.map(|()| note)
    }

    /// Sets a part of the index aside. The log has all that is in it, so only the newest few of a
    /// kind are kept.
    fn keep_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let aside = set_aside(self.options.disk.as_ref(), &self.folder, path)?;
        let is_index = path.ends_with("index");
        let kind = if is_index { "index-" } else { "snap." };
        let mut kept = Vec::new();
        for path in FileDisk
            .list(&self.folder.join("set-aside"))
            .unwrap_or_default()
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let changed = path.metadata().and_then(|found| found.modified());
            if path != aside && name.starts_with(kind) {
                kept.extend(changed.ok().map(|changed| (changed, path)));
            }
        }
        kept.sort();
        for (_, path) in kept.iter().rev().skip(KEPT_ASIDE - 1) {
            let _ = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
        }
        Ok(aside)
    }

    fn try_open(&mut self, path: &Path, index: &mut Index) -> io::Result<()> {
        let engine = (self.options.open_index)(path)?;
        self.meta = load(engine.as_ref(), index).inspect_err(|_| index.clear())?;
        self.engine = Some(engine);
        Ok(())
    }

    /// Writes a checkpoint.
    pub(crate) fn save(&mut self, image: &CheckpointImage) -> io::Result<()> {
        if self.engine.is_none() {
            let before = self.meta.clone();
            if let Some(note) = self.open(&mut Index::default())? {
                tracing::warn!("{note}");
            }
            if self.meta != before {
                // The image was made for other rows: the next one fits.
                let what = "the one on the disk is not the one that was saved last";
                return Err(io::Error::other(what));
            }
        }
        if let Some((all, format)) = image.definitions.as_ref().zip(self.options.definitions) {
            let (disk, commit) = (self.options.disk.as_ref(), image.meta.commit);
            save_definitions(disk, &self.folder, (format, commit), all)?;
        }
        if let Some(engine) = &self.engine {
            self.meta = write(engine.as_ref(), &self.meta, image)?;
        }
        Ok(())
    }

    /// Takes the definitions of an index from `definitions.json`.
    pub(crate) fn load_definitions(
        &self,
        index: &mut Index,
        report: &mut OpenReport,
    ) -> io::Result<()> {
        let Some(format) = self.options.definitions else {
            return Ok(());
        };
        let (disk, path) = (
            self.options.disk.as_ref(),
            self.folder.join(DEFINITIONS_JSON),
        );
        // A failure may pass.
        let read = disk.read_file(&path).or_else(|_| disk.read_file(&path));
        let read = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if is_refused(&error) => return Err(error),
            bytes => bytes.map_err(ParseFailure::from),
        };
        match read.and_then(|bytes| parse_definitions(&bytes, format)) {
            Ok((all, commit)) => {
                index.definitions = all.into_iter().collect();
                index.definitions_commit = commit;
                let note = "the definitions were taken from definitions.json";
                report.repairs.push(note.to_owned());
            }
            Err(reason) => {
                let kept = kept_text(set_aside(disk, &self.folder, &path));
                let line = format!("definitions.json cannot be read ({reason}); it is {kept}");
                report.losses.push(line);
            }
        }
        Ok(())
    }
}

const DEFINITIONS_JSON: &str = "definitions.json";
const PREFIX: &str = "{\"cbroker_store\":{\"commit\":";

/// The first line of `definitions.json`. The object that was rendered goes on behind it.
fn first_line(commit: u64, rendered: &[u8]) -> String {
    let sum = xxh3_64(rendered);
    format!("{PREFIX}{commit},\"sum\":\"{sum:016x}\"}},\n")
}

/// Replaces `definitions.json`.
fn save_definitions(
    disk: &dyn Disk,
    folder: &Path,
    (format, commit): (Definitions, u64),
    all: &[Stored],
) -> io::Result<()> {
    let rendered = (format.render)(all);
    let mut bytes = first_line(commit, &rendered).into_bytes();
    bytes.extend_from_slice(rendered.get(1..).unwrap_or_default());
    let new = folder.join("definitions.json.new");
    disk.write_file(&new, &bytes)?;
    disk.rename(&new, &folder.join(DEFINITIONS_JSON))?;
    disk.sync_folder(folder)
}

/// Reads what is in `definitions.json`, and the commit that it belongs to.
fn parse_definitions(
    bytes: &[u8],
    format: Definitions,
) -> Result<(Vec<Stored>, u64), ParseFailure> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    let (line, rendered) = (String::from_utf8_lossy(line), [b"{", rest].concat());
    let line_end = line.strip_prefix(PREFIX);
    let number = line_end.and_then(|line| line.split(',').next());
    let commit = number.and_then(|number| number.parse().ok());
    let sound = commit.filter(|commit| first_line(*commit, &rendered) == line);
    let commit = sound.ok_or("its checksum does not match")?;
    Ok(((format.parse)(&rendered)?, commit))
}
