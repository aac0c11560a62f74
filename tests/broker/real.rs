//! The real `cbroker serve` in a process of its own, for what only a `kill -9` shows.

use lapin::{Connection, ConnectionProperties};

use crate::support::{Place, Server};

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

    /// With the password of the user that the first start has made.
    pub(crate) fn url(&self) -> String {
        self.place.ok(["status", "--show-url"]).trim().to_owned()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.url(), ConnectionProperties::default())
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
