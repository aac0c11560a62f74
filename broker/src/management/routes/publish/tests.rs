//! What a publish by HTTP takes.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::*;
use crate::management::tests::TestApi;

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
