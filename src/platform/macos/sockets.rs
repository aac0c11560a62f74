//! TCP sockets of this user's programs, as `lsof` lists them. Others' are not seen.

use std::net::SocketAddr;

use super::process::printed;
use crate::platform::{SystemSocket, canonical};

/// The sockets of this user with this port at either end.
pub(crate) fn sockets(port: u16) -> Vec<SystemSocket> {
    // A line a field: p the process, u its user, n the socket's name, T its state.
    let found = printed("lsof", &["-nPw", &format!("-iTCP:{port}"), "-FpunT"]);
    parse(&found)
}

/// The process that has a socket.
pub(crate) fn process_with(socket: &SystemSocket) -> Option<u32> {
    u32::try_from(socket.holder).ok()
}

/// A user's name.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let name = printed("id", &["-un", &uid.to_string()]);
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn parse(listed: &str) -> Vec<SystemSocket> {
    let (mut pid, mut uid) = (None, None);
    let mut sockets = Vec::new();
    for line in listed.lines() {
        let Some((kind, value)) = line.split_at_checked(1) else {
            continue;
        };
        match kind {
            "p" => (pid, uid) = (value.parse().ok(), None),
            "u" => uid = value.parse().ok(),
            "n" => sockets.extend(socket(value, pid, uid)),
            _ => {}
        }
    }
    sockets
}

/// Parses a name: `127.0.0.1:5672`, `*:5672` or `[::1]:5672->[::1]:40000`.
fn socket(name: &str, pid: Option<u64>, uid: Option<u32>) -> Option<SystemSocket> {
    let (local, remote) = match name.split_once("->") {
        Some((local, remote)) => (local, Some(remote)),
        None => (name, None),
    };
    let remote = match remote {
        Some(remote) => Some(address(remote)?),
        None => None,
    };
    Some(SystemSocket {
        local: address(local)?,
        remote,
        uid: uid?,
        is_held: true,
        holder: pid?,
    })
}

fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("*:") {
        Some(port) => Some(SocketAddr::new([0, 0, 0, 0].into(), port.parse().ok()?)),
        None => text.parse().ok().map(canonical),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listing_is_read() {
        let listed = "p123\nu501\nf8\nn127.0.0.1:5672\nTST=LISTEN\nTQR=0\nf9\n\
                      n[::1]:5672->[::1]:40000\nTST=ESTABLISHED\np7\nu502\nf3\nn*:5672\n\
                      TST=LISTEN\nf4\nnmachine:amqp\n";
        let found = parse(listed);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].is_listening() && found[0].is_held);
        assert_eq!((found[0].uid, found[0].holder), (501, 123));
        assert_eq!(found[1].local, "[::1]:5672".parse().unwrap());
        assert_eq!(found[1].remote, Some("[::1]:40000".parse().unwrap()));
        assert_eq!(found[2].local, "0.0.0.0:5672".parse().unwrap());
        assert_eq!((found[2].uid, found[2].holder), (502, 7));
    }

    #[test]
    fn the_ends_of_a_connection_are_found_with_their_program() {
        if printed("lsof", &["-p", &std::process::id().to_string()]).is_empty() {
            eprintln!("skipped: there is no lsof");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = listener.local_addr().unwrap();
        let client = TcpStream::connect(far).unwrap();
        let near = client.local_addr().unwrap();
        let accepted = listener.accept().unwrap();
        let found = sockets(far.port());
        let us = rustix::process::geteuid().as_raw();
        for (local, remote) in [(far, None), (far, Some(near)), (near, Some(far))] {
            let seen = found
                .iter()
                .find(|seen| (seen.local, seen.remote) == (local, remote));
            let seen = seen.unwrap_or_else(|| panic!("{local} {remote:?} in {found:?}"));
            assert_eq!(seen.uid, us);
            assert_eq!(process_with(seen), Some(std::process::id()));
        }
        drop(accepted);
        assert_eq!(user_name(0).as_deref(), Some("root"));
    }
}
