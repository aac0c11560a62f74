//! A disk in memory that can fail at any operation and lose power after any operation.
//!
//! A file holds what was synced, and later writes that a power cut keeps, loses or tears. A name
//! is certain once its folder is synced, a folder once its parent is. The rows of the index are
//! durable commit by commit; that sled keeps this promise on a real disk is the subject of
//! `power.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage::Options;

use crate::random::Random;

// The fuzz target includes this file by its path.
#[path = "simulated_disk/files.rs"]
mod files;
#[path = "simulated_disk/index.rs"]
mod index;

/// The smallest segments, so that a short script fills many.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// What an operation does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Read,
    /// Of a whole file.
    ReadFile,
    Write,
    Sync,
    Create,
    Rename,
    Remove,
    WriteFile,
    SyncFolder,
    Index,
}

/// Operations that fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// The first one, counted from 1.
    pub(crate) at: u64,
    /// How many from there on.
    pub(crate) count: u64,
    /// What they return.
    pub(crate) error: io::ErrorKind,
    /// Which they are.
    pub(crate) hits: fn(Kind) -> bool,
}

#[derive(Debug, Clone)]
struct Loose {
    offset: usize,
    bytes: Vec<u8>,
}

/// One file: what is read, what is surely on the disk, and the writes since the last sync.
#[derive(Debug, Clone, Default)]
struct Inode {
    current: Vec<u8>,
    synced: Vec<u8>,
    loose: Vec<Loose>,
}

type Names = BTreeMap<PathBuf, usize>;

/// A change of names that no sync has covered yet: from, to, inode.
type Renamed = (Option<PathBuf>, Option<PathBuf>, usize);

#[derive(Debug, Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    certain: Names,
    pending: Vec<Renamed>,
    /// Folders that were created; `true` once the parent is synced. The store's own is empty.
    folders: BTreeMap<PathBuf, bool>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    operations: u64,
    fault: Option<Fault>,
    hits: u64,
    free_bytes: Option<u64>,
    /// A place of a file that cannot be read.
    bad_byte: Option<(usize, usize)>,
    longest_write: Option<usize>,
    written: u64,
}

/// The disk at a moment: nothing changes it meanwhile.
pub(crate) struct Moment<'a>(&'a State);

/// Called before each operation that changes something, with its number and the disk as it is.
type Watch = Box<dyn FnMut(u64, Kind, Moment<'_>) + Send>;

/// Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    watch: Arc<Mutex<Option<Watch>>>,
    root: Arc<Mutex<PathBuf>>,
    bar: Arc<Mutex<Option<&'static str>>>,
}

/// The disks in use by the folder that they stand for: the engine is opened by path.
static DISKS: Mutex<BTreeMap<PathBuf, SimulatedDisk>> = Mutex::new(BTreeMap::new());

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SimulatedDisk")
    }
}

impl SimulatedDisk {
    pub(crate) fn new() -> Self {
        Self::with(State::default())
    }

    fn with(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            watch: Arc::default(),
            root: Arc::default(),
            bar: Arc::default(),
        }
    }

    /// Options of a store in `folder` that lives on this disk. Only the lock is a real file.
    pub(crate) fn options(&self, folder: &Path) -> Options {
        folder.clone_into(&mut locked(&self.root));
        locked(&DISKS).insert(folder.to_owned(), self.clone());
        Options {
            segment_bytes: SEGMENT_BYTES,
            compact_from_bytes: 2 * SEGMENT_BYTES,
            least_free_bytes: 0,
            disk: Arc::new(self.clone()),
            open_index: index::open,
            ..Options::default()
        }
    }

    /// Calls back before each change from now on.
    pub(crate) fn watch(&self, watch: impl FnMut(u64, Kind, Moment<'_>) + Send + 'static) {
        *locked(&self.watch) = Some(Box::new(watch));
    }

    pub(crate) fn end_watch(&self) {
        *locked(&self.watch) = None;
    }

    /// From now on whoever creates a file with this in its name waits.
    pub(crate) fn bar(&self, name: Option<&'static str>) {
        *locked(&self.bar) = name;
    }

    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut state = locked(&self.state);
        state.fault = fault;
        state.hits = 0;
    }

    /// How many operations have failed.
    pub(crate) fn hits(&self) -> u64 {
        locked(&self.state).hits
    }

    pub(crate) fn operations(&self) -> u64 {
        locked(&self.state).operations
    }

    /// Bytes handed to writes so far.
    pub(crate) fn written(&self) -> u64 {
        locked(&self.state).written
    }

    /// What the disk answers when it is asked for its free space.
    pub(crate) fn set_free_bytes(&self, bytes: u64) {
        locked(&self.state).free_bytes = Some(bytes);
    }

    /// From now on there is no room for longer writes: each ends in its middle.
    pub(crate) fn set_longest_write(&self, bytes: Option<usize>) {
        locked(&self.state).longest_write = bytes;
    }

    /// From now on reads that touch this byte of a file fail.
    pub(crate) fn set_bad_byte(&self, path: &Path, offset: u64) {
        let mut state = locked(&self.state);
        let inode = state.names[path];
        state.bad_byte = Some((inode, offset as usize));
    }

    /// What `kill -9` leaves: everything that was written.
    pub(crate) fn after_kill(&self) -> Self {
        Moment(&locked(&self.state)).after_kill()
    }

    /// One of the disks that a power cut may leave; pieces of `sector` bytes are written whole.
    pub(crate) fn after_power_cut(&self, random: &mut Random, sector: usize) -> Self {
        Moment(&locked(&self.state)).after_power_cut(random, sector)
    }

    /// Paths of all files below the store's folder.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        locked(&self.state).names.keys().cloned().collect()
    }

    /// What `look` finds in the files, all at one moment: a store that is open may remove a file
    /// between two calls.
    pub(crate) fn find<T>(&self, mut look: impl FnMut(&Path, &[u8]) -> Option<T>) -> Vec<T> {
        let state = locked(&self.state);
        let files = state.names.iter();
        files
            .filter_map(|(path, inode)| look(path, &state.inodes[*inode].current))
            .collect()
    }

    /// What a file holds.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = locked(&self.state);
        state.inodes[state.names[path]].current.clone()
    }

    /// Makes a file hold these bytes, as if they had always been there.
    pub(crate) fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = locked(&self.state);
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            current: bytes.clone(),
            synced: bytes,
            loose: Vec::new(),
        });
        state.names.insert(path.to_owned(), inode);
        state.certain.insert(path.to_owned(), inode);
    }

    /// Makes a file missing.
    pub(crate) fn lose(&self, path: &Path) {
        let mut state = locked(&self.state);
        state.names.remove(path);
        state.certain.remove(path);
    }

    /// Changes the rows of the index.
    pub(crate) fn change_rows(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>)) {
        change(&mut locked(&self.state).rows);
    }

    fn sound(state: State) -> State {
        State {
            fault: None,
            hits: 0,
            operations: 0,
            written: 0,
            free_bytes: None,
            longest_write: None,
            ..state
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        let root = locked(&self.root);
        path.strip_prefix(&*root).unwrap_or(path).to_owned()
    }

    /// Counts an operation and fails it when that was asked for.
    fn begin(&self, kind: Kind) -> io::Result<MutexGuard<'_, State>> {
        let mut state = locked(&self.state);
        let changes = ![Kind::Read, Kind::ReadFile].contains(&kind);
        if changes && let Some(watch) = locked(&self.watch).as_mut() {
            watch(state.operations + 1, kind, Moment(&state));
        }
        state.operations += u64::from(changes);
        if let Some(fault) = state.fault
            && state.operations >= fault.at
            && state.hits < fault.count
            && (fault.hits)(kind)
        {
            state.hits += 1;
            return Err(fault.error.into());
        }
        Ok(state)
    }
}

impl Moment<'_> {
    /// Bytes handed to writes so far.
    pub(crate) fn written(&self) -> u64 {
        self.0.written
    }

    /// What `kill -9` leaves: everything that was written. What no sync has covered is in the
    /// kernel's cache alone, so that a power cut may take it still.
    pub(crate) fn after_kill(&self) -> SimulatedDisk {
        SimulatedDisk::with(SimulatedDisk::sound(self.0.clone()))
    }

    /// One of the disks that a power cut may leave; pieces of `sector` bytes are written whole.
    pub(crate) fn after_power_cut(&self, random: &mut Random, sector: usize) -> SimulatedDisk {
        let mut state = self.0.clone();
        let kept = random.below(state.pending.len() as u64 + 1) as usize;
        for change in std::mem::take(&mut state.pending).into_iter().take(kept) {
            change_name(&mut state.certain, &change);
        }
        state.lose_folders(random);
        state.names.clone_from(&state.certain);
        for inode in &mut state.inodes {
            let manner = random.below(4);
            for write in std::mem::take(&mut inode.loose) {
                match manner {
                    0 => {}
                    1 => apply(&mut inode.synced, &write),
                    _ => tear(&mut inode.synced, &write, sector, random),
                }
            }
            inode.current.clone_from(&inode.synced);
        }
        SimulatedDisk::with(SimulatedDisk::sound(state))
    }
}

impl State {
    /// Loses some of the folders whose parents were not synced, with all that is in them.
    fn lose_folders(&mut self, random: &mut Random) {
        let uncertain = self.folders.iter().filter(|(_, is_certain)| !**is_certain);
        let lost: BTreeSet<PathBuf> = uncertain
            .filter(|_| random.below(2) == 0)
            .map(|(folder, _)| folder.clone())
            .collect();
        let is_lost = |path: &Path| path.ancestors().any(|folder| lost.contains(folder));
        self.folders.retain(|folder, _| !is_lost(folder));
        self.folders
            .values_mut()
            .for_each(|is_certain| *is_certain = true);
        self.certain.retain(|path, _| !is_lost(path));
        if is_lost(Path::new("index")) {
            self.rows.clear();
        }
    }
}

fn change_name(names: &mut Names, (from, to, inode): &Renamed) {
    if let Some(from) = from {
        names.remove(from);
    }
    if let Some(to) = to {
        names.insert(to.clone(), *inode);
    }
}

fn apply(bytes: &mut Vec<u8>, write: &Loose) {
    let end = write.offset + write.bytes.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[write.offset..end].copy_from_slice(&write.bytes);
}

/// Writes some sectors: a prefix, or any of them.
fn tear(bytes: &mut Vec<u8>, write: &Loose, sector: usize, random: &mut Random) {
    let end = write.offset + write.bytes.len();
    let sectors = end.div_ceil(sector) - write.offset / sector;
    let is_prefix = random.below(2) == 0;
    let kept = random.below(sectors as u64 + 1) as usize;
    for index in 0..sectors {
        let is_kept = if is_prefix {
            index < kept
        } else {
            random.below(2) == 0
        };
        let place = write.offset / sector + index;
        let (from, to) = (
            (place * sector).max(write.offset),
            ((place + 1) * sector).min(end),
        );
        if is_kept {
            let piece = Loose {
                offset: from,
                bytes: write.bytes[from - write.offset..to - write.offset].to_vec(),
            };
            apply(bytes, &piece);
        }
    }
}
