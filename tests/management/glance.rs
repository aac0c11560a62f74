//! What a tired person sees on the page at once: who needs them, why, since when, what is held, and
//! what to do about it.

use serde_json::{Value, json};

use crate::browser::{DESK, card, signed_in};
use crate::fixture::Server;
use crate::peers::{Peer, presence_holding};
use crate::webdriver::{Browser, Screen};

const PAGE: &str = "amq.gen-cbroker-page";
/// Two wait for their person, one is stuck, one is closed with messages, two are fine; beside them
/// one that is closed and has none.
const NAMES: [&str; 7] = [
    "api",
    "backend",
    "closedOne",
    "docs",
    "frontend",
    "idler",
    "worker",
];

/// A state that began so many days ago, which a slow test does not change.
fn announce(peer: &Peer, name: &str, (state, reason): (&str, Option<&str>), held: u32, ago: i64) {
    let since = chrono::Utc::now() - chrono::Duration::days(ago);
    let mut presence: Value =
        serde_json::from_str(&presence_holding(name, state, reason, held)).unwrap();
    presence["since"] = json!(since.to_rfc3339());
    peer.publish_as_user("claudeBroker.presence", "", &presence.to_string());
}

fn hold(peer: &Peer, name: &str, text: &str) {
    let held = json!({
        "kind": "inbox", "name": name, "session": format!("01{name}"), "messages": [{
            "id": format!("01HELD{name}"), "from": "worker", "ts": "", "reason": "", "line": text,
        }],
    });
    peer.publish_as_user("", PAGE, &held.to_string());
}

/// The page with the seven sessions on it, and what must live as long.
fn seven_sessions(server: &Server) -> Option<(Browser, Peer, Vec<lapin::Consumer>)> {
    let peer = Peer::connect(server);
    for name in NAMES {
        peer.declare_session(name);
    }
    let open = ["api", "backend", "frontend", "idler", "worker"];
    let attached = open.map(|name| peer.attach(name)).into();
    for (id, text) in [("01FIRST", "add /users"), ("01SECOND", "out of date")] {
        peer.say(("worker", "docs"), id, text);
    }
    let browser = signed_in(server, &DESK)?;
    let permission = ("needs-you", Some("permission for Bash"));
    announce(&peer, "backend", permission, 1, 12);
    announce(&peer, "frontend", ("needs-you", Some("a plan")), 0, 3);
    let stuck = "your input box holds a message; press Enter or clear it";
    announce(&peer, "api", ("stuck", Some(stuck)), 1, 7);
    announce(&peer, "idler", ("idle", None), 0, 1);
    announce(&peer, "worker", ("busy", None), 0, 1);
    hold(&peer, "backend", "drop the table?");
    hold(&peer, "api", "run the tests");
    for name in ["backend", "api", "docs"] {
        browser.until(&format!("{} !== ''", card(name, ".kept:not([hidden])")));
    }
    browser.until(&format!("{} === 'Busy'", card("worker", ".pill")));
    Some((browser, peer, attached))
}

fn shown(browser: &Browser, name: &str, what: &str) -> String {
    let what = format!("{what}:not([hidden])");
    let text = browser.value(&card(name, &what));
    text.as_str().unwrap().trim().to_owned()
}

#[test]
fn the_page_shows_which_sessions_need_a_person_at_the_top_and_on_each_card() {
    let server = Server::start();
    let Some((browser, _peer, _attached)) = seven_sessions(&server) else {
        return;
    };
    let todo = "backend, frontend need you\u{a0}· api is stuck\u{a0}· \
                docs is closed, messages wait";
    browser.until(&format!(
        "document.getElementById('todo').innerText === {}",
        json!(todo)
    ));
    assert_eq!(browser.value("document.title"), "(3) cbroker");
    let order = "[...document.querySelectorAll('article')].map((one) => one.dataset.key)";
    let first = browser.value(order).as_array().unwrap()[..4].to_vec();
    assert_eq!(first, ["api", "backend", "frontend", "docs"]);
    let see =
        |name: &str| format!("Answer in its terminal; to see it from here: cbroker screen {name}");
    for (name, pill, why, kept, how) in [
        (
            "backend",
            "Needs you",
            "permission for Bash · 12 d",
            "worker: drop the table?",
            see("backend"),
        ),
        ("frontend", "Needs you", "a plan · 3 d", "", see("frontend")),
        (
            "api",
            "Stuck",
            "your input box holds a message; press Enter or clear it · 7 d",
            "worker: run the tests",
            String::new(),
        ),
        (
            "docs",
            "Closed",
            "",
            "worker: add /usersworker: out of date",
            "Open it: cbroker --name docs <agent>".to_owned(),
        ),
        ("idler", "Idle", "", "", String::new()),
        ("worker", "Busy", "", "", String::new()),
        ("closedOne", "Closed", "", "", String::new()),
    ] {
        assert_eq!(shown(&browser, name, ".pill"), pill, "{name}");
        assert_eq!(shown(&browser, name, ".why"), why, "{name}");
        assert_eq!(shown(&browser, name, ".kept"), kept, "{name}");
        assert_eq!(shown(&browser, name, ".how"), how, "{name}");
    }
    assert!(shown(&browser, "docs", ".feet").starts_with("2 waiting, oldest "));
    assert_eq!(browser.errors(), [] as [String; 0]);
}

#[test]
fn the_colour_tells_who_needs_a_person_from_who_is_fine() {
    let server = Server::start();
    let Some((browser, _peer, _attached)) = seven_sessions(&server) else {
        return;
    };
    for theme in ["light", "dark"] {
        browser.value(&format!(
            "document.documentElement.dataset.theme = '{theme}'"
        ));
        let colour = |name: &str| {
            let pill = format!("document.querySelector('article[data-key={name}] .pill')");
            browser.value(&format!("getComputedStyle({pill}).color"))
        };
        let needs = colour("backend");
        assert_eq!(colour("frontend"), needs);
        assert_eq!(colour("api"), needs);
        let waits = colour("docs");
        let fine = ["closedOne", "idler", "worker"].map(colour);
        for calm in &fine {
            assert!(*calm != needs && *calm != waits, "{theme}: {fine:?}");
        }
        assert_ne!(needs, waits, "{theme}");
    }
}

#[test]
fn on_a_phone_everything_to_do_is_on_the_first_screen() {
    let server = Server::start();
    let Some((browser, _peer, _attached)) = seven_sessions(&server) else {
        return;
    };
    browser.resize(&Screen {
        width: 390,
        height: 844,
    });
    let end = "document.getElementById('todo').getBoundingClientRect().bottom";
    browser.until(&format!("{end} < 250"));
    let todo = "document.getElementById('todo').innerText";
    browser.until(&format!("{todo}.includes('docs is closed, messages wait')"));
}

#[test]
fn where_nobody_is_needed_the_page_says_so() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.until("!document.getElementById('no-sessions').hidden");
    browser.until("document.getElementById('todo').hidden");
    peer.declare_session("backend");
    let _attached = peer.attach("backend");
    // A half-typed text is nobody's business as long as nothing waits behind it.
    announce(&peer, "backend", ("draft", Some("draft")), 0, 1);
    browser.until(&format!("{} === 'Draft'", card("backend", ".pill")));
    let todo = "document.getElementById('todo').innerText";
    browser.until(&format!("{todo} === 'No session needs you.'"));
    assert_eq!(browser.value("document.title"), "cbroker");
    announce(&peer, "backend", ("draft", Some("draft")), 2, 1);
    browser.until(&format!("{todo} === 'backend holds messages'"));
    let how = card("backend", ".how:not([hidden])");
    browser.until(&format!(
        "{how}.trim() === 'Send or clear the draft in its terminal.'"
    ));
    assert_eq!(browser.value("document.title"), "cbroker");
}
