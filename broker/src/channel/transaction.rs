//! Transactions: publishes and settles that wait for a commit. Relies on `publish` and `settle` for what a commit does.

use super::routes::Targets;
use super::{Channel, Mode, Step};
use crate::confirms::Waiting;
use crate::fault::{Fault, ReplyCode};
use crate::ledger::{Credit, Delivery};
use crate::persist::Ticket;
use crate::queue::message::Message;
use crate::queue::{Asking, Settling};
use crate::turn::Turn;
use crate::wire::reply;

/// What a commit will do, in its order.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    publishes: Vec<Publish>,
    settles: Vec<(Delivery, Settling)>,
}

#[derive(Debug)]
struct Publish {
    message: Message,
    targets: Targets,
    is_mandatory: bool,
}

impl Transaction {
    pub(super) fn publish(&mut self, message: Message, targets: Targets, is_mandatory: bool) {
        self.publishes.push(Publish {
            message,
            targets,
            is_mandatory,
        });
    }

    pub(super) fn settle(
        &mut self,
        deliveries: impl Iterator<Item = Delivery>,
        settling: Settling,
    ) {
        self.settles
            .extend(deliveries.map(|delivery| (delivery, settling)));
    }

    /// Deliveries whose settles are given up.
    pub(super) fn take_settled(&mut self) -> Vec<Delivery> {
        self.publishes.clear();
        std::mem::take(&mut self.settles)
            .into_iter()
            .map(|(delivery, _)| delivery)
            .collect()
    }
}

impl Channel {
    pub(super) fn tx_select(&mut self, turn: &mut Turn) -> Result<Step, Fault> {
        match self.mode {
            Mode::Confirming(_) => {
                return Err(Fault::precondition("cannot switch from confirm to tx mode"));
            }
            Mode::Transactional(_) => {}
            Mode::Plain => {
                self.mode = Mode::Transactional(Transaction::default());
                self.view
                    .is_transactional
                    .store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        self.send(turn, |out, channel| reply::bare(out, channel, 90, 11));
        Ok(Step::On)
    }

    fn transaction(&mut self) -> Result<Transaction, Fault> {
        match &mut self.mode {
            Mode::Transactional(transaction) => Ok(std::mem::take(transaction)),
            _ => Err(Fault::precondition("channel is not transactional")),
        }
    }

    pub(super) fn tx_commit(&mut self, turn: &mut Turn) -> Result<Step, Fault> {
        let transaction = self.transaction()?;
        let mut last = Ticket::NONE;
        for publish in transaction.publishes {
            // It lives from now on, whatever its own or its queue's time is.
            match self.hand_out(
                &publish.message.published_at(turn.now_ms),
                &publish.targets,
                (publish.is_mandatory, Asking::Ticket),
                turn,
            )? {
                Waiting::Ticket(ticket) => last = last.max(ticket),
                Waiting::Refused => {
                    return Err(Fault::channel(
                        ReplyCode::PreconditionFailed,
                        "partial tx completion",
                    ));
                }
                Waiting::Routing => {}
            }
        }
        let mut settles = transaction.settles.into_iter().peekable();
        while let Some((first, settling)) = settles.next() {
            let mut run = vec![first];
            while let Some((delivery, _)) = settles.next_if(|(_, next)| *next == settling) {
                run.push(delivery);
            }
            self.hand_back(&mut run, (settling, Credit::Later), turn)?;
        }
        Ok(self.reply_after(last, turn, |out, channel| reply::bare(out, channel, 90, 21)))
    }

    pub(super) fn tx_rollback(&mut self, turn: &mut Turn) -> Result<Step, Fault> {
        let mut transaction = self.transaction()?;
        self.ledger.put_back(transaction.take_settled());
        self.send(turn, |out, channel| reply::bare(out, channel, 90, 31));
        Ok(Step::On)
    }
}
