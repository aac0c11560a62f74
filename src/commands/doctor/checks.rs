//! The checks of `doctor`. They are independent: none prevents another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ulid::Ulid;

use super::Finding;
use crate::cli::DoctorArgs;
use crate::commands::local::{self, RunsAs};
use crate::config::{BrokerKind, Config, LeftOut};
use crate::container::DockerEngine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::management::Client;
use crate::name::SessionName;
use crate::peer::{Peer, Publication, PublishOutcome};
use crate::transport::{ListenerDemand, SocketOwner, listeners};
use crate::wrap;

const API_WITHIN: Duration = Duration::from_secs(3);
const ROUND_TRIP_WITHIN: Duration = Duration::from_secs(10);

/// The free space that the store needs to commit and to clean up.
const ROOM_BYTES: u64 = 256 << 20;

pub(super) async fn all(args: &DoctorArgs, config: &Config, left_out: &LeftOut) -> Vec<Finding> {
    let mut findings = vec![program(), home(config, left_out.no_home.as_ref())];
    let has_home = left_out.no_home.is_none();
    // Without a home there is no file either.
    let no_file = left_out.no_file.as_ref().filter(|_| has_home);
    findings.extend(no_file.map(settings));
    findings.extend(credentials(config));
    findings.extend(listener(config));
    let broker = broker(config).await;
    let management = management(config, &broker).await;
    let mut of_broker = vec![broker, round_trip(config).await, management];
    if is_ours(config) && has_home {
        of_broker.push(store(config));
        of_broker.extend(docker(config).await);
    } else if is_ours(config) {
        // Nothing can be started there, and no login is known.
        let wrong = of_broker.iter_mut().filter(|finding| !finding.ok);
        wrong.for_each(|finding| finding.mend = Some("mend the home first".to_owned()));
    }
    findings.extend(of_broker);
    findings.push(agent(args, config));
    findings.extend(probe(args, config).await);
    findings.push(environment(config));
    findings
}

/// Whether the broker is one that `start` and `serve` run here, not one that the user named.
fn is_ours(config: &Config) -> bool {
    !config.names_a_broker() && config.endpoint.address.is_local()
}

fn program() -> Finding {
    let version = env!("CARGO_PKG_VERSION");
    match std::env::current_exe() {
        Ok(path) => Finding::well("program", format!("cbroker {version}, {}", path.display())),
        Err(error) => Finding::wrong("program", error.to_string(), "reinstall cbroker"),
    }
}

fn home(config: &Config, broken: Option<&Error>) -> Finding {
    if let Some(error) = broken {
        let mend = error
            .hint()
            .unwrap_or("set CBROKER_HOME to a folder of cbroker's own");
        return Finding::wrong("home", error.summary(), mend);
    }
    let folder = config.home.folder();
    if let Err(error) = config.home.prepare() {
        return Finding::wrong(
            "home",
            format!("{}: {error}", folder.display()),
            "make the folder writable, or set CBROKER_HOME",
        );
    }
    Finding::well(
        "home",
        format!("{}, readable by you only", folder.display()),
    )
}

/// Reports a broken `config.toml`; the other checks use the defaults.
fn settings(error: &Error) -> Finding {
    let mend = "correct that line; the checks below do without the file";
    Finding::wrong("config", error.summary(), mend)
}

/// A credentials file that others can read gives no protection. A missing one is fine: the first
/// start creates it.
fn credentials(config: &Config) -> Option<Finding> {
    let path = config.home.credentials_file();
    let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o777;
    Some(if mode.trailing_zeros() >= 6 {
        Finding::well("credentials", format!("{}, mode {mode:o}", path.display()))
    } else {
        Finding::wrong(
            "credentials",
            format!("{} has mode {mode:o}", path.display()),
            format!("chmod 600 {}", path.display()),
        )
    })
}

/// Which process listens on the port of a local broker.
fn listener(config: &Config) -> Option<Finding> {
    let address = &config.endpoint.address;
    if !address.is_local() {
        return None;
    }
    let owners = listeners(address.port);
    let shown = |owner: &SocketOwner| format!("port {}: {owner}", address.port);
    let stranger = owners.iter().find(|owner| !owner.is_ours());
    match (stranger, config.endpoint.guard.listener_demand()) {
        (Some(stranger), ListenerDemand::Ours) => Some(Finding::wrong(
            "listener",
            shown(stranger),
            "end it, or `cbroker start --port PORT`; nothing is sent to it",
        )),
        _ => Some(Finding::well("listener", shown(owners.first()?))),
    }
}

async fn broker(config: &Config) -> Finding {
    let shown = format!(
        "{} as {}",
        config.endpoint.address, config.endpoint.login.user
    );
    match Peer::connect(&config.endpoint, "doctor").await {
        Ok(peer) => {
            peer.close().await;
            Finding::well("broker", shown)
        }
        Err(error) => failed("broker", &error.into()),
    }
}

/// Sends a message to itself: declares a queue, publishes, waits for the confirm, receives,
/// deletes.
async fn round_trip(config: &Config) -> Finding {
    let name = SessionName::for_answer(Ulid::generate());
    let began = Instant::now();
    let done = async {
        let mut peer = Peer::connect(&config.endpoint, "doctor").await?;
        let mut answers = peer.answer_queue(&name, config.settings.ttl_ms).await?;
        let envelope = Envelope::new(
            Ulid::generate(),
            chrono::Utc::now(),
            &name,
            &name,
            "a round trip".into(),
        );
        let message = Publication::plain(&envelope);
        let outcome = peer.publish(&message, ROUND_TRIP_WITHIN).await?;
        let received = answers.next_within(ROUND_TRIP_WITHIN).await?;
        let whole = received.is_some_and(|delivery| delivery.body == envelope.to_json());
        peer.delete(&name).await?;
        peer.close().await;
        if outcome == PublishOutcome::Confirmed && whole {
            Ok(())
        } else {
            Err(Error::new("the test message did not come back"))
        }
    };
    match done.await {
        Ok(()) => Finding::well(
            "round trip",
            format!("a message to itself in {} ms", began.elapsed().as_millis()),
        ),
        Err(error) => failed("round trip", &error),
    }
}

/// Asks the management API. If no broker answers, its fix is shown: another API address would not
/// help.
async fn management(config: &Config, broker: &Finding) -> Finding {
    let asked = async { Ok::<_, Error>(Client::new(config, API_WITHIN)?.overview().await?) };
    match asked.await {
        Ok(_) => Finding::well("management", config.management.url.clone()),
        Err(error) if !broker.ok => Finding {
            mend: broker.mend.clone(),
            ..failed("management", &error)
        },
        Err(error) => failed("management", &error),
    }
}

fn store(config: &Config) -> Finding {
    let folder = match &config.local {
        Some(local) => match &local.kind {
            BrokerKind::Embedded { data_dir, .. } => data_dir.clone(),
            BrokerKind::Container { .. } => {
                return Finding::well(
                    "store",
                    format!("in the volume {}", crate::container::VOLUME),
                );
            }
        },
        None => config.home.data(),
    };
    let existing = folder
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{}, {} MiB free", folder.display(), free >> 20);
            if free < ROOM_BYTES {
                Finding::wrong(
                    "store",
                    detail,
                    "free some disk space: a broker without it blocks its publishers",
                )
            } else {
                Finding::well("store", detail)
            }
        }
        Err(error) => Finding::wrong(
            "store",
            format!("{}: {error}", folder.display()),
            "make the folder readable",
        ),
    }
}

/// Checks the Docker engine; `None` unless the broker is, or is configured to be, a container.
async fn docker(config: &Config) -> Option<Finding> {
    let is_container = matches!(
        config.local.as_ref().map(|local| &local.kind),
        Some(BrokerKind::Container { .. })
    ) || matches!(local::find(config).await, Ok(RunsAs::Container(..)));
    if !is_container {
        return None;
    }
    let asked = async { DockerEngine::new(&config.environment)?.version().await };
    Some(match asked.await {
        Ok(version) => Finding::well("docker", format!("version {version}")),
        Err(error) => failed("docker", &error),
    })
}

/// Finds at least one supported agent on PATH.
fn agent(args: &DoctorArgs, config: &Config) -> Finding {
    let known = match args.probe.as_deref() {
        Some(one) => vec![one],
        None => wrap::agent_programs(),
    };
    let found: Vec<_> = known
        .iter()
        .filter_map(|agent| on_path(agent, config))
        .map(|path| path.display().to_string())
        .collect();
    if found.is_empty() {
        let known = known.join(", ");
        return Finding::wrong(
            "agent",
            format!("not on PATH: {known}"),
            "install one, or wrap another program: cbroker --name NAME run -- PROGRAM",
        );
    }
    Finding::well("agent", found.join(", "))
}

/// Starts the installed agent briefly and reports what it shows of itself.
async fn probe(args: &DoctorArgs, config: &Config) -> Vec<Finding> {
    let Some(agent) = &args.probe else {
        return Vec::new();
    };
    match wrap::probe::probe(agent.as_ref(), config).await {
        Ok(signs) => signs
            .into_iter()
            .map(|sign| Finding {
                check: sign.what,
                ok: sign.is_seen,
                detail: sign.detail,
                mend: sign.mend.filter(|_| !sign.is_seen).map(str::to_owned),
            })
            .collect(),
        Err(error) => vec![failed("probe", &error)],
    }
}

fn on_path(program: &str, config: &Config) -> Option<PathBuf> {
    let folders = std::env::split_paths(config.environment.get("PATH")?).collect::<Vec<_>>();
    folders
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

fn environment(config: &Config) -> Finding {
    let inside = match (&config.inside.name, &config.inside.session) {
        (Some(name), Some(_)) => format!("inside the session `{name}`"),
        _ => "outside any session".to_owned(),
    };
    let set: Vec<&str> = [
        "CBROKER_URL",
        "CBROKER_HOME",
        "CBROKER_MGMT_URL",
        "CBROKER_MGMT_USER",
        "CBROKER_MGMT_PASS",
        "NO_COLOR",
    ]
    .into_iter()
    .filter(|name| config.environment.get(name).is_some())
    .collect();
    let set = if set.is_empty() {
        "no variables set".to_owned()
    } else {
        format!("set: {}", set.join(", "))
    };
    Finding::well("environment", format!("{inside}; {set}"))
}

fn failed(check: &'static str, error: &Error) -> Finding {
    let mend = error.hint().unwrap_or("see the line above").to_owned();
    Finding {
        check,
        ok: false,
        detail: error.summary(),
        mend: Some(mend),
    }
}
