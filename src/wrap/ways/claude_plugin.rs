//! Our plugin inside Claude Code: messages are submitted as the person's own words, without a key.
//!
//! The module (`claude_plugin/module`) says hello from each process that loads it; [`choice`]
//! decides which of them holds the session. A message is handed over with `$.prompt.submit`, whose
//! result comes back as an event:
//!
//! - dropped or refused (the person pressed Escape, a hook of the person's refused it): the text
//!   did not enter the session and never will;
//! - no session is bound (the person opened the agents view): it is offered again until the session
//!   is back, in this process or in the one that it moved to. Meanwhile no other way may have a
//!   text: what the old process's inbox or hook is given is read by nobody. That ends when the
//!   session's hooks run in a process which does not load the plugin;
//! - submitted: its turn has begun. That is no proof yet: a process killed now has asked the model
//!   nothing. The proof is the row in the [`transcript`](super::transcript).
//!
//! Both may take as long as a dialog stands. Seen with Claude Code 2.1.332; versions without
//! function hooks ignore the plugin, so only a hello opens this way.

mod choice;
mod events;
mod folder;
mod homeless;
mod listener;
mod setup;
pub mod stream;

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
use super::transcript::Stage;
use super::{
    HookOrigin, Refusal, Submission, SubmissionNumber, WayIn, WayReport, WayReporter, process,
};
use choice::{Instance, ProcessChoice, SaidOfWay};
use homeless::NO_SESSION;
use listener::{Listener, ListenerEvent};
pub use setup::PluginSetup;

/// A text with a proof outstanding is looked for this often while a turn has just begun.
const LOOK_SOON: Duration = Duration::from_millis(10);
/// And this often while it waits, behind a turn or a dialog.
const LOOK_LATER: Duration = Duration::from_millis(250);
/// From "submitted" to the row: 0.2 s as measured; after this the looks become rare again.
const SOON: Duration = Duration::from_secs(3);
/// Why the way is closed.
const NO_PROCESS: &str = "no process of Claude Code takes messages by the plugin";
/// Texts handed over at once.
const ORDERS: usize = 64;

/// The session's handle of this way. Its task ends when this is dropped.
#[derive(Debug)]
pub struct Plugin {
    texts: Sender<Submission>,
    /// The process whose hook ran last, and when its first one did.
    hooked: watch::Sender<Option<(i32, Instant)>>,
    task: tokio::task::JoinHandle<()>,
}

impl Plugin {
    /// Listens on `socket` for modules that know the token. Nothing is open before a hello.
    ///
    /// # Errors
    /// When there cannot be a socket at that path.
    pub fn listen(socket: &Path, token: String, reporter: WayReporter) -> io::Result<Self> {
        let (listener, events) = Listener::bind(socket, token)?;
        let (texts, given) = mpsc::channel(ORDERS);
        let (hooked, in_process) = watch::channel(None);
        let work = Work::new(listener, in_process, reporter);
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

/// Where the session is, as far as the process that was adopted last and the hooks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionHome {
    /// In that process.
    Here,
    /// On its way to another one: that process refused a text, since it holds no session.
    Away,
    /// In a process that has not loaded the plugin.
    OutOfReach,
}

/// A text that was handed over.
#[derive(Debug)]
struct InFlight {
    instance: Instance,
    order: Bytes,
    stage: Progress,
    /// When a process first refused it because it holds no session.
    homeless_since: Option<Instant>,
}

/// How far a text got, as far as its module said.
#[derive(Debug)]
enum Progress {
    /// The module has it.
    Sent,
    /// Its turn has begun.
    Submitted(Instant),
    /// The session left the process that has it, or the order may never have come there.
    Left(Instant),
    /// The process refused it because it holds no session: the person looks at the agents view. It
    /// is offered again until the session is back, here or in the process that it moved to.
    Homeless(Instant),
}

struct Work {
    _listener: Listener,
    choice: ProcessChoice,
    /// The process that was adopted last.
    holder: Option<i32>,
    /// Processes that said hello and do not hold the session, and their transcripts.
    strangers: Vec<(Instance, PathBuf)>,
    /// How orders reach each module.
    streams: BTreeMap<String, Sender<Bytes>>,
    in_flight: BTreeMap<SubmissionNumber, InFlight>,
    proof: Proof,
    /// Tool calls whose permission dialog is open, with the tool's name.
    open_calls: BTreeMap<String, String>,
    /// The person pressed Escape and has sent nothing since.
    is_stopped: bool,
    home: SessionHome,
    /// What was last said of the way.
    said: SaidOfWay,
    /// The process whose hook ran last, of those that hold the session, and when its first one did.
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
            strangers: Vec::new(),
            streams: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            proof: Proof::default(),
            open_calls: BTreeMap::new(),
            is_stopped: false,
            home: SessionHome::Here,
            said: SaidOfWay::Closed,
            hooked,
            reporter,
        }
    }

    async fn run(mut self, mut events: Receiver<ListenerEvent>, mut texts: Receiver<Submission>) {
        loop {
            let due = self.next_look();
            let stream = self.stream().cloned();
            let gone = async {
                match &stream {
                    Some(stream) => stream.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = events.recv() => self.handle_module(event).await,
                text = texts.recv() => match text {
                    Some(text) => self.deliver(text).await,
                    None => return,
                },
                () = gone => {
                    let name = self.choice.current().map(|instance| instance.name.clone());
                    self.orders_end(&name.unwrap_or_default());
                    self.tell_open().await;
                }
                () = process::sleep_until(due), if due.is_some() => {
                    self.look().await;
                }
            }
        }
    }

    /// The way to the process that holds the session, while it listens.
    fn stream(&self) -> Option<&Sender<Bytes>> {
        let stream = self.streams.get(&self.choice.current()?.name)?;
        (!stream.is_closed()).then_some(stream)
    }

    async fn report(&self, report: WayReport) {
        let _session_ended = self.reporter.send(report).await;
    }

    async fn tell_open(&mut self) {
        let (said, why) = match self.home {
            SessionHome::Away => (SaidOfWay::Away, NO_SESSION),
            SessionHome::OutOfReach => (SaidOfWay::Closed, NO_SESSION),
            SessionHome::Here if self.stream().is_some() => (SaidOfWay::Open, NO_PROCESS),
            SessionHome::Here => (SaidOfWay::Closed, NO_PROCESS),
        };
        if said != std::mem::replace(&mut self.said, said) {
            self.report(said.report(why)).await;
        }
    }

    /// A process took or began something: it holds the session.
    async fn is_home(&mut self) {
        self.home = SessionHome::Here;
        self.tell_open().await;
    }

    /// The child process that carries this module's orders has ended. What it was given and of
    /// which the module said nothing may be with the module, or nowhere.
    fn orders_end(&mut self, instance: &str) {
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
        let is_here = self.home != SessionHome::OutOfReach;
        if let Some(instance) = instance.filter(|_| is_here && self.send(order.clone())) {
            let stage = Progress::Sent;
            let in_flight = InFlight {
                instance,
                order,
                stage,
                homeless_since: None,
            };
            self.in_flight.insert(number, in_flight);
        } else {
            self.proof.forget(number);
            // The process may have ended a moment ago.
            self.tell_open().await;
            let (why, refusal) = match self.said {
                SaidOfWay::Open => ("it takes no more texts", Refusal::Failed),
                SaidOfWay::Closed | SaidOfWay::Away => (NO_PROCESS, Refusal::Elsewhere),
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
    fn next_look(&self) -> Option<Instant> {
        let now = Instant::now();
        let is_soon = |text: &InFlight| match text.stage {
            Progress::Submitted(at) => now < at + SOON,
            _ => false,
        };
        let pause = if self.in_flight.values().any(is_soon) {
            LOOK_SOON
        } else {
            LOOK_LATER
        };
        (!self.in_flight.is_empty()).then(|| now + pause)
    }

    async fn look(&mut self) {
        let now = Instant::now();
        // Before the transcripts are read: what a process wrote before its end is found then.
        let is_lost = |text: &InFlight| match text.stage {
            Progress::Left(at) => now >= at + SOON,
            Progress::Homeless(..) => false,
            _ => !process::is_alive(text.instance.pid),
        };
        let lost: Vec<SubmissionNumber> = numbers(&self.in_flight, is_lost);
        for (number, stage) in self.proof.look().await {
            match stage {
                Stage::InContext if self.in_flight.remove(&number).is_some() => {
                    self.report(WayReport::InContext(number)).await;
                }
                Stage::Refused(why) => self.not_taken(number, why, Refusal::Refused).await,
                _ => {}
            }
        }
        for number in lost {
            if self.in_flight.remove(&number).is_some() {
                self.proof.forget(number);
                self.report(WayReport::Lost(number)).await;
            }
        }
        self.offer_again_or_give_up().await;
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
