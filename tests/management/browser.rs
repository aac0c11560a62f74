//! The management page in headless Chromium: sign-in by a link, live updates, and hostile messages
//! that have no effect.

use serde_json::json;

use crate::fixture::{Server, eventually};
use crate::peers::Peer;
use crate::tools::is_there;
use crate::webdriver::{Browser, Screen, processes};

pub(crate) const DESK: Screen = Screen {
    width: 1280,
    height: 800,
};

/// Returns a signed-in browser, or `None` if none is installed.
pub(crate) fn signed_in(server: &Server, screen: &Screen) -> Option<Browser> {
    if !is_there("chromedriver") {
        return None;
    }
    let browser = Browser::open(screen);
    browser.go(&format!(
        "http://{}/#token={}",
        server.page(),
        server.own_token()
    ));
    browser.until("!document.getElementById('app').hidden");
    browser.until("document.getElementById('live').textContent === 'live'");
    Some(browser)
}

pub(crate) fn card(name: &str, what: &str) -> String {
    format!("(document.querySelector('article[data-key=\"{name}\"] {what}')?.textContent ?? '')")
}

pub(crate) fn text(id: &str, what: &str) -> String {
    format!("(document.querySelector('#talk-list li[data-id=\"{id}\"] {what}')?.textContent ?? '')")
}

#[test]
fn two_sessions_are_seen_and_a_held_message_becomes_delivered() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    for name in ["backend", "frontend"] {
        peer.declare_session(name);
    }
    let (mut backend, _frontend) = (peer.attach("backend"), peer.attach("frontend"));
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    assert_eq!(
        browser.value("location.hash.includes('token')"),
        false,
        "the token is gone"
    );
    peer.announce("backend", "needs-you", Some("permission for Bash"));
    peer.announce("frontend", "idle", None);
    browser.until(&format!("{} === 'Needs you'", card("backend", ".pill")));
    browser.until(&format!(
        "{}.startsWith('permission for Bash')",
        card("backend", ".why")
    ));
    browser.until(&format!("{} === 'Idle'", card("frontend", ".pill")));

    peer.say(("frontend", "backend"), "01MESSAGE", "please look");
    browser.press("2");
    browser.until(&format!("{} === 'please look'", text("01MESSAGE", ".text")));
    browser.until(&format!(
        "{} === 'held: permission for Bash'",
        text("01MESSAGE", ".pill")
    ));
    peer.ack_next(&mut backend);
    browser.until(&format!(
        "{}.startsWith('delivered')",
        text("01MESSAGE", ".pill")
    ));
    assert_eq!(browser.errors(), [] as [String; 0]);
}

#[test]
fn a_message_is_written_with_the_keyboard_alone_and_arrives() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.until(&format!("{} === 'Closed'", card("backend", ".pill")));
    browser.press("c");
    browser.until("document.getElementById('send-box').open");
    browser.press("backend\u{e004}\u{e004}hello there\u{e004}\u{e004}\u{e007}");
    browser.until("!document.getElementById('send-box').open");
    let waiting = server.get("/api/queues/%2F/backend/peek").json();
    let envelope: serde_json::Value =
        serde_json::from_str(waiting[0]["payload"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&envelope["from"], &envelope["to"], &envelope["message"]),
        (&json!("operator"), &json!("backend"), &json!("hello there"))
    );
    assert_eq!(envelope["id"].as_str().unwrap().len(), 26);
    browser.until(&format!(
        "{}.includes('1 waiting')",
        card("backend", ".feet")
    ));
    // Sessions and queues are gone to, opened and closed.
    for view in ["1", "3"] {
        browser.press(view);
        browser.until("document.querySelector('main > section:not([hidden]) [data-key]') !== null");
        browser.press("j\u{e007}");
        browser.until("document.getElementById('look').open");
        browser.press("\u{e00c}");
        browser.until("!document.getElementById('look').open");
    }
}

#[test]
fn a_hostile_message_is_shown_as_text() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    let hostile =
        "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script><b id=bold>x</b>";
    peer.say(("<svg/onload=pwned=1>", "backend"), "01HOSTILE", hostile);
    peer.announce("backend", "needs-you", Some("<b id=bold>dialog</b>"));
    browser.press("2");
    browser.until(&format!(
        "{} === {}",
        text("01HOSTILE", ".text"),
        json!(hostile)
    ));
    browser.press("1");
    browser.click("article[data-key=backend] .open");
    browser.until("document.querySelector('#look-body .rest .text') !== null");
    assert_eq!(browser.value("window.pwned === undefined"), true);
    assert_eq!(
        browser.value("document.querySelectorAll('#bold, li img, li script, svg[onload]').length"),
        0
    );
}

#[test]
fn all_that_waits_is_looked_through_page_by_page() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    for number in 0..230 {
        let (id, text) = (format!("01M{number:05}"), format!("message {number}"));
        peer.say(("frontend", "backend"), &id, &text);
    }
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.until("document.querySelector('article[data-key=backend]') !== null");
    browser.click("article[data-key=backend] .open");
    let first = "document.querySelector('#look-body .rest .text')?.textContent";
    let pages = "document.querySelector('#look-body .pager span')?.textContent";
    browser.until(&format!("{pages} === '1–100 of 230'"));
    browser.click("#look-body .pager [aria-label='Later messages']");
    browser.until(&format!("{pages} === '101–200 of 230'"));
    browser.until(&format!("{first} === 'message 100'"));
    browser.click("#look-body .pager [aria-label='Later messages']");
    browser.until(&format!("{pages} === '201–230 of 230'"));
    let last =
        "document.querySelector('#look-body .pager [aria-label=\"Later messages\"]').disabled";
    browser.until(last);
    browser.click("#look-body .pager [aria-label='Earlier messages']");
    browser.until(&format!("{first} === 'message 100'"));
    assert_eq!(
        server.get("/api/queues/%2F/backend").json()["messages_ready"],
        230
    );
}

#[test]
fn a_browser_ends_with_its_test_however_that_ends() {
    if !is_there("chromedriver") {
        return;
    }
    let browser = Browser::open(&DESK);
    browser.go("about:blank");
    let group = browser.process_group();
    let alive = || {
        let listed = processes("pgid=,stat=").into_iter();
        listed
            .filter(|one| one[0] == group && !one[1].starts_with('Z'))
            .count()
    };
    assert!(alive() > 1, "the driver and the browser");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _browser = browser;
        panic!("as a failing test does");
    }));
    assert!(failed.is_err());
    eventually("nothing of it is left", || (alive() == 0).then_some(()));
}

#[test]
fn purging_and_deleting_ask_first() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    peer.say(("frontend", "backend"), "01WAITING", "hello");
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.until("document.querySelector('article[data-key=backend]') !== null");
    browser.click("article[data-key=backend] .open");
    browser.until("document.querySelector('#look-body .acts') !== null");
    let ready = || server.get("/api/queues/%2F/backend").json()["messages"].clone();
    browser.click("#look-body .purge");
    browser.until("document.getElementById('confirm').open");
    browser.click("#confirm [data-close]");
    assert_eq!(ready(), 1, "nothing was done yet");
    browser.click("#look-body .purge");
    browser.click("#confirm-go");
    browser.until("!document.getElementById('confirm').open");
    eventually("the queue is empty", || (ready() == 0).then_some(()));
    // What goes with the queue is said before.
    peer.say(("frontend", "backend"), "01LAST", "hello");
    let _attached = peer.attach("backend");
    eventually("the session has the message", || {
        let queue = server.get("/api/queues/%2F/backend").json();
        (queue["messages_unacknowledged"] == 1).then_some(())
    });
    browser.click("#look-body .delete");
    let said = "document.getElementById('confirm-text').textContent";
    for words in [
        "for good",
        "1 message that consumers hold",
        "A session is attached",
    ] {
        browser.until(&format!("{said}.includes({})", json!(words)));
    }
    browser.click("#confirm-go");
    browser.until("!document.getElementById('look').open");
    eventually("the queue is gone", || {
        (server.get("/api/queues/%2F/backend").status == 404).then_some(())
    });
}

#[test]
fn a_used_link_says_so_and_a_phone_needs_no_sideways_scrolling() {
    let server = Server::start();
    let screen = Screen {
        width: 500,
        height: 900,
    };
    let Some(browser) = signed_in(&server, &screen) else {
        return;
    };
    let narrow = "document.documentElement.scrollWidth <= innerWidth";
    for key in ["1", "2", "3", "4"] {
        browser.press(key);
        browser.until(narrow);
    }
    let token = server.token();
    let redeemed = server
        .request("POST", "/api/session")
        .header("origin", &server.origin())
        .send(&json!({ "token": token, "confirmed": true }).to_string());
    assert_eq!(redeemed.status, 200);
    browser.click("#menu summary");
    browser.click("#leave");
    browser.until("!document.getElementById('sign-in').hidden");
    browser.go("about:blank");
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("!document.getElementById('sign-in').hidden");
    browser.until("document.getElementById('sign-in-error').textContent.includes('used already')");
}

#[test]
fn a_thousand_sessions_and_ten_thousand_messages_leave_it_responsive() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    peer.declare_session("backend");
    let queues: Vec<_> = (0..1000)
        .map(|number| json!({ "name": format!("q{number:04}"), "vhost": "/", "durable": false }))
        .collect();
    let bindings: Vec<_> = (0..1000)
        .map(|number| {
            let name = format!("q{number:04}");
            json!({
                "source": "claudeBroker", "vhost": "/", "destination": name,
                "destination_type": "queue", "routing_key": name,
            })
        })
        .collect();
    let document = json!({ "queues": queues, "bindings": bindings }).to_string();
    assert_eq!(
        server.ask("POST", "/api/definitions", &document).status,
        204
    );
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.until("document.querySelectorAll('article.session').length === 1001");
    count_new_elements(&browser);
    for number in 0..10_000 {
        peer.say(
            ("frontend", "backend"),
            &format!("01M{number:05}"),
            &format!("message {number}"),
        );
    }
    browser.press("2");
    browser.until(&format!("{} === 'message 9999'", text("01M09999", ".text")));
    assert_eq!(
        browser.value("document.querySelectorAll('#talk-list li').length <= 200"),
        true
    );
    // What an update makes anew is bounded by the rows in sight, not by what there is.
    let most = &browser.value("most");
    assert!(
        most.as_u64().unwrap() <= MOST_NEW_ELEMENTS,
        "{most} at once"
    );
    let all = &browser.value("all");
    assert!(all.as_u64().unwrap() <= 10_000 * NEW_FOR_A_MESSAGE, "{all}");
    browser.press("/01M00042");
    browser.until(&format!("{} === 'message 42'", text("01M00042", ".text")));
    browser.value("document.activeElement.blur() ?? true");
    browser.press("3");
    browser.until("document.getElementById('queue-page').textContent === '1 / 21'");
    browser.until("document.querySelectorAll('#queue-rows tr').length === 50");
    // The count would notice cards that are made again.
    let again = "const list = document.getElementById('session-list');";
    browser.run(&format!(
        "{again} list.append(list.cloneNode(true)); done();"
    ));
    browser.until(&format!("most > {MOST_NEW_ELEMENTS}"));
}

/// Elements that one update may make: 200 rows of a conversation.
const MOST_NEW_ELEMENTS: u64 = 200 * NEW_FOR_A_MESSAGE;
/// Elements that a message may need.
const NEW_FOR_A_MESSAGE: u64 = 40;

/// From here on, `most` is the highest number of elements that were made in one update, and `all`
/// the number of all.
fn count_new_elements(browser: &Browser) {
    browser.run(
        "window.most = window.all = 0;
         const size = (node) => (node.querySelectorAll ? 1 + node.querySelectorAll('*').length : 0);
         new MutationObserver((changes) => {
           const made = changes.flatMap(({ addedNodes }) => [...addedNodes]);
           const count = made.reduce((sum, node) => sum + size(node), 0);
           window.all += count;
           window.most = Math.max(window.most, count);
         }).observe(document.body, { childList: true, subtree: true });
         done();",
    );
}
