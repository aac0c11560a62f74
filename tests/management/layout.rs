//! How the page looks and reads: what axe-core finds in it, and that it fits each width.
//!
//! `CBROKER_TEST_AXE` names the file `axe.min.js` of the npm package `axe-core`; CI brings it where
//! npm can be reached.

use std::sync::Arc;

use broker::{Archive, ArchiveCharge, ArchiveError, ArchiveResult};
use serde_json::{Value, json};

use crate::browser::{DESK, card, signed_in, text};
use crate::fixture::{Server, eventually};
use crate::peers::{Peer, envelope, presence_holding};
use crate::webdriver::{Browser, Screen};

const WIDTHS: [u32; 3] = [390, 1024, 1400];
const PAGE: &str = "amq.gen-cbroker-page";

/// One message of each end, and two dead letters.
#[derive(Debug)]
struct Kept;

impl Archive for Kept {
    fn is_stored_login(&self, _user: &str, _password: &str) -> bool {
        false
    }

    fn conversation(&self, known: Option<&str>, _charge: ArchiveCharge<'_>) -> ArchiveResult {
        let ends = [
            "delivered",
            "confirmed",
            "purged",
            "dead-lettered",
            "unconfirmed",
        ];
        let messages = ends.iter().enumerate().map(|(number, state)| {
            json!({
                "ts": format!("2026-01-01T00:00:0{number}.000Z"), "id": format!("01KEPT{number}"),
                "from": "frontend", "to": "backend", "text": format!("it was {state}"),
                "correlation_id": "01KEPT0", "state": state,
            })
        });
        let messages: Vec<Value> = messages.collect();
        let all = json!({ "version": "1", "older": 3, "messages": messages });
        let none = json!({ "version": "1" });
        Ok(if known.is_some() { none } else { all }.to_string())
    }

    fn message(&self, _queue: &str, _id: &str, _publisher: Option<&str>) -> ArchiveResult {
        Err(ArchiveError::Missing)
    }

    fn openings(&self, _charge: ArchiveCharge<'_>) -> ArchiveResult {
        let long = format!("cd /{} && cbroker --name gone claude", "folder".repeat(30));
        Ok(json!({ "gone": long }).to_string())
    }

    fn dead_letters(&self, _charge: ArchiveCharge<'_>) -> ArchiveResult {
        let letter = |id: &str, raw: &str| {
            json!({
                "id": id, "queue": "backend", "ts": "2026-01-01T00:00:00.000Z",
                "error": "`id` is missing, and a reason may be a long sentence", "raw": raw,
                "is_excerpt": raw.len() > 100,
            })
        };
        let letters = [
            letter("0123456789ab", r#"{"message":"half a message"}"#),
            letter("ba9876543210", &"no-message-at-all-".repeat(40)),
        ];
        Ok(json!({ "older": 0, "letters": letters }).to_string())
    }

    fn dead_letter(&self, _id: &str) -> ArchiveResult {
        Err(ArchiveError::Missing)
    }

    fn drop_dead_letter(&self, _id: &str) -> ArchiveResult {
        Err(ArchiveError::Missing)
    }

    fn resend(&self, _id: &str, _is_agreed: bool) -> ArchiveResult {
        Err(ArchiveError::Missing)
    }
}

/// A broker on which much happens, and the page once it shows that.
pub(crate) struct Busy {
    pub(crate) browser: Browser,
    _server: Server,
    _peer: Peer,
    _attached: Vec<lapin::Consumer>,
}

impl Busy {
    pub(crate) fn open() -> Option<Self> {
        let server = Server::start_with_archive(Arc::new(Kept));
        let peer = Peer::connect(&server);
        let long_name = "aVeryLongNameOfASessionThatNobodyWouldTypeTwiceButSomeScriptDoes";
        let names = ["backend", "paused", "idle", "stuck", "gone", long_name];
        for name in names {
            peer.declare_session(name);
        }
        let attached = ["backend", "paused", "idle", "stuck"].map(|name| peer.attach(name));
        let browser = signed_in(&server, &DESK)?;
        let reason = "permission for Bash: a command of one word that is much too long for it";
        let states = [("paused", "paused"), ("idle", "idle"), ("stuck", "stuck")];
        for (name, state) in states {
            let presence = presence_holding(name, state, Some("a reason"), 0);
            peer.publish_as_user("claudeBroker.presence", "", &presence);
        }
        let presence = presence_holding("backend", "needs-you", Some(reason), 1);
        peer.publish_as_user("claudeBroker.presence", "", &presence);
        let held = json!({
            "kind": "inbox", "name": "backend", "session": "01backend", "messages": [{
                "id": "01HELD", "from": "frontend", "ts": "", "reason": "permission",
                "line": format!("[cbroker peer message from=a id=01HELD] {}", "x".repeat(500)),
            }],
        });
        peer.publish_as_user("", PAGE, &held.to_string());
        let long = "a/path/without/any/blank/".repeat(40);
        let sent = envelope(("frontend", long_name), "01LONG", &long);
        peer.publish_as_user("claudeBroker", long_name, &sent);
        peer.say(
            ("a stranger", "gone"),
            "01OTHER",
            "many\nlines\n".repeat(20).trim(),
        );
        browser.until(&format!("{} === 'Needs you'", card("backend", ".pill")));
        browser.until(&format!("{} === 'Stuck'", card("stuck", ".pill")));
        browser.until(&format!("{}.includes('xxx')", card("backend", ".kept")));
        browser.until("!document.getElementById('dead').hidden");
        browser.click("#dead summary");
        browser.until("document.querySelectorAll('#dead li').length === 2");
        Some(Self {
            browser,
            _server: server,
            _peer: peer,
            _attached: attached.into(),
        })
    }

    /// Shows each view and box one after another, and looks at each.
    pub(crate) fn each_view(&self, look: impl Fn(&str)) {
        let browser = &self.browser;
        browser.press("1");
        browser.until("!document.getElementById('sessions').hidden");
        look("sessions");
        browser.press("2");
        browser.until(&format!("{} !== ''", text("01LONG", ".text")));
        browser.until(&format!("{} !== ''", text("01KEPT2", ".text")));
        look("conversation");
        browser.press("3");
        browser.until("document.querySelectorAll('#queue-rows tr').length > 3");
        look("queues");
        browser.press("4");
        browser.until("document.querySelectorAll('#plots svg').length > 3");
        browser.until("document.querySelectorAll('#links tr').length > 0");
        look("broker");
        browser.press("1");
        browser.click("#menu summary");
        browser.until("document.getElementById('menu').open");
        look("the menu");
        browser.click("#menu summary");
        for (key, id) in [("c", "send-box"), ("?", "help")] {
            browser.press(key);
            browser.until(&format!("document.getElementById('{id}').open"));
            look(id);
            browser.click(&format!("#{id} [data-close]"));
            browser.until(&format!("!document.getElementById('{id}').open"));
        }
        browser.click("article[data-key=backend] .open");
        browser.until("document.querySelector('#look-body .is-held') !== null");
        browser.until("document.querySelectorAll('#look-body .dead li').length === 2");
        look("the drawer");
        browser.click("#look-body .delete");
        browser.until("document.getElementById('confirm').open");
        look("the question");
        browser.click("#confirm [data-close]");
        browser.click("#look [data-close]");
        browser.until("!document.getElementById('look').open");
    }
}

/// The source of axe-core, where it was brought here.
fn axe() -> Option<String> {
    let Some(file) = std::env::var_os("CBROKER_TEST_AXE") else {
        eprintln!("skipped: CBROKER_TEST_AXE names no axe.min.js; CI brings it where npm can");
        return None;
    };
    Some(std::fs::read_to_string(file).unwrap())
}

/// What axe-core finds in the page as it is. While a slow broker does not answer, what is shown is
/// grey on purpose: then the page is looked at again.
fn findings(browser: &Browser, axe: &str) -> Vec<String> {
    const FRESH: &str = "!document.body.classList.contains('stale')";
    eventually("the page is live while axe-core looks", || {
        browser.until(FRESH);
        let found = found_now(browser, axe);
        (browser.value(FRESH) == true).then_some(found)
    })
}

fn found_now(browser: &Browser, axe: &str) -> Vec<String> {
    if browser.value("typeof axe === 'undefined'") == true {
        browser.run(&format!("{axe}\nwindow.axe = axe; done(true);"));
    }
    let found = browser.run(
        "axe.run({ resultTypes: ['violations'] }).then( \
             ({ violations }) => done(violations.flatMap(({ id, nodes }) => nodes.map( \
                 (node) => `${id}: ${node.html.slice(0, 150)} ${node.failureSummary}`))), \
             (error) => done([`axe failed: ${error}`]))",
    );
    let found = found.as_array().unwrap().iter();
    found.map(|one| one.as_str().unwrap().to_owned()).collect()
}

#[test]
fn axe_core_finds_nothing_in_light_and_dark() {
    let Some(axe) = axe() else { return };
    let Some(busy) = Busy::open() else { return };
    let mut complaints = Vec::new();
    for theme in ["light", "dark"] {
        let set = format!("document.documentElement.dataset.theme = '{theme}'");
        busy.browser.value(&set);
        let seen = std::cell::RefCell::new(&mut complaints);
        busy.each_view(|view| {
            let found = findings(&busy.browser, &axe);
            let said = found.iter().map(|one| format!("{view}, {theme}: {one}"));
            seen.borrow_mut().extend(said);
        });
    }
    busy.browser.click("#menu summary");
    busy.browser.click("#leave");
    busy.browser
        .until("!document.getElementById('sign-in').hidden");
    busy.browser.click("#sign-in summary");
    let found = findings(&busy.browser, &axe);
    complaints.extend(found.iter().map(|one| format!("signing in: {one}")));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What lies beyond the window's edges, or is wider than the box that cuts it. Tables and code may
/// be scrolled sideways in a box of their own; two kinds of text are cut on purpose, with dots.
const CUT: &str = r"(() => {
  const found = [];
  const edge = document.documentElement.scrollWidth - innerWidth;
  if (edge > 0) found.push(`the page is ${edge} px too wide`);
  const box = document.querySelector('dialog[open]:last-of-type') ?? document.body;
  for (const one of box.querySelectorAll('*')) {
    const at = one.getBoundingClientRect();
    const isShown = at.width > 1 && at.height > 1 && one.checkVisibility();
    if (!isShown || one.closest('.scroll, .hidden, .skip, svg, dialog:not([open])')) continue;
    const name = `${one.tagName} ${one.id} ${one.className}: ${one.textContent.slice(0, 40)}`;
    if (at.left < -1 || at.right > innerWidth + 1) found.push(`beyond the window: ${name}`);
    const style = getComputedStyle(one);
    const isOnPurpose = style.textOverflow === 'ellipsis' || style.webkitLineClamp !== 'none';
    if (style.overflowX !== 'visible' && !isOnPurpose && one.scrollWidth > one.clientWidth + 1
        && one.clientWidth > 0)
      found.push(`cut: ${name}`);
  }
  return found;
})()";

#[test]
fn nothing_is_cut_at_any_width() {
    let Some(busy) = Busy::open() else { return };
    let mut complaints = Vec::new();
    for width in WIDTHS {
        busy.browser.resize(&Screen { width, height: 850 });
        let seen = std::cell::RefCell::new(&mut complaints);
        busy.each_view(|view| {
            let cut = busy.browser.value(CUT);
            let cut = cut.as_array().unwrap().iter();
            let said = cut.map(|one| format!("{width} px, {view}: {}", one.as_str().unwrap()));
            seen.borrow_mut().extend(said);
        });
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The conversation scrolls to its end a moment after it is shown. Whoever has gone on by then
/// keeps the view that he is in: its first card must not end up under the bar.
#[test]
fn a_view_that_was_left_at_once_does_not_scroll_the_next_one() {
    let Some(busy) = Busy::open() else { return };
    let browser = &busy.browser;
    browser.resize(&Screen {
        width: 1024,
        height: 400,
    });
    browser.until("document.documentElement.scrollHeight > innerHeight");
    browser.press("21");
    browser.until("!document.getElementById('sessions').hidden");
    let after = browser.run("setTimeout(() => done(scrollY), 1000)");
    assert_eq!(after, 0);
    browser.click("article[data-key=backend] .open");
    browser.until("document.getElementById('look').open");
}
