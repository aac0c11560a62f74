//! A program of another user that listens where a broker is expected, and keeps what it hears.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::skip;

/// The user id of `nobody`.
pub(crate) const STRANGER: &str = "65534";
/// A user without a name.
pub(crate) const OTHER_STRANGER: &str = "12345";

/// Listens, says hello as a broker does, and prints what it hears in hexadecimal, a line a piece.
const LISTENER: &str = r#"
import socket, sys, threading
host, port, hello = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
server = socket.socket(family)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((host, port))
server.listen()
print("ready", flush=True)
def hear(peer):
    print("peer", flush=True)
    peer.sendall(hello)
    while True:
        heard = peer.recv(65536)
        if not heard:
            return
        print(heard.hex(), flush=True)
while True:
    threading.Thread(target=hear, args=(server.accept()[0],), daemon=True).start()
"#;

/// `connection.start` of a broker that offers PLAIN.
fn hello() -> String {
    let mut payload = vec![0, 10, 0, 10, 0, 9, 0, 0, 0, 0];
    for text in ["PLAIN AMQPLAIN", "en_US"] {
        payload.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        payload.extend(text.as_bytes());
    }
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A listener of another user. Ends when it is dropped.
pub(crate) struct Stranger {
    child: Child,
    heard: Option<std::thread::JoinHandle<Vec<String>>>,
    peers: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    port: u16,
}

impl Stranger {
    /// Prints why and returns `None` where this is not root, who alone can start a program of
    /// another user.
    pub(crate) fn listen(host: &str, port: u16) -> Option<Self> {
        Self::start(STRANGER, &hello(), host, port)
    }

    /// The same, and it says nothing, as a server of HTTP does.
    pub(crate) fn listen_silently(user: &str, host: &str, port: u16) -> Option<Self> {
        Self::start(user, "", host, port)
    }

    fn start(user: &str, hello: &str, host: &str, port: u16) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !cfg!(target_os = "linux") {
            eprintln!("skipped: a listener of another user can only be started by root");
            return None;
        }
        let mut child = Command::new("setpriv")
            .args([
                "--reuid",
                user,
                "--clear-groups",
                "/usr/bin/python3",
                "-I",
                "-c",
                LISTENER,
            ])
            .args([host, &port.to_string(), hello])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().and_then(Result::ok);
        if ready.as_deref() != Some("ready") {
            child.wait().unwrap();
            skip("setpriv and python3 to listen as another user");
            return None;
        }
        let peers = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let counted = std::sync::Arc::clone(&peers);
        let heard = std::thread::spawn(move || {
            let mut heard = Vec::new();
            for line in lines.map_while(Result::ok) {
                if line == "peer" {
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                } else {
                    heard.push(line);
                }
            }
            heard
        });
        Some(Self {
            child,
            heard: Some(heard),
            peers,
            port,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn peers(&self) -> usize {
        self.peers.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(crate) fn end(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Everything that it was sent, as bytes.
    pub(crate) fn ended(mut self) -> Vec<u8> {
        self.end();
        let text = self.heard.take().unwrap().join().unwrap().concat();
        let pairs = text.as_bytes().chunks_exact(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.end();
    }
}
