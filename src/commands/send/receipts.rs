//! `send --wait`: waits on a queue of its own for the receipts of the recipients' sessions.

use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;
use ulid::Ulid;

use super::Sent;
use crate::commands::connect;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::{Output, Style};
use crate::peer::{Peer, PeerError, Receipt, ReceiptState, ReplyQueue};

/// The queue for receipts. Every exit must delete it with [`Receipts::close`].
pub(super) struct Receipts {
    name: SessionName,
    queue: ReplyQueue,
    /// The user that the broker has to vouch for: nobody else says what became of a message.
    user: String,
}

impl Receipts {
    pub(super) async fn open(peer: &mut Peer, ttl_ms: u64) -> Result<Self, Error> {
        let name = SessionName::for_answer(Ulid::generate());
        let queue = peer.answer_queue(&name, ttl_ms).await?;
        let user = peer.user().to_owned();
        Ok(Self { name, queue, user })
    }

    pub(super) fn queue(&self) -> String {
        self.name.to_string()
    }

    /// Waits until each message has a final receipt, the time is over, or the user interrupts.
    pub(super) async fn wait_for(
        &mut self,
        sent: &mut [Sent],
        limit: Duration,
        peer: &mut Peer,
        output: &Output,
    ) -> Exit {
        let until = Instant::now() + limit;
        while sent.iter().any(is_open) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Exit::Unconfirmed,
                () = tokio::time::sleep_until(until) => break,
                delivery = self.queue.next() => {
                    let delivery = match delivery {
                        Ok(delivery) => delivery,
                        Err(error) => {
                            tell_lost(sent, &error, output);
                            return verdict(sent);
                        }
                    };
                    delivery.ack().await;
                    let is_told = delivery.user() == Some(&self.user);
                    if let Some(receipt) = Receipt::parse(&delivery.body).filter(|_| is_told) {
                        note(sent, receipt, output);
                    }
                }
            }
        }
        tell_open(sent, limit, peer, output).await;
        verdict(sent)
    }

    pub(super) async fn close(&self, peer: &mut Peer, config: &Config) {
        connect::delete_answers(peer, config, &self.name).await;
    }
}

fn is_open(sent: &Sent) -> bool {
    !sent.receipt.as_ref().is_some_and(Receipt::is_final)
}

fn note(sent: &mut [Sent], receipt: Receipt, output: &Output) {
    let several = sent.len() > 1;
    let Some(message) = sent
        .iter_mut()
        .find(|message| message.id == receipt.id && is_open(message))
    else {
        return;
    };
    if message.receipt.as_ref() == Some(&receipt) {
        return;
    }
    let (word, style) = match receipt.state {
        ReceiptState::Held => ("held", Style::Warning),
        ReceiptState::HandedOver => ("handed over", Style::Warning),
        ReceiptState::Delivered => ("delivered", Style::Good),
        ReceiptState::DeadLettered => ("dead-lettered", Style::Bad),
        ReceiptState::Deleted => ("deleted with its queue", Style::Bad),
        ReceiptState::Purged => ("purged", Style::Bad),
        ReceiptState::Expired => ("expired", Style::Bad),
        ReceiptState::Dropped => ("dropped: the queue was full", Style::Bad),
    };
    let mut line = if several {
        format!("{}: ", message.to)
    } else {
        String::new()
    };
    line.push_str(&output.paint(style, word));
    if let Some(way) = &receipt.way {
        let _infallible = write!(line, " ({way})");
    }
    if let Some(reason) = &receipt.reason {
        let _infallible = write!(line, ": {reason}");
    }
    // A closed output does not end the wait, because the exit code still matters.
    let _ = output.line(line);
    message.receipt = Some(receipt);
}

/// The broker went away while receipts were waited for: nobody knows what becomes of the messages.
fn tell_lost(sent: &[Sent], error: &PeerError, output: &Output) {
    for message in sent.iter().filter(|message| is_open(message)) {
        output.error(
            &Error::new(format!("no final receipt from `{}`", message.to))
                .because(error.to_string())
                .hint(format!(
                    "`cbroker why {}` tells what is known of it",
                    message.id
                )),
        );
    }
}

/// The time is over: what is so of each message that has no final receipt.
async fn tell_open(sent: &[Sent], limit: Duration, peer: &mut Peer, output: &Output) {
    for message in sent.iter().filter(|message| is_open(message)) {
        let (what, hint) = fate(message, peer).await;
        output.error(
            &Error::new(format!(
                "no final receipt from `{}` within {} s",
                message.to,
                limit.as_secs()
            ))
            .because(what)
            .hint(hint),
        );
    }
}

/// What is known of a message, and what to do.
async fn fate(message: &Sent, peer: &mut Peer) -> (String, String) {
    let stays = "it stays in the queue; `cbroker list` shows the attached sessions";
    let why = format!("`cbroker why {}` tells what is known of it", message.id);
    if let Some(receipt) = &message.receipt {
        let state = match receipt.state {
            ReceiptState::HandedOver => "handed over",
            _ => "held",
        };
        let reason = receipt.reason.as_ref().or(receipt.way.as_ref());
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        return (format!("it is {state}{reason}"), stays.to_owned());
    }
    let Ok(name) = SessionName::new(&message.to) else {
        return ("no session has received it".to_owned(), why);
    };
    match peer.look(&name).await {
        Ok(Some(queue)) if queue.messages > 0 => {
            ("no session has received it".to_owned(), stays.to_owned())
        }
        Ok(Some(queue)) if queue.consumers > 0 => (
            "whoever took it from the queue sends no receipts".to_owned(),
            why,
        ),
        Ok(Some(_)) => (
            "it is no longer in the queue: it expired, or something without receipts took it"
                .to_owned(),
            why,
        ),
        Ok(None) => ("its queue was deleted".to_owned(), why),
        Err(error) => (error.to_string(), why),
    }
}

fn verdict(sent: &[Sent]) -> Exit {
    if sent.iter().any(is_open) {
        return Exit::Unconfirmed;
    }
    let refused = |message: &Sent| {
        message
            .receipt
            .as_ref()
            .is_some_and(|receipt| receipt.state != ReceiptState::Delivered)
    };
    if sent.iter().any(refused) {
        Exit::Failed
    } else {
        Exit::Done
    }
}
