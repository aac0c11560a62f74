//! What the page shows of the past, with the real binary: the conversation after a restart, long
//! messages whole, and dead letters.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::browser::{DESK, card};
use crate::fixture;
use crate::http::{PageLogin, Request};
use crate::support::{Place, Server, Wrapped, wait_until};
use crate::tools::is_there;
use crate::webdriver::Browser;

/// The page, signed in by `cbroker ui`; `None` without a browser.
pub(crate) fn page(place: &Place) -> Option<Browser> {
    if !is_there("chromedriver") {
        return None;
    }
    let browser = Browser::open(&DESK);
    let opened = place.json(["ui"]).remove(0);
    browser.go(opened["url"].as_str().unwrap());
    browser.until("!document.getElementById('app').hidden");
    browser.until("document.getElementById('live').textContent === 'live'");
    Some(browser)
}

/// What is in the first message of the conversation whose text begins so.
fn said(beginning: &str, what: &str) -> String {
    let beginning = json!(beginning);
    format!(
        "([...document.querySelectorAll('#talk-list li')].find((one) => \
         one.querySelector('.text').textContent.startsWith({beginning}))\
         ?.querySelector('{what}')?.textContent ?? '')"
    )
}

/// Publishes a body that need not be a message.
fn publish(place: &Place, server: &Server, queue: &str, body: &str) {
    let order = json!({
        "properties": { "delivery_mode": 2 }, "routing_key": queue,
        "payload": body, "payload_encoding": "string",
    });
    let path = "/api/exchanges/%2F/claudeBroker/publish";
    let answer = server.ask(place, "POST", path, &order.to_string());
    assert_eq!(answer.json()["routed"], true, "{answer:?}");
}

#[test]
fn a_new_page_on_a_new_broker_knows_what_was_said_and_what_became_of_it() {
    let place = Place::new();
    let mut server = Server::start(&place);
    {
        let session = Wrapped::open(&place, "backend", &[]);
        place.ok(["send", "backend", "which port?", "--from", "frontend"]);
        session.wait_for_submission("which port?");
        let states = || place.json(["history", "backend"]).remove(0)["state"].clone();
        wait_until(|| states() == "delivered", || states().to_string());
    }
    place.ok(["send", "tester", "never mind", "--from", "frontend"]);
    place.ok(["purge", "tester", "--yes"]);
    place.ok(["send", "tester", "are you there?", "--from", "frontend"]);
    server.kill_and_restart(&place);
    let Some(browser) = page(&place) else { return };
    browser.press("2");
    for (text, fate) in [
        ("which port?", "delivered (keyboard)"),
        ("never mind", "purged"),
        ("are you there?", "queued"),
    ] {
        browser.until(&format!("{} === '{fate}'", said(text, ".pill")));
    }
    let shown = "document.querySelectorAll('#talk-list li').length";
    browser.until(&format!("{shown} === 3"));
    // What ends meanwhile without a word to the page is learned from the history. It is not said to
    // be delivered before.
    browser.run(&format!(
        "window.saw = []; new MutationObserver(() => saw.push({})).observe(\
         document.getElementById('talk-list'), {{ childList: true, subtree: true, \
         characterData: true }}); done(true)",
        said("are you there?", ".pill")
    ));
    place.ok(["purge", "tester", "--yes"]);
    browser.until(&format!("{} === 'purged'", said("are you there?", ".pill")));
    assert_eq!(browser.value("saw.includes('delivered')"), false);
    browser.until(&format!("{shown} === 3"));
    assert_eq!(browser.errors(), [] as [String; 0]);
}

#[test]
fn a_strangers_message_is_called_one_by_a_page_that_is_opened_later_too() {
    let place = Place::new();
    let mut server = Server::start(&place);
    {
        let session = Wrapped::open(&place, "backend", &[]);
        let forged = json!({
            "id": "01JD3ZQ8V4MZ5X0000000FORGE", "from": "frontend", "to": "backend",
            "ts": "2026-01-01T00:00:00.000Z", "message": "a stranger's text",
        });
        publish(&place, &server, "backend", &forged.to_string());
        session.wait_for_submission("a stranger's text");
        place.ok(["send", "backend", "my own", "--from", "frontend"]);
        session.wait_for_submission("my own");
    }
    server.kill_and_restart(&place);
    let Some(browser) = page(&place) else { return };
    browser.press("2");
    let mark = "sent by a publisher that the broker does not name";
    let is_marked = |text: &str| format!("{}.includes('{mark}')", said(text, ".more"));
    browser.until(&format!("{} !== ''", said("my own", ".more")));
    browser.until(&format!("{} !== ''", said("a stranger", ".more")));
    assert_eq!(browser.value(&is_marked("a stranger")), true);
    assert_eq!(browser.value(&is_marked("my own")), false);
}

#[test]
fn a_long_message_opens_whole_while_it_waits_and_when_it_is_gone() {
    let place = Place::new();
    let _server = Server::start(&place);
    let text = format!("a long text {}the very end", "and more ".repeat(60_000));
    let send = ["send", "backend", "--from", "frontend"];
    let sent = place.run_with_input(send, text.as_bytes());
    assert_eq!(sent.code, 0, "{sent:?}");
    let Some(browser) = page(&place) else { return };
    let opens = || {
        browser.press("2");
        browser.until(&format!("{}.endsWith('…')", said("a long text", ".text")));
        // Not by its place: the list scrolls to its end at any moment.
        let all = "document.querySelector('#talk-list li .more button:last-of-type')";
        browser.value(&format!("{all}.click() ?? true"));
        browser.until(&format!(
            "{}.length === {}",
            said("a long text", ".text"),
            text.len()
        ));
        browser.until(&format!(
            "{}.endsWith('very end')",
            said("a long text", ".text")
        ));
    };
    opens();
    // Also among what waits in its queue.
    browser.press("1");
    browser.click("article[data-key=backend] .open");
    browser.click("#look-body section:first-of-type .more button");
    let waiting = "document.querySelector('#look-body section:first-of-type .text').textContent";
    browser.until(&format!("{waiting}.length === {}", text.len()));
    browser.click("#look [data-close]");
    place.ok(["purge", "backend", "--yes"]);
    let opened = place.json(["ui"]).remove(0);
    browser.go("about:blank");
    browser.go(opened["url"].as_str().unwrap());
    browser.until("document.getElementById('live').textContent === 'live'");
    opens();
    let told = place.json(["history"]).remove(0);
    assert_eq!(told["text"], text, "the command line shows it whole too");
}

#[test]
fn a_long_message_that_is_told_of_anew_while_its_text_is_asked_for_opens_whole() {
    let place = Place::new();
    let _server = Server::start(&place);
    let Some(browser) = page(&place) else { return };
    let script = r#"import('/model.js').then(({ Model }) => {
        const model = new Model();
        model.user = 'ada';
        const text = 'a long text '.repeat(10);
        model.told({ version: 'v', older: 0, messages: [{ id: '1', from: 'a', to: 'b',
            ts: '2026-11-28T10:00:00Z', state: 'sent', text, cut_from: 5000 }] });
        const [asked] = model.messages.values();
        model.seen({ what: 'published', at_ms: 1, vhost: '/', encoding: 'string',
            exchange: 'claudeBroker', routing_key: 'b', body_bytes: 5000,
            properties: { user_id: 'ada' },
            excerpt: `{"id":"1","from":"a","to":"b","ts":"t","message":"${text}and` });
        model.widen(asked, `${text}and the end`);
        const [shown, ...more] = model.messages.values();
        window.found = JSON.stringify([shown !== asked, more.length,
            shown.text.endsWith('the end'), model.room.all.size === shown.haystack.length]);
    })"#;
    assert_eq!(browser.found(script), "[true,0,true,true]");
}

#[test]
fn what_the_history_says_again_takes_no_more_room_on_the_page() {
    let place = Place::new();
    let _server = Server::start(&place);
    let Some(browser) = page(&place) else { return };
    let script = r"import('/model.js').then(({ Model }) => {
        const model = new Model();
        const one = (number, publisher) => ({ id: 'same', from: 'a', to: `m${number}`,
            ts: '2026-11-28T10:00:00Z', state: 'sent', text: 'to all', publisher });
        const members = Array.from({ length: 40 }, (_, number) => one(number, undefined));
        const others = Array.from({ length: 40 }, (_, number) => one(number, 'bob'));
        for (let round = 0; round < 5; round++)
            model.told({ version: `${round}`, older: 0, messages: [...members, ...others] });
        window.found = JSON.stringify([model.messages.size, model.room.all.count,
            model.room.others.count]);
    })";
    assert_eq!(browser.found(script), "[80,80,40]");
}

#[test]
fn a_closed_session_with_messages_says_how_to_open_it() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "reviewer", "never opened here"]);
    let mut session = Wrapped::open(&place, "backend", &[]);
    let Some(browser) = page(&place) else { return };
    let how = |name: &str| format!("{}.trim()", card(name, ".how:not([hidden])"));
    let shown = "'Open it: cbroker --name reviewer <agent>'";
    browser.until(&format!("{} === {shown}", how("reviewer")));
    assert_eq!(browser.value(&how("backend")), "", "it is open");
    assert_eq!(session.leave(), 0);
    browser.until(&format!("{} === 'Closed'", card("backend", ".pill")));
    assert_eq!(browser.value(&how("backend")), "", "nothing waits for it");
    place.ok(["send", "backend", "read this"]);
    let command = place.listed("backend").unwrap()["open"].clone();
    let shown = format!("Open it: {}", command.as_str().unwrap());
    assert!(shown.contains(" && cbroker --name backend run -- "));
    browser.until(&format!("{} === {}", how("backend"), json!(shown)));
    let _session = Wrapped::open(&place, "backend", &[]);
    browser.until(&format!("{} === ''", how("backend")));
    assert_eq!(browser.errors(), [] as [String; 0]);
}

#[test]
fn the_first_command_that_the_page_shows_is_the_one_that_opened_the_session() {
    let place = Place::new();
    let _server = Server::start(&place);
    assert_eq!(Wrapped::open(&place, "backend", &[]).leave(), 0);
    place.ok(["send", "backend", "read this"]);
    let open = || place.listed("backend").unwrap()["open"].clone();
    wait_until(|| open().is_string(), || "the broker sees its end".into());
    let Some(browser) = page(&place) else { return };
    let how = format!("{}.trim()", card("backend", ".how:not([hidden])"));
    browser.until(&format!("{how} !== ''"));
    let shown = format!("Open it: {}", open().as_str().unwrap());
    assert_eq!(browser.value(&how), shown);
}

#[test]
fn a_dead_letter_is_read_and_sent_again_or_dropped_on_the_page() {
    let place = Place::new();
    let server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    publish(
        &place,
        &server,
        "backend",
        r#"{"message":"half a message"}"#,
    );
    let no_message = format!("no message at all {}", "x".repeat(5000));
    publish(&place, &server, "backend", &no_message);
    wait_until(
        || place.json(["dead"]).len() == 2,
        || format!("{:?}", place.json(["dead"])),
    );
    let Some(browser) = page(&place) else { return };
    browser.until("document.getElementById('dead-count').textContent === '2'");
    browser.click("#dead summary");
    let texts = "[...document.querySelectorAll('#dead .text')].map((one) => one.textContent)";
    browser.until(&format!("{texts}.includes('half a message')"));
    let card = "document.querySelector('article[data-key=backend] .feet')?.textContent ?? ''";
    browser.until(&format!("({card}).includes('2 dead letters')"));
    // The whole text, and what can be done with it, are in the session's drawer too.
    browser.click("article[data-key=backend] .open");
    browser.until("document.querySelectorAll('#look-body .dead li').length === 2");
    let letters = place.json(["dead"]);
    let id = |beginning: &str| {
        let begins = |letter: &&Value| letter["raw"].as_str().unwrap().starts_with(beginning);
        letters.iter().find(begins).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (half, none) = (id("{"), id("no message"));
    let letter = |id: &str| format!("#look-body [data-dead='{id}']");
    browser.click(&format!("{} .acts button:first-child", letter(&none)));
    let text = format!(
        "document.querySelector(\"{} .text\").textContent",
        letter(&none)
    );
    browser.until(&format!("{text} === {}", json!(no_message)));
    // First nothing happens, then it does.
    browser.click(&format!("{} .acts button:last-of-type", letter(&none)));
    browser.click("#confirm [data-close]");
    assert_eq!(place.json(["dead"]).len(), 2);
    browser.click(&format!("{} .acts button:last-of-type", letter(&none)));
    browser.click("#confirm-go");
    browser.until("document.querySelectorAll('#look-body .dead li').length === 1");
    // The broker does not confirm its publisher, which the page says before it is sent.
    let pills = format!("document.querySelector(\"{}\").textContent", letter(&half));
    browser.until(&format!("{pills}.includes('publisher not confirmed')"));
    browser.click(&format!("{} .acts button:first-child", letter(&half)));
    let sure = "document.getElementById('confirm-text').textContent";
    browser.until(&format!("{sure}.includes('does not confirm who wrote it')"));
    browser.until("document.getElementById('confirm-go').textContent === 'Send in my name'");
    browser.click("#confirm-go");
    let line = session.wait_for_submission("half a message");
    assert!(line.contains(" from=cli "), "{line}");
    browser.until("document.querySelector('#look-body .dead') === null");
    browser.until("document.getElementById('dead').hidden");
    assert!(place.json(["dead"]).is_empty());
}

#[test]
fn a_strangers_dead_letter_is_sent_again_by_the_api_only_where_that_is_agreed_to() {
    let place = Place::new();
    let server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let strangers = r#"{"message":"a stranger's text"}"#;
    publish(&place, &server, "backend", strangers);
    let letters = || server.ask(&place, "GET", "/api/dead-letters", "").json()["letters"].clone();
    wait_until(|| letters()[0].is_object(), || letters().to_string());
    assert_eq!(letters()[0]["is_own"], false);
    let path = format!(
        "/api/dead-letters/{}/resend",
        letters()[0]["id"].as_str().unwrap()
    );
    let refused = server.ask(&place, "POST", &path, "");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.body.contains("yes=true"), "{refused:?}");
    assert!(letters()[0].is_object(), "it stays");
    let sent = server.ask(&place, "POST", &format!("{path}?yes=true"), "");
    assert_eq!(sent.status, 200, "{sent:?}");
    session.wait_for_submission("a stranger's text");
    assert_eq!(letters()[0], Value::Null);
}

#[test]
fn dead_letters_of_strangers_take_no_place_of_the_users_own_on_the_page() {
    let place = Place::new();
    let server = Server::start(&place);
    let folder = place.home().join("dlq");
    std::fs::create_dir_all(&folder).unwrap();
    let line = |number: usize| {
        let letter =
            json!({ "ts": format!("{number:05}"), "error": "no JSON", "raw": number.to_string() });
        format!("{letter}\n")
    };
    let lines = |from: usize| (from..from + 600).map(line).collect::<String>();
    std::fs::write(folder.join("backend.jsonl"), lines(0)).unwrap();
    std::fs::write(folder.join("backend.others.jsonl"), lines(1000)).unwrap();
    let told = server.ask(&place, "GET", "/api/dead-letters", "").json();
    let shown = told["letters"].as_array().unwrap();
    let own: Vec<_> = shown
        .iter()
        .filter(|letter| letter["is_own"] == true)
        .collect();
    assert_eq!((shown.len(), own.len()), (1000, 500));
    assert_eq!(own[499]["raw"], "599", "the latest of his own");
    assert_eq!(told["older"], 200);
}

#[test]
fn the_history_tells_a_strangers_message_from_the_users_own_of_the_same_id() {
    let place = Place::new();
    let server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    let id = "01JD3ZQ8V4MZ5X0000000FORGE";
    let forged = json!({
        "id": id, "from": "frontend", "to": "backend", "ts": "2026-01-01T00:00:00.000Z",
        "message": "a stranger's text",
    });
    publish(&place, &server, "backend", &forged.to_string());
    session.wait_for_submission("a stranger's text");
    place.ok(["send", "backend", "my own", "--from", "frontend"]);
    session.wait_for_submission("my own");
    let publishers = || {
        let told = place.json(["history", "backend"]);
        let publisher = |one: &Value| (one["text"].clone(), one["publisher"].clone());
        told.iter().map(publisher).collect::<Vec<_>>()
    };
    let wanted = [
        (json!("a stranger's text"), json!("-")),
        (json!("my own"), Value::Null),
    ];
    wait_until(|| publishers() == wanted, || format!("{:?}", publishers()));
    let path = format!("/api/messages/backend/{id}");
    let text = |path: &str| server.ask(&place, "GET", path, "").json()["text"].clone();
    assert_eq!(text(&path), Value::Null, "the user sent none of this id");
    let of_stranger = format!("{path}?publisher=-");
    assert_eq!(text(&of_stranger), "a stranger's text");
    let story = place.json(["why", id]).remove(0);
    let entries = story.as_array().unwrap();
    assert!(
        entries.iter().all(|entry| entry["publisher"] == "-"),
        "{story}"
    );
}

#[test]
fn only_the_brokers_own_user_gets_what_is_kept_on_disk() {
    let place = Place::new();
    let server = Server::start(&place);
    let sent = place
        .json(["send", "backend", "a secret", "--from", "frontend"])
        .remove(0);
    let own = server.ask(&place, "GET", "/api/messages", "").json();
    assert_eq!(own["messages"][0]["text"], "a secret", "{own}");
    let known = format!("/api/messages?known={}", own["version"].as_str().unwrap());
    let unchanged = server.ask(&place, "GET", &known, "").json();
    assert_eq!(unchanged["messages"], Value::Null, "{unchanged}");
    let bob = ("bob", "another-secret");
    let user = json!({ "password": bob.1, "tags": "administrator" }).to_string();
    assert_eq!(
        server.ask(&place, "PUT", "/api/users/bob", &user).status,
        201
    );
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    let path = "/api/permissions/%2F/bob";
    assert_eq!(server.ask(&place, "PUT", path, all).status, 201);
    let message = format!("/api/messages/backend/{}", sent["id"].as_str().unwrap());
    assert_eq!(
        server.ask(&place, "GET", &message, "").json()["text"],
        "a secret"
    );
    for (method, path) in [
        ("GET", "/api/messages"),
        ("GET", message.as_str()),
        ("GET", "/api/openings"),
        ("GET", "/api/dead-letters"),
        ("GET", "/api/dead-letters/abc"),
        ("DELETE", "/api/dead-letters/abc"),
        ("POST", "/api/dead-letters/abc/resend"),
    ] {
        let refused = server.ask_as(bob, method, path, "");
        assert_eq!(refused.status, 401, "{method} {path}: {refused:?}");
        assert!(!refused.body.contains("a secret"));
    }
    let session = server.ask_as(bob, "GET", "/api/session", "").json();
    assert_eq!(session["archive"], false, "{session}");
    // Nobody's files are served by a broker that was given none.
    let bare = fixture::Server::start();
    assert_eq!(bare.get("/api/messages").status, 404);
}

/// A page that signs in with a body at the broker of a place.
fn entered(server: &Server, body: &Value) -> PageLogin {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, server.management_port.unwrap()));
    let request = Request::new(to, "POST", "/api/session");
    let answer = request.header("origin", &format!("http://{to}"));
    PageLogin::of(&answer.send(&body.to_string()))
}

/// What such a page is given of the past: the status and the body.
fn shown(server: &Server, login: &PageLogin) -> (u16, String) {
    let to = (Ipv4Addr::LOCALHOST, server.management_port.unwrap()).into();
    let answer = Request::new(to, "GET", "/api/messages")
        .signed_in(login)
        .send("");
    (answer.status, answer.body)
}

#[test]
fn an_administrator_who_sets_the_first_users_password_reads_nothing_of_the_past() {
    let place = Place::new();
    let server = Server::start(&place);
    place.ok(["send", "backend", "a secret", "--from", "frontend"]);
    let bob = ("bob", "another-secret");
    let user = json!({ "password": bob.1, "tags": "administrator" }).to_string();
    let made = server.ask(&place, "PUT", "/api/users/bob", &user);
    assert_eq!(made.status, 201, "{made:?}");
    let first = server.ask(&place, "GET", "/api/session", "").json();
    assert_eq!(first["archive"], true, "with the stored password");
    let name = first["name"].as_str().unwrap().to_owned();
    let taken = json!({ "password": "taken", "tags": "administrator" }).to_string();
    let set = server.ask_as(bob, "PUT", &format!("/api/users/{name}"), &taken);
    assert_eq!(set.status, 204, "{set:?}");
    let thief = (name.as_str(), "taken");
    for path in ["/api/messages", "/api/openings", "/api/dead-letters"] {
        let refused = server.ask_as(thief, "GET", path, "");
        assert_eq!(refused.status, 401, "{path}: {refused:?}");
        assert!(!refused.body.contains("a secret"));
    }
    let seen = server.ask_as(thief, "GET", "/api/session", "").json();
    assert_eq!(seen["archive"], false, "{seen}");
    let made = server
        .ask_as(thief, "POST", "/api/session/token", "")
        .json();
    for body in [
        json!({ "username": name, "password": "taken" }),
        json!({ "token": made["token"], "confirmed": true }),
    ] {
        let (status, text) = shown(&server, &entered(&server, &body));
        assert_eq!(status, 401, "{body}: {text}");
        assert!(!text.contains("a secret"));
    }
    // The link of our own command comes over the socket, whatever the password is.
    let opened = place.json(["ui"]).remove(0);
    let (_, token) = opened["url"]
        .as_str()
        .unwrap()
        .split_once("token=")
        .unwrap();
    let own = entered(&server, &json!({ "token": token }));
    let (status, text) = shown(&server, &own);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("a secret"), "{text}");
}
