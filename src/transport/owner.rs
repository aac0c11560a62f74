//! Finds the process at the other end of a local TCP connection in the kernel's socket table.
//!
//! The table is `/proc/net/tcp` and `tcp6`: one row for each socket, with its user and its inode. A
//! connection that is not accepted yet has inode 0. Without this table, nothing is proven.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::TransportError;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
const LISTENING: u8 = 0x0A;
/// A server accepts at once; one that has not accepted after this time proves nothing.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What is known about the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProof {
    /// A program of this user, or of root.
    Ours,
    /// The system does not report it.
    Unknown,
    /// Not checked, because the user gave the login together with the address.
    NotAsked,
}

/// The process that has a socket, as far as the system reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The process id, if this user may see it.
    pub pid: Option<u32>,
    /// The program's name, likewise.
    pub program: Option<String>,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SocketRow {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    uid: u32,
    inode: u64,
}

impl Owner {
    pub(super) fn of(uid: u32, pid: Option<u32>) -> Self {
        let program = pid
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
            .map(|name| crate::clean::line(name.trim()));
        Self { uid, pid, program }
    }

    fn of_row(row: &SocketRow) -> Self {
        Self::of(row.uid, process_with(row.inode))
    }

    /// Whether it is this user or root.
    pub fn is_ours(&self) -> bool {
        is_trusted(self.uid)
    }
}

/// Formats as `nc (process 123 of user nobody)`.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = user_name(self.uid).unwrap_or_else(|| self.uid.to_string());
        match (&self.program, self.pid) {
            (Some(program), Some(pid)) => write!(f, "{program} (process {pid} of user {user})"),
            (None, Some(pid)) => write!(f, "process {pid} of user {user}"),
            _ => write!(f, "a program of user {user}"),
        }
    }
}

/// Root is trusted, because it can read every stored login.
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Proves which user accepted `stream`.
pub(super) async fn prove(stream: &TcpStream) -> Result<ListenerProof, TransportError> {
    let (near, far) = (
        canonical(stream.local_addr()?),
        canonical(stream.peer_addr()?),
    );
    let until = Instant::now() + ACCEPTED_WITHIN;
    loop {
        let rows = rows();
        if let Some(row) = rows
            .iter()
            .find(|row| row.is_listening_at(far) && !is_trusted(row.uid))
        {
            return Err(TransportError::Foreign(Owner::of_row(row)));
        }
        match rows
            .iter()
            .find(|row| row.local == far && row.remote == near)
        {
            Some(row) if row.inode != 0 && is_trusted(row.uid) => return Ok(ListenerProof::Ours),
            Some(row) if row.inode != 0 => {
                return Err(TransportError::Foreign(Owner::of_row(row)));
            }
            _ if rows.is_empty() || Instant::now() > until => return Ok(ListenerProof::Unknown),
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Returns which programs listen on a port of this machine, on any address.
pub fn listeners(port: u16) -> Vec<Owner> {
    let mut owners: Vec<Owner> = Vec::new();
    for row in rows() {
        if row.state == LISTENING && row.local.port() == port {
            let owner = Owner::of_row(&row);
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
    }
    owners
}

impl SocketRow {
    fn is_listening_at(&self, address: SocketAddr) -> bool {
        let ip = self.local.ip();
        self.state == LISTENING
            && self.local.port() == address.port()
            && (ip == address.ip() || ip.is_unspecified())
    }

    /// Parses `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`, with
    /// hexadecimal numbers before `uid`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let local = socket_address(fields.next()?)?;
        let remote = socket_address(fields.next()?)?;
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        let uid = fields.nth(3)?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some(Self {
            local,
            remote,
            state,
            uid,
            inode,
        })
    }
}

fn rows() -> Vec<SocketRow> {
    TABLES
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table
                .lines()
                .filter_map(SocketRow::parse)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Parses an address such as `0100007F:1628`. Each four bytes are a number in this machine's byte
/// order.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(at * 8..(at + 1) * 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

/// Converts a mapped IPv4 address, as the IPv6 table contains it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn process_with(inode: u64) -> Option<u32> {
    let socket = format!("socket:[{inode}]");
    let has_it = |process: &Path| {
        let Ok(files) = fs::read_dir(process.join("fd")) else {
            return false;
        };
        files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
        })
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        has_it(&entry.path()).then_some(pid)
    })
}

fn user_name(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| crate::clean::line(name))
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_either_table_is_read() {
        let four = "   0: 0100007F:1628 00000000:0000 0A 00000000:00000000 00:00000000 \
                    00000000  1000        0 4242 1 0";
        let row = SocketRow::parse(four).unwrap();
        assert_eq!(row.local, "127.0.0.1:5672".parse().unwrap());
        assert_eq!((row.state, row.uid, row.inode), (LISTENING, 1000, 4242));
        let mapped = "   1: 0000000000000000FFFF00000100007F:1628 \
                      0000000000000000FFFF00000100007F:9C40 01 00000000:00000000 \
                      00:00000000 00000000 65534        0 7 1";
        let row = SocketRow::parse(mapped).unwrap();
        assert_eq!(row.local, "127.0.0.1:5672".parse().unwrap());
        assert_eq!(row.remote, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(row.uid, 65534);
        let six = "   2: 00000000000000000000000001000000:1628 \
                   00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1";
        assert_eq!(
            SocketRow::parse(six).unwrap().local,
            "[::1]:5672".parse().unwrap()
        );
        assert_eq!(
            SocketRow::parse("  sl  local_address rem_address   st"),
            None
        );
    }

    #[tokio::test]
    async fn a_listener_of_this_user_is_proven_and_named() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = tokio::net::TcpListener::bind((host, 0)).await else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            let accepting = tokio::spawn(async move { listener.accept().await });
            let stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(prove(&stream).await.unwrap(), ListenerProof::Ours);
            let _both_ends_open = accepting.await.unwrap().unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owners = listeners(listener.local_addr().unwrap().port());
        assert_eq!(owners[0].pid, Some(std::process::id()));
        assert!(owners[0].is_ours());
    }
}
