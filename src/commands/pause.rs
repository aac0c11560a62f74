//! `cbroker pause` and `cbroker resume`: hold back the messages in a session, or release them.

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::sessions;
use crate::cli::ScopeArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer::{Presence, QuestionScope, Reply, Request};

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
    let mut peer = connect::peer(config, "pause", Autostart::Never, output).await?;
    let (expected, within) = match &scope {
        QuestionScope::Name(name) => {
            let queue = peer.look(&session_name(name, "NAME")?).await?;
            let consumers = queue.map_or(0, |queue| queue.consumers);
            (Some(consumers.max(1)), sessions::answer_within(consumers))
        }
        QuestionScope::All => {
            let attached = sessions::attached(&mut peer, config, output).await?;
            (attached, sessions::NEXT_ANSWER_WITHIN)
        }
    };
    let enough =
        |so_far: &[Reply]| expected.is_some_and(|expected| so_far.len() >= expected as usize);
    let replies = peer.ask_sessions(&request, within, enough).await?;
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
