//! TCP sockets, as the kernel's table has them.
//!
//! The table is `/proc/net/tcp` and `tcp6`: one row for each socket, with its user and its inode. A
//! connection that is not accepted yet has inode 0.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::platform::{SystemSocket, canonical};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
const LISTENING: u8 = 0x0A;

/// The sockets with this port at either end.
pub(crate) fn sockets(port: u16) -> Vec<SystemSocket> {
    let tables = TABLES
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok());
    let mut found: Vec<SystemSocket> = Vec::new();
    for table in tables {
        found.extend(table.lines().filter_map(parse).filter(|row| {
            let is_there = row.remote.is_some_and(|remote| remote.port() == port);
            is_there || row.local.port() == port
        }));
    }
    found
}

/// A user's name.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Parses `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`, with
/// hexadecimal numbers before `uid`.
fn parse(line: &str) -> Option<SystemSocket> {
    let mut fields = line.split_whitespace().skip(1);
    let local = socket_address(fields.next()?)?;
    let remote = socket_address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(SystemSocket {
        local,
        remote: (state != LISTENING).then_some(remote),
        uid,
        is_held: inode != 0,
        holder: inode,
    })
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

/// The process that has a socket, if this user may see it.
pub(crate) fn process_with(socket: &SystemSocket) -> Option<u32> {
    let socket = format!("socket:[{}]", socket.holder);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_row_of_either_table_is_read() {
        let four = "   0: 0100007F:1628 00000000:0000 0A 00000000:00000000 00:00000000 \
                    00000000  1000        0 4242 1 0";
        let row = parse(four).unwrap();
        assert_eq!(row.local, "127.0.0.1:5672".parse().unwrap());
        assert!(row.is_listening() && row.is_held);
        assert_eq!((row.uid, row.holder), (1000, 4242));
        let mapped = "   1: 0000000000000000FFFF00000100007F:1628 \
                      0000000000000000FFFF00000100007F:9C40 01 00000000:00000000 \
                      00:00000000 00000000 65534        0 7 1";
        let row = parse(mapped).unwrap();
        assert_eq!(row.local, "127.0.0.1:5672".parse().unwrap());
        assert_eq!(row.remote, Some("127.0.0.1:40000".parse().unwrap()));
        assert_eq!(row.uid, 65534);
        let six = "   2: 00000000000000000000000001000000:1628 \
                   00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1";
        let row = parse(six).unwrap();
        assert_eq!(row.local, "[::1]:5672".parse().unwrap());
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
    }
}
