//! Handles the events of the modules: updates the session's process, its transcript and the texts
//! in flight.

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::super::{AgentSign, Refusal, WayReport, claude_moves, process};
use super::choice::{PluginProcess, ProcessRole};
use super::listener::{ListenerEvent, PluginEvent};
use super::{InFlight, Progress, SessionLocation, Work};

/// Claude Code's error if the process holds no session; it has not taken the text then.
const UNBOUND: &str = "no session is bound";
/// Claude Code's reasons for a drop after the person pressed Escape and sent nothing since.
const STOPPED: [&str; 2] = [
    "nobody has sent input since",
    "removed from the queue before it ran",
];

impl Work {
    pub(super) async fn handle_listener_event(&mut self, event: ListenerEvent) {
        match event {
            ListenerEvent::Orders { instance, orders } => {
                self.streams.retain(|_, stream| !stream.is_closed());
                self.handle_stream_end(&instance);
                self.streams.insert(instance, orders);
                self.report_availability().await;
            }
            ListenerEvent::Events {
                instance,
                pid,
                events,
            } => {
                for event in events {
                    self.handle_event(&instance, pid, event).await;
                }
            }
        }
    }

    pub(super) async fn handle_event(
        &mut self,
        instance: &str,
        pid: Option<i32>,
        event: PluginEvent,
    ) {
        match event {
            PluginEvent::Hello { transcript, .. } => {
                self.handle_hello(instance, pid, &transcript).await;
            }
            PluginEvent::Submitted { number, transcript } => {
                self.follow(instance, transcript).await;
                if let Some(text) = self.in_flight.get_mut(&number) {
                    text.stage = Progress::Submitted(Instant::now());
                    self.mark_session_here().await;
                }
            }
            PluginEvent::Dropped { number, why } => {
                // A process that the session has moved to reports the stop in this drop first.
                let says_stopped = STOPPED.iter().any(|words| why.contains(words));
                let refusal = if self.is_escaped || says_stopped {
                    Refusal::Escaped
                } else {
                    Refusal::Refused
                };
                self.not_taken(number, why, refusal).await;
            }
            PluginEvent::Failed { number, why } if why.contains(UNBOUND) => {
                if let Some(text) = self.in_flight.get_mut(&number) {
                    let now = Instant::now();
                    text.stage = Progress::Unbound(now);
                    text.unbound_since.get_or_insert(now);
                    // A process that the session has left may report this late.
                    if self.location == SessionLocation::Here && self.choice.is_current(instance) {
                        self.location = SessionLocation::Away;
                    }
                    self.report_availability().await;
                }
            }
            PluginEvent::Failed { number, why } => {
                self.not_taken(number, why, Refusal::Failed).await;
            }
            event if self.choice.is_current(instance) => self.observe(instance, event).await,
            _ => {}
        }
    }

    async fn handle_hello(&mut self, name: &str, pid: Option<i32>, transcript: &Path) {
        let Some(pid) = pid else { return };
        let arguments =
            process::find_process(pid).map_or_else(Vec::new, |process| process.arguments);
        let us = i32::try_from(std::process::id()).unwrap_or_default();
        let is_ours = process::descends_from(pid, us);
        let name = name.to_owned();
        let instance = PluginProcess { name, pid };
        let role = if self.continues_in(transcript).await {
            self.choice.continues_in(instance.clone())
        } else {
            let is_alive = process::is_alive;
            self.choice
                .hello(instance.clone(), &arguments, is_ours, is_alive)
        };
        if role == ProcessRole::Foreign {
            self.other_instances
                .retain(|(known, _)| process::is_alive(known.pid));
            self.other_instances.push((instance, transcript.to_owned()));
        } else {
            self.adopt(&instance.name, transcript).await;
        }
    }

    /// Whether the session continues in the process that writes `transcript`, according to the
    /// session's own transcript.
    pub(super) async fn continues_in(&self, transcript: &Path) -> bool {
        let Some(ours) = self.choice.transcript().map(Path::to_owned) else {
            return false;
        };
        let other = transcript.to_owned();
        let looked = tokio::task::spawn_blocking(move || claude_moves::moved_to(&ours, &other));
        looked.await.unwrap_or_default()
    }

    /// Records that the session is in this process now.
    pub(super) async fn adopt(&mut self, name: &str, transcript: &Path) {
        // The module before does not report what closes now.
        if !std::mem::take(&mut self.open_calls).is_empty() {
            self.report(WayReport::Sign(AgentSign::Answered)).await;
        }
        if std::mem::take(&mut self.is_menu_open) {
            self.report(WayReport::Sign(AgentSign::MenuClosed)).await;
        }
        self.is_escaped = false;
        self.location = SessionLocation::Here;
        let elsewhere = |text: &&mut InFlight| text.instance.name != name;
        for text in self.in_flight.values_mut().filter(elsewhere) {
            if matches!(text.stage, Progress::Sent) {
                text.stage = Progress::Left(Instant::now());
            }
        }
        if let Some(pid) = self.choice.current().map(|instance| instance.pid)
            && self.holder.replace(pid).is_some_and(|was| was != pid)
        {
            self.report(WayReport::Moved(pid)).await;
        }
        self.follow(name, Some(transcript.to_owned())).await;
        self.report_availability().await;
    }

    /// Follows the transcript that the process which holds the session writes now.
    async fn follow(&mut self, instance: &str, transcript: Option<PathBuf>) {
        let Some(transcript) = transcript.filter(|_| self.choice.is_current(instance)) else {
            return;
        };
        if self.choice.set_transcript(&transcript) {
            self.proof.follow(&transcript);
            self.report(WayReport::Sign(AgentSign::Transcript(transcript)))
                .await;
        }
    }

    /// Limits the time for the row of a text whose turn is over.
    fn end_turn(&mut self) {
        for text in self.in_flight.values_mut() {
            if matches!(text.stage, Progress::Submitted(_)) {
                text.stage = Progress::Left(Instant::now());
            }
        }
    }

    /// Handles an event of the process that holds the session.
    async fn observe(&mut self, instance: &str, event: PluginEvent) {
        self.report_availability().await;
        let sign = match event {
            PluginEvent::Turn { transcript } => {
                self.follow(instance, transcript).await;
                self.mark_session_here().await;
                AgentSign::TurnBegan
            }
            PluginEvent::Rest { .. } => {
                self.open_calls.clear();
                self.end_turn();
                AgentSign::TurnEnded
            }
            PluginEvent::Person => {
                self.is_escaped = false;
                AgentSign::PersonSpoke
            }
            PluginEvent::Escaped => {
                self.is_escaped = true;
                self.end_turn();
                AgentSign::Escaped
            }
            PluginEvent::Ask { call, tool } => {
                self.open_calls.insert(call, tool.clone());
                AgentSign::Asks(tool)
            }
            PluginEvent::Called { call } => {
                if self.open_calls.remove(&call).is_none() {
                    return;
                }
                match self.open_calls.values().next() {
                    Some(tool) => AgentSign::Asks(tool.clone()),
                    None => AgentSign::Answered,
                }
            }
            PluginEvent::Menu {
                name: Some(name), ..
            } => {
                self.is_menu_open = true;
                AgentSign::Menu(name)
            }
            PluginEvent::Menu {
                name: None,
                transcript,
            } => {
                self.follow(instance, transcript).await;
                self.is_menu_open = false;
                AgentSign::MenuClosed
            }
            _ => return,
        };
        self.report(WayReport::Sign(sign)).await;
    }
}
