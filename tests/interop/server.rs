//! A broker for one test: the real binary on free ports with an empty store, ended with the test.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::certificate::certificate;

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
        let paths = [&certificate, &key].map(|path| path.to_str().unwrap().to_owned());
        let tls = [
            "--tls-cert",
            &paths[0],
            "--tls-key",
            &paths[1],
            "--tls-port",
            "0",
        ];
        Some((Self::own(folder, &tls), certificate))
    }

    /// Starts it on free ports and waits until it says on which it listens; with TLS, the URL is
    /// that of the TLS port.
    fn own(folder: TempDir, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cbroker"))
            .args(["serve", "--allow-guest", "--json", "--quiet"])
            .args(["--port", "0", "--mgmt-port", "0", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(more)
            .env("CBROKER_HOME", folder.path().join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("the broker did not start: {line:?}"));
        let port_of = |url: &serde_json::Value| Some(url.as_str()?.rsplit_once(':')?.1.to_owned());
        let url = match (port_of(&said["tls_url"]), port_of(&said["url"])) {
            (Some(port), _) => format!("amqps://guest:guest@localhost:{port}"),
            (None, port) => format!("amqp://guest:guest@127.0.0.1:{}", port.unwrap()),
        };
        Self {
            url,
            own: Some((child, folder)),
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
