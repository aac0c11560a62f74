//! The session's messages: receives them from the queue, checks them, adds them to the table, and
//! acks them and reports their state once they are delivered.
//!
//! A message passes these steps in order: look up on disk, queue, write the intent, hand over,
//! prove that it is in the model's context, write `done`, ack. A message that is not done when the
//! session ends returns to its queue.
//!
//! Relies on the peer's inbox, on the disk thread and on the table of messages.

mod answers;
mod arrival;
mod counts;
mod dead_letters;
mod intake;
mod line;
mod parked;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::Session;
use crate::envelope::LineBreaks;
use crate::message_history::HistoryEvent;
use crate::peer::{
    AttachedQueue, HeldMessage, Inbox, InboxEvent, PeerState, Presence, Receipt, ReceiptState,
    ReceivedMessage, ReplyTo, SettleResult,
};
use crate::wrap::brake::Brake;
use crate::wrap::delivery::{DeliveryState, InFlightMessage, MessageKey, MessageTable};
use crate::wrap::disk::{DiskEvent, DiskThread, Job, TextOutcome};
use crate::wrap::hold::Hold;
use crate::wrap::ways::{SubmissionNumber, Way};
use dead_letters::LettersInHand;
use parked::ParkedMessages;

/// The parts that handle a session's messages.
pub(in crate::wrap) struct MessageParts {
    pub(in crate::wrap) inbox: Option<Inbox>,
    // Must be dropped before `disk`: the thread ends once this receiver is dropped, even if the
    // disk fails.
    pub(in crate::wrap) disk_events: Receiver<DiskEvent>,
    pub(in crate::wrap) disk: DiskThread,
    pub(in crate::wrap) brake: Brake,
    pub(in crate::wrap) breaks: LineBreaks,
    pub(in crate::wrap) body_limit_bytes: usize,
    /// The presence of this session; its state is added when it is announced.
    pub(in crate::wrap) presence: Presence,
}

/// Receives, acks and reports messages. The table of messages is in
/// [`Deliveries`](crate::wrap::delivery::Deliveries).
pub(in crate::wrap) struct SessionMessages {
    parts: MessageParts,
    acks: JoinSet<SettleResult>,
    announced: Option<AnnouncedState>,
    /// Whether the state must be announced although it is the announced one: the connection is new.
    must_announce: bool,
    /// When the announced state began.
    state_since: DateTime<Utc>,
    /// Number of waiting messages that title and bell last showed.
    noticed: usize,
    /// The current round of deliveries; see [`intake`].
    round: u32,
    /// Messages of other users for which there is no room yet.
    parked: ParkedMessages,
    dead_letters: LettersInHand,
    /// The commands that want to read messages, while the intents are being written.
    takes: Vec<PendingTake>,
}

/// A command that wants to read messages, and what was held when it asked.
struct PendingTake {
    number: SubmissionNumber,
    to: ReplyTo,
    held: Vec<(MessageKey, HeldMessage)>,
}

/// The state of the session that was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AnnouncedState {
    state: PeerState,
    detail: Option<String>,
    hold: Option<Hold>,
    is_paused: bool,
    held: usize,
}

/// An event that concerns messages.
pub(super) enum MessageEvent {
    Inbox(InboxEvent),
    InboxEnded,
    Disk(DiskEvent),
}

impl SessionMessages {
    pub(in crate::wrap) fn new(parts: MessageParts) -> Self {
        Self {
            parts,
            acks: JoinSet::new(),
            announced: None,
            must_announce: false,
            state_since: Utc::now(),
            noticed: 0,
            round: 0,
            parked: ParkedMessages::default(),
            dead_letters: LettersInHand::default(),
            takes: Vec::new(),
        }
    }

    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> MessageEvent {
        while self.acks.try_join_next().is_some() {}
        let inbox = async {
            match &mut self.parts.inbox {
                Some(inbox) => inbox
                    .next()
                    .await
                    .map_or(MessageEvent::InboxEnded, MessageEvent::Inbox),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = inbox => event,
            Some(event) = self.parts.disk_events.recv() => MessageEvent::Disk(event),
        }
    }

    pub(super) fn write_intents(&mut self, table: &MessageTable, keys: &[MessageKey]) {
        self.parts
            .disk
            .submit(Job::WriteIntents(table.identities(keys)));
    }

    pub(super) fn withdraw_intents(&mut self, identities: Vec<String>) {
        self.parts.disk.submit(Job::WithdrawIntents(identities));
    }

    /// Writes the hop count that the agent's own `cbroker send` passes on for these messages. Done
    /// before the agent has them.
    pub(super) fn write_hops(&mut self, table: &MessageTable, keys: &[MessageKey]) {
        let hops = keys
            .iter()
            .filter_map(|key| Some(table.get(*key)?.hops_to_pass_on))
            .max();
        self.parts.disk.submit(Job::WriteHops(hops));
    }

    /// Reports that these messages were handed to the agent.
    pub(super) fn handed_over(&mut self, table: &MessageTable, keys: &[MessageKey], way: Way) {
        if way == Way::Keyboard {
            self.write_hops(table, keys);
        }
        for &key in keys {
            if let Some(message) = table.get(key) {
                self.report_state(
                    message,
                    HistoryEvent::HandedOver,
                    ReceiptState::HandedOver,
                    ReportDetail::Way(way),
                );
            }
        }
    }

    /// Reports that these messages are in the model's context, and writes them as done.
    pub(super) fn delivered(&mut self, table: &MessageTable, keys: &[MessageKey], way: Way) {
        let mut done = Vec::new();
        for &key in keys {
            if let Some(message) = table.get(key) {
                self.report_state(
                    message,
                    HistoryEvent::Delivered,
                    ReceiptState::Delivered,
                    ReportDetail::Way(way),
                );
                done.push((key, message.identity()));
            }
        }
        self.parts.disk.submit(Job::WriteDone(done));
    }

    /// Reports that these messages are held for this reason.
    pub(super) fn held(&mut self, table: &MessageTable, keys: &[MessageKey], hold: &Hold) {
        for message in keys.iter().filter_map(|key| table.get(*key)) {
            self.report_state(
                message,
                HistoryEvent::Held,
                ReceiptState::Held,
                ReportDetail::Reason(hold.to_string()),
            );
        }
    }

    /// Removes the hop count after a person's input: what the agent sends next does not answer a
    /// message.
    pub(super) fn person_spoke(&mut self) {
        self.parts.disk.submit(Job::WriteHops(None));
    }

    /// Sends the last acks and closes the connection. Messages without an ack return to the queue.
    pub(super) async fn close(mut self, table: &mut MessageTable, limit: Duration) {
        let finishing = async {
            while table.has_unfinished() || self.dead_letters.writing() > 0 {
                match self.parts.disk_events.recv().await {
                    Some(DiskEvent::DoneWritten(keys)) => self.done(table, &keys),
                    Some(DiskEvent::DeadLetterWritten(key, error)) => {
                        self.dead_letter_written(table, key, error);
                    }
                    Some(DiskEvent::Failed(_)) | None => break,
                    Some(event) => self.remove_files(event.into_text_file()),
                }
            }
            while self.acks.join_next().await.is_some() {}
        };
        let _disk_or_broker_is_stuck = tokio::time::timeout(limit, finishing).await;
        for message in table.values_mut() {
            if let DeliveryState::HandedOver(way) = message.state {
                self.record(
                    message,
                    HistoryEvent::Requeued,
                    Some(format!("not seen to be read ({way})")),
                );
            }
            self.remove_texts(message);
        }
        // From here on the disk thread removes the files itself that it has written in vain.
        self.parts.disk_events.close();
        while let Some(event) = self.parts.disk_events.recv().await {
            self.remove_files(event.into_text_file());
        }
        if let Some(inbox) = self.parts.inbox.take() {
            let gone = Presence {
                state: PeerState::Closed,
                since: Utc::now(),
                ..self.parts.presence.clone()
            };
            inbox.outgoing_sender().announce(gone);
            inbox.close(limit).await;
        }
    }

    /// When the brake releases the messages that it holds.
    pub(super) fn release_at(&self) -> Option<Instant> {
        self.parts.brake.release_at()
    }

    /// Acks messages that are written as done on disk.
    fn done(&mut self, table: &mut MessageTable, keys: &[MessageKey]) {
        for &key in keys {
            let Some(message) = table.remove(key) else {
                continue;
            };
            for file in &message.text_files {
                let job = Job::SettleTextFile(file.clone(), TextOutcome::Delivered);
                self.parts.disk.submit(job);
            }
            self.ack(message.into_deliveries());
        }
    }

    /// Removes the files of a message that is removed without having reached the agent.
    fn remove_texts(&self, message: &mut InFlightMessage) {
        self.remove_files(message.unread_files());
    }

    /// Removes files that the agent was not told to read.
    fn remove_files(&self, files: impl IntoIterator<Item = PathBuf>) {
        for file in files {
            self.parts
                .disk
                .submit(Job::SettleTextFile(file, TextOutcome::Unread));
        }
    }

    fn ack(&mut self, deliveries: impl IntoIterator<Item = ReceivedMessage>) {
        for delivery in deliveries {
            self.acks.spawn(async move { delivery.ack().await });
        }
    }

    /// Rejects deliveries that do not reach the agent.
    fn reject(&mut self, deliveries: impl IntoIterator<Item = ReceivedMessage>) {
        for delivery in deliveries {
            self.acks.spawn(async move { delivery.reject().await });
        }
    }

    /// Adds the message's new state to the history, and sends its sender a receipt.
    fn report_state(
        &mut self,
        message: &InFlightMessage,
        event: HistoryEvent,
        state: ReceiptState,
        report: ReportDetail,
    ) {
        let (reason, way) = match report {
            ReportDetail::None => (None, None),
            ReportDetail::Reason(reason) => (Some(reason), None),
            ReportDetail::Way(way) => (None, Some(way.to_string())),
        };
        let detail = reason.clone().or_else(|| way.clone());
        if let (Some(queue), Some(inbox)) = (&message.receipt_to, &self.parts.inbox) {
            let receipt = Receipt {
                id: message.envelope.id.clone(),
                to: Some(self.parts.presence.name.clone()),
                state,
                reason,
                way,
            };
            inbox.outgoing_sender().receipt(queue, receipt);
        }
        self.record(message, event, detail);
    }
}

/// The reason or the way that is reported with a state.
enum ReportDetail {
    None,
    Reason(String),
    Way(Way),
}

impl Session {
    pub(super) fn handle_message_event(&mut self, event: MessageEvent) {
        match event {
            MessageEvent::Inbox(event) => self.handle_inbox_event(event),
            MessageEvent::InboxEnded => self.messages.parts.inbox = None,
            MessageEvent::Disk(event) => self.handle_disk_event(event),
        }
        self.make_room();
    }

    fn handle_inbox_event(&mut self, event: InboxEvent) {
        match event {
            InboxEvent::Attached(attached) => {
                self.log.write(&describe(&attached));
                self.messages.parts.brake.expect_backlog(attached.waiting);
                self.messages.must_announce = true;
            }
            InboxEvent::Delivery(delivery) => self.receive(*delivery),
            InboxEvent::Lost(error) => {
                self.log.write(&format!("{error}; trying again"));
                self.messages.parked.take_all();
                self.messages.takes.clear();
                let files = self.deliveries.lose_deliveries();
                self.messages.remove_files(files);
            }
            InboxEvent::Refused(error) => self
                .log
                .write(&format!("no messages in this session: {error}")),
            InboxEvent::Ignored(what) => self.log.write(&what),
            InboxEvent::Request(request, to) => self.answer(&request, to),
        }
    }

    fn handle_disk_event(&mut self, event: DiskEvent) {
        match event {
            DiskEvent::LookedUp(key, seen, spilled) => self.queue_after_lookup(key, seen, spilled),
            DiskEvent::Spilled(key, pointer, spilled) => {
                self.moved_to_file(key, pointer, *spilled);
            }
            DiskEvent::BodyParked => self.messages.parked.body_written(),
            DiskEvent::BodyRead(key, body) => self.handle_parked_body(key, body),
            DiskEvent::IntentsWritten => self.deliveries.intent_written(),
            DiskEvent::DoneWritten(keys) => self.messages.done(&mut self.deliveries.table, &keys),
            DiskEvent::DeadLetterWritten(key, error) => {
                self.log.write(&format!("wrote a dead letter: {error}"));
                let table = &mut self.deliveries.table;
                self.messages.dead_letter_written(table, key, error);
            }
            DiskEvent::Failed(error) => self
                .log
                .write(&format!("writing to disk failed, trying again: {error}")),
        }
    }
}

fn describe(attached: &AttachedQueue) -> String {
    let mut waiting = format!("attached; {} messages wait", attached.waiting);
    if let Some(difference) = &attached.difference {
        let _infallible = write!(waiting, "; the queue existed: {difference}");
    }
    match attached.others {
        0 => waiting,
        others => format!("{waiting}; {others} other sessions share the queue"),
    }
}
