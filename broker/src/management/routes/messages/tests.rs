//! What taking messages, and a response with them, costs.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;

use super::*;
use crate::lock::write;
use crate::management::tests::TestApi;
use crate::management::user_memory::UserHoldings;
use crate::vhost::Published;

fn shown(payloads: &[ShownPayload<'_>], holding: &mut UserHolding) -> Result<Vec<u8>, ApiError> {
    let copied = payloads.iter().map(|payload| match payload {
        ShownPayload::String(text) => ShownPayload::String(text),
        ShownPayload::Base64(bytes) => ShownPayload::Base64(bytes),
    });
    listed(copied.map(|payload| (json!({ "n": 1 }), payload)), holding)
}

#[test]
fn an_answer_takes_no_more_than_its_text_and_is_on_the_account_before_it_is_made() {
    let holdings = Arc::<UserHoldings>::default();
    let ada = "ada".into();
    let mut holding = holdings.of(&ada);
    let text: String = (0..=0x2ff).filter_map(char::from_u32).collect();
    let all: Vec<u8> = (0..=255).collect();
    let payloads = [
        ShownPayload::String(&text),
        ShownPayload::String(""),
        ShownPayload::Base64(&all),
        ShownPayload::Base64(&all[..254]),
        ShownPayload::Base64(&[]),
    ];
    let made = shown(&payloads, &mut holding).unwrap();
    assert!(
        made.len() + 1 >= made.capacity(),
        "{} {}",
        made.len(),
        made.capacity()
    );
    assert!(holdings.of_user("ada") >= made.capacity());
    let read: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(read[0], json!({ "n": 1, "payload": text }));
    assert_eq!(read[2]["payload"], STANDARD.encode(&all));
    assert_eq!(read.as_array().unwrap().len(), 5);
    assert_eq!(shown(&[], &mut holding).unwrap(), b"[]");
    let long = "\u{1}".repeat(1 << 20);
    let mut others = holdings.of(&ada);
    while others.set(holdings.of_user("ada") + (1 << 20)).is_ok() {}
    let refused = shown(&[ShownPayload::String(&long)], &mut holding);
    assert!(refused.is_err(), "six times as long as text");
}

/// It went on taking them, up to ten seconds for each read of the store.
#[tokio::test]
async fn a_get_of_a_user_who_loses_a_right_meanwhile_takes_nothing() {
    let test = TestApi::start().await;
    let queue = filled(&test);
    let sent = CallerBody {
        caller: test.ada(),
        body: r#"{"count":10000,"ackmode":"ack_requeue_false"}"#.into(),
    };
    let place = Path(("/".to_owned(), "queue-0".to_owned()));
    let mut request = std::pin::pin!(get(State(SharedApi::clone(&test.api)), place, sent));
    assert!(request.as_mut().now_or_never().is_none());
    assert!(queue.counts().0 < MOST as u64, "it has begun");
    assert!(write(&test.api.broker.users).forbid("ada", "/"));
    assert!(request.await.is_err());
    assert_eq!(queue.counts().0, MOST as u64);
    test.stop().await;
}

/// A queue with the most messages that one response has.
fn filled(test: &TestApi) -> Arc<Queue> {
    test.declare_queues(1);
    let vhost = test.api.broker.vhost("/").unwrap();
    for _ in 0..MOST {
        let mut effects = test.api.broker.begin_unit();
        let message = Published {
            exchange: "",
            routing_key: "queue-0",
            properties: &[0, 0],
            body: b"x",
        };
        let published = vhost.publish(message, &mut effects);
        test.api.broker.end_unit(effects);
        assert!(published.is_ok());
    }
    vhost.queue("queue-0").unwrap()
}

#[tokio::test]
async fn taking_many_messages_holds_up_no_thread_that_serves() {
    let test = TestApi::start().await;
    let queue = filled(&test);
    let (api, ada) = (SharedApi::clone(&test.api), test.ada());
    let taken = {
        let mut taking = std::pin::pin!(take(&api, &ada, &queue, MOST));
        let first = taking.as_mut().now_or_never();
        assert!(first.is_none(), "all were taken at once");
        taking.await.unwrap()
    };
    assert_eq!(taken.messages.len(), MOST);
    drop((taken, api));
    test.stop().await;
}
