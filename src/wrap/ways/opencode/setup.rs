//! The port and the password of opencode's server, which belongs to this session alone.
//!
//! Relies on the standard library and on `getrandom`.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// The environment variable with the password of opencode's server.
pub const PASSWORD: &str = "OPENCODE_SERVER_PASSWORD";

/// The port and the password that opencode is started with.
#[derive(Clone, Debug)]
pub struct OpencodeSetup {
    pub(super) port: u16,
    pub(super) password: String,
}

impl OpencodeSetup {
    /// Chooses a free port and a random password.
    ///
    /// # Errors
    /// If there is no free port or no random number.
    pub fn new() -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self {
            port: free.local_addr()?.port(),
            password: format!("{:032x}", u128::from_be_bytes(random)),
        })
    }

    /// The arguments to insert in front of the person's.
    pub fn arguments(&self) -> [OsString; 4] {
        let port = self.port.to_string();
        ["--port", &port, "--hostname", "127.0.0.1"].map(OsString::from)
    }

    /// The environment variable to set.
    pub fn environment(&self) -> (OsString, OsString) {
        (PASSWORD.into(), self.password.clone().into())
    }
}
