//! The store's progress and the alarms that block publishers (disk, memory, backlog).
//!
//! The store's thread writes them into one watched value that connections await, and wakes the task
//! that releases confirms. Depends on `persist` and `wakeup`.

use tokio::sync::watch;

use crate::persist::{StoreEvent, Ticket};
use crate::wakeup::{Waker, Wakeup};

/// The store's progress and the alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts that are watched together"
)]
pub(crate) struct AlarmState {
    pub(crate) durable: Ticket,
    /// Too many changes are waiting for their commit.
    pub(crate) is_backlogged: bool,
    pub(crate) is_disk_full: bool,
    pub(crate) is_memory_high: bool,
    /// Ready messages that no store has hold their part of the memory limit.
    pub(crate) is_transient_high: bool,
    /// The store has stopped: nothing more becomes durable.
    pub(crate) is_stopped: bool,
}

impl AlarmState {
    /// The reason for `connection.blocked`, in RabbitMQ's words. `stays` says whether the messages
    /// of the publisher stay in memory.
    pub(crate) fn blocked_reason(&self, stays: bool) -> Option<&'static str> {
        let is_memory_high = self.is_memory_high || (stays && self.is_transient_high);
        match (self.is_disk_full, is_memory_high) {
            (true, true) => Some("low on memory & disk"),
            (true, false) => Some("low on disk"),
            (false, true) => Some("low on memory"),
            (false, false) => None,
        }
    }

    /// Whether connections that publish must not be read from. `stays` as for
    /// [`Self::blocked_reason`].
    pub(crate) fn blocks(&self, stays: bool) -> bool {
        !self.is_stopped
            && (self.is_backlogged
                || self.is_disk_full
                || self.is_memory_high
                || (stays && self.is_transient_high))
    }

    /// Whether the store is behind with its changes, and will catch up: it does not while the disk
    /// is full.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_backlogged && !self.is_disk_full && !self.is_stopped
    }

    /// Whether nothing is read from the store that would then stay in memory, because that is
    /// short. On a full disk it is read: the acks for it may be what frees the disk.
    pub(crate) fn holds_back_reads(&self) -> bool {
        (self.is_memory_high || self.is_transient_high) && !self.is_disk_full && !self.is_stopped
    }

    /// Whether publishers are blocked for want of memory alone.
    pub(crate) fn is_memory_alone(&self) -> bool {
        (self.is_memory_high || self.is_transient_high)
            && !(self.is_backlogged || self.is_disk_full || self.is_stopped)
    }
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Alarms {
    state: watch::Sender<AlarmState>,
    /// Whether publishers are blocked for a reason that is sent to clients. Changes far less often
    /// than `state`, so that idle connections can await it.
    blocking: watch::Sender<bool>,
    /// [`AlarmState::holds_back_reads`], which changes as seldom: very many queues may await it.
    holding_back: watch::Sender<bool>,
    /// Woken whenever more is durable.
    pub(crate) durable: Waker,
}

impl Alarms {
    pub(crate) fn new(durable: Waker) -> Self {
        let state = AlarmState {
            durable: Ticket::NONE,
            is_backlogged: false,
            is_disk_full: false,
            is_memory_high: false,
            is_transient_high: false,
            is_stopped: false,
        };
        Self {
            state: watch::Sender::new(state),
            blocking: watch::Sender::new(false),
            holding_back: watch::Sender::new(false),
            durable,
        }
    }

    /// Records what the store's thread reports.
    pub(crate) fn on_progress(&self, progress: &StoreEvent) {
        self.state.send_modify(|state| match progress {
            StoreEvent::Durable(ticket) => state.durable = state.durable.max(*ticket),
            StoreEvent::Backlogged => state.is_backlogged = true,
            StoreEvent::Drained => state.is_backlogged = false,
            StoreEvent::NoRoom => state.is_disk_full = true,
            StoreEvent::Room => state.is_disk_full = false,
            StoreEvent::Stopped(_) => state.is_stopped = true,
        });
        match progress {
            StoreEvent::Durable(_) => self.durable.wake(),
            StoreEvent::NoRoom | StoreEvent::Room | StoreEvent::Stopped(_) => {
                self.update_summaries();
            }
            StoreEvent::Backlogged | StoreEvent::Drained => {}
        }
    }

    /// Updates what follows from `state` and is awaited by many. Reads `state` under the lock of
    /// each, so that the last caller writes the last value.
    fn update_summaries(&self) {
        let update = |summary: &watch::Sender<bool>, of: fn(AlarmState) -> bool| {
            summary.send_if_modified(|value| {
                let now = of(self.now());
                std::mem::replace(value, now) != now
            });
        };
        update(&self.blocking, |state| {
            state.blocks(false) && state.blocked_reason(false).is_some()
        });
        update(&self.holding_back, |state| state.holds_back_reads());
    }

    /// Sets the memory alarm. Returns true if it changed.
    pub(crate) fn set_memory_high(&self, is_high: bool) -> bool {
        let is_changed = self.state.send_if_modified(|state| {
            std::mem::replace(&mut state.is_memory_high, is_high) != is_high
        });
        self.update_summaries();
        is_changed
    }

    /// Sets the alarm about transient messages. Idle publishers are not told of it.
    pub(crate) fn set_transient_high(&self, is_high: bool) {
        let is_changed = self.state.send_if_modified(|state| {
            std::mem::replace(&mut state.is_transient_high, is_high) != is_high
        });
        if is_changed {
            self.update_summaries();
        }
    }

    /// Returns what the task that releases confirms awaits.
    pub(crate) fn progress(&self, durable: Wakeup) -> AwaitedProgress<'_> {
        AwaitedProgress {
            alarms: self,
            wakeup: Some(durable),
            state: self.state.subscribe(),
        }
    }

    pub(crate) fn now(&self) -> AlarmState {
        *self.state.borrow()
    }

    /// Returns what an idle connection awaits to tell its client that publishers are blocked.
    pub(crate) fn blocking(&self) -> watch::Receiver<bool> {
        self.blocking.subscribe()
    }

    /// Returns what a read of the store awaits whose messages would stay in memory.
    pub(crate) fn holding_back(&self) -> watch::Receiver<bool> {
        self.holding_back.subscribe()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<AlarmState> {
        self.state.subscribe()
    }
}

/// Waits for progress of the store: through the wakeup pipe, or, once that has failed, through the
/// watched value, which costs a little more.
pub(crate) struct AwaitedProgress<'a> {
    alarms: &'a Alarms,
    wakeup: Option<Wakeup>,
    state: watch::Receiver<AlarmState>,
}

impl AwaitedProgress<'_> {
    /// Returns when more may be durable than at the last return.
    pub(crate) async fn made(&mut self) {
        if let Some(wakeup) = &self.wakeup {
            match wakeup.wait(&self.alarms.durable).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(
                        %error,
                        "the wakeup pipe failed; confirms are sent without it from now on"
                    );
                    self.wakeup = None;
                    return;
                }
            }
        }
        // An error means that the sender is gone, but `alarms` holds it.
        let _ = self.state.changed().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::wakeup::channel;

    #[tokio::test]
    async fn progress_is_seen_after_the_wake_up_pipe_has_failed() {
        let alarms = Alarms::new(channel().unwrap().0);
        // The other end of this pipe is closed, as after an error.
        let (gone, wakeup) = channel().unwrap();
        drop(gone);
        let mut progress = alarms.progress(wakeup);
        progress.made().await;
        for _ in 0..3 {
            alarms.on_progress(&StoreEvent::Durable(Ticket::NONE));
            let seen = tokio::time::timeout(Duration::from_secs(20), progress.made()).await;
            assert!(seen.is_ok());
        }
    }
}
