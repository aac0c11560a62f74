//! Vhosts that are deleted while others use them.

#![allow(clippy::unwrap_used)]
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::broker_state::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::exchange::{Declaration, ExchangeType};
use crate::fault::{Fault, ReplyCode};
use crate::lock::read;
use crate::tap::{Batch, TapEvent};
use crate::tests::{opened, restart};
use crate::users::Users;
use crate::vhost::{BindRequest, Declare, Destination, Published, VhostLabels};
use crate::wire::table::Table;

/// Lets everybody delete a vhost.
const ANYBODY: fn(&Users) -> Result<(), Fault> = |_| Ok(());

/// Deletes the vhost in a task of its own.
fn start_deleting(broker: &Arc<BrokerState>) -> JoinHandle<Result<(), Fault>> {
    let broker = Arc::clone(broker);
    tokio::spawn(async move { broker.remove_vhost("v", ANYBODY).await.map(drop) })
}

/// It was made, and the old one's deletion then took its record away: the next start had none.
#[tokio::test(flavor = "multi_thread")]
async fn a_vhost_is_made_again_once_the_old_one_is_gone_and_then_survives_a_restart() {
    let (broker, (_wakeup, folder)) = opened().await;
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    // A deletion needs the users for the rights that end with the vhost.
    let users = read(&broker.users);
    let deleting = start_deleting(&broker);
    while broker.vhost("v").is_some() {
        std::thread::yield_now();
    }
    let refused = broker.put_vhost("v", VhostLabels::default());
    assert_eq!(refused.unwrap_err().code, ReplyCode::ResourceLocked);
    assert!(broker.vhost("v").is_none());
    drop(users);
    deleting.await.unwrap().unwrap();
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    let broker = restart(&broker, folder.path()).await;
    assert!(broker.vhost("v").is_some());
    broker.store.clone().close().unwrap();
}

/// What a connection that was still in it declared stayed in the store for good, and came into the
/// next vhost of that name.
#[tokio::test]
async fn nothing_is_declared_in_a_vhost_that_is_deleted() {
    let (broker, _kept) = opened().await;
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    let vhost = broker.vhost("v").unwrap();
    broker.remove_vhost("v", ANYBODY).await.unwrap();
    let declaration = Declaration {
        kind: ExchangeType::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    let declare = Declare {
        durable: true,
        ..Declare::transient("q")
    };
    let mut effects = broker.begin_unit();
    for refused in [
        vhost.declare_exchange("x", declaration).map(drop),
        vhost.declare_queue(declare, &mut effects).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code, ReplyCode::ConnectionForced);
    }
    broker.end_unit(effects);
    broker.store.clone().close().unwrap();
}

/// They were shown to whoever may read in the next vhost of the name.
#[tokio::test]
async fn the_tap_keeps_nothing_of_a_deleted_vhost() {
    let (broker, _kept) = opened().await;
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    let mut listener = broker.tap.keep_open();
    for vhost in ["v", "/", "v", "v"] {
        broker.tap.note(TapEvent::published_in(vhost));
    }
    broker.remove_vhost("v", ANYBODY).await.unwrap();
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    broker.tap.note(TapEvent::published_in("v"));
    assert_eq!(listener.take(9), Batch::Missed(1));
    assert_eq!(
        listener.take(9),
        Batch::Lines(vec![Arc::new(TapEvent::published_in("/"))])
    );
    assert_eq!(listener.take(9), Batch::Missed(2));
    assert_eq!(
        listener.take(9),
        Batch::Lines(vec![Arc::new(TapEvent::published_in("v"))])
    );
    assert_eq!(listener.take(9), Batch::Lines(Vec::new()));
    broker.store.clone().close().unwrap();
}

const QUEUES: usize = 2_000;

/// A vhost with very many durable queues, each bound to an exchange of its kind and with a message.
fn make_large(broker: &Arc<BrokerState>) {
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    let vhost = broker.vhost("v").unwrap();
    for number in 0..QUEUES {
        let name = format!("q{number}");
        let declare = Declare {
            durable: true,
            ..Declare::transient(&name)
        };
        let mut effects = broker.begin_unit();
        vhost.declare_queue(declare, &mut effects).unwrap();
        let bind = BindRequest::plain("amq.fanout", Destination::Queue(name.as_str().into()));
        vhost.bind(bind).unwrap();
        let content = Published {
            exchange: "",
            routing_key: &name,
            // Persistent.
            properties: b"\x10\0\x02",
            body: b"x",
        };
        assert!(vhost.publish(content, &mut effects).unwrap());
        broker.end_unit(effects);
    }
}

/// On the one thread of this test, others run between two units of work and at no other time.
#[tokio::test]
async fn a_vhost_with_very_many_queues_is_deleted_in_many_units_of_work() {
    let (broker, (_wakeup, folder)) = opened().await;
    make_large(&broker);
    let vhost = broker.vhost("v").unwrap();
    let deleting = start_deleting(&broker);
    let mut most = 0;
    let mut before = QUEUES;
    while before > 0 {
        let now = vhost.queue_count();
        most = most.max(before - now);
        before = now;
        tokio::task::yield_now().await;
    }
    assert!(
        most <= FULL_STEPS as usize / 16,
        "{most} in one unit of work"
    );
    deleting.await.unwrap().unwrap();
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    assert_empty_and_whole(&broker, folder.path()).await;
}

/// What was left of it came into the next vhost of its name.
#[tokio::test]
async fn what_a_stop_leaves_of_a_deleted_vhost_does_not_come_back() {
    let (broker, (_wakeup, folder)) = opened().await;
    make_large(&broker);
    let vhost = broker.vhost("v").unwrap();
    let deleting = start_deleting(&broker);
    while vhost.queue_count() == QUEUES {
        tokio::task::yield_now().await;
    }
    assert!(vhost.queue_count() > 0, "it was one unit of work");
    let broker = restart(&broker, folder.path()).await;
    assert!(deleting.await.unwrap().is_err(), "the store was closed");
    assert!(broker.vhost("v").is_none());
    broker.put_vhost("v", VhostLabels::default()).unwrap();
    assert_empty_and_whole(&broker, folder.path()).await;
}

/// The vhost is there and empty, also after a restart.
async fn assert_empty_and_whole(broker: &Arc<BrokerState>, folder: &Path) {
    let broker = restart(broker, folder).await;
    let vhost = broker.vhost("v").unwrap();
    assert_eq!(vhost.queue_count(), 0);
    let bindings = vhost.with_exchange("amq.fanout", |exchange| exchange.bindings().count());
    assert_eq!(bindings, Some(0));
    broker.store.clone().close().unwrap();
}
