//! A store's folder: who holds it, where the rows are, how much room is left.
//!
//! ```text
//! lock        the number of the process that uses the folder, under flock
//! rows/       the engine's files                rows.new/   rows being copied; worth nothing until renamed
//! reserve     room to give back on a full disk  rows.old/   rows that were copied whole; worth nothing any more
//! witness     how far the rows had come            snapshot/   a copy of the engine's snapshot
//! suspect     present when rows could not be read: the next opening looks at every row
//! set-aside/  what could not be read, by date; nothing here is ever deleted by the store
//! ```
//! Relies on rustix for locks and free space.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation, StatVfsMountFlags, fallocate, flock, statvfs};

use crate::disk::{Disk, Room, Slot, close};
use crate::engine::{Engine, EngineError, Sled, sync_folder};
use crate::error::OpenError;
use crate::rewrite;
use crate::segments::{self, Tip};

/// How the note of the last commit begins, which is also the sign that the rows were a store once.
const WITNESS_BEGINS: &str = "cbroker store, commit ";
/// Present when rows could not be read.
const SUSPECT: &str = "suspect";
/// Given back when the disk is full, so that the engine can be opened again.
const RESERVE_BYTES: u64 = 8 << 20;
/// Below a quarter of the free bytes that are asked for, nothing is written at all.
const HOLD_SHARE: u64 = 4;
/// Rows are copied to a new place when the engine occupies more than this, and so many times what is alive.
const COMPACT_FROM_BYTES: u64 = 64 << 20;
const COMPACT_SHARE: u64 = 4;
/// More is not copied while clients wait.
const COMPACT_LIVE_BYTES: u64 = 32 << 20;

/// A folder that this process holds.
pub(crate) struct Folder {
    path: PathBuf,
    cache_bytes: u64,
    least_free_bytes: u64,
    /// The last note of how far the rows have come.
    witnessed: Option<u64>,
    /// What the engine occupied after the last compaction: below twice that, another one is pointless.
    compacted_bytes: u64,
    _lock: File,
}

impl Folder {
    /// Creates the folder where it is missing, and takes its lock.
    pub(crate) fn hold(
        path: &Path,
        cache_bytes: u64,
        least_free_bytes: u64,
    ) -> Result<Self, OpenError> {
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
            cache_bytes,
            least_free_bytes,
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

    /// Finishes or undoes a copying that a crash interrupted. Returns what was done.
    pub(crate) fn settle_copies(&self) -> io::Result<Option<&'static str>> {
        let (rows, new, old) = (
            self.rows(),
            self.path.join("rows.new"),
            self.path.join("rows.old"),
        );
        let done = match (rows.exists(), new.exists(), old.exists()) {
            (false, true, true) => {
                // The old rows were moved away only after the new ones had been synced.
                fs::rename(&new, &rows)?;
                fs::remove_dir_all(&old)?;
                "finished a compaction that was interrupted"
            }
            (true, _, true) => {
                fs::remove_dir_all(&old)?;
                "removed the rows that a compaction had copied"
            }
            (true, true, false) => {
                fs::remove_dir_all(&new)?;
                "removed an unfinished copy of the rows"
            }
            (false, false, true) => {
                fs::rename(&old, &rows)?;
                "took back the rows before an interrupted compaction"
            }
            (false, true, false) | (_, false, false) => return Ok(None),
        };
        sync_folder(&self.path)?;
        Ok(Some(done))
    }

    /// Opens an engine in a folder that must not exist yet.
    pub(crate) fn open_copy(&self) -> Result<(PathBuf, Sled), EngineError> {
        let new = self.path.join("rows.new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|error| EngineError::from(&error))?;
        }
        let engine = Sled::open(&new, self.cache_bytes)?;
        Ok((new, engine))
    }

    /// Opens the engine as it is, without any repair.
    pub(crate) fn open_rows(&self) -> Result<Sled, EngineError> {
        let engine = Sled::open(&self.rows(), self.cache_bytes)?;
        sync_folder(&self.path).map_err(|error| EngineError::from(&error))?;
        Ok(engine)
    }

    /// Moves the rows to a dated place where they are kept. Returns the place.
    pub(crate) fn set_aside(&self) -> io::Result<PathBuf> {
        let place = self.dated_place()?;
        let kept = place.join("rows");
        fs::rename(self.rows(), &kept)?;
        sync_folder(&place)?;
        sync_folder(&self.path)?;
        Ok(kept)
    }

    /// Copies the engine's files to a dated place where they are kept. Returns the place.
    pub(crate) fn copy_aside(&self) -> io::Result<PathBuf> {
        let place = self.dated_place()?;
        for entry in fs::read_dir(self.rows())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let copy = place.join(entry.file_name());
                fs::copy(entry.path(), &copy)?;
                File::open(copy)?.sync_all()?;
            }
        }
        sync_folder(&place)?;
        Ok(place)
    }

    fn dated_place(&self) -> io::Result<PathBuf> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("{}-{:09}", date(now.as_secs()), now.subsec_nanos());
        let place = self.path.join("set-aside").join(name);
        fs::create_dir_all(&place)?;
        Ok(place)
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

    /// Keeps a copy of the engine's snapshot: without one the engine forgets most of what it holds.
    pub(crate) fn keep_snapshot(&self) -> io::Result<()> {
        let kept = self.path.join("snapshot");
        let Some(snapshot) = snapshot_in(&self.rows())? else {
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
        sync_folder(&kept)
    }

    /// Puts the copy in the place of the engine's snapshots. `false` where there is none.
    pub(crate) fn restore_snapshot(&self) -> io::Result<bool> {
        let Some(copy) = snapshot_in(&self.path.join("snapshot"))? else {
            return Ok(false);
        };
        self.remove_snapshots()?;
        write_synced(
            &self.rows().join(copy.file_name().unwrap_or_default()),
            &fs::read(&copy)?,
        )?;
        sync_folder(&self.rows())?;
        Ok(true)
    }

    /// Takes out of the rows what came after their snapshot, of which all a copy was kept. `false` where there is no snapshot.
    pub(crate) fn forget_log(&self) -> io::Result<bool> {
        let snapshot = snapshot_in(&self.rows())?;
        let Some(name) = snapshot
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
        else {
            return Ok(false);
        };
        segments::forget_log(&self.rows(), name)?;
        Ok(true)
    }

    /// The part of the rows that the engine may overwrite while it is opened and fails.
    pub(crate) fn tip(&self) -> io::Result<Option<Tip>> {
        let snapshot = snapshot_in(&self.rows())?;
        match snapshot
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
        {
            Some(name) if self.rows().join("db").exists() => segments::tip(&self.rows(), name),
            _ => Ok(None),
        }
    }

    /// Puts that part back as it was.
    pub(crate) fn restore_tip(&self, tip: &Tip) -> io::Result<()> {
        segments::restore(&self.rows(), tip)
    }

    /// Removes the engine's snapshots, of which a copy was kept.
    pub(crate) fn remove_snapshots(&self) -> io::Result<()> {
        while let Some(snapshot) = snapshot_in(&self.rows())? {
            fs::remove_file(snapshot)?;
        }
        Ok(())
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
        match self.free_bytes() {
            free if free < self.least_free_bytes / HOLD_SHARE => Room::None,
            free if free < self.least_free_bytes => Room::Little,
            free if free
                < self
                    .least_free_bytes
                    .saturating_add(self.least_free_bytes / 4) =>
            {
                Room::Enough
            }
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
        disk_bytes >= COMPACT_FROM_BYTES
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

/// A day and time of UTC as `2026-11-22T21-45-09`: sortable, and a good file name.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day ends a year (proleptic Gregorian calendar).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00-00-00");
        assert_eq!(date(951_782_399), "2000-02-28T23-59-59");
        assert_eq!(date(951_782_400), "2000-02-29T00-00-00");
        assert_eq!(date(1_795_384_709), "2026-11-22T21-58-29");
    }
}
