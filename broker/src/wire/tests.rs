//! Compares the codec with `amq-protocol`, which is generated from the protocol's description: each
//! reads what the other writes.

#![allow(clippy::unwrap_used)]

use amq_protocol::frame::{AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use proptest::prelude::*;

use super::method::{self, BindMethod, Consume, ExchangeDeclare, Method, Publish, QueueDeclare};
use super::method_id::MethodId;
use super::table::Table;
use super::{content, frame, reply};

const CHANNEL: u16 = 7;

/// Encodes a method with `amq-protocol` and returns the payload of its frame.
fn payload(class: AMQPClass) -> Vec<u8> {
    let whole = AMQPFrame::Method(CHANNEL, class);
    let written = gen_frame(&whole)(Vec::new().into()).unwrap();
    let bytes = written.write;
    match frame::parse(&bytes, 1 << 20).unwrap() {
        frame::ParsedFrame::Whole(found) => {
            assert_eq!((found.kind, found.channel), (frame::METHOD, CHANNEL));
            found.payload.to_vec()
        }
        frame::ParsedFrame::Partial { needed } => panic!("{needed} octets are wanted"),
    }
}

/// Runs `write`, which must append one frame on channel `on`, and decodes it with `amq-protocol`.
fn reading(on: u16, write: impl FnOnce(&mut Vec<u8>)) -> AMQPClass {
    let mut out = Vec::new();
    write(&mut out);
    let (rest, found) = parse_frame(&out[..]).unwrap();
    assert!(rest.is_empty(), "octets are left over");
    match found {
        AMQPFrame::Method(channel, class) => {
            assert_eq!(channel, on);
            class
        }
        other => panic!("not a method: {other:?}"),
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9äß._:-]{0,60}"
}

fn table() -> impl Strategy<Value = FieldTable> {
    let value = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        "[ -~]{0,20}".prop_map(|text| AMQPValue::LongString(text.into())),
    ];
    prop::collection::btree_map("[a-z-]{1,12}", value, 0..4).prop_map(|fields| {
        let fields = fields.into_iter();
        FieldTable::from(
            fields
                .map(|(key, value)| (ShortString::from(key), value))
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
    })
}

/// Whether our encoded arguments hold the same fields as those of `amq-protocol`.
fn same_fields(raw: &[u8], theirs: &FieldTable) -> bool {
    let ours = Table::decode(raw).unwrap();
    ours.len() == theirs.inner().len()
        && theirs
            .inner()
            .keys()
            .all(|key| ours.get(key.as_str()).is_some())
}

proptest! {
    #[test]
    fn declarations_are_read_as_they_were_meant(
        (first, second, third) in (name(), name(), name()),
        bits in any::<[bool; 5]>(),
        arguments in table(),
    ) {
        let [passive, durable, auto_delete, other, nowait] = bits;
        let bytes = payload(AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: first.as_str().into(),
            kind: second.as_str().into(),
            passive, durable, auto_delete, internal: other, nowait,
            arguments: arguments.clone(),
        })));
        let Method::ExchangeDeclare(found) = method::decode(&bytes).unwrap() else {
            panic!("another method")
        };
        prop_assert!(same_fields(found.arguments, &arguments));
        prop_assert_eq!(found, ExchangeDeclare {
            exchange: &first, kind: &second,
            passive, durable, auto_delete, internal: other, no_wait: nowait,
            arguments: found.arguments,
        });

        let bytes = payload(AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: first.as_str().into(),
            passive, durable, exclusive: other, auto_delete, nowait,
            arguments: arguments.clone(),
        })));
        let Method::QueueDeclare(found) = method::decode(&bytes).unwrap() else {
            panic!("another method")
        };
        prop_assert!(same_fields(found.arguments, &arguments));
        prop_assert_eq!(found, QueueDeclare {
            queue: &first, passive, durable, exclusive: other, auto_delete, no_wait: nowait,
            arguments: found.arguments,
        });

        let bytes = payload(AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: first.as_str().into(),
            exchange: second.as_str().into(),
            routing_key: third.as_str().into(),
            nowait,
            arguments: arguments.clone(),
        })));
        let Method::QueueBind(found) = method::decode(&bytes).unwrap() else {
            panic!("another method")
        };
        prop_assert!(same_fields(found.arguments, &arguments));
        prop_assert_eq!(found, BindMethod {
            destination: &first, source: &second, routing_key: third.as_bytes(), no_wait: nowait,
            arguments: found.arguments,
        });
    }

    #[test]
    fn the_busy_methods_are_read_as_they_were_meant(
        (first, second) in (name(), name()),
        bits in any::<[bool; 4]>(),
        tag in any::<u64>(),
        (code, class_id, method_id) in any::<(u16, u16, u16)>(),
        arguments in table(),
    ) {
        let [a, b, c, d] = bits;
        let basics = [
            (basic::AMQPMethod::Publish(basic::Publish {
                exchange: first.as_str().into(), routing_key: second.as_str().into(),
                mandatory: a, immediate: b,
            }), Method::BasicPublish(Publish {
                exchange: first.as_bytes(), routing_key: second.as_bytes(),
                mandatory: a, immediate: b,
            })),
            (basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple: a }),
                Method::BasicAck { tag, multiple: a }),
            (basic::AMQPMethod::Nack(basic::Nack { delivery_tag: tag, multiple: a, requeue: b }),
                Method::BasicNack { tag, multiple: a, requeue: b }),
            (basic::AMQPMethod::Reject(basic::Reject { delivery_tag: tag, requeue: a }),
                Method::BasicReject { tag, requeue: a }),
            (basic::AMQPMethod::Get(basic::Get { queue: first.as_str().into(), no_ack: a }),
                Method::BasicGet { queue: &first, no_ack: a }),
            (basic::AMQPMethod::Cancel(basic::Cancel {
                consumer_tag: first.as_str().into(), nowait: a,
            }),
                Method::BasicCancel { consumer_tag: &first, no_wait: a }),
            (basic::AMQPMethod::Qos(basic::Qos { prefetch_count: code, global: a }),
                Method::BasicQos { size: 0, count: code, global: a }),
            (basic::AMQPMethod::Recover(basic::Recover { requeue: a }),
                Method::BasicRecover { requeue: a }),
        ];
        for (theirs, ours) in basics {
            let bytes = payload(AMQPClass::Basic(theirs));
            prop_assert_eq!(method::decode(&bytes).unwrap(), ours);
        }

        let bytes = payload(AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
            queue: first.as_str().into(), consumer_tag: second.as_str().into(),
            no_local: a, no_ack: b, exclusive: c, nowait: d, arguments: arguments.clone(),
        })));
        let Method::BasicConsume(found) = method::decode(&bytes).unwrap() else {
            panic!("another method")
        };
        prop_assert!(same_fields(found.arguments, &arguments));
        prop_assert_eq!(found, Consume {
            queue: &first, consumer_tag: &second, no_local: a, no_ack: b, exclusive: c, no_wait: d,
            arguments: found.arguments,
        });

        let bytes = payload(AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: code, reply_text: first.as_str().into(), class_id, method_id,
        })));
        prop_assert_eq!(
            method::decode(&bytes).unwrap(),
            Method::ChannelClose { code, text: &first }
        );
    }

    #[test]
    fn the_rest_is_read_as_it_was_meant(
        first in name(),
        bits in any::<[bool; 3]>(),
        (channel_max, frame_max, heartbeat) in any::<(u16, u32, u16)>(),
    ) {
        let [a, b, c] = bits;
        let methods = [
            (AMQPClass::Connection(connection::AMQPMethod::TuneOk(connection::TuneOk {
                channel_max, frame_max, heartbeat,
            })), Method::ConnectionTuneOk { channel_max, frame_max, heartbeat_s: heartbeat }),
            (AMQPClass::Connection(connection::AMQPMethod::Open(connection::Open {
                virtual_host: first.as_str().into(),
            })), Method::ConnectionOpen { vhost: &first }),
            (AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})), Method::ChannelOpen),
            (AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
                queue: first.as_str().into(), if_unused: a, if_empty: b, nowait: c,
            })), Method::QueueDelete { queue: &first, if_unused: a, if_empty: b, no_wait: c }),
            (AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge {
                queue: first.as_str().into(), nowait: a,
            })),
                Method::QueuePurge { queue: &first, no_wait: a }),
            (AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
                exchange: first.as_str().into(), if_unused: a, nowait: b,
            })), Method::ExchangeDelete { exchange: &first, if_unused: a, no_wait: b }),
            (AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: a })),
                Method::ConfirmSelect { no_wait: a }),
            (AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})), Method::TxCommit),
        ];
        for (theirs, ours) in methods {
            let bytes = payload(theirs);
            prop_assert_eq!(method::decode(&bytes).unwrap(), ours);
        }
    }

    #[test]
    fn replies_are_understood(
        first in name(),
        multiple in any::<bool>(),
        tag in any::<u64>(),
        (ready, consumers) in any::<(u32, u32)>(),
        (code, class_id, method_id) in any::<(u16, u16, u16)>(),
    ) {
        let text: ShortString = first.as_str().into();
        let cause = MethodId::new(class_id, method_id);
        prop_assert_eq!(
            reading(CHANNEL, |out| reply::queue_declare_ok(out, CHANNEL, &first, ready, consumers)),
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                queue: text.clone(), message_count: ready, consumer_count: consumers,
            }))
        );
        prop_assert_eq!(
            reading(CHANNEL, |out| reply::consume_ok(out, CHANNEL, &first)),
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk {
                consumer_tag: text.clone(),
            }))
        );
        prop_assert_eq!(
            reading(CHANNEL, |out| reply::ack(out, CHANNEL, tag, multiple)),
            AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple }))
        );
        prop_assert_eq!(
            reading(CHANNEL, |out| reply::close(out, CHANNEL, code, &first, cause)),
            AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
                reply_code: code, reply_text: text.clone(), class_id, method_id,
            }))
        );
        prop_assert_eq!(
            reading(0, |out| reply::close(out, 0, code, &first, cause)),
            AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
                reply_code: code, reply_text: text.clone(), class_id, method_id,
            }))
        );
        prop_assert_eq!(
            reading(0, |out| reply::connection_tune(out, code, ready, class_id)),
            AMQPClass::Connection(connection::AMQPMethod::Tune(connection::Tune {
                channel_max: code, frame_max: ready, heartbeat: class_id,
            }))
        );
        prop_assert_eq!(
            reading(0, |out| reply::connection_blocked(out, &first)),
            AMQPClass::Connection(connection::AMQPMethod::Blocked(connection::Blocked {
                reason: text,
            }))
        );
    }

    #[test]
    fn a_delivery_is_understood_frame_by_frame(
        (exchange, key, consumer) in (name(), name(), name()),
        body in prop::collection::vec(any::<u8>(), 0..9000),
        (tag, redelivered) in any::<(u64, bool)>(),
    ) {
        let framing = content::ChannelFraming { channel: CHANNEL, frame_max: 4096 };
        let parts = content::MessageContent {
            exchange: exchange.as_bytes(), routing_key: key.as_bytes(),
            properties: &[0, 0], body: &body,
        };
        let mut out = Vec::new();
        content::deliver(&mut out, framing, consumer.as_bytes(), (tag, redelivered), parts);
        let (mut rest, first) = parse_frame(&out[..]).unwrap();
        let delivery = AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
            consumer_tag: consumer.as_str().into(), delivery_tag: tag, redelivered,
            exchange: exchange.as_str().into(), routing_key: key.as_str().into(),
        }));
        prop_assert_eq!(first, AMQPFrame::Method(CHANNEL, delivery));
        let mut found = Vec::new();
        let mut announced = None;
        while !rest.is_empty() {
            let (left, next) = parse_frame(rest).unwrap();
            match next {
                AMQPFrame::Header(CHANNEL, header) => announced = Some(header.body_size),
                AMQPFrame::Body(CHANNEL, part) => found.extend_from_slice(&part),
                other => panic!("no place for {other:?}"),
            }
            rest = left;
        }
        prop_assert_eq!(announced, Some(body.len() as u64));
        prop_assert_eq!(found, body);
    }
}
