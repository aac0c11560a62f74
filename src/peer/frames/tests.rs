//! Our client behind a broker that passes on what no client can read.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use broker::{Broker, BrokerConfig, FirstUser};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames_for_tests::{long, method, name, nested};
use crate::config::{Address, Endpoint, Login, LoginGuard};
use crate::peer::{PeerError, connect};
use crate::transport::{BrokerStream, Duplex, ListenerIdentity, Stream};

/// Stands in what is published for bytes that a foreign broker would pass on.
const MARK: &[u8] = b"unreadable";
/// A wait that only a client that hears nothing reaches.
const LIMIT: Duration = Duration::from_mins(1);

/// A broker's stream in which [`MARK`] is no UTF-8.
fn foreign(mut broker: impl Duplex) -> Stream {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 4096], Vec::new());
        loop {
            tokio::select! {
                Ok(count) = theirs.read(&mut up) => {
                    if count == 0 || broker.write_all(&up[..count]).await.is_err() {
                        return;
                    }
                }
                Ok(count) = broker.read_buf(&mut down) => {
                    if count == 0 {
                        return;
                    }
                    // What may be the beginning of a mark waits for the rest of it.
                    let is_mark = |bytes: &[u8]| bytes == MARK;
                    while let Some(at) = down.windows(MARK.len()).position(is_mark) {
                        down[at..at + MARK.len()].fill(0xff);
                    }
                    let begins = |kept: &usize| down.ends_with(&MARK[..*kept]);
                    let kept = (1..MARK.len()).rev().find(begins).unwrap_or(0);
                    let passed: Vec<u8> = down.drain(..down.len() - kept).collect();
                    if theirs.write_all(&passed).await.is_err() {
                        return;
                    }
                }
                else => return,
            }
        }
    });
    Box::new(ours)
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: Address::local(port),
        login: Login {
            user: "ada".into(),
            password: "pw".into(),
        },
        ca_cert: None,
        guard: LoginGuard::AsGiven,
        is_local_broker: true,
    }
}

async fn consumer(channel: &Channel) -> Consumer {
    let options = QueueDeclareOptions::exclusive();
    let queue = channel.queue_declare("q".into(), options, FieldTable::default());
    queue.await.unwrap();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume("q".into(), "".into(), options, FieldTable::default());
    consumer.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_client_can_read_arrives_without_its_properties_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        port: 0,
        management_port: None,
        data_dir: folder.path().join("data"),
        first_user: Some(FirstUser {
            name: "ada".into(),
            password: "pw".into(),
        }),
        ..BrokerConfig::default()
    };
    let broker = Broker::start(config).await.unwrap();
    let port = broker.addresses().amqp.port();
    let endpoint = endpoint(port);
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let link = BrokerStream {
        stream: foreign(stream),
        listener: ListenerIdentity::Proven,
        is_socket: false,
    };
    let (connection, _) = connect::sign_in(&endpoint, "test", link).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut consumer = consumer(&channel).await;
    let own = || BasicProperties::default().with_user_id("ada".into());
    let mut headers = FieldTable::default();
    headers.insert("unreadable".into(), true.into());
    for (body, properties) in [
        ("one", own().with_content_type("unreadable".into())),
        ("two", own().with_headers(headers)),
        ("three", own()),
    ] {
        let options = BasicPublishOptions::default();
        let sent =
            channel.basic_publish("".into(), "q".into(), options, body.as_bytes(), properties);
        sent.await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let next = tokio::time::timeout(LIMIT, consumer.next()).await;
        let delivery = next.expect("the messages arrive").unwrap().unwrap();
        let user = delivery
            .properties
            .user_id()
            .as_ref()
            .map(ToString::to_string);
        heard.push((String::from_utf8(delivery.data).unwrap(), user));
    }
    let wanted = [("one", None), ("two", None), ("three", Some("ada".into()))];
    assert_eq!(heard, wanted.map(|(body, user)| (body.to_owned(), user)));
    connection.close(200, "done".into()).await.unwrap();
    broker.shutdown().await.unwrap();
}

/// `connection.start` with these properties of the server.
fn greeting(properties: &[u8]) -> Vec<u8> {
    let texts = [long(b"PLAIN"), long(b"en_US")].concat();
    method(
        0,
        10,
        10,
        &[&[0, 9], &long(properties)[..], &texts].concat(),
    )
}

/// What comes of a login to a listener that answers each of our steps with one of these.
async fn sign_in_to(answers: Vec<Vec<u8>>) -> Result<(), PeerError> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        for answer in answers {
            let heard = theirs.read(&mut [0; 4096]).await;
            if !heard.is_ok_and(|count| count > 0) || theirs.write_all(&answer).await.is_err() {
                return;
            }
        }
        // The end of the stream is not what is seen.
        let _heard = theirs.read_to_end(&mut Vec::new()).await;
    });
    let link = BrokerStream {
        stream: Box::new(ours),
        listener: ListenerIdentity::Proven,
        is_socket: false,
    };
    let endpoint = endpoint(1);
    let signing_in = connect::sign_in(&endpoint, "test", link);
    let ended = tokio::time::timeout(LIMIT, signing_in).await;
    ended.expect("an answer").map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_table_of_a_listener_is_too_deep_for_us_to_say_so() {
    // `queue.declare`, which no broker sends.
    let deep = nested(20_000, b"");
    let declare = [&[0, 0][..], &name(b"q"), &[0], &long(&deep)].concat();
    for answers in [
        vec![greeting(&deep)],
        vec![greeting(b""), method(0, 50, 10, &declare)],
    ] {
        let error = sign_in_to(answers).await.unwrap_err();
        assert!(matches!(error, PeerError::Unreadable { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_is_cut_inside_a_character_is_a_refusal() {
    let text = name(b"NOT_ALLOWED - vhost caf\xc3");
    let close = [&530_u16.to_be_bytes()[..], &text, &[0; 4]].concat();
    let refused = sign_in_to(vec![greeting(b""), method(0, 10, 50, &close)]).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, PeerError::SignInRefused { .. }), "{error}");
    assert!(error.to_string().contains("vhost caf?"), "{error}");
}
