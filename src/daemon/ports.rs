//! Checks whether a port is in use, and by which program, if the system reports it.

use std::io;
use std::net::TcpListener;

use crate::transport::listeners;

/// Returns `None` if the port is free on both loopback addresses, else a description of the program
/// that has it.
pub fn in_use(port: u16) -> Option<String> {
    for host in ["127.0.0.1", "::1"] {
        match TcpListener::bind((host, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Some(holder(port)),
            // Without IPv6, no program can have the port on `::1`.
            Err(error) if host == "127.0.0.1" => return Some(error.to_string()),
            _ => {}
        }
    }
    None
}

/// Returns the first free port from `port` on, or `port` itself if there is none.
pub fn free_port_near(port: u16) -> u16 {
    let mut ports = port..=u16::MAX;
    ports.find(|port| in_use(*port).is_none()).unwrap_or(port)
}

/// Describes who listens: `beam.smp (process 123 of user rabbitmq) listens there`.
fn holder(port: u16) -> String {
    match listeners(port).first() {
        Some(owner) => format!("{owner} listens there"),
        None => "another program listens there".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((host, 0)) else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let told = in_use(port).unwrap();
            if Path::new("/proc/net/tcp").exists() {
                let process = format!("(process {} of", std::process::id());
                assert!(told.contains(&process), "{told}");
            }
            drop(listener);
            assert_eq!(in_use(port), None);
        }
    }
}
