//! `cbroker pause` and `cbroker resume`: hold back the messages in a session, or release them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::compose::Recipient;
use super::connect::{self, Autostart};
use super::{groups, sessions};
use crate::cli::ScopeArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::{Output, Style, counted, foreign_part};
use crate::peer::{Answer, AwaitedAnswers, Peer, Presence, Request, RequestScope};

/// The number of names in one request. Sessions do not read a request of more than 16 KiB, and any
/// user can make a group large; this many of the longest names take less than half of that.
const NAMES_IN_A_REQUEST: usize = 100;

/// How long the sessions are counted, once the request is sent: a user who may bind queues can make
/// any number that look like theirs.
const COUNT_WITHIN: Duration = Duration::from_secs(3);

/// Which of the two commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PauseCommand {
    /// Hold messages back.
    Pause,
    /// Release them.
    Resume,
}

/// Sends the request and prints the state that each session reports.
pub(super) async fn run(
    command: PauseCommand,
    args: ScopeArgs,
    config: &Config,
    output: &Output,
) -> Result<Exit, Error> {
    let meant = PauseTargets::read(args.name.as_deref(), config).await?;
    let mut peer = connect::peer(config, "pause", Autostart::Never, output).await?;
    let requests: Vec<Request> = meant
        .scopes()
        .into_iter()
        .map(|scope| match command {
            PauseCommand::Pause => Request::Pause { scope },
            PauseCommand::Resume => Request::Resume { scope },
        })
        .collect();
    let published = peer.publish_requests(&requests).await?;
    // Given up in the midst of a request, the channel is good for nothing but to be closed.
    let counting = meant.count(&mut peer, config, output);
    let count = tokio::time::timeout(COUNT_WITHIN, counting).await;
    // The request is sent already, so its answers are printed although nobody could be counted.
    let awaited = meant.awaited(count.ok().and_then(Result::ok).flatten());
    if let Some(expected) = awaited.count {
        output.detail(format!("waits for {}", counted(expected, "answer")));
    }
    let answers = published.answers(&awaited).await?;
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
    let whose = match &meant {
        PauseTargets::One(name) => Some(format!("`{name}`")),
        PauseTargets::Group(..) => Some(format!("of `{}`", args.name.unwrap_or_default())),
        PauseTargets::All => None,
    };
    if let Some(whose) = whose.filter(|_| sessions.is_empty()) {
        return Err(
            Error::new(format!("no session {whose} is attached")).caused_by(
                "only an open session can be paused; messages to a closed one wait anyway",
            ),
        );
    }
    output.json(&sessions)?;
    if sessions.is_empty() {
        output.line(output.paint(Style::Dim, "no session is attached"))?;
    }
    for session in &sessions {
        let words = foreign_part(&session.words());
        output.line(format!("{}: {words}", session.name))?;
    }
    Ok(Exit::Done)
}

/// The sessions that are meant.
enum PauseTargets {
    /// Those of one name.
    One(SessionName),
    /// The members of a group.
    Group(BTreeSet<SessionName>),
    /// All of them.
    All,
}

impl PauseTargets {
    async fn read(name: Option<&str>, config: &Config) -> Result<Self, Error> {
        let Some(name) = name else {
            return Ok(Self::All);
        };
        Ok(match Recipient::read(name, "NAME")? {
            Recipient::Session(name) => Self::One(name),
            Recipient::Group(group) => Self::Group(groups::members(&group, config).await?),
        })
    }

    /// How many answers come, if that can be known.
    async fn count(
        &self,
        peer: &mut Peer,
        config: &Config,
        output: &Output,
    ) -> Result<Option<u32>, Error> {
        let attached = match self {
            Self::One(name) => {
                let names = BTreeSet::from([name.clone()]);
                sessions::attached_of(peer, &names, config).await?
            }
            Self::Group(names) => sessions::attached_of(peer, names, config).await?,
            Self::All => return sessions::attached(peer, config, output).await,
        };
        Ok(Some(attached))
    }

    /// Which answers are awaited, of so many.
    fn awaited(&self, count: Option<u32>) -> AwaitedAnswers<'_> {
        if let Self::One(name) = self {
            return sessions::answers_of(name, count.unwrap_or(1));
        }
        // `pause --all` must report every session, also on a busy machine.
        let within = count.map_or(sessions::NEXT_ANSWER_WITHIN, sessions::answer_within);
        AwaitedAnswers {
            name: None,
            count,
            more: None,
            first: within,
            next: within,
        }
    }

    /// The scope of each request to send.
    fn scopes(&self) -> Vec<RequestScope> {
        match self {
            Self::One(name) => vec![RequestScope::Name(name.to_string())],
            Self::Group(names) => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                let parts = names.chunks(NAMES_IN_A_REQUEST);
                parts
                    .map(|part| RequestScope::Names(part.to_vec()))
                    .collect()
            }
            Self::All => vec![RequestScope::All],
        }
    }
}
