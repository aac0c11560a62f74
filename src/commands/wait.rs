//! `cbroker wait`: returns once a session is in a state.

use std::time::Duration;

use tokio::time::Instant;

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::sessions::{self, SessionRow};
use crate::cli::{UntilArg, WaitArgs};
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::{Output, foreign_part};
use crate::peer::{Peer, PeerState};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks until a session of this name is in the state, or the time is over.
pub(super) async fn run(args: WaitArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    let mut peer = connect::peer(config, "wait", Autostart::Never, output).await?;
    let found = tokio::select! {
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Unconfirmed),
        found = look_until(&args, &name, &mut peer) => found?,
    };
    peer.close().await;
    output.json(&found)?;
    output.line(format!("{name}: {}", foreign_part(&found.state)))?;
    Ok(Exit::Done)
}

async fn look_until(
    args: &WaitArgs,
    name: &SessionName,
    peer: &mut Peer,
) -> Result<SessionRow, Error> {
    let until = Instant::now() + args.timeout;
    loop {
        let rows = sessions::rows_named(peer, name).await?;
        let state = rows.first().map(|row| row.state.clone());
        if let Some(row) = rows.into_iter().find(|row| is_in(row, args.until)) {
            return Ok(row);
        }
        if Instant::now() + LOOK_EVERY > until {
            return Err(Error::new(format!("`{name}` is not {}", args.until.word()))
                .caused_by(format!(
                    "it is {}",
                    foreign_part(&state.unwrap_or_default())
                ))
                .exit_with(Exit::Unconfirmed));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_in(row: &SessionRow, wanted: UntilArg) -> bool {
    let state = row.answered.map(|answered| answered.state);
    match wanted {
        UntilArg::Idle => state == Some(PeerState::Idle),
        UntilArg::NeedsYou => row.needs_its_person(),
        UntilArg::Attached => row.consumers > 0,
        UntilArg::Closed => row.consumers == 0,
    }
}
