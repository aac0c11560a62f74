//! The rows of the index, and sled 0.34.7 as the engine that keeps them.
//!
//! The rest of the crate knows [`Engine`] only; this is the only file that names sled. sled's
//! `flush` is not a sync on Linux, so every step ends with an `fdatasync` of our own. Values above
//! about 7,500 bytes would become files that sled never syncs, so no row is longer than 6,900
//! bytes.

use std::any::Any;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use bytes::Bytes;

use crate::disk::{Disk, FileDisk};

/// A key, and its new value or none. Of two changes of the same key in one step the later one
/// counts.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Ordered rows that change in atomic, durable commits. After an error the engine must not be used
/// for writing again: nothing of that commit is promised, and everything before it is kept.
pub trait Engine: Send {
    /// Applies changes, all or none, and returns when they are durable.
    fn commit(&self, changes: &[Change]) -> io::Result<()>;
    /// Visits the rows of a range of keys (the end is excluded) in order, until the visitor breaks.
    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> io::Result<()>;
}

/// Called with each row of a scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>;

/// Bytes of one segment of sled's file. Values of up to a quarter of it, sixteen together, stay
/// inside the file.
pub(crate) const SEGMENT_BYTES: usize = 512 * 1024;

/// Bytes that sled may keep in memory: a row is written once and read at the opening alone.
const CACHE_BYTES: u64 = 1 << 20;

/// Opens an engine in a folder.
pub type OpenIndex = fn(&Path) -> io::Result<Box<dyn Engine>>;

/// Opens or creates the rows of sled in a folder. A panic of sled's comes back as an error.
pub fn open_sled(folder: &Path) -> io::Result<Box<dyn Engine>> {
    guarded(|| {
        // A kill during an opening leaves one unfinished, which can make the next opening fail.
        for snapshot in snapshots(folder) {
            if snapshot
                .extension()
                .is_some_and(|kind| kind == "generating")
            {
                let _ = std::fs::remove_file(snapshot);
            }
        }
        let config = sled::Config::new().path(folder).segment_size(SEGMENT_BYTES);
        let db = config
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(folder.join("db"))?;
        db.flush()?;
        file.sync_all()?;
        FileDisk.sync_folder(folder)?;
        let sled: Box<dyn Engine> = Box::new(Sled { db: Some(db), file });
        Ok(sled)
    })
}

/// sled, with the syncs that it leaves out.
struct Sled {
    /// Taken when it is closed.
    db: Option<sled::Db>,
    file: File,
}

impl Drop for Sled {
    fn drop(&mut self) {
        let db = self.db.take();
        // sled flushes when it is dropped and panics if that fails. What was promised is synced
        // already.
        let _ = guarded(|| {
            drop(db);
            Ok(())
        });
    }
}

impl Engine for Sled {
    /// Synced each time: sled treats what it has written as durable and overwrites what that
    /// replaced. If a power cut keeps the overwriting and not the first write, rows are lost.
    fn commit(&self, changes: &[Change]) -> io::Result<()> {
        guarded(|| {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                    None => batch.remove(key.as_slice()),
                }
            }
            self.db()?.apply_batch(batch)?;
            self.db()?.flush()?;
            self.file.sync_data()
        })
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> io::Result<()> {
        guarded(|| {
            for row in self.db()?.range(from..until) {
                let (key, value) = row?;
                IS_GUARDED.set(false);
                let flow = visit(&key, Bytes::from_owner(value));
                IS_GUARDED.set(true);
                if flow.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }
}

impl Sled {
    fn db(&self) -> io::Result<&sled::Db> {
        let closed = || io::Error::other("the engine was closed");
        self.db.as_ref().ok_or_else(closed)
    }
}

/// sled's snapshots of its page table, which it can rebuild.
pub(crate) fn snapshots(folder: &Path) -> Vec<PathBuf> {
    let mut paths = FileDisk.list(folder).unwrap_or_default();
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_owned();
    paths.retain(|path| name(path).to_string_lossy().starts_with("snap."));
    paths
}

thread_local! {
    /// This thread is in a call of sled's, whose panics come back as errors.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A panic becomes an error, which the caller reports, so the panic's own message is not printed.
/// Panics outside such calls, also on other threads at the same time, are printed as usual.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let ordinary = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !IS_GUARDED.get() {
                ordinary(about);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(was_guarded);
    outcome.unwrap_or_else(|panic| Err(io::Error::other(panic_text(panic.as_ref()))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine panicked: {}", text.unwrap_or("no reason given"))
}
