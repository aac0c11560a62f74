//! Decides which folders belong to cbroker: those that it made, and empty ones that a user named.
//!
//! A user may name any path, even `/tmp`. A folder with files that are not cbroker's is not
//! changed, and neither are its permissions. A folder that cbroker uses contains [`MARK`] from then
//! on.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The file that marks a folder as cbroker's.
const MARK: &str = ".cbroker-folder";
const MARK_TEXT: &[u8] = b"cbroker made this folder, and changes and deletes what is in it.\n";
/// What a file system puts into its own root: a mounted disk is as empty as a new folder.
const LOST_AND_FOUND: &str = "lost+found";
const WRITABLE_BY_ALL: u32 = 0o002;

/// What cbroker keeps in a folder of one kind. Homes and stores without a mark are known by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct FolderKind {
    /// Names that few other folders have; one of them at least is there.
    telling: &'static [&'static str],
    /// Names that other folders have too.
    common: &'static [&'static str],
    /// A folder with files that begin in a way that no others do.
    marked: Option<(&'static str, &'static [u8])>,
    /// The folder's own usual name, if that alone tells what it is.
    usual_name: Option<&'static str>,
}

/// `~/.cbroker`.
pub(super) const HOME: FolderKind = FolderKind {
    telling: &["credentials", "broker.json", "config.toml", "dlq", "spill"],
    common: &[
        "agents",
        "broker.sock",
        "data",
        "logs",
        "management.sock",
        "sessions",
        "start.lock",
    ],
    marked: None,
    // Its user may have put profiles of agents there before the first start.
    usual_name: Some(".cbroker"),
};

/// The store of the embedded broker, in its format of today and in the first one, which is refused
/// by name.
const STORE: FolderKind = FolderKind {
    telling: &[
        "definitions.json",
        "witness",
        "rows",
        "rows.new",
        "rows.old",
    ],
    common: &[
        "index",
        "journal",
        "lock",
        "log",
        "reserve",
        "set-aside",
        "suspect",
    ],
    // Every segment of the log begins so (docs/storage.md).
    marked: Some(("log", b"cbrklog")),
    usual_name: None,
};

/// Why a folder is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// It holds this, which cbroker did not put there.
    #[error("it is not cbroker's: it holds `{0}`; choose a new or an empty folder")]
    Holds(String),
    /// Everybody may write to it, and may have put there what is in it.
    #[error("every user of this machine may write to it; choose a new folder")]
    Shared,
    /// Another user owns it, and could put anything in its place.
    #[error("it belongs to the user with number {0}; choose a folder of your own")]
    OfAnother(u32),
    /// Another user put this there.
    #[error("it holds `{name}` of the user with number {owner}; choose a new folder")]
    HoldsForeign {
        /// The name in the folder.
        name: String,
        /// Whose it is.
        owner: u32,
    },
}

/// Why this folder is not ours to use. `None`: it is, or it is not there yet. Changes nothing.
pub(super) fn objection(folder: &Path, kind: FolderKind) -> io::Result<Option<NotOurs>> {
    let about = match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        about => about?,
    };
    let own = rustix::process::geteuid();
    // Root may use what is a user's, as under `sudo`.
    if about.uid() != own.as_raw() && !own.is_root() {
        return Ok(Some(NotOurs::OfAnother(about.uid())));
    }
    if about.mode() & WRITABLE_BY_ALL != 0 {
        return Ok(Some(NotOurs::Shared));
    }
    let (mut names, mut is_marked) = (Vec::new(), false);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // The members of its group may be able to write there.
        match entry.metadata().map(|entry| entry.uid()) {
            Ok(owner) if ![0, own.as_raw(), about.uid()].contains(&owner) => {
                return Ok(Some(NotOurs::HoldsForeign { name, owner }));
            }
            // Gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            owner => drop(owner?),
        }
        is_marked |= name == MARK;
        if name != LOST_AND_FOUND {
            names.push(name);
        }
    }
    if is_marked || names.is_empty() {
        return Ok(None);
    }
    let foreign = names.iter().find(|name| !kind.knows(name));
    let has_name = |name: &String| is_one_of(name, kind.telling);
    let is_told = || names.iter().any(has_name) || kind.is_marked(folder) || kind.is_usual(folder);
    Ok(match foreign {
        Some(name) => Some(NotOurs::Holds(name.clone())),
        None if !is_told() => Some(NotOurs::Holds(names.swap_remove(0))),
        None => None,
    })
}

/// Makes the folder where it is missing, readable by its owner only, and marks it. One that is
/// there and not ours is refused: the error's source is a [`NotOurs`].
pub(super) fn claim(folder: &Path, kind: FolderKind) -> io::Result<()> {
    if let Some(objection) = objection(folder, kind)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, objection));
    }
    private_folder(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    let mut options = OpenOptions::new();
    match options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(MARK))
    {
        Ok(mut mark) => mark.write_all(MARK_TEXT),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Like [`claim`], for the folder of a store.
pub fn claim_store(folder: &Path) -> io::Result<()> {
    claim(folder, STORE)
}

/// Makes a folder in one of ours with mode 0700. One that is there stays as it is.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(_) if folder.is_dir() => Ok(()),
        made => made,
    }
}

impl NotOurs {
    /// Whether other users may have put there what is in the folder.
    pub fn is_of_others(&self) -> bool {
        match self {
            Self::Holds(_) => false,
            Self::Shared | Self::OfAnother(_) | Self::HoldsForeign { .. } => true,
        }
    }
}

impl FolderKind {
    fn is_usual(self, folder: &Path) -> bool {
        let name = folder.file_name();
        self.usual_name
            .is_some_and(|usual| name == Some(OsStr::new(usual)))
    }

    fn knows(self, name: &str) -> bool {
        is_one_of(name, self.telling) || is_one_of(name, self.common)
    }

    /// Whether a file in it begins as only ours do.
    fn is_marked(self, folder: &Path) -> bool {
        let begins = |file: &Path, with: &[u8]| {
            let mut start = vec![0; with.len()];
            let read = fs::File::open(file).and_then(|mut file| file.read_exact(&mut start));
            read.is_ok() && start == with
        };
        self.marked.is_some_and(|(name, with)| {
            let entries = fs::read_dir(folder.join(name)).into_iter().flatten();
            let is_file = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
            let mut files = entries.flatten().filter(is_file);
            files.any(|file| begins(&file.path(), with))
        })
    }
}

/// Drafts of ours and of editors have more before or after the name.
fn is_one_of(name: &str, known: &[&str]) -> bool {
    let bare = name.trim_start_matches('.');
    known.iter().any(|known| {
        bare.strip_prefix(known)
            .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(folder: &Path) -> u32 {
        fs::metadata(folder).unwrap().mode() & 0o7777
    }

    /// A folder with these files in it, which everybody may read.
    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn a_folder_of_somebody_else_s_files_is_refused_and_stays_as_it_is() {
        for names in [
            &["notes.txt"][..],
            &["logs", "data"],
            &["credentials", "notes.txt"],
            &["rowser", "lock"],
            &["index", "log"],
        ] {
            let folder = folder_with(names);
            for kind in [HOME, STORE] {
                let error = claim(folder.path(), kind).unwrap_err();
                assert!(error.to_string().contains("not cbroker's"), "{names:?}");
            }
            assert_eq!(mode(folder.path()), 0o755, "{names:?}");
            let held = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(held, names.len(), "{names:?}");
        }
    }

    /// Anybody may have put there what makes it look like ours.
    #[test]
    fn a_folder_that_everybody_may_write_to_is_refused_whatever_is_in_it() {
        for names in [&[][..], &["config.toml"], &[MARK, "credentials"]] {
            for shared in [0o1777, 0o777] {
                let folder = folder_with(names);
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(shared)).unwrap();
                for kind in [HOME, STORE] {
                    assert_eq!(
                        objection(folder.path(), kind).unwrap(),
                        Some(NotOurs::Shared)
                    );
                    assert!(claim(folder.path(), kind).is_err());
                }
                assert_eq!(mode(folder.path()), shared);
            }
        }
    }

    /// Another member of the folder's group may have put it there.
    #[test]
    fn a_folder_with_a_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a file to another user");
            return;
        }
        let folder = folder_with(&[MARK, "credentials"]);
        let planted = folder.path().join("credentials");
        std::os::unix::fs::chown(&planted, Some(65_534), None).unwrap();
        let error = claim(folder.path(), HOME).unwrap_err().to_string();
        assert!(
            error.contains("`credentials` of the user with number 65534"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_folder_and_one_that_we_made_are_taken() {
        for (kind, names) in [
            (HOME, &[][..]),
            (HOME, &[LOST_AND_FOUND]),
            (HOME, &["config.toml", ".config.toml.swp", "config.toml~"]),
            (HOME, &["credentials", "logs", "data"]),
            (STORE, &["lock", "rows", "journal", LOST_AND_FOUND]),
            (
                STORE,
                &["definitions.json", "index", "lock", "log", "set-aside"],
            ),
        ] {
            let folder = folder_with(names);
            claim(folder.path(), kind).unwrap();
            assert_eq!(mode(folder.path()), 0o700, "{names:?}");
            fs::write(folder.path().join("a later file"), "").unwrap();
            claim(folder.path(), kind).unwrap();
        }
        let folder = folder_with(&["lock"]);
        fs::create_dir(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("log/000001.log"), "cbrklog and more").unwrap();
        claim(folder.path(), STORE).unwrap();
        let folder = folder_with(&[]);
        let new = folder.path().join("a/b");
        claim(&new, HOME).unwrap();
        assert_eq!(mode(&new), 0o700);
        assert_eq!(mode(folder.path()), 0o755);
    }
}
