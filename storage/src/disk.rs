//! The file system as the store uses it, and the lock of a folder.
//!
//! Every operation on the log and on `definitions.json` goes through [`Disk`], so that tests can
//! fail each of them. Only the lock and sled use the file system directly. What each operating
//! system is asked for in its own way stands at the end.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, StatVfsMountFlags, fallocate, flock, statvfs};
use rustix::io::Errno;

use crate::terms::OpenError;

/// Only the user that runs the store may read its files.
const MODE: u32 = 0o600;

/// An open file. All calls take `&self`: readers and the writer share it.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads up to `buffer.len()` bytes at an offset; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// A file system.
pub trait Disk: Debug + Send + Sync {
    /// Paths of the files in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file and allocates its blocks, without writing them; synced, its folder is not.
    fn create(&self, path: &Path, length: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Writes and syncs a file, in place of one of that name.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Reads a whole file.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Renames a file or folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and its parents where they are missing.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Free bytes; 0 where nothing can be written, `u64::MAX` where the system does not say.
    fn free_bytes(&self, path: &Path) -> u64;
    /// Whether what was written is surely overwritten where it lies, also on a full disk.
    fn writes_in_place(&self, path: &Path) -> bool;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileDisk;

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.mode(MODE).open(path)
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        platform::sync_data(self)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Disk for FileDisk {
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn create(&self, path: &Path, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = create(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, length) {
            // A file system that cannot allocate ahead: the file grows as it is written.
            Err(error) if platform::cannot_allocate(error) => file.set_len(length)?,
            outcome => outcome?,
        }
        platform::sync_all(&file)?;
        Ok(Arc::new(file))
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = create(path)?;
        file.write_all(bytes)?;
        platform::sync_all(&file)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        platform::sync_all(&File::open(path)?)
    }

    fn writes_in_place(&self, path: &Path) -> bool {
        platform::writes_in_place(path)
    }

    fn free_bytes(&self, path: &Path) -> u64 {
        statvfs(path).map_or(u64::MAX, |found| {
            if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
                0
            } else {
                found.f_bavail.saturating_mul(found.f_frsize)
            }
        })
    }
}

/// Whether an error means that the disk has no room, or is read-only, or that no more files may be
/// open: it may come back.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    let too_many = [Errno::MFILE, Errno::NFILE].map(|error| Some(error.raw_os_error()));
    too_many.contains(&error.raw_os_error())
        || matches!(
            error.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge
                | io::ErrorKind::ReadOnlyFilesystem
        )
}

/// Whether opening failed for a reason unrelated to the file's contents.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::OutOfMemory];
    is_no_room(error) || kinds.contains(&error.kind())
}

/// An open file of the log.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) length: u64,
}

impl LogFile {
    /// Reads `buffer.len()` bytes at an offset; what lies behind the end of the file stays as it
    /// is.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Reads like [`read`](Self::read), after a failure piece by piece: it may pass, or be of one
    /// sector. Returns the first that stays; the piece is left as it is.
    pub(crate) fn read_pieces(
        &self,
        buffer: &mut [u8],
        offset: u64,
        length: usize,
    ) -> io::Result<()> {
        let mut outcome = Ok(());
        if self.read(buffer, offset).is_err() {
            for (at, piece) in (offset..).step_by(length).zip(buffer.chunks_mut(length)) {
                outcome = outcome.and(self.read(piece, at).map(drop));
            }
        }
        outcome
    }

    /// Writes bytes at an offset and makes them durable.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        self.file.sync()
    }
}

/// What became of something damaged, as the end of a sentence.
pub(crate) fn kept_text(place: io::Result<PathBuf>) -> String {
    match place {
        Ok(place) => format!("kept in {}", place.display()),
        Err(error) => format!("not set aside: {error}"),
    }
}

/// Moves a damaged file or folder under `set-aside/`. Returns its new place.
pub(crate) fn set_aside(disk: &dyn Disk, folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let aside = folder.join("set-aside");
    disk.create_folder(&aside)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let taken = disk.list(&aside)?;
    let mut places = (1_u32..).map(|number| aside.join(format!("{name}-{number}")));
    let to = places.find(|place| !taken.contains(place));
    let to = to.unwrap_or_else(|| aside.join("last"));
    disk.rename(path, &to)?;
    disk.sync_folder(&aside)?;
    disk.sync_folder(folder)?;
    Ok(to)
}

/// Bytes from a number that a file or memory can hold.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Locks a mutex. What a thread that panicked has left is used as it is.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates the folder where it is missing and locks it for this process.
pub(crate) fn lock_folder(folder: &Path) -> Result<File, OpenError> {
    let failed = |doing| OpenError::io(folder, doing);
    fs::create_dir_all(folder).map_err(failed("created"))?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut lock = options
        .open(folder.join("lock"))
        .map_err(failed("locked"))?;
    if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK {
            return Err(failed("locked")(error.into()));
        }
        let mut holder = String::new();
        let _ = lock.read_to_string(&mut holder);
        return Err(OpenError::InUse {
            folder: folder.to_owned(),
            holder: holder.trim().parse().ok(),
        });
    }
    // On a full disk the number stays out: the lock holds all the same.
    let _ = lock
        .set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("the store runs on Linux and macOS");

/// Linux.
#[cfg(target_os = "linux")]
mod platform {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::statfs;
    use rustix::io::Errno;

    /// The numbers of ext4 and xfs. btrfs writes nothing over what was written.
    const IN_PLACE: [i64; 2] = [0xEF53, 0x5846_5342];

    /// Makes what was written to a file durable.
    pub(crate) fn sync_data(file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Like [`sync_data`], with all metadata of the file or folder.
    pub(crate) fn sync_all(file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Whether the file system has no way to allocate blocks ahead.
    pub(crate) fn cannot_allocate(error: Errno) -> bool {
        matches!(error, Errno::OPNOTSUPP | Errno::NOSYS)
    }

    /// Whether what was written is surely overwritten where it lies.
    pub(crate) fn writes_in_place(path: &Path) -> bool {
        statfs(path).is_ok_and(|found| IN_PLACE.contains(&found.f_type))
    }
}

/// macOS: compiled for it, and not yet run there.
#[cfg(target_os = "macos")]
mod platform {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::{fcntl_fullfsync, fsync};
    use rustix::io::{Errno, retry_on_intr};

    /// Makes what was written to a file durable. `fsync` alone leaves it in the drive's cache.
    pub(crate) fn sync_data(file: &File) -> io::Result<()> {
        match retry_on_intr(|| fcntl_fullfsync(file)) {
            // File systems of other machines and old drives have no more than `fsync`.
            Err(Errno::NOTSUP | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => {
                Ok(retry_on_intr(|| fsync(file))?)
            }
            outcome => Ok(outcome?),
        }
    }

    /// Like [`sync_data`], with all metadata of the file or folder.
    pub(crate) fn sync_all(file: &File) -> io::Result<()> {
        sync_data(file)
    }

    /// Whether the file system has no way to allocate blocks ahead.
    pub(crate) fn cannot_allocate(error: Errno) -> bool {
        matches!(
            error,
            Errno::NOTSUP | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS
        )
    }

    /// Whether what was written is surely overwritten where it lies: APFS writes elsewhere.
    pub(crate) fn writes_in_place(_path: &Path) -> bool {
        false
    }
}
