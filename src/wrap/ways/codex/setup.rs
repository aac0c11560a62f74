//! The parameters of the way into Codex: its home, its program, and the folder that marks the
//! session's thread.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder that marks the session's thread: Codex is started with it, and the daemon lists it as a
/// root of the thread.
#[derive(Debug)]
pub struct ThreadMarker {
    pub(super) folder: PathBuf,
}

impl ThreadMarker {
    /// Creates the folder.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// The arguments that Codex is started with.
    pub fn arguments(&self) -> [OsString; 2] {
        ["--add-dir".into(), self.folder.clone().into()]
    }
}

impl Drop for ThreadMarker {
    fn drop(&mut self) {
        // Files that the agent put into it must not be removed.
        let _is_not_empty = fs::remove_dir(&self.folder);
    }
}

/// The parameters of the way.
#[derive(Debug)]
pub struct Setup {
    /// The folder of Codex's own files.
    pub home: PathBuf,
    /// The program, for `codex queue`.
    pub program: OsString,
    /// The folder that marks the session's thread.
    pub marker: ThreadMarker,
}

/// Codex's own folder, according to its environment.
pub fn home(codex_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let named = codex_home.filter(|path| path.is_absolute());
    named
        .map(Path::to_owned)
        .or_else(|| Some(home?.join(".codex")))
}
