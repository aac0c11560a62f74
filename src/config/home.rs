//! The folder `~/.cbroker`: where everything lies, and that only its owner can read it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Environment;
use super::own_folder::{self, NotOurs, private_folder};
use crate::envelope::digest;
use crate::platform;

/// `sun_path` holds 104 bytes on the smallest system that we run on.
const LONGEST_SOCKET_PATH: usize = 104;
/// The number of hexadecimal digits of a home's digest in the names of its sockets, which
/// distinguishes them from those of other homes.
const FAR_DIGITS: usize = 8;

/// The paths under `~/.cbroker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    folder: PathBuf,
    runtime: Option<PathBuf>,
}

impl Home {
    /// `CBROKER_HOME`, or `.cbroker` in the home directory. `None` when neither is known.
    pub fn of(environment: &Environment) -> Option<Self> {
        let folder = match environment.get("CBROKER_HOME") {
            Some(folder) => std::path::absolute(folder).ok()?,
            None => Path::new(environment.get("HOME")?).join(".cbroker"),
        };
        let runtime = environment.get("XDG_RUNTIME_DIR");
        Some(Self {
            folder,
            runtime: runtime.map(PathBuf::from).or_else(platform::runtime_folder),
        })
    }

    /// A folder that does not exist, in place of one that is broken. Nothing may be made in it.
    pub(super) fn nowhere() -> Self {
        Self {
            folder: PathBuf::from("/nonexistent/cbroker"),
            runtime: None,
        }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.toml`: written by the user.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// `credentials`: user and password of the local broker.
    pub fn credentials_file(&self) -> PathBuf {
        self.folder.join("credentials")
    }

    /// `page-host`: the name that `cbroker ui` opens the page under.
    pub fn page_host_file(&self) -> PathBuf {
        self.folder.join("page-host")
    }

    /// `broker.json`: what `start` or `serve` started.
    pub fn broker_file(&self) -> PathBuf {
        self.folder.join("broker.json")
    }

    /// The lock that is held while a local broker is being started or stopped.
    pub fn start_lock(&self) -> PathBuf {
        self.folder.join("start.lock")
    }

    /// `data/`: the store of the embedded broker.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// `logs/`
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// The log of the embedded broker in the background.
    pub fn broker_log(&self) -> PathBuf {
        self.logs().join("broker.log")
    }

    /// The log of one wrapped session.
    pub fn session_log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// `dlq/<queue>.jsonl`: the dead letters of one session.
    pub fn dead_letters(&self, queue: &str) -> PathBuf {
        self.folder.join("dlq").join(format!("{queue}.jsonl"))
    }

    /// `agents/`: profiles of agents, written by the user.
    pub fn agents(&self) -> PathBuf {
        self.folder.join("agents")
    }

    /// `sessions/`: what lives as long as one wrapped session, the ids that were delivered, and how
    /// each name was opened last.
    pub fn sessions(&self) -> PathBuf {
        self.folder.join("sessions")
    }

    /// The broker's URL with its password, for commands inside a session.
    pub fn session_credentials(&self, session: &str) -> PathBuf {
        self.sessions().join(format!("{session}.cred"))
    }

    /// How many hops the message had that the session now answers: a decimal number, written by the
    /// wrap when it injects, removed when the person types. `send` adds one.
    pub fn session_hops(&self, session: &str) -> PathBuf {
        self.sessions().join(format!("{session}.hops"))
    }

    /// The token that the hooks of the session send.
    pub fn session_token(&self, session: &str) -> PathBuf {
        self.sessions().join(format!("{session}.token"))
    }

    /// The settings of the session's agent.
    pub fn session_settings(&self, session: &str) -> PathBuf {
        self.sessions().join(format!("{session}.settings.json"))
    }

    /// `spill/`: texts too long to type.
    pub fn spill(&self) -> PathBuf {
        self.folder.join("spill")
    }

    /// A socket of the given file name: in the home folder, or in the runtime folder where the path
    /// would be too long.
    pub fn socket(&self, file_name: &str) -> PathBuf {
        let near = self.folder.join(file_name);
        match &self.runtime {
            Some(runtime) if !fits_socket_path(&near) => {
                runtime.join(format!("{}{file_name}", self.runtime_prefix()))
            }
            _ => near,
        }
    }

    /// A socket of one wrapped session: beside its other files where its path is short enough.
    pub fn session_socket(&self, session: &str, kind: &str) -> PathBuf {
        let file_name = format!("{session}.{kind}");
        let near = self.sessions().join(&file_name);
        if fits_socket_path(&near) {
            near
        } else {
            self.socket(&file_name)
        }
    }

    /// The sockets of this kind of all wrapped sessions, wherever [`Home::session_socket`] puts
    /// them.
    pub fn session_sockets(&self, kind: &str) -> Vec<PathBuf> {
        let far = self.runtime_prefix();
        let folders = [
            (Some(self.sessions()), ""),
            (Some(self.folder.clone()), ""),
            (self.runtime.clone(), far.as_str()),
        ];
        let mut sockets = Vec::new();
        for (folder, prefix) in folders {
            let Some(Ok(entries)) = folder.map(fs::read_dir) else {
                continue;
            };
            let is_one = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default();
                path.extension().is_some_and(|end| end == kind)
                    && name.as_bytes().starts_with(prefix.as_bytes())
            };
            let paths = entries.flatten().map(|entry| entry.path());
            sockets.extend(paths.filter(is_one));
        }
        sockets
    }

    /// How the names of this home's sockets begin in the runtime folder, where other homes may have
    /// theirs too.
    fn runtime_prefix(&self) -> String {
        let folder = digest(self.folder.as_os_str().as_bytes(), FAR_DIGITS);
        format!("cbroker-{folder}-")
    }

    /// Why the folder is not ours to use; see [`NotOurs`]. Changes nothing.
    pub fn objection(&self) -> Option<NotOurs> {
        // What cannot be read is reported where it is needed.
        own_folder::objection(&self.folder, own_folder::HOME).ok()?
    }

    /// Creates the folder, readable by its owner only; refuses one that is not ours.
    pub fn claim(&self) -> io::Result<()> {
        own_folder::claim(&self.folder, own_folder::HOME)
    }

    /// Creates the folder and those in it; refuses one that is not ours.
    pub fn prepare(&self) -> io::Result<()> {
        self.claim()?;
        for folder in [
            self.logs(),
            self.folder.join("dlq"),
            self.sessions(),
            self.spill(),
        ] {
            private_folder(&folder)?;
        }
        Ok(())
    }
}

/// Whether a socket can have this path.
fn fits_socket_path(path: &Path) -> bool {
    path.as_os_str().len() < LONGEST_SOCKET_PATH
}

/// The mode of a file that replaces another one.
#[derive(Clone, Debug)]
pub enum NewFileMode {
    /// 0600.
    Private,
    /// What the system gives to new files of this process.
    Default,
    /// That of an older file. Until its content is written it is 0600.
    Of(Permissions),
}

/// Writes a file with mode 0600 so that a reader sees the old or the new content, never a part. A
/// link at `path` is replaced, and its target stays as it is.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    write_private_with(path, |out| out.write_all(content))
}

/// As [`write_private`], for content that is never whole in memory.
pub fn write_private_with(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    replace(path, &NewFileMode::Private, write)
}

/// As [`write_private`], with another mode.
pub fn replace_file(path: &Path, content: &[u8], mode: &NewFileMode) -> io::Result<()> {
    replace(path, mode, |out| out.write_all(content))
}

fn replace(
    path: &Path,
    mode: &NewFileMode,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let draft = draft_beside(path);
    let written = create(&draft, mode, write).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

/// As [`write_private`], but an existing file stays as it is; says whether the new one was put in
/// place.
pub(super) fn write_private_once(path: &Path, content: &[u8]) -> io::Result<bool> {
    let draft = draft_beside(path);
    let created = create(&draft, &NewFileMode::Private, |out| out.write_all(content));
    let linked = created.and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    let _ = fs::remove_file(&draft);
    linked
}

/// Creates a file. One that is there, or a link that somebody put there, is an error.
fn create(
    path: &Path,
    mode: &NewFileMode,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let first_mode = match mode {
        NewFileMode::Default => 0o666,
        NewFileMode::Private | NewFileMode::Of(_) => 0o600,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(first_mode)
        .open(path)?;
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    let file = out.into_inner()?;
    if let NewFileMode::Of(permissions) = mode {
        // By the open file: the path may lead elsewhere by now.
        file.set_permissions(permissions.clone())?;
    }
    file.sync_all()
}

fn draft_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", ulid::Ulid::generate()));
    path.with_file_name(name)
}
