//! The management HTTP API, the metrics and the page, on their own port. Only this module uses
//! JSON.
//!
//! The paths and fields are RabbitMQ 3.10's, so its tools work. cbroker's own paths are
//! `/api/session`, `/api/tap`, `/api/history`, `/api/messages`, `/api/openings`,
//! `/api/dead-letters` and `…/peek`. A request passes `guard` (is it for this server, and not from
//! a foreign page), then `proof` (the response shows whose it is), then `auth` (who sends it), then
//! its route. Routes query the broker and respond with `views`. Depends on all modules below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware::from_fn;

use crate::archive::Archive;
use crate::broker_state::BrokerState;
use crate::fault::Fault;
use crate::listener::{Port, UnixSocket};
use crate::lock::lock;
use crate::persist::Ticket;
use crate::persist::definition::{Definition, SignInDefinition};
use crate::time::now_ms;

mod amqp_json;
mod auth;
mod guard;
mod history;
mod http_listener;
mod listings;
mod page;
mod page_cookie;
mod paging;
mod proof;
mod rates;
mod reading;
mod refusal;
mod routes;
mod sign_ins;
mod system_metrics;
#[cfg(test)]
mod tests;
mod user_memory;
mod views;
mod write_deadline;

use guard::{HttpScheme, RequestGuard};
use http_listener::HttpServer;
use listings::Listings;
use rates::Rates;
use routes::Routes;
use sign_ins::{Fingerprint, PageSignIns};
use user_memory::UserHoldings;

/// How often rates and history are sampled.
const EVERY: Duration = Duration::from_secs(2);

/// A port that the broker listens on, for `listeners` in the overview.
#[derive(Debug, Clone)]
pub(crate) struct ListeningPort {
    /// `amqp`, `amqp/ssl`, `http` or `https`.
    pub(crate) protocol: &'static str,
    pub(crate) address: SocketAddr,
}

/// Static facts about the broker, shown by the API.
#[derive(Debug)]
pub(crate) struct BrokerFacts {
    pub(crate) listening: Vec<ListeningPort>,
    pub(crate) data_dir: PathBuf,
    /// 0 for no limit.
    pub(crate) memory_limit_bytes: u64,
    /// The user of a client on the Unix socket that runs as the same system user.
    pub(crate) local_user: Option<String>,
    /// The files that the program keeps for that user.
    pub(crate) archive: Option<Arc<dyn Archive>>,
}

/// The sockets that the API is served on.
#[derive(Debug)]
pub(crate) struct ManagementSockets {
    pub(crate) port: Option<Port>,
    /// The TLS setup of the port.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) socket: Option<UnixSocket>,
}

/// The state that every route uses.
#[derive(Debug)]
pub(super) struct Api {
    broker: Arc<BrokerState>,
    about: BrokerFacts,
    scheme: HttpScheme,
    /// The name of the page's cookie.
    cookie: String,
    listings: Listings,
    holdings: Arc<UserHoldings>,
    node: String,
    started: Instant,
    sign_ins: Mutex<PageSignIns>,
    rates: Rates,
    /// Keeps the tap running while a sign-in of the page is active.
    tap_listener: Mutex<Option<crate::tap::TapListener>>,
}

pub(super) type SharedApi = Arc<Api>;

impl Api {
    fn new(broker: Arc<BrokerState>, about: BrokerFacts, scheme: HttpScheme) -> SharedApi {
        let node = format!("cbroker@{}", system_metrics::host_name());
        let mut sign_ins = PageSignIns::new(broker.limits.page_sign_in);
        let ended = sign_ins.restore(std::mem::take(&mut *lock(&broker.sign_ins)), now_ms());
        let mut listening = about.listening.iter();
        let page = listening.find(|listening| listening.protocol.starts_with("http"));
        let port = page.map_or(0, |listening| listening.address.port());
        let api = Arc::new(Self {
            cookie: page_cookie::name(scheme, port),
            listings: Listings::default(),
            holdings: Arc::default(),
            broker,
            about,
            scheme,
            node,
            started: Instant::now(),
            sign_ins: Mutex::new(sign_ins),
            rates: Rates::default(),
            tap_listener: Mutex::default(),
        });
        let forgotten = api.store_sign_ins(&api.sign_ins(), ended, None);
        warn_of_stored_sign_ins(forgotten);
        api
    }

    /// Removes ended sign-ins from the store, and saves one that began or was extended. The caller
    /// has held the lock of the sign-ins since the change, so the store gets changes in the order
    /// in which they took effect, and no ended sign-in returns with a restart.
    fn store_sign_ins(
        &self,
        _changed: &MutexGuard<'_, PageSignIns>,
        ended: impl IntoIterator<Item = SignInDefinition>,
        stored: Option<SignInDefinition>,
    ) -> Result<Ticket, Fault> {
        let definitions = &self.broker.definitions;
        let mut last = Ticket::NONE;
        for sign_in in ended {
            last = last.max(definitions.forget(&Definition::SignIn(sign_in))?);
        }
        if let Some(sign_in) = stored {
            last = last.max(definitions.save(&Definition::SignIn(sign_in))?);
        }
        Ok(last)
    }

    /// Extends the life of a sign-in that was used. Returns its life where the browser must set the
    /// cookie again.
    fn renew_sign_in(&self, id: &Fingerprint, now_ms: u64) -> Option<Duration> {
        let mut sign_ins = self.sign_ins();
        let longer = sign_ins.extend(id, now_ms)?;
        if let Err(fault) = self.store_sign_ins(&sign_ins, None, longer.stored) {
            tracing::warn!(%fault, "a sign-in of the page may end with the broker");
        }
        Some(sign_ins.life())
    }

    /// Ends the sign-in of a cookie and its key.
    fn sign_out(&self, cookie: &str, key: &str) -> Result<Ticket, Fault> {
        let mut sign_ins = self.sign_ins();
        let ended = sign_ins.sign_out(cookie, key);
        self.store_sign_ins(&sign_ins, ended, None)
    }

    /// Signs a user out everywhere. There is no need to wait for the store: a sign-in that a crash
    /// restores is checked against its user's password.
    fn sign_out_everywhere(&self, user: &str) {
        let mut sign_ins = self.sign_ins();
        let ended = sign_ins.forget(user);
        warn_of_stored_sign_ins(self.store_sign_ins(&sign_ins, ended, None));
    }

    /// Whether this is the login that the program keeps for its system user. The name of the first
    /// user alone proves nothing, because another administrator can set its password.
    async fn is_login_of_owner(&self, user: &str, password: &str) -> bool {
        if self.about.local_user.as_deref() != Some(user) {
            return false;
        }
        let Some(archive) = self.about.archive.clone() else {
            return false;
        };
        let (user, password) = (user.to_owned(), password.to_owned());
        let looking = move || archive.is_stored_login(&user, &password);
        tokio::task::spawn_blocking(looking).await.unwrap_or(false)
    }

    /// Whether this API answers, over plain HTTP, at both addresses that browsers take `localhost`
    /// and the names below it for: where one is free, another program may be there.
    fn serves_localhost(&self) -> bool {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let is_served = |address: &IpAddr| {
            let mut ports = self.about.listening.iter();
            ports.any(|port| port.protocol == "http" && port.address.ip() == *address)
        };
        loopback.iter().all(is_served)
    }

    fn sign_ins(&self) -> MutexGuard<'_, PageSignIns> {
        lock(&self.sign_ins)
    }

    /// Opens the tap while a sign-in of the page is active, and closes it after the last one.
    fn open_or_close_tap(&self) {
        let is_wanted = self.sign_ins().is_anybody_in(now_ms());
        let mut tap_listener = lock(&self.tap_listener);
        match (is_wanted, tap_listener.is_some()) {
            (true, false) => *tap_listener = Some(self.broker.tap.keep_open()),
            (false, true) => *tap_listener = None,
            _ => {}
        }
    }
}

fn warn_of_stored_sign_ins(forgotten: Result<Ticket, Fault>) {
    if let Err(fault) = forgotten {
        tracing::warn!(%fault, "sign-ins of the page stay in the store");
    }
}

/// Samples the counters on a blocking thread, because that visits all queues and channels.
async fn tick(api: &SharedApi) {
    let looking = Arc::clone(api);
    let look = move || looking.rates.observe(&looking.broker, Instant::now());
    if let Err(error) = tokio::task::spawn_blocking(look).await {
        tracing::error!(%error, "the counters could not be read");
    }
    api.open_or_close_tap();
}

/// Serves until the future is dropped.
pub(crate) async fn serve(
    broker: Arc<BrokerState>,
    about: BrokerFacts,
    sockets: ManagementSockets,
) {
    let scheme = if sockets.tls.is_some() {
        HttpScheme::Https
    } else {
        HttpScheme::Http
    };
    let api = Api::new(broker, about, scheme);
    let mut serving = tokio::task::JoinSet::new();
    let router = router(&api, scheme);
    let server = HttpServer::new(router.clone(), sockets.tls);
    for listener in sockets.port.into_iter().flat_map(Port::into_listeners) {
        serving.spawn(server.clone().serve_tcp(listener));
    }
    if let Some(socket) = sockets.socket {
        let local = HttpServer::new(router, None);
        serving.spawn(local.serve_unix(socket));
    }
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        tick(&api).await;
    }
}

fn router(api: &SharedApi, scheme: HttpScheme) -> Router {
    let guard = RequestGuard {
        scheme,
        names: vec![system_metrics::host_name().to_ascii_lowercase()],
    };
    let proving = Arc::clone(api);
    Routes::all()
        .into_router(Arc::clone(api))
        .layer(from_fn(page_cookie::set_again))
        .layer(from_fn(move |request, next| {
            proof::prove(Arc::clone(&proving), request, next)
        }))
        .layer(from_fn(move |request, next| {
            guard::protect(guard.clone(), request, next)
        }))
}
