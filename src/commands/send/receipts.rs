//! `send --wait`: waits on a queue of its own for the receipts of the recipients' sessions, and for
//! their answers.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use ulid::Ulid;

use super::Sent;
use crate::cli::WaitArg;
use crate::commands::connect;
use crate::commands::fate::{MessageFate, SentMessage, receipt_words};
use crate::commands::interrupt::Interrupt;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory};
use crate::name::SessionName;
use crate::output::{Output, Style, state_words};
use crate::peer::{Peer, PeerError, PeerState, Receipt, ReceiptState, ReceivedMessage, ReplyQueue};

/// After this time an expired message has left its queue, and its session has sent a receipt.
const EXPIRED_AFTER: Duration = Duration::from_secs(1);

/// The hint about a message that no session has.
const STAYS: &str = "it stays in the queue; `cbroker list` shows the attached sessions";

/// The queue for receipts. Every exit must delete it with [`Receipts::close`].
pub(super) struct Receipts<'a> {
    name: SessionName,
    queue: ReplyQueue,
    goal: WaitArg,
    config: &'a Config,
    /// The user that must have published a receipt: no other one says what became of a message.
    user: String,
}

impl<'a> Receipts<'a> {
    pub(super) async fn open(
        peer: &mut Peer,
        goal: WaitArg,
        config: &'a Config,
    ) -> Result<Self, Error> {
        let name = SessionName::for_answer(Ulid::generate());
        let queue = peer.answer_queue(&name, config.settings.ttl_ms).await?;
        let user = peer.user().to_owned();
        Ok(Self {
            name,
            queue,
            goal,
            config,
            user,
        })
    }

    /// The queue's name.
    pub(super) fn name(&self) -> &SessionName {
        &self.name
    }

    /// Waits until each message has reached the awaited state or cannot reach it any more, until
    /// the time is over, or until the user interrupts.
    pub(super) async fn wait_for(
        &mut self,
        sent: &mut [Sent],
        limit: Duration,
        peer: &mut Peer,
        output: &Output,
    ) -> Exit {
        let until = Instant::now() + limit;
        let mut interrupt = Interrupt::listen();
        self.note_returned(sent, output);
        while sent.iter().any(|message| self.is_open(message)) {
            let ends = sent.iter().filter(|message| may_expire(message));
            let next_end = ends.filter_map(|message| message.expires).min();
            let wake = next_end.map_or(until, |end| until.min(end + EXPIRED_AFTER));
            tokio::select! {
                () = interrupt.next() => return Exit::Unconfirmed,
                () = tokio::time::sleep_until(wake) => {
                    if wake == until {
                        break;
                    }
                    self.look_for_expired(sent, peer, output).await;
                }
                delivery = self.queue.next() => {
                    let delivery = match delivery {
                        Ok(delivery) => delivery,
                        Err(error) => {
                            self.report_connection_loss(sent, error, output);
                            return self.verdict(sent);
                        }
                    };
                    delivery.ack().await;
                    self.take_receipt(sent, &delivery, output);
                }
            }
        }
        self.report_unsettled(sent, limit, peer, output).await;
        self.verdict(sent)
    }

    pub(super) async fn close(&self, peer: &mut Peer) {
        connect::delete_answers(peer, self.config, &self.name).await;
    }

    fn take_receipt(&self, sent: &mut [Sent], delivery: &ReceivedMessage, output: &Output) {
        // What another user sent may be of any length, and is not read.
        if delivery.user() == Some(&self.user)
            && let Some(receipt) = Receipt::parse(&delivery.body)
        {
            return self.note(sent, receipt, output);
        }
        if self.goal == WaitArg::Answered {
            let limit_bytes = self.config.settings.body_limit_bytes;
            if let Ok(answer) = Envelope::parse(&delivery.body, limit_bytes) {
                self.note_answer(sent, answer, delivery, output);
            }
        }
    }

    /// What the broker returned has ended.
    fn note_returned(&self, sent: &mut [Sent], output: &Output) {
        let returned: Vec<_> = sent
            .iter()
            .filter_map(|message| Some((message.id.clone(), message.to.clone(), message.returned?)))
            .collect();
        for (id, to, why) in returned {
            let receipt = Receipt {
                id,
                to: Some(to),
                state: ReceiptState::Returned,
                reason: Some(why.to_owned()),
                way: None,
            };
            self.note(sent, receipt, output);
        }
    }

    fn note_answer(
        &self,
        sent: &mut [Sent],
        answer: Envelope,
        delivery: &ReceivedMessage,
        output: &Output,
    ) {
        let is_of_it = |message: &&mut Sent| {
            let answerer = message.answerer.as_ref();
            answer.correlation_id.as_deref() == Some(&message.id)
                && answerer.is_some_and(|answerer| answerer.sent(&answer, delivery.user()))
        };
        let Some(message) = sent.iter_mut().find(is_of_it) else {
            return;
        };
        if !self.is_open(message) {
            return;
        }
        let (id, to) = (message.id.clone(), Some(message.to.clone()));
        let text = answer.message.clone();
        let limit_bytes = self.config.settings.body_limit_bytes;
        let whole = Envelope::parse_whole(&delivery.body, limit_bytes);
        message.answer = Some(whole.unwrap_or(answer));
        let receipt = Receipt {
            id,
            to,
            state: ReceiptState::Answered,
            reason: None,
            way: None,
        };
        self.note(sent, receipt, output);
        if !output.is_json() {
            // A closed output does not end the wait, because the exit code still matters.
            let _ = if sent.len() > 1 {
                output.foreign_under_heading(&text)
            } else {
                output.foreign(&format!("{text}\n"))
            };
        }
    }

    /// Whether the message may still reach the awaited state.
    fn is_open(&self, message: &Sent) -> bool {
        match &message.receipt {
            None => true,
            Some(receipt) if receipt.state == ReceiptState::Delivered => {
                self.goal == WaitArg::Answered
            }
            Some(receipt) => !receipt.is_final(),
        }
    }

    /// Messages whose time is over and that no session has: they are known to have expired, or are
    /// not looked at again.
    async fn look_for_expired(&self, sent: &mut [Sent], peer: &mut Peer, output: &Output) {
        let now = Instant::now();
        let mut expired = Vec::new();
        for message in sent.iter_mut() {
            let is_over = message
                .expires
                .is_some_and(|end| now >= end + EXPIRED_AFTER);
            if !is_over || !may_expire(message) {
                continue;
            }
            message.expires = None;
            if self.fate(message, true, peer).await == Some(MessageFate::Expired) {
                expired.push((message.id.clone(), message.to.clone()));
            }
        }
        for (id, to) in expired {
            let entry = HistoryEntry::new(Utc::now(), &id, HistoryEvent::Expired, &to);
            // The wait goes on even if the history cannot be written.
            let _unrecorded = MessageHistory::of(&self.config.home).note(&entry);
            let receipt = Receipt {
                id,
                to: Some(to),
                state: ReceiptState::Expired,
                reason: None,
                way: None,
            };
            self.note(sent, receipt, output);
        }
    }

    async fn fate(
        &self,
        message: &Sent,
        has_expired: bool,
        peer: &mut Peer,
    ) -> Option<MessageFate> {
        let to = SessionName::new(&message.to).ok()?;
        let sent = SentMessage {
            id: &message.id,
            to: &to,
            has_expired,
        };
        Some(MessageFate::of(sent, peer, self.config).await)
    }

    /// The session that has it may have ended, and its time to live with that.
    async fn fate_of_held(&self, message: &Sent, peer: &mut Peer) -> Option<MessageFate> {
        let to = SessionName::new(&message.to).ok()?;
        let is_over = |end: Instant| Instant::now() >= end + EXPIRED_AFTER;
        let sent = SentMessage {
            id: &message.id,
            to: &to,
            has_expired: message.expires.is_some_and(is_over),
        };
        Some(MessageFate::of_held(sent, peer, self.config).await)
    }

    fn note(&self, sent: &mut [Sent], receipt: Receipt, output: &Output) {
        let several = sent.len() > 1;
        let mut open = sent.iter_mut();
        let is_of = |message: &Sent| receipt.is_about(&message.id, &message.to);
        let found = open.find(|message| is_of(message) && self.is_open(message));
        let Some(message) = found else {
            return;
        };
        if message.receipt.as_ref() == Some(&receipt) || is_end_of_copy(message, &receipt) {
            return;
        }
        let style = match receipt.state {
            ReceiptState::Held | ReceiptState::HandedOver => Style::Warning,
            ReceiptState::Delivered | ReceiptState::Answered => Style::Good,
            _ => Style::Bad,
        };
        let mut line = if several {
            format!("{}: ", message.to)
        } else {
            String::new()
        };
        line.push_str(&state_words(
            &output.paint(style, receipt.state.word()),
            receipt.way.as_deref(),
            receipt.reason.as_deref(),
        ));
        // A closed output does not end the wait, because the exit code still matters.
        let _ = output.line(line);
        message.receipt = Some(receipt);
    }

    /// The error if the connection was lost while receipts were awaited: the fate of the messages
    /// is not known.
    fn report_connection_loss(&self, sent: &[Sent], error: PeerError, output: &Output) {
        let error = Arc::new(error);
        for message in sent.iter().filter(|message| self.is_open(message)) {
            let hint = format!("`cbroker why {}` tells what is known of it", message.id);
            output.error(
                &Error::new(format!("no final receipt from `{}`", message.to))
                    .caused_by(Arc::clone(&error))
                    .with_hint(hint),
            );
        }
    }

    /// The time is over: reports what is known about each message that is still awaited.
    async fn report_unsettled(
        &self,
        sent: &[Sent],
        limit: Duration,
        peer: &mut Peer,
        output: &Output,
    ) {
        let missing = match self.goal {
            WaitArg::Delivered => "no final receipt",
            WaitArg::Answered => "no answer",
        };
        for message in sent.iter().filter(|message| self.is_open(message)) {
            let (why, hint) = self.describe(message, peer).await;
            let (to, seconds) = (&message.to, limit.as_secs());
            output.error(
                &Error::new(format!("{missing} from `{to}` within {seconds} s"))
                    .caused_by(why)
                    .with_hint(hint),
            );
        }
    }

    /// The error about one message: what is known, and what to do.
    async fn describe(&self, message: &Sent, peer: &mut Peer) -> (String, String) {
        let why = format!("`cbroker why {}` tells what is known of it", message.id);
        if let Some(receipt) = &message.receipt {
            if receipt.state == ReceiptState::Delivered {
                return (receipt_words(receipt), why);
            }
            return match self.fate_of_held(message, peer).await {
                None | Some(MessageFate::Held) => {
                    (receipt_words(receipt), what_frees(message, receipt))
                }
                Some(MessageFate::Waits) => (receipt_words(receipt), STAYS.to_owned()),
                Some(fate) => (fate.words(), why),
            };
        }
        // One that expired would have been found out, or it cannot be.
        let has_expired = message.has_ttl && message.expires.is_none();
        match self.fate(message, has_expired, peer).await {
            Some(fate) if fate.is_waiting() => (fate.words(), STAYS.to_owned()),
            Some(fate) => (fate.words(), why),
            None => ("no session has received it".to_owned(), why),
        }
    }

    fn verdict(&self, sent: &[Sent]) -> Exit {
        if sent.iter().any(|message| self.is_open(message)) {
            return Exit::Unconfirmed;
        }
        let came = |message: &Sent| {
            let state = message.receipt.as_ref().map(|receipt| receipt.state);
            matches!(
                state,
                Some(ReceiptState::Delivered | ReceiptState::Answered)
            )
        };
        if sent.iter().all(came) {
            Exit::Done
        } else {
            Exit::Failed
        }
    }
}

/// What to do about a message that a session has and does not deliver.
fn what_frees(message: &Sent, receipt: &Receipt) -> String {
    let (id, to) = (&message.id, &message.to);
    match (receipt.state, receipt.reason.as_deref()) {
        (ReceiptState::HandedOver, _) => {
            format!("its agent has it; `cbroker why {id}` tells when it takes it up")
        }
        (_, Some(reason)) if reason == PeerState::Paused.word() => {
            format!("`cbroker resume {to}` lets it in")
        }
        _ => format!("`cbroker inbox {to}` shows what the session holds, and why"),
    }
}

/// Whether the receipt tells the end of a copy in the queue, while the agent has the text: a
/// session that lost its connection keeps what it handed over, and the message waits again.
fn is_end_of_copy(message: &Sent, receipt: &Receipt) -> bool {
    let is_with_agent = |last: &Receipt| last.state == ReceiptState::HandedOver;
    let is_end = matches!(
        receipt.state,
        ReceiptState::Deleted
            | ReceiptState::Purged
            | ReceiptState::Expired
            | ReceiptState::Dropped
    );
    is_end && message.receipt.as_ref().is_some_and(is_with_agent)
}

/// No session has said that it has it, so its time to live may end it.
fn may_expire(message: &Sent) -> bool {
    message.receipt.is_none() && message.expires.is_some()
}
