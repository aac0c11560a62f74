//! A broker for one test: the real binary on free ports with an empty store, ended with the test.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tempfile::TempDir;

use crate::certificate::certificate;

const PATIENCE: Duration = Duration::from_secs(30);

/// The address of the broker under test, and the broker itself unless the environment names one.
pub(crate) struct Server {
    pub(crate) url: String,
    own: Option<(Child, TempDir)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        if let Ok(url) = std::env::var("CBROKER_INTEROP_URL") {
            return Self { url, own: None };
        }
        Self::own(TempDir::new().unwrap(), &[])
    }

    /// Starts a server with TLS for `localhost` and returns its certificate. `None` if none can be
    /// created.
    pub(crate) fn start_tls() -> Option<(Self, PathBuf)> {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = certificate(folder.path())?;
        let port = free_port().to_string();
        let paths = [&certificate, &key].map(|path| path.to_str().unwrap().to_owned());
        let mut server = Self::own(
            folder,
            &[
                "--tls-cert",
                &paths[0],
                "--tls-key",
                &paths[1],
                "--tls-port",
                &port,
            ],
        );
        server.url = format!("amqps://guest:guest@localhost:{port}");
        Some((server, certificate))
    }

    fn own(folder: TempDir, more: &[&str]) -> Self {
        let (port, management) = (free_port(), free_port());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cbroker"))
            .args(["serve", "--allow-guest", "--port", &port.to_string()])
            .args(["--mgmt-port", &management.to_string(), "--data-dir"])
            .arg(folder.path().join("data"))
            .args(more)
            .env("CBROKER_HOME", folder.path().join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("amqp://guest:guest@127.0.0.1:{port}");
        let mut server = Self {
            url,
            own: Some((child, folder)),
        };
        server.wait_until_open(port);
        server
    }

    fn wait_until_open(&mut self, port: u16) {
        let (child, folder) = self.own.as_mut().unwrap();
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = child.try_wait().unwrap();
            let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            assert!(
                ended.is_none(),
                "the broker ended with {ended:?}:\n{}",
                log()
            );
            assert!(
                began.elapsed() < PATIENCE,
                "the broker does not answer:\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((child, _folder)) = &mut self.own {
            let _already_gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
