//! `cbroker ask`: sends a message, waits for the answer with its correlation id, and prints it.
//!
//! Answers arrive in a queue named `ask<ULID>`, which is deleted on every exit. The next `ask`
//! deletes the queue of one that was killed.
//!
//! An answer counts if it comes from the session that was asked and the broker vouches that the
//! asker's own user published it. A session of another tool names no user and is believed without.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use ulid::Ulid;

use super::compose::{Address, MessageDraft, session_name};
use super::connect::{self, Autostart};
use super::send::{CONFIRM_WITHIN, hops};
use crate::cli::AskArgs;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText};
use crate::name::SessionName;
use crate::output::{self, Output};
use crate::peer::{Peer, Publication, PublishOutcome, Reply, ReplyQueue, Request};

/// A younger queue may belong to an `ask` that does not consume yet.
const LEFT_BEHIND_AFTER: Duration = Duration::from_mins(1);
const API_WITHIN: Duration = Duration::from_millis(500);
/// How long a session has to say that it is one of ours.
const WHO_WITHIN: Duration = Duration::from_secs(1);

/// Asks one session and prints its answer.
pub(super) async fn run(args: AskArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let address = Address::read(args.to.as_slice(), &args.message)?;
    let [to] = address.names.as_slice() else {
        return Err(Error::usage("one session is asked at a time"));
    };
    let mut draft = MessageDraft::read(&args.message, &address, config, output)?;
    let mut peer = connect::peer(
        config,
        "ask",
        Autostart::unless(args.message.no_start),
        output,
    )
    .await?;
    let answers_at = SessionName::for_answer(Ulid::generate());
    draft.reply_to = Some(answers_at.clone());
    let mut answers = peer
        .answer_queue(&answers_at, config.settings.ttl_ms)
        .await?;
    let asked = async {
        let question = draft.envelope(to)?;
        let from = Answerer::of(&mut peer, to).await?;
        publish(&mut peer, &question, &args, config).await?;
        wait(&mut answers, (&question, &from), args.timeout, config).await
    };
    let answer = interruptible(asked).await;
    connect::delete_answers(&mut peer, config, &answers_at).await;
    delete_left_behind(&mut peer, config).await;
    peer.close().await;
    print(&answer?, output)
}

/// Whose answer counts.
struct Answerer {
    /// The session's name.
    name: SessionName,
    /// The user that the broker has to vouch for; `None` where another tool's session is attached.
    user: Option<String>,
}

impl Answerer {
    /// The session of this name.
    async fn of(peer: &mut Peer, name: &SessionName) -> Result<Self, Error> {
        let attached = peer.look(name).await?.map_or(0, |queue| queue.consumers);
        let is_foreign = attached > 0 && !is_present(peer, name).await?;
        Ok(Self {
            name: name.clone(),
            user: (!is_foreign).then(|| peer.user().to_owned()),
        })
    }

    /// Whether the answer is from it, `user` being whom the broker vouches for.
    fn sent(&self, answer: &Envelope, user: Option<&str>) -> bool {
        let is_user = match &self.user {
            Some(own) => user == Some(own),
            None => true,
        };
        answer.from == self.name.as_str() && is_user
    }
}

/// Whether a session of ours answers to the name.
async fn is_present(peer: &Peer, name: &SessionName) -> Result<bool, Error> {
    let is_it = |reply: &Reply| matches!(reply, Reply::State(state) if state.name == name.as_str());
    let has_it = |so_far: &[Reply]| so_far.iter().any(is_it);
    let replies = peer.ask_sessions(&Request::Who, WHO_WITHIN, has_it).await?;
    Ok(has_it(&replies))
}

async fn publish(
    peer: &mut Peer,
    question: &Envelope,
    args: &AskArgs,
    config: &Config,
) -> Result<(), Error> {
    let to = session_name(&question.to, "--to")?;
    if peer.look(&to).await?.is_none() {
        if to.waits_for_answer() {
            return Err(
                Error::new(format!("no `cbroker ask` waits for an answer at `{to}`"))
                    .exit_with(Exit::Unconfirmed),
            );
        }
        peer.ensure_queue(&to, config.settings.ttl_ms).await?;
    }
    let message = Publication {
        envelope: question,
        expires_ms: args.message.ttl,
        hops: hops(config),
        receipt_to: None,
        when: None,
    };
    let sent = HistoryEntry::new(Utc::now(), &question.id, HistoryEvent::Sent, to.as_str());
    // The history is for people. The question is asked even if it cannot be written.
    let _untold = MessageHistory::of(&config.home).note(&sent.saying(MessageText::of(question)));
    match peer.publish(&message, CONFIRM_WITHIN).await? {
        PublishOutcome::Confirmed => Ok(()),
        PublishOutcome::Unroutable | PublishOutcome::Refused => Err(Error::new(format!(
            "the question to `{to}` is not confirmed"
        ))
        .exit_with(Exit::Unconfirmed)),
    }
}

async fn wait(
    answers: &mut ReplyQueue,
    (question, from): (&Envelope, &Answerer),
    limit: Duration,
    config: &Config,
) -> Result<Envelope, Error> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(delivery) = answers.next_within(left).await? else {
            let seconds = limit.as_secs();
            return Err(Error::new(format!(
                "no answer from `{}` within {seconds} s",
                question.to
            ))
            .hint(
                "the question stays in its queue; `cbroker list` shows whether the session \
                     is attached",
            )
            .exit_with(Exit::Unconfirmed));
        };
        delivery.ack().await;
        let answer = Envelope::parse(&delivery.body, config.settings.body_limit_bytes);
        if let Ok(answer) = answer
            && answer.correlation_id.as_deref() == Some(&question.id)
            && from.sent(&answer, delivery.user())
        {
            return Ok(answer);
        }
    }
}

/// Ends early on Ctrl-C and SIGTERM, so that the queue is deleted in these cases too.
async fn interruptible(
    work: impl Future<Output = Result<Envelope, Error>>,
) -> Result<Envelope, Error> {
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::new("cannot wait for signals").because(error))?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(interrupted()),
        _ = terminated.recv() => Err(interrupted()),
    }
}

fn interrupted() -> Error {
    Error::new("interrupted before an answer came").exit_with(Exit::Unconfirmed)
}

/// Deletes the queues of killed `ask` commands: old enough, and without a consumer.
async fn delete_left_behind(peer: &mut Peer, config: &Config) {
    let Ok(client) = Client::new(config, API_WITHIN) else {
        return;
    };
    let Ok(names) = client.session_names().await else {
        return;
    };
    let old = SystemTime::now() - LEFT_BEHIND_AFTER;
    for name in names {
        let made = name
            .get(3..)
            .and_then(|id| Ulid::from_string(id).ok())
            .map(|id| id.datetime());
        let Ok(name) = SessionName::new(&name) else {
            continue;
        };
        if !name.waits_for_answer() || made.is_none_or(|made| made > old) {
            continue;
        }
        if let Ok(Some(state)) = peer.look(&name).await
            && state.consumers == 0
        {
            let _ = peer.delete(&name).await;
        }
    }
}

/// Prints the answer, made safe. This applies to a program too, because it may be an agent, which
/// would read what a person cannot see.
fn print(answer: &Envelope, output: &Output) -> Result<Exit, Error> {
    output.json(answer)?;
    if !output.is_json() {
        output::foreign(&format!("{}\n", answer.message))?;
    }
    Ok(Exit::Done)
}
