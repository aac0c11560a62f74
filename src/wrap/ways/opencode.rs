//! The way into opencode, through its HTTP API on loopback with a password of this session.
//! Messages are submitted as the person's prompts, without keys.
//!
//! | state of the session | action |
//! |---|---|
//! | idle | `prompt_async`: a turn of its own; a draft in the box stays |
//! | a turn runs, or a dialog stands | the text waits here for the turn's end |
//! | the same, and it may come between two tools | it is sent at once; the next step takes it |
//! | the first screen | a session is begun and shown, then as idle; a draft stays ¹ |
//! | an unknown session, or one of several with the same title | the way is closed |
//!
//! ¹ A program that is still starting ignores the request to show a session. If the session has a
//! title and the terminal's title does not name it, the request is repeated. A session without a
//! title is shown before each prompt: the terminal's title does not tell it from the first screen.
//!
//! The proof is the beginning of an answer to the prompt or to a later one.
//!
//! On a busy machine the server accepts connections and responds to requests seconds late. A
//! request that was certainly not sent is repeated for as long as the server's events arrive. A
//! request without a response may have been processed: its text is looked for among the prompts in
//! the events, and once it is there it has no time limit. A text that does not appear in time is
//! given up, but an answer to it is still reported. Seen with opencode 1.18.33.

mod display_check;
mod http;
mod in_flight;
mod sessions;
mod setup;

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    AgentSign, Refusal, Submission, SubmissionNumber, Timing, Way, WayIn, WayReport, WayReporter,
    process,
};
use display_check::{CheckResult, DisplayCheck};
use http::{Events, HttpError, Server};
use in_flight::{InFlight, PAUSE, Progress};
use sessions::{SessionEvent, Sessions};

pub use setup::{OpencodeSetup, PASSWORD};

/// How long a server counts as starting while it listens and nothing proves its owner yet.
const STARTS_WITHIN: Duration = Duration::from_mins(5);
/// How long a text whose request had no response is looked for among the prompts.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);
/// Maximum number of texts that were given up and are still looked for.
const MAX_GIVEN_UP: usize = 64;
/// Capacity of the queue of texts.
const CAPACITY: usize = 64;
/// The reason why the way is closed.
const NO_SESSION: &str = "cannot tell which session opencode shows";

/// The handle of this way in. Dropping it ends its task.
#[derive(Debug)]
pub struct Opencode {
    texts: Sender<Submission>,
    title: watch::Sender<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Opencode {
    /// Starts looking for the server. The way opens once a session is on the screen.
    ///
    /// `resumes` says that opencode was started with a session that the person chose.
    pub fn start(given: OpencodeSetup, resumes: bool, reporter: WayReporter) -> Self {
        let (texts, orders) = mpsc::channel(CAPACITY);
        let (title, titles) = watch::channel(String::new());
        let work = Work {
            server: Server {
                port: given.port,
                password: given.password,
            },
            sessions: Sessions::default(),
            events: None,
            in_flight: BTreeMap::new(),
            display_check: None,
            unreached_since: Instant::now(),
            resumes,
            is_open: false,
            signed: None,
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

    fn title_changed(&self, title: &str) {
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

struct Work {
    server: Server,
    sessions: Sessions,
    events: Option<Events>,
    in_flight: BTreeMap<SubmissionNumber, InFlight>,
    /// The check of the session that this way began last, until it is on the screen.
    display_check: Option<DisplayCheck>,
    /// When the server was last lost, or when the search began.
    unreached_since: Instant,
    /// A session that the person chose is about to be shown, so none is begun before.
    resumes: bool,
    is_open: bool,
    /// The session whose state was last reported.
    signed: Option<String>,
    reporter: WayReporter,
}

impl Work {
    async fn run(mut self, mut texts: Receiver<Submission>, mut titles: watch::Receiver<String>) {
        let mut again = Instant::now();
        loop {
            let due = self.next_check();
            tokio::select! {
                text = texts.recv() => match text {
                    Some(text) => self.deliver(text),
                    None => return,
                },
                changed = titles.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.handle_title(&titles);
                }
                event = next(&mut self.events) => match event {
                    Ok(event) => {
                        let session_event = self.sessions.handle_event(&event);
                        self.handle_session_event(session_event).await;
                    }
                    Err(error) => {
                        self.disconnect(&error).await;
                        again = Instant::now() + PAUSE;
                    }
                },
                () = tokio::time::sleep_until(again), if self.events.is_none() => {
                    if let Err(error) = self.connect().await {
                        self.report_starting(&error).await;
                    }
                    self.handle_title(&titles);
                    again = Instant::now() + PAUSE;
                }
                () = process::sleep_until(due), if due.is_some() => self.check_texts().await,
            }
            self.report_and_send_next().await;
        }
    }

    fn handle_title(&mut self, titles: &watch::Receiver<String>) {
        let title = titles.borrow();
        self.sessions.handle_title(&title);
    }

    async fn connect(&mut self) -> Result<(), HttpError> {
        // The events are requested before the list, so that no change is missed.
        let events = self.server.events().await?;
        let listed = self.server.request(Method::GET, "/session", None).await?;
        self.sessions
            .record_all(listed.as_array().into_iter().flatten());
        self.events = Some(events);
        Ok(())
    }

    /// Reports a server that listens and is only slow as starting.
    async fn report_starting(&self, error: &HttpError) {
        let is_slow = matches!(error, HttpError::Unproven | HttpError::Silent);
        if is_slow && self.unreached_since.elapsed() < STARTS_WITHIN {
            self.report(WayReport::Starting).await;
        }
    }

    /// When a request is repeated, a text is given up, or the title is checked next.
    fn next_check(&self) -> Option<Instant> {
        let times = self.in_flight.values().filter_map(|text| match text.stage {
            Progress::Waits(again) => again,
            Progress::Unknown(until) => Some(until),
            Progress::Sent(_) | Progress::GivenUp => None,
        });
        let looks = self.display_check.iter().map(DisplayCheck::due);
        times.chain(looks).min()
    }

    /// Gives up texts that did not appear among the prompts, and releases texts whose pause is
    /// over.
    async fn check_texts(&mut self) {
        let now = Instant::now();
        let mut given_up = Vec::new();
        for (&number, text) in &mut self.in_flight {
            match text.stage {
                Progress::Waits(Some(again)) if now >= again => {
                    text.stage = Progress::Waits(None);
                }
                Progress::Unknown(until) if now >= until => {
                    if let Some(session) = self.sessions.with_prompt(&text.submission.ids) {
                        text.stage = Progress::Sent(session);
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

    /// Repeats the request to show the session that this way began, if the screen shows another
    /// one.
    async fn show_again(&mut self, now: Instant) {
        let due = self.display_check.as_mut().filter(|one| now >= one.due());
        let Some(display_check) = due else {
            return;
        };
        let session = display_check.session().to_owned();
        match display_check.check(self.sessions.visibility(&session), now) {
            CheckResult::CheckAgain => {}
            // If that fails, the next check tries again.
            CheckResult::ShowAgain => drop(self.select(&session).await),
            CheckResult::Done => self.display_check = None,
        }
    }

    fn forget_oldest(&mut self) {
        let given_up = |text: &InFlight| text.stage == Progress::GivenUp;
        let numbers = self.in_flight.iter().filter(|(_, text)| given_up(text));
        let numbers: Vec<SubmissionNumber> = numbers.map(|(&number, _)| number).collect();
        for number in numbers.iter().rev().skip(MAX_GIVEN_UP) {
            self.in_flight.remove(number);
        }
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    async fn handle_session_event(&mut self, session_event: Option<SessionEvent>) {
        let sign = match session_event {
            None => return,
            Some(SessionEvent::Read(ids)) => return self.handle_read(&ids).await,
            Some(SessionEvent::Deleted(session)) => return self.handle_deletion(&session).await,
            Some(SessionEvent::Busy(true)) => AgentSign::TurnBegan,
            Some(SessionEvent::Busy(false)) => AgentSign::TurnEnded,
            Some(SessionEvent::Asks(Some(what))) => AgentSign::Asks(what),
            Some(SessionEvent::Asks(None)) => AgentSign::Answered,
        };
        self.report(WayReport::Sign(sign)).await;
    }

    async fn handle_read(&mut self, ids: &[String]) {
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

    /// The session's texts that the model has not read are gone with it.
    async fn handle_deletion(&mut self, session: &str) {
        let meant = self
            .in_flight
            .iter()
            .filter(|(_, text)| text.is_in(session));
        let numbers: Vec<SubmissionNumber> = meant.map(|(&number, _)| number).collect();
        for number in numbers {
            self.report_lost(number).await;
        }
    }

    fn deliver(&mut self, submission: Submission) {
        let text = InFlight::new(submission);
        self.in_flight.insert(text.submission.number, text);
    }

    /// Reports the state of another session than before: no event does.
    async fn report_session(&mut self, session: Option<&str>) {
        if self.signed.as_deref() == session {
            return;
        }
        self.signed = session.map(str::to_owned);
        let turn = if self.sessions.is_busy() {
            AgentSign::TurnBegan
        } else {
            AgentSign::TurnEnded
        };
        // A turn that begins ends a dialog, so the dialog comes last.
        let asks = self.sessions.asks().map(AgentSign::Asks);
        for sign in [AgentSign::Answered, turn].into_iter().chain(asks) {
            self.report(WayReport::Sign(sign)).await;
        }
    }

    /// Reports whether the way is open, and sends the next text that is due.
    async fn report_and_send_next(&mut self) {
        let session = self.sessions.current().map(str::to_owned);
        let session = session.filter(|_| self.events.is_some());
        self.report_session(session.as_deref()).await;
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
            return self.give_back_waiting(NO_SESSION, Refusal::Elsewhere).await;
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
        match self.shown(session).await {
            Ok(session) => {
                self.set_stage(number, Progress::Sent(session.clone()));
                self.prompt(&session, number, &words).await;
            }
            Err(error) if error.is_transient() => self.set_stage(number, Progress::retry_soon()),
            Err(error) => {
                let why = error.to_string();
                self.not_taken(number, &why, Refusal::Failed).await;
            }
        }
    }

    /// The session that gets the next prompt: `session`, or a new one on the first screen.
    async fn shown(&mut self, session: Option<String>) -> Result<String, HttpError> {
        let Some(session) = session else {
            return self.begin().await;
        };
        if self.sessions.may_be_hidden(&session) {
            self.select(&session).await?;
        }
        Ok(session)
    }

    /// Begins a session on the first screen and shows it.
    async fn begin(&mut self) -> Result<String, HttpError> {
        let begun = self
            .server
            .request(Method::POST, "/session", Some(&json!({})))
            .await?;
        let id = begun["id"]
            .as_str()
            .ok_or(HttpError::Incomplete)?
            .to_owned();
        if let Err(error) = self.select(&id).await {
            let path = format!("/session/{id}");
            let _stays_empty = self.server.request(Method::DELETE, &path, None).await;
            return Err(error);
        }
        self.sessions.record(&begun);
        self.sessions.set_current(&id);
        self.display_check = Some(DisplayCheck::of(&id, Instant::now()));
        Ok(id)
    }

    /// Asks the program to show a session.
    async fn select(&self, session: &str) -> Result<(), HttpError> {
        let shown = json!({"sessionID": session});
        let path = "/tui/select-session";
        let asked = self.server.request(Method::POST, path, Some(&shown)).await;
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
        match self.server.request(Method::POST, &path, Some(&body)).await {
            Ok(_) => self.report(WayReport::HandedOver(number)).await,
            Err(error) if error.is_transient() => self.set_stage(number, Progress::retry_soon()),
            Err(error) if error.was_not_processed() => {
                let why = error.to_string();
                self.not_taken(number, &why, Refusal::Failed).await;
            }
            // The response was lost: the text may have been read.
            Err(_) => self.set_stage(number, Progress::Unknown(Instant::now() + SHOWN_WITHIN)),
        }
    }

    fn set_stage(&mut self, number: SubmissionNumber, stage: Progress) {
        if let Some(text) = self.in_flight.get_mut(&number) {
            text.stage = stage;
        }
    }

    async fn report_lost(&mut self, number: SubmissionNumber) {
        let lost = self.in_flight.remove(&number);
        if lost.is_some_and(|text| text.stage != Progress::GivenUp) {
            self.report(WayReport::Lost(number)).await;
        }
    }

    async fn not_taken(&mut self, number: SubmissionNumber, why: &str, refusal: Refusal) {
        if self.in_flight.remove(&number).is_some() {
            let why = why.to_owned();
            self.report(WayReport::NotTaken {
                number,
                why,
                refusal,
            })
            .await;
        }
    }

    /// Reports texts that were not sent as not taken, so that another way gets them.
    async fn give_back_waiting(&mut self, why: &str, refusal: Refusal) {
        let waiting = self.in_flight.iter().filter(|(_, text)| text.waits());
        let numbers: Vec<SubmissionNumber> = waiting.map(|(&number, _)| number).collect();
        for number in numbers {
            self.not_taken(number, why, refusal).await;
        }
    }

    /// Drops the connection after an error. The texts that the server has may have been read.
    async fn disconnect(&mut self, error: &HttpError) {
        self.events = None;
        self.display_check = None;
        self.unreached_since = Instant::now();
        self.sessions = Sessions::default();
        if std::mem::replace(&mut self.is_open, false) {
            self.report(WayReport::Closed(error.to_string())).await;
        }
        // No event reports the end of a turn or the answer to a question any more.
        self.report_session(None).await;
        self.give_back_waiting(&error.to_string(), Refusal::Failed)
            .await;
        let numbers: Vec<SubmissionNumber> = self.in_flight.keys().copied().collect();
        for number in numbers {
            self.report_lost(number).await;
        }
    }
}

async fn next(events: &mut Option<Events>) -> Result<serde_json::Value, HttpError> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
