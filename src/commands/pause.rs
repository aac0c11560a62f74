//! `cbroker pause` and `cbroker resume`: hold back the messages in a session, or release them.

use super::compose::{Recipient, session_name};
use super::connect::{self, Autostart};
use super::{groups, sessions};
use crate::cli::ScopeArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, counted};
use crate::peer::{Answer, Peer, Presence, Request, RequestScope};

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
    let scope = scope(args.name.as_deref(), config).await?;
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
        RequestScope::Name(name) => {
            let consumers = attached(&mut peer, std::slice::from_ref(name), config).await?;
            (Some(consumers.max(1)), sessions::answer_within(consumers))
        }
        RequestScope::Names(names) => {
            let consumers = attached(&mut peer, names, config).await?;
            (Some(consumers), sessions::answer_within(consumers))
        }
        RequestScope::All => {
            let attached = sessions::attached(&mut peer, config, output).await?;
            // Who holds everything back must hear of each, also where a machine is busy.
            let within = attached.map_or(sessions::NEXT_ANSWER_WITHIN, sessions::answer_within);
            (attached, within)
        }
    };
    if let Some(expected) = expected {
        output.detail(format!("waits for {}", counted(expected, "answer")));
    }
    let enough =
        |so_far: &[Answer]| expected.is_some_and(|expected| so_far.len() >= expected as usize);
    let answers = peer.ask_sessions(&request, within, enough).await?;
    peer.close().await;
    let sessions: Vec<Presence> = answers
        .into_iter()
        .filter_map(|answer| {
            if let Answer::State(presence) = answer {
                Some(presence)
            } else {
                None
            }
        })
        .collect();
    if sessions.is_empty() && scope != RequestScope::All {
        let whose = match &scope {
            RequestScope::Name(name) => format!("`{name}`"),
            _ => format!("of `{}`", args.name.unwrap_or_default()),
        };
        return Err(Error::new(format!("no session {whose} is attached"))
            .because("only an open session can be paused; messages to a closed one wait anyway"));
    }
    output.json(&sessions)?;
    for session in &sessions {
        output.line(format!("{}: {}", session.name, session.state.word()))?;
    }
    Ok(Exit::Done)
}

/// The sessions that are meant.
async fn scope(name: Option<&str>, config: &Config) -> Result<RequestScope, Error> {
    let Some(name) = name else {
        return Ok(RequestScope::All);
    };
    Ok(match Recipient::read(name, "NAME")? {
        Recipient::Session(name) => RequestScope::Name(name.to_string()),
        Recipient::Group(group) => {
            let members = groups::members(&group, config).await?;
            RequestScope::Names(members.iter().map(ToString::to_string).collect())
        }
    })
}

/// How many sessions may answer under these names.
async fn attached(peer: &mut Peer, names: &[String], config: &Config) -> Result<u32, Error> {
    let names = names.iter().map(|name| session_name(name, "NAME"));
    sessions::attached_of(peer, &names.collect::<Result<_, _>>()?, config).await
}
