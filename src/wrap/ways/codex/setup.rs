//! What the way of Codex has to know: its home, its program, and the folder by which the session's
//! thread is known.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder of this session's own. Codex is started with it, so that its thread is known by it.
#[derive(Debug)]
pub struct Mark {
    pub(super) folder: PathBuf,
}

impl Mark {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// What Codex is started with.
    pub fn arguments(&self) -> [OsString; 2] {
        ["--add-dir".into(), self.folder.clone().into()]
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // An agent may have put something into it; that is not ours to remove.
        let _is_not_empty = fs::remove_dir(&self.folder);
    }
}

/// What the way has to know.
#[derive(Debug)]
pub struct Setup {
    /// The folder of Codex's own files.
    pub home: PathBuf,
    /// The program, for `codex queue`.
    pub program: OsString,
    /// The folder by which our thread is known.
    pub mark: Mark,
}

/// Codex's own folder, as its environment says.
pub fn home(codex_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let named = codex_home.filter(|path| path.is_absolute());
    named
        .map(Path::to_owned)
        .or_else(|| Some(home?.join(".codex")))
}
