//! Dead letters that multiply, on one thread and without a store.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use super::super::BrokerState;
use crate::exchange::{Declaration, Exchange, ExchangeType};
use crate::persist::ReadFailed;
use crate::queue::Queue;
use crate::queue::browse::BrowseLimit;
use crate::tests::opened;
use crate::vhost::{BindRequest, Declare, Destination, Published, VhostLabels};
use crate::wire::table::{Table, Value};

fn declare_fanout(broker: &Arc<BrokerState>, name: &str) {
    let declaration = Declaration {
        kind: ExchangeType::Fanout,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    let vhost = broker.vhost("/").unwrap();
    vhost.declare_exchange(name, declaration).unwrap();
}

/// A queue that is bound to a fanout, and always full where it has dead letters.
fn declare(broker: &Arc<BrokerState>, name: &str, source: &str, dead: Option<&str>) -> Arc<Queue> {
    let vhost = broker.vhost("/").unwrap();
    let mut arguments = Table::new();
    if let Some(exchange) = dead {
        arguments.set("x-dead-letter-exchange", Value::text(exchange));
        arguments.set("x-max-length", Value::Int(0));
    }
    let declare = Declare {
        arguments,
        ..Declare::transient(name)
    };
    let mut effects = broker.begin_unit();
    let declared = vhost.declare_queue(declare, &mut effects).unwrap();
    let queue = declared.unwrap().queue;
    broker.end_unit(effects);
    let bind = BindRequest {
        connection: 1,
        ..BindRequest::plain(source, Destination::Queue(Arc::clone(queue.name())))
    };
    vhost.bind(bind).unwrap();
    queue
}

/// Publishes these messages to a fanout in one unit of work.
fn publish(broker: &Arc<BrokerState>, exchange: &str, bodies: std::ops::Range<u32>) {
    let vhost = broker.vhost("/").unwrap();
    let mut effects = broker.begin_unit();
    for body in bodies {
        let content = Published {
            exchange,
            routing_key: "",
            properties: b"\0\0",
            body: &body.to_be_bytes(),
        };
        assert!(vhost.publish(content, &mut effects).unwrap());
    }
    broker.end_unit(effects);
}

/// Lets others run, on the one thread of a test, until the queue has so many messages.
async fn wait_for(queue: &Queue, count: u64) {
    for _ in 0..100_000 {
        if queue.counts().0 == count {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} of {count} in {}", queue.counts().0, queue.name());
}

/// On the one thread of this test, others run between two units of work and at no other time.
#[tokio::test]
async fn a_dead_letter_for_thousands_of_queues_takes_many_units_of_work() {
    let (broker, _kept) = opened().await;
    declare_fanout(&broker, "first");
    declare_fanout(&broker, "dead");
    declare(&broker, "full", "first", Some("dead"));
    let queues: Vec<_> = (0..5_000)
        .map(|number| declare(&broker, &format!("q{number}"), "dead", None))
        .collect();
    publish(&broker, "first", 0..1);
    let at_once = queues.iter().filter(|queue| queue.counts().0 == 1).count();
    assert!(
        (1..3_000).contains(&at_once),
        "{at_once} in one unit of work"
    );
    for queue in &queues {
        wait_for(queue, 1).await;
    }
    broker.store.clone().close().unwrap();
}

/// Each route under way holds a list of its queues, and commits of the store.
#[tokio::test]
async fn a_long_route_waits_until_the_one_before_it_is_over() {
    const FULL: u64 = 20;
    let (broker, _kept) = opened().await;
    declare_fanout(&broker, "dead");
    for number in 0..FULL {
        let first = format!("first-{number}");
        declare_fanout(&broker, &first);
        declare(&broker, &format!("full-{number}"), &first, Some("dead"));
    }
    let queues: Vec<_> = (0..5_000)
        .map(|number| declare(&broker, &format!("q{number}"), "dead", None))
        .collect();
    for number in 0..FULL {
        publish(&broker, &format!("first-{number}"), 0..1);
    }
    let begun = queues.iter().map(|queue| queue.counts().0).max();
    assert_eq!(begun, Some(1), "so many routes are under way");
    for queue in &queues {
        wait_for(queue, FULL).await;
    }
    // However often a letter had to wait, it is counted once.
    let vhost = broker.vhost("/").unwrap();
    let counters = |exchange: &Exchange<_>| {
        let counters = exchange.counters();
        (counters.published.get(), counters.routed.get())
    };
    let counted = vhost.with_exchange("dead", counters);
    assert_eq!(counted, Some((FULL, FULL * queues.len() as u64)));
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn one_message_is_multiplied_so_often_and_no_more() {
    const WIDTH: u64 = 60;
    let (broker, _kept) = opened().await;
    let names = ["f0", "f1", "f2", "f3"];
    for name in names {
        declare_fanout(&broker, name);
    }
    declare(&broker, "full", "f0", Some("f1"));
    let level = |level: usize| {
        let declare = |number| {
            let dead = names.get(level + 1).copied();
            declare(&broker, &format!("{level}-{number}"), names[level], dead)
        };
        (0..WIDTH).map(declare).collect::<Vec<_>>()
    };
    let levels = [level(1), level(2), level(3)];
    publish(&broker, "f0", 0..1);
    let came = |queue: &Arc<Queue>| queue.snapshot().counters.published;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(levels[0].iter().all(|queue| came(queue) == 1));
    assert!(levels[1].iter().all(|queue| came(queue) == WIDTH));
    assert!(levels[2].iter().all(|queue| came(queue) == 0));
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn the_dead_letters_of_a_queue_stay_in_order_where_they_wait() {
    const AT_ONCE: u32 = 5_000;
    let (broker, _kept) = opened().await;
    declare_fanout(&broker, "first");
    declare_fanout(&broker, "dead");
    declare(&broker, "full", "first", Some("dead"));
    let queues = ["a", "b", "c"].map(|name| declare(&broker, name, "dead", None));
    publish(&broker, "first", 0..AT_ONCE);
    // A later unit of work, that could route its own at once.
    publish(&broker, "first", AT_ONCE..AT_ONCE + 1);
    let most = BrowseLimit {
        messages: usize::MAX,
        bytes: usize::MAX,
    };
    for queue in &queues {
        wait_for(queue, u64::from(AT_ONCE) + 1).await;
        let waiting = queue
            .browse(None, most, |_| Ok::<_, ReadFailed>(()))
            .unwrap();
        let body = |one: &crate::queue::browse::WaitingMessage| {
            u32::from_be_bytes(one.message.content().body.try_into().unwrap())
        };
        assert!(waiting.iter().map(body).eq(0..=AT_ONCE), "{}", queue.name());
    }
    broker.store.clone().close().unwrap();
}

#[tokio::test]
async fn dead_letters_of_a_deleted_vhost_do_not_enter_a_new_one_of_its_name() {
    let (broker, _kept) = opened().await;
    declare_fanout(&broker, "first");
    declare_fanout(&broker, "dead");
    declare(&broker, "full", "first", Some("dead"));
    for number in 0..5_000 {
        declare(&broker, &format!("q{number}"), "dead", None);
    }
    publish(&broker, "first", 0..20);
    broker.remove_vhost_here("/").unwrap();
    broker.put_vhost("/", VhostLabels::default()).unwrap();
    declare_fanout(&broker, "dead");
    let new = declare(&broker, "new", "dead", None);
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(new.snapshot().counters.published, 0);
    broker.store.clone().close().unwrap();
}
