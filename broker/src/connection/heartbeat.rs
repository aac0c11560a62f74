//! Heartbeats in both directions. Relies on `registry` for what was sent and received.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::broker_state::BrokerState;
use crate::registry::ConnectionHandle;
use crate::wire::frame;

/// Half-intervals without a byte after which a peer counts as gone: two whole intervals, and half
/// of one for delays on the network.
const SILENT: u32 = 5;

/// Starts a task that sends a heartbeat whenever nothing else was sent for half an interval, and
/// closes the socket of a peer that is silent.
pub(super) fn start(
    broker: &Arc<BrokerState>,
    connection: &Arc<ConnectionHandle>,
) -> JoinHandle<()> {
    let (broker, connection) = (Arc::clone(broker), Arc::clone(connection));
    tokio::spawn(async move {
        let seconds = connection
            .opened
            .get()
            .map_or(0, |opened| opened.heartbeat_s);
        if seconds > 0 {
            send_and_check(
                &broker,
                &connection,
                Duration::from_millis(u64::from(seconds) * 500),
            )
            .await;
        }
    })
}

async fn send_and_check(
    broker: &Arc<BrokerState>,
    connection: &Arc<ConnectionHandle>,
    half: Duration,
) {
    let mut ticks = tokio::time::interval(half);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let (mut sent, mut received, mut silent) =
        (connection.sent.get(), connection.received.get(), 0);
    loop {
        ticks.tick().await;
        if std::mem::replace(&mut sent, connection.sent.get()) == connection.sent.get() {
            let mut effects = broker.begin_unit();
            connection.outbox.write(&mut effects, frame::heartbeat);
            broker.end_unit(effects);
        }
        // While the server does not read from a connection, silence means nothing.
        if std::mem::replace(&mut received, connection.received.get()) != connection.received.get()
            || connection.is_blocked.load(Relaxed)
            || connection.is_paused.load(Relaxed)
        {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent >= SILENT {
            tracing::info!(connection = %connection.name, "dropped: no heartbeat");
            return connection.cut();
        }
    }
}
