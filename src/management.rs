//! Client of the management API. The requests used here work with LavinMQ, RabbitMQ and the
//! embedded broker.
//!
//! The embedded broker's API is reached through a socket in the private home folder, which needs no
//! password. Over TCP, a stored login is sent only to a listener that is proven to run as this
//! user; one that the user gave for the broker, to a derived address of this machine only if the
//! broker's user or this one listens there. Every request has a time limit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::config::{Config, LoginGuard, Management, escape};
use crate::error::Error;
use crate::name::{GroupName, SessionName};
use crate::peer::{EXCHANGE, GROUPS_EXCHANGE};
use crate::transport::{self, ListenerIdentity, Route, TransportError};

mod consumers;
mod error;
mod responses;

pub use error::{ManagementError, RequestFailure};
use responses::{BindingInfo, NodeInfo};
pub use responses::{ConsumerInfo, Overview, Peeked, QueueInfo, SignInLink};

/// The name of the embedded broker's API socket in its home folder.
const SOCKET: &str = "management.sock";

/// The largest response that is read, in bytes.
const RESPONSE_BYTES: usize = 256 << 20;

/// The number of messages in one response of a peek.
const PAGE: usize = 500;

/// A management API and its login.
#[derive(Clone)]
pub struct Client {
    management: Management,
    route: Route,
    /// The path of the API's base URL, usually empty.
    prefix: String,
    limit: Duration,
    vhost: String,
}

impl Client {
    /// Creates a client for the configured API. Does not connect.
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

    /// Returns the base URL.
    pub fn url(&self) -> &str {
        &self.management.url
    }

    /// Returns which broker it is.
    pub async fn overview(&self) -> Result<Overview, ManagementError> {
        self.get("/api/overview".into()).await
    }

    /// Returns why the broker blocks publishers, in the words of `connection.blocked`, or `None`.
    pub async fn alarm(&self) -> Result<Option<&'static str>, ManagementError> {
        let nodes: Vec<NodeInfo> = self.get("/api/nodes".into()).await?;
        let is_any = |is_on: fn(&NodeInfo) -> bool| nodes.iter().any(is_on);
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

    /// Returns one queue, or `None` if it does not exist.
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

    /// Returns whether the broker's operator may have made policies, which bound queues beside
    /// their arguments. This user may not be allowed to see them.
    pub async fn may_have_policies(&self) -> bool {
        for path in ["/api/policies", "/api/operator-policies"] {
            let policies: Result<Vec<IgnoredAny>, _> = self.get(path.to_owned()).await;
            if !policies.is_ok_and(|policies| policies.is_empty()) {
                return true;
            }
        }
        false
    }

    /// Returns the names of the queues that are bound to the sessions' exchange as sessions are: by
    /// their own names.
    pub async fn session_names(&self) -> Result<Vec<String>, ManagementError> {
        let bindings = self.queue_bindings(EXCHANGE).await?;
        let mut names: Vec<String> = bindings
            .into_iter()
            .filter(|binding| binding.routing_key == binding.destination)
            .map(|binding| binding.destination)
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Returns the groups and their members, closed ones too. What is no name of a session or of a
    /// group is left out: anybody may bind anything.
    pub async fn groups(
        &self,
    ) -> Result<BTreeMap<GroupName, BTreeSet<SessionName>>, ManagementError> {
        let mut groups: BTreeMap<GroupName, BTreeSet<SessionName>> = BTreeMap::new();
        for binding in self.queue_bindings(GROUPS_EXCHANGE).await? {
            let exact = |name: &SessionName| {
                name.as_str() == binding.destination && !name.is_answer_queue()
            };
            let member = SessionName::new(&binding.destination).ok().filter(exact);
            let group = GroupName::new(&binding.routing_key).ok();
            let group = group.filter(|group| group.as_str() == binding.routing_key);
            if let (Some(group), Some(member)) = (group, member) {
                groups.entry(group).or_default().insert(member);
            }
        }
        Ok(groups)
    }

    /// The bindings of queues to an exchange; none where the exchange does not exist.
    async fn queue_bindings(&self, exchange: &str) -> Result<Vec<BindingInfo>, ManagementError> {
        let vhost = escape(&self.vhost);
        let path = format!("/api/exchanges/{vhost}/{exchange}/bindings/source");
        let mut bindings: Vec<BindingInfo> = match self.get(path).await {
            Err(ManagementError::Status { status: 404, .. }) => return Ok(Vec::new()),
            other => other?,
        };
        bindings.retain(|binding| binding.destination_type == "queue");
        Ok(bindings)
    }

    /// Shows the first `count` messages of a queue, which stay in place, to `see`, as many at a
    /// time as one response holds. Returns what `see` broke off with.
    ///
    /// The embedded broker only reads them. Other brokers deliver and requeue them, which marks
    /// each as redelivered.
    pub async fn peek<B>(
        &self,
        queue: &str,
        count: usize,
        mut see: impl FnMut(Vec<Peeked>) -> ControlFlow<B>,
    ) -> Result<Option<B>, ManagementError> {
        let mut has_shown = false;
        let looked = self.look_at(queue, count, |page| {
            has_shown = true;
            see(page)
        });
        match looked.await {
            Err(ManagementError::Status { .. }) if !has_shown => {}
            looked => return looked,
        }
        let path = format!("/api/queues/{}/{}/get", escape(&self.vhost), escape(queue));
        // Older RabbitMQ servers read `requeue`.
        let body = serde_json::json!({
            "count": count, "ackmode": "ack_requeue_true", "requeue": true, "encoding": "auto",
        });
        let all = self.ask(path, Some(body.to_string())).await?;
        Ok(see(all).break_value())
    }

    /// Shows the first `count` messages to `see`, like [`Self::peek`], but from the embedded broker
    /// alone, which only reads them. Page by page, because the size of one response is limited, and
    /// so that not all are in memory at once. Returns what `see` broke off with.
    ///
    /// # Errors
    /// Also when another broker answers.
    pub async fn look_at<B>(
        &self,
        queue: &str,
        count: usize,
        mut see: impl FnMut(Vec<Peeked>) -> ControlFlow<B>,
    ) -> Result<Option<B>, ManagementError> {
        let path = format!("/api/queues/{}/{}/peek", escape(&self.vhost), escape(queue));
        let (mut left, mut after) = (count, String::new());
        loop {
            let wanted = left.min(PAGE);
            let page: Vec<Peeked> = self.get(format!("{path}?count={wanted}{after}")).await?;
            left = left.saturating_sub(page.len());
            let cursor = page.last().and_then(|last| last.cursor.as_deref());
            let next = cursor.map(|cursor| format!("&after={}", escape(cursor)));
            if let ControlFlow::Break(what) = see(page) {
                return Ok(Some(what));
            }
            match next {
                Some(next) if left > 0 => after = next,
                _ => return Ok(None),
            }
        }
    }

    /// Returns the port of this home's broker over plain HTTP; `None` of any other, which may be
    /// reached through a forwarded port: then its own addresses say nothing of this machine.
    pub fn loopback_port(&self) -> Option<u16> {
        let Route { host, port, .. } = &self.route;
        let is_address = |host: &str| {
            let address = host.parse::<IpAddr>();
            address.is_ok_and(|address| address.is_loopback())
        };
        let is_local = host == "localhost" || is_address(host);
        let is_own = is_local && self.route.socket.is_some();
        (is_own && !self.route.is_tls && self.prefix.is_empty()).then_some(*port)
    }

    /// Returns a link that signs in a browser once. Only the embedded broker makes one.
    pub async fn sign_in_link(&self) -> Result<SignInLink, ManagementError> {
        let path = "/api/session/token".to_owned();
        self.ask(path, Some(String::new())).await
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, ManagementError> {
        self.ask(path, None).await
    }

    /// Sets a user's password. Works through the embedded broker's socket, or with an
    /// administrator's login.
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
        let response = self.send(method, &path, body).await?;
        serde_json::from_slice(&response)
            .map_err(|source| ManagementError::Response { path, source })
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
            Err(self.unreachable(RequestFailure::Silent(seconds)))
        })
    }

    /// Sends one request on a connection of its own; commands send only one or two.
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
                .header("authorization", self.authorization(link.listener)?);
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.unreachable(error))?;
        let why = |error: hyper::Error| self.unreachable(error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(link.stream))
            .await
            .map_err(why)?;
        let driving = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(why);
        let read = match response {
            Ok(response) => self.read(path, response).await,
            Err(error) => Err(error),
        };
        driving.abort();
        read
    }

    /// Returns the HTTP Basic header, which contains the password itself.
    fn authorization(&self, listener: ListenerIdentity) -> Result<String, ManagementError> {
        let Management { guard, login, .. } = &self.management;
        if listener == ListenerIdentity::Unknown && guard.is_secret() {
            return Err(self.unreachable(RequestFailure::Unproven));
        }
        let login = guard.login_now(login);
        let login = BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password));
        Ok(format!("Basic {login}"))
    }

    async fn read(
        &self,
        path: &str,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<Bytes, ManagementError> {
        match response.status().as_u16() {
            200..=299 => {}
            401 | 403 => return Err(ManagementError::Login(self.url().to_owned())),
            status => {
                return Err(ManagementError::Status {
                    status,
                    path: path.to_owned(),
                });
            }
        }
        let body = Limited::new(response.into_body(), RESPONSE_BYTES)
            .collect()
            .await
            .map_err(|error| self.unreachable(RequestFailure::Body(error)))?;
        Ok(body.to_bytes())
    }

    fn unreachable(&self, source: impl Into<RequestFailure>) -> ManagementError {
        ManagementError::Unreachable {
            url: self.url().to_owned(),
            source: source.into(),
        }
    }

    fn no_way(&self, error: TransportError) -> ManagementError {
        let url = self.url().to_owned();
        match error {
            TransportError::Foreign(owner) => match self.management.guard {
                LoginGuard::Derived { .. } => ManagementError::Unnamed { url, owner },
                _ => ManagementError::Foreign { url, owner },
            },
            error => self.unreachable(error),
        }
    }
}

fn parsed(management: &Management) -> Result<Uri, Error> {
    let no_url = || Error::usage("the management address is not a URL");
    let url: Result<Uri, _> = management.url.parse();
    let url = url.map_err(|error| no_url().caused_by(error))?;
    match url.host() {
        Some(_) => Ok(url),
        None => Err(no_url().caused_by("it has no host")),
    }
}

/// Returns the route to the API's host.
fn route(url: &Uri, management: &Management, config: &Config) -> Route {
    let is_tls = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    Route {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
        is_tls,
        ca_cert: config.endpoint.ca_cert.clone(),
        socket: management.guard.socket(SOCKET),
        listener: management.guard.listener_demand(),
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
