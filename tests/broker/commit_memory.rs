//! Commits and publishes by HTTP that add much more to memory than what was sent.

use std::time::Duration;

use crate::loaded::{Loaded, PERSISTENT, PLAIN, declaring, method, publishing};
use crate::raw::{Raw, short};

/// Declares a fanout exchange to many queues.
pub(crate) fn fanout(client: &mut Raw, queues: usize, bits: &[u8]) {
    let exchange = [&b"\0\0"[..], &short("all"), &short("fanout"), b"\0\0\0\0\0"].concat();
    client.method(1, (40, 10), &exchange);
    client.expect(1, (40, 11));
    for number in 0..queues {
        let queue = format!("q{number}");
        client.method(1, (50, 10), &declaring(&queue, bits));
        client.expect(1, (50, 11));
        let names = [short(&queue), short("all"), short("")].concat();
        let bind = [&b"\0\0"[..], &names, b"\0\0\0\0\0"].concat();
        client.method(1, (50, 20), &bind);
        client.expect(1, (50, 21));
    }
}

/// A client with an open transaction.
fn with_transaction(loaded: &Loaded) -> Raw {
    let mut client = loaded.client();
    client
        .stream()
        .set_read_timeout(Some(Duration::from_mins(3)))
        .unwrap();
    client.method(1, (90, 10), b"");
    client.expect(1, (90, 11));
    client
}

/// Each message was counted once, whatever the number of its queues.
#[test]
fn a_transaction_that_would_enter_very_many_queues() {
    let loaded = Loaded::start();
    fanout(&mut loaded.client(), 1_500, b"\0");
    let mut client = with_transaction(&loaded);
    let mut all = publishing(1, ("all", ""), 0, PLAIN, b"x").repeat(3_000);
    all.extend(method(1, (90, 20), b""));
    client.bytes(&all);
    let (code, text) = client.closed().expect("it is committed");
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("a transaction may hold"), "{text}");
    loaded.bear("a transaction for very many queues", vec![client]);
}

/// A commit did not wait for the store, which got a copy of each body for each queue.
#[test]
fn a_commit_of_large_messages_to_many_durable_queues() {
    let loaded = Loaded::start();
    fanout(&mut loaded.client(), 100, b"\x02");
    let mut client = with_transaction(&loaded);
    let mut all = publishing(1, ("all", ""), 0, PERSISTENT, &vec![7; 60_000]).repeat(60);
    all.extend(method(1, (90, 20), b""));
    client.bytes(&all);
    let committed = std::iter::from_fn(|| client.next()).find(|(kind, _, _)| *kind == 1);
    let (_, _, ok) = committed.expect("it is not committed");
    assert_eq!(ok[..4], [0, 90, 0, 21], "{ok:?}");
    loaded.bear("a commit of large messages", vec![client]);
}

/// All copies were made at once, while publishers over AMQP waited for the store.
#[test]
fn large_publishes_by_http_to_many_durable_queues() {
    const QUEUES: usize = 30;
    let loaded = Loaded::with_limit(32);
    fanout(&mut loaded.client(), QUEUES, b"\x02");
    let body = format!(
        r#"{{"properties":{{"delivery_mode":2}},"routing_key":"","payload":"{}",
        "payload_encoding":"string"}}"#,
        "z".repeat(4_000_000)
    );
    let publish = || loaded.answer("POST", "/api/exchanges/%2F/all/publish", &body);
    std::thread::scope(|scope| {
        let publishes = [scope.spawn(publish), scope.spawn(publish)];
        for publish in publishes {
            let (status, answer) = publish.join().unwrap();
            assert_eq!((status, &*answer), (200, r#"{"routed":true}"#));
        }
    });
    let mut client = loaded.client();
    for number in 0..QUEUES {
        client.method(1, (50, 10), &declaring(&format!("q{number}"), b"\x03"));
        let declared = client.expect(1, (50, 11));
        let name = 1 + usize::from(declared[0]);
        assert_eq!(declared[name..name + 4], 2_u32.to_be_bytes(), "q{number}");
    }
    loaded.bear("large publishes by HTTP", vec![client]);
}
