//! A broker for one test, with the user `ada` whose password is `secret`.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Archive, BindAddresses, Broker, BrokerConfig, ClientLimits, FirstUser, Tls};
use tokio::runtime::Runtime;

use crate::http::{Answer, PageLogin, Request};
use crate::support::{PATIENCE, free_port, start_broker};

pub(crate) const USER: &str = "ada";
pub(crate) const PASSWORD: &str = "secret";

pub(crate) struct Server {
    runtime: Runtime,
    broker: Option<Broker>,
    folder: tempfile::TempDir,
    pub(crate) amqp: SocketAddr,
    pub(crate) management: Option<SocketAddr>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// Starts a broker for whose user something is kept on disk.
    pub(crate) fn start_with_archive(archive: Arc<dyn Archive>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("management.sock");
        Self::start_with(folder, |config| BrokerConfig {
            management_socket: Some(socket),
            archive: Some(archive),
            ..config
        })
    }

    /// Starts a broker that listens beyond loopback, with a certificate if one is given.
    pub(crate) fn start_beyond_loopback(tls: Option<Tls>) -> Self {
        let changed = move |config: BrokerConfig| BrokerConfig {
            bind: BindAddresses::At([0, 0, 0, 0].into()),
            tls,
            ..config
        };
        Self::start_with(tempfile::tempdir().unwrap(), changed)
    }

    /// Starts a broker whose page signs people out that do nothing for this long.
    pub(crate) fn start_with_page_sign_in(life: Duration) -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), |config| BrokerConfig {
            limits: ClientLimits {
                page_sign_in: life,
                ..config.limits
            },
            ..config
        })
    }

    /// Starts a broker on the store in the folder's `data`.
    pub(crate) fn start_in(folder: tempfile::TempDir) -> Self {
        let socket = folder.path().join("management.sock");
        Self::start_with(folder, |config| BrokerConfig {
            management_socket: Some(socket),
            ..config
        })
    }

    /// Returns the folder of the store.
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// Returns the path of the API's Unix socket.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("management.sock")
    }

    fn start_with(
        folder: tempfile::TempDir,
        changed: impl FnOnce(BrokerConfig) -> BrokerConfig,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = BrokerConfig {
            port: 0,
            // One that nobody else gets between the two brokers of a restart.
            management_port: Some(free_port()),
            data_dir: folder.path().join("data"),
            first_user: Some(FirstUser {
                name: USER.to_owned(),
                password: PASSWORD.to_owned(),
            }),
            ..BrokerConfig::default()
        };
        let broker = runtime.block_on(start_broker(&changed(config), PATIENCE));
        let (amqp, management) = (broker.addresses().amqp, broker.addresses().management);
        Self {
            runtime,
            broker: Some(broker),
            folder,
            amqp,
            management,
        }
    }

    /// Returns the address of the API and the page.
    pub(crate) fn page(&self) -> SocketAddr {
        self.management.unwrap()
    }

    /// Opens the same store with a new broker.
    pub(crate) fn restart(self) -> Self {
        self.restart_after(|| ())
    }

    /// The same, with something to be done while no broker is there.
    pub(crate) fn restart_after(mut self, meanwhile: impl FnOnce()) -> Self {
        self.stop();
        meanwhile();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let port = self.page().port();
        drop(self);
        Self::start_with(folder, |config| BrokerConfig {
            management_port: Some(port),
            ..config
        })
    }

    /// Opens the same store with a new broker and changes the first user's password.
    pub(crate) fn restart_with_password(mut self, password: &str) -> Self {
        self.stop();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let port = self.page().port();
        drop(self);
        Self::start_with(folder, |config| BrokerConfig {
            management_port: Some(port),
            first_user: Some(FirstUser {
                name: USER.to_owned(),
                password: password.to_owned(),
            }),
            ..config
        })
    }

    fn stop(&mut self) {
        if let Some(broker) = self.broker.take() {
            let ended = self.runtime.block_on(broker.shutdown());
            assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
        }
    }

    /// Sends a request as `ada` with her password.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.request(method, path)
            .password(USER, PASSWORD)
            .send(body)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// Builds a request without any login.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.page(), method, path)
    }

    /// Returns the `Origin` of the management page.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.page())
    }

    /// Requests a one-time token with a password.
    pub(crate) fn token(&self) -> String {
        let answer = self.ask("POST", "/api/session/token", "");
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Requests a one-time token through the Unix socket, as `cbroker ui` does.
    pub(crate) fn own_token(&self) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        let head = "POST /api/session/token HTTP/1.1\r\nhost: localhost\r\n\
                    connection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        body["token"].as_str().unwrap().to_owned()
    }

    /// Signs in at the page.
    pub(crate) fn sign_in(&self) -> PageLogin {
        let body = serde_json::json!({ "token": self.token(), "confirmed": true }).to_string();
        let request = self.request("POST", "/api/session");
        PageLogin::of(&request.header("origin", &self.origin()).send(&body))
    }

    /// Publishes a message to a queue through the default exchange.
    pub(crate) fn publish(&self, queue: &str, payload: &str) {
        self.publish_with(queue, payload, &serde_json::json!({ "delivery_mode": 2 }));
    }

    /// Publishes a transient message with priority 1.
    pub(crate) fn publish_urgent(&self, queue: &str, payload: &str) {
        self.publish_with(queue, payload, &serde_json::json!({ "priority": 1 }));
    }

    fn publish_with(&self, queue: &str, payload: &str, properties: &serde_json::Value) {
        let body = serde_json::json!({
            "properties": properties, "routing_key": queue,
            "payload": payload, "payload_encoding": "string",
        });
        let path = "/api/exchanges/%2F/amq.default/publish";
        let answer = self.ask("POST", path, &body.to_string());
        assert_eq!(answer.json()["routed"], true, "{answer:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until `look` returns something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "never seen: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}
