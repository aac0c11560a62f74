//! `cbroker pause` and `cbroker resume`: hold back the messages in a session, or release them.

use std::time::Duration;

use super::compose::session_name;
use super::connect::{self, Autostart};
use crate::cli::ScopeArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer::{Presence, QuestionScope, Reply, Request};

const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const ALL_ANSWER_WITHIN: Duration = Duration::from_millis(400);

/// Which of the two commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Hold messages back.
    Pause,
    /// Release them.
    Resume,
}

/// Sends the request and prints the state that each session reports.
pub(super) async fn run(
    wish: Wish,
    args: ScopeArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let scope = match &args.name {
        Some(name) => QuestionScope::Name(session_name(name, "NAME")?.to_string()),
        None => QuestionScope::All,
    };
    let request = match wish {
        Wish::Pause => Request::Pause {
            scope: scope.clone(),
        },
        Wish::Resume => Request::Resume {
            scope: scope.clone(),
        },
    };
    // A named session answers at once. With `--all`, the number of answers is not known.
    let limit = if scope == QuestionScope::All {
        ALL_ANSWER_WITHIN
    } else {
        ANSWER_WITHIN
    };
    let mut peer = connect::peer(config, "pause", Autostart::Never, output).await?;
    let expected = match &scope {
        QuestionScope::Name(name) => peer
            .look(&session_name(name, "NAME")?)
            .await?
            .map_or(0, |state| state.consumers),
        QuestionScope::All => u32::MAX,
    };
    let enough = |so_far: &[Reply]| so_far.len() >= expected.max(1) as usize;
    let replies = peer.ask_sessions(&request, limit, enough).await?;
    peer.close().await;
    let sessions: Vec<Presence> = replies
        .into_iter()
        .filter_map(|reply| {
            if let Reply::State(presence) = reply {
                Some(presence)
            } else {
                None
            }
        })
        .collect();
    if let (true, QuestionScope::Name(name)) = (sessions.is_empty(), &scope) {
        return Err(Error::new(format!("no session `{name}` is attached"))
            .because("only an open session can be paused; messages to a closed one wait anyway"));
    }
    output.json(&sessions)?;
    for session in &sessions {
        output.line(format!("{}: {}", session.name, session.state.word()))?;
    }
    Ok(Exit::Done)
}
