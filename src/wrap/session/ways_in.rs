//! Carries out delivery steps, and passes on reports of hooks and ways.
//!
//! Relies on the deliveries, the hooks and the post.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{HookEvent, HooksHeard, SETTLED, Session};
use crate::wrap::delivery::{MessageKey, Step};
use crate::wrap::hooks::HookReport;
use crate::wrap::own_status::{self, OwnWords};
use crate::wrap::ways::keyboard::TurnProof;
use crate::wrap::ways::proof::Proof;
use crate::wrap::ways::transcript::Stage;
use crate::wrap::ways::{Refusal, Sign, Submission, SubmissionNumber, Way, WayIn, WayReport};

/// After the agent's end, its transcript is read for so long.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);
/// How often the transcript is read for a text that was submitted just now.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// And how often for one that was submitted before this time.
const LOOK_LATER: Duration = Duration::from_millis(500);
const JUST_NOW: Duration = Duration::from_mins(1);

/// What the agent writes: its transcript, read for the texts that are submitted, also after their
/// way has given them up; and what its process says of itself.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    proof: Proof,
    transcript: Option<PathBuf>,
    /// When the last text was submitted.
    last: Option<tokio::time::Instant>,
    /// When the transcript is read next.
    look_at: Option<tokio::time::Instant>,
    status_file: Option<PathBuf>,
    /// The agent's own folder, where status files of all its processes are.
    folder: Option<PathBuf>,
}

impl Proofs {
    /// Nothing is read yet; `folder` is the agent's own.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            ..Self::default()
        }
    }

    /// What the agent's process says of itself now.
    fn own_words(&self) -> OwnWords {
        let path = self.status_file.as_deref();
        path.map(own_status::read).unwrap_or_default()
    }

    /// No hook names the agent's status file: it is that of this process.
    fn find_status_file(&mut self, pid: Option<i32>) {
        let folder = self.folder.as_deref().and_then(Path::to_str);
        self.status_file = folder
            .zip(pid)
            .and_then(|(folder, pid)| own_status::path(folder, &pid.to_string()));
    }

    /// The agent writes this transcript now.
    fn follow(&mut self, transcript: PathBuf) {
        self.proof.follow(&transcript);
        self.transcript = Some(transcript);
    }

    /// Looks for a submission in what is written from now on.
    fn expect(&mut self, number: SubmissionNumber, ids: Vec<String>) {
        if self.transcript.is_some() {
            self.proof.expect(number, ids, self.transcript.as_deref());
            self.last = Some(tokio::time::Instant::now());
            self.look_at = None;
        }
    }

    /// Stops looking for a submission.
    fn forget(&mut self, number: SubmissionNumber) {
        self.proof.forget(number);
    }

    /// The next submissions of which the transcript says what became of them. Safe to drop
    /// half-way in a select.
    pub(super) async fn next(&mut self) -> Vec<(u64, Stage)> {
        if !self.proof.is_waiting() {
            return std::future::pending().await;
        }
        loop {
            let is_soon = self.last.is_some_and(|last| last.elapsed() < JUST_NOW);
            let pause = if is_soon { LOOK_SOON } else { LOOK_LATER };
            let now = tokio::time::Instant::now();
            tokio::time::sleep_until(*self.look_at.get_or_insert(now + pause)).await;
            let mut seen = self.proof.look().await;
            seen.retain(|(_, stage)| matches!(stage, Stage::InContext | Stage::Refused(_)));
            self.look_at = None;
            if !seen.is_empty() {
                return seen;
            }
        }
    }
}

impl Session {
    /// Does what the deliveries say.
    pub(super) fn carry_out(&mut self, step: Step, now: Instant) {
        match step {
            Step::Note(keys) => self.post.intend(&self.deliveries.table, &keys),
            Step::Withdraw(identities) => self.post.withdraw(identities),
            Step::ToFile(key) => self.move_to_file(key),
            Step::Hand(way, submission) => self.give_to_way(way, submission, now),
            Step::Write(bytes) => self.relay.send_and_tell(&bytes),
            Step::Replay(bytes) => self.pass_on(&bytes, now),
            Step::Type(submission, bytes) => {
                // Before the agent has it: what is written from now on counts.
                self.proofs.expect(submission.number, submission.ids);
                self.relay.send_and_tell(&bytes);
            }
            Step::HandedOver(keys, way) => {
                self.post.handed_over(&self.deliveries.table, &keys, way);
            }
            Step::Delivered(keys, way) => {
                let ids = self.deliveries.table.ids(&keys).join(", ");
                self.log.say(&format!("delivered {ids} ({way})"));
                self.post.delivered(&self.deliveries.table, &keys, way);
            }
            Step::Read(identities, way) => {
                let count = identities.len();
                self.log.say(&match count {
                    1 => format!("1 message was read before the connection was lost ({way})"),
                    _ => {
                        format!("{count} messages were read before the connection was lost ({way})")
                    }
                });
                let keys = identities.iter().map(|_| self.deliveries.table.next_key());
                let keys: Vec<MessageKey> = keys.collect();
                self.post.read(keys.into_iter().zip(identities), way);
            }
            Step::Forget(number) => self.proofs.forget(number),
            Step::Held(keys, hold) => {
                let ids = self.deliveries.table.ids(&keys).join(", ");
                self.log.say(&format!("holds {ids}: {hold}"));
                self.post.held(&self.deliveries.table, &keys, &hold);
                for &key in &keys {
                    self.deliveries.table.was_told(key, &hold, now);
                }
                self.tell_of_ways();
            }
            Step::Wait(_) => {}
        }
    }

    /// What the agent's status file says. Without hooks, it also names the transcript.
    pub(super) fn own_words(&mut self) -> OwnWords {
        let is_silent = self.heard == HooksHeard::Silence;
        if is_silent {
            self.proofs.find_status_file(self.program.pid());
        }
        let words = self.proofs.own_words();
        if is_silent && let Some(transcript) = &words.transcript {
            self.proofs.follow(transcript.clone());
            self.deliveries.proves_by(TurnProof::RowOrRest);
        }
        words
    }

    /// The transcript says what became of a text.
    pub(super) fn handle_proof(&mut self, number: SubmissionNumber, stage: &Stage) {
        match stage {
            Stage::InContext => self.deliveries.in_context(number),
            Stage::Refused(why) => self.deliveries.refused_typed(number, why),
            Stage::Enqueued | Stage::SomethingEnqueued | Stage::SomethingDequeued => {}
        }
    }

    fn give_to_way(&mut self, way: Way, submission: Submission, now: Instant) {
        let number = submission.number;
        // The others have no transcript that is known here.
        if let Way::Plugin | Way::Inbox | Way::Hook = way {
            self.proofs.expect(number, submission.ids.clone());
        }
        let is_taken = match way {
            Way::Hook => {
                self.deliveries.close(Way::Hook, now);
                self.waiter
                    .take()
                    .is_some_and(|waiter| waiter.give(submission))
            }
            way => {
                let open = self.ways.get(way);
                open.is_some_and(|open| open.deliver(submission))
            }
        };
        if !is_taken {
            self.deliveries.not_handed(number);
            self.tell_of_ways();
        }
    }

    /// A way in said something.
    pub(super) fn handle_way(&mut self, way: Way, report: WayReport) {
        let now = Instant::now();
        if way == Way::Plugin {
            match report {
                WayReport::Open => self.agent.plugin_reports(true),
                WayReport::Closed(_) | WayReport::Away => self.agent.plugin_reports(false),
                _ => {}
            }
        }
        match report {
            WayReport::Open => {
                let can_steer = self.ways.get(way).is_some_and(WayIn::can_steer);
                self.log.say(&format!("the way in by {way} is open"));
                self.deliveries.open(way, can_steer);
            }
            WayReport::Starting => self.deliveries.starts(way, now),
            WayReport::Moved(pid) => {
                self.ways.ways.iter().for_each(|way| way.moved(pid));
                self.leave_waiter_behind(Some(pid), now);
            }
            WayReport::Away => {
                self.log.say(&format!(
                    "by {way}: no process holds the session, so messages wait"
                ));
                self.deliveries.away(way);
            }
            WayReport::Closed(why) => {
                self.log
                    .say(&format!("the way in by {way} is closed: {why}"));
                self.deliveries.close(way, now);
            }
            WayReport::InContext(number) => self.deliveries.in_context(number),
            WayReport::NotTaken {
                number,
                why,
                refusal,
            } => {
                self.log.say(&format!("not taken by {way}: {why}"));
                self.deliveries.not_taken(number, &why, refusal);
            }
            WayReport::Unseen(number) => {
                self.log
                    .say(&format!("by {way}: the agent did not accept it"));
                self.deliveries.unseen(number);
            }
            WayReport::Lost(number) => {
                self.log
                    .say(&format!("{way}: the agent ended before it read the text"));
                self.deliveries.lost(number);
            }
            WayReport::Sign(sign) => self.handle_sign(sign, now),
        }
        self.tell_of_ways();
    }

    fn handle_sign(&mut self, sign: Sign, now: Instant) {
        self.agent.sign(&sign, now);
        self.deliveries.sign(&sign);
        match sign {
            Sign::PersonSpoke => self.post.person_spoke(),
            Sign::Stopped => self
                .log
                .say("the person pressed Escape: messages wait for their next input"),
            _ => {}
        }
        if let Sign::Transcript(path) = sign {
            self.proofs.follow(path);
            self.deliveries.proves_by(TurnProof::Row);
        }
    }

    /// After the agent's end: what it had read of the texts that it was given is acked, the rest
    /// goes to the next session.
    pub(super) async fn settle_ways(&mut self) {
        let until = tokio::time::Instant::now() + SETTLED_WITHIN;
        while self.deliveries.is_handed_over()
            && let Ok(Some((way, report))) =
                tokio::time::timeout_at(until, self.ways.reports.recv()).await
        {
            self.handle_way(way, report);
        }
    }

    /// The agent's hooks said something.
    pub(super) fn handle_hook(&mut self, told: HookReport) {
        let now = Instant::now();
        match told {
            HookReport::Event(event, origin) => {
                if self.heard != HooksHeard::Hooks {
                    self.heard = HooksHeard::Hooks;
                    self.log.say("the agent's hooks work");
                }
                self.ways.ways.iter().for_each(|way| way.hook_ran(&origin));
                self.leave_waiter_behind(origin.pid, now);
                self.proofs.status_file.clone_from(&origin.status_file);
                if let Some(transcript) = origin.transcript {
                    self.proofs.follow(transcript);
                    self.deliveries.proves_by(TurnProof::Row);
                }
                // A look at each event: what is seen while nothing waits explains what is seen
                // later.
                self.look(now);
                self.state_look = Some(now + SETTLED);
                self.agent.event(&event, now);
                self.deliveries.event(&event, now);
                if matches!(event, HookEvent::SessionEnd) {
                    self.disarm(now);
                }
            }
            HookReport::Waiter(waiter) => {
                // Its SessionStart may be heard after it.
                self.deliveries.hooks_work(now);
                let porter = waiter.porter();
                let ways = self.ways.ways.iter();
                ways.for_each(|way| way.hook_waits(porter.clone()));
                // One at a time: dropping the other lets it go.
                self.waiter = Some(waiter);
                self.deliveries.open(Way::Hook, false);
            }
            HookReport::WaiterGone(number) => {
                let waiter = self.waiter.as_ref();
                if waiter.is_some_and(|waiter| waiter.number == number) {
                    self.disarm(now);
                }
            }
            HookReport::InContext(number) => self.deliveries.in_context(number),
            HookReport::Unseen(number) => {
                self.log.say("by the hook: the agent did not accept it");
                self.deliveries.unseen(number);
                self.tell_of_ways();
            }
            HookReport::Refused(number, why) => {
                self.deliveries.not_taken(number, &why, Refusal::Refused);
            }
            HookReport::Unread(number) => self.deliveries.unread(number),
            HookReport::NotTaken(number) => {
                let why = "the hook was gone";
                self.deliveries.not_taken(number, why, Refusal::Failed);
                self.tell_of_ways();
            }
        }
    }

    /// The session is in this process now. What the waiting hook of another one carries in would
    /// not reach it.
    fn leave_waiter_behind(&mut self, pid: Option<i32>, now: Instant) {
        let waiters = self.waiter.as_ref().and_then(|waiter| waiter.pid);
        if let (Some(here), Some(there)) = (pid, waiters)
            && here != there
        {
            self.disarm(now);
        }
    }

    fn disarm(&mut self, now: Instant) {
        self.waiter = None;
        self.deliveries.close(Way::Hook, now);
    }
}
