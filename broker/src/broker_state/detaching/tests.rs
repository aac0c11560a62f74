//! On the one thread of these tests, others run between two units of work and at no other time.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use super::super::BrokerState;
use crate::delivery::budget::FULL_STEPS;
use crate::exchange::{Declaration, Exchange, ExchangeType};
use crate::fault::Fault;
use crate::tests::{declare, opened, restart};
use crate::vhost::{BindRequest, Declare, DeleteCondition, Destination, Published};
use crate::wire::table::{Table, Value};

const BINDINGS: usize = 3_000;

/// A durable exchange whose alternate is `other`, with very many bindings to the queue `q`.
fn bind_very_often(broker: &Arc<BrokerState>) {
    let vhost = broker.vhost("/").unwrap();
    let mut arguments = Table::new();
    arguments.set("alternate-exchange", Value::text("other"));
    for (name, arguments) in [("x", arguments), ("other", Table::new())] {
        let declaration = Declaration {
            kind: ExchangeType::Fanout,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments,
        };
        vhost.declare_exchange(name, declaration).unwrap();
    }
    declare(broker, "q");
    declare(broker, "rest");
    let bind = |source, queue: &str, key: String| {
        let bind = BindRequest {
            key: key.into_bytes().into(),
            ..BindRequest::plain(source, Destination::Queue(queue.into()))
        };
        vhost.bind(bind).unwrap();
    };
    bind("other", "rest", String::new());
    for number in 0..BINDINGS {
        bind("x", "q", number.to_string());
    }
}

fn is_leaving(broker: &Arc<BrokerState>, destination: &Destination) -> bool {
    broker.vhost("/").unwrap().left_of(destination).is_some()
}

fn queue(name: &str) -> Destination {
    Destination::Queue(name.into())
}

fn exchange(name: &str) -> Destination {
    Destination::Exchange(name.into())
}

/// Deletes an exchange; false where the caller must try again.
fn delete_exchange(broker: &Arc<BrokerState>, name: &str, unused: bool) -> Result<bool, Fault> {
    let condition = DeleteCondition {
        unused,
        ..DeleteCondition::default()
    };
    let mut effects = broker.begin_unit();
    let vhost = broker.vhost("/").unwrap();
    let deleted = vhost.delete_exchange(name, condition, &mut effects);
    broker.end_unit(effects);
    Ok(deleted?.is_some())
}

fn fanout(auto_delete: bool) -> Declaration {
    Declaration {
        kind: ExchangeType::Fanout,
        durable: true,
        auto_delete,
        internal: false,
        arguments: Table::new(),
    }
}

/// Whether the exchange exists and routes a message to a queue.
fn publish(broker: &Arc<BrokerState>, exchange: &str, key: &str) -> Result<bool, Fault> {
    let content = Published {
        exchange,
        routing_key: key,
        properties: b"\0\0",
        body: b"",
    };
    let mut effects = broker.begin_unit();
    let published = broker.vhost("/").unwrap().publish(content, &mut effects);
    broker.end_unit(effects);
    published
}

fn delete(broker: &Arc<BrokerState>) {
    let vhost = broker.vhost("/").unwrap();
    let mut effects = broker.begin_unit();
    let deleted = vhost.delete_queue("q", DeleteCondition::default(), &mut effects);
    broker.end_unit(effects);
    deleted.unwrap();
}

fn bindings(broker: &Arc<BrokerState>) -> usize {
    let vhost = broker.vhost("/").unwrap();
    vhost
        .with_exchange("x", |exchange| exchange.bindings().count())
        .unwrap()
}

#[tokio::test]
async fn a_queue_with_very_many_bindings_is_deleted_in_many_units_of_work() {
    let (broker, _kept) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    let left = bindings(&broker);
    assert!((BINDINGS / 2..BINDINGS).contains(&left), "{left} are left");
    // What is left leads nowhere, and the alternate exchange takes over at once.
    assert!(publish(&broker, "x", "").unwrap());
    let vhost = broker.vhost("/").unwrap();
    assert_eq!(vhost.queue("rest").unwrap().counts().0, 1);
    for _ in 0..BINDINGS {
        tokio::task::yield_now().await;
    }
    assert_eq!(bindings(&broker), 0);
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn an_exchange_is_deleted_if_unused_without_a_wait_for_bindings_of_others() {
    let (broker, _kept) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    let left = bindings(&broker);
    assert!(left > 0);
    assert!(delete_exchange(&broker, "missing", true).unwrap());
    assert!(delete_exchange(&broker, "other", true).is_err());
    assert_eq!(bindings(&broker), left);
    while !delete_exchange(&broker, "x", true).unwrap() {
        tokio::task::yield_now().await;
    }
    let vhost = broker.vhost("/").unwrap();
    assert!(vhost.with_exchange("x", |_| ()).is_none());
    assert!(!is_leaving(&broker, &queue("q")), "it did not wait");
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn a_new_queue_has_no_bindings_of_an_old_one() {
    let (broker, _kept) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    let vhost = broker.vhost("/").unwrap();
    let again = || {
        let mut effects = broker.begin_unit();
        let declared = vhost.declare_queue(Declare::transient("q"), &mut effects);
        broker.end_unit(effects);
        declared.unwrap()
    };
    assert!(again().is_none());
    while again().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bindings(&broker), 0);
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn what_a_stop_leaves_of_the_bindings_to_a_deleted_queue_does_not_come_back() {
    let (mut broker, (_wakeup, folder)) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    for _ in 0..2 {
        broker = restart(&broker, folder.path()).await;
        assert_eq!(bindings(&broker), 0);
        declare(&broker, "q");
    }
    broker.store.clone().close().unwrap();
}

/// It was taken for the old one, whose last binding goes.
#[tokio::test]
async fn a_new_auto_delete_exchange_outlives_the_bindings_of_an_old_one() {
    let (broker, _kept) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    assert!(delete_exchange(&broker, "x", false).unwrap());
    let vhost = broker.vhost("/").unwrap();
    while vhost.declare_exchange("x", fanout(true)).unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    while is_leaving(&broker, &queue("q")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(bindings(&broker), 0);
    broker.store.clone().close().unwrap();
}

/// An exchange `up` with very many bindings to `x`, which has very many to the queue `q`.
fn bind_in_two_levels(broker: &Arc<BrokerState>) {
    bind_very_often(broker);
    let vhost = broker.vhost("/").unwrap();
    let mut up = fanout(false);
    up.arguments.set("alternate-exchange", Value::text("other"));
    vhost.declare_exchange("up", up).unwrap();
    for number in 0..BINDINGS {
        let bind = BindRequest {
            key: number.to_string().into_bytes().into(),
            ..BindRequest::plain("up", exchange("x"))
        };
        vhost.bind(bind).unwrap();
    }
}

#[tokio::test]
async fn an_exchange_with_very_many_bindings_is_deleted_in_many_units_of_work() {
    let (broker, _kept) = opened().await;
    bind_in_two_levels(&broker);
    let vhost = broker.vhost("/").unwrap();
    assert!(publish(&broker, "up", "").unwrap());
    assert_eq!(vhost.queue("q").unwrap().counts().0, 1);
    assert!(delete_exchange(&broker, "x", false).unwrap());
    let left = vhost.left_of(&exchange("x"));
    let some = BINDINGS / 2..BINDINGS;
    assert!(left.is_some_and(|left| some.contains(&left)), "{left:?}");
    // It routes nothing any more, and what leads to it leads nowhere.
    assert!(publish(&broker, "x", "").is_err());
    assert!(publish(&broker, "up", "").unwrap());
    assert_eq!(vhost.queue("q").unwrap().counts().0, 1);
    assert_eq!(vhost.queue("rest").unwrap().counts().0, 1);
    while is_leaving(&broker, &exchange("x")) {
        tokio::task::yield_now().await;
    }
    let left = |exchange: &Exchange<_>| exchange.bindings().count();
    assert_eq!(vhost.with_exchange("up", left), Some(0));
    let longest = broker.totals.longest_work_unit.get();
    assert!(longest <= 2 * u64::from(FULL_STEPS), "{longest} steps");
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn a_new_exchange_has_no_bindings_of_an_old_one_and_none_come_back() {
    let (broker, (_wakeup, folder)) = opened().await;
    bind_in_two_levels(&broker);
    assert!(delete_exchange(&broker, "x", false).unwrap());
    let vhost = broker.vhost("/").unwrap();
    assert!(
        vhost
            .declare_exchange("x", fanout(false))
            .unwrap()
            .is_none()
    );
    // A queue of the name of what it led to is another one.
    delete(&broker);
    while vhost
        .declare_exchange("x", fanout(false))
        .unwrap()
        .is_none()
    {
        tokio::task::yield_now().await;
    }
    declare(&broker, "q");
    let broker = restart(&broker, folder.path()).await;
    assert_eq!(bindings(&broker), 0);
    assert!(!publish(&broker, "x", "").unwrap());
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn what_a_stop_leaves_of_a_deleted_exchange_does_not_come_back() {
    let (mut broker, (_wakeup, folder)) = opened().await;
    bind_in_two_levels(&broker);
    assert!(delete_exchange(&broker, "x", false).unwrap());
    assert!(is_leaving(&broker, &exchange("x")));
    for _ in 0..2 {
        broker = restart(&broker, folder.path()).await;
        let vhost = broker.vhost("/").unwrap();
        let left = |exchange: &Exchange<_>| exchange.bindings().count();
        assert_eq!(vhost.with_exchange("up", left), Some(0));
        assert!(vhost.queue("q").is_some());
        vhost.declare_exchange("x", fanout(false)).unwrap();
        assert_eq!(bindings(&broker), 0);
    }
    broker.store.clone().close().unwrap();
}

/// Each was deleted by the deletion of the next one, and the stack of the thread overflowed.
#[tokio::test]
async fn a_long_chain_of_auto_delete_exchanges_goes_with_its_queue() {
    const LENGTH: usize = 20_000;
    let (broker, _kept) = opened().await;
    let vhost = broker.vhost("/").unwrap();
    declare(&broker, "q");
    let mut next = queue("q");
    for number in 0..LENGTH {
        let source = number.to_string();
        let declaration = Declaration {
            durable: false,
            ..fanout(true)
        };
        vhost.declare_exchange(&source, declaration).unwrap();
        let bind = BindRequest::plain(&source, next);
        vhost.bind(bind).unwrap();
        next = exchange(&source);
    }
    delete(&broker);
    let last = (LENGTH - 1).to_string();
    while vhost.with_exchange(&last, |_| ()).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(vhost.with_exchange("0", |_| ()).is_none());
    broker.store.clone().close().unwrap();
}
