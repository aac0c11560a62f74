//! `cbroker status`: shows whether the broker runs, and which one it is. Exits with 3 if it cannot
//! be reached.

use std::time::Duration;

use serde::Serialize;

use super::local::{self, RunsAs};
use crate::cli::StatusArgs;
use crate::config::{BrokerKind, Config};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::output::{self, Output, Style};
use crate::peer::Peer;

const API_WITHIN: Duration = Duration::from_secs(3);

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct StatusOutput {
    url: String,
    user: String,
    reachable: bool,
    /// Why it is not reachable.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// `embedded`, `container`, `remote` or `other`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Why publishers are blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked: Option<&'static str>,
    /// The product name in the management API.
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<String>,
    mgmt_url: String,
}

/// Prints the status, or only the full URL.
pub(super) async fn run(args: StatusArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    if args.show_url {
        output.json(&serde_json::json!({ "url": config.endpoint.secret_url() }))?;
        if !output.is_json() {
            output::raw(&format!("{}\n", config.endpoint.secret_url()))?;
        }
        return Ok(Exit::Done);
    }
    let status = status(config).await?;
    output.json(&status)?;
    print(&status, output)?;
    Ok(if status.reachable {
        Exit::Done
    } else {
        Exit::Unreachable
    })
}

async fn status(config: &Config) -> Result<StatusOutput, Error> {
    let address = &config.endpoint.address;
    let error = match Peer::connect(&config.endpoint, "status").await {
        Ok(peer) => {
            peer.close().await;
            None
        }
        Err(error) => Some(error),
    };
    let (kind, detail) = kind(config).await?;
    let (product, blocked) = if error.is_none() {
        (product(config).await, local::alarm(config).await)
    } else {
        (None, None)
    };
    Ok(StatusOutput {
        url: address.to_string(),
        user: config.endpoint.login.user.clone(),
        reachable: error.is_none(),
        error: error.map(|error| error.to_string()),
        kind,
        detail,
        blocked,
        product,
        mgmt_url: config.management.url.clone(),
    })
}

async fn kind(config: &Config) -> Result<(&'static str, Option<String>), Error> {
    let address = &config.endpoint.address;
    if config.names_a_broker() && !address.is_local() {
        return Ok(("remote", None));
    }
    Ok(match local::find(config).await? {
        RunsAs::Embedded(local, process) if local.port == address.port => {
            let BrokerKind::Embedded { data_dir, .. } = &local.kind else {
                return Ok(("embedded", None));
            };
            (
                "embedded",
                Some(format!(
                    "process {}, store {}",
                    process.pid(),
                    data_dir.display()
                )),
            )
        }
        RunsAs::Container(_, state) if state.is_running && state.local.port == address.port => (
            "container",
            Some(format!(
                "container {}, image {}",
                crate::container::CONTAINER,
                state.image
            )),
        ),
        _ => ("other", None),
    })
}

async fn product(config: &Config) -> Option<String> {
    let overview = Client::new(config, API_WITHIN)
        .ok()?
        .overview()
        .await
        .ok()?;
    let (name, version) = match (
        overview.product_name,
        overview.lavinmq_version,
        overview.rabbitmq_version,
    ) {
        (Some(name), _, spoken) => (name, overview.product_version.or(spoken)),
        (None, Some(version), _) => ("LavinMQ".to_owned(), Some(version)),
        (None, None, version) => ("RabbitMQ".to_owned(), version),
    };
    Some(version.map_or_else(|| name.clone(), |version| format!("{name} {version}")))
}

fn print(status: &StatusOutput, output: &Output) -> Result<(), Error> {
    let word = match (&status.error, status.reachable) {
        (None, _) | (_, true) => output.paint(Style::Good, "running"),
        (Some(error), _) => format!("{} ({error})", output.paint(Style::Bad, "not reachable")),
    };
    output.line(format!("broker      {word}"))?;
    if let Some(blocked) = status.blocked {
        let blocked = output.paint(Style::Bad, blocked);
        output.line(format!("blocked     {blocked}: publishers wait"))?;
    }
    output.line(format!("url         {} as {}", status.url, status.user))?;
    output.line(format!("management  {}", status.mgmt_url))?;
    let kind = match (&status.detail, status.kind) {
        (Some(detail), kind) => format!("{kind}: {detail}"),
        (None, "other") if !status.reachable => {
            "no local broker runs; `cbroker start` starts one".to_owned()
        }
        (None, "other") => "not started by cbroker".to_owned(),
        (None, kind) => kind.to_owned(),
    };
    output.line(format!("kind        {kind}"))?;
    match &status.product {
        Some(product) => output.line(format!("product     {product}")),
        None => Ok(()),
    }
}
