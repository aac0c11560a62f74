//! On the one thread of these tests, others run between two units of work and at no other time.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use super::super::BrokerState;
use crate::config::BrokerConfig;
use crate::exchange::{Declaration, ExchangeType};
use crate::tests::{declare, opened};
use crate::vhost::{BindRequest, DeleteCondition, Destination, Published};
use crate::wakeup;
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
            source,
            destination: Destination::Queue(queue.into()),
            key: key.into_bytes().into(),
            arguments: Table::new(),
            connection: 0,
        };
        vhost.bind(bind).unwrap();
    };
    bind("other", "rest", String::new());
    for number in 0..BINDINGS {
        bind("x", "q", number.to_string());
    }
}

fn delete(broker: &Arc<BrokerState>) {
    let vhost = broker.vhost("/").unwrap();
    let mut effects = broker.begin();
    let deleted = vhost.delete_queue("q", DeleteCondition::default(), &mut effects);
    broker.end(effects);
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
    let mut effects = broker.begin();
    let content = Published {
        exchange: "x",
        routing_key: "",
        properties: b"\0\0",
        body: b"",
    };
    let vhost = broker.vhost("/").unwrap();
    assert!(vhost.publish(content, &mut effects).unwrap());
    broker.end(effects);
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
    let vhost = broker.vhost("/").unwrap();
    let if_unused = DeleteCondition {
        unused: true,
        ..DeleteCondition::default()
    };
    vhost.delete_exchange("missing", if_unused).unwrap();
    assert!(vhost.delete_exchange("other", if_unused).is_err());
    assert_eq!(bindings(&broker), left);
    assert!(vhost.is_losing_bindings("x") && !vhost.is_losing_bindings("other"));
    vhost.delete_exchange("x", if_unused).unwrap();
    assert!(vhost.with_exchange("x", |_| ()).is_none());
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn a_new_queue_has_no_bindings_of_an_old_one() {
    let (broker, _kept) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    declare(&broker, "q");
    assert_eq!(bindings(&broker), 0);
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn what_a_stop_leaves_of_the_bindings_to_a_deleted_queue_does_not_come_back() {
    let (mut broker, (_wakeup, folder)) = opened().await;
    bind_very_often(&broker);
    delete(&broker);
    for _ in 0..2 {
        broker.store.clone().close().unwrap();
        let config = BrokerConfig {
            data_dir: folder.path().join("data"),
            ..BrokerConfig::default()
        };
        let (waker, _wakeup) = wakeup::channel().unwrap();
        broker = crate::open(&config, waker).await.unwrap();
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
    let vhost = broker.vhost("/").unwrap();
    assert!(vhost.is_detaching("q"));
    vhost
        .delete_exchange("x", DeleteCondition::default())
        .unwrap();
    let declaration = Declaration {
        kind: ExchangeType::Fanout,
        durable: true,
        auto_delete: true,
        internal: false,
        arguments: Table::new(),
    };
    vhost.declare_exchange("x", declaration).unwrap();
    while vhost.is_detaching("q") {
        tokio::task::yield_now().await;
    }
    assert_eq!(bindings(&broker), 0);
    broker.store.clone().close().unwrap();
}
