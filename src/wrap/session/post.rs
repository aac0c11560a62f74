//! The session's messages: from the queue through the checks into the deliveries, and back as
//! acks and receipts.
//!
//! Order of every message: looked up on disk, queued, its intent synced, handed over, proved to be
//! in the model's context, noted as done, acked. What is not done when the session ends goes back
//! to its queue.
//!
//! Relies on the peer's inbox, on the disk thread and on the table of messages.

mod answers;
mod arrival;
mod burial;
mod room;

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::Session;
use crate::envelope::Breaks;
use crate::message_history::HistoryEvent as Story;
use crate::peer::{
    Attached, Inbox, InboxEvent, PeerState, Presence, Receipt, ReceiptState, ReceivedMessage,
    SettleResult,
};
use crate::wrap::brake::Brake;
use crate::wrap::delivery::{InFlightMessage, MessageKey, State, Table};
use crate::wrap::disk::{Disk, Fact, Job, TextFate};
use crate::wrap::hold::Hold;
use crate::wrap::ways::Way;
use room::ParkedMessages;

/// What the session's post is made of.
pub(in crate::wrap) struct PostParts {
    pub(in crate::wrap) inbox: Option<Inbox>,
    // Dropped before the disk: its thread ends when no receiver is left, even while the disk fails.
    pub(in crate::wrap) facts: Receiver<Fact>,
    pub(in crate::wrap) disk: Disk,
    pub(in crate::wrap) brake: Brake,
    pub(in crate::wrap) breaks: Breaks,
    pub(in crate::wrap) body_limit_bytes: usize,
    /// How this session describes itself, but for what it does.
    pub(in crate::wrap) card: Presence,
}

/// Everything that messages need beside the table and the terminal.
pub(in crate::wrap) struct Post {
    parts: PostParts,
    acks: JoinSet<SettleResult>,
    announced: Option<Announced>,
    /// When the state that was announced last began.
    state_since: DateTime<Utc>,
    /// How many waiting messages were announced by title and bell.
    noticed: usize,
    /// The round in which the broker hands out messages now.
    round: u32,
    /// Messages of others for which there is no room yet.
    parked: ParkedMessages,
    /// Claimed ids of dead letters that are being written.
    buried: HashMap<MessageKey, String>,
}

/// What others know of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Announced {
    state: PeerState,
    detail: Option<String>,
    hold: Option<Hold>,
    held: usize,
}

/// Something that happened to the post.
pub(super) enum PostEvent {
    Inbox(InboxEvent),
    InboxEnded,
    Fact(Fact),
}

impl Post {
    pub(in crate::wrap) fn new(parts: PostParts) -> Self {
        Self {
            parts,
            acks: JoinSet::new(),
            announced: None,
            state_since: Utc::now(),
            noticed: 0,
            round: 0,
            parked: ParkedMessages::default(),
            buried: HashMap::new(),
        }
    }

    /// The next news. Safe to drop half-way in a select.
    pub(super) async fn next(&mut self) -> PostEvent {
        while self.acks.try_join_next().is_some() {}
        let inbox = async {
            match &mut self.parts.inbox {
                Some(inbox) => inbox
                    .next()
                    .await
                    .map_or(PostEvent::InboxEnded, PostEvent::Inbox),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = inbox => news,
            Some(fact) = self.parts.facts.recv() => PostEvent::Fact(fact),
        }
    }

    pub(super) fn intend(&mut self, table: &Table, keys: &[MessageKey]) {
        self.parts.disk.ask(Job::Intend(table.identities(keys)));
    }

    pub(super) fn withdraw(&mut self, identities: Vec<String>) {
        self.parts.disk.ask(Job::Withdraw(identities));
    }

    /// They are with the agent.
    pub(super) fn handed_over(&mut self, table: &Table, keys: &[MessageKey], way: Way) {
        // What the agent's own `cbroker send` reads, before the agent can run it.
        let hops = keys
            .iter()
            .filter_map(|key| Some(table.get(*key)?.hops_to_pass_on))
            .max();
        self.parts.disk.ask(Job::Hops(hops));
        for &key in keys {
            if let Some(message) = table.get(key) {
                self.tell(
                    message,
                    Story::HandedOver,
                    ReceiptState::HandedOver,
                    Said::Way(way),
                );
            }
        }
    }

    /// They are in the model's context.
    pub(super) fn delivered(&mut self, table: &Table, keys: &[MessageKey], way: Way) {
        let mut done = Vec::new();
        for &key in keys {
            if let Some(message) = table.get(key) {
                self.tell(
                    message,
                    Story::Delivered,
                    ReceiptState::Delivered,
                    Said::Way(way),
                );
                done.push((key, message.identity()));
            }
        }
        self.parts.disk.ask(Job::Done(done));
    }

    /// They are held, and their senders get a receipt.
    pub(super) fn held(&mut self, table: &Table, keys: &[MessageKey], hold: &Hold) {
        for message in keys.iter().filter_map(|key| table.get(*key)) {
            self.tell(
                message,
                Story::Held,
                ReceiptState::Held,
                Said::Why(hold.to_string()),
            );
        }
    }

    /// A person submitted something: what the agent sends next is not an answer to a message.
    pub(super) fn person_spoke(&mut self) {
        self.parts.disk.ask(Job::Hops(None));
    }

    /// Sends the last acks and closes the connection: what is not acked is back in its queue then.
    pub(super) async fn close(mut self, table: &mut Table, limit: Duration) {
        let finishing = async {
            while table.has_unfinished() {
                match self.parts.facts.recv().await {
                    Some(Fact::Done(keys)) => self.done(table, &keys),
                    Some(Fact::Failed(_)) | None => break,
                    Some(_) => {}
                }
            }
            while self.acks.join_next().await.is_some() {}
        };
        let _disk_or_broker_is_stuck = tokio::time::timeout(limit, finishing).await;
        for message in table.values_mut() {
            if let State::HandedOver(way) = message.state {
                self.note(
                    message,
                    Story::Returned,
                    Some(format!("not seen to be read ({way})")),
                );
            }
            self.forget_texts(message);
        }
        if let Some(inbox) = self.parts.inbox.take() {
            let gone = Presence {
                state: PeerState::Closed,
                since: Utc::now(),
                ..self.parts.card.clone()
            };
            inbox.outlet().announce(gone);
            inbox.close(limit).await;
        }
    }

    /// When the brake releases what it holds.
    pub(super) fn release_at(&self) -> Option<Instant> {
        self.parts.brake.release_at()
    }

    /// Noted as done on disk: the broker may forget them.
    fn done(&mut self, table: &mut Table, keys: &[MessageKey]) {
        for &key in keys {
            let Some(message) = table.remove(key) else {
                continue;
            };
            for file in &message.text_files {
                let fate = Job::TextFile(file.clone(), TextFate::Delivered);
                self.parts.disk.ask(fate);
            }
            self.ack(message.into_deliveries());
        }
    }

    /// Removes the files of a message that goes without having reached the agent.
    fn forget_texts(&self, message: &mut InFlightMessage) {
        self.remove_files(message.unread_files());
    }

    /// Removes files that no agent was told to read.
    fn remove_files(&self, files: impl IntoIterator<Item = PathBuf>) {
        for file in files {
            self.parts.disk.ask(Job::TextFile(file, TextFate::Unread));
        }
    }

    fn ack(&mut self, deliveries: impl IntoIterator<Item = ReceivedMessage>) {
        for delivery in deliveries {
            self.acks.spawn(async move { delivery.ack().await });
        }
    }

    /// They are done with and did not reach the agent.
    fn reject(&mut self, deliveries: impl IntoIterator<Item = ReceivedMessage>) {
        for delivery in deliveries {
            self.acks.spawn(async move { delivery.reject().await });
        }
    }

    fn tell(&mut self, message: &InFlightMessage, event: Story, state: ReceiptState, said: Said) {
        let (reason, way) = match said {
            Said::Nothing => (None, None),
            Said::Why(reason) => (Some(reason), None),
            Said::Way(way) => (None, Some(way.to_string())),
        };
        let detail = reason.clone().or_else(|| way.clone());
        if let (Some(queue), Some(inbox)) = (&message.receipt_to, &self.parts.inbox) {
            let receipt = Receipt {
                id: message.envelope.id.clone(),
                to: Some(self.parts.card.name.clone()),
                state,
                reason,
                way,
            };
            inbox.outlet().receipt(queue, receipt);
        }
        self.note(message, event, detail);
    }
}

/// The reason or way reported with a state.
enum Said {
    Nothing,
    Why(String),
    Way(Way),
}

impl Session {
    pub(super) fn post_arrived(&mut self, news: PostEvent) {
        match news {
            PostEvent::Inbox(event) => self.inbox_said(event),
            PostEvent::InboxEnded => self.post.parts.inbox = None,
            PostEvent::Fact(fact) => self.disk_said(fact),
        }
        self.make_room();
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
                self.post.parked.take_all();
                let files = self.deliveries.lose_deliveries();
                self.post.remove_files(files);
            }
            InboxEvent::Refused(error) => self
                .log
                .say(&format!("no messages in this session: {error}")),
            InboxEvent::Ignored(what) => self.log.say(&what),
            InboxEvent::Request(request, to) => self.answer(&request, to),
        }
    }

    fn disk_said(&mut self, fact: Fact) {
        match fact {
            Fact::Looked(key, seen, spilled) => self.admit(key, seen, spilled),
            Fact::Spilled(key, spilled) => self.moved_to_file(key, *spilled),
            Fact::Kept => self.post.parked.written(),
            Fact::Fetched(key, body) => self.fetched(key, body),
            Fact::Intended => self.deliveries.noted(),
            Fact::Done(keys) => self.post.done(&mut self.deliveries.table, &keys),
            Fact::Buried(key, error) => {
                self.log.say(&format!("a dead letter: {error}"));
                let id = self.post.buried.remove(&key).unwrap_or_default();
                if let Some(delivery) = self.deliveries.table.take_aside(key) {
                    self.post.refuse(delivery, id, &error);
                }
            }
            Fact::Failed(error) => self
                .log
                .say(&format!("the disk failed, trying again: {error}")),
        }
    }
}

fn describe(attached: &Attached) -> String {
    let mut waiting = format!("attached; {} messages wait", attached.waiting);
    if let Some(difference) = &attached.difference {
        let _infallible = write!(waiting, "; the queue existed: {difference}");
    }
    match attached.others {
        0 => waiting,
        others => format!("{waiting}; {others} other sessions share the queue"),
    }
}
