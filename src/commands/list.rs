//! `cbroker list`: who is there, what waits, what each session does and for how long.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::connect::{self, Autostart};
use super::sessions::{self, SessionRow};
use crate::cli::ListArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style, age};
use crate::peer::Peer;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Prints one row for each session, and one for each name without a session.
pub(super) async fn run(args: ListArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let mut peer = connect::peer(config, "list", Autostart::Never, output).await?;
    if args.watch {
        let watched = watch(&mut peer, config, output);
        return tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
            watched = watched => watched,
        };
    }
    let rows = sessions::rows(&mut peer, config, output).await?;
    peer.close().await;
    print(&rows, output)?;
    Ok(Exit::Done)
}

/// Prints the rows again whenever they changed; on a terminal in the same place.
async fn watch(peer: &mut Peer, config: &Config, output: &Output) -> Result<Exit, Error> {
    let mut shown = None;
    loop {
        let rows = sessions::rows(peer, config, output).await?;
        // On a terminal the ages grow by themselves.
        if output.clear_screen()? || shown.as_ref() != Some(&rows) {
            print(&rows, output)?;
        }
        shown = Some(rows);
        tokio::time::sleep(WATCH_EVERY).await;
    }
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
    let mut cells: Vec<_> = rows
        .iter()
        .map(|row| (style(row), cells(row, now)))
        .collect();
    let mut heading = vec!["NAME", "CONSUMERS", "PENDING", "STATE", "SINCE", "AGENT"];
    if rows.iter().any(|row| !row.groups.is_empty()) {
        heading.push("GROUPS");
        for ((_, cells), row) in cells.iter_mut().zip(rows) {
            cells.push(row.groups.join(", "));
        }
    }
    output.table(&heading, &cells)
}

fn style(row: &SessionRow) -> Option<Style> {
    if row.needs_its_person() {
        Some(Style::Warning)
    } else if row.consumers == 0 && row.pending == 0 {
        Some(Style::Dim)
    } else {
        None
    }
}

fn cells(row: &SessionRow, now: DateTime<Utc>) -> Vec<String> {
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
