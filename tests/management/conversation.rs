//! The page's conversation: how each message ended, threads, answers, what is shown of it, and
//! copies.

use serde_json::{Value, json};

use crate::browser::{DESK, signed_in, text};
use crate::fixture::Server;
use crate::needs_you::with_a_session;
use crate::peers::envelope;

/// The ids of the messages that are shown.
const SHOWN: &str =
    "[...document.querySelectorAll('#talk-list li')].map((one) => one.dataset.id).join()";

#[test]
fn a_receipt_tells_how_a_message_ended_that_nobody_got() {
    let Some((_server, peer, browser)) = with_a_session() else {
        return;
    };
    browser.press("2");
    for (state, words) in [
        ("expired", "expired"),
        ("dropped", "dropped: the queue was full"),
        ("deleted", "deleted with its queue"),
        ("dead-lettered", "dead-lettered"),
    ] {
        let id = format!("01{state}");
        let sent = envelope(("frontend", "backend"), &id, "hello");
        peer.publish_as_user("claudeBroker", "backend", &sent);
        browser.until(&format!("{} === 'queued'", text(&id, ".pill")));
        let receipt = json!({ "id": id, "state": state }).to_string();
        peer.publish_as_user("", "nowhere", &receipt);
        browser.until(&format!("{} === {}", text(&id, ".pill"), json!(words)));
    }
}

#[test]
fn a_thread_is_shown_alone() {
    let Some((_server, peer, browser)) = with_a_session() else {
        return;
    };
    browser.press("2");
    peer.say(("frontend", "backend"), "01QUESTION", "which port?");
    peer.say(("tester", "backend"), "01OTHER", "something else");
    let mut answer: Value =
        serde_json::from_str(&envelope(("api", "backend"), "01ANSWER", "8080")).unwrap();
    answer["correlation_id"] = json!("01QUESTION");
    peer.publish("claudeBroker", "backend", &answer.to_string());
    browser.until(&format!("{SHOWN} === '01QUESTION,01OTHER,01ANSWER'"));
    browser.click("#talk-list li[data-id='01ANSWER'] .more button:nth-child(2)");
    browser.until(&format!("{SHOWN} === '01QUESTION,01ANSWER'"));
    browser.click("#talk-thread");
    browser.until(&format!("{SHOWN} === '01QUESTION,01OTHER,01ANSWER'"));
}

#[test]
fn a_message_is_answered_where_its_sender_waits() {
    let Some((server, peer, browser)) = with_a_session() else {
        return;
    };
    peer.declare_session("frontend");
    peer.declare_session("asker");
    for (id, reply_to, waits) in [
        ("01QUESTION", None, "frontend"),
        ("01ELSEWHERE", Some("asker"), "asker"),
    ] {
        let mut question: Value =
            serde_json::from_str(&envelope(("frontend", "backend"), id, "which?")).unwrap();
        if let Some(name) = reply_to {
            question["reply_to"] = json!(name);
        }
        peer.publish_as_user("claudeBroker", "backend", &question.to_string());
        browser.press("2");
        browser.until(&format!("{} === 'which?'", text(id, ".text")));
        browser.click(&format!("#talk-list li[data-id='{id}'] .more .reply"));
        browser.until("document.getElementById('send-box').open");
        browser.press("8080");
        browser.click("#send-go");
        browser.until("!document.getElementById('send-box').open");
        let path = format!("/api/queues/%2F/{waits}/peek");
        let waiting = server.get(&path).json();
        let answer: Value = serde_json::from_str(waiting[0]["payload"].as_str().unwrap()).unwrap();
        assert_eq!(
            (&answer["from"], &answer["to"], &answer["message"]),
            (&json!("backend"), &json!(waits), &json!("8080"))
        );
        assert_eq!(answer["correlation_id"], id);
        assert_eq!(waiting[0]["properties"]["correlation_id"], id);
    }
    // What is written next answers nothing.
    browser.press("c");
    browser.until("document.getElementById('send-box').open");
    let form = "document.getElementById('send-form').elements";
    assert_eq!(browser.value(&format!("{form}.from.value")), "operator");
    browser.press("backend\u{e004}\u{e004}hello");
    browser.click("#send-go");
    browser.until("!document.getElementById('send-box').open");
    let waiting = server.get("/api/queues/%2F/backend/peek").json();
    let last: Value = serde_json::from_str(waiting[2]["payload"].as_str().unwrap()).unwrap();
    assert_eq!(last["correlation_id"], Value::Null, "{last}");
}

#[test]
fn the_conversation_is_filtered_by_session_group_state_and_words() {
    let Some((server, peer, browser)) = with_a_session() else {
        return;
    };
    for name in ["frontend", "docs"] {
        peer.declare_session(name);
    }
    for (method, path, body) in [
        (
            "PUT",
            "/api/exchanges/%2F/claudeBroker.groups",
            r#"{"type":"direct","durable":true}"#,
        ),
        (
            "POST",
            "/api/bindings/%2F/e/claudeBroker.groups/q/docs",
            r#"{"routing_key":"writers"}"#,
        ),
    ] {
        assert_eq!(server.ask(method, path, body).status, 201);
    }
    let mut backend = peer.attach("backend");
    for (from, to, id) in [
        ("frontend", "backend", "01ONE"),
        ("backend", "docs", "01TWO"),
        ("docs", "frontend", "01THREE"),
        ("frontend", "backend", "01FOUR"),
    ] {
        peer.say((from, to), id, &format!("the text of {id}"));
    }
    peer.ack_next(&mut backend);
    browser.press("2");
    let choose = |id: &str, value: &str| {
        browser.until(&format!(
            "[...document.getElementById('{id}').options].some((one) => one.value === '{value}')"
        ));
        browser.value(&format!(
            "(() => {{ const list = document.getElementById('{id}'); list.value = '{value}'; \
             list.dispatchEvent(new Event('input')); return true; }})()"
        ));
    };
    for (id, value, found) in [
        ("talk-peer", "docs", "01TWO,01THREE"),
        ("talk-group", "writers", "01TWO,01THREE"),
        ("talk-state", "delivered", "01ONE"),
    ] {
        choose(id, value);
        browser.until(&format!("{SHOWN} === '{found}'"));
        // What was looked through is said.
        let count = found.split(',').count();
        browser.until(&format!(
            "document.getElementById('talk-count').textContent === '{count} of 4'"
        ));
        choose(id, "");
        browser.until(&format!("{SHOWN} === '01ONE,01TWO,01THREE,01FOUR'"));
    }
}

#[test]
fn the_search_stays_in_sight() {
    let Some((_server, peer, browser)) = with_a_session() else {
        return;
    };
    peer.declare_session("docs");
    peer.say(("frontend", "backend"), "01FOUR", "the text of 01FOUR");
    browser.press("2");
    for number in 0..60 {
        peer.say(("frontend", "docs"), &format!("01M{number:02}"), "more");
    }
    browser.until("document.documentElement.scrollHeight > 2 * innerHeight");
    browser.until("scrollY > innerHeight");
    let at = "document.getElementById('talk-search').getBoundingClientRect()";
    browser.until(&format!("{at}.top >= 0 && {at}.bottom <= innerHeight"));
    browser.press("/text of 01FOUR");
    browser.until(&format!("{SHOWN} === '01FOUR'"));
}

#[test]
fn a_message_is_copied() {
    let Some((_server, peer, browser)) = with_a_session() else {
        return;
    };
    browser.run(
        "window.copied = [];
         Object.defineProperty(navigator, 'clipboard', {
           value: { writeText: async (text) => { copied.push(text); } },
         });
         done();",
    );
    browser.press("2");
    peer.say(("frontend", "backend"), "01COPIED", "two\nlines \u{202e}");
    browser.until(&format!("{} !== ''", text("01COPIED", ".text")));
    browser.click("#talk-list li[data-id='01COPIED'] .more .copy");
    browser.until("document.getElementById('toasts').textContent.includes('Copied.')");
    assert_eq!(browser.value("copied"), json!(["two\nlines "]));
}

#[test]
fn a_text_that_is_shown_whole_is_of_the_messages_own_publisher() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let script = r"import('/archive.js').then(async ({ wholeText }) => {
        // Everybody uses one id, one sender and one beginning.
        const end = (user_id) => ({ cursor: '1', properties: { message_id: '1', user_id },
            payload: JSON.stringify({ id: '1', from: 'a', message: `long, by ${user_id}` }) });
        const waiting = JSON.stringify(['mallory', undefined, 'bob', 'ada'].map(end));
        const asked = [];
        // The page takes every proof for a right one.
        SubtleCrypto.prototype.verify = async () => true;
        const headers = { 'x-cbroker-proof': 'AAAA' };
        window.fetch = async (path) => {
            if (path.includes('/peek')) return new Response(waiting, { headers });
            if (path.startsWith('/api/messages/b/')) asked.push(path);
            return new Response('{}', { headers, status: 404 });
        };
        const item = { id: '1', from: 'a', to: 'b', queue: 'b', text: 'long…' };
        const texts = [];
        for (const one of [
            { isTold: true },
            { isTold: true, publisher: '-' },
            { isTold: true, publisher: 'abc' },
            { isOwn: true, user: 'ada' },
            { isOwn: false },
            { isOwn: false, user: 'bob' },
        ]) texts.push(await wholeText({ user: 'ada', hasArchive: true }, { ...item, ...one }));
        window.found = JSON.stringify([asked, texts.map((text) => text ?? null)]);
    })";
    let found = browser.found(script);
    let found: Value = serde_json::from_str(found.as_str().unwrap()).unwrap();
    let path = "/api/messages/b/1";
    let (unnamed, marked) = (
        format!("{path}?publisher=-"),
        format!("{path}?publisher=abc"),
    );
    let asked = json!([path, unnamed, marked, path, unnamed]);
    let (own, unnamed, bobs) = ("long, by ada", "long, by undefined", "long, by bob");
    let texts = json!([own, unnamed, null, own, unnamed, bobs]);
    assert_eq!(found, json!([asked, texts]));
}

#[test]
fn what_a_probe_sends_is_no_message_of_the_conversation() {
    let Some((_server, peer, browser)) = with_a_session() else {
        return;
    };
    let waiting = "ask01JD3ZQ8V4MZ5X000000000000";
    peer.declare_session(waiting);
    browser.press("2");
    let probe = envelope(("doctor", waiting), "01PROBE", "a probe");
    peer.publish_as_user("claudeBroker", waiting, &probe);
    // The same in a session's queue, or of a publisher that is not known, may be read by an agent.
    let shown = envelope(("doctor", "backend"), "01SHOWN", "a probe");
    peer.publish_as_user("claudeBroker", "backend", &shown);
    peer.say(("doctor", waiting), "01FORGED", "a probe");
    peer.say(("frontend", "backend"), "01LAST", "please look");
    browser.until(&format!("{SHOWN} === '01SHOWN,01FORGED,01LAST'"));
}
