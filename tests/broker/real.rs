//! The real `cbroker serve` in a process of its own, for what only a `kill -9` shows.

use std::path::PathBuf;
use std::process::Command;

use lapin::{Connection, ConnectionProperties};

use crate::support::{Place, Server, skip};

/// A shell that runs `script` in the folder `disk` of a place, where a new disk of so many MiB is
/// mounted that only this shell and its children see; `$CBROKER` is the program. `None`, said
/// aloud, where this machine does not let a test mount one.
pub(crate) fn on_small_disk(place: &Place, size_mib: u32, script: &str) -> Option<Command> {
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount"]);
        unshare
    };
    let may = unshare().arg("true").status();
    if !may.is_ok_and(|status| status.success()) {
        skip("unshare --user --mount is not allowed here");
        return None;
    }
    let disk = place.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let plain = place.command();
    let script = format!(
        "mount -t tmpfs -o size={size_mib}m none {disk} && cd {disk} || exit 99\n{script}",
        disk = disk.display(),
    );
    let mut command = unshare();
    command.args(["sh", "-c", &script, "sh"]).env_clear();
    command.envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command.env("CBROKER", plain.get_program());
    Some(command)
}

/// A server with its home, which outlives kills and restarts.
pub(crate) struct Real {
    pub(crate) server: Server,
    pub(crate) place: Place,
}

impl Real {
    pub(crate) fn start() -> Self {
        let place = Place::new();
        let server = Server::start(&place);
        Self { server, place }
    }

    /// With its store on a disk of so many MiB; None, said aloud, where this machine does not let a
    /// test mount one.
    pub(crate) fn on_small_disk(size_mib: u32) -> Option<Self> {
        Self::on_small_disk_after(size_mib, "true")
    }

    /// The same, with a shell command that is run in the new, empty disk before the broker starts.
    pub(crate) fn on_small_disk_after(size_mib: u32, first: &str) -> Option<Self> {
        let place = Place::new();
        let disk = place.path().join("disk");
        let script = format!("{first}; exec \"$CBROKER\" \"$@\"");
        let command = on_small_disk(&place, size_mib, &script)?;
        let data = disk.join("data");
        let server = Server::start_by(command, 0, 0, &["--data-dir", data.to_str().unwrap()]);
        Some(Self { server, place })
    }

    /// The small disk, as this process reaches it.
    pub(crate) fn disk(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.server.pid()));
        root.join(self.place.path().strip_prefix("/").unwrap())
            .join("disk")
    }

    /// With the password of the user that the first start has made.
    pub(crate) fn url(&self) -> String {
        self.place.ok(["status", "--show-url"]).trim().to_owned()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect_with_runtime(
            &self.url(),
            ConnectionProperties::default(),
            cbroker::peer::runtime::current(),
        )
        .await
        .unwrap()
    }

    /// `kill -9`, and the same server again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.server.kill_and_restart(&self.place);
    }

    /// SIGTERM, and the same server again.
    pub(crate) fn restart(&mut self) {
        self.server.signal(rustix::process::Signal::TERM);
        assert_eq!(self.server.wait().code(), Some(0));
        self.kill_and_restart();
    }
}
