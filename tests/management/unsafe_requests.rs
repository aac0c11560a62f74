//! What the page does not ask: paths that browsers change, and anything without a check of who
//! answers. And how often it draws what is there twice.

use crate::browser::{DESK, signed_in};
use crate::fixture::Server;
use crate::tools::is_there;
use crate::webdriver::Browser;

#[test]
fn a_queue_whose_name_browsers_drop_from_a_path_has_no_actions() {
    let server = Server::start();
    for name in [".", "contents"] {
        let path = format!("/api/queues/%2F/{name}");
        assert_eq!(server.ask("PUT", &path, "{}").status, 201, "{name}");
    }
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    browser.press("3");
    browser.until("document.querySelector('#queue-rows td')?.textContent === '.'");
    browser.click("#queue-rows tr");
    browser.until("document.getElementById('look').open");
    browser.until("document.getElementById('look-body').textContent.includes('AMQP client')");
    assert_eq!(
        browser.value("document.querySelectorAll('#look-body button').length"),
        0
    );
    assert_eq!(server.get("/api/queues/%2F/contents").status, 200);
    let script = r"import('/dom.js').then(({ part }) => {
        const ask = (name) => { try { return part(name); } catch { return null; } };
        window.found = JSON.stringify(['.', '..', '...', 'a.b', '%2E', 'a/b'].map(ask));
    })";
    let parts = r#"[null,null,"...","a.b","%252E","a%2Fb"]"#;
    assert_eq!(browser.found(script), parts);
    assert_eq!(browser.errors(), [] as [String; 0]);
}

#[test]
fn a_page_that_cannot_check_who_answers_does_not_start() {
    if !is_there("chromedriver") {
        return;
    }
    let server = Server::start();
    let browser = Browser::open(&DESK);
    // As at an address of another machine without TLS.
    browser
        .run_first("Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined })");
    let token = server.own_token();
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("!document.getElementById('sign-in').hidden");
    browser.until("document.getElementById('sign-in-error').textContent.includes('HTTPS')");
    assert_eq!(browser.value("document.getElementById('app').hidden"), true);
    assert_eq!(
        browser.value("document.getElementById('with-password').hidden"),
        true
    );
    assert_eq!(browser.value("localStorage.length"), 0, "it has signed in");
}

#[test]
fn equal_things_are_drawn_as_often_as_they_are_there() {
    let server = Server::start();
    let Some(browser) = signed_in(&server, &DESK) else {
        return;
    };
    // The children after each redraw, and whether those that stay are the same elements.
    let script = r"import('/dom.js').then(({ el, keyed }) => {
        const list = el('ul', {}, el('li'), el('li'));
        const draw = (...items) => {
            const before = [...list.children];
            keyed(list, items, {
                key: (item) => item,
                make: (item) => el('li', {}, item),
                update: () => {},
            });
            const kept = [...list.children].filter((child) => before.includes(child)).length;
            return `${list.textContent} ${kept}`;
        };
        window.found = [
            draw('a', 'a', 'b'), draw('a', 'a', 'b'), draw('b', 'a', 'a', 'a'),
            draw('a', 'a 2', 'a'), draw('a'), draw(),
        ].join();
    })";
    assert_eq!(browser.found(script), "aab 0,aab 3,baaa 3,aa 2a 2,a 1, 0");
}
