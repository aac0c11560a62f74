//! `cbroker list`: which sessions exist, what waits for them, what each does and for how long.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::connect::{self, Autostart};
use super::sessions::{self, SessionNeed, SessionRow};
use crate::cli::ListArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style, TableRow, age, counted};
use crate::peer::{Peer, PeerState, this_host};
use crate::wrap::dead_letters;

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Prints one row for each session, and one for each name without a session.
pub(super) async fn run(args: ListArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let mut peer = connect::peer(config, "list", Autostart::Never, output).await?;
    if args.watch {
        let watched = watch(peer, config, output);
        return tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
            watched = watched => watched,
        };
    }
    let rows = sessions::rows(&mut peer, config, output).await?;
    peer.close().await;
    print(&rows, output)?;
    let letters = dead_letters(&config.home, None).unwrap_or_default();
    if !letters.is_empty() {
        let letters = counted(letters.len() as u64, "dead letter");
        output.notice(format!("{letters}: `cbroker dead` shows why"));
    }
    Ok(Exit::Done)
}

/// Prints the rows again whenever they changed; on a terminal in the same place. Goes on when the
/// broker comes back, also on another port. A notice is printed once, not every second.
async fn watch(mut peer: Peer, config: &Config, output: &Output) -> Result<Exit, Error> {
    let mut shown = None;
    let mut config = config.clone();
    let mut notices = output.clone();
    loop {
        match sessions::rows(&mut peer, &config, &notices).await {
            Ok(rows) => {
                // On a terminal the ages grow by themselves.
                if output.clear_screen()? || shown.as_ref() != Some(&rows) {
                    print(&rows, output)?;
                }
                shown = Some(rows);
                notices = output.without_notices();
            }
            Err(error) if is_of_broker(&error) => {
                output.notice(format!("{}; waiting for the broker", error.summary()));
                (peer, config) = reconnect(&config, &notices).await?;
                output.notice("the broker is back");
                // It may have another API address.
                notices = output.clone();
                shown = None;
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Connects again as soon as that is possible.
async fn reconnect(config: &Config, output: &Output) -> Result<(Peer, Config), Error> {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        // A local broker may have come back on another port.
        let now = config.again()?;
        match connect::peer(&now, "list", Autostart::Never, output).await {
            Ok(peer) => return Ok((peer, now)),
            Err(error) if is_of_broker(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the error is temporary: the broker is not reachable, or too busy to answer.
fn is_of_broker(error: &Error) -> bool {
    matches!(error.exit(), Exit::Unreachable | Exit::Unconfirmed)
}

fn print(rows: &[SessionRow], output: &Output) -> Result<(), Error> {
    output.json(&rows)?;
    if rows.is_empty() {
        return output.line(output.paint(
            Style::Dim,
            "no sessions yet: open one with `cbroker --name NAME claude`",
        ));
    }
    let now = Utc::now();
    let mut table: Vec<_> = rows.iter().map(|row| table_row(row, now)).collect();
    let mut heading = vec!["NAME", "CONSUMERS", "PENDING", "STATE", "SINCE", "AGENT"];
    if rows.iter().any(|row| !row.groups.is_empty()) {
        heading.push("GROUPS");
        for (shown, row) in table.iter_mut().zip(rows) {
            shown.cells.push(row.groups.join(", "));
        }
    }
    output.table(&heading, &table)
}

fn table_row(row: &SessionRow, now: DateTime<Utc>) -> TableRow {
    TableRow {
        style: style(row),
        cells: cells(row, now),
        below: advice(row),
    }
}

fn style(row: &SessionRow) -> Option<Style> {
    match row.need() {
        Some(SessionNeed::Answer | SessionNeed::ClearBox) => Some(Style::Bad),
        Some(SessionNeed::Open | SessionNeed::LetGo) => Some(Style::Warning),
        None => (row.consumers == 0 && row.pending == 0).then_some(Style::Dim),
    }
}

/// What the person can do.
fn advice(row: &SessionRow) -> Option<String> {
    let name = &row.name;
    let said = match row.need()? {
        SessionNeed::Answer => match &row.host {
            Some(host) if *host != this_host() => format!("answer in its terminal on {host}"),
            _ => format!("answer in its terminal; to see it from here: cbroker screen {name}"),
        },
        SessionNeed::ClearBox => {
            "a message stands in its input box: press Enter there, or clear it".to_owned()
        }
        SessionNeed::Open => format!("open it: {}", row.open.as_ref()?),
        SessionNeed::LetGo => match row.answered?.state {
            PeerState::Draft => "send or clear the draft in its terminal".to_owned(),
            PeerState::Paused => format!("resume it: cbroker resume {name}"),
            _ => format!("read what it holds: cbroker inbox {name}"),
        },
    };
    Some(said)
}

fn cells(row: &SessionRow, now: DateTime<Utc>) -> Vec<String> {
    let state = match &row.reason {
        // The advice is printed below the row.
        _ if row.need() == Some(SessionNeed::ClearBox) => {
            let is_paused = row.answered.is_some_and(|answered| answered.is_paused);
            let also = if is_paused { "; paused" } else { "" };
            format!("{}{also}", PeerState::Stuck.word())
        }
        Some(reason) if !row.state.contains(reason.as_str()) => {
            format!("{}; held: {reason}", row.state)
        }
        _ => row.state.clone(),
    };
    let pending = match row.held {
        0 => row.pending.to_string(),
        held => format!("{} + {held} held", row.pending),
    };
    let since = row.answered.map(|answered| age(now - answered.since));
    vec![
        row.name.clone(),
        row.consumers.to_string(),
        pending,
        state,
        since.unwrap_or_default(),
        row.agent.clone().unwrap_or_default(),
    ]
}
