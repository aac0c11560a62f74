//! Carries out delivery steps, and handles reports of hooks and ways in.
//!
//! Relies on the deliveries, the hooks and the messages.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{AFTER_HOOK_EVENT, HookEvent, HookReporting, Session};
use crate::wrap::delivery::{MessageKey, Step};
use crate::wrap::hooks::HookReport;
use crate::wrap::own_status::{self, StatusFile};
use crate::wrap::ways::keyboard::TurnProof;
use crate::wrap::ways::proof::Proof;
use crate::wrap::ways::transcript::MessageStage;
use crate::wrap::ways::{
    AgentSign, HookOrigin, Refusal, Submission, SubmissionNumber, Way, WayIn, WayReport,
};

/// Time limit for the last reports of the ways in after the agent's end.
const LAST_REPORTS_WITHIN: Duration = Duration::from_secs(1);
/// Time limit for the last look at the transcript then.
const LAST_READING_WITHIN: Duration = Duration::from_millis(500);
/// Interval between reads of the transcript while the last text was submitted within [`JUST_NOW`].
const CHECK_SOON: Duration = Duration::from_millis(50);
/// Interval between reads of the transcript later.
const CHECK_LATER: Duration = Duration::from_millis(500);
const JUST_NOW: Duration = Duration::from_mins(1);

/// Reads the files that the agent writes: its transcript, in which submitted texts are looked for
/// even after their way in has given them up, and its status file.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    proof: Proof,
    transcript: Option<PathBuf>,
    /// When the last text was submitted.
    last: Option<tokio::time::Instant>,
    /// When the transcript is read next.
    read_at: Option<tokio::time::Instant>,
    status_file: Option<PathBuf>,
    /// The agent's own folder, with the status files of all its processes.
    folder: Option<PathBuf>,
}

impl Proofs {
    /// Creates it for an agent whose own folder is `folder`.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            ..Self::default()
        }
    }

    /// Reads the status file of the agent's process.
    fn read_status_file(&self) -> StatusFile {
        let path = self.status_file.as_deref();
        path.map(own_status::read).unwrap_or_default()
    }

    /// Uses the status file of process `pid`, since no hook names one.
    fn find_status_file(&mut self, pid: Option<i32>) {
        let folder = self.folder.as_deref().and_then(Path::to_str);
        self.status_file = folder
            .zip(pid)
            .and_then(|(folder, pid)| own_status::path(folder, &pid.to_string()));
    }

    /// Follows `transcript`, which the agent writes from now on.
    fn follow(&mut self, transcript: PathBuf) {
        self.proof.follow(&transcript);
        self.transcript = Some(transcript);
    }

    /// Starts looking for a submission in rows that are written from now on.
    fn expect(&mut self, number: SubmissionNumber, ids: Vec<String>) {
        if self.transcript.is_some() {
            self.proof.expect(number, ids, self.transcript.as_deref());
            self.last = Some(tokio::time::Instant::now());
            self.read_at = None;
        }
    }

    /// Stops looking for a submission.
    fn forget(&mut self, number: SubmissionNumber) {
        self.proof.forget(number);
    }

    /// Waits for submissions that the transcript shows as read or refused. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<(SubmissionNumber, MessageStage)> {
        if !self.proof.is_waiting() {
            return std::future::pending().await;
        }
        loop {
            let is_soon = self.last.is_some_and(|last| last.elapsed() < JUST_NOW);
            let pause = if is_soon { CHECK_SOON } else { CHECK_LATER };
            let now = tokio::time::Instant::now();
            tokio::time::sleep_until(*self.read_at.get_or_insert(now + pause)).await;
            let seen = self.read_transcript().await;
            self.read_at = None;
            if !seen.is_empty() {
                return seen;
            }
        }
    }

    /// Reads the transcript once.
    async fn read_transcript(&mut self) -> Vec<(SubmissionNumber, MessageStage)> {
        let mut seen = self.proof.read_new_rows().await;
        seen.retain(|(_, stage)| {
            matches!(stage, MessageStage::InContext | MessageStage::Refused(_))
        });
        seen
    }
}

impl Session {
    /// Carries out one step of [`Deliveries::step`](crate::wrap::delivery::Deliveries::step).
    pub(super) fn carry_out(&mut self, step: Step, now: Instant) {
        match step {
            Step::WriteIntent(keys) => self.messages.write_intents(&self.deliveries.table, &keys),
            Step::WithdrawIntent(identities) => self.messages.withdraw_intents(identities),
            Step::MoveToFile(key) => self.move_to_file(key),
            Step::HideInFile(key) => self.hide_in_file(key),
            Step::Deliver(way, submission) => self.deliver_by_way(way, submission, now),
            Step::Write(bytes) => self.relay.send_and_notify(&bytes),
            Step::Replay(bytes) => self.forward_input(&bytes, now),
            Step::Type(submission, bytes) => {
                // The search must start before the agent has the text.
                self.proofs.expect(submission.number, submission.ids);
                self.relay.send_and_notify(&bytes);
            }
            Step::HandedOver(keys, way) => {
                self.messages
                    .handed_over(&self.deliveries.table, &keys, way);
            }
            Step::Show(number, keys) => {
                self.messages
                    .handed_over(&self.deliveries.table, &keys, Way::InboxCommand);
                self.show(number, &keys);
            }
            Step::NotConfirmed(ids) => self.log.write(&format!(
                "`inbox --take` did not confirm that it showed {}: held again",
                ids.join(", ")
            )),
            Step::Delivered(keys, way) => {
                let ids = self.deliveries.table.ids(&keys).join(", ");
                self.log.write(&format!("delivered {ids} ({way})"));
                self.messages.delivered(&self.deliveries.table, &keys, way);
            }
            Step::WriteDone(identities, way) => {
                let count = identities.len();
                self.log.write(&match count {
                    1 => format!("1 message was read before the connection was lost ({way})"),
                    _ => {
                        format!("{count} messages were read before the connection was lost ({way})")
                    }
                });
                let keys = identities.iter().map(|_| self.deliveries.table.next_key());
                let keys: Vec<MessageKey> = keys.collect();
                self.messages
                    .write_done_without_message(keys.into_iter().zip(identities), way);
            }
            Step::EndSearch(number) => self.proofs.forget(number),
            Step::Held(keys, hold) => {
                let ids = self.deliveries.table.ids(&keys).join(", ");
                self.log.write(&format!("holds {ids}: {hold}"));
                self.messages.held(&self.deliveries.table, &keys, &hold);
                for &key in &keys {
                    self.deliveries.table.note_reported_hold(key, &hold, now);
                }
                self.log_disabled_ways();
            }
            Step::Wait(_) => {}
        }
    }

    /// Reads the agent's status file. Without hooks, that file also names the transcript.
    pub(super) fn check_status_file(&mut self) -> StatusFile {
        let is_silent = self.hook_reporting == HookReporting::Silent;
        if is_silent {
            self.proofs.find_status_file(self.program.pid());
        }
        let file = self.proofs.read_status_file();
        if is_silent && let Some(transcript) = &file.transcript {
            self.proofs.follow(transcript.clone());
            self.deliveries.set_turn_proof(TurnProof::RowOrRest);
        }
        file
    }

    /// The transcript shows what became of a text.
    pub(super) fn handle_proof(&mut self, number: SubmissionNumber, stage: &MessageStage) {
        match stage {
            MessageStage::InContext => self.deliveries.in_context(number),
            MessageStage::Refused(why) => self.deliveries.refused_typed(number, why),
            MessageStage::Enqueued
            | MessageStage::SomethingEnqueued
            | MessageStage::SomethingDequeued => {}
        }
    }

    fn deliver_by_way(&mut self, way: Way, submission: Submission, now: Instant) {
        let number = submission.number;
        let keys = self.deliveries.messages_of(number);
        self.messages.write_hops(&self.deliveries.table, keys);
        // The transcripts of the other ways are not known here.
        if let Way::Plugin | Way::Inbox | Way::Hook = way {
            self.proofs.expect(number, submission.ids.clone());
        }
        let is_taken = match way {
            Way::Hook => {
                self.deliveries.close(Way::Hook, now);
                self.waiter
                    .take()
                    .is_some_and(|waiter| waiter.deliver(submission))
            }
            way => {
                let open = self.ways.get(way);
                open.is_some_and(|open| open.deliver(submission))
            }
        };
        if !is_taken {
            self.deliveries.not_handed_over(number);
            self.log_disabled_ways();
        }
    }

    /// Handles a report of a way in.
    pub(super) fn handle_way_report(&mut self, way: Way, report: WayReport) {
        let now = Instant::now();
        if way == Way::Plugin {
            self.note_plugin_report(&report);
        }
        match report {
            WayReport::Open => {
                let can_steer = self.ways.get(way).is_some_and(WayIn::can_steer);
                self.log.write(&format!("the way in by {way} is open"));
                self.deliveries.open(way, can_steer);
            }
            WayReport::Exposed(is_exposed) => self.deliveries.set_exposed(way, is_exposed),
            WayReport::Starting => self.deliveries.mark_starting(way, now),
            WayReport::Moved(pid) => {
                self.ways.actors.iter().for_each(|way| way.moved(pid));
                self.drop_waiter_of_other_process(Some(pid), now);
            }
            WayReport::Away => {
                self.log.write(&format!(
                    "{way}: no process holds the session, so messages wait"
                ));
                self.deliveries.mark_away(way);
            }
            WayReport::Closed(why) => {
                self.log
                    .write(&format!("the way in by {way} is closed: {why}"));
                self.deliveries.close(way, now);
            }
            WayReport::HandedOver(number) => self.deliveries.agent_has(number),
            WayReport::InContext(number) => self.deliveries.in_context(number),
            WayReport::NotTaken {
                number,
                why,
                refusal,
            } => {
                self.log
                    .write(&format!("{way} did not take the text: {why}"));
                self.deliveries.not_taken(number, &why, refusal);
            }
            WayReport::Unread(number) => {
                self.log
                    .write(&format!("{way}: the turn ended without the text"));
                self.deliveries.unread(number);
            }
            WayReport::Unseen(number) => {
                self.log
                    .write(&format!("{way}: the agent did not accept the text"));
                self.deliveries.unseen(number);
            }
            WayReport::Lost(number) => {
                self.log
                    .write(&format!("{way}: the agent ended before it read the text"));
                self.deliveries.lost(number);
            }
            WayReport::Sign(sign) => self.handle_sign(sign, now),
        }
        self.log_disabled_ways();
    }

    /// Records whether the plugin reports the agent's state from now on.
    fn note_plugin_report(&mut self, report: &WayReport) {
        match report {
            WayReport::Open => self.agent.set_way_reports(true),
            WayReport::Closed(_) | WayReport::Away => self.agent.set_way_reports(false),
            WayReport::Starting
            | WayReport::Exposed(_)
            | WayReport::Moved(_)
            | WayReport::HandedOver(_)
            | WayReport::InContext(_)
            | WayReport::NotTaken { .. }
            | WayReport::Unread(_)
            | WayReport::Unseen(_)
            | WayReport::Lost(_)
            | WayReport::Sign(_) => {}
        }
    }

    fn handle_sign(&mut self, sign: AgentSign, now: Instant) {
        self.agent.record_sign(&sign, now);
        self.deliveries.sign(&sign);
        match sign {
            AgentSign::PersonSpoke => self.messages.person_spoke(),
            AgentSign::Escaped => self
                .log
                .write("the person pressed Escape: messages wait for their next input"),
            AgentSign::Transcript(path) => {
                self.proofs.follow(path);
                self.deliveries.set_turn_proof(TurnProof::Row);
            }
            AgentSign::TurnBegan
            | AgentSign::TurnEnded
            | AgentSign::Asks(_)
            | AgentSign::Answered
            | AgentSign::Menu(_)
            | AgentSign::MenuClosed
            | AgentSign::Draft(_) => {}
        }
    }

    /// Waits briefly for last reports of the ways in, after the agent's end. Messages that the
    /// agent had read are acked; the others go to the next session.
    pub(super) async fn await_last_reports(&mut self) {
        let until = tokio::time::Instant::now() + LAST_REPORTS_WITHIN;
        while self.deliveries.has_open_submission()
            && let Ok(Some((way, report))) =
                tokio::time::timeout_at(until, self.ways.reports.recv()).await
        {
            self.handle_way_report(way, report);
        }
        // Rows that the agent wrote last prove what was typed, or given to a hook.
        let seen = tokio::time::timeout(LAST_READING_WITHIN, self.proofs.read_transcript()).await;
        for (number, stage) in seen.unwrap_or_default() {
            self.handle_proof(number, &stage);
        }
    }

    /// Handles a report of the agent's hooks.
    pub(super) fn handle_hook_report(&mut self, report: HookReport) {
        let now = Instant::now();
        match report {
            HookReport::Event(event, origin) => self.handle_hook_event(&event, origin, now),
            HookReport::Waiter(waiter) => {
                // The SessionStart hook may report after the waiter.
                self.deliveries.hooks_work(now);
                let hook_writer = waiter.hook_writer();
                let ways = self.ways.actors.iter();
                ways.for_each(|way| way.hook_waits(hook_writer.clone()));
                // Only one waiter is kept: dropping the previous one releases it.
                self.waiter = Some(waiter);
                self.deliveries.open(Way::Hook, false);
            }
            HookReport::WaiterGone(number) => {
                let waiter = self.waiter.as_ref();
                if waiter.is_some_and(|waiter| waiter.number == number) {
                    self.drop_waiter(now);
                }
            }
            HookReport::HandedOver(number) => self.deliveries.agent_has(number),
            HookReport::InContext(number) => self.deliveries.in_context(number),
            HookReport::Unseen(number) => {
                self.log.write("hook: the agent did not accept the text");
                self.deliveries.unseen(number);
                self.log_disabled_ways();
            }
            HookReport::Lost(number) => {
                self.log
                    .write("hook: the agent ended before it read the text");
                self.deliveries.lost(number);
            }
            HookReport::Refused(number, why) => {
                self.deliveries.not_taken(number, &why, Refusal::Refused);
            }
            HookReport::Unread(number) => self.deliveries.unread(number),
            HookReport::NotTaken(number) => {
                let why = "the hook had ended";
                self.deliveries.not_taken(number, why, Refusal::Failed);
                self.log_disabled_ways();
            }
        }
    }

    fn handle_hook_event(&mut self, event: &HookEvent, origin: HookOrigin, now: Instant) {
        if self.hook_reporting != HookReporting::Reporting {
            self.hook_reporting = HookReporting::Reporting;
            self.log.write("the agent's hooks work");
        }
        self.ways
            .actors
            .iter()
            .for_each(|way| way.hook_ran(&origin));
        self.drop_waiter_of_other_process(origin.pid, now);
        self.proofs.status_file.clone_from(&origin.status_file);
        if let Some(transcript) = origin.transcript {
            self.proofs.follow(transcript);
            self.deliveries.set_turn_proof(TurnProof::Row);
        }
        // The screen is read at each event, even if no message waits: later readings are
        // interpreted by what was seen before.
        self.read_screen_if_due(now);
        self.read_state_at = Some(now + AFTER_HOOK_EVENT);
        self.agent.record_event(event, now);
        self.deliveries.event(event, now);
        if matches!(event, HookEvent::SessionEnd) {
            self.drop_waiter(now);
        }
    }

    /// Drops the waiter if it belongs to another process than `pid`, which holds the session now. A
    /// text delivered by that waiter would not reach the session.
    fn drop_waiter_of_other_process(&mut self, pid: Option<i32>, now: Instant) {
        let waiters = self.waiter.as_ref().and_then(|waiter| waiter.pid);
        if let (Some(here), Some(there)) = (pid, waiters)
            && here != there
        {
            self.drop_waiter(now);
        }
    }

    fn drop_waiter(&mut self, now: Instant) {
        self.waiter = None;
        self.deliveries.close(Way::Hook, now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn rows_of_the_agents_last_moment_are_read() {
        // The agent ended before the transcript was read again, and a text that it had read came
        // again in the next session.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        std::fs::write(&path, "").unwrap();
        let mut proofs = Proofs::default();
        assert_eq!(proofs.read_transcript().await, []);
        proofs.follow(path.clone());
        proofs.expect(7, vec!["01".into()]);
        assert_eq!(proofs.read_transcript().await, []);
        let text = "[cbroker peer message from=a id=01] look [end]";
        let row = json!({"type": "user", "message": {"content": text}});
        std::fs::write(&path, format!("{row}\n")).unwrap();
        assert_eq!(
            proofs.read_transcript().await,
            [(7, MessageStage::InContext)]
        );
    }
}
