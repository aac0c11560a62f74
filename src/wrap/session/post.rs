//! The session's messages: from the queue through checks and locks into the injection, and back as acks and receipts.
//!
//! Order of every message: looked up on disk, offered, its intent synced, typed, noted as done, acked. What is not
//! done when the session ends goes back to its queue.
//!
//! Relies on the peer's inbox, on the disk thread and on the mail.

mod answers;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::Session;
use crate::envelope::{Breaks, Envelope, Mark};
use crate::journal::Event as Story;
use crate::peer::{
    Attached, Delivery, Inbox, InboxEvent, PeerState, Presence, Receipt, ReceiptState, Settled,
};
use crate::wrap::brake::{Brake, Passing};
use crate::wrap::disk::{Disk, Fact, Job};
use crate::wrap::hold::Hold;
use crate::wrap::inject::{Item, Ticket};
use crate::wrap::log::Log;
use crate::wrap::mail::{Letter, Mail};
use crate::wrap::seen::Seen;
use crate::wrap::spill;

/// Another message under an id that is known: taking it for that one would make one of them vanish.
const ID_USED_TWICE: &str = "id used twice";

/// What the session's post is made of.
pub(in crate::wrap) struct PostParts {
    pub(in crate::wrap) inbox: Option<Inbox>,
    // Dropped before the disk: its thread ends when nobody hears it, even while the disk fails.
    pub(in crate::wrap) facts: Receiver<Fact>,
    pub(in crate::wrap) disk: Disk,
    pub(in crate::wrap) brake: Brake,
    pub(in crate::wrap) breaks: Breaks,
    pub(in crate::wrap) body_limit_bytes: usize,
    pub(in crate::wrap) spill: PathBuf,
    /// How this session describes itself, but for what it does.
    pub(in crate::wrap) card: Presence,
}

/// Messages, and everything that they need beside the terminal.
pub(in crate::wrap) struct Post {
    parts: PostParts,
    mail: Mail,
    acks: JoinSet<Settled>,
    handed: HashSet<Ticket>,
    announced: Option<(PeerState, Option<Hold>, usize)>,
    /// How many waiting messages title and bell have told of.
    noticed: usize,
}

/// Something that happened to the post.
pub(super) enum News {
    Inbox(InboxEvent),
    InboxEnded,
    Fact(Fact),
}

impl Post {
    pub(in crate::wrap) fn new(parts: PostParts) -> Self {
        Self {
            parts,
            mail: Mail::default(),
            acks: JoinSet::new(),
            handed: HashSet::new(),
            announced: None,
            noticed: 0,
        }
    }

    /// The next news. Safe to drop half-way in a select.
    pub(super) async fn next(&mut self) -> News {
        while self.acks.try_join_next().is_some() {}
        let inbox = async {
            match &mut self.parts.inbox {
                Some(inbox) => inbox.next().await.map_or(News::InboxEnded, News::Inbox),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = inbox => news,
            Some(fact) = self.parts.facts.recv() => News::Fact(fact),
        }
    }

    pub(super) fn intend(&mut self, tickets: &[Ticket]) {
        self.parts
            .disk
            .ask(Job::Intend(self.mail.identities(tickets)));
    }

    /// Their Enter was written.
    pub(super) fn entered(&mut self, tickets: &[Ticket]) {
        // First what the agent's own `cbroker send` reads: the other waits for the disk.
        let hops = tickets
            .iter()
            .filter_map(|ticket| Some(self.mail.get(*ticket)?.hops.unwrap_or(0)))
            .max();
        self.parts.disk.ask(Job::Hops(hops));
        let done = tickets
            .iter()
            .filter_map(|ticket| Some((*ticket, self.mail.get(*ticket)?.envelope.identity())));
        self.parts.disk.ask(Job::Done(done.collect()));
    }

    /// They go in by the hook.
    pub(super) fn by_hook(&mut self, tickets: &[Ticket]) {
        self.handed.extend(tickets);
    }

    /// Their turn began.
    pub(super) fn begun(&mut self, tickets: &[Ticket]) {
        for &ticket in tickets {
            let way = self.handed.remove(&ticket).then(|| "hook".to_owned());
            self.tell(ticket, Story::Injected, ReceiptState::Injected, way);
            self.forget(ticket);
        }
    }

    /// A person dealt with what stood in the box.
    pub(super) fn ended(&mut self, tickets: &[Ticket]) {
        for &ticket in tickets {
            self.forget(ticket);
        }
    }

    /// They are held for a reason that a sender has to know at once.
    pub(super) fn held(&mut self, tickets: &[Ticket], hold: &Hold) {
        for &ticket in tickets {
            self.handed.remove(&ticket);
            self.tell(
                ticket,
                Story::Held,
                ReceiptState::Held,
                Some(hold.to_string()),
            );
        }
    }

    /// One is held; its sender hears of it when that is news. Gives the id then.
    pub(super) fn hold(&mut self, ticket: Ticket, hold: &Hold, now: Instant) -> Option<String> {
        if !self.mail.is_news(ticket, hold, now) {
            return None;
        }
        self.held(&[ticket], hold);
        Some(self.describe(&[ticket]))
    }

    pub(super) fn next_news(&self, now: Instant) -> Option<Instant> {
        let release = self.parts.brake.release_at();
        self.mail.next_news(now).into_iter().chain(release).min()
    }

    /// A person submitted something: what the agent sends next answers nobody.
    pub(super) fn person_spoke(&mut self) {
        self.parts.disk.ask(Job::Hops(None));
    }

    pub(super) fn ids(&self, tickets: &[Ticket]) -> Vec<String> {
        self.mail.ids(tickets)
    }

    pub(super) fn describe(&self, tickets: &[Ticket]) -> String {
        self.mail.ids(tickets).join(", ")
    }

    /// The last acks, and goodbye to the broker: what is not acked is back in its queue then.
    pub(super) async fn close(mut self, limit: Duration) {
        let finishing = async {
            while self.mail.has_unfinished() {
                match self.parts.facts.recv().await {
                    Some(Fact::Done(tickets)) => self.done(&tickets),
                    Some(Fact::Failed(_)) | None => break,
                    Some(_) => {}
                }
            }
            while self.acks.join_next().await.is_some() {}
        };
        let _disk_or_broker_is_stuck = tokio::time::timeout(limit, finishing).await;
        if let Some(inbox) = self.parts.inbox.take() {
            let gone = Presence {
                state: PeerState::Gone,
                ..self.parts.card.clone()
            };
            inbox.outlet().announce(gone);
            inbox.close(limit).await;
        }
    }

    /// Noted as done on disk: the broker may forget them.
    fn done(&mut self, tickets: &[Ticket]) {
        for &ticket in tickets {
            let delivery = self.mail.get_mut(ticket).and_then(|letter| {
                letter.is_done = true;
                letter.delivery.take()
            });
            self.ack(delivery);
            self.mail.drop_finished(ticket);
        }
    }

    fn forget(&mut self, ticket: Ticket) {
        self.mail.is_over(ticket);
        self.mail.drop_finished(ticket);
    }

    fn ack(&mut self, delivery: Option<Delivery>) {
        if let Some(delivery) = delivery {
            self.acks.spawn(async move { delivery.ack().await });
        }
    }

    fn tell(&mut self, ticket: Ticket, event: Story, state: ReceiptState, reason: Option<String>) {
        let Some(letter) = self.mail.get(ticket) else {
            return;
        };
        let id = letter.envelope.id.clone();
        if let (Some(queue), Some(inbox)) = (&letter.receipt_to, &self.parts.inbox) {
            inbox.outlet().receipt(
                queue,
                Receipt {
                    id: id.clone(),
                    state,
                    reason: reason.clone(),
                },
            );
        }
        self.parts.disk.ask(Job::Tell {
            id,
            event,
            detail: reason,
        });
    }
}

impl Session {
    pub(super) fn post_arrived(&mut self, news: News) {
        match news {
            News::Inbox(event) => self.inbox_said(event),
            News::InboxEnded => self.post.parts.inbox = None,
            News::Fact(fact) => self.disk_said(fact),
        }
    }

    fn inbox_said(&mut self, event: InboxEvent) {
        match event {
            InboxEvent::Attached(attached) => {
                self.log.say(&describe(&attached));
                self.post.parts.brake.expect_backlog(attached.waiting);
                self.post.announced = None;
            }
            InboxEvent::Delivery(delivery) => self.receive(*delivery),
            InboxEvent::Lost(error) => {
                self.log.say(&format!("{error}; trying again"));
                for ticket in self.post.mail.lose_deliveries() {
                    if self.injection.withdraw(ticket) {
                        self.post.mail.take(ticket);
                    }
                }
            }
            InboxEvent::Refused(error) => self
                .log
                .say(&format!("no messages in this session: {error}")),
            InboxEvent::Ignored(what) => self.log.say(&what),
            InboxEvent::Asked(request, to) => self.answer(&request, to),
        }
    }

    fn receive(&mut self, delivery: Delivery) {
        let ticket = self.post.mail.ticket();
        match Envelope::parse(&delivery.body, self.post.parts.body_limit_bytes) {
            Ok(envelope) => {
                let id = envelope.identity();
                if let Some(known) = self.post.mail.again(&id) {
                    return self.post.came_again(known, delivery);
                }
                if self.post.mail.has_id(&envelope.id) {
                    return self.bury(ticket, delivery, ID_USED_TWICE.to_owned());
                }
                self.post
                    .mail
                    .keep(ticket, delivery, envelope, Instant::now());
                self.post.parts.disk.ask(Job::Look(ticket, id));
            }
            Err(invalid) => self.bury(ticket, delivery, invalid.to_string()),
        }
    }

    fn disk_said(&mut self, fact: Fact) {
        match fact {
            Fact::Looked(ticket, seen) => self.admit(ticket, seen),
            Fact::Intended => self.injection.noted(),
            Fact::Done(tickets) => self.post.done(&tickets),
            Fact::Buried(ticket, error) => {
                self.log.say(&format!("a dead letter: {error}"));
                if let Some(delivery) = self.post.mail.take_dead(ticket) {
                    self.post.refuse(delivery, &error);
                }
            }
            Fact::Failed(error) => self
                .log
                .say(&format!("the disk failed, trying again: {error}")),
        }
    }

    /// A message that must not reach the agent: acked once it is on disk.
    fn bury(&mut self, ticket: Ticket, delivery: Delivery, error: String) {
        let body = delivery.body.clone();
        self.post.mail.keep_dead(ticket, delivery);
        self.post.parts.disk.ask(Job::DeadLetter {
            ticket,
            error,
            body,
        });
    }

    /// A message that was looked up joins the line, or is known already.
    fn admit(&mut self, ticket: Ticket, seen: Seen) {
        if seen == Seen::OtherContent {
            let letter = self.post.mail.take(ticket);
            if let Some(delivery) = letter.and_then(|letter| letter.delivery) {
                self.bury(ticket, delivery, ID_USED_TWICE.to_owned());
            }
            return;
        }
        if seen == Seen::Done {
            self.post.tell(
                ticket,
                Story::Repeated,
                ReceiptState::Injected,
                Some("before".to_owned()),
            );
            if let Some(letter) = self.post.mail.take(ticket) {
                self.post.ack(letter.delivery);
            }
            return;
        }
        let Some(letter) = self.post.mail.get_mut(ticket) else {
            return;
        };
        let passing = Passing {
            from: &letter.envelope.from,
            user: letter.delivery.as_ref().and_then(Delivery::user),
            id: &letter.envelope.id,
            hops: letter.hops,
        };
        let is_loop = self.post.parts.brake.holds(passing, Instant::now());
        let lines_only = self.program.reads_lines() && !self.modes.takes_paste();
        let limit = if lines_only {
            spill::CANONICAL_LIMIT
        } else {
            spill::LINE_LIMIT
        };
        let lines = compose(letter, &self.post.parts, limit, &mut self.log);
        letter.line.clone_from(&lines.0);
        let item = Item {
            ticket,
            id: letter.envelope.id.clone(),
            line: lines.0,
            line_again: lines.1,
            may_repeat: seen == Seen::Intended,
            blocked: is_loop.then_some(Hold::Loop),
        };
        self.post.parts.disk.ask(Job::Tell {
            id: item.id.clone(),
            event: Story::Received,
            detail: None,
        });
        self.injection.offer(item);
        self.is_stale = self.screen.is_some();
    }
}

/// The line, and the same marked as a possible repetition. A text that is too long to type goes to a file.
fn compose(letter: &Letter, parts: &PostParts, limit: usize, log: &mut Log) -> (String, String) {
    let both = |envelope: &Envelope| {
        let line = |mark| envelope.to_line(parts.breaks, mark);
        (line(Mark::None), line(Mark::PossibleRepeat))
    };
    let lines = both(&letter.envelope);
    if lines.0.len() <= limit {
        return lines;
    }
    match spill::spill((&parts.spill, &parts.card.name), &letter.envelope, limit) {
        Ok(short) => both(&short),
        Err(error) => {
            log.say(&format!(
                "a long text cannot be written to {}: {error}",
                parts.spill.display()
            ));
            lines
        }
    }
}

fn describe(attached: &Attached) -> String {
    let waiting = format!("attached; {} messages wait", attached.waiting);
    match attached.others {
        0 => waiting,
        others => format!("{waiting}; {others} other sessions share the queue"),
    }
}
