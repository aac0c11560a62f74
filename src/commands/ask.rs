//! `cbroker ask`: sends a message, waits for the answer with its correlation id, and prints it.
//!
//! Answers arrive in a queue named `ask<ULID>`, which is deleted on every exit. The next `ask` that
//! is not interrupted deletes the queue of one that was killed.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use ulid::Ulid;

use super::answerer::Answerer;
use super::compose::{MessageDraft, RecipientAddress, session_name};
use super::connect::{self, Autostart};
use super::fate::{MessageFate, SentMessage, receipt_words};
use super::groups::{self, Target};
use super::send::{CONFIRM_WITHIN, full_queue, hops, unpublished, was_returned};
use crate::cli::AskArgs;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText};
use crate::name::SessionName;
use crate::output::{Output, Style};
use crate::peer::{Peer, Publication, Receipt, ReceiptState, ReplyQueue};

/// A younger queue may belong to an `ask` that does not consume yet.
const LEFT_BEHIND_AFTER: Duration = Duration::from_mins(1);
/// So many queues of killed ones are tried at once, and so long: whoever may bind queues can make
/// any number that look like them.
const LEFT_BEHIND_AT_ONCE: usize = 100;
const TIDY_WITHIN: Duration = Duration::from_secs(1);
const API_WITHIN: Duration = Duration::from_millis(500);

/// One question and its outcome.
struct AskedQuestion {
    envelope: Envelope,
    to: SessionName,
    /// Whose answer counts.
    from: Answerer,
    outcome: AskOutcome,
    /// Whether an answer in the session's name came that does not count.
    has_unconfirmed: bool,
}

/// The outcome of a question.
enum AskOutcome {
    /// Still open, with the last receipt of the session.
    Open(Option<Receipt>),
    /// It was answered, and the answer is printed.
    Answered,
    /// It ended before any session could answer it.
    Ended(Receipt),
}

/// Asks one session, or the members of one group, and prints the answers as they come.
pub(super) async fn run(args: AskArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let address = RecipientAddress::read("ask", args.to.as_slice(), &args.message)?;
    if address.recipients.len() != 1 {
        return Err(Error::usage("one session or group is asked at a time"));
    }
    let mut draft = MessageDraft::read(&args.message, &address, config, output)?;
    let autostart = Autostart::unless(args.message.no_start);
    let (mut peer, config) = connect::peer_and_config(config, "ask", autostart, output).await?;
    let config = &config;
    let targets = groups::targets(&address.recipients, &draft.from, config).await?;
    let answers_at = SessionName::for_answer(Ulid::generate());
    draft.reply_to = Some(answers_at.clone());
    let mut answers = peer
        .answer_queue(&answers_at, config.settings.ttl_ms)
        .await?;
    let asked = async {
        let (mut questions, mut failures) =
            publish_all((&draft, &targets), &mut peer, &args, config).await;
        let asker = Asker {
            user: peer.user().to_owned(),
            limit: args.timeout,
            config,
            output,
        };
        asker.wait_for_replies(&mut answers, &mut questions).await?;
        for question in &questions {
            failures.extend(unanswered(question, &args, &mut peer, config).await);
        }
        Ok(failures)
    };
    let failures = interruptible(asked).await;
    connect::delete_answers(&mut peer, config, &answers_at).await;
    if failures.is_ok() {
        // Given up in the midst of a request, the channel is good for nothing but to be closed.
        let tidying = delete_left_behind(&mut peer, config);
        let _given_up = tokio::time::timeout(TIDY_WITHIN, tidying).await;
    }
    peer.close().await;
    let mut failures = failures?;
    let Some(last) = failures.pop() else {
        return Ok(Exit::Done);
    };
    for failure in &failures {
        output.error(failure);
    }
    Err(last)
}

/// Publishes the question to each recipient. A failure for one does not stop the others.
async fn publish_all(
    (draft, targets): (&MessageDraft, &[Target]),
    peer: &mut Peer,
    args: &AskArgs,
    config: &Config,
) -> (Vec<AskedQuestion>, Vec<Error>) {
    let mut questions = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        let asked = async {
            let envelope = draft.envelope(&target.name, target.id)?;
            let from = Answerer::of(peer, &target.name, config).await?;
            publish(peer, &envelope, args, config).await?;
            Ok(AskedQuestion {
                envelope,
                to: target.name.clone(),
                from,
                outcome: AskOutcome::Open(None),
                has_unconfirmed: false,
            })
        };
        match asked.await {
            Ok(question) => questions.push(question),
            Err(error) => failures.push(error),
        }
    }
    (questions, failures)
}

async fn publish(
    peer: &mut Peer,
    question: &Envelope,
    args: &AskArgs,
    config: &Config,
) -> Result<(), Error> {
    let to = session_name(&question.to, "--to")?;
    match peer.queue_counts(&to).await? {
        Some(queue) if queue.is_full() => {
            return Err(full_queue(&to, queue).with_hint("`cbroker purge` empties the queue"));
        }
        Some(_) => {}
        None if to.is_answer_queue() => {
            return Err(
                Error::new(format!("no `cbroker ask` waits for an answer at `{to}`"))
                    .exit_with(Exit::Unconfirmed),
            );
        }
        None => {
            peer.ensure_queue(&to, config.settings.ttl_ms).await?;
        }
    }
    let message = Publication {
        envelope: question,
        expires_ms: args.message.ttl.map(|ttl| ttl.milliseconds),
        hops: hops(config),
        receipt_to: question.reply_to.as_deref(),
        when: None,
    };
    let history = MessageHistory::of(&config.home);
    let entry = |event| HistoryEntry::new(Utc::now(), &question.id, event, to.as_str());
    // The history is for people. The question is asked even if it cannot be written.
    let _unrecorded = history.note(&entry(HistoryEvent::Sent).saying(MessageText::of(question)));
    match peer.publish(&message, CONFIRM_WITHIN).await {
        Ok(outcome) => match outcome.why_returned() {
            None => {
                let _unrecorded = history.note(&entry(HistoryEvent::Confirmed));
                Ok(())
            }
            Some(why) => {
                let _unrecorded = history.note(&entry(HistoryEvent::Returned).with_detail(why));
                Err(was_returned("question", &to, why))
            }
        },
        Err(error) => {
            let error = unpublished("question", question, &to, error);
            let failed = entry(HistoryEvent::Unconfirmed).with_detail(error.summary());
            let _unrecorded = history.note(&failed);
            Err(error)
        }
    }
}

/// The user that waits for answers, and how long.
struct Asker<'a> {
    /// The user that must have published a receipt, according to the broker.
    user: String,
    limit: Duration,
    config: &'a Config,
    output: &'a Output,
}

impl Asker<'_> {
    /// Waits until each question has its outcome, or the time is over.
    async fn wait_for_replies(
        &self,
        answers: &mut ReplyQueue,
        questions: &mut [AskedQuestion],
    ) -> Result<(), Error> {
        let until = Instant::now() + self.limit;
        let is_open = |question: &AskedQuestion| matches!(question.outcome, AskOutcome::Open(_));
        while questions.iter().any(is_open) {
            let left = until.saturating_duration_since(Instant::now());
            let Some(delivery) = answers.next_within(left).await? else {
                return Ok(());
            };
            delivery.ack().await;
            let mut open = questions.iter_mut().filter(|question| is_open(question));
            if let Some(receipt) = Receipt::parse(&delivery.body) {
                let is_of = |question: &&mut AskedQuestion| {
                    receipt.is_about(&question.envelope.id, question.to.as_str())
                };
                if let (true, Some(question)) =
                    (delivery.user() == Some(&self.user), open.find(is_of))
                {
                    question.take_receipt(receipt);
                }
                continue;
            }
            let limit_bytes = self.config.settings.body_limit_bytes;
            let Ok(answer) = Envelope::parse(&delivery.body, limit_bytes) else {
                continue;
            };
            let is_to = |question: &&mut AskedQuestion| {
                answer.correlation_id.as_deref() == Some(&question.envelope.id)
                    && question.from.sent(&answer, delivery.user())
            };
            if let Some(question) = open.find(is_to) {
                question.outcome = AskOutcome::Answered;
                let is_one_of_several = questions.len() > 1;
                if self.output.is_json() {
                    let whole = Envelope::parse_whole(&delivery.body, limit_bytes);
                    self.output.json(&whole.unwrap_or(answer))?;
                } else {
                    self.print(&answer, is_one_of_several)?;
                }
                continue;
            }
            let is_in_name = |question: &&mut AskedQuestion| {
                answer.correlation_id.as_deref() == Some(&question.envelope.id)
                    && answer.from == question.to.as_str()
            };
            for question in questions.iter_mut().filter(is_in_name) {
                question.has_unconfirmed = true;
            }
        }
        Ok(())
    }

    /// Prints an answer, made safe. This applies to a program too, because it may be an agent,
    /// which would read what a person cannot see.
    fn print(&self, answer: &Envelope, is_one_of_several: bool) -> Result<(), Error> {
        if is_one_of_several {
            let from = format!("{}:", answer.from);
            self.output.line(self.output.paint(Style::Bold, &from))?;
            return self.output.foreign_under_heading(&answer.message);
        }
        self.output.foreign(&format!("{}\n", answer.message))
    }
}

impl AskedQuestion {
    /// The session sent a final receipt.
    fn take_receipt(&mut self, receipt: Receipt) {
        let is_over = receipt.is_final() && receipt.state != ReceiptState::Delivered;
        self.outcome = if is_over {
            AskOutcome::Ended(receipt)
        } else {
            AskOutcome::Open(Some(receipt))
        };
    }
}

/// The error for a question without an answer; `None` if it was answered.
async fn unanswered(
    question: &AskedQuestion,
    args: &AskArgs,
    peer: &mut Peer,
    config: &Config,
) -> Option<Error> {
    let (to, id) = (&question.to, &question.envelope.id);
    let why = match &question.outcome {
        AskOutcome::Answered => return None,
        AskOutcome::Ended(receipt) => {
            let error = Error::new(format!("no answer will come from `{to}`"));
            return Some(
                error
                    .caused_by(receipt_words(receipt))
                    .exit_with(Exit::Unconfirmed),
            );
        }
        AskOutcome::Open(Some(receipt)) => receipt_words(receipt),
        AskOutcome::Open(None) if question.has_unconfirmed => return Some(unconfirmed_answer(to)),
        AskOutcome::Open(None) => {
            let ttl = args.message.ttl.map(|ttl| u128::from(ttl.milliseconds));
            let sent = SentMessage {
                id,
                to,
                has_expired: ttl.is_some_and(|ttl| ttl <= args.timeout.as_millis()),
            };
            MessageFate::of(sent, peer, config).await.words()
        }
    };
    let seconds = args.timeout.as_secs();
    Some(
        Error::new(format!("no answer from `{to}` within {seconds} s"))
            .caused_by(why)
            .with_hint(format!(
                "`cbroker why {id}` shows the history of the message"
            ))
            .exit_with(Exit::Unconfirmed),
    )
}

fn unconfirmed_answer(to: &SessionName) -> Error {
    Error::new(format!("the answer from `{to}` is not confirmed"))
        .caused_by("the broker does not confirm that the session sent it")
        .with_hint(
            "for a session of another tool, --mgmt-url must show that it consumes from the queue",
        )
        .exit_with(Exit::Unconfirmed)
}

/// Ends early on Ctrl-C and SIGTERM, so that the queue is deleted in these cases too.
async fn interruptible<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::new("cannot wait for signals").caused_by(error))?;
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
    for name in left_behind(&names, SystemTime::now(), Ulid::generate().random()) {
        let _not_ours = peer.delete_unattended(&name).await;
    }
}

/// The queues among these names that are tried this time. Which one is the first depends on a
/// random number, so that those that cannot be deleted hide none of the others for good.
fn left_behind(names: &[String], now: SystemTime, random: u128) -> Vec<SessionName> {
    let old = now - LEFT_BEHIND_AFTER;
    let left_behind = names.iter().filter_map(|name| {
        let made = Ulid::from_string(name.get(3..)?).ok()?.datetime();
        let name = SessionName::new(name).ok()?;
        (name.is_answer_queue() && made <= old).then_some(name)
    });
    let mut all: Vec<_> = left_behind.collect();
    let first = random.checked_rem(all.len() as u128).unwrap_or(0);
    all.rotate_left(usize::try_from(first).unwrap_or(0));
    all.truncate(LEFT_BEHIND_AT_ONCE);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn queues_that_cannot_be_deleted_do_not_hide_the_others_for_good() {
        let names: Vec<_> = (0..250)
            .map(|number| format!("ask01E{number:023}"))
            .collect();
        let tried = |random| left_behind(&names, SystemTime::now(), random);
        let mut all = BTreeSet::new();
        for random in 0..250 {
            let now = tried(random);
            assert_eq!(now.len(), LEFT_BEHIND_AT_ONCE);
            all.extend(now.iter().map(ToString::to_string));
        }
        assert_eq!(all.len(), names.len());
        assert!(left_behind(&[], SystemTime::now(), 7).is_empty());
    }
}
