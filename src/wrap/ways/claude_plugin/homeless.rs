//! Texts that a process refused because it holds no session: the person looks at the agents view.
//!
//! They are offered again until the session is back, in this process or in the one that it moved
//! to. Where it runs without the plugin, or no longer, another way gets them.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::super::{Refusal, process};
use super::{InFlight, Progress, SessionHome, Work, numbers};

/// A text that found no session is offered to the same process again after this.
const OFFER_AGAIN: Duration = Duration::from_secs(1);
/// A process in which the session's hooks run has so long to load the plugin; then texts that found
/// no session go another way.
const HOMELESS_LIMIT: Duration = Duration::from_secs(15);
/// Why the way is closed.
pub(super) const NO_SESSION: &str =
    "no process of Claude Code that takes messages holds the session";

impl Work {
    /// Looks for the session in processes that said hello before the transcript named them.
    async fn find_home(&mut self) {
        for at in 0..self.strangers.len() {
            if self.goes_on_in(&self.strangers[at].1.clone()).await {
                let (instance, transcript) = self.strangers.remove(at);
                self.choice.goes_on_in(instance.clone());
                return self.adopt(&instance.name, &transcript).await;
            }
        }
    }

    /// Texts that a process without a session refused are offered again, wherever the session is
    /// now.
    fn send_homeless(&mut self) {
        let Some(current) = self.choice.current().cloned() else {
            return;
        };
        let stream = self.stream().cloned();
        for text in self.in_flight.values_mut() {
            let is_due = match text.stage {
                Progress::Homeless(at) => text.instance != current || at.elapsed() >= OFFER_AGAIN,
                _ => false,
            };
            let sent = |stream: &Sender<Bytes>| stream.try_send(text.order.clone()).is_ok();
            if is_due && stream.as_ref().is_some_and(sent) {
                text.instance = current.clone();
                text.stage = Progress::Sent;
            }
        }
    }

    /// When a text that found no session goes another way. `None`: it waits for the session, which
    /// is nowhere yet.
    fn gives_up_at(&self, text: &InFlight) -> Option<Instant> {
        let refused = text.homeless_since?;
        let current = self.choice.current().map(|instance| instance.pid);
        let since = match *self.hooked.borrow() {
            // On a slow machine its hooks run long before it has loaded the plugin.
            Some((pid, began)) if current != Some(pid) => refused.max(began),
            _ if current.is_none_or(|pid| !process::is_alive(pid)) => refused,
            _ => return None,
        };
        Some(since + HOMELESS_LIMIT)
    }

    /// Offers the texts that found no session again. Where the session runs without the plugin, or
    /// no longer, they are given back so that another way takes them.
    pub(super) async fn offer_again_or_give_up(&mut self) {
        let is_homeless = |text: &InFlight| matches!(text.stage, Progress::Homeless(_));
        if !self.in_flight.values().any(is_homeless) {
            return;
        }
        self.find_home().await;
        let now = Instant::now();
        let is_given_up = |text: &InFlight| {
            let at = self.gives_up_at(text).filter(|_| is_homeless(text));
            at.is_some_and(|at| now >= at)
        };
        let given_up = numbers(&self.in_flight, is_given_up);
        if !given_up.is_empty() {
            self.home = SessionHome::OutOfReach;
            self.tell_open().await;
        }
        for number in given_up {
            self.not_taken(number, NO_SESSION.to_owned(), Refusal::Elsewhere)
                .await;
        }
        self.send_homeless();
    }
}
