//! The session's messages: from the queue through the checks into the deliveries, and back as
//! acks and receipts.
//!
//! Order of every message: looked up on disk, queued, its intent synced, handed over, proved to be
//! in the model's context, noted as done, acked. What is not done when the session ends goes back
//! to its queue.
//!
//! Relies on the peer's inbox, on the disk thread and on the table of messages.

mod answers;
mod dead_letters;
mod room;

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::Session;
use crate::envelope::{Breaks, DeliveryMark, Envelope};
use crate::message_history::{HistoryEvent as Story, MessageText};
use crate::peer::{
    Attached, Inbox, InboxEvent, PeerState, Presence, Receipt, ReceiptState, ReceivedMessage,
    SettleResult,
};
use crate::platform;
use crate::wrap::brake::{Brake, Passing};
use crate::wrap::dead_letter::{DeadBody, claimed_id};
use crate::wrap::delivery::{
    Claim, InFlightMessage, MessageKey, Precedence, State, Table, publisher,
};
use crate::wrap::disk::{Disk, DiskEvent, Job};
use crate::wrap::hold::Hold;
use crate::wrap::log::Log;
use crate::wrap::seen::{Publisher, Seen};
use crate::wrap::spill;
use crate::wrap::ways::Way;
use dead_letters::{DeadMessage, ID_USED_TWICE};

/// What the session's post is made of.
pub(in crate::wrap) struct PostParts {
    pub(in crate::wrap) inbox: Option<Inbox>,
    // Dropped before the disk: its thread ends when no receiver is left, even while the disk fails.
    pub(in crate::wrap) disk_events: Receiver<DiskEvent>,
    pub(in crate::wrap) disk: Disk,
    pub(in crate::wrap) brake: Brake,
    pub(in crate::wrap) breaks: Breaks,
    pub(in crate::wrap) body_limit_bytes: usize,
    pub(in crate::wrap) spill: PathBuf,
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
    /// The messages up to this one do not count among those that the broker hands out at once.
    handed_out_before: MessageKey,
    /// The claimed ids of dead letters that are being written.
    dead_letter_ids: HashMap<MessageKey, String>,
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
    Disk(DiskEvent),
}

impl Post {
    pub(in crate::wrap) fn new(parts: PostParts) -> Self {
        Self {
            parts,
            acks: JoinSet::new(),
            announced: None,
            state_since: Utc::now(),
            noticed: 0,
            handed_out_before: MessageKey(0),
            dead_letter_ids: HashMap::new(),
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
            event = inbox => event,
            Some(event) = self.parts.disk_events.recv() => PostEvent::Disk(event),
        }
    }

    pub(super) fn intend(&mut self, table: &Table, keys: &[MessageKey]) {
        self.parts
            .disk
            .submit(Job::WriteIntents(table.identities(keys)));
    }

    pub(super) fn withdraw(&mut self, identities: Vec<String>) {
        self.parts.disk.submit(Job::WithdrawIntents(identities));
    }

    /// They are with the agent.
    pub(super) fn handed_over(&mut self, table: &Table, keys: &[MessageKey], way: Way) {
        // What the agent's own `cbroker send` reads, before the agent can run it.
        let hops = keys
            .iter()
            .filter_map(|key| Some(table.get(*key)?.hops_to_pass_on))
            .max();
        self.parts.disk.submit(Job::WriteHops(hops));
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
        self.parts.disk.submit(Job::WriteDone(done));
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
        self.parts.disk.submit(Job::WriteHops(None));
    }

    /// Sends the last acks and closes the connection: what is not acked is back in its queue then.
    pub(super) async fn close(mut self, table: &mut Table, limit: Duration) {
        let finishing = async {
            while table.has_unfinished() {
                match self.parts.disk_events.recv().await {
                    Some(DiskEvent::DoneWritten(keys)) => self.done(table, &keys),
                    Some(DiskEvent::Failed(_)) | None => break,
                    Some(_) => {}
                }
            }
            while self.acks.join_next().await.is_some() {}
        };
        let _disk_or_broker_is_stuck = tokio::time::timeout(limit, finishing).await;
        for (_, message) in table.iter() {
            if let State::HandedOver(way) = message.state {
                self.note(
                    message,
                    Story::Returned,
                    Some(format!("not seen to be read ({way})")),
                );
            }
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
                spill::mark_delivered(file);
            }
            self.ack(message.into_deliveries());
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
    pub(super) fn handle_post_event(&mut self, event: PostEvent) {
        match event {
            PostEvent::Inbox(event) => self.handle_inbox_event(event),
            PostEvent::InboxEnded => self.post.parts.inbox = None,
            PostEvent::Disk(event) => self.handle_disk_event(event),
        }
    }

    fn handle_inbox_event(&mut self, event: InboxEvent) {
        match event {
            InboxEvent::Attached(attached) => {
                self.log.say(&describe(&attached));
                self.post.parts.brake.expect_backlog(attached.waiting);
                self.post.announced = None;
                self.post.handed_out_before = self.deliveries.table.last_key();
            }
            InboxEvent::Delivery(delivery) => self.receive(*delivery),
            InboxEvent::Lost(error) => {
                self.log.say(&format!("{error}; trying again"));
                self.deliveries.lose_deliveries();
            }
            InboxEvent::Refused(error) => self
                .log
                .say(&format!("no messages in this session: {error}")),
            InboxEvent::Ignored(what) => self.log.say(&what),
            InboxEvent::Request(request, to) => self.answer(&request, to),
        }
    }

    fn receive(&mut self, mut delivery: ReceivedMessage) {
        let key = self.deliveries.table.next_key();
        let body = delivery.take_body();
        let envelope = match Envelope::parse(&body, self.post.parts.body_limit_bytes) {
            Ok(envelope) => envelope,
            Err(invalid) => {
                let dead = DeadMessage {
                    id: claimed_id(&body),
                    body: DeadBody::cut(body),
                    error: invalid.to_string(),
                };
                return self.dead_letter(key, delivery, dead);
            }
        };
        let body = DeadBody::cut(body);
        let publisher = publisher(&delivery);
        let identity = publisher.identity(&envelope);
        if let Some(known) = self.deliveries.table.find(&identity) {
            return self.came_again(known, delivery);
        }
        if !self.may_use_id(&envelope.id, &publisher) {
            let dead = DeadMessage {
                id: envelope.id,
                body,
                error: ID_USED_TWICE.to_owned(),
            };
            return self.dead_letter(key, delivery, dead);
        }
        let mut message = InFlightMessage::new(envelope, Some(delivery), Instant::now());
        message.body = body;
        self.deliveries.table.insert(key, message);
        self.post.parts.disk.submit(Job::LookUp(key, identity));
    }

    fn handle_disk_event(&mut self, event: DiskEvent) {
        match event {
            DiskEvent::LookedUp(key, seen) => self.admit(key, seen),
            DiskEvent::IntentsWritten => self.deliveries.noted(),
            DiskEvent::DoneWritten(keys) => self.post.done(&mut self.deliveries.table, &keys),
            DiskEvent::DeadLetterWritten(key, error) => {
                self.log.say(&format!("a dead letter: {error}"));
                let id = self.post.dead_letter_ids.remove(&key).unwrap_or_default();
                if let Some(delivery) = self.deliveries.table.remove_dead(key) {
                    self.post.refuse(delivery, id, &error);
                }
            }
            DiskEvent::Failed(error) => self
                .log
                .say(&format!("the disk failed, trying again: {error}")),
        }
    }

    /// A message that was looked up is queued, or is known already.
    fn admit(&mut self, key: MessageKey, seen: Seen) {
        // Its proof came meanwhile.
        if !self.deliveries.table.is_arriving(key) {
            return;
        }
        if seen == Seen::OtherContent {
            if let Some(message) = self.deliveries.table.remove(key) {
                self.dead_letter_in_flight(key, message, ID_USED_TWICE);
            }
            return;
        }
        if seen == Seen::Done {
            if let Some(message) = self.deliveries.table.remove(key) {
                let before = Said::Why("delivered before".to_owned());
                self.post
                    .tell(&message, Story::Repeated, ReceiptState::Delivered, before);
                self.post.ack(message.into_deliveries());
            }
            return;
        }
        let lines_only = self.program.reads_lines() && !self.modes.takes_paste();
        let limit = if lines_only {
            platform::CANONICAL_LIMIT
        } else {
            spill::LINE_LIMIT
        };
        let Some(message) = self.deliveries.table.get_mut(key) else {
            return;
        };
        let passing = Passing {
            from: &message.envelope.from,
            user: message.delivery.as_ref().and_then(ReceivedMessage::user),
            is_own: message
                .delivery
                .as_ref()
                .is_some_and(ReceivedMessage::is_of_own_user),
            id: &message.envelope.id,
            hops: message.hops,
        };
        let is_loop = self.post.parts.brake.holds(passing, Instant::now());
        let (lines, file) = compose(&message.envelope, &self.post.parts, limit, &mut self.log);
        (message.line, message.line_again) = lines;
        message.text_files.extend(file);
        message.may_repeat = seen == Seen::Intended;
        message.blocked = is_loop.then_some(Hold::Loop);
        if is_loop && message.publisher != Publisher::Own {
            message.precedence = Precedence::Late;
        }
        message.state = State::Queued;
        let said = MessageText::of(&message.envelope);
        self.post.parts.disk.submit(Job::WriteHistory {
            id: message.envelope.id.clone(),
            publisher: message.publisher.mark().map(str::to_owned),
            event: Story::Received,
            detail: None,
            message: Some(Box::new(said)),
        });
        self.is_stale = self.reads_screen;
    }

    /// The text of this message does not fit into the agent's box: it goes to a file.
    pub(super) fn move_to_file(&mut self, key: MessageKey) {
        let Some(message) = self.deliveries.table.get_mut(key) else {
            return;
        };
        let (lines, file) = compose(&message.envelope, &self.post.parts, 0, &mut self.log);
        message.text_files.extend(file);
        self.deliveries.moved_to_file(key, lines.0, lines.1);
    }

    /// A message that is here already was delivered again: after the connection was lost, or
    /// because it was sent twice.
    fn came_again(&mut self, key: MessageKey, delivery: ReceivedMessage) {
        let known = self.deliveries.table.get(key);
        if known.is_some_and(|known| known.is_held_of_others() && known.claim == Claim::Ours) {
            // Copies of what is held would take the places of others.
            return self.post.reject([delivery]);
        }
        let spare = self.deliveries.table.attach(key, delivery);
        self.post.ack(spare);
    }
}

/// The line, and the same marked as a possible repeat. A line of more than `limit` bytes goes
/// to a file, which is the second result.
fn compose(
    envelope: &Envelope,
    parts: &PostParts,
    limit: usize,
    log: &mut Log,
) -> ((String, String), Option<PathBuf>) {
    let both = |envelope: &Envelope| {
        let line = |mark| envelope.to_line(parts.breaks, mark);
        (line(DeliveryMark::None), line(DeliveryMark::PossibleRepeat))
    };
    let lines = both(envelope);
    if lines.0.len() <= limit {
        return (lines, None);
    }
    match spill::spill(
        (&parts.spill, &parts.card.name),
        envelope,
        limit.max(platform::CANONICAL_LIMIT),
    ) {
        Ok((short, file)) => (both(&short), Some(file)),
        Err(error) => {
            log.say(&format!(
                "a long text cannot be written to {}: {error}",
                parts.spill.display()
            ));
            (lines, None)
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
