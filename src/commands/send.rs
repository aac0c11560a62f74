//! `cbroker send`: publishes a message, waits for the broker's confirm, and reports the state of
//! the recipient's queue.
//!
//! No message is lost silently: a full queue is refused, and only confirmed messages are reported
//! as sent.

mod receipts;

use std::error::Error as StdError;
use std::fs;
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;
use tokio::time::Instant;
use ulid::Ulid;

use super::answerer::Answerer;
use super::compose::{MessageDraft, RecipientAddress, session_name};
use super::connect::{self, Autostart};
use super::groups::{self, Target};
use super::removal::MessageEnd;
use crate::cli::{SendArgs, WaitArg, WhenArg};
use crate::config::Config;
use crate::envelope::{Envelope, is_id};
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText, is_probe};
use crate::name::SessionName;
use crate::nearest::nearest;
use crate::output::{Output, Style};
use crate::peer::{
    BLOCKED_HINT, MAX_LENGTH, Peer, PeerError, Publication, PublishOutcome, QueueCounts, Receipt,
    When,
};
use receipts::Receipts;

/// How long to wait for a confirm. A full disk can block the broker.
pub(super) const CONFIRM_WITHIN: Duration = Duration::from_secs(30);

/// How long to wait for the names that are similar to a new one; a suggestion must not delay the
/// command much.
const NAMES_WITHIN: Duration = Duration::from_millis(800);

/// One sent message, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Sent {
    id: String,
    to: String,
    /// The group by which the recipient was addressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Attached sessions.
    consumers: u32,
    /// Messages that waited before this one.
    waiting: u32,
    /// Whether no session has used the name.
    new: bool,
    /// A similar known name that may have been meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<String>,
    /// The receipt of the recipient's session (`--wait`).
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    /// The answer (`--wait=answered`).
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Envelope>,
    /// Whose answer counts, if one is awaited.
    #[serde(skip)]
    answerer: Option<Answerer>,
    /// It was sent with a time to live.
    #[serde(skip)]
    has_ttl: bool,
    /// When that has passed; `None` once the message was looked for.
    #[serde(skip)]
    expires: Option<Instant>,
    /// Why the broker returned it.
    #[serde(skip)]
    returned: Option<&'static str>,
}

/// Sends to each recipient. A failure for one does not stop the others.
pub(super) async fn run(args: SendArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let address = RecipientAddress::read("send", &args.to, &args.message)?;
    let mut draft = draft(&args, &address, config, output)?;
    let autostart = Autostart::unless(args.message.no_start);
    let (mut peer, config) = connect::peer_and_config(config, "send", autostart, output).await?;
    let config = &config;
    let targets = groups::targets(&address.recipients, &draft.from, config).await?;
    let mut receipts = match args.wait {
        Some(goal) => Some(Receipts::open(&mut peer, goal, config).await?),
        None => None,
    };
    if let Some(receipts) = receipts.as_ref().filter(|_| waits_for_answer(&args)) {
        draft.reply_to = Some(receipts.name().clone());
    }
    let receipt_to = receipts
        .as_ref()
        .map(|receipts| receipts.name().to_string());
    let sender = SendParameters {
        args: &args,
        config,
        output,
        hops: hops(config),
        receipt_to,
    };
    let (mut sent, failures) = sender.send_all(&mut peer, &draft, &targets).await;
    let mut exit = Exit::Done;
    if let Some(receipts) = &mut receipts {
        exit = receipts
            .wait_for(&mut sent, args.timeout, &mut peer, output)
            .await;
        receipts.close(&mut peer).await;
    }
    peer.close().await;
    for message in &sent {
        output.json(message)?;
    }
    let mut failures = failures.into_iter().rev();
    let Some(last) = failures.next() else {
        return Ok(exit);
    };
    failures.rev().for_each(|failure| output.error(&failure));
    Err(last)
}

/// The parameters that all recipients share.
struct SendParameters<'a> {
    args: &'a SendArgs,
    config: &'a Config,
    output: &'a Output,
    hops: Option<u32>,
    receipt_to: Option<String>,
}

impl SendParameters<'_> {
    async fn send_all(
        &self,
        peer: &mut Peer,
        draft: &MessageDraft,
        targets: &[Target],
    ) -> (Vec<Sent>, Vec<Error>) {
        let mut sent = Vec::new();
        let mut failures = Vec::new();
        for target in targets {
            match self.send(peer, draft, target).await {
                Ok(message) => {
                    failures.extend(self.print(&message).err());
                    sent.push(message);
                }
                Err(error) => failures.push(error),
            }
        }
        (sent, failures)
    }

    async fn send(
        &self,
        peer: &mut Peer,
        draft: &MessageDraft,
        target: &Target,
    ) -> Result<Sent, Error> {
        let to = &target.name;
        let envelope = draft.envelope(to, target.id)?;
        let found = peer.queue_counts(to).await;
        let found = found.map_err(|error| unsent(to, error))?;
        let new = found.is_none();
        let state = if let Some(state) = found {
            state
        } else {
            self.refuse_unwanted_name(to).await?;
            let declared = peer.ensure_queue(to, self.config.settings.ttl_ms).await;
            declared.map_err(|error| unsent(to, error))?
        };
        if self.args.drop_oldest && state.messages >= MAX_LENGTH {
            // The broker would drop it without telling its sender.
            if let Some(oldest) = peer.get(to).await? {
                MessageEnd::Dropped
                    .of(&oldest, (peer, to, self.config))
                    .await;
            }
        } else if state.is_full() && !self.args.drop_oldest {
            let hint = "--drop-oldest sends it anyway; `cbroker purge` empties the queue";
            return Err(full_queue(to, state).with_hint(hint));
        }
        let answerer = if waits_for_answer(self.args) {
            Some(Answerer::of(peer, to, self.config).await?)
        } else {
            None
        };
        let returned = self.publish(peer, &envelope, to).await?;
        if let Some(why) = returned.filter(|_| self.args.wait.is_none()) {
            return Err(was_returned("message", to, why));
        }
        let ttl = self.args.message.ttl;
        let ttl = ttl.map(|ttl| Duration::from_millis(ttl.milliseconds));
        let nearest = if new { self.nearest(to).await } else { None };
        Ok(Sent {
            id: envelope.id,
            to: to.to_string(),
            group: target.group.as_ref().map(|group| group.as_str().to_owned()),
            consumers: state.consumers,
            waiting: state.messages,
            new,
            nearest,
            receipt: None,
            answer: None,
            answerer,
            has_ttl: ttl.is_some(),
            expires: ttl.map(|ttl| Instant::now() + ttl),
            returned,
        })
    }

    /// Publishes one message, and records what the broker did with it. Returns why the broker
    /// returned it, if it did.
    async fn publish(
        &self,
        peer: &mut Peer,
        envelope: &Envelope,
        to: &SessionName,
    ) -> Result<Option<&'static str>, Error> {
        let message = Publication {
            envelope,
            expires_ms: self.args.message.ttl.map(|ttl| ttl.milliseconds),
            hops: self.hops,
            receipt_to: self.receipt_to.as_deref(),
            when: when(self.args.when),
        };
        let sent = HistoryEntry::new(Utc::now(), &envelope.id, HistoryEvent::Sent, to.as_str());
        self.note(envelope, &sent.saying(MessageText::of(envelope)));
        let mut outcome = peer.publish(&message, CONFIRM_WITHIN).await;
        if matches!(outcome, Ok(PublishOutcome::Unroutable)) {
            // The queue was deleted in the meantime, or it has no binding.
            let declared = peer.ensure_queue(to, self.config.settings.ttl_ms).await;
            declared.map_err(|error| unsent(to, error))?;
            outcome = peer.publish(&message, CONFIRM_WITHIN).await;
        }
        let entry = |event| HistoryEntry::new(Utc::now(), &envelope.id, event, to.as_str());
        let failure = match outcome.map(PublishOutcome::why_returned) {
            Ok(None) => {
                self.note(envelope, &entry(HistoryEvent::Confirmed));
                self.note_answer(envelope);
                return Ok(None);
            }
            Ok(Some(why)) => {
                self.note(envelope, &entry(HistoryEvent::Returned).with_detail(why));
                return Ok(Some(why));
            }
            Err(error) => unpublished("message", envelope, to, error),
        };
        let failed = entry(HistoryEvent::Unconfirmed).with_detail(failure.summary());
        self.note(envelope, &failed);
        Err(failure)
    }

    /// The question that this message answers is answered.
    fn note_answer(&self, answer: &Envelope) {
        if let Some(question) = &answer.correlation_id {
            let event = HistoryEvent::Answered;
            let entry = HistoryEntry::new(Utc::now(), question, event, &answer.from);
            self.note(answer, &entry.with_detail(&answer.id));
        }
    }

    /// Accepts a new name, except for answers that no `ask` waits for, and except with
    /// `--must-exist`.
    async fn refuse_unwanted_name(&self, to: &SessionName) -> Result<(), Error> {
        if to.is_answer_queue() {
            return Err(
                Error::new(format!("no `cbroker ask` waits for an answer at `{to}`"))
                    .caused_by("the question timed out or was cancelled")
                    .exit_with(Exit::Unconfirmed),
            );
        }
        if !self.args.must_exist {
            return Ok(());
        }
        let refused = Error::new(format!("no session has used the name `{to}`"));
        Err(match self.nearest(to).await {
            Some(near) => refused.with_hint(format!("did you mean `{near}`?")),
            None => refused.with_hint("`cbroker list` shows the names in use"),
        })
    }

    async fn nearest(&self, to: &SessionName) -> Option<String> {
        nearest_name(to, self.config).await
    }

    /// Prints that a message was sent. Says nothing of one that the broker returned.
    fn print(&self, sent: &Sent) -> Result<(), Error> {
        if sent.returned.is_some() {
            return Ok(());
        }
        let Sent {
            id, to, waiting, ..
        } = sent;
        let about = match (sent.new, sent.consumers) {
            (true, _) => match &sent.nearest {
                Some(near) => similar(near),
                None => "a new name: it waits until such a session opens".to_owned(),
            },
            (false, 0) => format!(
                "no session attached, {} of {MAX_LENGTH} waiting",
                (waiting + 1).min(MAX_LENGTH)
            ),
            (false, _) if *waiting > 0 => {
                format!("session attached, {waiting} of {MAX_LENGTH} waiting before it")
            }
            (false, _) => "session attached".to_owned(),
        };
        let style = if sent.new { Style::Warning } else { Style::Dim };
        self.output.line(format!(
            "sent {id} -> {to} {}",
            self.output.paint(style, &format!("({about})"))
        ))
    }

    /// Adds an event to the history, unless the message is a probe's.
    fn note(&self, envelope: &Envelope, entry: &HistoryEntry) {
        if is_probe(&envelope.to, &envelope.from, &envelope.message) {
            return;
        }
        // The history is for `why`. The message is sent even if it cannot be written.
        let _ = MessageHistory::of(&self.config.home).note(entry);
    }
}

/// The known name that may have been meant instead of a new one.
async fn nearest_name(name: &SessionName, config: &Config) -> Option<String> {
    let client = Client::new(config, NAMES_WITHIN).ok()?;
    let names = client.session_names().await.ok()?;
    nearest(name.as_str(), names.iter().map(String::as_str)).map(str::to_owned)
}

fn similar(near: &str) -> String {
    format!("a new name; did you mean `{near}`?")
}

/// What `tail` says of a name that no session has used.
pub(super) async fn about_new_name(name: &SessionName, config: &Config) -> String {
    match nearest_name(name, config).await {
        Some(near) => similar(&near),
        None => "a new name: no session has used it".to_owned(),
    }
}

fn waits_for_answer(args: &SendArgs) -> bool {
    args.wait == Some(WaitArg::Answered)
}

fn draft(
    args: &SendArgs,
    address: &RecipientAddress<'_>,
    config: &Config,
    output: &Output,
) -> Result<MessageDraft, Error> {
    if let Some(other) = args.reply_to.as_deref().filter(|_| waits_for_answer(args)) {
        return Err(Error::usage(format!(
            "`--wait=answered` does not see an answer that goes to `{other}`"
        ))
        .with_hint("leave `--reply-to` out: the answer comes to this command"));
    }
    let reply_to = args
        .reply_to
        .as_deref()
        .map(|name| session_name(name, "--reply-to"))
        .transpose()?;
    if let Some(id) = args.correlation_id.as_deref().filter(|id| !is_id(id)) {
        return Err(Error::usage(format!("`{id}` is not a message id"))
            .caused_by("an id has 1 to 128 letters, digits, `.`, `_`, `:` or `-`"));
    }
    let mut draft = MessageDraft::read(&args.message, address, config, output)?;
    draft.reply_to = reply_to;
    draft.correlation_id.clone_from(&args.correlation_id);
    Ok(draft)
}

/// Returns the hop count of a message from the current session: one more than that of the message
/// that the session is answering, or 0 after a person typed. `None` outside of a session.
pub(super) fn hops(config: &Config) -> Option<u32> {
    let session = config
        .inside
        .session
        .as_deref()
        .filter(|session| Ulid::from_string(session).is_ok())?;
    let text = fs::read_to_string(config.home.session_hops(session)).unwrap_or_default();
    let answered = text.trim().parse::<u32>();
    Some(answered.map_or(0, |hops| hops.saturating_add(1)))
}

fn when(wanted: WhenArg) -> Option<When> {
    match wanted {
        WhenArg::Idle => None,
        WhenArg::Next => Some(When::Next),
        WhenArg::Now => Some(When::Now),
    }
}

/// The error for a message, or a question, to a full queue.
pub(super) fn full_queue(to: &SessionName, queue: QueueCounts) -> Error {
    let held = match queue.consumers {
        0 => "",
        _ => " beside those that its session holds",
    };
    Error::new(format!("`{to}` is full"))
        .caused_by(format!(
            "{} messages wait{held}, and one more would drop the oldest",
            queue.messages
        ))
        .exit_with(Exit::Unconfirmed)
}

/// The error for a message that could not be published. One connection serves all recipients, so
/// the broker may have blocked it after the message before.
fn unsent(to: &SessionName, error: PeerError) -> Error {
    match error {
        PeerError::Blocked(_) => not_confirmed("message", to, error).with_hint(BLOCKED_HINT),
        error => error.into(),
    }
}

/// The error for a message, or a question, that was published without a confirm. Whether the
/// recipient's queue has it is not known.
pub(super) fn unpublished(
    what: &str,
    envelope: &Envelope,
    to: &SessionName,
    error: PeerError,
) -> Error {
    match error {
        PeerError::Lost(_) | PeerError::TimedOut(_) | PeerError::NotAccepted => {
            not_confirmed(what, to, error).with_hint(format!(
                "it may have arrived: see `cbroker why {}` before you send it again",
                envelope.id
            ))
        }
        PeerError::Blocked(_) => not_confirmed(what, to, error).with_hint(BLOCKED_HINT),
        error => error.into(),
    }
}

/// The error for a message, or a question, that the broker returned because no queue accepts it.
pub(super) fn was_returned(what: &str, to: &SessionName, why: &'static str) -> Error {
    Error::new(format!("the {what} to `{to}` was returned"))
        .caused_by(why)
        .exit_with(Exit::Unconfirmed)
}

fn not_confirmed(
    what: &str,
    to: &SessionName,
    why: impl Into<Box<dyn StdError + Send + Sync>>,
) -> Error {
    Error::new(format!("the {what} to `{to}` is not confirmed"))
        .caused_by(why)
        .exit_with(Exit::Unconfirmed)
}
