//! The sessions that can be found, for the commands that show or address several.
//!
//! Names come from the API's bindings, from the sessions that answer on the presence exchange, and
//! from the logs of sessions that ran on this machine. Counts always come from AMQP, because the
//! numbers of a management API can be out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::groups::{self, Groups};
use crate::config::{Config, ValueOrigin};
use crate::envelope::timestamp;
use crate::error::Error;
use crate::management::Client;
use crate::message_history::MessageHistory;
use crate::name::SessionName;
use crate::output::Output;
use crate::peer::{Answer, AwaitedAnswers, Peer, PeerState, Presence, QueueCounts, Request};
use crate::wrap;

/// How long the next session may take to answer a question to all. A session of another tool never
/// answers.
pub(super) const NEXT_ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How long sessions may take to answer whose names nobody knows, once all that are known have
/// answered.
const UNKNOWN_ANSWER_WITHIN: Duration = Duration::from_millis(150);
/// How long the sessions on a queue may take to answer. They answer at once, unless their machine
/// is very busy.
const ATTACHED_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a session may take that the broker does not see on its queue: it may be attaching.
const ATTACHING_ANSWER_WITHIN: Duration = Duration::from_secs(1);
const API_WITHIN: Duration = Duration::from_secs(3);

/// One session, or a name under which none is attached, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct SessionRow {
    pub(super) name: String,
    /// Sessions attached to the queue.
    pub(super) consumers: u32,
    /// Messages waiting in the queue.
    pub(super) pending: u32,
    /// Messages that the session has received and that no model has in its context.
    pub(super) held: u32,
    /// The groups that it belongs to, where the API tells them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    /// The state in words.
    pub(super) state: String,
    /// When that state began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    /// Why the first held message waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<String>,
    /// The command that opens it, where it is closed and messages wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<String>,
    /// The machine on which it runs.
    #[serde(skip)]
    pub(super) host: Option<String>,
    /// The session's answer, for what the command decides; `None` where no session answered.
    #[serde(skip)]
    pub(super) answered: Option<Answered>,
}

/// What a session needs of its person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionNeed {
    /// Its agent asks something.
    Answer,
    /// A message stands in its agent's box.
    ClearBox,
    /// It is closed, and messages wait.
    Open,
    /// It holds messages until its person does something, which its state says.
    LetGo,
}

/// What a session answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) state: PeerState,
    pub(super) is_paused: bool,
    pub(super) since: DateTime<Utc>,
}

/// Returns a row for each session, and one for each name without any: first those that need their
/// person, then those for which messages wait until a person does something, then the others that
/// are open.
pub(super) async fn rows(
    peer: &mut Peer,
    config: &Config,
    output: &Output,
) -> Result<Vec<SessionRow>, Error> {
    let known = KnownNames::find(config, output).await;
    let mut queues = BTreeMap::new();
    add_queue_counts(peer, known.names, &mut queues).await?;
    let groups = known.groups;
    let listed = ListedConsumers::find(peer, &queues, config).await;
    let awaited = AwaitedAnswers {
        name: None,
        count: Some(listed.own(&queues)),
        more: (!known.are_all).then_some(UNKNOWN_ANSWER_WITHIN),
        first: NEXT_ANSWER_WITHIN,
        next: NEXT_ANSWER_WITHIN,
    };
    let answers = peer.ask_sessions(&[Request::Who], &awaited).await?;
    let present = by_name(answers);
    let unknown = present
        .keys()
        .filter_map(|name| SessionName::new(name).ok())
        .filter(|name| !queues.contains_key(name))
        .collect();
    add_queue_counts(peer, session_names(unknown), &mut queues).await?;
    let mut rows: Vec<SessionRow> = queues
        .iter()
        .flat_map(|(name, queue)| {
            let sessions = present.get(name.as_str());
            let mut rows = rows_of(name, *queue, sessions);
            let answered = sessions.map_or(0, Vec::len);
            if answered > 0 && listed.own_of(name, *queue) as usize > answered {
                rows.extend(rows_of(name, *queue, None));
            }
            rows
        })
        .collect();
    for row in &mut rows {
        if let Ok(name) = SessionName::new(&row.name) {
            row.groups = groups::of_session(&groups, &name);
            row.open = (row.need() == Some(SessionNeed::Open)).then(|| how_to_open(&name, config));
        }
    }
    rows.sort_by_key(SessionRow::rank);
    Ok(rows)
}

/// Returns the names of all queues of sessions, which only the management API knows.
pub(super) async fn names_at(config: &Config) -> Result<BTreeSet<SessionName>, Error> {
    let (names, _) = from_api(config).await.map_err(|error| {
        Error::new(format!(
            "the queues of {} are not all known",
            config.endpoint.address
        ))
        .caused_by(error.summary())
        .with_hint("--mgmt-url names the management API of the broker that is moved from")
        .exit_with(error.exit())
    })?;
    let exact = names.iter().filter(|name| SessionName::is_exact(name));
    let names = exact.filter_map(|name| SessionName::new(name).ok());
    Ok(session_names(names.collect()))
}

/// How many sessions may answer a question to all that only this user's sessions answer, if that
/// can be known.
pub(super) async fn attached(
    peer: &mut Peer,
    config: &Config,
    output: &Output,
) -> Result<Option<u32>, Error> {
    let known = KnownNames::find(config, output).await;
    if !known.are_all {
        return Ok(None);
    }
    attached_of(peer, &known.names, config).await.map(Some)
}

/// How many sessions may answer a question to these names that only this user's sessions answer:
/// nobody waits for another user's program that consumes under a session's name.
pub(super) async fn attached_of(
    peer: &mut Peer,
    names: &BTreeSet<SessionName>,
    config: &Config,
) -> Result<u32, Error> {
    let mut queues = BTreeMap::new();
    add_queue_counts(peer, names.clone(), &mut queues).await?;
    let listed = ListedConsumers::find(peer, &queues, config).await;
    Ok(listed.own(&queues))
}

/// The consumers of each queue in the API's list: this user's, and those of others. Without an API
/// all that the broker counted may be this user's, and one that has just attached may not be in the
/// list yet.
#[derive(Default)]
struct ListedConsumers(BTreeMap<String, (usize, usize)>);

impl ListedConsumers {
    async fn find(
        peer: &Peer,
        queues: &BTreeMap<SessionName, QueueCounts>,
        config: &Config,
    ) -> Self {
        let is_any = queues.values().any(|queue| queue.consumers > 0);
        let users = match Client::new(config, API_WITHIN) {
            Ok(client) if is_any => client.consuming_users().await.unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut listed = Self::default();
        for (queue, user) in users {
            let (own, others) = listed.0.entry(queue).or_default();
            *(if user == peer.user() { own } else { others }) += 1;
        }
        listed
    }

    /// How many of a queue's consumers may be this user's.
    fn own_of(&self, name: &SessionName, queue: QueueCounts) -> u32 {
        let (own, others) = self.0.get(name.as_str()).copied().unwrap_or_default();
        of_own_user(queue.consumers, own, others)
    }

    /// How many of all consumers may be this user's.
    fn own(&self, queues: &BTreeMap<SessionName, QueueCounts>) -> u32 {
        let each = queues.iter().map(|(name, queue)| self.own_of(name, *queue));
        each.fold(0, u32::saturating_add)
    }
}

/// How many of the consumers that the broker counted may be this user's, where a list that was made
/// later has so many of this user and of others. Others may have come in between: they must not be
/// taken from the own ones.
fn of_own_user(seen: u32, own: usize, others: usize) -> u32 {
    let count = |listed: usize| u32::try_from(listed).unwrap_or(u32::MAX);
    seen.saturating_sub(count(others)).max(seen.min(count(own)))
}

/// The answers to a question to one name, with so many consumers on its queue: one of them at
/// least, and no more than a moment longer for what never answers, such as another user's program.
pub(super) fn answers_of(name: &SessionName, consumers: u32) -> AwaitedAnswers<'_> {
    AwaitedAnswers {
        name: Some(name.as_str()),
        count: Some(consumers.max(1)),
        more: None,
        first: answer_within(consumers),
        next: NEXT_ANSWER_WITHIN,
    }
}

/// How long a question waits for answers, with so many consumers on the queues that it is for.
pub(super) fn answer_within(consumers: u32) -> Duration {
    if consumers > 0 {
        ATTACHED_ANSWER_WITHIN
    } else {
        ATTACHING_ANSWER_WITHIN
    }
}

/// The command that opens a session with the broker of this command.
fn how_to_open(name: &SessionName, config: &Config) -> String {
    let is_chosen = config.endpoint_origin == ValueOrigin::Flag;
    // A password may be part of it.
    let options: &[&str] = if is_chosen { &["--url", "<url>"] } else { &[] };
    wrap::how_to_open(&config.home, name, options)
}

/// Returns the row, or rows, of one name.
pub(super) async fn rows_named(
    peer: &mut Peer,
    name: &SessionName,
) -> Result<Vec<SessionRow>, Error> {
    let queue = peer.queue_counts(name).await?.unwrap_or(QueueCounts {
        consumers: 0,
        messages: 0,
    });
    if queue.consumers == 0 {
        return Ok(rows_of(name, queue, None));
    }
    let awaited = AwaitedAnswers {
        first: NEXT_ANSWER_WITHIN,
        ..answers_of(name, queue.consumers)
    };
    let answers = peer.ask_sessions(&[Request::Who], &awaited).await?;
    let present = by_name(answers);
    Ok(rows_of(name, queue, present.get(name.as_str())))
}

impl SessionRow {
    /// What it needs of its person, if anything.
    pub(super) fn need(&self) -> Option<SessionNeed> {
        let Some(answered) = self.answered else {
            return (self.consumers == 0 && self.pending > 0).then_some(SessionNeed::Open);
        };
        match answered.state {
            PeerState::NeedsYou => Some(SessionNeed::Answer),
            PeerState::Stuck => Some(SessionNeed::ClearBox),
            PeerState::Draft | PeerState::Paused | PeerState::Notify if self.held > 0 => {
                Some(SessionNeed::LetGo)
            }
            _ => None,
        }
    }

    /// Whether its agent waits for its person.
    pub(super) fn needs_its_person(&self) -> bool {
        matches!(
            self.need(),
            Some(SessionNeed::Answer | SessionNeed::ClearBox)
        )
    }

    /// Its place in the list, the first ones first.
    fn rank(&self) -> u8 {
        match self.need() {
            Some(SessionNeed::Answer | SessionNeed::ClearBox) => 0,
            Some(SessionNeed::Open | SessionNeed::LetGo) => 1,
            None if self.consumers > 0 || self.answered.is_some() => 2,
            None => 3,
        }
    }
}

/// Adds the queues of these names that exist.
async fn add_queue_counts(
    peer: &mut Peer,
    names: BTreeSet<SessionName>,
    queues: &mut BTreeMap<SessionName, QueueCounts>,
) -> Result<(), Error> {
    for name in names {
        if let Some(queue) = peer.look_among_sessions(&name).await? {
            queues.insert(name, queue);
        }
    }
    Ok(())
}

fn by_name(answers: Vec<Answer>) -> BTreeMap<String, Vec<Presence>> {
    let mut present: BTreeMap<String, Vec<Presence>> = BTreeMap::new();
    for answer in answers {
        if let Answer::State(presence) = answer {
            let sessions = present.entry(presence.name.clone()).or_default();
            sessions.push(presence);
        }
    }
    // The order in which they answer changes from one question to the next.
    for sessions in present.values_mut() {
        sessions.sort_by(|a, b| a.session.cmp(&b.session));
    }
    present
}

/// The names that are known without asking the sessions.
struct KnownNames {
    names: BTreeSet<SessionName>,
    /// Whether every session's name is among them: the API told them.
    are_all: bool,
    /// Who belongs to which group; none where the API does not tell.
    groups: Groups,
}

impl KnownNames {
    async fn find(config: &Config, output: &Output) -> Self {
        let (names, groups, are_all) = match from_api(config).await {
            Ok((names, groups)) => (names, groups, true),
            Err(error) => {
                output.notice(format!(
                    "{}; only names that are known without the API are shown",
                    error.summary()
                ));
                let history = MessageHistory::of(&config.home).sessions();
                let mut names = logged_names(config);
                names.extend(history.unwrap_or_default());
                (names, Groups::new(), false)
            }
        };
        let exact = names.iter().filter(|name| SessionName::is_exact(name));
        let names = exact.filter_map(|name| SessionName::new(name).ok());
        Self {
            names: session_names(names.collect()),
            are_all,
            groups,
        }
    }
}

/// Without the queues in which `ask` waits for answers.
fn session_names(names: BTreeSet<SessionName>) -> BTreeSet<SessionName> {
    let is_session = |name: &SessionName| !name.is_answer_queue();
    names.into_iter().filter(is_session).collect()
}

async fn from_api(config: &Config) -> Result<(Vec<String>, Groups), Error> {
    let client = Client::new(config, API_WITHIN)?;
    Ok((client.session_names().await?, client.groups().await?))
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

fn rows_of(
    name: &SessionName,
    queue: QueueCounts,
    present: Option<&Vec<Presence>>,
) -> Vec<SessionRow> {
    let bare = |state: &str| SessionRow {
        name: name.to_string(),
        consumers: queue.consumers,
        pending: queue.messages,
        held: 0,
        groups: Vec::new(),
        state: state.to_owned(),
        since: None,
        reason: None,
        agent: None,
        open: None,
        host: None,
        answered: None,
    };
    match present {
        Some(sessions) => sessions
            .iter()
            .map(|presence| SessionRow {
                held: presence.held,
                since: Some(timestamp(presence.since)),
                reason: presence.reason.clone(),
                agent: Some(presence.agent.clone()),
                host: Some(presence.host.clone()),
                answered: Some(Answered {
                    state: presence.state,
                    is_paused: presence.paused,
                    since: presence.since,
                }),
                ..bare(&presence.words())
            })
            .collect(),
        None if queue.consumers == 0 => vec![bare("closed")],
        // Another tool's session, or one that is too busy to answer.
        None => vec![bare("attached")],
    }
}

#[cfg(test)]
mod tests {
    use super::of_own_user;

    #[test]
    fn consumers_of_others_that_come_meanwhile_hide_no_session_of_the_user() {
        assert_eq!(of_own_user(3, 1, 2), 1);
        assert_eq!(of_own_user(1, 1, 5), 1, "four came after the count");
        assert_eq!(of_own_user(2, 1, 0), 2, "one is not in the list yet");
        assert_eq!(of_own_user(1, 3, 0), 1, "two came after the count");
        assert_eq!(of_own_user(2, 0, 2), 0);
    }
}
