//! `cbroker list`: lists the sessions, from the management API if there is one, and from the
//! sessions themselves.
//!
//! Names come from the API's bindings, from the sessions that answer on the presence exchange, and
//! from the logs of sessions that ran on this machine. Counts always come from AMQP, because the
//! numbers of a management API can be out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::connect::{self, Autostart};
use crate::config::Config;
use crate::envelope::timestamp;
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::message_history::MessageHistory;
use crate::name::SessionName;
use crate::output::{Output, Style};
use crate::peer::{Peer, Presence, QueueState, Reply, Request};

/// How long sessions have to answer.
const WHO_WITHIN: Duration = Duration::from_millis(150);
const API_WITHIN: Duration = Duration::from_secs(3);

/// One session, as `--json` prints it.
#[derive(Debug, Serialize)]
struct SessionRow {
    name: String,
    /// Sessions attached to the queue.
    consumers: u32,
    /// Messages waiting in the queue.
    pending: u32,
    /// Messages that the sessions have received and that no model has in its context.
    held: u32,
    state: String,
    /// When that state began.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Why the first held message waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

/// Prints one row for each name. Several sessions of one name share a row.
pub(super) async fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    let mut peer = connect::peer(config, "list", Autostart::Never, output).await?;
    let present = who(&peer).await?;
    let names = names(config, &present, output).await;
    let mut rows = Vec::new();
    for name in names {
        if let Some(state) = peer.look(&name).await? {
            rows.push(row(&name, state, present.get(name.as_str())));
        }
    }
    peer.close().await;
    print(&rows, output)
}

/// Returns all session names that can be found: from the API, the attached sessions and the logs.
pub(super) async fn names(
    config: &Config,
    present: &BTreeMap<String, Vec<Presence>>,
    output: &Output,
) -> BTreeSet<SessionName> {
    let mut names: BTreeSet<String> = present.keys().cloned().collect();
    match api_names(config).await {
        Ok(known) => names.extend(known),
        Err(error) => {
            names.extend(logged_names(config));
            names.extend(
                MessageHistory::of(&config.home)
                    .sessions()
                    .unwrap_or_default(),
            );
            output.notice(format!(
                "{}; only names that are known without the API are shown",
                error.summary()
            ));
        }
    }
    names
        .into_iter()
        .filter(|name| SessionName::is_exact(name))
        .filter_map(|name| SessionName::new(&name).ok())
        .filter(|name| !name.waits_for_answer())
        .collect()
}

/// Asks all attached sessions for their state. Returns the answers by name.
pub(super) async fn who(peer: &Peer) -> Result<BTreeMap<String, Vec<Presence>>, Error> {
    let mut present: BTreeMap<String, Vec<Presence>> = BTreeMap::new();
    for reply in peer
        .ask_sessions(&Request::Who, WHO_WITHIN, |_| false)
        .await?
    {
        if let Reply::State(presence) = reply {
            present
                .entry(presence.name.clone())
                .or_default()
                .push(presence);
        }
    }
    Ok(present)
}

async fn api_names(config: &Config) -> Result<Vec<String>, Error> {
    Ok(Client::new(config, API_WITHIN)?.session_names().await?)
}

fn logged_names(config: &Config) -> Vec<String> {
    let Ok(files) = fs::read_dir(config.home.logs()) else {
        return Vec::new();
    };
    files
        .flatten()
        .filter_map(|file| {
            file.file_name()
                .to_str()?
                .strip_suffix(".log")
                .map(str::to_owned)
        })
        .filter(|name| name != "broker")
        .collect()
}

fn row(name: &SessionName, queue: QueueState, present: Option<&Vec<Presence>>) -> SessionRow {
    let first = present.and_then(|present| present.first());
    let state = match (first, queue.consumers) {
        (Some(presence), _) => presence.words(),
        (None, 0) => "closed".to_owned(),
        // Another tool's session, or one that is too busy to answer.
        (None, _) => "attached".to_owned(),
    };
    SessionRow {
        name: name.to_string(),
        consumers: queue.consumers,
        pending: queue.messages,
        held: present.map_or(0, |present| {
            present.iter().map(|presence| presence.held).sum()
        }),
        state,
        since: first.map(|presence| timestamp(presence.since)),
        reason: first.and_then(|presence| presence.reason.clone()),
        agent: first.map(|presence| presence.agent.clone()),
    }
}

fn print(rows: &[SessionRow], output: &Output) -> Result<Exit, Error> {
    output.json(&rows)?;
    if rows.is_empty() {
        output.line(output.paint(
            Style::Dim,
            "no sessions yet: open one with `cbroker --name NAME claude`",
        ))?;
        return Ok(Exit::Done);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let state = match &row.reason {
                Some(reason) if !row.state.contains(reason.as_str()) => {
                    format!("{}; held: {reason}", row.state)
                }
                _ => row.state.clone(),
            };
            let pending = match row.held {
                0 => row.pending.to_string(),
                held => format!("{} + {held} held", row.pending),
            };
            let agent = row.agent.clone().unwrap_or_default();
            vec![
                row.name.clone(),
                row.consumers.to_string(),
                pending,
                state,
                agent,
            ]
        })
        .collect();
    output.table(&["NAME", "CONSUMERS", "PENDING", "STATE", "AGENT"], &cells)?;
    Ok(Exit::Done)
}
