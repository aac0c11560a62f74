//! What a publish by HTTP takes.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use futures_util::FutureExt;

use super::*;
use crate::management::tests::TestApi;
use crate::persist::StoreEvent;
use crate::vhost::{BindRequest, Destination};

fn publish_body(encoding: &str, payload: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"properties":{{}},"routing_key":"q","payload":"{payload}",
        "payload_encoding":"{encoding}"}}"#
    );
    text.into_bytes()
}

fn sent(test: &TestApi) -> SentPublish {
    let api = SharedApi::clone(&test.api);
    SentPublish {
        holding: api.holdings.of(&"ada".into()),
        user: "ada".into(),
        vhost: api.broker.vhost("/").unwrap(),
        exchange: String::new(),
        api,
    }
}

#[tokio::test]
async fn a_large_publish_holds_up_no_thread_that_serves() {
    let test = TestApi::start().await;
    for (bytes, is_large) in [(10, false), (user_memory::LITTLE_BYTES, true)] {
        let body = publish_body("string", &"x".repeat(bytes));
        let path = Path(("/".to_owned(), "amq.default".to_owned()));
        let api = SharedApi::clone(&test.api);
        let request = publish(State(api), path, test.ada(), Request::new(body.into()));
        let (response, has_waited) = test.without_slots(request).await;
        assert!(response.is_ok());
        assert_eq!(has_waited, is_large, "{bytes} bytes");
    }
    test.stop().await;
}

/// It took room for which publishers over AMQP had to wait.
#[tokio::test]
async fn a_publish_waits_while_the_store_is_behind() {
    let test = TestApi::start().await;
    let alarms = &test.api.broker.alarms;
    for exchange in ["amq.default", "amq.fanout"] {
        alarms.on_progress(&StoreEvent::Backlogged);
        let path = Path(("/".to_owned(), exchange.to_owned()));
        let request = Request::new(publish_body("string", "small").into());
        let state = State(SharedApi::clone(&test.api));
        let mut request = std::pin::pin!(publish(state, path, test.ada(), request));
        assert!(request.as_mut().now_or_never().is_none(), "{exchange}");
        alarms.on_progress(&StoreEvent::Drained);
        assert!(request.await.is_ok());
    }
    test.stop().await;
}

/// What it had not been offered to got it in one unit of work.
#[tokio::test]
async fn a_publish_that_has_begun_is_handed_out_when_publishers_may_go_on() {
    let test = TestApi::start().await;
    let queues = 3;
    test.declare_queues(queues);
    let vhost = test.api.broker.vhost("/").unwrap();
    for number in 0..queues {
        let queue = Destination::Queue(format!("queue-{number}").into());
        vhost.bind(BindRequest::plain("amq.fanout", queue)).unwrap();
    }
    let alarms = &test.api.broker.alarms;
    alarms.on_progress(&StoreEvent::Backlogged);
    let message = Published {
        exchange: "amq.fanout",
        routing_key: "",
        properties: &[0, 0],
        body: b"x",
    };
    let mut effects = test.api.broker.begin_unit();
    let mut published = vhost.route_publish(message, &mut effects).unwrap();
    let is_done = published.offer(|_| is_blocked(&test.api), &mut effects);
    assert!(!is_done.unwrap());
    test.api.broker.end_unit(effects);
    let counts = |wanted: usize| {
        let names = (0..queues).map(|number| format!("queue-{number}"));
        let counts = names.map(|name| vhost.queue(&name).unwrap().counts().0);
        assert_eq!(counts.sum::<u64>(), wanted as u64);
    };
    counts(1);
    alarms.on_progress(&StoreEvent::Drained);
    let api = SharedApi::clone(&test.api);
    let rest = tokio::task::spawn_blocking(move || hand_out(&api, published));
    assert!(rest.await.unwrap().is_ok_and(|was_taken| was_taken));
    counts(queues);
    test.stop().await;
}

#[tokio::test]
async fn a_small_publish_to_many_queues_holds_up_no_thread_that_serves() {
    let test = TestApi::start().await;
    for exchange in ["amq.fanout", "amq.topic", "amq.direct", "amq.headers"] {
        let path = Path(("/".to_owned(), exchange.to_owned()));
        let body = publish_body("string", "small");
        let api = SharedApi::clone(&test.api);
        let request = publish(State(api), path, test.ada(), Request::new(body.into()));
        let (response, has_waited) = test.without_slots(request).await;
        assert!(response.is_ok());
        assert!(
            has_waited,
            "{exchange} handed it out where requests are served"
        );
    }
    test.stop().await;
}

#[tokio::test]
async fn the_copies_of_a_publish_are_on_the_account_before_they_are_made() {
    let test = TestApi::start().await;
    let route = |encoding: &str, payload: &str| {
        let body = publish_body(encoding, payload);
        sent(&test).route(&body.into())
    };
    let [plain, escaped, encoded] = ["x", "\\n", "QUJD"].map(|part| part.repeat(1 << 20));
    let kinds = [
        ("string", &plain),
        ("string", &escaped),
        ("base64", &encoded),
    ];
    for (encoding, payload) in kinds {
        assert!(route(encoding, payload).is_ok(), "with room");
    }
    let ada = Arc::<str>::from("ada");
    let mut others = test.api.holdings.of(&ada);
    while others.set(others.bytes() + (1 << 20)).is_ok() {}
    let refused = kinds.map(|(encoding, payload)| route(encoding, payload).is_err());
    assert_eq!(refused, [false, true, true], "what needs no copy has room");
    test.stop().await;
}

#[test]
fn texts_mean_the_same_with_escapes_and_without() {
    let raw = |json: &str| -> Box<RawValue> { serde_json::from_str(json).unwrap() };
    for (json, meant) in [
        (r#""""#, Some("")),
        (r#""plain é""#, Some("plain é")),
        (r#""a\"b\u00e9\n""#, Some("a\"bé\n")),
        ("5", None),
        ("null", None),
        ("[\"a\"]", None),
    ] {
        assert_eq!(text(&raw(json)).as_deref(), meant, "{json}");
    }
}
