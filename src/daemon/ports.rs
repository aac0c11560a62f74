//! Whether a port is taken, and by whom, where the system tells.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;

const LISTENING: &str = "0A";

/// `None` when the port is free on loopback; otherwise who holds it, in words.
pub fn in_use(port: u16) -> Option<String> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Some(holder(port).unwrap_or_else(|| "another program listens there".into()))
        }
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    }
}

/// `beam.smp (process 123) listens there`, from `/proc`; a process of another user stays unnamed.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table
                .lines()
                .filter_map(|line| listener(line, port))
                .collect::<Vec<_>>()
        })
        .collect();
    let sockets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let pid = fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        has_open(&entry.path(), &sockets).then_some(pid)
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (process {pid}) listens there", name.trim()))
}

/// The inode of a row of `/proc/net/tcp`, if it listens on this port.
fn listener(row: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = row.split_whitespace().collect();
    let (_, hex) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(hex, 16).ok()? == port && *fields.get(3)? == LISTENING;
    matches.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

fn has_open(process: &Path, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        fs::read_link(file.path()).is_ok_and(|target| {
            sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = in_use(port).unwrap();
        if Path::new("/proc/net/tcp").exists() {
            assert!(
                told.contains(&format!("(process {})", std::process::id())),
                "{told}"
            );
        }
        drop(listener);
        assert_eq!(in_use(port), None);
    }
}
