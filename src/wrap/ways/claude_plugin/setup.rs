//! What Claude Code is given so that it loads the module, and the module finds its session.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::folder;

/// The longest path of a socket that Claude Code connects to.
const SOCKET_PATH: usize = 100;

/// What Claude Code is given so that the module finds its session.
#[derive(Clone, Debug)]
pub struct PluginSetup {
    /// The plugin's folder.
    pub folder: PathBuf,
    /// The session's socket for it.
    pub socket: PathBuf,
    /// What the socket asks for.
    pub token: String,
}

impl PluginSetup {
    /// A plugin below `base` for a session that listens on `socket`.
    ///
    /// # Errors
    /// When the folder cannot be written, or no random token can be made.
    pub fn new(base: &Path, socket: PathBuf) -> io::Result<Self> {
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(io::Error::other("the path of its socket would be too long"));
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self {
            folder: folder::ensure(base)?,
            socket,
            token: format!("{:032x}", u128::from_be_bytes(random)),
        })
    }

    /// The settings that hand the module its options. They follow the session when it moves to
    /// another process; the environment would not.
    pub fn settings(&self, program: &Path) -> Value {
        json!({"pluginConfigs": {format!("{}@inline", folder::NAME): {"options": {
            "program": program.to_string_lossy(),
            "socket": self.socket.to_string_lossy(),
            "token": self.token,
        }}}})
    }
}
