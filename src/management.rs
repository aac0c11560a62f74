//! Client of the management API: LavinMQ's, RabbitMQ's and the embedded broker's are the same for what we ask.
//!
//! The local broker's is reached through a socket in the private home folder, where no password is needed. A stored
//! login goes by TCP only to a listener that is proven ours; none may take longer than its limit.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::{Config, Management, escape};
use crate::error::Error;
use crate::exit::Exit;
use crate::peer::EXCHANGE;
use crate::transport::{self, Proof, Route, TransportError};

/// The socket of the local broker's API in its home folder.
const SOCKET: &str = "management.sock";

/// The longest answer that is read.
const ANSWER_BYTES: usize = 256 << 20;

/// Messages of one answer when a queue is looked at.
const PAGE: usize = 500;

/// A management API and who asks it.
#[derive(Clone)]
pub struct Client {
    management: Management,
    route: Route,
    /// The path of the API's own URL, mostly empty.
    prefix: String,
    limit: Duration,
    vhost: String,
}

/// Why the API did not answer. Its text never holds the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagementError {
    /// Nothing answers there, or not in HTTP.
    #[error("no management API answers at {url}: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// What the system says.
        why: String,
    },
    /// Another user's program listens there. It was told nothing.
    #[error("{owner} listens at {url}; no password was sent")]
    Foreign {
        /// Where.
        url: String,
        /// The program, its process and its user, as far as the system tells.
        owner: String,
    },
    /// It does not know us.
    #[error("the management API at {0} refused the login")]
    Login(String),
    /// Another answer than a success.
    #[error("the management API answered {status} to {path}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What was asked.
        path: String,
    },
    /// The answer is not what was expected.
    #[error("the management API's answer to {path} is not understood: {why}")]
    Answer {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What `/api/overview` tells.
#[derive(Debug, Clone, Deserialize)]
pub struct Overview {
    /// The product.
    #[serde(default)]
    pub product_name: Option<String>,
    /// The product's own version; RabbitMQ's below is the one that it speaks.
    #[serde(default)]
    pub product_version: Option<String>,
    /// LavinMQ's version.
    #[serde(default)]
    pub lavinmq_version: Option<String>,
    /// RabbitMQ's version; LavinMQ names its own here too.
    #[serde(default)]
    pub rabbitmq_version: Option<String>,
}

/// One queue as `/api/queues` tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct QueueInfo {
    /// What it was declared with.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// What `/api/nodes` tells of one node.
#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    disk_free_alarm: bool,
    #[serde(default)]
    mem_alarm: bool,
}

/// A message as `get` returns it.
#[derive(Debug, Clone, Deserialize)]
pub struct Peeked {
    /// The body, in clear or base64.
    pub payload: String,
    /// `string` or `base64`.
    pub payload_encoding: String,
    /// Where it lies: what follows is asked for with it. Only our own broker tells.
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct SignIn {
    path: String,
}

#[derive(Deserialize)]
struct Binding {
    destination: String,
    destination_type: String,
}

impl Client {
    /// A client for the configured API. Nothing is asked yet.
    pub fn new(config: &Config, limit: Duration) -> Result<Self, Error> {
        let management = config.management.clone();
        let url = parsed(&management)?;
        Ok(Self {
            route: route(&url, &management, config),
            prefix: url.path().trim_end_matches('/').to_owned(),
            management,
            limit,
            vhost: config.endpoint.address.vhost.clone(),
        })
    }

    /// The address that is asked.
    pub fn url(&self) -> &str {
        &self.management.url
    }

    /// Which broker it is.
    pub async fn overview(&self) -> Result<Overview, ManagementError> {
        self.get("/api/overview".into()).await
    }

    /// Why the broker lets publishers wait, in the words of `connection.blocked`; `None` while it
    /// does not.
    pub async fn alarm(&self) -> Result<Option<&'static str>, ManagementError> {
        let nodes: Vec<Node> = self.get("/api/nodes".into()).await?;
        let is_any = |is_on: fn(&Node) -> bool| nodes.iter().any(is_on);
        let alarms = (
            is_any(|node| node.disk_free_alarm),
            is_any(|node| node.mem_alarm),
        );
        Ok(match alarms {
            (true, true) => Some("low on memory & disk"),
            (true, false) => Some("low on disk"),
            (false, true) => Some("low on memory"),
            (false, false) => None,
        })
    }

    /// One queue, or `None`.
    pub async fn queue(&self, name: &str) -> Result<Option<QueueInfo>, ManagementError> {
        match self
            .get(format!(
                "/api/queues/{}/{}",
                escape(&self.vhost),
                escape(name)
            ))
            .await
        {
            Err(ManagementError::Status { status: 404, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The names of the queues that are bound to our exchange.
    pub async fn session_names(&self) -> Result<Vec<String>, ManagementError> {
        let path = format!(
            "/api/exchanges/{}/{EXCHANGE}/bindings/source",
            escape(&self.vhost)
        );
        let bindings: Vec<Binding> = match self.get(path).await {
            Err(ManagementError::Status { status: 404, .. }) => Vec::new(),
            other => other?,
        };
        let mut names: Vec<String> = bindings
            .into_iter()
            .filter(|binding| binding.destination_type == "queue")
            .map(|binding| binding.destination)
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The first `count` messages of a queue; each stays in its place.
    ///
    /// Our own broker is only looked at. Others hand the messages out and take them back, which marks each as redelivered.
    pub async fn peek(&self, queue: &str, count: usize) -> Result<Vec<Peeked>, ManagementError> {
        match self.look_at(queue, count).await {
            Err(ManagementError::Status { .. }) => {}
            looked => return looked,
        }
        let path = format!("/api/queues/{}/{}/get", escape(&self.vhost), escape(queue));
        // `requeue` is what older RabbitMQ servers read.
        let body = serde_json::json!({
            "count": count, "ackmode": "ack_requeue_true", "requeue": true, "encoding": "auto",
        });
        self.ask(path, Some(body.to_string())).await
    }

    /// Page by page, since one answer with whole bodies has its limit.
    async fn look_at(&self, queue: &str, count: usize) -> Result<Vec<Peeked>, ManagementError> {
        let path = format!("/api/queues/{}/{}/peek", escape(&self.vhost), escape(queue));
        let mut seen: Vec<Peeked> = Vec::new();
        loop {
            let wanted = (count - seen.len()).min(PAGE);
            let after = match seen.last().and_then(|last| last.cursor.as_deref()) {
                Some(cursor) => format!("&after={}", escape(cursor)),
                None => String::new(),
            };
            let page: Vec<Peeked> = self.get(format!("{path}?count={wanted}{after}")).await?;
            let is_last = page.last().is_none_or(|last| last.cursor.is_none());
            seen.extend(page);
            if is_last || seen.len() >= count {
                return Ok(seen);
            }
        }
    }

    /// The part of the page's address that signs a browser in, once; only the embedded broker has one.
    pub async fn sign_in_path(&self) -> Result<String, ManagementError> {
        let path = "/api/session/token".to_owned();
        let token: SignIn = self.ask(path, Some(String::new())).await?;
        Ok(token.path)
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, ManagementError> {
        self.ask(path, None).await
    }

    /// Gives a user another password; only with our own broker through its socket, or with the right login.
    pub async fn set_password(&self, user: &str, password: &str) -> Result<(), ManagementError> {
        let path = format!("/api/users/{}", escape(user));
        let body = serde_json::json!({ "password": password, "tags": "administrator" });
        self.send(Method::PUT, &path, Some(body.to_string()))
            .await
            .map(drop)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: String,
        body: Option<String>,
    ) -> Result<T, ManagementError> {
        let method = if body.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let answer = self.send(method, &path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| ManagementError::Answer {
            path,
            why: error.to_string(),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Bytes, ManagementError> {
        let sent = tokio::time::timeout(self.limit, self.exchange(method, path, body)).await;
        sent.unwrap_or_else(|_| {
            let seconds = self.limit.as_secs();
            Err(self.unreachable(format!("no answer within {seconds} s")))
        })
    }

    /// One connection a request: commands ask once or twice.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Bytes, ManagementError> {
        let link = transport::open(&self.route)
            .await
            .map_err(|error| self.no_way(error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("content-type", "application/json");
        if link.is_socket {
            request = request.header("host", "localhost");
        } else {
            request = request
                .header("host", host_header(&self.route))
                .header("authorization", self.authorization(link.proof)?);
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.unreachable(error.to_string()))?;
        let why = |error: hyper::Error| self.unreachable(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(link.stream))
            .await
            .map_err(why)?;
        let driving = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(why);
        let read = match answer {
            Ok(answer) => self.read(path, answer).await,
            Err(error) => Err(error),
        };
        driving.abort();
        read
    }

    /// HTTP Basic sends the password itself.
    fn authorization(&self, proof: Proof) -> Result<String, ManagementError> {
        if proof == Proof::Unknown {
            return Err(self.unreachable(
                "the system does not tell who listens, so the stored password is not sent".into(),
            ));
        }
        let Management { guard, login, .. } = &self.management;
        let login = guard.login().unwrap_or_else(|| login.clone());
        let login = BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password));
        Ok(format!("Basic {login}"))
    }

    async fn read(
        &self,
        path: &str,
        answer: hyper::Response<hyper::body::Incoming>,
    ) -> Result<Bytes, ManagementError> {
        match answer.status().as_u16() {
            200..=299 => {}
            401 | 403 => return Err(ManagementError::Login(self.url().to_owned())),
            status => {
                return Err(ManagementError::Status {
                    status,
                    path: path.to_owned(),
                });
            }
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        Ok(body.to_bytes())
    }

    fn unreachable(&self, why: String) -> ManagementError {
        ManagementError::Unreachable {
            url: self.url().to_owned(),
            why,
        }
    }

    fn no_way(&self, error: TransportError) -> ManagementError {
        match error {
            TransportError::Foreign(owner) => ManagementError::Foreign {
                url: self.url().to_owned(),
                owner: owner.to_string(),
            },
            error => self.unreachable(error.to_string()),
        }
    }
}

impl Peeked {
    /// The bytes of the body.
    pub fn body(&self) -> Vec<u8> {
        match self.payload_encoding.as_str() {
            "base64" => BASE64_STANDARD.decode(&self.payload).unwrap_or_default(),
            _ => self.payload.clone().into_bytes(),
        }
    }
}

impl From<ManagementError> for Error {
    fn from(error: ManagementError) -> Self {
        let told = Self::new(error.to_string()).exit_with(Exit::Unreachable);
        match error {
            ManagementError::Foreign { .. } => told
                .hint("no password was sent; `cbroker start --mgmt-port PORT` takes another port"),
            ManagementError::Unreachable { .. } => {
                told.hint("name it with --mgmt-url, or CBROKER_MGMT_URL")
            }
            ManagementError::Login(_) => {
                told.hint("name user and password with --mgmt-user and CBROKER_MGMT_PASS")
            }
            ManagementError::Status { .. } | ManagementError::Answer { .. } => told,
        }
    }
}

fn parsed(management: &Management) -> Result<Uri, Error> {
    let no_url = |why: &str| Error::usage("the management address is no URL").because(why);
    let url: Result<Uri, _> = management.url.parse();
    let url = url.map_err(|error| no_url(&error.to_string()))?;
    match url.host() {
        Some(_) => Ok(url),
        None => Err(no_url("it names no host")),
    }
}

/// Where the API's URL leads.
fn route(url: &Uri, management: &Management, config: &Config) -> Route {
    let is_tls = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    Route {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
        is_tls,
        ca_cert: config.endpoint.ca_cert.clone(),
        socket: management.guard.socket(SOCKET),
        is_guarded: management.guard.is_stored(),
    }
}

fn host_header(route: &Route) -> String {
    let Route { host, port, .. } = route;
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
