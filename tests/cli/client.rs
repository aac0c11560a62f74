//! The program's own AMQP client, for tests that would need too many processes.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use cbroker::config::{Address, Endpoint, Login, LoginGuard};
use cbroker::envelope::Envelope;
use cbroker::name::SessionName;
use cbroker::peer::{DeclareArguments, Peer, Publication, PublishOutcome};
use futures_util::StreamExt;
use ulid::Ulid;

use crate::support::Place;

/// The broker of a place, as `status --show-url` tells it.
pub(crate) fn endpoint(place: &Place) -> Endpoint {
    let address = Address::parse(&place.ok(["status", "--show-url"])).unwrap();
    let login = Login {
        user: address.user.clone().unwrap(),
        password: address.password.clone().unwrap(),
    };
    Endpoint {
        address,
        login,
        ca_cert: None,
        guard: LoginGuard::AsGiven,
        is_local_broker: true,
    }
}

/// Publishes one message each to a queue that exists, in order, confirmed.
pub(crate) fn publish(place: &Place, to: &str, texts: impl Iterator<Item = String>) {
    let endpoint = endpoint(place);
    let to = SessionName::new(to).unwrap();
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        publish_by(&mut peer, &to, texts).await;
        peer.close().await;
    });
}

/// The same on a connection that is there.
pub(crate) async fn publish_by(
    peer: &mut Peer,
    to: &SessionName,
    texts: impl Iterator<Item = String>,
) {
    for text in texts {
        let envelope = Envelope::new(Ulid::generate(), chrono::Utc::now(), to, to, text);
        let letter = Publication::plain(&envelope);
        let published = peer.publish(&letter, Duration::from_secs(30)).await;
        assert_eq!(published.unwrap(), PublishOutcome::Confirmed);
    }
}

/// A connection and a channel of another program.
pub(crate) async fn connected(url: &str) -> (lapin::Connection, lapin::Channel) {
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect_with_runtime(
        url.trim(),
        properties,
        cbroker::peer::runtime::current(),
    );
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Publishes bytes that need not be messages to a queue that exists, confirmed.
pub(crate) fn publish_raw(url: &str, to: &str, bodies: impl Iterator<Item = impl AsRef<[u8]>>) {
    run(async {
        let (connection, channel) = connected(url).await;
        let confirms = lapin::options::ConfirmSelectOptions::default();
        channel.confirm_select(confirms).await.unwrap();
        for body in bodies {
            let published = channel.basic_publish(
                "claudeBroker".into(),
                to.into(),
                lapin::options::BasicPublishOptions::default(),
                body.as_ref(),
                lapin::BasicProperties::default(),
            );
            published.await.unwrap().await.unwrap();
        }
        connection.close(200, "done".into()).await.unwrap();
    });
}

/// Takes one question from a queue and answers it as another tool does, whom no broker vouches for.
/// Says when it is attached.
pub(crate) fn answer_one(url: &str, queue: &str, text: &str, attached: &SyncSender<()>) {
    run(async {
        let (connection, channel) = connected(url).await;
        let consumer = channel.basic_consume(
            queue.into(),
            "".into(),
            lapin::options::BasicConsumeOptions::default(),
            lapin::types::FieldTable::default(),
        );
        let mut consumer = consumer.await.unwrap();
        attached.send(()).unwrap();
        let question = consumer.next().await.unwrap().unwrap();
        question
            .ack(lapin::options::BasicAckOptions::default())
            .await
            .unwrap();
        let asked: serde_json::Value = serde_json::from_slice(&question.data).unwrap();
        let answer = serde_json::json!({"id": "1", "from": queue, "to": asked["reply_to"],
            "ts": "2026-01-01T00:00:00.000Z", "message": text, "correlation_id": asked["id"]});
        let answer = answer.to_string();
        let confirms = lapin::options::ConfirmSelectOptions::default();
        channel.confirm_select(confirms).await.unwrap();
        let published = channel.basic_publish(
            "claudeBroker".into(),
            asked["reply_to"].as_str().unwrap().into(),
            lapin::options::BasicPublishOptions::default(),
            answer.as_bytes(),
            lapin::BasicProperties::default(),
        );
        published.await.unwrap().await.unwrap();
        connection.close(200, "done".into()).await.unwrap();
    });
}

/// Consumes a queue, settles nothing, and is given one message at most.
pub(crate) async fn consume_one(channel: &lapin::Channel, queue: &str) -> lapin::Consumer {
    let qos = lapin::options::BasicQosOptions::default();
    channel.basic_qos(1, qos).await.unwrap();
    let consumer = channel.basic_consume(
        queue.into(),
        "".into(),
        lapin::options::BasicConsumeOptions::default(),
        lapin::types::FieldTable::default(),
    );
    consumer.await.unwrap()
}

/// Makes a queue with the ordinary topology.
pub(crate) fn make_queue(place: &Place, name: &str) {
    make_queue_with(place, name, 86_400_000);
}

/// The same as a wrap with `--ttl` makes it.
pub(crate) fn make_queue_with(place: &Place, name: &str, ttl_ms: u64) {
    let (endpoint, name) = (endpoint(place), SessionName::new(name).unwrap());
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        peer.ensure_queue(&name, ttl_ms).await.unwrap();
        peer.close().await;
    });
}

/// Makes a durable queue with no arguments and no binding, as other programs do.
pub(crate) fn make_bare_queue(url: &str, name: &str) {
    run(async {
        let (connection, channel) = connected(url).await;
        let durable = lapin::options::QueueDeclareOptions {
            durable: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        let none = lapin::types::FieldTable::default();
        let declared = channel.queue_declare(name.into(), durable, none);
        declared.await.unwrap();
        connection.close(200, "done".into()).await.unwrap();
    });
}

/// Makes a durable queue that holds one message and refuses any further one, without a binding.
pub(crate) fn make_queue_of_one(url: &str, name: &str) {
    run(async {
        let (connection, channel) = connected(url).await;
        let durable = lapin::options::QueueDeclareOptions {
            durable: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        let mut arguments = lapin::types::FieldTable::default();
        let overflow = lapin::types::AMQPValue::LongString("reject-publish".into());
        arguments.insert("x-overflow".into(), overflow);
        arguments.insert("x-max-length".into(), 1.into());
        let declared = channel.queue_declare(name.into(), durable, arguments);
        declared.await.unwrap();
        connection.close(200, "done".into()).await.unwrap();
    });
}

/// Binds a queue to what is sent to a session.
pub(crate) fn bind(url: &str, queue: &str, session: &str) {
    run(async {
        let (connection, channel) = connected(url).await;
        let options = lapin::options::QueueBindOptions::default();
        let none = lapin::types::FieldTable::default();
        let exchange = "claudeBroker".into();
        let bound = channel.queue_bind(queue.into(), exchange, session.into(), options, none);
        bound.await.unwrap();
        connection.close(200, "done".into()).await.unwrap();
    });
}

/// Takes the binding of a session's queue away.
pub(crate) fn unbind(url: &str, name: &str) {
    run(async {
        let (connection, channel) = connected(url).await;
        let none = lapin::types::FieldTable::default();
        let unbound = channel.queue_unbind(name.into(), "claudeBroker".into(), name.into(), none);
        unbound.await.unwrap();
        connection.close(200, "done".into()).await.unwrap();
    });
}

/// Makes a queue for each of these sessions.
pub(crate) fn make_queues(place: &Place, names: &[String]) {
    let endpoint = endpoint(place);
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        for name in names {
            let name = SessionName::new(name).unwrap();
            peer.ensure_queue(&name, 86_400_000).await.unwrap();
        }
        peer.close().await;
    });
}

/// What a queue was declared with, as its broker's refusals tell.
pub(crate) fn arguments(place: &Place, name: &str) -> Option<DeclareArguments> {
    let (endpoint, name) = (endpoint(place), SessionName::new(name).unwrap());
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        let learned = peer.learn_arguments(&name, 1).await.unwrap();
        peer.close().await;
        learned
    })
}

/// Deletes a queue unless something listens there; the broker's reason where it stays.
pub(crate) fn delete_unattended(place: &Place, name: &str) -> Option<String> {
    let (endpoint, name) = (endpoint(place), SessionName::new(name).unwrap());
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        let stays = peer.delete_unattended(&name).await.unwrap();
        peer.close().await;
        stays
    })
}

/// Deletes a queue unless something waits or listens there; the broker's reason where it stays.
pub(crate) fn delete_unused(place: &Place, name: &str) -> Option<String> {
    let (endpoint, name) = (endpoint(place), SessionName::new(name).unwrap());
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        let stays = peer.delete_unused(&name).await.unwrap();
        peer.close().await;
        stays
    })
}

/// How many consume a queue; `None` where there is none.
pub(crate) fn consumers(place: &Place, name: &str) -> Option<u32> {
    let (endpoint, name) = (endpoint(place), SessionName::new(name).unwrap());
    run(async {
        let mut peer = Peer::connect(&endpoint, "test").await.unwrap();
        let state = peer.queue_counts(&name).await.unwrap();
        peer.close().await;
        state.map(|state| state.consumers)
    })
}

/// Takes the first message of a queue and gives back how many hops it says it has.
pub(crate) fn hops_of_the_first(place: &Place, name: &str) -> Option<u32> {
    let (endpoint, name) = (endpoint(place), SessionName::new(name).unwrap());
    run(async {
        let peer = Peer::connect(&endpoint, "test").await.unwrap();
        let delivery = peer.get(&name).await.unwrap().unwrap();
        delivery.ack().await;
        peer.close().await;
        delivery.hops()
    })
}

/// How long the broker may take for anything, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_mins(3);

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(PATIENCE, work).await })
        .expect("the broker does not answer")
}
