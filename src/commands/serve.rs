//! `cbroker serve`: runs the embedded broker in this process until a signal ends it.
//!
//! This is the only module of the program that names the broker crate. The broker registers itself
//! in `broker.json`, so that every other command finds it, unless another running broker is
//! registered there.

mod archive;
mod ends;

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use archive::HomeArchive;
use broker::{Addresses, Archive, BindAddresses, Broker, EndObserver, FirstUser, StartError, Tls};
use ends::EndRecorder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::ServeArgs;
use crate::config::{BrokerKind, Config, Credentials, LocalBroker, Volume, claim_store};
use crate::daemon::{self, RotatingFile, clean_lines};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer::BELIEVED_EXCHANGES;
use crate::platform;

const SOCKET: &str = "broker.sock";
const MANAGEMENT_SOCKET: &str = "management.sock";
/// How often freed memory is returned to the system: a backlog that was drained leaves many small
/// holes, which the C library keeps otherwise.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);

/// Serves until SIGTERM or Ctrl-C. SIGHUP is ignored.
pub(super) async fn run(args: ServeArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    refuse_open_doors(&args)?;
    config
        .home
        .prepare()
        .map_err(|error| cannot_use(&config.home.folder().display().to_string(), error))?;
    log(&args, config)?;
    refuse_taken_ports(&args)?;
    let is_background = args.background;
    if is_background {
        // An error means that the process leads a session already.
        let _ = rustix::process::setsid();
    }
    allow_open_files();
    let mut signals = ServeSignals::listen()?;
    let is_first = daemon::running(&config.home).is_none();
    let archive = Arc::new(HomeArchive::new(config));
    let settings = settings(&args, config, is_first)?;
    let user = settings.first_user.as_ref().map(|first| first.name.clone());
    let recorder = EndRecorder::new(config, &archive, user.unwrap_or_default());
    let settings = broker::BrokerConfig {
        archive: Some(Arc::clone(&archive) as Arc<dyn Archive>),
        observer: Some(Arc::new(recorder) as Arc<dyn EndObserver>),
        ..settings
    };
    let data_dir = settings.data_dir.clone();
    let broker = tokio::select! {
        started = Broker::start(settings) => started.map_err(|error| explain(error, &args))?,
        () = signals.end() => return Ok(Exit::Done),
    };
    let addresses = broker.addresses().clone();
    if is_first {
        register(&addresses, &args, data_dir, config)?;
    }
    let host = reachable(addresses.amqp.ip());
    let here = SocketAddr::new(host, addresses.amqp.port());
    archive.listens_at(format!("amqp://{here}"));
    print_addresses(&addresses, output)?;
    if args.background {
        // Nobody reads its output.
        tracing::info!("listening at amqp://{}", addresses.amqp);
    }
    let mut every = tokio::time::interval(GIVE_BACK_EVERY);
    loop {
        tokio::select! {
            () = signals.end() => break,
            _ = every.tick() => platform::free_unused_memory(),
        }
    }
    tracing::info!("stopping");
    let stopped = broker.shutdown().await;
    // The record of a broker in the background stays: the next start takes the same ports.
    if is_first && !is_background {
        forget_me(config);
    }
    stopped.map_err(|error| {
        Error::new("the broker did not stop cleanly")
            .caused_by(error)
            .with_hint("confirmed messages are safe; free some disk space before the next start")
    })?;
    Ok(Exit::Done)
}

/// Lets this process open as many files as the system allows: each connection needs one, and so
/// does each segment and each large body of the store.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let current = open_files(&limit, platform::OPEN_FILES_LIMIT);
    let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
}

/// Returns the highest soft limit that the hard one and the system's own one allow, and never less
/// than the soft limit is already. `None` is no limit.
fn open_files(limit: &Rlimit, of_system: Option<u64>) -> Option<u64> {
    let Some(of_system) = of_system else {
        return limit.maximum;
    };
    let allowed = limit.maximum.map_or(of_system, |hard| hard.min(of_system));
    limit.current.map(|soft| soft.max(allowed))
}

/// Refuses to listen beyond loopback without TLS, except with `--insecure`: passwords would be
/// readable, and everyone with a password can type into agents.
fn refuse_open_doors(args: &ServeArgs) -> Result<(), Error> {
    let beyond = args.bind.filter(|address| !address.is_loopback());
    let Some(address) = beyond.filter(|_| args.tls_cert.is_none() && !args.insecure) else {
        return Ok(());
    };
    Err(
        Error::usage(format!("{address} is reachable from other machines"))
            .caused_by("anyone who reads the traffic could type into your agents")
            .with_hint(
                "add --tls-cert and --tls-key, or --insecure if you trust the whole network",
            ),
    )
}

/// Refuses a port that another program has on `127.0.0.1` or `[::1]`. Without `--bind` the broker
/// listens on both; a client that connects to `localhost` could reach the other program instead.
fn refuse_taken_ports(args: &ServeArgs) -> Result<(), Error> {
    let ports = [(args.port, "--port"), (args.mgmt_port, "--mgmt-port")];
    for (port, option) in ports {
        if port != 0
            && args.bind.is_none()
            && let Some(holder) = daemon::in_use(port)
        {
            return Err(Error::new(format!("port {port} is in use"))
                .caused_by(holder)
                .with_hint(format!("choose another with {option}")));
        }
    }
    Ok(())
}

fn settings(
    args: &ServeArgs,
    config: &Config,
    is_first: bool,
) -> Result<broker::BrokerConfig, Error> {
    let login = Credentials::read_or_create(&config.home).map_err(|error| {
        cannot_use(&config.home.credentials_file().display().to_string(), error)
    })?;
    let data_dir = match &args.data_dir {
        Some(folder) => std::path::absolute(folder)
            .map_err(|error| cannot_use(&folder.display().to_string(), error))?,
        None => config.home.data(),
    };
    claim_store(&data_dir).map_err(|error| cannot_use(&data_dir.display().to_string(), error))?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: certificate.clone(),
            key: key.clone(),
            port: args.tls_port,
        }),
        _ => None,
    };
    Ok(broker::BrokerConfig {
        bind: args.bind.map_or(BindAddresses::Loopback, BindAddresses::At),
        port: args.port,
        management_port: Some(args.mgmt_port),
        data_dir,
        tls,
        unix_socket: is_first.then(|| config.home.socket(SOCKET)),
        management_socket: is_first.then(|| config.home.socket(MANAGEMENT_SOCKET)),
        allow_guest: args.allow_guest,
        first_user: Some(FirstUser {
            name: login.user,
            password: login.password,
        }),
        memory_limit_bytes: args.memory_limit.map_or(0, |mebibytes| mebibytes << 20),
        own_names_at: &BELIEVED_EXCHANGES,
        ..broker::BrokerConfig::default()
    })
}

fn log(args: &ServeArgs, config: &Config) -> Result<(), Error> {
    let level = match config.volume {
        Volume::Quiet => LevelFilter::WARN,
        Volume::Normal => LevelFilter::INFO,
        Volume::Verbose(_) => LevelFilter::DEBUG,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false);
    if args.background {
        let path = config.home.broker_log();
        let file = RotatingFile::open(path.clone())
            .map_err(|error| cannot_use(&path.display().to_string(), error))?;
        // If a subscriber is installed already, it serves as well.
        let _ = lines.with_writer(clean_lines(file)).try_init();
    } else {
        let _ = lines.with_writer(clean_lines(std::io::stderr)).try_init();
    }
    Ok(())
}

fn register(
    addresses: &Addresses,
    args: &ServeArgs,
    data_dir: PathBuf,
    config: &Config,
) -> Result<(), Error> {
    let pid = std::process::id();
    let local = LocalBroker {
        version: 1,
        kind: BrokerKind::Embedded {
            pid,
            began: daemon::start_time(pid).unwrap_or_default(),
            arguments: arguments(args, &data_dir),
            data_dir,
        },
        host: reachable(addresses.amqp.ip()),
        port: addresses.amqp.port(),
        management_port: addresses.management.map(|address| address.port()),
        guest: false,
    };
    let path = config.home.broker_file();
    local
        .write(&config.home)
        .map_err(|error| cannot_use(&path.display().to_string(), error))
}

/// Returns the address at which local clients reach a broker that listens on `address`.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Returns the arguments that `restart` passes to the next `serve`. Paths are absolute, because it
/// may run in another folder.
fn arguments(args: &ServeArgs, data_dir: &Path) -> Vec<String> {
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .unwrap_or_else(|_| path.to_owned())
            .display()
            .to_string()
    };
    let mut arguments = vec!["--data-dir".into(), absolute(data_dir)];
    if let Some(address) = args.bind {
        arguments.extend(["--bind".into(), address.to_string()]);
    }
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        arguments.extend([
            "--tls-cert".into(),
            absolute(certificate),
            "--tls-key".into(),
            absolute(key),
        ]);
        arguments.extend(["--tls-port".into(), args.tls_port.to_string()]);
    }
    if let Some(mebibytes) = args.memory_limit {
        arguments.extend(["--memory-limit".into(), mebibytes.to_string()]);
    }
    let flags = [
        (args.allow_guest, "--allow-guest"),
        (args.insecure, "--insecure"),
    ];
    arguments.extend(
        flags
            .into_iter()
            .filter(|(is_given, _)| *is_given)
            .map(|(_, flag)| flag.to_owned()),
    );
    arguments
}

fn forget_me(config: &Config) {
    let is_me = matches!(
        LocalBroker::read(&config.home).map(|local| local.kind),
        Some(BrokerKind::Embedded { pid, .. }) if pid == std::process::id()
    );
    if is_me {
        // A file that remains is recognised as stale.
        let _ = fs::remove_file(config.home.broker_file());
    }
}

fn print_addresses(addresses: &Addresses, output: &Output) -> Result<(), Error> {
    let url = format!("amqp://{}", addresses.amqp);
    let tls_url = addresses.amqps.map(|address| format!("amqps://{address}"));
    let page = addresses
        .management
        .map(|address| format!("http://{address}"));
    output.json(&json!({ "url": url, "tls_url": tls_url, "mgmt_url": page }))?;
    let mut line = format!("listening at {url}");
    for (name, at) in [("", tls_url), ("management page at ", page)] {
        if let Some(at) = at {
            let _ = write!(line, ", {name}{at}");
        }
    }
    output.line(line)
}

fn explain(error: StartError, args: &ServeArgs) -> Error {
    let told = Error::new("the broker cannot start").caused_by(error);
    for (port, option) in [(args.port, "--port"), (args.mgmt_port, "--mgmt-port")] {
        if port != 0
            && let Some(holder) = daemon::in_use(port)
        {
            return Error::new(format!("port {port} is in use"))
                .caused_by(holder)
                .with_hint(format!("choose another with {option}"));
        }
    }
    told
}

fn cannot_use(what: &str, error: std::io::Error) -> Error {
    Error::new(format!("cannot use {what}")).caused_by(error)
}

/// The signals that the broker handles.
struct ServeSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl ServeSignals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::new("cannot wait for signals").caused_by(error))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that ends the broker.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // The terminal was closed; the broker continues.
                _ = self.hangup.recv() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_the_system_lets_a_process_ask_for() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(open_files(&limit(Some(256), None), None), None);
        assert_eq!(open_files(&limit(Some(256), Some(500)), None), Some(500));
        let most = Some(10_240);
        assert_eq!(open_files(&limit(Some(256), None), most), most);
        assert_eq!(open_files(&limit(Some(256), Some(500)), most), Some(500));
        let more = Some(20_000);
        assert_eq!(open_files(&limit(more, None), most), more, "never less");
        assert_eq!(open_files(&limit(None, None), most), None);
    }
}
