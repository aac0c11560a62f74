//! A start with records that it cannot use.

#![allow(clippy::unwrap_used)]
use std::path::Path;
use std::sync::Arc;

use crate::broker_state::BrokerState;
use crate::config::BrokerConfig;
use crate::exchange::{Declaration, ExchangeType};
use crate::persist;
use crate::persist::definition::{
    BindingDefinition, Definition, DestinationKind, ExchangeDefinition, QueueDefinition,
    VhostDefinition,
};
use crate::tests::declare;
use crate::vhost::{BindRequest, Declare, Destination, Published, VhostLabels};
use crate::wakeup;
use crate::wire::table::{Table, Value};

async fn open(folder: &Path) -> Arc<BrokerState> {
    let config = BrokerConfig {
        data_dir: folder.join("data"),
        ..BrokerConfig::default()
    };
    let (waker, _wakeup) = wakeup::channel().unwrap();
    crate::open(&config, waker).await.unwrap()
}

fn queue(name: &str, max_length: Value) -> Definition {
    let mut arguments = Table::new();
    arguments.set("x-max-length", max_length);
    Definition::Queue(QueueDefinition {
        vhost: "/".into(),
        name: name.into(),
        id: 1000,
        auto_delete: false,
        arguments,
    })
}

fn binding(queue: &str) -> Definition {
    Definition::Binding(BindingDefinition {
        vhost: "/".into(),
        source: "amq.topic".into(),
        kind: DestinationKind::Queue,
        destination: queue.into(),
        key: b"key".to_vec(),
        arguments: Table::new(),
    })
}

fn bindings(broker: &BrokerState) -> usize {
    let vhost = broker.vhost("/").unwrap();
    let count = vhost.with_exchange("amq.topic", |exchange| exchange.bindings().count());
    count.unwrap()
}

/// Starts twice with what `spoil` has made of the record of the queue `q`, and then once with one
/// that can be read. Returns how many bindings `q` and a queue without a record have then.
async fn bindings_after(spoil: impl Fn(&BrokerState)) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    for name in ["q", "deleted"] {
        broker.definitions.save(&binding(name)).unwrap();
    }
    spoil(&broker);
    broker.store.clone().close().unwrap();
    for _ in 0..2 {
        let broker = open(folder.path()).await;
        assert_eq!(bindings(&broker), 0);
        broker.store.clone().close().unwrap();
    }
    let broker = open(folder.path()).await;
    let good = |name| {
        Definition::Queue(QueueDefinition {
            vhost: "/".into(),
            name,
            id: 1000,
            auto_delete: false,
            arguments: Table::new(),
        })
    };
    for name in ["q", "deleted"] {
        broker.definitions.save(&good(name.to_owned())).unwrap();
    }
    broker.store.clone().close().unwrap();
    let broker = open(folder.path()).await;
    let count = bindings(&broker);
    broker.store.clone().close().unwrap();
    count
}

/// It cost a queue its bindings for good, though its record and its messages were still there.
#[tokio::test]
async fn the_bindings_of_a_queue_whose_arguments_are_refused_are_kept() {
    let count = bindings_after(|broker| {
        let refused = queue("q", Value::text("none"));
        broker.definitions.save(&refused).unwrap();
    });
    assert_eq!(count.await, 1, "those of the queue with a record");
}

#[tokio::test]
async fn no_binding_is_forgotten_where_a_record_cannot_be_read() {
    let count = bindings_after(|broker| {
        let key = queue("q", Value::Long(1)).key();
        // A version that a newer program may write.
        broker.store.put(&key, vec![200]).unwrap();
    });
    assert_eq!(count.await, 2, "any of them may be of that record");
}

/// An auto-delete exchange.
fn exchange(name: &str) -> Definition {
    Definition::Exchange(ExchangeDefinition {
        vhost: "/".into(),
        name: name.into(),
        kind: "fanout".into(),
        auto_delete: true,
        internal: false,
        arguments: Table::new(),
    })
}

fn bound(source: &str, (kind, destination): (DestinationKind, &str)) -> Definition {
    Definition::Binding(BindingDefinition {
        vhost: "/".into(),
        source: source.into(),
        kind,
        destination: destination.into(),
        key: b"key".to_vec(),
        arguments: Table::new(),
    })
}

/// The deletion of a queue with very many bindings takes several commits. The exchange that loses
/// its last binding at the start instead stayed for ever.
#[tokio::test]
async fn an_auto_delete_exchange_whose_last_binding_led_to_a_deleted_queue_goes_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    declare(&broker, "q");
    let (to_queue, to_exchange) = (DestinationKind::Queue, DestinationKind::Exchange);
    let records = [
        exchange("lost"),
        bound("lost", (to_queue, "deleted")),
        // Its binding is lost with the exchange that it leads to.
        exchange("before"),
        bound("before", (to_exchange, "lost")),
        exchange("used"),
        bound("used", (to_queue, "deleted")),
        bound("used", (to_queue, "q")),
        exchange("never bound"),
    ];
    for record in &records {
        broker.definitions.save(record).unwrap();
    }
    broker.store.clone().close().unwrap();
    for _ in 0..2 {
        let broker = open(folder.path()).await;
        let vhost = broker.vhost("/").unwrap();
        let is_there = |name| vhost.with_exchange(name, |_| ()).is_some();
        let found = ["lost", "before", "used", "never bound"].map(is_there);
        assert_eq!(found, [false, false, true, true]);
        broker.store.clone().close().unwrap();
    }
    let found = persist::open(&folder.path().join("data"), |_| ()).unwrap();
    assert!(!found.topology.contains(&records[3]), "its record is gone");
    found.store.close().unwrap();
}

/// The exchange was deleted, and at the next start so was the record of the binding that was kept.
#[tokio::test]
async fn an_auto_delete_exchange_with_a_binding_that_cannot_be_restored_stays_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let kept = bound("used", (DestinationKind::Queue, "refused"));
    let records = [
        exchange("used"),
        bound("used", (DestinationKind::Queue, "deleted")),
        queue("refused", Value::text("none")),
        kept.clone(),
    ];
    for record in &records {
        broker.definitions.save(record).unwrap();
    }
    broker.store.clone().close().unwrap();
    for _ in 0..2 {
        let broker = open(folder.path()).await;
        let vhost = broker.vhost("/").unwrap();
        assert!(vhost.with_exchange("used", |_| ()).is_some());
        broker.store.clone().close().unwrap();
    }
    let found = persist::open(&folder.path().join("data"), |_| ()).unwrap();
    assert!(found.topology.contains(&kept), "its record is kept");
    found.store.close().unwrap();
}

/// As at RabbitMQ, where a binding must be removed, not forgotten, for its exchange to go.
#[tokio::test]
async fn an_auto_delete_exchange_that_transient_queues_alone_kept_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let vhost = broker.vhost("/").unwrap();
    let declaration = Declaration {
        kind: ExchangeType::Fanout,
        durable: true,
        auto_delete: true,
        internal: false,
        arguments: Table::new(),
    };
    vhost.declare_exchange("kept", declaration).unwrap();
    let transient = Declare::transient("transient");
    vhost
        .declare_queue(transient, &mut broker.begin_unit())
        .unwrap();
    let to = |queue: &str| BindRequest::plain("kept", Destination::Queue(queue.into()));
    vhost.bind(to("transient")).unwrap();
    broker.store.clone().close().unwrap();
    let broker = open(folder.path()).await;
    let vhost = broker.vhost("/").unwrap();
    let bindings = || vhost.with_exchange("kept", |exchange| exchange.bindings().count());
    assert_eq!(bindings(), Some(0));
    declare(&broker, "q");
    vhost.bind(to("q")).unwrap();
    let mut effects = broker.begin_unit();
    vhost.unbind(&to("q"), &mut effects).unwrap();
    broker.end_unit(effects);
    assert_eq!(bindings(), None);
    broker.store.clone().close().unwrap();
}

/// A record that a deleted vhost is being removed, and a queue there with a message. With
/// `is_damaged`, the store then loses something. Returns the messages of the queue once the vhost
/// was made again, and whether the store still records the deletion.
async fn messages_after_a_deletion(is_damaged: bool) -> (u64, bool) {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let vhost = "v".to_owned();
    let labels = VhostLabels::default();
    broker.put_vhost(&vhost, labels.clone()).unwrap();
    let declare = Declare {
        durable: true,
        ..Declare::transient("q")
    };
    let mut effects = broker.begin_unit();
    let made = broker.vhost(&vhost).unwrap();
    made.declare_queue(declare, &mut effects).unwrap();
    let content = Published {
        exchange: "",
        routing_key: "q",
        // Persistent.
        properties: b"\x10\0\x02",
        body: b"x",
    };
    assert!(made.publish(content, &mut effects).unwrap());
    broker.end_unit(effects);
    let record = Definition::Vhost(VhostDefinition {
        name: vhost.clone(),
        description: String::new(),
        tags: Vec::new(),
    });
    let deletion = Definition::DeletedVhost {
        name: vhost.clone(),
    };
    broker.definitions.forget(&record).unwrap();
    broker.definitions.save(&deletion).unwrap();
    broker.store.clone().close().unwrap();
    if is_damaged {
        let damaged = folder.path().join("data/log/000099.log");
        std::fs::write(damaged, vec![7; 8192]).unwrap();
    }
    // The second start does not find the damage any more.
    for _ in 0..2 {
        let broker = open(folder.path()).await;
        assert!(broker.vhost(&vhost).is_none());
        broker.store.clone().close().unwrap();
    }
    let broker = open(folder.path()).await;
    broker.put_vhost(&vhost, labels).unwrap();
    broker.store.clone().close().unwrap();
    let broker = open(folder.path()).await;
    let queue = broker.vhost(&vhost).unwrap().queue("q");
    let messages = queue.map_or(0, |queue| queue.counts().0);
    broker.store.clone().close().unwrap();
    let data = folder.path().join("data");
    let found = persist::open(&data, |_| ()).unwrap();
    let is_recorded = found.topology.contains(&deletion);
    found.store.close().unwrap();
    (messages, is_recorded)
}

#[tokio::test]
async fn a_deletion_that_a_crash_cut_short_is_finished() {
    assert_eq!(messages_after_a_deletion(false).await, (0, false));
}

/// The lost record may be that of a newer vhost of its name: it was emptied.
#[tokio::test]
async fn nothing_is_deleted_at_a_start_that_found_damage() {
    assert_eq!(messages_after_a_deletion(true).await, (1, false));
}

/// It got the number of a queue that was there and empty, and with it each other's messages.
#[tokio::test]
async fn a_new_queue_has_a_number_of_its_own_where_the_counter_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let number = |broker, name| declare(broker, name).store().unwrap().base();
    let old = number(&broker, "old");
    let counter = Definition::Counter {
        name: "queue".into(),
        next: 0,
    };
    broker.store.put(&counter.key(), vec![200]).unwrap();
    broker.store.clone().close().unwrap();
    let broker = open(folder.path()).await;
    assert_eq!(number(&broker, "old"), old);
    assert_ne!(number(&broker, "new"), old);
    broker.store.clone().close().unwrap();
}

/// Such a key was accepted once, and cut within a character when a message was dead-lettered. Each
/// consumer that decodes keys strictly lost its connection at that message.
#[tokio::test]
async fn a_stored_queue_with_a_long_dead_letter_key_is_restored_and_its_key_is_cut_whole() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path()).await;
    let mut arguments = Table::new();
    arguments.set("x-dead-letter-exchange", Value::text(""));
    let long = "\u{e9}".repeat(200);
    arguments.set("x-dead-letter-routing-key", Value::text(&long));
    let record = Definition::Queue(QueueDefinition {
        vhost: "/".into(),
        name: "q".into(),
        id: 1000,
        auto_delete: false,
        arguments,
    });
    broker.definitions.save(&record).unwrap();
    broker.store.clone().close().unwrap();
    let broker = open(folder.path()).await;
    let queue = broker.vhost("/").unwrap().queue("q").unwrap();
    let letters = queue.identity.arguments.dead_letters.clone().unwrap();
    assert_eq!(letters.routing_key.unwrap(), "\u{e9}".repeat(127));
    // Who declares it again, as before, gets it.
    let declare = Declare {
        durable: true,
        arguments: queue.identity.table.clone(),
        ..Declare::transient("q")
    };
    let vhost = broker.vhost("/").unwrap();
    let again = vhost.declare_queue(declare, &mut broker.begin_unit());
    assert!(Arc::ptr_eq(&again.unwrap().unwrap().queue, &queue));
    broker.store.clone().close().unwrap();
}
