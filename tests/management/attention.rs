//! The page in the background: the title and notifications.

use serde_json::json;

use crate::browser::{DESK, card, signed_in};
use crate::fixture::Server;
use crate::peers::Peer;

#[test]
fn a_page_in_the_background_tells_when_a_session_begins_to_need_its_person() {
    let server = Server::start();
    let peer = Peer::connect(&server);
    for name in ["backend", "frontend"] {
        peer.declare_session(name);
    }
    let _attached = ["backend", "frontend"].map(|name| peer.attach(name));
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.allow_notifications();
    browser.run(
        "const Shown = window.Notification;
         window.told = [];
         window.Notification = class extends Shown {
           constructor(title, options) {
             super(title, options);
             told.push(`${this.title}; ${this.body}`);
           }
         };
         done();",
    );
    browser.click(".menu summary");
    browser.click("#notify");
    browser.until("localStorage.getItem('notify') === 'yes'");

    peer.announce("backend", "needs-you", Some("permission for Bash"));
    browser.until("document.title === '(1) cbroker'");
    browser.run(
        "window.isInFront = false;
         Object.defineProperty(document, 'hidden', { get: () => !isInFront });
         done();",
    );
    for _ in 0..2 {
        peer.announce("frontend", "needs-you", Some("a plan"));
        browser.until("document.title === '(2) cbroker'");
    }
    peer.announce("backend", "idle", None);
    browser.until("document.title === '(1) cbroker'");
    // What was in front when it came, and what came again, is not told.
    assert_eq!(
        browser.value("told"),
        json!(["frontend: Needs you; a plan"])
    );
    // Nor is what the page hears once more because it starts anew.
    let server = server.restart();
    browser.until("document.title === 'cbroker'");
    let peer = Peer::connect(&server);
    for name in ["backend", "frontend"] {
        peer.declare_session(name);
    }
    let _attached = ["backend", "frontend"].map(|name| peer.attach(name));
    browser.run("isInFront = true; done();");
    browser.until(&format!("{} === 'Attached'", card("frontend", ".pill")));
    browser.run("isInFront = false; done();");
    peer.announce("frontend", "needs-you", Some("a plan"));
    browser.until("document.title === '(1) cbroker'");
    assert_eq!(
        browser.value("told"),
        json!(["frontend: Needs you; a plan"])
    );
}
