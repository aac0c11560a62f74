//! `broker.json`: records the local broker that was started, so that other commands find it. It
//! does not prove that the broker runs.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::home::write_private;
use super::{Address, Home};

/// How the broker runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BrokerKind {
    /// A `cbroker serve` process.
    Embedded {
        /// The process id.
        pid: u32,
        /// The start time that the kernel reports. Together with the pid it identifies the process.
        began: String,
        /// The folder of the store.
        data_dir: PathBuf,
        /// The options of `serve` other than ports, with absolute paths. `restart` passes them on.
        #[serde(default)]
        arguments: Vec<String>,
    },
    /// A LavinMQ container.
    Container {
        /// The container's name.
        name: String,
    },
}

/// The local broker that was started last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalBroker {
    /// The version of this format.
    pub version: u32,
    /// How the broker runs.
    #[serde(flatten)]
    pub kind: BrokerKind,
    /// The address of both ports. Missing in files of earlier versions.
    #[serde(default = "loopback")]
    pub host: IpAddr,
    /// The AMQP port.
    pub port: u16,
    /// The management port, if there is one.
    pub management_port: Option<u16>,
    /// Whether clients log in as guest (`start --docker --guest`).
    #[serde(default)]
    pub guest: bool,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

impl LocalBroker {
    /// Returns the AMQP address.
    pub fn address(&self) -> Address {
        Address::at(self.host, self.port)
    }

    /// Whether it is a `cbroker serve` process, which also listens on sockets in its home.
    pub fn is_embedded(&self) -> bool {
        matches!(self.kind, BrokerKind::Embedded { .. })
    }

    /// Reads the file. A file that cannot be read counts as missing.
    pub fn read(home: &Home) -> Option<Self> {
        let text = fs::read(home.broker_file()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the file atomically.
    pub fn write(&self, home: &Home) -> io::Result<()> {
        home.claim()?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_private(&home.broker_file(), &text)
    }

    /// Removes the file if it exists.
    pub fn forget(home: &Home) -> io::Result<()> {
        match fs::remove_file(home.broker_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
