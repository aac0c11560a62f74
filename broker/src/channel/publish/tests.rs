//! What a publish holds while it arrives, and after it.

use super::KEPT_BY_EACH_BYTES;
use crate::channel::tests::{channel, context, receive};
use crate::channel::{Channel, FrameResult};
use crate::delivery::effects::Effects;
use crate::fault::{Fault, FaultScope};
use crate::memory::{self, HoldingKind};
use crate::queue::message::KEEP_BYTES;
use crate::tests::{declare, opened};
use crate::wire::content::PROPERTIES_BYTES;
use crate::wire::frame::{self, Frame};
use crate::wire::method_id::MethodId;

/// `basic.publish` to a queue by its name.
fn method(queue: &str) -> Vec<u8> {
    let length = u8::try_from(queue.len()).expect("it is short");
    [&[0, 60, 0, 40, 0, 0, 0, length], queue.as_bytes(), &[0]].concat()
}

/// A content header for a body of so many bytes.
fn header(body_size: u64, properties: &[u8]) -> Vec<u8> {
    [&[0, 60, 0, 0], &body_size.to_be_bytes()[..], properties].concat()
}

/// Properties with a header of so many bytes, and with these fields of the table after it.
fn properties(bytes: usize, more: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).expect("it is short").to_be_bytes();
    let table = [&b"\x01hS"[..], &length(bytes), &vec![b'x'; bytes], more].concat();
    [&b"\x20\0"[..], &length(table.len()), &table].concat()
}

/// Gives the channel a header.
fn try_header(channel: &mut Channel, payload: &[u8]) -> Result<FrameResult, Fault> {
    let frame = Frame {
        kind: frame::HEADER,
        channel: 1,
        payload,
    };
    channel.receive(frame, &mut Effects::new(0))
}

fn unfinished(channel: &Channel) -> usize {
    channel
        .context
        .connection
        .holdings
        .bytes(HoldingKind::Unfinished)
}

/// It was counted with the first part of the body, which need not come: each channel of a
/// connection kept 128 KiB that no limit knew.
#[tokio::test]
async fn a_header_whose_body_does_not_come_is_held_by_its_connection() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    receive(&mut channel, frame::METHOD, &method("nowhere"));
    let name = unfinished(&channel);
    assert!(name >= "nowhere".len(), "{name}");
    let announced = header(5, &properties(100_000, b""));
    receive(&mut channel, frame::HEADER, &announced);
    assert!(unfinished(&channel) >= 100_000, "{}", unfinished(&channel));
    let charged = channel.publishing.holding.charged();
    assert!(charged >= 100_000, "{charged}");
    drop(channel);
    broker.store.clone().close().expect("the store is whole");
}

#[tokio::test]
async fn properties_that_are_too_long_are_refused_before_their_body_comes() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    receive(&mut channel, frame::METHOD, &method("nowhere"));
    let longer = properties(PROPERTIES_BYTES, b"");
    let refused = try_header(&mut channel, &header(5, &longer)).err();
    let refused = refused.expect("it is refused");
    assert_eq!(refused.scope, FaultScope::Channel);
    assert!(
        refused.text().contains("larger than the maximum"),
        "{refused}"
    );
    assert!(unfinished(&channel) < 1000, "{}", unfinished(&channel));
    broker.store.clone().close().expect("the store is whole");
}

/// A client that does not send `close-ok` left it there.
#[tokio::test]
async fn a_channel_that_is_closed_for_a_publish_keeps_nothing_of_it() {
    let (broker, _kept) = opened().await;
    let mut channel = channel(&broker);
    // `basic.publish` to the exchange `e`, which is not there.
    receive(
        &mut channel,
        frame::METHOD,
        &[0, 60, 0, 40, 0, 0, 1, b'e', 0, 0],
    );
    let refused = try_header(&mut channel, &header(0, &properties(100_000, b"")));
    let refused = refused.expect_err("there is no such exchange");
    assert!(unfinished(&channel) >= 100_000, "it is counted meanwhile");
    channel.fail(refused, MethodId::BASIC_PUBLISH, &mut Effects::new(0));
    assert_eq!(unfinished(&channel), 0);
    assert_eq!(channel.publishing.draft.held_bytes(), (0, 0));
    broker.store.clone().close().expect("the store is whole");
}

/// The message was made from other properties, and the draft stayed beside it.
#[tokio::test]
async fn a_publish_whose_properties_are_rewritten_leaves_no_draft() {
    let (broker, _kept) = opened().await;
    declare(&broker, "q");
    let mut channel = channel(&broker);
    receive(&mut channel, frame::METHOD, &method("q"));
    let copied = properties(100_000, b"\x03BCCA\0\0\0\0");
    receive(&mut channel, frame::HEADER, &header(0, &copied));
    assert!(unfinished(&channel) < KEEP_BYTES);
    let (held, _) = channel.publishing.draft.held_bytes();
    assert_eq!(held, unfinished(&channel));
    broker.store.clone().close().expect("the store is whole");
}

/// The buffers that its channels use again were counted as unfinished publishes without a bound, so
/// a connection of many channels would be closed for publishes that were whole.
#[tokio::test]
async fn idle_channels_of_one_connection_keep_little() {
    let (broker, _kept) = opened().await;
    declare(&broker, "q");
    let shared = context(&broker);
    let mut channels = Vec::new();
    for number in 1..=1000 {
        let mut channel = Channel::new(shared.clone(), number);
        receive(&mut channel, frame::METHOD, &method("q"));
        receive(&mut channel, frame::HEADER, &header(50_000, b"\0\0"));
        receive(&mut channel, frame::BODY, &vec![7; 50_000]);
        channels.push(channel);
    }
    let held = shared.connection.holdings.bytes(HoldingKind::Unfinished);
    let small = channels.len() * KEPT_BY_EACH_BYTES;
    assert!(
        held <= memory::kept_drafts() + KEEP_BYTES + small,
        "{held} bytes"
    );
    broker.store.clone().close().expect("the store is whole");
}
