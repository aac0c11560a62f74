//! Codex through the control socket of its daemon, or through `codex queue` where it runs without
//! one: messages are submitted as the person's own words, without a key.
//!
//! | state of the thread | what is done |
//! |---|---|
//! | idle | `turn/start`: a turn of its own; a draft in the box stays |
//! | a turn runs, or a dialog stands | the text waits here for the turn's end |
//! | the same, and it may come between two tools | `turn/steer` |
//!
//! A `turn/start` during a turn would be added to that turn, so it waits for the thread to be idle.
//! The proof is the row of the user's in the thread's rollout file. Seen with Codex 0.171.0.

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
use super::transcript::Stage;
use super::{
    Refusal, Sign, Submission, SubmissionNumber, Way, WayIn, WayReport, WayReporter, process,
};
use daemon::next;
use link::{Link, LinkError, Question};
use local::{Local, LocalSearch, QueueError};
pub use setup::{Mark, Setup, home};
use threads::{Status, Threads};

/// Where the daemon listens, below Codex's home.
const SOCKET: &str = "app-server-control/app-server-control.sock";
/// A text whose turn has just begun is looked for this often.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// And this often later.
const LOOK_LATER: Duration = Duration::from_millis(250);
/// From the acknowledgement to the row: 0.02 s as measured; after this the looks become rare.
const SOON: Duration = Duration::from_secs(3);
/// A thread that is idle again for so long without the row has refused the text.
const ROW_WITHIN: Duration = Duration::from_secs(2);
/// Pauses between attempts to find the thread: the first, the longest while Codex starts and the
/// first messages wait for it, and the longest later.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const START_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A daemon that has not answered a request about a text within this is given up.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Codex has started by then.
const STARTS_WITHIN: Duration = Duration::from_mins(1);
/// With a daemon that answers, the terminal's thread begins by then: it took more than a minute on
/// a busy machine, and a text that is typed meanwhile is submitted beside what the daemon gets.
const BEGINS_WITHIN: Duration = Duration::from_mins(5);
/// Texts handed over at once.
const TEXTS: usize = 64;
/// Why the way is closed.
const NO_THREAD: &str = "no thread of this session is found";
const NO_TURN: &str = "`codex queue` takes nothing before the thread's first turn";

/// The session's handle of this way. Its task ends when this is dropped.
#[derive(Debug)]
pub struct Codex {
    texts: Sender<Submission>,
    task: tokio::task::JoinHandle<()>,
}

impl Codex {
    /// Looks for the session's thread from now on. Nothing is open before it is found.
    pub fn start(setup: Setup, reporter: WayReporter) -> Self {
        let (texts, given) = mpsc::channel(TEXTS);
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

/// A text that was handed over to us.
#[derive(Debug)]
struct InFlight {
    submission: Submission,
    stage: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It waits for the turn's end. `true`: it was tried to bring it into this turn.
    Waits(bool),
    /// A request about it is not answered yet.
    Asked(Instant),
    /// Codex has it.
    Sent(Instant),
    /// Its turn has ended; the row is there by now, or never comes.
    Ended(Instant),
}

/// What was last told of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// That it is coming, or nothing.
    Coming,
    Open,
    /// Why it is closed.
    Closed(&'static str),
}

struct Work {
    setup: Setup,
    threads: Threads,
    link: Option<Link>,
    local: Option<Local>,
    /// The thread is in a process without the daemon, and has had no turn.
    is_turnless: bool,
    in_flight: BTreeMap<SubmissionNumber, InFlight>,
    proof: Proof,
    told: Told,
    began: Instant,
    pause: Duration,
    /// When to look for the thread again.
    search_at: Instant,
    /// What was last told of the thread in the terminal.
    doing: Option<Status>,
    reporter: WayReporter,
}

impl Work {
    fn new(setup: Setup, reporter: WayReporter) -> Self {
        Self {
            threads: Threads::marked(&setup.mark.folder),
            setup,
            link: None,
            local: None,
            is_turnless: false,
            in_flight: BTreeMap::new(),
            proof: Proof::default(),
            told: Told::Coming,
            began: Instant::now(),
            pause: FIRST_PAUSE,
            search_at: Instant::now(),
            doing: None,
            reporter,
        }
    }

    async fn run(mut self, mut texts: Receiver<Submission>) {
        loop {
            let is_searching = self.told != Told::Open || self.local.is_some();
            let search_at = is_searching.then_some(self.search_at);
            let due = search_at.into_iter().chain(self.next_look()).min();
            tokio::select! {
                text = texts.recv() => match text {
                    Some(text) => self.deliver(text).await,
                    None => return,
                },
                event = next(&mut self.link) => match event {
                    Ok(event) => self.handle_link(event).await,
                    Err(error) => self.unlink(&error).await,
                },
                () = process::sleep_until(due), if due.is_some() => {
                    if search_at.is_some_and(|at| at <= Instant::now()) {
                        self.search().await;
                    }
                    self.look().await;
                    self.leave_silent_daemon().await;
                }
            }
        }
    }

    /// A daemon that does not answer may have taken the text or not; the link is made anew.
    async fn leave_silent_daemon(&mut self) {
        let is_unanswered = |text: &InFlight| match text.stage {
            Progress::Asked(at) => at.elapsed() >= ANSWERS_WITHIN,
            _ => false,
        };
        if self.in_flight.values().any(is_unanswered) {
            self.unlink(&LinkError::Silent).await;
        }
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    /// Tells whether the way is open, if that is news.
    async fn tell(&mut self) {
        let has_thread = self.threads.current().is_some();
        if has_thread {
            self.local = None;
            self.is_turnless = false;
        }
        let told = if has_thread || self.local.is_some() {
            Told::Open
        } else if self.is_turnless {
            Told::Closed(NO_TURN)
        } else if self.told == Told::Coming {
            Told::Coming
        } else {
            Told::Closed(NO_THREAD)
        };
        if told == std::mem::replace(&mut self.told, told) {
            return;
        }
        self.pause = FIRST_PAUSE;
        match told {
            Told::Coming => {}
            Told::Open => self.report(WayReport::Open).await,
            Told::Closed(why) => self.report(WayReport::Closed(why.to_owned())).await,
        }
    }

    /// Looks for the thread: with the daemon, then in the processes below us.
    async fn search(&mut self) {
        match &mut self.link {
            None => self.link = Link::connect(&self.setup.home.join(SOCKET)).await.ok(),
            Some(link) if self.local.is_none() => {
                let asked = link
                    .ask(Question::Loaded, "thread/loaded/list", &json!({}))
                    .await;
                if let Err(error) = asked {
                    self.unlink(&error).await;
                }
            }
            Some(_) => {}
        }
        if self.threads.current().is_none() {
            self.search_locally().await;
        }
        self.tell().await;
        self.search_at = Instant::now() + self.pause;
        let longest = if self.began.elapsed() < STARTS_WITHIN {
            START_PAUSE
        } else {
            LAST_PAUSE
        };
        self.pause = (self.pause * 2).min(longest);
    }

    /// Looks for the thread in the processes below us.
    async fn search_locally(&mut self) {
        let home = self.setup.home.clone();
        let us = i32::try_from(std::process::id()).unwrap_or_default();
        let found = tokio::task::spawn_blocking(move || {
            let found = Local::find(us, &home);
            let starts_daemon =
                !matches!(found, LocalSearch::Thread(_)) && local::starts_daemon(us, &home);
            (found, starts_daemon)
        });
        let (found, starts_daemon) = found.await.unwrap_or_default();
        let begins = self.link.is_some() && self.began.elapsed() < BEGINS_WITHIN;
        self.is_turnless = found == LocalSearch::NoTurn && !starts_daemon;
        let is_coming = starts_daemon || (begins && found == LocalSearch::Nothing);
        self.local = match found {
            LocalSearch::Thread(local) => Some(local),
            LocalSearch::NoTurn | LocalSearch::Nothing => None,
        };
        if self.local.is_none() && is_coming {
            self.told = Told::Coming;
            self.report(WayReport::Starting).await;
        }
    }

    fn set(&mut self, number: SubmissionNumber, stage: Progress) {
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
            self.move_on().await;
        } else if self.local.is_some() {
            self.queue(number).await;
        } else {
            self.not_taken(number, NO_THREAD.to_owned(), Refusal::Failed)
                .await;
        }
    }

    async fn queue(&mut self, number: SubmissionNumber) {
        // The person may have begun another thread since the last search.
        self.search_locally().await;
        self.tell().await;
        let Some(local) = self.local.clone() else {
            self.not_taken(number, NO_THREAD.to_owned(), Refusal::Elsewhere)
                .await;
            return;
        };
        let Some(text) = self.in_flight.get(&number) else {
            return;
        };
        let Submission { ids, text, .. } = &text.submission;
        self.proof.expect(number, ids.clone(), Some(&local.rollout));
        match local.queue(&self.setup.program, text).await {
            Ok(()) => self.set(number, Progress::Sent(Instant::now())),
            Err(QueueError::Refused(why)) => self.not_taken(number, why, Refusal::Failed).await,
            Err(QueueError::Unknown) => {
                self.in_flight.remove(&number);
                self.proof.forget(number);
                self.report(WayReport::Unseen(number)).await;
            }
        }
    }

    /// Tells what the thread does, and starts what waits for it.
    async fn move_on(&mut self) {
        self.tell().await;
        let Some(thread) = self.threads.current().cloned() else {
            return;
        };
        if self.doing.as_ref() != Some(&thread.status) {
            let before = self.doing.replace(thread.status.clone());
            for text in self.in_flight.values_mut() {
                text.stage = match text.stage {
                    Progress::Waits(_) => Progress::Waits(false),
                    Progress::Sent(_) if thread.status == Status::Idle => {
                        Progress::Ended(Instant::now())
                    }
                    stage => stage,
                };
            }
            for sign in signs(before.as_ref(), &thread.status) {
                self.report(WayReport::Sign(sign)).await;
            }
        }
        if let Err(error) = self.start_next(&thread).await {
            self.unlink(&error).await;
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

    /// The daemon has ended or cannot be understood: what it has may have been read.
    async fn unlink(&mut self, error: &LinkError) {
        self.link = None;
        self.threads.clear();
        self.doing = None;
        self.look().await;
        let numbers: Vec<SubmissionNumber> = self.in_flight.keys().copied().collect();
        for number in numbers {
            let waits = |text: &InFlight| matches!(text.stage, Progress::Waits(_));
            if self.in_flight.get(&number).is_some_and(waits) {
                self.not_taken(number, error.to_string(), Refusal::Failed)
                    .await;
            } else {
                self.lose(number).await;
            }
        }
        self.search_at = Instant::now() + FIRST_PAUSE;
        self.tell().await;
    }

    async fn lose(&mut self, number: SubmissionNumber) {
        if self.in_flight.remove(&number).is_some() {
            self.proof.forget(number);
            self.report(WayReport::Lost(number)).await;
        }
    }

    /// When to look for proofs again.
    fn next_look(&self) -> Option<Instant> {
        let now = Instant::now();
        let pauses = self.in_flight.values().filter_map(|text| match text.stage {
            Progress::Waits(_) => None,
            Progress::Asked(_) | Progress::Ended(_) => Some(LOOK_SOON),
            Progress::Sent(at) if now < at + SOON => Some(LOOK_SOON),
            Progress::Sent(_) => Some(LOOK_LATER),
        });
        pauses.min().map(|pause| now + pause)
    }

    async fn look(&mut self) {
        let is_local_gone = self
            .local
            .as_ref()
            .is_some_and(|local| !process::is_alive(local.pid));
        if let Some(local) = self.local.as_ref().filter(|_| !self.in_flight.is_empty()) {
            self.proof.follow(&local.rollout);
        }
        for (number, stage) in self.proof.look().await {
            if stage == Stage::InContext && self.in_flight.remove(&number).is_some() {
                self.report(WayReport::InContext(number)).await;
            }
        }
        let ended = |text: &InFlight| match text.stage {
            Progress::Ended(at) => at.elapsed() >= ROW_WITHIN,
            _ => false,
        };
        let numbers =
            |work: &Self, is_meant: &dyn Fn(&InFlight) -> bool| -> Vec<SubmissionNumber> {
                let meant = work.in_flight.iter().filter(|(_, text)| is_meant(text));
                meant.map(|(&number, _)| number).collect()
            };
        for number in numbers(self, &ended) {
            let why = "the turn ended without it".to_owned();
            self.not_taken(number, why, Refusal::Refused).await;
        }
        if is_local_gone {
            self.local = None;
            for number in numbers(self, &|_| true) {
                self.lose(number).await;
            }
            self.tell().await;
        }
    }
}

fn signs(before: Option<&Status>, now: &Status) -> Vec<Sign> {
    let was_busy = matches!(before, Some(Status::Active(_)));
    let asked = matches!(before, Some(Status::Active(Some(_))));
    match now {
        Status::Active(asks) => {
            let began = (!was_busy).then_some(Sign::TurnBegan);
            let asks = match asks {
                Some(what) => Some(Sign::Asks((*what).to_owned())),
                None => asked.then_some(Sign::Answered),
            };
            began.into_iter().chain(asks).collect()
        }
        Status::Idle | Status::Other => {
            let answered = asked.then_some(Sign::Answered);
            answered.into_iter().chain([Sign::TurnEnded]).collect()
        }
    }
}

#[cfg(test)]
mod tests;
