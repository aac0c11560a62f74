//! A store's folder: who holds it, where the rows are, how much room is left.
//!
//! ```text
//! lock        the number of the process that uses the folder, under flock
//! rows/       the engine's files                rows.new/   rows being copied; worth nothing until renamed
//! reserve     room to give back on a full disk  rows.old/   rows that were copied whole; worth nothing any more
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

    /// Moves a file or folder to a dated place where it is kept. Returns the place.
    pub(crate) fn set_aside(&self, what: &Path) -> io::Result<PathBuf> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let place = self.path.join("set-aside").join(format!(
            "{}-{:09}",
            date(now.as_secs()),
            now.subsec_nanos()
        ));
        fs::create_dir_all(&place)?;
        let kept = place.join(what.file_name().unwrap_or_default());
        fs::rename(what, &kept)?;
        sync_folder(&self.path)?;
        Ok(kept)
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
            self.compacted_bytes = rows.disk_bytes();
            fs::remove_dir_all(&old).map_err(failed)?;
            Ok(Arc::new(rows))
        })
    }
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
