//! Texts that a process refused with "no session is bound": the person looks at the agents view.
//!
//! They are sent again until the session is back, in this process or in the one that it moved to.
//! If the session's process has not loaded the plugin, or has ended, another way gets them.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::super::{Refusal, process};
use super::{InFlight, Progress, SessionLocation, Work, numbers};

/// Delay before an unbound text is sent to the same process again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How long a process in which the session's hooks run may take to load the plugin. After that,
/// unbound texts go another way.
const UNBOUND_LIMIT: Duration = Duration::from_secs(15);
/// Why the way is closed.
pub(super) const NO_SESSION: &str =
    "no process of Claude Code that takes messages holds the session";

impl Work {
    /// Looks for the session in processes that sent a hello before the transcript named them.
    async fn find_session(&mut self) {
        for at in 0..self.other_instances.len() {
            if self.continues_in(&self.other_instances[at].1.clone()).await {
                let (instance, transcript) = self.other_instances.remove(at);
                self.choice.continues_in(instance.clone());
                return self.adopt(&instance.name, &transcript).await;
            }
        }
    }

    /// Sends unbound texts again, to the process that holds the session now.
    fn resend_unbound(&mut self) {
        let Some(current) = self.choice.current().cloned() else {
            return;
        };
        let stream = self.stream().cloned();
        for text in self.in_flight.values_mut() {
            let is_due = match text.stage {
                Progress::Unbound(at) => text.instance != current || at.elapsed() >= RESEND_AFTER,
                _ => false,
            };
            let sent = |stream: &Sender<Bytes>| stream.try_send(text.order.clone()).is_ok();
            if is_due && stream.as_ref().is_some_and(sent) {
                text.instance = current.clone();
                text.stage = Progress::Sent;
            }
        }
    }

    /// When an unbound text goes another way; `None` while the session may still appear in a
    /// process with the plugin.
    fn gives_up_at(&self, text: &InFlight) -> Option<Instant> {
        let refused = text.unbound_since?;
        let current = self.choice.current().map(|instance| instance.pid);
        let since = match *self.hooked.borrow() {
            // On a slow machine the hooks of a process run long before it has loaded the plugin.
            Some((pid, began)) if current != Some(pid) => refused.max(began),
            _ if current.is_none_or(|pid| !process::is_alive(pid)) => refused,
            _ => return None,
        };
        Some(since + UNBOUND_LIMIT)
    }

    /// Sends unbound texts again, or reports them as not taken if the session's process has no
    /// plugin or has ended.
    pub(super) async fn resend_or_give_up(&mut self) {
        let is_unbound = |text: &InFlight| matches!(text.stage, Progress::Unbound(_));
        if !self.in_flight.values().any(is_unbound) {
            return;
        }
        self.find_session().await;
        let now = Instant::now();
        let is_given_up = |text: &InFlight| {
            let at = self.gives_up_at(text).filter(|_| is_unbound(text));
            at.is_some_and(|at| now >= at)
        };
        let given_up = numbers(&self.in_flight, is_given_up);
        if !given_up.is_empty() {
            self.location = SessionLocation::OutOfReach;
            self.report_availability().await;
        }
        for number in given_up {
            self.not_taken(number, NO_SESSION.to_owned(), Refusal::Elsewhere)
                .await;
        }
        self.resend_unbound();
    }
}
