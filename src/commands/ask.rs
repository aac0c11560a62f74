//! `cbroker ask`: sends a message, waits for the answer with its correlation id, and prints it.
//!
//! Answers arrive in a queue named `ask<ULID>`, which is deleted on every exit. The next `ask`
//! deletes the queue of one that was killed.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use ulid::Ulid;

use super::answerer::Answerer;
use super::compose::{Address, MessageDraft, session_name};
use super::connect::{self, Autostart};
use super::fate::{MessageFate, SentMessage};
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
use crate::peer::{Peer, Publication, PublishOutcome, Receipt, ReceiptState, ReplyQueue};

/// A younger queue may belong to an `ask` that does not consume yet.
const LEFT_BEHIND_AFTER: Duration = Duration::from_mins(1);
const API_WITHIN: Duration = Duration::from_millis(500);

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
        let limit = args.timeout;
        let waited = wait(&mut answers, (&question, &from, peer.user()), limit, config).await?;
        match waited {
            Waited::Answer(answer) => Ok(*answer),
            Waited::Ended(receipt) => Err(never_answered(&question, &receipt)),
            Waited::InVain(last) => {
                let sent = SentMessage {
                    id: &question.id,
                    to,
                    has_expired: args
                        .message
                        .ttl
                        .is_some_and(|ttl| u128::from(ttl) <= limit.as_millis()),
                };
                let why = match &last {
                    Some(receipt) => receipt.words(),
                    None => MessageFate::of(sent, &mut peer, config).await.words(),
                };
                let seconds = limit.as_secs();
                Err(
                    Error::new(format!("no answer from `{to}` within {seconds} s"))
                        .because(why)
                        .hint(format!("`cbroker why {}` tells more", question.id))
                        .exit_with(Exit::Unconfirmed),
                )
            }
        }
    };
    let answer = interruptible(asked).await;
    connect::delete_answers(&mut peer, config, &answers_at).await;
    delete_left_behind(&mut peer, config).await;
    peer.close().await;
    print(&answer?, output)
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
        receipt_to: question.reply_to.as_deref(),
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

/// What came of waiting for an answer.
enum Waited {
    /// It came.
    Answer(Box<Envelope>),
    /// The question ended before any session could answer it.
    Ended(Receipt),
    /// The time is over; what the session said last.
    InVain(Option<Receipt>),
}

async fn wait(
    answers: &mut ReplyQueue,
    (question, from, user): (&Envelope, &Answerer, &str),
    limit: Duration,
    config: &Config,
) -> Result<Waited, Error> {
    let until = Instant::now() + limit;
    let mut last = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(delivery) = answers.next_within(left).await? else {
            return Ok(Waited::InVain(last));
        };
        delivery.ack().await;
        if let Some(receipt) = Receipt::parse(&delivery.body) {
            if receipt.id == question.id && delivery.user() == Some(user) {
                let is_over = receipt.is_final() && receipt.state != ReceiptState::Delivered;
                if is_over {
                    return Ok(Waited::Ended(receipt));
                }
                last = Some(receipt);
            }
            continue;
        }
        let answer = Envelope::parse(&delivery.body, config.settings.body_limit_bytes);
        if let Ok(answer) = answer
            && answer.correlation_id.as_deref() == Some(&question.id)
            && from.sent(&answer, delivery.user())
        {
            return Ok(Waited::Answer(Box::new(answer)));
        }
    }
}

fn never_answered(question: &Envelope, receipt: &Receipt) -> Error {
    Error::new(format!("no answer will come from `{}`", question.to))
        .because(receipt.words())
        .exit_with(Exit::Unconfirmed)
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
