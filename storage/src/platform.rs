//! What each operating system is asked for in its own way, with the same functions.

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("the store runs on Linux and macOS");
pub(crate) use system::{cannot_allocate, sync_all, sync_data, writes_in_place};

/// Linux.
#[cfg(target_os = "linux")]
mod system {
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

    /// The same, with all that the file system knows of the file or folder.
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

/// macOS. Compiled for it, and not yet run there.
#[cfg(target_os = "macos")]
mod system {
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

    /// The same, with all that the file system knows of the file or folder.
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
