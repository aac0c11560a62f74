//! Large deletions that a `kill -9` cuts short.

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use serde_json::{Value, json};

use crate::loaded::Loaded;
use crate::real::Real;
use crate::running::{declare, durable};

/// Far more than one unit of work removes.
const BINDINGS: usize = 20_000;
/// Likewise.
const QUEUES: usize = 2_000;

async fn declare_exchange(channel: &Channel, passive: bool) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions {
        durable: true,
        passive,
        ..ExchangeDeclareOptions::default()
    };
    let (kind, arguments) = (ExchangeKind::Topic, FieldTable::default());
    let declared = channel.exchange_declare("x".into(), kind, options, arguments);
    declared.await
}

/// Binds the queue `q` to the exchange `x` with very many keys.
async fn bind_very_often(channel: &Channel) {
    for number in 0..BINDINGS {
        let (key, options) = (format!("key.{number}"), QueueBindOptions { nowait: true });
        let ends = ("q".into(), "x".into());
        let bound = channel.queue_bind(ends.0, ends.1, key.into(), options, FieldTable::default());
        bound.await.unwrap();
    }
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    // It is answered after all of these.
    declare(channel, "q", passive).await;
}

fn bindings(real: &Real) -> usize {
    let path = "/api/exchanges/%2F/x/bindings/source";
    let listed = real.server.api(&real.place, path);
    listed.as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_an_exchange_whose_deletion_is_cut_short() {
    let mut real = Real::start();
    for _ in 0..2 {
        let channel = real.connect().await.create_channel().await.unwrap();
        declare(&channel, "q", durable()).await;
        declare_exchange(&channel, false).await.unwrap();
        bind_very_often(&channel).await;
        assert_eq!(bindings(&real), BINDINGS);
        let options = ExchangeDeleteOptions::default();
        channel.exchange_delete("x".into(), options).await.unwrap();
        real.kill_and_restart();
        let connection = real.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let missing = declare_exchange(&channel, true).await.unwrap_err();
        assert!(missing.to_string().contains("NOT_FOUND"), "{missing}");
        let channel = connection.create_channel().await.unwrap();
        declare_exchange(&channel, false).await.unwrap();
        real.kill_and_restart();
        assert_eq!(bindings(&real), 0);
    }
}

fn count(loaded: &Loaded, path: &str) -> usize {
    let (status, listed) = loaded.answer("GET", path, "");
    assert_eq!(status, 200, "{path}: {listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed.as_array().unwrap().len()
}

/// Queues of the vhost `v`, and bindings of its first exchange.
fn contents(loaded: &Loaded) -> [usize; 2] {
    ["queues/v", "exchanges/v/amq.fanout/bindings/source"]
        .map(|path| count(loaded, &format!("/api/{path}")))
}

/// A vhost `v` with very many queues that are bound to an exchange.
fn make_vhost(loaded: &Loaded) {
    let name = |number: usize| format!("q{number}");
    let queue = |number| json!({ "vhost": "v", "name": name(number), "durable": true });
    let binding = |number| {
        json!({
            "vhost": "v", "source": "amq.fanout", "destination": name(number),
            "destination_type": "queue", "routing_key": "", "arguments": {},
        })
    };
    let document = json!({
        "vhosts": [{ "name": "v" }],
        "queues": (0..QUEUES).map(queue).collect::<Vec<_>>(),
        "bindings": (0..QUEUES).map(binding).collect::<Vec<_>>(),
    });
    let (status, answer) = loaded.answer("POST", "/api/definitions", &document.to_string());
    assert!([200, 204].contains(&status), "{status}: {answer}");
    assert_eq!(contents(loaded), [QUEUES, QUEUES]);
}

#[test]
fn a_vhost_whose_deletion_is_cut_short_is_whole_or_gone() {
    let mut loaded = Loaded::start();
    let is_there = |loaded: &Loaded| loaded.answer("GET", "/api/vhosts/v", "").0 == 200;
    for _ in 0..2 {
        make_vhost(&loaded);
        let _unread = loaded.ask("DELETE /api/vhosts/v");
        while is_there(&loaded) {}
        loaded.server.kill_and_restart(&loaded.place);
        if is_there(&loaded) {
            assert_eq!(contents(&loaded), [QUEUES, QUEUES]);
            assert_eq!(loaded.answer("DELETE", "/api/vhosts/v", "").0, 204);
        }
        assert_eq!(loaded.answer("PUT", "/api/vhosts/v", "{}").0, 201);
        loaded.server.kill_and_restart(&loaded.place);
        assert_eq!(contents(&loaded), [0, 0]);
    }
}
