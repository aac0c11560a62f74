//! The way into Codex, through the control socket of its daemon, or through `codex queue` without a
//! daemon. Messages are submitted as the person's prompts, without keys.
//!
//! | state of the thread | action |
//! |---|---|
//! | idle | `turn/start`: a turn of its own; a draft in the box stays |
//! | a turn runs, or a dialog stands | the text waits here for the turn's end |
//! | the same, and it may come between two tools | `turn/steer` |
//!
//! Codex adds a `turn/start` during a turn to that turn, so it waits for the thread to be idle. The
//! proof is the user's row in the thread's rollout file. Seen with Codex 0.171.0.

mod daemon;
mod link;
mod local;
mod setup;
mod threads;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;

use super::proof::Proof;
use super::transcript::MessageStage;
use super::{
    AgentSign, Refusal, Submission, SubmissionNumber, Way, WayIn, WayReport, WayReporter, process,
};
use daemon::next;
use link::{Link, LinkError, RequestKind};
use local::{LocalSearch, LocalThread};
pub use setup::{Setup, ThreadMarker, home};
use threads::{Status, Threads};

/// The daemon's socket, relative to Codex's home.
const SOCKET: &str = "app-server-control/app-server-control.sock";
/// Interval between reads of the rollout file while the turn of a text has just begun.
const CHECK_SOON: Duration = Duration::from_millis(10);
/// Interval between reads later.
const CHECK_LATER: Duration = Duration::from_millis(250);
/// Expected time from the acknowledgement to the row. Measured: 0.02 s. After this the file is read
/// less often.
const SOON: Duration = Duration::from_secs(3);
/// A text without a row was refused, if its thread has been idle again for this long.
const ROW_WITHIN: Duration = Duration::from_secs(2);
/// Pauses between attempts to find the thread: the first pause, the longest one while Codex starts,
/// and the longest one later.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const START_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// Time limit for the daemon's response to a request about a text.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// How long the terminal may have another thread before texts queued for the old one are given up.
const LEFT_FOR: Duration = Duration::from_secs(3);
/// Maximum duration of Codex's start.
const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// Maximum time until the terminal's thread begins if the daemon answers. It took more than a
/// minute on a busy machine. Meanwhile nothing is typed, because it would be submitted beside the
/// daemon's text.
const BEGINS_WITHIN: Duration = Duration::from_mins(5);
/// Capacity of the queue of texts.
const CAPACITY: usize = 64;
/// The reasons why the way is closed.
const NO_THREAD: &str = "no thread of this session is found";
const NO_TURN: &str = "`codex queue` takes nothing before the thread's first turn";

/// The handle of this way in. Dropping it ends its task.
#[derive(Debug)]
pub struct Codex {
    texts: Sender<Submission>,
    task: tokio::task::JoinHandle<()>,
}

impl Codex {
    /// Starts looking for the session's thread. The way opens once it is found.
    pub fn start(setup: Setup, reporter: WayReporter) -> Self {
        let (texts, given) = mpsc::channel(CAPACITY);
        let work = Work::new(setup, reporter);
        let task = tokio::spawn(work.run(given));
        Self { texts, task }
    }
}

impl WayIn for Codex {
    fn way(&self) -> Way {
        Way::Api
    }

    fn can_steer(&self) -> bool {
        true
    }

    fn deliver(&self, submission: Submission) -> bool {
        self.texts.try_send(submission).is_ok()
    }
}

impl Drop for Codex {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A text that was handed over.
#[derive(Debug)]
struct InFlight {
    submission: Submission,
    stage: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It waits for the turn's end. `true`: steering it into this turn was tried.
    Waits(bool),
    /// A request about it was sent at this time and has no response yet.
    Asked(Instant),
    /// Codex accepted it at this time.
    Sent(Instant),
    /// It was put into the queue of a thread that runs without the daemon.
    Queued(Instant),
    /// Its turn ended at this time; without a row by now or soon, it was most likely refused.
    Ended(Instant),
}

/// Whether the way takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CodexAvailability {
    /// It is being brought up.
    Starting,
    Open,
    /// It is closed, for this reason.
    Closed(&'static str),
}

struct Work {
    setup: Setup,
    threads: Threads,
    link: Option<Link>,
    local: Option<LocalThread>,
    /// The thread to which queued texts went.
    queued_to: Option<LocalThread>,
    /// When the terminal left that thread.
    left_at: Option<Instant>,
    /// The thread runs without the daemon and has had no turn yet.
    has_no_turn: bool,
    in_flight: BTreeMap<SubmissionNumber, InFlight>,
    proof: Proof,
    reported: CodexAvailability,
    /// Whether others could read the texts, as last reported.
    is_exposed: bool,
    began: Instant,
    pause: Duration,
    /// When to look for the thread next.
    search_at: Instant,
    /// The last reported status of the current thread.
    thread_status: Option<Status>,
    reporter: WayReporter,
}

impl Work {
    fn new(setup: Setup, reporter: WayReporter) -> Self {
        Self {
            threads: Threads::new(&setup.marker.folder),
            setup,
            link: None,
            local: None,
            queued_to: None,
            left_at: None,
            has_no_turn: false,
            in_flight: BTreeMap::new(),
            proof: Proof::default(),
            reported: CodexAvailability::Starting,
            is_exposed: false,
            began: Instant::now(),
            pause: FIRST_PAUSE,
            search_at: Instant::now(),
            thread_status: None,
            reporter,
        }
    }

    async fn run(mut self, mut texts: Receiver<Submission>) {
        loop {
            let is_searching = self.reported != CodexAvailability::Open || self.local.is_some();
            let search_at = is_searching.then_some(self.search_at);
            let due = search_at.into_iter().chain(self.next_check()).min();
            tokio::select! {
                text = texts.recv() => match text {
                    Some(text) => self.deliver(text).await,
                    None => return,
                },
                event = next(&mut self.link) => match event {
                    Ok(event) => self.handle_link_event(event).await,
                    Err(error) => self.disconnect(&error).await,
                },
                () = process::sleep_until(due), if due.is_some() => {
                    if search_at.is_some_and(|at| at <= Instant::now()) {
                        self.search().await;
                    }
                    self.check_texts().await;
                    self.disconnect_if_silent().await;
                }
            }
        }
    }

    /// Disconnects from a daemon that does not respond. It may have taken the text.
    async fn disconnect_if_silent(&mut self) {
        let is_unanswered = |text: &InFlight| match text.stage {
            Progress::Asked(at) => at.elapsed() >= ANSWERS_WITHIN,
            _ => false,
        };
        if self.in_flight.values().any(is_unanswered) {
            self.disconnect(&LinkError::Silent).await;
        }
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    /// Reports that Codex has a text, unless its outcome is known already.
    async fn report_hand_over(&self, number: SubmissionNumber) {
        if self.in_flight.contains_key(&number) {
            self.report(WayReport::HandedOver(number)).await;
        }
    }

    /// Reports whether the way is open, if that has changed.
    async fn report_availability(&mut self) {
        let has_thread = self.threads.current().is_some();
        if has_thread {
            self.local = None;
            self.has_no_turn = false;
        }
        let is_exposed = self.local.is_some();
        if (has_thread || is_exposed) && is_exposed != self.is_exposed {
            self.is_exposed = is_exposed;
            self.report(WayReport::Exposed(is_exposed)).await;
        }
        let availability = if has_thread || self.local.is_some() {
            CodexAvailability::Open
        } else if self.has_no_turn {
            CodexAvailability::Closed(NO_TURN)
        } else if self.reported == CodexAvailability::Starting {
            CodexAvailability::Starting
        } else {
            CodexAvailability::Closed(NO_THREAD)
        };
        if availability == std::mem::replace(&mut self.reported, availability) {
            return;
        }
        self.pause = FIRST_PAUSE;
        match availability {
            CodexAvailability::Starting => {}
            CodexAvailability::Open => self.report(WayReport::Open).await,
            CodexAvailability::Closed(why) => self.report(WayReport::Closed(why.to_owned())).await,
        }
    }

    /// Looks for the thread, first with the daemon, then among this process's descendants.
    async fn search(&mut self) {
        match &mut self.link {
            None => self.link = Link::connect(&self.setup.home.join(SOCKET)).await.ok(),
            Some(link) if self.local.is_none() => {
                let asked = link
                    .request(RequestKind::Loaded, "thread/loaded/list", &json!({}))
                    .await;
                if let Err(error) = asked {
                    self.disconnect(&error).await;
                }
            }
            Some(_) => {}
        }
        if self.threads.current().is_none() {
            self.search_locally().await;
        }
        self.report_availability().await;
        self.search_at = Instant::now() + self.pause;
        let longest = if self.began.elapsed() < STARTS_WITHIN {
            START_PAUSE
        } else {
            LAST_PAUSE
        };
        self.pause = (self.pause * 2).min(longest);
    }

    /// Looks for the thread among this process's descendants.
    async fn search_locally(&mut self) {
        let home = self.setup.home.clone();
        let us = i32::try_from(std::process::id()).unwrap_or_default();
        let found = tokio::task::spawn_blocking(move || {
            let found = LocalThread::find(us, &home);
            let starts_daemon =
                !matches!(found, LocalSearch::Thread(_)) && local::starts_daemon(us, &home);
            (found, starts_daemon)
        });
        let (found, starts_daemon) = found.await.unwrap_or_default();
        let begins = self.link.is_some() && self.began.elapsed() < BEGINS_WITHIN;
        self.has_no_turn = found == LocalSearch::NoTurn && !starts_daemon;
        let is_coming = starts_daemon || (begins && found == LocalSearch::Nothing);
        self.local = match found {
            LocalSearch::Thread(local) => Some(local),
            LocalSearch::NoTurn | LocalSearch::Nothing => None,
        };
        if self.local.is_none() && is_coming {
            self.reported = CodexAvailability::Starting;
            self.report(WayReport::Starting).await;
        }
    }

    fn set_stage(&mut self, number: SubmissionNumber, stage: Progress) {
        if let Some(text) = self.in_flight.get_mut(&number) {
            text.stage = stage;
        }
    }

    async fn deliver(&mut self, submission: Submission) {
        let number = submission.number;
        let stage = Progress::Waits(false);
        self.in_flight
            .insert(number, InFlight { submission, stage });
        if self.threads.current().is_some() {
            self.report_and_send_next().await;
        } else if self.local.is_some() {
            self.queue(number).await;
        } else {
            self.not_taken(number, NO_THREAD.to_owned(), Refusal::Failed)
                .await;
        }
    }

    /// Reports that the thread of the last status is gone, so that nothing else reports the end of
    /// its turn or the answer to its question.
    async fn report_end_of_thread(&mut self) {
        if self.thread_status.take().is_some() {
            for sign in [AgentSign::Answered, AgentSign::TurnEnded] {
                self.report(WayReport::Sign(sign)).await;
            }
        }
    }

    /// Reports what the thread does, and sends the next waiting text.
    async fn report_and_send_next(&mut self) {
        self.report_availability().await;
        let Some(thread) = self.threads.current().cloned() else {
            return self.report_end_of_thread().await;
        };
        if self.thread_status.as_ref() != Some(&thread.status) {
            let before = self.thread_status.replace(thread.status.clone());
            for text in self.in_flight.values_mut() {
                text.stage = match text.stage {
                    Progress::Waits(_) => Progress::Waits(false),
                    Progress::Sent(_) if thread.status == Status::Idle => {
                        Progress::Ended(Instant::now())
                    }
                    stage => stage,
                };
            }
            for sign in thread.status.signs_after(before.as_ref()) {
                self.report(WayReport::Sign(sign)).await;
            }
        }
        if let Err(error) = self.start_next(&thread).await {
            self.disconnect(&error).await;
        }
    }

    async fn not_taken(&mut self, number: SubmissionNumber, why: String, refusal: Refusal) {
        if self.in_flight.remove(&number).is_some() {
            self.proof.forget(number);
            self.report(WayReport::NotTaken {
                number,
                why,
                refusal,
            })
            .await;
        }
    }

    /// Drops the link after an error. The texts that the daemon has may have been read.
    async fn disconnect(&mut self, error: &LinkError) {
        self.link = None;
        self.threads.clear();
        self.report_end_of_thread().await;
        self.check_texts().await;
        let is_silent = matches!(error, LinkError::Silent);
        for number in self.numbers(|_| true) {
            match self.in_flight.get(&number).map(|text| text.stage) {
                Some(Progress::Waits(_)) => {
                    let why = error.to_string();
                    self.not_taken(number, why, Refusal::Failed).await;
                }
                // A failure of the way: the same daemon would be asked again without end.
                Some(Progress::Asked(_)) if is_silent => {
                    self.give_up(number, WayReport::Unseen(number)).await;
                }
                _ => self.give_up(number, WayReport::Lost(number)).await,
            }
        }
        self.search_at = Instant::now() + FIRST_PAUSE;
        self.report_availability().await;
    }

    /// Reports the outcome of a text that may have been read.
    async fn give_up(&mut self, number: SubmissionNumber, report: WayReport) {
        if self.in_flight.remove(&number).is_some() {
            self.proof.forget(number);
            self.report(report).await;
        }
    }

    /// When to look for proofs next.
    fn next_check(&self) -> Option<Instant> {
        let now = Instant::now();
        let pauses = self.in_flight.values().filter_map(|text| match text.stage {
            Progress::Waits(_) => None,
            Progress::Asked(_) | Progress::Ended(_) => Some(CHECK_SOON),
            Progress::Sent(at) | Progress::Queued(at) if now < at + SOON => Some(CHECK_SOON),
            Progress::Sent(_) | Progress::Queued(_) => Some(CHECK_LATER),
        });
        pauses.min().map(|pause| now + pause)
    }

    async fn check_texts(&mut self) {
        let is_local_gone = self
            .local
            .as_ref()
            .is_some_and(|local| !process::is_alive(local.pid));
        if let Some(local) = self.local.as_ref().filter(|_| !self.in_flight.is_empty()) {
            self.proof.follow(&local.rollout);
        }
        for (number, stage) in self.proof.read_new_rows().await {
            if stage == MessageStage::InContext && self.in_flight.remove(&number).is_some() {
                self.report(WayReport::InContext(number)).await;
            }
        }
        let ended = |text: &InFlight| match text.stage {
            Progress::Ended(at) => at.elapsed() >= ROW_WITHIN,
            _ => false,
        };
        for number in self.numbers(ended) {
            self.give_up(number, WayReport::Unread(number)).await;
        }
        if is_local_gone {
            self.local = None;
            self.lose_where(|_| true).await;
            self.report_availability().await;
        }
        self.leave_old_thread().await;
    }

    /// Reports the texts in the queue of a thread that the person has left as lost. Nothing reads
    /// that queue, and later texts would wait behind them.
    async fn leave_old_thread(&mut self) {
        if self.queued_to.is_none() || self.queued_to == self.local {
            self.left_at = None;
            return;
        }
        if self.left_at.get_or_insert_with(Instant::now).elapsed() >= LEFT_FOR {
            (self.queued_to, self.left_at) = (None, None);
            self.lose_where(is_queued).await;
        }
    }

    async fn lose_where(&mut self, is_lost: impl Fn(&InFlight) -> bool) {
        for number in self.numbers(is_lost) {
            self.give_up(number, WayReport::Lost(number)).await;
        }
    }

    fn numbers(&self, is_meant: impl Fn(&InFlight) -> bool) -> Vec<SubmissionNumber> {
        let meant = self.in_flight.iter().filter(|(_, text)| is_meant(text));
        meant.map(|(&number, _)| number).collect()
    }
}

fn is_queued(text: &InFlight) -> bool {
    matches!(text.stage, Progress::Queued(_))
}

#[cfg(test)]
mod tests;
