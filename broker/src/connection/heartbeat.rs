//! Heartbeats in both directions. Relies on `registry` for what was sent and received.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::broker_state::BrokerState;
use crate::registry::ConnectionHandle;
use crate::wire::frame;

/// Half-intervals without a byte after which a peer counts as gone: two whole intervals and one for
/// the way.
const SILENT: u32 = 5;

/// Starts to send a heartbeat where nothing else was sent for half an interval, and cuts a peer
/// that is silent.
pub(super) fn start(broker: &Arc<BrokerState>, link: &Arc<ConnectionHandle>) -> JoinHandle<()> {
    let (broker, link) = (Arc::clone(broker), Arc::clone(link));
    tokio::spawn(async move {
        let seconds = link.session.get().map_or(0, |session| session.heartbeat_s);
        if seconds > 0 {
            beat(
                &broker,
                &link,
                Duration::from_millis(u64::from(seconds) * 500),
            )
            .await;
        }
    })
}

async fn beat(broker: &Arc<BrokerState>, link: &Arc<ConnectionHandle>, half: Duration) {
    let mut ticks = tokio::time::interval(half);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let (mut sent, mut received, mut silent) = (link.sent.get(), link.received.get(), 0);
    loop {
        ticks.tick().await;
        if std::mem::replace(&mut sent, link.sent.get()) == link.sent.get() {
            let mut effects = broker.begin();
            link.outbox.write(&mut effects, frame::heartbeat);
            broker.end(effects);
        }
        // A connection that is not read from cannot be heard either.
        if std::mem::replace(&mut received, link.received.get()) != link.received.get()
            || link.is_blocked.load(Relaxed)
            || link.is_paused.load(Relaxed)
        {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent >= SILENT {
            tracing::info!(connection = %link.name, "dropped: no heartbeat");
            return link.cut();
        }
    }
}
