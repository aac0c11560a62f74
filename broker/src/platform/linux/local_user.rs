//! Which user of this machine is at the other end of a connection over loopback, by the kernel's
//! table of sockets (`/proc/net/tcp`, `tcp6`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::platform::SocketPair;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The inode of a socket that its program has closed. The kernel names root as its user then.
const ORPHAN: &str = "0";

/// The users whose sockets are at the first ends and connected to the second ones, in their order.
/// Reads files.
pub(crate) fn users_of(connections: &[SocketPair]) -> Vec<Option<u32>> {
    let tables = TABLES
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok());
    let tables: Vec<_> = tables.collect();
    let known: HashMap<_, _> = tables.iter().flat_map(|table| rows(table)).collect();
    let users = connections.iter().map(|(peer, local)| {
        let ends = (canonical(*peer), canonical(*local));
        known.get(&ends).copied()
    });
    users.collect()
}

/// The sockets of a table that belong to a program, and their users. One that has closed its side
/// and still reads belongs to it too.
fn rows(table: &str) -> impl Iterator<Item = (SocketPair, u32)> {
    table.lines().filter_map(|line| {
        // sl local remote state queues timer retransmissions uid timeout inode …
        let mut fields = line.split_whitespace().skip(1);
        let ends = (address(fields.next()?)?, address(fields.next()?)?);
        let user = fields.nth(4)?.parse().ok()?;
        (fields.nth(1)? != ORPHAN).then_some((ends, user))
    })
}

/// Parses an address such as `0100007F:1628`. Each four bytes are a number in this machine's byte
/// order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok();
    let ip: IpAddr = if ip.len() == 8 {
        Ipv4Addr::from(word(0)?.to_ne_bytes()).into()
    } else {
        let mut bytes = [0; 16];
        for (number, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&word(number * 8)?.to_ne_bytes());
        }
        Ipv6Addr::from(bytes).into()
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(canonical(SocketAddr::new(ip, port)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn user_of(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
        users_of(&[(peer, local)])[0]
    }

    fn find(table: &str, ends: SocketPair) -> Option<u32> {
        rows(table).find_map(|(found, user)| (found == ends).then_some(user))
    }

    #[test]
    fn the_user_of_a_connection_over_loopback_is_found() {
        if !std::path::Path::new(TABLES[0]).exists() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(user_of(peer, local), Some(own));
        drop(client);
        let other = SocketAddr::new(peer.ip(), 1);
        assert_eq!(user_of(other, local), None);
    }

    #[test]
    fn a_connection_whose_client_has_closed_its_side_alone_has_a_user_still() {
        if !std::path::Path::new(TABLES[0]).exists() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(user_of(peer, local), Some(own));
        let unknown = SocketAddr::new(peer.ip(), 1);
        let found = users_of(&[(unknown, local), (peer, local)]);
        assert_eq!(found, [None, Some(own)]);
        drop(client);
        assert_eq!(user_of(peer, local), None, "nobody's any more");
    }

    #[test]
    fn a_row_counts_where_both_ends_agree_and_a_program_has_it() {
        let row = |inode: u32| {
            format!(
                "  sl  local_address rem_address   st\n   0: 0100007F:1F90 0100007F:1628 04 \
                 00000000:00000000 00:00000000 00000000  1001        0 {inode} 1"
            )
        };
        let ends =
            |one: u16, two: u16| (([127, 0, 0, 1], one).into(), ([127, 0, 0, 1], two).into());
        if cfg!(target_endian = "little") {
            assert_eq!(find(&row(12345), ends(8080, 5672)), Some(1001));
        }
        assert_eq!(find(&row(0), ends(8080, 5672)), None);
        assert_eq!(find(&row(12345), ends(5672, 8080)), None);
    }
}
