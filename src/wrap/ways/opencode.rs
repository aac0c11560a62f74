//! opencode through its HTTP API, on loopback and with a password of this session's own: messages
//! are submitted as the person's own words, without a key.
//!
//! | state of the session | what is done |
//! |---|---|
//! | idle | `prompt_async`: a turn of its own; a draft in the box stays |
//! | a turn runs, or a dialog stands | the text waits here for the turn's end |
//! | the same, and it may come between two tools | it is sent at once; the next step takes it |
//! | the first screen | a session is begun and shown, then as idle; a draft stays ¹ |
//! | a session that is not known | the way is closed |
//!
//! ¹ A program that is still starting does not hear what it shall show. Once the session has a
//! title and the terminal's title does not name it, it is shown again.
//!
//! The proof is an answer that was begun to the prompt, or to a later one.
//!
//! On a busy machine the server accepts connections and answers requests seconds late. A request
//! that was certainly not sent is made again for as long as the server's events come. One without
//! an answer may have been carried out: the text is looked for among the prompts that the events
//! tell of, and once it is there it has no time limit. A text that is not there in time is given
//! up, and an answer to it is still reported. Seen with opencode 1.18.33.

mod http;
mod sessions;
mod setup;
mod showing;

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    Refusal, Sign, Submission, SubmissionNumber, Timing, Way, WayIn, WayReport, WayReporter,
    process,
};
use http::{Events, HttpError, Server};
use sessions::{SessionNews, Sessions};
use showing::{LookResult, Showing};

pub use setup::{OpencodeSetup, PASSWORD};

/// Pause between attempts to reach the server.
const PAUSE: Duration = Duration::from_millis(500);
/// A server that listens, and whose connections nothing proves yet, is starting for so long.
const STARTS_WITHIN: Duration = Duration::from_mins(5);
/// A text whose request had no answer shows among the prompts within this.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);
/// Texts that were given up, and that are proved by an answer all the same.
const GIVEN_UP: usize = 64;
/// Texts handed over at once.
const TEXTS: usize = 64;
/// Why the way is closed.
const NO_SESSION: &str = "no session of opencode's is on the screen";

/// The session's handle of this way. Its task ends when this is dropped.
#[derive(Debug)]
pub struct Opencode {
    texts: Sender<Submission>,
    title: watch::Sender<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Opencode {
    /// Looks for the server from now on. Nothing is open before a session is on the screen.
    ///
    /// `resumes`: opencode was started with a session of the person's choice.
    pub fn start(given: OpencodeSetup, resumes: bool, reporter: WayReporter) -> Self {
        let (texts, orders) = mpsc::channel(TEXTS);
        let (title, titles) = watch::channel(String::new());
        let work = Work {
            server: Server {
                port: given.port,
                password: given.password,
            },
            sessions: Sessions::default(),
            events: None,
            in_flight: BTreeMap::new(),
            showing: None,
            unreached_since: Instant::now(),
            resumes,
            is_open: false,
            reporter,
        };
        let task = tokio::spawn(work.run(orders, titles));
        Self { texts, title, task }
    }
}

impl WayIn for Opencode {
    fn way(&self) -> Way {
        Way::Api
    }

    fn can_steer(&self) -> bool {
        true
    }

    fn deliver(&self, submission: Submission) -> bool {
        self.texts.try_send(submission).is_ok()
    }

    fn titled(&self, title: &str) {
        let is_new = |shown: &mut String| {
            let is_new = shown != title;
            title.clone_into(shown);
            is_new
        };
        self.title.send_if_modified(is_new);
    }
}

impl Drop for Opencode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A text that was handed over to us.
#[derive(Debug)]
struct InFlight {
    submission: Submission,
    /// Ids that no answer was seen to.
    unread: Vec<String>,
    stage: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It waits for the turn's end, or until its request can be made again.
    Waits(Option<Instant>),
    /// The server has it.
    Sent,
    /// Its request had no answer; it is looked for until then.
    Unknown(Instant),
    /// It was given up.
    GivenUp,
}

impl InFlight {
    fn waits(&self) -> bool {
        matches!(self.stage, Progress::Waits(_))
    }
}

struct Work {
    server: Server,
    sessions: Sessions,
    events: Option<Events>,
    in_flight: BTreeMap<SubmissionNumber, InFlight>,
    /// The session that we began last, until it is on the screen.
    showing: Option<Showing>,
    /// When the server was last lost, or looked for first.
    unreached_since: Instant,
    /// A session of the person's choice is about to be shown, so none is begun before.
    resumes: bool,
    is_open: bool,
    reporter: WayReporter,
}

impl Work {
    async fn run(mut self, mut texts: Receiver<Submission>, mut titles: watch::Receiver<String>) {
        let mut again = Instant::now();
        loop {
            let due = self.next_look();
            tokio::select! {
                text = texts.recv() => match text {
                    Some(text) => self.deliver(text),
                    None => return,
                },
                changed = titles.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.titled(&titles);
                }
                event = next(&mut self.events) => match event {
                    Ok(event) => {
                        let news = self.sessions.happened(&event);
                        self.handle_news(news).await;
                    }
                    Err(error) => {
                        self.lost(&error).await;
                        again = Instant::now() + PAUSE;
                    }
                },
                () = tokio::time::sleep_until(again), if self.events.is_none() => {
                    if let Err(error) = self.connect().await {
                        self.tell_starting(&error).await;
                    }
                    self.titled(&titles);
                    again = Instant::now() + PAUSE;
                }
                () = process::sleep_until(due), if due.is_some() => self.look().await,
            }
            self.move_on().await;
        }
    }

    fn titled(&mut self, titles: &watch::Receiver<String>) {
        let title = titles.borrow();
        self.sessions.titled(&title);
    }

    async fn connect(&mut self) -> Result<(), HttpError> {
        // Before the list: what happens meanwhile is in the events.
        let events = self.server.events().await?;
        let listed = self.server.ask(Method::GET, "/session", None).await?;
        for session in listed.as_array().into_iter().flatten() {
            self.sessions.learn(session);
        }
        self.events = Some(events);
        Ok(())
    }

    /// A server that listens and is only slow is worth waiting for.
    async fn tell_starting(&self, error: &HttpError) {
        let is_slow = matches!(error, HttpError::Unproven | HttpError::Silent);
        if is_slow && self.unreached_since.elapsed() < STARTS_WITHIN {
            self.report(WayReport::Starting).await;
        }
    }

    /// When a request may be made again, a text is given up, or the screen is looked at.
    fn next_look(&self) -> Option<Instant> {
        let times = self.in_flight.values().filter_map(|text| match text.stage {
            Progress::Waits(again) => again,
            Progress::Unknown(until) => Some(until),
            Progress::Sent | Progress::GivenUp => None,
        });
        let looks = self.showing.iter().map(Showing::look_at);
        times.chain(looks).min()
    }

    /// Gives up what does not show among the prompts; what waited for this moment goes on.
    async fn look(&mut self) {
        let now = Instant::now();
        let mut given_up = Vec::new();
        for (&number, text) in &mut self.in_flight {
            match text.stage {
                Progress::Waits(Some(again)) if now >= again => {
                    text.stage = Progress::Waits(None);
                }
                Progress::Unknown(until) if now >= until => {
                    let ids = &text.submission.ids;
                    if self.sessions.has_prompt(ids) {
                        text.stage = Progress::Sent;
                    } else {
                        text.stage = Progress::GivenUp;
                        given_up.push(number);
                    }
                }
                _ => {}
            }
        }
        for number in given_up {
            self.report(WayReport::Unseen(number)).await;
        }
        self.forget_oldest();
        self.show_again(now).await;
    }

    /// Shows the session that we began once more, where the screen shows another one.
    async fn show_again(&mut self, now: Instant) {
        let due = self.showing.as_mut().filter(|one| now >= one.look_at());
        let Some(showing) = due else {
            return;
        };
        let session = showing.session().to_owned();
        match showing.look(self.sessions.sight(&session), now) {
            LookResult::Wait => {}
            // Where that fails, the next look tries again.
            LookResult::Show => drop(self.select(&session).await),
            LookResult::Over => self.showing = None,
        }
    }

    fn forget_oldest(&mut self) {
        let given_up = |text: &InFlight| text.stage == Progress::GivenUp;
        let numbers = self.in_flight.iter().filter(|(_, text)| given_up(text));
        let numbers: Vec<SubmissionNumber> = numbers.map(|(&number, _)| number).collect();
        for number in numbers.iter().rev().skip(GIVEN_UP) {
            self.in_flight.remove(number);
        }
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    async fn handle_news(&mut self, news: Option<SessionNews>) {
        let sign = match news {
            None => return,
            Some(SessionNews::Read(ids)) => return self.read(&ids).await,
            Some(SessionNews::Busy(true)) => Sign::TurnBegan,
            Some(SessionNews::Busy(false)) => Sign::TurnEnded,
            Some(SessionNews::Asks(Some(what))) => Sign::Asks(what),
            Some(SessionNews::Asks(None)) => Sign::Answered,
        };
        self.report(WayReport::Sign(sign)).await;
    }

    async fn read(&mut self, ids: &[String]) {
        for text in self.in_flight.values_mut().filter(|text| !text.waits()) {
            text.unread.retain(|id| !ids.contains(id));
        }
        let is_read = |text: &InFlight| !text.waits() && text.unread.is_empty();
        let meant = self.in_flight.iter().filter(|(_, text)| is_read(text));
        let numbers: Vec<SubmissionNumber> = meant.map(|(&number, _)| number).collect();
        for number in numbers {
            self.in_flight.remove(&number);
            self.report(WayReport::InContext(number)).await;
        }
    }

    fn deliver(&mut self, submission: Submission) {
        let text = InFlight {
            unread: submission.ids.clone(),
            submission,
            stage: Progress::Waits(None),
        };
        self.in_flight.insert(text.submission.number, text);
    }

    /// Tells whether the way is open, and sends what waited for this moment.
    async fn move_on(&mut self) {
        let session = self.sessions.current().map(str::to_owned);
        let session = session.filter(|_| self.events.is_some());
        self.resumes &= session.is_none();
        let may_begin = self.events.is_some() && self.sessions.is_first_screen() && !self.resumes;
        let is_open = session.is_some() || may_begin;
        if is_open != std::mem::replace(&mut self.is_open, is_open) {
            self.report(if is_open {
                WayReport::Open
            } else {
                WayReport::Closed(NO_SESSION.to_owned())
            })
            .await;
        }
        if !is_open {
            return self.give_back(NO_SESSION).await;
        }
        let is_busy = self.sessions.is_busy();
        let is_due = |text: &&mut InFlight| {
            text.stage == Progress::Waits(None)
                && (!is_busy || text.submission.timing != Timing::Idle)
        };
        let Some(text) = self.in_flight.values_mut().find(is_due) else {
            return;
        };
        let (number, words) = (text.submission.number, text.submission.text.clone());
        let session = match session {
            Some(session) => session,
            None => match self.begin().await {
                Ok(session) => session,
                Err(error) if error.may_pass() => return self.set(number, ask_again()),
                Err(error) => return self.not_taken(number, &error.to_string()).await,
            },
        };
        self.set(number, Progress::Sent);
        self.prompt(&session, number, &words).await;
    }

    /// Begins a session on the first screen, and has it shown.
    async fn begin(&mut self) -> Result<String, HttpError> {
        let begun = self
            .server
            .ask(Method::POST, "/session", Some(&json!({})))
            .await?;
        let id = begun["id"]
            .as_str()
            .ok_or(HttpError::Incomplete)?
            .to_owned();
        if let Err(error) = self.select(&id).await {
            let path = format!("/session/{id}");
            let _stays_empty = self.server.ask(Method::DELETE, &path, None).await;
            return Err(error);
        }
        self.sessions.learn(&begun);
        self.sessions.shows(&id);
        self.showing = Some(Showing::of(&id, Instant::now()));
        Ok(id)
    }

    /// Asks the program to show a session.
    async fn select(&self, session: &str) -> Result<(), HttpError> {
        let shown = json!({"sessionID": session});
        let path = "/tui/select-session";
        let asked = self.server.ask(Method::POST, path, Some(&shown)).await;
        asked.map(|_| ())
    }

    async fn prompt(&mut self, session: &str, number: SubmissionNumber, words: &str) {
        let settings = self.sessions.settings(session);
        let mut body = json!({"parts": [{"type": "text", "text": words}]});
        if let Some(agent) = settings.agent {
            body["agent"] = agent.into();
        }
        if let Some((provider, model)) = settings.model {
            body["model"] = json!({"providerID": provider, "modelID": model});
        }
        let path = format!("/session/{session}/prompt_async");
        match self.server.ask(Method::POST, &path, Some(&body)).await {
            Ok(_) => {}
            Err(error) if error.may_pass() => self.set(number, ask_again()),
            Err(error) if error.is_certain() => self.not_taken(number, &error.to_string()).await,
            // Its answer was lost: it may have been read.
            Err(_) => self.set(number, Progress::Unknown(Instant::now() + SHOWN_WITHIN)),
        }
    }

    fn set(&mut self, number: SubmissionNumber, stage: Progress) {
        if let Some(text) = self.in_flight.get_mut(&number) {
            text.stage = stage;
        }
    }

    async fn lose(&mut self, number: SubmissionNumber) {
        let lost = self.in_flight.remove(&number);
        if lost.is_some_and(|text| text.stage != Progress::GivenUp) {
            self.report(WayReport::Lost(number)).await;
        }
    }

    async fn not_taken(&mut self, number: SubmissionNumber, why: &str) {
        if self.in_flight.remove(&number).is_some() {
            let (why, refusal) = (why.to_owned(), Refusal::Failed);
            self.report(WayReport::NotTaken {
                number,
                why,
                refusal,
            })
            .await;
        }
    }

    /// What was not sent yet goes another way.
    async fn give_back(&mut self, why: &str) {
        let waiting = self.in_flight.iter().filter(|(_, text)| text.waits());
        let numbers: Vec<SubmissionNumber> = waiting.map(|(&number, _)| number).collect();
        for number in numbers {
            self.not_taken(number, why).await;
        }
    }

    /// The server has ended: what it has may have been read.
    async fn lost(&mut self, error: &HttpError) {
        self.events = None;
        self.showing = None;
        self.unreached_since = Instant::now();
        self.sessions = Sessions::default();
        if std::mem::replace(&mut self.is_open, false) {
            self.report(WayReport::Closed(error.to_string())).await;
        }
        self.give_back(&error.to_string()).await;
        let numbers: Vec<SubmissionNumber> = self.in_flight.keys().copied().collect();
        for number in numbers {
            self.lose(number).await;
        }
    }
}

/// The stage of a text whose request was certainly not sent, and is made again soon.
fn ask_again() -> Progress {
    Progress::Waits(Some(Instant::now() + PAUSE))
}

async fn next(events: &mut Option<Events>) -> Result<serde_json::Value, HttpError> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
