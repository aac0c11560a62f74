//! What Claude Code gets so that it loads the module, and the module finds its session.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::folder;

/// The longest path of a socket that Claude Code connects to.
const SOCKET_PATH: usize = 100;

/// The plugin's folder, socket and token for one session.
#[derive(Clone, Debug)]
pub struct PluginSetup {
    /// The plugin's folder.
    pub folder: PathBuf,
    /// The session's socket for the module.
    pub socket: PathBuf,
    /// The token that the socket requires.
    pub token: String,
}

impl PluginSetup {
    /// Creates the plugin's folder below `base` for a session that listens on `socket`.
    ///
    /// # Errors
    /// If the folder cannot be written, or no random token can be generated.
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

    /// The settings with the module's options. Settings move with the session to another process;
    /// environment variables do not.
    pub fn settings(&self, program: &Path) -> Value {
        json!({"pluginConfigs": {format!("{}@inline", folder::NAME): {"options": {
            "program": program.to_string_lossy(),
            "socket": self.socket.to_string_lossy(),
            "token": self.token,
        }}}})
    }
}
