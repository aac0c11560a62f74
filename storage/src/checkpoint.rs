//! The index on the disk: rows in sled and `definitions.json`, as of a commit.
//!
//! The [`Keeper`] thread writes checkpoints, frees dead segments and prepares spares, so that none
//! of these delays a commit. A checkpoint writes its rows under a new generation and names them in
//! the last step; until then the one before counts. None of it is needed to start: the log is
//! complete by itself.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::definitions::save_definitions;
pub(crate) use crate::definitions::{AllDefinitions, load_definitions, set_aside};
use crate::engine::{Change, Engine, EngineError, snapshots};
use crate::extent::Segment;
use crate::frame::{Fields, Malformed, push_bytes, push_varint};
use crate::index::{Index, lock};
use crate::log::{Slots, Tail, Unfreed};
use crate::terms::Options;

/// Bytes of one row; longer values would become files that sled does not sync.
const ROW_BYTES: usize = 6_900;
/// Rows of one step: about 350 KiB.
const STEP_ROWS: usize = 50;
/// Version of the rows.
const VERSION: u64 = 2;
/// Tasks that may wait for the keeper.
const TASKS: usize = 16;
/// Damaged indexes that are kept.
const KEPT_ASIDE: usize = 3;
/// How long a clean stop waits for the last checkpoint.
const LAST_CHECKPOINT: Duration = Duration::from_secs(10);
const META: u8 = b'm';
const NUMBERS: u8 = b'n';
const OPEN_EXTENTS: u8 = b'o';
const EXTENTS: u8 = b'x';
const DEFINITIONS: u8 = b'd';

/// What a checkpoint says of itself; its row is written last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) commit: u64,
    /// The log is replayed from here on.
    pub(crate) tail: Tail,
    pub(crate) next_number: u64,
    /// Generation of numbers and open extents, and that of the definitions.
    generation: u64,
    definitions_generation: u64,
    /// The last commit that changed a definition.
    pub(crate) defined: u64,
    /// Sealed segments whose extents have rows of their own.
    pub(crate) sealed: Vec<u64>,
}

/// The index as of a commit, on its way to the disk.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) commit: u64,
    pub(crate) tail: Tail,
    pub(crate) next_number: u64,
    pub(crate) numbers: Vec<u8>,
    pub(crate) open_extents: Vec<u8>,
    /// Sealed segments that are not in the rows yet, with their extents.
    pub(crate) new_extents: Vec<(u64, Vec<u8>)>,
    /// All sealed segments.
    pub(crate) sealed: Vec<u64>,
    /// The last commit that changed a definition.
    pub(crate) defined: u64,
    /// All definitions, if they changed.
    pub(crate) definitions: Option<AllDefinitions>,
}

/// What was read back.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) meta: Meta,
    pub(crate) numbers: Vec<u8>,
    /// Extents of sealed segments by rising number, then the open ones.
    pub(crate) extents: Vec<Vec<u8>>,
    pub(crate) definitions: AllDefinitions,
}

impl Checkpoint {
    /// Copies what a checkpoint needs out of the index. `known` are the sealed segments that have
    /// rows; `None` when the index on the disk is new.
    fn of(index: &Index, (tail, next_number): (Tail, u64), known: Option<&[u64]>) -> Self {
        let (mut numbers, mut open_extents) = (Vec::new(), Vec::new());
        index.write_snapshot(&mut numbers, false);
        let is_sealed = |number: u64| {
            number != tail.number
                && index
                    .segments
                    .get(&number)
                    .is_some_and(|segment| !segment.is_body)
        };
        index.write_extents(&mut open_extents, |number| !is_sealed(number));
        let sealed: Vec<u64> = index
            .segments
            .keys()
            .copied()
            .filter(|number| is_sealed(*number))
            .collect();
        let new_extents = sealed
            .iter()
            .filter(|number| known.is_none_or(|known| !known.contains(number)))
            .map(|number| {
                let mut bytes = Vec::new();
                index.write_extents(&mut bytes, |segment| segment == *number);
                (*number, bytes)
            })
            .collect();
        let definitions = (known.is_none() || !index.changed.is_empty()).then(|| {
            let all = index.definitions.iter();
            all.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        });
        Self {
            commit: index.commit,
            tail,
            next_number,
            numbers,
            open_extents,
            new_extents,
            sealed,
            defined: index
                .changed
                .values()
                .copied()
                .fold(index.defined, u64::max),
            definitions,
        }
    }
}

fn row_key(kind: u8, number: u64, part: u32) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Rows of one value: the bytes and their sum, cut into parts.
fn rows(kind: u8, number: u64, bytes: &[u8]) -> Vec<Change> {
    let mut summed = bytes.to_vec();
    summed.extend_from_slice(&xxh3_64(bytes).to_le_bytes());
    (0..)
        .zip(summed.chunks(ROW_BYTES))
        .map(|(part, bytes)| Change::Put(row_key(kind, number, part), bytes.to_vec()))
        .collect()
}

fn read_rows(engine: &dyn Engine, kind: u8, number: u64) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    let (from, until) = (row_key(kind, number, 0), row_key(kind, number, u32::MAX));
    engine.scan(&from, &until, &mut |_, value| {
        bytes.extend_from_slice(&value);
        ControlFlow::Continue(())
    })?;
    let sum = bytes
        .len()
        .checked_sub(8)
        .map(|length| bytes.split_off(length));
    if sum.is_some_and(|sum| sum == xxh3_64(&bytes).to_le_bytes()) {
        Ok(bytes)
    } else {
        Err(EngineError::Broken(format!(
            "rows {}/{number} are missing or damaged",
            char::from(kind)
        )))
    }
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [
            VERSION,
            self.commit,
            self.tail.number,
            self.tail.end,
            self.next_number,
            self.generation,
            self.definitions_generation,
            self.defined,
            self.sealed.len() as u64,
        ] {
            push_varint(&mut out, number);
        }
        self.sealed
            .iter()
            .for_each(|number| push_varint(&mut out, *number));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes, 0);
        if fields.varint()? != VERSION {
            return Err(Malformed);
        }
        let mut meta = Self {
            commit: fields.varint()?,
            tail: Tail {
                number: fields.varint()?,
                end: fields.varint()?,
            },
            next_number: fields.varint()?,
            generation: fields.varint()?,
            definitions_generation: fields.varint()?,
            defined: fields.varint()?,
            sealed: Vec::new(),
        };
        for _ in 0..fields.varint()? {
            meta.sealed.push(fields.varint()?);
        }
        Ok(meta)
    }
}

fn broken(_: Malformed) -> EngineError {
    EngineError::Broken("a row does not follow the format".to_owned())
}

/// Reads the last checkpoint; `None` in a new index.
pub(crate) fn load(engine: &dyn Engine) -> Result<Option<Loaded>, EngineError> {
    let mut is_empty = true;
    engine.scan(&[], &[u8::MAX], &mut |_, _| {
        is_empty = false;
        ControlFlow::Break(())
    })?;
    if is_empty {
        return Ok(None);
    }
    let meta = Meta::decode(&read_rows(engine, META, 0)?).map_err(broken)?;
    let numbers = read_rows(engine, NUMBERS, meta.generation)?;
    let mut extents = Vec::new();
    for number in &meta.sealed {
        extents.push(read_rows(engine, EXTENTS, *number)?);
    }
    extents.push(read_rows(engine, OPEN_EXTENTS, meta.generation)?);
    let mut definitions = Vec::new();
    if meta.definitions_generation > 0 {
        let bytes = read_rows(engine, DEFINITIONS, meta.definitions_generation)?;
        let mut fields = Fields::new(&bytes, 0);
        while !fields.is_at_end() {
            let key = fields.bytes().map_err(broken)?;
            definitions.push((key.to_vec(), fields.bytes().map_err(broken)?.to_vec()));
        }
    }
    Ok(Some(Loaded {
        meta,
        numbers,
        extents,
        definitions,
    }))
}

/// An index that was opened, its last checkpoint, and what was done about one that could not be
/// read.
pub(crate) type OpenedIndex = (Box<dyn Engine>, Option<Loaded>, Option<String>);

/// Opens the index and reads its last checkpoint. One that cannot be read is set aside, and a new
/// one opened.
pub(crate) fn open(folder: &Path, options: &Options) -> Result<OpenedIndex, EngineError> {
    let path = folder.join("index");
    let open = || -> Result<OpenedIndex, EngineError> {
        let engine = (options.open_index)(&path, options.cache_bytes)?;
        let loaded = load(engine.as_ref())?;
        Ok((engine, loaded, None))
    };
    let mut notes = Vec::new();
    let mut opened = open();
    if let Err(EngineError::Broken(reason)) = &opened {
        // sled rebuilds its snapshot from the rest of its file.
        let mut has_snapshots = false;
        for snapshot in snapshots(&path) {
            has_snapshots |= keep_aside(options, folder, &snapshot).is_ok();
        }
        if has_snapshots {
            notes.push(format!(
                "the snapshot of the index cannot be read ({reason}) and is kept in set-aside"
            ));
            opened = open();
        }
    }
    if let Err(EngineError::Broken(reason)) = &opened {
        let aside =
            keep_aside(options, folder, &path).map_err(|error| EngineError::from(&error))?;
        notes = vec![format!(
            "the index cannot be read ({reason}) and is kept in {}; the log was read instead",
            aside.display()
        )];
        opened = open();
    }
    let (engine, loaded, _) = opened?;
    Ok((engine, loaded, notes.pop()))
}

/// Sets a part of the index aside. The log has all that is in it, so only the newest few of a kind
/// are kept.
fn keep_aside(options: &Options, folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let aside = set_aside(options.disk.as_ref(), folder, path)?;
    let kind = if path.ends_with("index") {
        "index-"
    } else {
        "snap."
    };
    let entries = std::fs::read_dir(folder.join("set-aside")).into_iter();
    let mut kept: Vec<_> = entries
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(kind))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(_, path)| *path != aside)
        .collect();
    kept.sort();
    for (_, path) in kept.iter().rev().skip(KEPT_ASIDE - 1) {
        let _ = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
    }
    Ok(aside)
}

/// Writes a checkpoint and returns what it says of itself.
fn save(engine: &dyn Engine, before: &Meta, checkpoint: &Checkpoint) -> Result<Meta, EngineError> {
    let mut meta = Meta {
        commit: checkpoint.commit,
        tail: checkpoint.tail,
        next_number: checkpoint.next_number,
        generation: before.generation + 1,
        definitions_generation: before.definitions_generation,
        defined: checkpoint.defined,
        sealed: checkpoint.sealed.clone(),
    };
    // What an interrupted checkpoint left under this generation.
    let mut changes = old_rows(engine, &meta, before)?;
    changes.extend(rows(NUMBERS, meta.generation, &checkpoint.numbers));
    changes.extend(rows(
        OPEN_EXTENTS,
        meta.generation,
        &checkpoint.open_extents,
    ));
    for (number, extents) in &checkpoint.new_extents {
        changes.extend(rows(EXTENTS, *number, extents));
    }
    if let Some(definitions) = &checkpoint.definitions {
        meta.definitions_generation = meta.generation;
        let mut bytes = Vec::new();
        for (key, value) in definitions {
            push_bytes(&mut bytes, key);
            push_bytes(&mut bytes, value);
        }
        changes.extend(rows(DEFINITIONS, meta.generation, &bytes));
    }
    write(engine, changes)?;
    write(engine, rows(META, 0, &meta.encode()))?;
    write(engine, old_rows(engine, &meta, &meta)?)?;
    Ok(meta)
}

/// Rows that neither of two checkpoints needs.
fn old_rows(engine: &dyn Engine, new: &Meta, old: &Meta) -> Result<Vec<Change>, EngineError> {
    let mut changes = Vec::new();
    engine.scan(&[], &[u8::MAX], &mut |key, _| {
        let number = key
            .get(1..9)
            .and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
        let is_needed = match (key.first(), number) {
            (Some(&(NUMBERS | OPEN_EXTENTS)), Some(number)) => number == old.generation,
            (Some(&DEFINITIONS), Some(number)) => number == old.definitions_generation,
            (Some(&EXTENTS), Some(number)) => {
                old.sealed.contains(&number) || new.sealed.contains(&number)
            }
            (Some(&META), _) => true,
            _ => false,
        };
        if !is_needed {
            changes.push(Change::Delete(key.to_vec()));
        }
        ControlFlow::Continue(())
    })?;
    Ok(changes)
}

fn write(engine: &dyn Engine, changes: Vec<Change>) -> Result<(), EngineError> {
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let step: Vec<Change> = changes.by_ref().take(STEP_ROWS).collect();
        engine.commit(&step)?;
    }
    Ok(())
}

/// Work for the keeper.
enum Task {
    Checkpoint(Box<Checkpoint>),
    Free(Vec<(u64, Segment)>),
    Prepare,
    Close,
}

/// The committer's end of the keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    tasks: SyncSender<Task>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What the index on the disk says of itself, while no checkpoint is under way.
    known: Mutex<Option<Meta>>,
    is_preparing: std::sync::atomic::AtomicBool,
}

/// What the keeper's thread works on.
struct Work {
    folder: PathBuf,
    options: Options,
    slots: Arc<Slots>,
    index: Arc<Mutex<Index>>,
    engine: Option<Box<dyn Engine>>,
    meta: Meta,
    shared: Arc<Shared>,
    /// The last failure was reported.
    has_warned: bool,
}

impl Keeper {
    /// Starts the thread. Without an engine it opens one with the first checkpoint.
    pub(crate) fn start(
        (folder, options): (&Path, &Options),
        slots: Arc<Slots>,
        index: Arc<Mutex<Index>>,
        (engine, meta): (Option<Box<dyn Engine>>, Meta),
    ) -> io::Result<Self> {
        let (tasks, receiver) = sync_channel(TASKS);
        let (sender, done) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        if let Ok(mut known) = shared.known.lock() {
            *known = Some(meta.clone());
        }
        let mut work = Work {
            folder: folder.to_owned(),
            options: options.clone(),
            slots,
            index,
            engine,
            meta,
            shared: Arc::clone(&shared),
            has_warned: false,
        };
        let thread = std::thread::Builder::new()
            .name("store-keeper".to_owned())
            .spawn(move || {
                work.run(&receiver);
                drop(work);
                let _ = sender.send(());
            })?;
        Ok(Self {
            tasks,
            done,
            thread: Some(thread),
            shared,
        })
    }

    /// Asks for a checkpoint of the index, unless one is under way. `false` then.
    pub(crate) fn checkpoint(&self, index: &Mutex<Index>, position: (Tail, u64)) -> bool {
        let Some(known) = self
            .shared
            .known
            .lock()
            .ok()
            .and_then(|mut known| known.take())
        else {
            return false;
        };
        let sealed = (known.generation > 0).then_some(known.sealed.as_slice());
        let checkpoint = Checkpoint::of(&lock(index), position, sealed);
        self.tasks
            .send(Task::Checkpoint(Box::new(checkpoint)))
            .is_ok()
    }

    /// Hands over dead segments; gives them back while the keeper is busy.
    pub(crate) fn free(&self, dead: Vec<(u64, Segment)>) -> Vec<(u64, Segment)> {
        match self.tasks.try_send(Task::Free(dead)) {
            Err(TrySendError::Full(Task::Free(dead))) => dead,
            _ => Vec::new(),
        }
    }

    /// Asks for spares, unless that was asked already.
    pub(crate) fn prepare(&self) {
        use std::sync::atomic::Ordering;
        if !self.shared.is_preparing.swap(true, Ordering::AcqRel) {
            let _ = self.tasks.send(Task::Prepare);
        }
    }

    /// Ends the thread, after a last checkpoint if a position is given; waits for a slow disk only
    /// a while.
    pub(crate) fn close(&mut self, index: &Mutex<Index>, position: Option<(Tail, u64)>) {
        let until = Instant::now() + LAST_CHECKPOINT;
        if let Some(position) = position {
            while !self.checkpoint(index, position) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = self.tasks.send(Task::Close);
        if self.done.recv_timeout(LAST_CHECKPOINT).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&mut self, tasks: &Receiver<Task>) {
        for task in tasks {
            match task {
                Task::Checkpoint(checkpoint) => self.checkpoint(&checkpoint),
                Task::Free(dead) => {
                    if let Err(Unfreed(rest, error)) = self.slots.free(dead) {
                        tracing::debug!(%error, "a dead segment could not be freed yet");
                        let mut index = lock(&self.index);
                        index.segments.extend(rest);
                        index.may_free = true;
                    }
                }
                Task::Prepare => {
                    // Without room there are fewer spares; the committer looks at the free space
                    // itself.
                    let _ = self.slots.prepare();
                    let preparing = &self.shared.is_preparing;
                    preparing.store(false, std::sync::atomic::Ordering::Release);
                }
                Task::Close => return,
            }
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        match self.save(checkpoint) {
            Ok(()) => {
                self.has_warned = false;
                let mut index = lock(&self.index);
                index.checkpoint = index.checkpoint.max(checkpoint.commit);
                index.defined = index.defined.max(checkpoint.defined);
                index
                    .changed
                    .retain(|_, commit| *commit > checkpoint.commit);
            }
            Err(reason) => {
                // The log has everything that the index lacks.
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!("the index could not be saved: {reason}");
                }
                self.engine = None;
            }
        }
        if let Ok(mut shared) = self.shared.known.lock() {
            *shared = Some(self.meta.clone());
        }
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        let text = |error: EngineError| error.to_string();
        if self.engine.is_none() {
            let (engine, loaded, note) = open(&self.folder, &self.options).map_err(text)?;
            if let Some(note) = note {
                tracing::warn!("{note}");
            }
            let on_disk = loaded.map(|loaded| loaded.meta).unwrap_or_default();
            self.engine = Some(engine);
            if on_disk != self.meta {
                // This checkpoint was made for another index: the next one fits.
                self.meta = on_disk;
                return Err("the one on the disk is not the one that was saved last".to_owned());
            }
        }
        if let (Some(all), Some(format)) = (&checkpoint.definitions, self.options.definitions) {
            let disk = self.options.disk.as_ref();
            save_definitions(disk, &self.folder, (format, checkpoint.commit), all)
                .map_err(|error| error.to_string())?;
        }
        if let Some(engine) = &self.engine {
            self.meta = save(engine.as_ref(), &self.meta, checkpoint).map_err(text)?;
        }
        Ok(())
    }
}
