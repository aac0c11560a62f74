//! A store's folder: who holds it, where the rows are, how much room is left.
//!
//! `lock` holds the number of the process that uses the folder, `rows/` belongs to the engine. Relies on rustix for locks and free space.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::disk::{Disk, Slot};
use crate::engine::{Engine, EngineError, Sled};
use crate::error::OpenError;

/// A folder that this process holds.
pub(crate) struct Folder {
    path: PathBuf,
    cache_bytes: u64,
    least_free_bytes: u64,
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
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(failed("locked"))?;
        Ok(Self {
            path: path.to_owned(),
            cache_bytes,
            least_free_bytes,
            _lock: lock,
        })
    }

    fn free_bytes(&self) -> u64 {
        statvfs(&self.path).map_or(u64::MAX, |found| {
            found.f_bavail.saturating_mul(found.f_frsize)
        })
    }
}

impl Disk for Folder {
    fn open(&mut self) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(Sled::open(
            &self.path.join("rows"),
            self.cache_bytes,
        )?))
    }

    fn has_room(&mut self) -> bool {
        self.free_bytes() >= self.least_free_bytes
    }

    fn has_room_again(&mut self) -> bool {
        self.free_bytes() >= self.least_free_bytes.saturating_mul(2)
    }

    fn wants_compaction(&self, _live_bytes: u64, _disk_bytes: u64) -> bool {
        false
    }

    fn compact(&mut self, _engine: &Slot) -> Result<(), EngineError> {
        Ok(())
    }
}
