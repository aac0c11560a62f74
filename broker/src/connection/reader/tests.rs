//! The end of a connection beside others that go on.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::broker_state::BrokerState;
use crate::channel::tests::context;
use crate::delivery::outbox::Frames;
use crate::persist::StoreEvent;
use crate::registry::OpenedConnection;
use crate::tests::{declare, opened};
use crate::vhost::{BindRequest, DeleteCondition, Destination, Published};
use crate::wire::frame::Frame;

/// More than one unit of work returns to its queue.
const HELD: u32 = 20_000;

fn reader(broker: &Arc<BrokerState>) -> ConnectionReader {
    let context = context(broker);
    let opened = OpenedConnection {
        user: "guest".into(),
        vhost: "/".into(),
        mechanism: "PLAIN",
        client_properties: Box::default(),
        channel_max: 8,
        frame_max: 4096,
        heartbeat_s: 0,
    };
    context.connection.open(opened).unwrap();
    ConnectionReader {
        context,
        channels: OpenChannels::default(),
        blocking: PublisherBlocking::new(),
        continuing: None,
        patient_from: Instant::now(),
        must_send_close_ok: false,
    }
}

/// Gives the reader a method.
fn method(reader: &mut ConnectionReader, channel: u16, payload: &[u8]) -> FrameResult {
    let mut effects = reader.context.broker.begin_unit();
    let frame = Frame {
        kind: frame::METHOD,
        channel,
        payload,
    };
    let result = reader.receive(frame, &mut effects).unwrap();
    reader.context.broker.end_unit(effects);
    result
}

/// Opens a channel with a consumer of a queue whose name has one letter.
fn consume(reader: &mut ConnectionReader, channel: u16, queue: u8, is_no_ack: bool) {
    let bits = u8::from(is_no_ack) << 1;
    let consume = [0, 60, 0, 20, 0, 0, 1, queue, 1, b'c', bits, 0, 0, 0, 0];
    for payload in [&[0, 20, 0, 10, 0][..], &consume[..]] {
        assert_eq!(method(reader, channel, payload), FrameResult::Done);
    }
}

fn publish(broker: &Arc<BrokerState>, queue: &str) {
    let content = Published {
        exchange: "",
        routing_key: queue,
        properties: b"\x10\0\x02",
        body: b"x",
    };
    let mut effects = broker.begin_unit();
    let published = broker.vhost("/").unwrap().publish(content, &mut effects);
    assert!(published.unwrap());
    broker.end_unit(effects);
}

/// Takes what the connection is sent until it holds this many deliveries.
async fn take_all(reader: &ConnectionReader, count: u32) {
    let outbox = &reader.context.connection.outbox;
    let held = || {
        let channels = reader.context.connection.channels();
        channels
            .iter()
            .map(|channel| channel.unsettled())
            .sum::<usize>()
    };
    while held() < count as usize {
        let mut frames = Frames::default();
        outbox.swap_unsent(&mut frames);
        if outbox.sent(frames.len()) {
            reader.context.broker.pump_waiting_for(outbox).await;
        }
        tokio::task::yield_now().await;
    }
    let mut frames = Frames::default();
    outbox.swap_unsent(&mut frames);
    outbox.sent(frames.len());
}

/// A connection whose channel 2 holds deliveries of `h`, and whose channel 1 consumes from `w`
/// without acknowledgements.
async fn reader_that_holds(broker: &Arc<BrokerState>) -> ConnectionReader {
    let mut reader = reader(broker);
    consume(&mut reader, 1, b'w', true);
    consume(&mut reader, 2, b'h', false);
    for _ in 0..HELD {
        publish(broker, "h");
    }
    take_all(&reader, HELD).await;
    reader
}

/// On the one thread of these tests, others run between two units of work and at no other time. A
/// consumer without acknowledgements took all that was in its queue, and what was published
/// meanwhile, for a client that was gone.
#[tokio::test]
async fn a_connection_that_ends_takes_no_more_messages_from_the_queues_of_its_other_channels() {
    for is_broken in [true, false] {
        let (broker, _kept) = opened().await;
        let (held, wanted) = (declare(&broker, "h"), declare(&broker, "w"));
        let mut reader = reader_that_holds(&broker).await;
        if is_broken {
            reader.context.connection.outbox.break_off();
        }
        let ending = tokio::spawn(async move { reader.release_all(None).await });
        let mut published = 0;
        while !ending.is_finished() {
            tokio::task::yield_now().await;
            publish(&broker, "w");
            published += 1;
        }
        assert!(published > 1, "it was one unit of work");
        assert_eq!(wanted.counts(), (published, 0));
        assert_eq!(held.counts(), (u64::from(HELD), 0));
        broker.store.clone().close().unwrap();
    }
}

/// Its connection returned the deliveries of higher channels first.
#[tokio::test]
async fn the_next_consumer_of_a_queue_waits_for_no_deliveries_of_one_that_is_gone() {
    let (broker, _kept) = opened().await;
    let (_held, wanted) = (declare(&broker, "h"), declare(&broker, "w"));
    let mut reader = reader_that_holds(&broker).await;
    let mut effects = broker.begin_unit();
    let release = reader.close_channels(&mut effects);
    assert_eq!(release, Release::Unfinished, "it was one unit of work");
    assert_eq!(wanted.counts(), (0, 0));
    broker.end_unit(effects);
    reader.release_all(None).await;
    broker.store.clone().close().unwrap();
}

/// A fan-out that has reached none of its queues, on a channel that is opened for it.
fn begin_fan_out(reader: &mut ConnectionReader, channel: u16) {
    let broker = Arc::clone(&reader.context.broker);
    method(reader, channel, &[0, 20, 0, 10, 0]);
    let publish = [&[0, 60, 0, 40, 0, 0, 10][..], b"amq.fanout", &[0, 0]].concat();
    method(reader, channel, &publish);
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    header.extend(b"\x10\0\x02");
    let (header, body) = ((frame::HEADER, &header[..]), (frame::BODY, &b"x"[..]));
    for (kind, payload) in [header, body] {
        let mut effects = broker.begin_unit();
        if kind == frame::BODY {
            while !effects.is_spent() {
                effects.spend(100);
            }
        }
        let part = Frame {
            kind,
            channel,
            payload,
        };
        let result = reader.receive(part, &mut effects).unwrap();
        assert_eq!(result == FrameResult::Unfinished, kind == frame::BODY);
        broker.end_unit(effects);
    }
    reader.continuing = Some(channel);
}

/// They waited for room too, while other consumers had nothing to do.
#[tokio::test]
async fn a_connection_that_ends_in_a_publish_that_waits_for_room_returns_its_deliveries() {
    let (broker, _kept) = opened().await;
    let held = declare(&broker, "h");
    let names: Vec<_> = (0..200).map(|number| format!("q{number}")).collect();
    let queues: Vec<_> = names.iter().map(|name| declare(&broker, name)).collect();
    for name in &names {
        let bind = BindRequest::plain("amq.fanout", Destination::Queue(name.as_str().into()));
        broker.vhost("/").unwrap().bind(bind).unwrap();
    }
    let mut reader = reader(&broker);
    consume(&mut reader, 1, b'h', false);
    publish(&broker, "h");
    take_all(&reader, 1).await;
    begin_fan_out(&mut reader, 2);
    // The budgets are small then, and the fan-out takes several units of work.
    let mut busy: Vec<_> = (0..255).map(|_| BusyMark::new(&broker)).collect();
    for mark in &mut busy {
        mark.set(true);
    }
    broker.alarms.on_progress(&StoreEvent::Backlogged);
    let ending = tokio::spawn(async move { reader.release_all(None).await });
    let until = Instant::now() + Duration::from_secs(30);
    while held.counts() != (1, 0) {
        assert!(Instant::now() < until, "{:?}", held.counts());
        tokio::task::yield_now().await;
    }
    let has_message = |queue: &&Arc<Queue>| queue.counts() == (1, 0);
    assert!(
        queues.iter().filter(has_message).count() < queues.len(),
        "it waits"
    );
    broker.alarms.on_progress(&StoreEvent::Drained);
    ending.await.unwrap();
    assert!(
        queues.iter().all(|queue| has_message(&queue)),
        "it is finished"
    );
    broker.store.clone().close().unwrap();
}

/// What a reader reads from, and the client's end of it.
async fn input(reader: &ConnectionReader) -> (ReadBuffer, tokio::net::TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let client = client.await.unwrap();
    let (read, write) = listener.accept().await.unwrap().0.into_split();
    // The client's end lasts as long as the test.
    write.forget();
    let holdings = &reader.context.connection.holdings;
    (ReadBuffer::new(Box::new(read), holdings), client)
}

/// It waited for memory to become free, which it would have freed.
#[tokio::test]
async fn a_settle_that_has_begun_goes_on_while_publishers_are_blocked() {
    let (broker, _kept) = opened().await;
    declare(&broker, "h");
    let mut reader = reader(&broker);
    consume(&mut reader, 1, b'h', false);
    for _ in 0..HELD {
        publish(&broker, "h");
    }
    take_all(&reader, HELD).await;
    let (mut input, _client) = input(&reader).await;
    let connection = Arc::clone(&reader.context.connection);
    let mut ending = connection.ending.subscribe();
    let mut watched = ConnectionWatch {
        input: &mut input,
        ending: &mut ending,
        connection: &connection,
    };
    reader.blocking.note_publish();
    broker.alarms.set_memory_high(true);
    let ack_all = [0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(method(&mut reader, 1, &ack_all), FrameResult::Unfinished);
    reader.continuing = Some(1);
    let short = Duration::from_millis(100);
    let waited = tokio::time::timeout(
        Duration::from_secs(20),
        reader.wait_while_blocked(&mut watched),
    );
    assert!(matches!(waited.await, Ok(Ok(()))));
    // What comes behind it is held.
    reader.continuing = None;
    let waited = tokio::time::timeout(short, reader.wait_while_blocked(&mut watched));
    assert!(waited.await.is_err());
    broker.store.clone().close().unwrap();
}

/// A channel that published once and then was silent kept the queue in memory.
#[tokio::test]
async fn a_silent_connection_keeps_no_deleted_queue() {
    let (broker, _kept) = opened().await;
    let queue = Arc::downgrade(&declare(&broker, "q"));
    let mut reader = reader(&broker);
    method(&mut reader, 1, &[0, 20, 0, 10, 0]);
    method(&mut reader, 1, &[0, 60, 0, 40, 0, 0, 0, 1, b'q', 0]);
    let mut effects = broker.begin_unit();
    let header = Frame {
        kind: frame::HEADER,
        channel: 1,
        payload: &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    reader.receive(header, &mut effects).unwrap();
    broker.end_unit(effects);
    let mut effects = broker.begin_unit();
    let vhost = broker.vhost("/").unwrap();
    let condition = DeleteCondition::default();
    vhost.delete_queue("q", condition, &mut effects).unwrap();
    broker.end_unit(effects);
    assert!(queue.upgrade().is_some(), "its route is remembered");
    reader.channels.forget_old_routes();
    assert!(queue.upgrade().is_none());
    broker.store.clone().close().unwrap();
}
