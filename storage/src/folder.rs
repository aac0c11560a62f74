//! A store's folder: who holds it, where the rows are, how much room is left.
//!
//! ```text
//! lock        the number of the process that uses the folder, under flock
//! rows/       the engine's files                rows.new/   rows being copied; worth nothing until renamed
//! journal     small commits that the rows do not have yet
//! reserve     room to give back on a full disk  rows.old/   rows that were copied whole; worth nothing any more
//! witness     how far the rows had come         rows/copy/  a copy of the engine's snapshot
//! suspect     present when rows could not be read: the next opening looks at every row
//! set-aside/  what could not be read, by date; nothing here is ever deleted by the store
//! ```
//! [`mending`] is what a repair does to them. Relies on rustix for locks and free space.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, StatVfsMountFlags, fallocate, flock, statvfs};

use crate::disk::{Disk, Room, Slot, close};
use crate::engine::{Engine, EngineError, Sled, sync_folder};
use crate::error::OpenError;
use crate::journaled::Journaled;
use crate::rewrite;
use crate::terms::Options;

mod mending;

/// How the note of the last commit begins, which is also the sign that the rows were a store once.
const WITNESS_BEGINS: &str = "cbroker store, commit ";
/// Present when rows could not be read.
const SUSPECT: &str = "suspect";
/// Given back when the disk is full, so that the engine can be opened again.
const RESERVE_BYTES: u64 = 8 << 20;
/// Below a quarter of the free bytes that are asked for, nothing is written at all.
const HOLD_SHARE: u64 = 4;
/// Rows are copied to a new place when the engine occupies so many times what is alive.
const COMPACT_SHARE: u64 = 4;
/// More is not copied while clients wait.
const COMPACT_LIVE_BYTES: u64 = 32 << 20;

/// A folder that this process holds.
pub(crate) struct Folder {
    path: PathBuf,
    options: Options,
    /// The last note of how far the rows have come.
    witnessed: Option<u64>,
    /// What the engine occupied after the last compaction: below twice that, another one is pointless.
    compacted_bytes: u64,
    _lock: File,
}

impl Folder {
    /// Creates the folder where it is missing, and takes its lock.
    pub(crate) fn hold(path: &Path, options: Options) -> Result<Self, OpenError> {
        let failed = |doing| {
            move |source| OpenError::Io {
                folder: path.to_owned(),
                doing,
                source,
            }
        };
        fs::create_dir_all(path).map_err(failed("created"))?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"));
        let mut lock = lock.map_err(failed("locked"))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed("locked")(error.into()));
            }
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            return Err(OpenError::InUse {
                folder: path.to_owned(),
                holder: holder.trim().parse().ok(),
            });
        }
        // On a full disk the number stays out: the lock holds all the same.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self {
            path: path.to_owned(),
            options,
            witnessed: None,
            compacted_bytes: 0,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn rows(&self) -> PathBuf {
        self.path.join("rows")
    }

    fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Opens an engine in a folder that must not exist yet.
    pub(crate) fn open_copy(&self) -> Result<(PathBuf, Sled), EngineError> {
        let new = self.path.join("rows.new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|error| EngineError::from(&error))?;
        }
        let engine = Sled::open(&new, self.options.cache_bytes)?;
        Ok((new, engine))
    }

    /// Opens the engine as it is, without any repair.
    pub(crate) fn open_rows(&self) -> Result<Journaled, EngineError> {
        let engine = Journaled::open(&self.rows(), &self.journal(), self.options.cache_bytes)?;
        sync_folder(&self.path).map_err(|error| EngineError::from(&error))?;
        Ok(engine)
    }

    /// Puts fresh rows in the place of the old ones; `give_way` moves or removes those.
    pub(crate) fn swap(
        &self,
        new: &Path,
        give_way: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        give_way(&self.rows())?;
        fs::rename(new, self.rows())?;
        sync_folder(&self.path)
    }

    /// How far the rows had come when that was last noted.
    pub(crate) fn witnessed(&self) -> Option<u64> {
        let text = fs::read_to_string(self.path.join("witness")).ok()?;
        text.strip_prefix(WITNESS_BEGINS)?.trim_end().parse().ok()
    }

    /// Keeps a copy of the engine's snapshot: without one the engine forgets most of what it holds. It lies among the rows, which may
    /// be exchanged: a snapshot of other rows is worse than none.
    pub(crate) fn keep_snapshot(&self) -> io::Result<()> {
        keep_snapshot_of(&self.rows())
    }

    /// Whether rows could not be read since the folder was last found sound.
    pub(crate) fn is_suspect(&self) -> bool {
        self.path.join(SUSPECT).exists()
    }

    /// Every row was looked at, and what could not be read has been dealt with.
    pub(crate) fn trust(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(SUSPECT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes the reserve, where there is room for it.
    pub(crate) fn keep_reserve(&self) {
        let reserve = self.path.join("reserve");
        if fs::metadata(&reserve).is_ok_and(|found| found.len() == RESERVE_BYTES) {
            return;
        }
        let kept = File::create(&reserve).and_then(|file| {
            fallocate(file, FallocateFlags::empty(), 0, RESERVE_BYTES).map_err(io::Error::from)
        });
        if kept.is_err() {
            // Half a reserve only takes room away.
            let _ = fs::remove_file(reserve);
        }
    }

    fn free_bytes(&self) -> u64 {
        // Where the system does not say, the engine's own errors decide.
        statvfs(&self.path).map_or(u64::MAX, |found| {
            if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
                0
            } else {
                found.f_bavail.saturating_mul(found.f_frsize)
            }
        })
    }
}

impl Disk for Folder {
    fn open(&mut self) -> Result<Arc<dyn Engine>, EngineError> {
        let _ = fs::remove_file(self.path.join("reserve"));
        Ok(Arc::new(self.open_rows()?))
    }

    fn room(&mut self) -> Room {
        let least_free_bytes = self.options.least_free_bytes;
        match self.free_bytes() {
            free if free < least_free_bytes / HOLD_SHARE => Room::None,
            free if free < least_free_bytes => Room::Little,
            free if free < least_free_bytes.saturating_add(least_free_bytes / 4) => Room::Enough,
            _ => Room::Plenty,
        }
    }

    fn restore(&mut self) {
        self.keep_reserve();
    }

    fn settle_in(&mut self) {
        if let Err(error) = self.keep_snapshot() {
            tracing::warn!("the engine's snapshot could not be copied: {error}");
        }
        self.keep_reserve();
    }

    fn witness(&mut self, serial: u64) {
        if self.witnessed == Some(serial) {
            return;
        }
        let (new, witness) = (self.path.join("witness.new"), self.path.join("witness"));
        let text = format!("{WITNESS_BEGINS}{serial}\n");
        let written = write_synced(&new, text.as_bytes())
            .and_then(|()| fs::rename(&new, &witness))
            .and_then(|()| sync_folder(&self.path));
        match written {
            Ok(()) => self.witnessed = Some(serial),
            // It is a second safety: an older note is still true.
            Err(error) => tracing::warn!("how far the store has come could not be noted: {error}"),
        }
    }

    fn suspect(&mut self) {
        if let Err(error) = File::create(self.path.join(SUSPECT)) {
            tracing::error!("the damaged store could not be marked for the next start: {error}");
        }
    }

    fn refresh(&mut self, engine: &Slot) -> Result<(), EngineError> {
        engine.replace(|rows| {
            close(rows);
            let rows = self.open_rows()?;
            self.keep_snapshot()
                .map_err(|error| EngineError::from(&error))?;
            Ok(Arc::new(rows))
        })
    }

    fn wants_compaction(&self, live_bytes: u64, disk_bytes: u64) -> bool {
        disk_bytes >= self.options.compact_from_bytes
            && disk_bytes / COMPACT_SHARE > live_bytes
            && disk_bytes / 2 > self.compacted_bytes
            && live_bytes <= COMPACT_LIVE_BYTES
            && self.free_bytes() > live_bytes.saturating_mul(4).saturating_add(RESERVE_BYTES)
    }

    fn compact(&mut self, engine: &Slot) -> Result<(), EngineError> {
        let failed = |error: io::Error| EngineError::from(&error);
        let rows = engine.get()?;
        let (new, copy) = self.open_copy()?;
        let copied = rewrite::copy(rows.as_ref(), &copy);
        drop(copy);
        drop(rows);
        // Opened once more it has a snapshot of all that was copied, and that one has a copy before anybody relies on it.
        let copied = copied.and_then(|()| {
            drop(Sled::open(&new, self.options.cache_bytes)?);
            keep_snapshot_of(&new).map_err(failed)
        });
        if let Err(error) = copied {
            fs::remove_dir_all(&new).map_err(failed)?;
            return Err(error);
        }
        engine.replace(|rows| {
            close(rows);
            let old = self.path.join("rows.old");
            self.swap(&new, |rows| fs::rename(rows, &old))
                .map_err(failed)?;
            let rows = self.open_rows()?;
            self.keep_snapshot().map_err(failed)?;
            self.compacted_bytes = rows.disk_bytes();
            fs::remove_dir_all(&old).map_err(failed)?;
            Ok(Arc::new(rows))
        })
    }
}

/// Where the copy of the engine's snapshot lies in a folder of rows.
fn kept_in(rows: &Path) -> PathBuf {
    rows.join("copy")
}

fn keep_snapshot_of(rows: &Path) -> io::Result<()> {
    let kept = kept_in(rows);
    let Some(snapshot) = snapshot_in(rows)? else {
        return Ok(());
    };
    let copy = kept.join(snapshot.file_name().unwrap_or_default());
    if copy.exists() {
        return Ok(());
    }
    fs::create_dir_all(&kept)?;
    let new = kept.join("new");
    write_synced(&new, &fs::read(&snapshot)?)?;
    let old = snapshot_in(&kept)?;
    fs::rename(new, copy)?;
    if let Some(old) = old {
        fs::remove_file(old)?;
    }
    sync_folder(&kept)?;
    sync_folder(rows)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The engine's snapshot in a folder, which may be absent.
fn snapshot_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with("snap."))
        {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}
