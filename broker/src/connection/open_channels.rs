//! The channels that a connection has open, by number. Relies on `channel`.

use crate::admission;
use crate::channel::{Channel, ConnectionContext, FrameResult};
use crate::delivery::effects::Effects;
use crate::fault::{Fault, ReplyCode};
use crate::memory::{CHANNELS, KindCharge};
use crate::wire::frame::{self, Frame};
use crate::wire::method::{self, Method};
use crate::wire::reply;

/// What it costs to open a channel, in steps.
const OPENING_STEPS: u32 = 8;

/// How far the end of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    Done,
    /// The budget is spent.
    Unfinished,
    /// What is left is a publish or a commit, which waits for the store's backlog.
    AwaitsStore,
}

#[derive(Default)]
pub(super) struct OpenChannels {
    /// 0 is never used.
    by_number: Vec<Option<Box<Channel>>>,
    count: usize,
    /// While the connection ends: how many channels, counted from the front of `by_number`, have
    /// removed their consumers from the queues.
    detached: usize,
    /// How many of them have also requeued their deliveries.
    requeued: usize,
    /// For `by_number`.
    charge: Option<KindCharge>,
}

impl OpenChannels {
    pub(super) fn get(&mut self, number: u16) -> Option<&mut Channel> {
        self.by_number.get_mut(usize::from(number))?.as_deref_mut()
    }

    /// A frame on a channel that is not open: it must open it.
    pub(super) fn open(
        &mut self,
        frame: Frame<'_>,
        context: &ConnectionContext,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if frame.kind != frame::METHOD {
            return Err(Fault::connection(
                ReplyCode::ChannelError,
                "expected 'channel.open'",
            ));
        }
        match method::decode(frame.payload) {
            Ok(Method::ChannelOpen) => {}
            // Both sides may have closed at once: the `close-ok` for the second close comes to a
            // channel that is gone.
            Ok(Method::ChannelCloseOk) => return Ok(FrameResult::Done),
            _ => {
                return Err(Fault::connection(
                    ReplyCode::ChannelError,
                    "expected 'channel.open'",
                ));
            }
        }
        let most = context
            .connection
            .opened
            .get()
            .map_or(0, |opened| opened.channel_max);
        if self.count >= usize::from(most) {
            let reason = format!(
                "number of channels opened ({}) has reached the negotiated channel_max ({most})",
                self.count
            );
            return Err(Fault::connection(ReplyCode::NotAllowed, reason));
        }
        effects.spend(OPENING_STEPS);
        Channel::check_room()?;
        let one_at_a_time = admission::check_channel(&context.broker, &context.user)?;
        let slot = usize::from(frame.channel);
        if self.by_number.len() <= slot {
            self.by_number.resize_with(slot + 1, || None);
            let bytes = self.by_number.capacity() * size_of::<Option<Box<Channel>>>();
            let charge = self.charge.get_or_insert_with(|| CHANNELS.charge(0));
            charge.set(bytes);
        }
        self.by_number[slot] = Some(Box::new(Channel::new(context.clone(), frame.channel)));
        drop(one_at_a_time);
        self.count += 1;
        context
            .connection
            .outbox
            .write(effects, |out| reply::channel_open_ok(out, frame.channel));
        Ok(FrameResult::Done)
    }

    pub(super) fn forget(&mut self, number: u16) {
        if let Some(slot) = self.by_number.get_mut(usize::from(number))
            && slot.take().is_some()
        {
            self.count -= 1;
        }
    }

    /// Forgets the routes that channels remember from before the vhost's last change.
    pub(super) fn forget_old_routes(&mut self) {
        for channel in self.by_number.iter_mut().flatten() {
            channel.forget_old_routes();
        }
    }

    /// Ends the channels as far as the budget allows. The work of the channel `begun` continues.
    ///
    /// All consumers leave their queues before any delivery is requeued, which may take many units
    /// of work: until they have left, other consumers may have to wait behind them. And all
    /// deliveries are requeued before work continues that may have to wait for room in the store.
    pub(super) fn close(&mut self, begun: Option<u16>, effects: &mut Effects) -> Release {
        let begun = begun.unwrap_or(0);
        // First, because the store commits nothing else while a commit is in progress.
        if self
            .get(begun)
            .is_some_and(|channel| !channel.leave_queues(effects))
        {
            return Release::Unfinished;
        }
        if !self.leave_queues_and_requeue(effects) {
            return Release::Unfinished;
        }
        if self
            .get(begun)
            .is_some_and(|channel| !channel.finish_work(effects))
        {
            return Release::AwaitsStore;
        }
        while let Some(last) = self.by_number.last_mut() {
            if let Some(channel) = last
                && !channel.close(effects)
            {
                return Release::Unfinished;
            }
            self.by_number.pop();
        }
        self.count = 0;
        Release::Done
    }

    fn leave_queues_and_requeue(&mut self, effects: &mut Effects) -> bool {
        while let Some(slot) = self.by_number.get_mut(self.detached) {
            if let Some(channel) = slot
                && !channel.leave_queues(effects)
            {
                return false;
            }
            self.detached += 1;
            effects.spend(1);
            if effects.is_spent() {
                return false;
            }
        }
        while let Some(slot) = self.by_number.get_mut(self.requeued) {
            if let Some(channel) = slot
                && !channel.leave_queues_and_requeue(effects)
            {
                return false;
            }
            self.requeued += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::registry::{ConnectionHandle, OpenedConnection, SocketEnd};
    use crate::tests::opened;

    /// A read full of them was one unit of work, each with a look at all connections where channels
    /// are limited.
    #[tokio::test]
    async fn every_channel_that_is_opened_counts() {
        let (broker, _kept) = opened().await;
        let end = || SocketEnd {
            host: "127.0.0.1".to_owned(),
            port: 1,
        };
        let connection = Arc::new(ConnectionHandle::new(1, (end(), end()), false, 0));
        let accepted = connection.open(OpenedConnection {
            user: "guest".into(),
            vhost: "/".into(),
            mechanism: "PLAIN",
            client_properties: Box::default(),
            channel_max: 2047,
            frame_max: 4096,
            heartbeat_s: 0,
        });
        accepted.unwrap();
        let context = ConnectionContext {
            broker: Arc::clone(&broker),
            vhost: broker.vhost("/").unwrap(),
            connection,
            user: "guest".into(),
            frame_max: 4096,
            wants_cancel: false,
            wants_blocked: false,
        };
        let mut channels = OpenChannels::default();
        let mut effects = Effects::new(0);
        for number in 1..=100 {
            let opening = Frame {
                kind: frame::METHOD,
                channel: number,
                // `channel.open`.
                payload: &[0, 20, 0, 10, 0],
            };
            channels.open(opening, &context, &mut effects).unwrap();
        }
        assert!(effects.spent() >= 100 * OPENING_STEPS);
        assert_eq!(channels.close(None, &mut Effects::new(0)), Release::Done);
        broker.store.clone().close().unwrap();
    }
}
