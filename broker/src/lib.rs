//! An AMQP 0-9-1 server that behaves like RabbitMQ, in one process, with a durable store.
//!
//! ```text
//! listener      sockets → connection (handshake, reader, writer, heartbeat)
//! channel       the methods of one channel; publish and settle are the hot path
//! vhost         names → exchanges and queues; routing, bindings, dead letters
//! queue         ready messages and their consumers
//! delivery      unsettled deliveries, unsent frames and confirms, side effects to come
//! persist       queue ↔ store
//! broker_state  the state that all connections share
//! inspect       what the management API reads of it
//! memory, block the memory account, and the bytes of messages
//! wire          the AMQP wire format
//! ```
//! This crate knows nothing of peers, envelopes or terminals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

mod admission;
mod alarms;
pub mod archive;
#[cfg(feature = "bench")]
pub mod bench;
mod block;
pub mod broker_state;
mod channel;
mod clean_text;
mod clock;
pub mod config;
mod connection;
mod delivery;
mod error;
pub mod exchange;
pub mod fault;
mod inspect;
mod listener;
mod lock;
mod log_limit;
mod login_places;
mod login_throttle;
mod management;
mod memory;
mod memory_watch;
pub mod observer;
pub mod persist;
mod platform;
mod publisher_grants;
pub mod queue;
mod quotas;
mod recovery;
pub mod registry;
mod revocation;
pub mod stats;
pub mod tap;
mod time;
pub mod tls;
pub mod users;
pub mod vhost;
mod wakeup;
pub mod wire;

pub use archive::{Archive, ArchiveCharge, ArchiveError, ArchiveResult};
pub use broker_state::BrokerState;
pub use config::{BindAddresses, BrokerConfig, ClientLimits, FirstUser, Tls};
pub use error::{StartError, StopError};
pub use observer::{BrokerEnd, EndObserver, EndedMessage};

use alarms::Alarms;
use broker_state::BrokerParts;
use delivery::ends::EndSender;
use fault::{Fault, ReplyCode};
use listener::{Port, UnixSocket};
use management::{BrokerFacts, ListeningPort, ManagementSockets};
use wakeup::Waker;

/// How long clients have to close their connections at a shutdown.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a shutdown waits for the copies of dead letters that are being routed.
const ROUTED_WITHIN: Duration = Duration::from_millis(1500);
/// How long a shutdown waits until it is recorded how messages ended.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);
/// How often resident memory is read.
const LOOK: Duration = Duration::from_millis(500);
/// How often resident memory is read while much of the limit is used.
const CLOSE_LOOK: Duration = Duration::from_millis(50);

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    state: Arc<BrokerState>,
    addresses: Addresses,
    tasks: Vec<JoinHandle<()>>,
}

/// The addresses of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// AMQP. On loopback, `[::1]` is served on the same port if the machine has it and the port is
    /// free there.
    pub amqp: SocketAddr,
    /// AMQP over TLS.
    pub amqps: Option<SocketAddr>,
    /// The management API.
    pub management: Option<SocketAddr>,
    /// AMQP on a Unix socket.
    pub unix_socket: Option<PathBuf>,
}

impl Broker {
    /// Opens the store, binds the ports and starts serving. Must be called in a tokio runtime.
    pub async fn start(mut config: BrokerConfig) -> Result<Self, StartError> {
        if config.memory_limit_bytes == 0 {
            config.memory_limit_bytes = platform::machine_memory_bytes().unwrap_or(0) / 5 * 2;
        }
        memory::set_limit(config.memory_limit_bytes);
        config.limits.body_bytes =
            memory::largest_body(config.memory_limit_bytes, config.limits.body_bytes);
        let tcp = Port::bind(config.bind, config.port).await?;
        let tls = match &config.tls {
            Some(tls) => Some(bind_tls(&config, tls).await?),
            None => None,
        };
        let mut addresses = Addresses {
            amqp: tcp.address(),
            amqps: tls.as_ref().map(|(port, _)| port.address()),
            management: None,
            unix_socket: config.unix_socket.clone(),
        };
        let mut listening = listed("amqp", &tcp);
        listening.extend(tls.iter().flat_map(|(port, _)| listed("amqp/ssl", port)));
        let (waker, durable) = wakeup::channel().map_err(StartError::Wake)?;
        let broker = open(&config, waker).await?;
        let mut tasks = vec![
            tokio::spawn(Arc::clone(&broker).run_confirms(durable)),
            tokio::spawn(Arc::clone(&broker).run_clock()),
        ];
        for listener in tcp.into_listeners() {
            tasks.push(tokio::spawn(listener::serve_tcp(
                Arc::clone(&broker),
                listener,
            )));
        }
        if config.memory_limit_bytes > 0 {
            tasks.push(tokio::spawn(watch_memory(Arc::clone(&broker))));
            tasks.push(tokio::spawn(Arc::clone(&broker).run_publisher_grants()));
        }
        if let Some((port, acceptor)) = tls {
            for listener in port.into_listeners() {
                let serving = listener::serve_tls(Arc::clone(&broker), listener, acceptor.clone());
                tasks.push(tokio::spawn(serving));
            }
        }
        if let Some(socket) = config.unix_socket.as_deref().and_then(UnixSocket::bind) {
            let serving = listener::serve_unix(Arc::clone(&broker), socket);
            tasks.push(tokio::spawn(serving));
        }
        let (address, task) = open_management(&config, &broker, listening).await?;
        addresses.management = address;
        tasks.extend(task);
        Ok(Self {
            state: broker,
            addresses,
            tasks,
        })
    }

    /// Returns the bound addresses, with the real port where 0 was configured.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns the state behind the sockets.
    pub fn state(&self) -> &Arc<BrokerState> {
        &self.state
    }

    /// Closes every connection, commits everything and stops, within five seconds.
    ///
    /// # Errors
    /// The last commit failed, or the store's thread panicked. Confirmed messages are safe. Recent
    /// acks and unconfirmed messages may be lost.
    pub async fn shutdown(self) -> Result<(), StopError> {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            // Any result is fine: the task has just been aborted.
            let _ = task.await;
        }
        let reason = "broker forced connection closure with reason 'shutdown'";
        self.state
            .end_all(
                &Fault::connection(ReplyCode::ConnectionForced, reason),
                FAREWELL,
            )
            .await;
        self.state.letters_routed(ROUTED_WITHIN).await;
        self.state.ends_recorded(RECORDED_WITHIN).await;
        let store = self.state.store.clone();
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        closed
            .map_err(|_| StopError::Panicked)?
            .map_err(StopError::NotCommitted)
    }
}

fn listed(protocol: &'static str, port: &Port) -> Vec<ListeningPort> {
    port.addresses()
        .map(|address| ListeningPort { protocol, address })
        .collect()
}

async fn bind_tls(config: &BrokerConfig, tls: &Tls) -> Result<(Port, TlsAcceptor), StartError> {
    let server = tls::server_config(&tls.certificate, &tls.key, tls::TlsPurpose::Amqp)?;
    Ok((
        Port::bind(config.bind, tls.port).await?,
        TlsAcceptor::from(server),
    ))
}

/// Serves the management API if it is configured. Returns the address of its port.
async fn open_management(
    config: &BrokerConfig,
    broker: &Arc<BrokerState>,
    mut listening: Vec<ListeningPort>,
) -> Result<(Option<SocketAddr>, Option<JoinHandle<()>>), StartError> {
    let (port, tls) = take_management(config).await?;
    let socket = config.management_socket.as_deref();
    let socket = socket.and_then(UnixSocket::bind);
    if port.is_none() && socket.is_none() {
        return Ok((None, None));
    }
    let address = port.as_ref().map(Port::address);
    let protocol = if tls.is_some() { "https" } else { "http" };
    listening.extend(port.iter().flat_map(|port| listed(protocol, port)));
    let about = BrokerFacts {
        listening,
        data_dir: config.data_dir.clone(),
        memory_limit_bytes: config.memory_limit_bytes,
        local_user: config.first_user.as_ref().map(|first| first.name.clone()),
        archive: config.archive.clone(),
    };
    let serving = management::serve(
        Arc::clone(broker),
        about,
        ManagementSockets { port, tls, socket },
    );
    Ok((address, Some(tokio::spawn(serving))))
}

/// Binds the management port. Beyond loopback it requires TLS.
async fn take_management(
    config: &BrokerConfig,
) -> Result<(Option<Port>, Option<Arc<rustls::ServerConfig>>), StartError> {
    let Some(port) = config.management_port else {
        return Ok((None, None));
    };
    let tls = match &config.tls {
        _ if config.bind.is_loopback() => None,
        Some(tls) => Some(tls::server_config(
            &tls.certificate,
            &tls.key,
            tls::TlsPurpose::Http,
        )?),
        None => {
            tracing::warn!("the management port is disabled: beyond loopback it needs TLS");
            return Ok((None, None));
        }
    };
    Ok((Some(Port::bind(config.bind, port).await?), tls))
}

/// Opens the store and restores everything from it.
async fn open(config: &BrokerConfig, durable: Waker) -> Result<Arc<BrokerState>, StartError> {
    let alarms = Arc::new(Alarms::new(durable));
    let (folder, told) = (config.data_dir.clone(), Arc::clone(&alarms));
    let opening = tokio::task::spawn_blocking(move || {
        persist::open(&folder, move |progress| told.on_progress(&progress))
    });
    let mut found = opening
        .await
        .map_err(|_| StartError::OpenPanicked)?
        .map_err(|source| StartError::Open {
            folder: config.data_dir.clone(),
            source,
        })?;
    let ends = config.observer.clone().map(EndSender::start).transpose();
    let recovery = recovery::recover(&mut found, config, time::now_ms())?;
    let broker = Arc::new(BrokerState::new(BrokerParts {
        limits: config.limits,
        own_names_at: config.own_names_at,
        memory_limit: config.memory_limit_bytes,
        store: found.store,
        definitions: found.definitions,
        alarms,
        users: recovery.users,
        quotas: recovery.quotas,
        sign_ins: recovery.sign_ins,
        vhosts: recovery.vhosts,
        ends: ends.map_err(StartError::Observe)?,
    }));
    // A full disk must not make the broker unreachable: it starts, and publishers are blocked.
    if !broker.durable_or_out_of_room(recovery.ticket).await {
        return Err(StartError::NotReady);
    }
    broker.look_ahead();
    Ok(broker)
}

/// Reads resident memory at intervals, more often while much of the limit is used.
async fn watch_memory(broker: Arc<BrokerState>) {
    let (mut since_aged, mut is_much_resident) = (Duration::ZERO, false);
    loop {
        memory::refresh();
        let is_watched = memory::level() > memory::MemoryLevel::Calm || is_much_resident;
        let look = if is_watched { CLOSE_LOOK } else { LOOK };
        tokio::time::sleep(look).await;
        since_aged += look;
        if since_aged >= LOOK {
            since_aged = Duration::ZERO;
            block::pool::free_unused();
            broker.unload_queues().await;
        }
        if memory::take_waiting() {
            broker.pump_waiting().await;
        }
        if let Some(resident) = platform::resident_bytes() {
            is_much_resident = broker.watch_memory(resident);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::time::Instant;

    use super::*;
    use crate::delivery::confirms::{Confirms, RouteOutcome};
    use crate::persist::definition::{Definition, VhostDefinition};

    /// An empty broker without listeners, and what must live as long.
    pub(crate) async fn opened() -> (Arc<BrokerState>, (wakeup::Wakeup, tempfile::TempDir)) {
        let folder = tempfile::tempdir().unwrap();
        let (broker, wakeup) = open_in(folder.path()).await.unwrap();
        (broker, (wakeup, folder))
    }

    async fn open_in(folder: &Path) -> Result<(Arc<BrokerState>, wakeup::Wakeup), StartError> {
        let config = BrokerConfig {
            data_dir: folder.join("data"),
            ..BrokerConfig::default()
        };
        let (waker, wakeup) = wakeup::channel().unwrap();
        Ok((open(&config, waker).await?, wakeup))
    }

    /// Stops the broker and opens it again in its folder.
    pub(crate) async fn restart(broker: &BrokerState, folder: &Path) -> Arc<BrokerState> {
        broker.store.clone().close().unwrap();
        once_free(|| open_in(folder)).await.0
    }

    /// Starts what needs a folder whose last store was closed. That one keeps the folder until its
    /// last checkpoint is written, which a busy machine can hold up.
    pub(crate) async fn once_free<T>(start: impl AsyncFn() -> Result<T, StartError>) -> T {
        let until = Instant::now() + Duration::from_mins(3);
        loop {
            match start().await {
                Err(StartError::Open {
                    source: persist::OpenError::InUse { .. },
                    ..
                }) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
                started => return started.unwrap(),
            }
        }
    }

    /// A durable queue.
    pub(crate) fn declare(broker: &Arc<BrokerState>, name: &str) -> Arc<queue::Queue> {
        let declare = vhost::Declare {
            durable: true,
            ..vhost::Declare::transient(name)
        };
        let mut effects = broker.begin_unit();
        let declared = broker
            .vhost("/")
            .unwrap()
            .declare_queue(declare, &mut effects);
        broker.end_unit(effects);
        declared.unwrap().expect("no older one").queue
    }

    /// The thread that waits for sockets finds the store's progress in a pipe. When that failed,
    /// confirms ended for good.
    #[tokio::test(flavor = "multi_thread")]
    async fn confirms_are_sent_though_the_wakeup_pipe_has_failed() {
        let (broker, _kept) = opened().await;
        let (gone, failed) = wakeup::channel().unwrap();
        drop(gone);
        let confirming = tokio::spawn(Arc::clone(&broker).run_confirms(failed));
        let outbox = Arc::<delivery::outbox::Outbox>::default();
        let confirms = Arc::new(Confirms::new(Arc::clone(&outbox), 1, Arc::default()));
        for number in 0..20 {
            let definition = VhostDefinition {
                name: format!("vhost {number}"),
                description: String::new(),
                tags: Vec::new(),
            };
            let ticket = broker
                .definitions
                .save(&Definition::Vhost(definition))
                .unwrap();
            let mut effects = broker.begin_unit();
            let tag = confirms.open(&mut effects);
            confirms.set(tag, RouteOutcome::Ticket(ticket), &mut effects);
            broker.end_unit(effects);
        }
        let all = async {
            while confirms.len() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let sent = tokio::time::timeout(Duration::from_mins(1), all).await;
        assert!(sent.is_ok(), "{} are not confirmed", confirms.len());
        confirming.abort();
        broker.store.clone().close().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_get_where_the_store_has_stopped_is_refused_with_541() {
        let (broker, _kept) = opened().await;
        let vhost = broker.vhost("/").unwrap();
        let queue = declare(&broker, "q");
        let mut effects = broker.begin_unit();
        let content = vhost::Published {
            exchange: "",
            routing_key: "q",
            // Persistent.
            properties: b"\x10\0\x02",
            body: b"x",
        };
        assert!(vhost.publish(content, &mut effects).unwrap());
        broker.store.clone().close().unwrap();
        let ledger = delivery::ledger::Ledger::default();
        let got = queue.get(&ledger, queue::GetMode::Acked, &mut effects);
        assert_eq!(Fault::from(got.unwrap_err()).code, ReplyCode::InternalError);
        broker.end_unit(effects);
    }
}
