//! `broker.json`: which local broker was started, so that every other command finds it. Not a proof that it lives.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::home::write_private;
use super::{Address, Home};

/// What runs the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A `cbroker serve` process.
    Embedded {
        /// Its process id.
        pid: u32,
        /// When the kernel says it began; together with the pid it cannot be taken for another process.
        began: String,
        /// Its store.
        data_dir: PathBuf,
        /// The options that `serve` was given beside its ports, paths made absolute: `restart` gives them again.
        #[serde(default)]
        arguments: Vec<String>,
    },
    /// A LavinMQ container.
    Container {
        /// Its name.
        name: String,
    },
}

/// The local broker that was started last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalBroker {
    /// The version of this format.
    pub version: u32,
    /// What runs it.
    #[serde(flatten)]
    pub kind: Kind,
    /// Where both ports are to be reached; records of earlier versions do not say it.
    #[serde(default = "loopback")]
    pub host: IpAddr,
    /// AMQP port.
    pub port: u16,
    /// Management port, where it has one.
    pub management_port: Option<u16>,
    /// Whether peers sign in as guest (`start --docker --guest`).
    #[serde(default)]
    pub guest: bool,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

impl LocalBroker {
    /// Where it takes messages.
    pub fn address(&self) -> Address {
        Address::at(self.host, self.port)
    }

    /// Whether it is a `cbroker serve` process, which also listens at sockets in its home.
    pub fn is_embedded(&self) -> bool {
        matches!(self.kind, Kind::Embedded { .. })
    }

    /// What the file says; a file that cannot be read is as good as none.
    pub fn read(home: &Home) -> Option<Self> {
        let text = fs::read(home.broker_file()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, home: &Home) -> io::Result<()> {
        home.claim()?;
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_private(&home.broker_file(), &text)
    }

    /// Removes the file; none is fine.
    pub fn forget(home: &Home) -> io::Result<()> {
        match fs::remove_file(home.broker_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
