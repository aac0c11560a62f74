//! The management HTTP API, the metrics and the page, on a port of their own. The only place with JSON.
//!
//! The paths and fields are RabbitMQ 3.10's, so its tools work; what is ours alone lies under `/api/session`,
//! `/api/tap`, `/api/history` and `…/peek`. A request passes `guard` (does it come for us, from no foreign page), then
//! `auth` (who is it), then its route; routes ask the realm and answer with `views`. Relies on everything below.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware::from_fn;

use crate::listener::Port;
use crate::lock::lock;
use crate::realm::Realm;

mod amqp_json;
mod auth;
mod door;
mod figures;
mod guard;
mod history;
mod page;
mod paging;
mod rates;
mod refusal;
mod routes;
mod sessions;
mod views;

use guard::Scheme;

use guard::Guard;
use rates::Rates;
use routes::Routes;
use sessions::Sessions;

/// How often rates and history are taken.
const EVERY: Duration = Duration::from_secs(2);

/// A port that the broker listens on, for `listeners` in the overview.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    /// `amqp`, `amqp/ssl` or `http`.
    pub(crate) protocol: &'static str,
    pub(crate) address: SocketAddr,
}

/// What the API says of the broker beside what the realm knows.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) listening: Vec<Listening>,
    pub(crate) data_dir: PathBuf,
    /// 0 for none.
    pub(crate) memory_limit_bytes: u64,
}

/// What every route works with.
#[derive(Debug)]
pub(super) struct Api {
    realm: Arc<Realm>,
    about: About,
    scheme: Scheme,
    node: String,
    started: Instant,
    sessions: Mutex<Sessions>,
    rates: Rates,
    /// Keeps the tap running while somebody is signed in at the page.
    ear: Mutex<Option<crate::tap::Listener>>,
}

pub(super) type Shared = Arc<Api>;

impl Api {
    fn new(realm: Arc<Realm>, about: About, scheme: Scheme) -> Shared {
        let node = format!("cbroker@{}", figures::host_name());
        Arc::new(Self {
            realm,
            about,
            scheme,
            node,
            started: Instant::now(),
            sessions: Mutex::default(),
            rates: Rates::default(),
            ear: Mutex::default(),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    /// Opens the tap for as long as somebody is signed in, and closes it after the last one.
    fn mind_the_tap(&self) {
        let is_wanted = self.sessions().is_anybody_in(Instant::now());
        let mut ear = lock(&self.ear);
        match (is_wanted, ear.is_some()) {
            (true, false) => *ear = Some(self.realm.tap.listen().0),
            (false, true) => *ear = None,
            _ => {}
        }
    }

    fn tick(&self) {
        self.rates.observe(&self.realm, Instant::now());
        self.mind_the_tap();
    }
}

/// Serves until the future is dropped.
pub(crate) async fn serve(
    realm: Arc<Realm>,
    about: About,
    port: Port,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> std::io::Result<()> {
    let scheme = if tls.is_some() {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let api = Api::new(realm, about, scheme);
    let router = router(&api).into_make_service_with_connect_info::<door::Peer>();
    let ticking = async {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            api.tick();
        }
    };
    let door = door::Door::open(port, tls);
    tokio::select! {
        served = axum::serve(door, router) => served,
        () = ticking => Ok(()),
    }
}

fn router(api: &Shared) -> Router {
    let guard = Guard {
        scheme: api.scheme,
        names: vec![figures::host_name().to_ascii_lowercase()],
    };
    Routes::all()
        .into_router(Arc::clone(api))
        .layer(from_fn(move |request, next| {
            guard::protect(guard.clone(), request, next)
        }))
}
