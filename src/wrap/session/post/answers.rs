//! What a session says of itself, and what it answers.
//!
//! Relies on the peer's presence.

use std::time::Instant;

use super::{Job, Mail, Post, Session, Story, Ticket};
use crate::peer::{
    Delivery, HeldMessage, PeerState, Presence, Receipt, ReceiptState, Removal, Reply, ReplyTo,
    Request,
};
use crate::wrap::attention::Verdict;
use crate::wrap::hold::Hold;
use crate::wrap::inject;

impl Session {
    /// Says what the session does now, where that has changed.
    pub(in crate::wrap::session) fn announce(&mut self, now: Instant) {
        if self.post.parts.brake.is_due(now) {
            self.injection.unblock();
        }
        let hold = self.injection.hold();
        let state = self.state(hold.as_ref(), now);
        let held = self.post.mail.len();
        self.notify(held);
        let news = Some((state, hold, held));
        if self.post.announced == news {
            return;
        }
        if let (Some(inbox), Some((state, hold, _))) = (&self.post.parts.inbox, &news) {
            inbox
                .outlet()
                .announce(self.presence(*state, hold.as_ref()));
        }
        self.post.announced = news;
    }

    fn state(&self, hold: Option<&Hold>, now: Instant) -> PeerState {
        if self.injection.is_paused() {
            return PeerState::Paused;
        }
        if self.delivery == inject::Delivery::Notify {
            return PeerState::Notify;
        }
        if hold.is_some() {
            return PeerState::Holding;
        }
        match self.attention.verdict(now) {
            Verdict::Hold(Hold::Starting, _) => PeerState::Starting,
            _ if self.attention.is_busy() => PeerState::Busy,
            _ => PeerState::Ready,
        }
    }

    /// Where nothing is typed, title and bell say that messages wait. In the middle of a sequence of the
    /// program's this has to wait for the next turn.
    fn notify(&mut self, held: usize) {
        let last = self.post.noticed;
        if self.delivery != inject::Delivery::Notify || held == last || !self.modes.is_at_boundary()
        {
            return;
        }
        let shown = match held {
            0 => format!("\x1b]2;{}\x07", self.modes.title().unwrap_or_default()),
            1 => format!(
                "\x1b]2;{}: 1 message (cbroker inbox)\x07",
                self.post.parts.card.name
            ),
            _ => format!(
                "\x1b]2;{}: {held} messages (cbroker inbox)\x07",
                self.post.parts.card.name
            ),
        };
        self.relay.show(shown.as_bytes());
        if held > last {
            self.relay.show(b"\x07");
        }
        self.post.noticed = held;
    }

    pub(super) fn answer(&mut self, request: &Request, to: ReplyTo) {
        let now = Instant::now();
        let reply = match request {
            Request::Pause { .. } => {
                self.injection.pause();
                self.log.say("paused");
                self.present(now)
            }
            Request::Resume { .. } => {
                self.injection.resume();
                self.post.parts.brake.release();
                self.log.say("resumed");
                self.present(now)
            }
            Request::Inbox { take, .. } => self.show_inbox(*take),
            Request::Discard { removal, .. } => self.discard(*removal),
            Request::Who | Request::State(_) => self.present(now),
        };
        if let Some(inbox) = &self.post.parts.inbox {
            inbox.outlet().answer(to, reply);
        }
    }

    fn present(&self, now: Instant) -> Reply {
        let hold = self.injection.hold();
        Reply::State(self.presence(self.state(hold.as_ref(), now), hold.as_ref()))
    }

    fn presence(&self, state: PeerState, hold: Option<&Hold>) -> Presence {
        Presence {
            state,
            reason: hold.map(ToString::to_string),
            held: u32::try_from(self.post.mail.len()).unwrap_or(u32::MAX),
            ..self.post.parts.card.clone()
        }
    }

    fn show_inbox(&mut self, take: bool) -> Reply {
        let mut messages = Vec::new();
        for (ticket, message) in self.held() {
            messages.push(message);
            if take && self.injection.withdraw(ticket) {
                self.post.was_read(ticket);
            }
        }
        self.listed(messages)
    }

    /// Lets go of what is not with the agent yet.
    fn discard(&mut self, removal: Removal) -> Reply {
        let mut messages = Vec::new();
        for (ticket, message) in self.held() {
            if self.injection.withdraw(ticket) {
                self.post.was_removed(ticket, removal);
                messages.push(message);
            }
        }
        self.log
            .say(&format!("{removal:?}: {} held messages", messages.len()));
        self.listed(messages)
    }

    fn listed(&self, messages: Vec<HeldMessage>) -> Reply {
        Reply::Inbox {
            name: self.post.parts.card.name.clone(),
            session: self.post.parts.card.session.clone(),
            messages,
        }
    }

    /// The messages that wait, oldest first.
    fn held(&self) -> Vec<(Ticket, HeldMessage)> {
        let waiting = self.injection.waiting().filter_map(|(item, hold)| {
            let letter = self.post.mail.get(item.ticket)?;
            let message = HeldMessage {
                id: letter.envelope.id.clone(),
                from: letter.envelope.from.clone(),
                ts: letter.envelope.ts.clone(),
                reason: hold.map(|hold| hold.to_string()).unwrap_or_default(),
                line: letter.line.clone(),
            };
            Some((item.ticket, message))
        });
        waiting.collect()
    }
}

impl Post {
    /// A person read it with `cbroker inbox`: that is its delivery.
    fn was_read(&mut self, ticket: Ticket) {
        self.tell(
            ticket,
            Story::Injected,
            ReceiptState::Injected,
            Some("inbox".to_owned()),
        );
        self.mail.is_over(ticket);
        let done = self
            .mail
            .ids(&[ticket])
            .into_iter()
            .map(|id| (ticket, id))
            .collect();
        self.parts.disk.ask(Job::Done(done));
    }

    /// An operator removed it.
    fn was_removed(&mut self, ticket: Ticket, removal: Removal) {
        let Some(letter) = self.mail.take(ticket) else {
            return;
        };
        let event = match removal {
            Removal::Purged => Story::Purged,
            Removal::Deleted => Story::Deleted,
        };
        self.parts.disk.ask(Job::Tell {
            id: letter.envelope.id,
            event,
            detail: None,
        });
        self.ack(letter.delivery);
    }

    /// A message that is here already was delivered again: after the connection was lost, or because it was sent twice.
    pub(super) fn came_again(&mut self, ticket: Ticket, delivery: Delivery) {
        match self.mail.get_mut(ticket) {
            Some(letter) if !letter.is_done && letter.delivery.is_none() => {
                letter.delivery = Some(delivery);
            }
            _ => self.ack(Some(delivery)),
        }
    }

    /// Its dead letter is on disk: it may go, and its sender hears of it.
    pub(super) fn refuse(&mut self, delivery: Delivery, error: &str) {
        if let (Some(queue), Some(inbox)) = (delivery.receipt_to(), &self.parts.inbox) {
            let id = Mail::id_of_dead(&delivery);
            let receipt = Receipt {
                id,
                state: ReceiptState::DeadLettered,
                reason: Some(error.to_owned()),
            };
            inbox.outlet().receipt(queue, receipt);
        }
        let id = Mail::id_of_dead(&delivery);
        self.parts.disk.ask(Job::Tell {
            id,
            event: Story::DeadLettered,
            detail: Some(error.to_owned()),
        });
        self.ack(Some(delivery));
    }
}
