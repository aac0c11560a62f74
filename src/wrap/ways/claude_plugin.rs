//! The way in by cbroker's plugin inside Claude Code: messages are submitted as the person's
//! prompts, without keys.
//!
//! The module (`claude_plugin/module`) sends a hello from each process that loads it; [`choice`]
//! decides which of them holds the session. A message is handed over with `$.prompt.submit`, whose
//! result comes back as an event:
//!
//! - dropped or refused (the person pressed Escape, or a hook of the person refused it): the text
//!   never enters the session;
//! - no session is bound (the person opened the agents view): the text is sent again until the
//!   session is back, in this process or in the one that it moved to. Meanwhile no other way may
//!   have a text, because the old process's inbox and hook lose them. This ends when the session's
//!   hooks run in a process that does not load the plugin;
//! - submitted: its turn has begun. That is not a proof: a process that is killed now has not
//!   called the model. The proof is the row in the [`transcript`](super::transcript).
//!
//! The result and the row may take as long as a dialog is open. Seen with Claude Code 2.1.332;
//! versions without function hooks ignore the plugin, so only a hello opens this way.

mod choice;
mod events;
mod folder;
mod listener;
mod setup;
pub mod stream;
mod unbound;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Way;
use super::proof::Proof;
use super::transcript::MessageStage;
use super::{
    HookOrigin, Refusal, Submission, SubmissionNumber, WayIn, WayReport, WayReporter, process,
};
use choice::{PluginAvailability, PluginProcess, ProcessChoice};
use listener::{Listener, ListenerEvent};
pub use setup::PluginSetup;
use unbound::NO_SESSION;

/// Interval between reads of the transcript while the turn of a text has just begun.
const CHECK_SOON: Duration = Duration::from_millis(10);
/// Interval between reads while a text waits for a turn or a dialog.
const CHECK_LATER: Duration = Duration::from_millis(250);
/// Expected time from "submitted" to the row. Measured: 0.2 s. After this the transcript is read
/// less often.
const ROW_WITHIN: Duration = Duration::from_secs(3);
/// The reason why the way is closed.
const NO_PROCESS: &str = "no process of Claude Code takes messages by the plugin";
/// Capacity of the queue of texts.
const CAPACITY: usize = 64;

/// The handle of this way in. Dropping it ends its task.
#[derive(Debug)]
pub struct Plugin {
    texts: Sender<Submission>,
    /// The process whose hook ran last, and when its first hook ran.
    hooked: watch::Sender<Option<(i32, Instant)>>,
    task: tokio::task::JoinHandle<()>,
}

impl Plugin {
    /// Listens on `socket` for modules that send `token`. The way opens with the first hello.
    ///
    /// # Errors
    /// If the socket cannot be created at that path.
    pub fn listen(socket: &Path, token: String, reporter: WayReporter) -> io::Result<Self> {
        let (listener, events) = Listener::bind(socket, token)?;
        let (texts, given) = mpsc::channel(CAPACITY);
        let (hooked, hooked_in) = watch::channel(None);
        let work = Work::new(listener, hooked_in, reporter);
        let task = tokio::spawn(work.run(events, given));
        Ok(Self {
            texts,
            hooked,
            task,
        })
    }
}

impl WayIn for Plugin {
    fn way(&self) -> Way {
        Way::Plugin
    }

    fn hook_ran(&self, origin: &HookOrigin) {
        self.hooked.send_modify(|hooked| {
            let known = hooked.filter(|(pid, _)| Some(*pid) == origin.pid);
            *hooked = known.or_else(|| Some((origin.pid?, Instant::now())));
        });
    }

    fn deliver(&self, submission: Submission) -> bool {
        self.texts.try_send(submission).is_ok()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where the session is, according to the last adopted process and the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionLocation {
    /// In the adopted process.
    Here,
    /// Moving to another process: the adopted process refused a text because it holds no session.
    Away,
    /// In a process that has not loaded the plugin.
    OutOfReach,
}

/// A text that was handed over.
#[derive(Debug)]
struct InFlight {
    instance: PluginProcess,
    order: Bytes,
    stage: Progress,
    /// When a process first refused it with "no session is bound".
    unbound_since: Option<Instant>,
}

/// How far a text got, according to the module.
#[derive(Debug)]
enum Progress {
    /// It was sent to the module.
    Sent,
    /// Its turn has begun.
    Submitted(Instant),
    /// The session left the process that has it, or the order may not have arrived there, or its
    /// turn is over without its row: another plugin's hook may have changed the text.
    Left(Instant),
    /// The process refused it with "no session is bound" at this time; see [`unbound`].
    Unbound(Instant),
}

struct Work {
    _listener: Listener,
    choice: ProcessChoice,
    /// The process that was adopted last.
    holder: Option<i32>,
    /// Processes that sent a hello and do not hold the session, with their transcripts.
    other_instances: Vec<(PluginProcess, PathBuf)>,
    /// The stream of orders to each module.
    streams: BTreeMap<String, Sender<Bytes>>,
    in_flight: BTreeMap<SubmissionNumber, InFlight>,
    proof: Proof,
    /// Tool calls whose permission dialog is open, with the tool's name.
    open_calls: BTreeMap<String, String>,
    /// A command's menu is open.
    is_menu_open: bool,
    /// The person pressed Escape and has sent nothing since.
    is_escaped: bool,
    location: SessionLocation,
    /// The availability that was last reported.
    reported: PluginAvailability,
    /// The process whose hook ran last, of those that held the session, and when its first hook
    /// ran.
    hooked: watch::Receiver<Option<(i32, Instant)>>,
    reporter: WayReporter,
}

impl Work {
    fn new(
        listener: Listener,
        hooked: watch::Receiver<Option<(i32, Instant)>>,
        reporter: WayReporter,
    ) -> Self {
        Self {
            _listener: listener,
            choice: ProcessChoice::default(),
            holder: None,
            other_instances: Vec::new(),
            streams: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            proof: Proof::default(),
            open_calls: BTreeMap::new(),
            is_menu_open: false,
            is_escaped: false,
            location: SessionLocation::Here,
            reported: PluginAvailability::Closed,
            hooked,
            reporter,
        }
    }

    async fn run(mut self, mut events: Receiver<ListenerEvent>, mut texts: Receiver<Submission>) {
        loop {
            let due = self.next_check();
            let stream = self.stream().cloned();
            let gone = async {
                match &stream {
                    Some(stream) => stream.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = events.recv() => self.handle_listener_event(event).await,
                text = texts.recv() => match text {
                    Some(text) => self.deliver(text).await,
                    None => return,
                },
                () = gone => {
                    let name = self.choice.current().map(|instance| instance.name.clone());
                    self.handle_stream_end(&name.unwrap_or_default());
                    self.report_availability().await;
                }
                () = process::sleep_until(due), if due.is_some() => {
                    self.check_texts().await;
                }
            }
        }
    }

    /// The open stream of orders to the process that holds the session.
    fn stream(&self) -> Option<&Sender<Bytes>> {
        let stream = self.streams.get(&self.choice.current()?.name)?;
        (!stream.is_closed()).then_some(stream)
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    async fn report_availability(&mut self) {
        let (availability, why) = match self.location {
            SessionLocation::Away => (PluginAvailability::Away, NO_SESSION),
            SessionLocation::OutOfReach => (PluginAvailability::Closed, NO_SESSION),
            SessionLocation::Here if self.stream().is_some() => {
                (PluginAvailability::Open, NO_PROCESS)
            }
            SessionLocation::Here => (PluginAvailability::Closed, NO_PROCESS),
        };
        if availability != std::mem::replace(&mut self.reported, availability) {
            self.report(availability.to_report(why)).await;
        }
    }

    /// Records that the adopted process holds the session, since it accepted a text or began a
    /// turn.
    async fn mark_session_here(&mut self) {
        self.location = SessionLocation::Here;
        self.report_availability().await;
    }

    /// The child process that forwards a module's orders has ended. Texts that it was given and
    /// that the module has not reported may be lost.
    fn handle_stream_end(&mut self, instance: &str) {
        let texts = self.in_flight.values_mut();
        for text in texts.filter(|text| text.instance.name == instance) {
            if matches!(text.stage, Progress::Sent) {
                text.stage = Progress::Left(Instant::now());
            }
        }
    }

    async fn deliver(&mut self, submission: Submission) {
        let Submission {
            number, ids, text, ..
        } = submission;
        let order = json!({"do": "submit", "key": number, "text": text});
        let order = Bytes::from(format!("{order}\n"));
        self.proof.expect(number, ids, self.choice.transcript());
        let instance = self.choice.current().cloned();
        let is_here = self.location != SessionLocation::OutOfReach;
        if let Some(instance) = instance.filter(|_| is_here && self.send(order.clone())) {
            let stage = Progress::Sent;
            let in_flight = InFlight {
                instance,
                order,
                stage,
                unbound_since: None,
            };
            self.in_flight.insert(number, in_flight);
            self.report(WayReport::HandedOver(number)).await;
        } else {
            self.proof.forget(number);
            // The process may have ended a moment ago.
            self.report_availability().await;
            let (why, refusal) = match self.reported {
                PluginAvailability::Open => ("it takes no more texts", Refusal::Failed),
                PluginAvailability::Closed | PluginAvailability::Away => {
                    (NO_PROCESS, Refusal::Elsewhere)
                }
            };
            let why = why.to_owned();
            self.report(WayReport::NotTaken {
                number,
                why,
                refusal,
            })
            .await;
        }
    }

    /// Sends an order to the process that holds the session.
    fn send(&self, order: Bytes) -> bool {
        self.stream()
            .is_some_and(|stream| stream.try_send(order).is_ok())
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

    /// When to look for proofs again.
    fn next_check(&self) -> Option<Instant> {
        let now = Instant::now();
        let is_soon = |text: &InFlight| match text.stage {
            Progress::Submitted(at) => now < at + ROW_WITHIN,
            _ => false,
        };
        let pause = if self.in_flight.values().any(is_soon) {
            CHECK_SOON
        } else {
            CHECK_LATER
        };
        (!self.in_flight.is_empty()).then(|| now + pause)
    }

    async fn check_texts(&mut self) {
        let now = Instant::now();
        // Checked before the transcripts are read, so that rows which a process wrote before its
        // end are found.
        let is_lost = |text: &InFlight| match text.stage {
            Progress::Left(at) => now >= at + ROW_WITHIN,
            Progress::Unbound(..) => false,
            _ => !process::is_alive(text.instance.pid),
        };
        let lost: Vec<SubmissionNumber> = numbers(&self.in_flight, is_lost);
        for (number, stage) in self.proof.read_new_rows().await {
            match stage {
                MessageStage::InContext if self.in_flight.remove(&number).is_some() => {
                    self.report(WayReport::InContext(number)).await;
                }
                MessageStage::Refused(why) => self.not_taken(number, why, Refusal::Refused).await,
                _ => {}
            }
        }
        for number in lost {
            if self.in_flight.remove(&number).is_some() {
                self.proof.forget(number);
                self.report(WayReport::Lost(number)).await;
            }
        }
        self.resend_or_give_up().await;
    }
}

fn numbers(
    texts: &BTreeMap<SubmissionNumber, InFlight>,
    is_meant: impl Fn(&InFlight) -> bool,
) -> Vec<SubmissionNumber> {
    let meant = texts.iter().filter(|(_, text)| is_meant(text));
    meant.map(|(&number, _)| number).collect()
}

#[cfg(test)]
mod tests;
