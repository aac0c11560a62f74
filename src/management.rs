//! Client of the management API: LavinMQ's, RabbitMQ's and the embedded broker's are the same for what we ask.
//!
//! Requests block, so each runs on tokio's blocking pool; none may take longer than its limit.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::config::{Config, Login, Management, escape};
use crate::error::Error;
use crate::exit::Exit;
use crate::peer::EXCHANGE;

/// Messages of one answer when a queue is looked at.
const PAGE: usize = 500;

/// A management API and who asks it.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    login: Login,
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
        let Management { url, login } = config.management.clone();
        let mut settings = Agent::config_builder()
            .timeout_global(Some(limit))
            .http_status_as_error(false);
        if url.starts_with("https://") {
            settings = settings.tls_config(tls(config)?);
        }
        let vhost = config.endpoint.address.vhost.clone();
        Ok(Self {
            agent: settings.build().new_agent(),
            base: url,
            login,
            vhost,
        })
    }

    /// The address that is asked.
    pub fn url(&self) -> &str {
        &self.base
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

    async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        path: String,
    ) -> Result<T, ManagementError> {
        self.ask(path, None).await
    }

    async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        path: String,
        body: Option<String>,
    ) -> Result<T, ManagementError> {
        let client = self.clone();
        let asked = tokio::task::spawn_blocking(move || client.ask_blocking(&path, body)).await;
        asked.unwrap_or_else(|error| {
            Err(ManagementError::Unreachable {
                url: self.base.clone(),
                why: error.to_string(),
            })
        })
    }

    fn ask_blocking<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<String>,
    ) -> Result<T, ManagementError> {
        let unreachable = |error: ureq::Error| ManagementError::Unreachable {
            url: self.base.clone(),
            why: error.to_string(),
        };
        let url = format!("{}{path}", self.base);
        let login = BASE64_STANDARD.encode(format!("{}:{}", self.login.user, self.login.password));
        let authorization = format!("Basic {login}");
        let mut response = match body {
            None => self
                .agent
                .get(&url)
                .header("authorization", &authorization)
                .call(),
            Some(body) => self
                .agent
                .post(&url)
                .header("authorization", &authorization)
                .header("content-type", "application/json")
                .send(body),
        }
        .map_err(unreachable)?;
        match response.status().as_u16() {
            200..=299 => {}
            401 | 403 => return Err(ManagementError::Login(self.base.clone())),
            status => {
                return Err(ManagementError::Status {
                    status,
                    path: path.to_owned(),
                });
            }
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(256 << 20)
            .read_to_vec()
            .map_err(unreachable)?;
        serde_json::from_slice(&text).map_err(|error| ManagementError::Answer {
            path: path.to_owned(),
            why: error.to_string(),
        })
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

/// The system's certificates, and those of `--ca-cert`.
fn tls(config: &Config) -> Result<TlsConfig, Error> {
    let mut roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    if let Some(path) = &config.endpoint.ca_cert {
        let cannot = || {
            Error::new(format!(
                "cannot read the certificates in {}",
                path.display()
            ))
        };
        let pem = std::fs::read(path).map_err(|error| cannot().because(error))?;
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) =
                item.map_err(|error| cannot().because(error))?
            {
                roots.push(certificate);
            }
        }
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
