//! Bringing the next slice of a long queue back from the store. Relies on `ready` and `persist`;
//! blocks on the disk, so it runs on a thread of its own.

use std::sync::Arc;

use super::level::{LoadNeed, LoadRequest, LoadedSlice};
use super::message::Message;
use super::queued::{Persistence, QueuedMessage};
use super::{Queue, limits};
use crate::delivery::effects::Effects;
use crate::memory::{self, EntryCharge};
use crate::time::not_in_the_future;

/// A stamp lies in the future when the wall clock was set back before this process started.
fn with_possible_stamp(message: Message, now_ms: u64) -> Message {
    let stamp_ms = not_in_the_future(message.published_ms(), now_ms);
    if stamp_ms == message.published_ms() {
        return message;
    }
    message.published_at(stamp_ms)
}

impl Queue {
    /// Takes over what the store holds of a level: positions from and to before, count and bytes,
    /// and how far it was delivered.
    pub(crate) fn recover(
        &self,
        level: u8,
        (first, next): (u64, u64),
        (ready, bytes): (u64, u64),
        delivered: Option<u64>,
    ) {
        self.with(|state| {
            state.next_position = state.next_position.max(next);
            state.delivered_before[usize::from(level)] = delivered;
            state.ready.recovered(level, first, ready, bytes);
        });
    }

    /// Asks for the first messages of a queue that was recovered, so that their deadlines are
    /// known.
    pub(crate) fn look_ahead(self: &Arc<Self>, limit_bytes: usize, effects: &mut Effects) {
        self.with(|state| state.request_load(self, LoadNeed::Soon, effects));
        if let Some((queue, wanted)) = effects.loads.last_mut()
            && Arc::ptr_eq(queue, self)
        {
            wanted.limit_bytes = wanted.limit_bytes.min(limit_bytes);
        }
    }

    /// While memory is short, leaves messages that no consumer takes to the store.
    pub(crate) fn unload(self: &Arc<Self>, effects: &mut Effects) {
        if memory::is_short() {
            self.with(|state| {
                state.unload(self, effects);
                limits::arm(self, state, effects);
            });
        }
    }

    /// Decodes a stored message; `None`, and a line in the log, if it is invalid.
    fn decode(&self, position: u64, bytes: &[u8]) -> Option<Message> {
        let decoded = Message::from_stored(bytes);
        if let Err(error) = &decoded {
            tracing::error!(
                queue = %self.name(), position, %error,
                "skipped a stored message that cannot be decoded"
            );
        }
        decoded.ok()
    }

    /// Reads the messages that `wanted` names and delivers what can be delivered.
    pub(crate) fn load(self: &Arc<Self>, wanted: LoadRequest, effects: &mut Effects) {
        let Some(store) = self.store() else { return };
        let Some(wanted) = self.with(|state| state.confirm_load(self, wanted, effects.now_ms))
        else {
            return;
        };
        let read = store.read(wanted.level, wanted.from, wanted.limit_bytes);
        self.with(|state| {
            let slice = match read {
                Ok(slice) => slice,
                Err(error) => {
                    tracing::error!(
                        queue = %self.name(), %error,
                        "cannot read waiting messages from the store; retrying in 1 s"
                    );
                    state.set_unreadable(self, effects);
                    return state.ready.load_failed(wanted);
                }
            };
            let before = state
                .delivered_before
                .get(usize::from(wanted.level))
                .copied()
                .flatten();
            let entry = |(position, bytes): (u64, bytes::Bytes)| {
                let message = self.decode(position, &bytes)?;
                Some(QueuedMessage {
                    position,
                    level: wanted.level,
                    redelivered: before.is_some_and(|through| position <= through),
                    persistence: Persistence::Appended,
                    confirm: None,
                    message: with_possible_stamp(message, effects.now_ms),
                    _charge: EntryCharge::new(),
                })
            };
            let through = slice.last().map(|(position, _)| *position);
            let count = slice.len();
            let messages: Vec<QueuedMessage> = slice.into_iter().filter_map(entry).collect();
            state.may_expire |= messages.iter().any(|entry| entry.message.has_ttl());
            let slice = LoadedSlice::new(messages, count, through);
            if let Some(missing) = state.ready.fill(wanted, slice) {
                if missing.count > 0 {
                    tracing::error!(
                        queue = %self.name(), missing = missing.count,
                        "messages that were counted are not in the store"
                    );
                }
                limits::enforce(self, state, effects);
            }
        });
        if let Err(error) = self.pump(effects) {
            tracing::debug!(queue = %self.name(), %error, "not delivered");
        }
        if wanted.need == LoadNeed::Soon {
            self.with(|state| {
                state.unload_unwanted(self, effects);
                limits::arm(self, state, effects);
            });
        }
    }
}
