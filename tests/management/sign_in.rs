//! Attacks with sign-in links: a link of somebody else must not sign anybody in unasked.

use serde_json::json;

use crate::browser::DESK;
use crate::fixture::{Server, USER};
use crate::http::Answer;
use crate::tools::is_there;
use crate::webdriver::Browser;

/// A broker with the user `bob`, and a link that he made with his password.
fn with_link_of_bob() -> (Server, String) {
    let server = Server::start();
    // Without any permission, as a stranger's user may be.
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    let asked = server.request("POST", "/api/session/token");
    let made = asked.password("bob", "pw").send("");
    let token = made.json()["token"].as_str().unwrap().to_owned();
    (server, token)
}

fn redeem(server: &Server, cookie: &str, body: &serde_json::Value) -> Answer {
    let request = server.request("POST", "/api/session");
    let request = request.header("origin", &server.origin());
    request.header("cookie", cookie).send(&body.to_string())
}

#[test]
fn a_link_of_another_user_replaces_nobody_who_is_signed_in() {
    let (server, token) = with_link_of_bob();
    let cookie = server.cookie();
    let answer = redeem(&server, &cookie, &json!({ "token": token }));
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(answer.header("set-cookie"), None);
    let told = answer.json();
    assert_eq!(
        (&told["user"], &told["instead_of"]),
        (&json!("bob"), &json!(USER))
    );
    let confirmed = json!({ "token": token, "confirmed": true });
    let answer = redeem(&server, &cookie, &confirmed);
    assert_eq!(answer.json(), json!({ "name": "bob" }));
    let again = redeem(&server, "", &confirmed);
    assert_eq!(again.status, 401, "a link works once");
}

#[test]
fn a_link_of_another_user_signs_in_nobody_who_was_not_asked() {
    let (server, token) = with_link_of_bob();
    let answer = redeem(&server, "", &json!({ "token": token }));
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.json()["instead_of"], json!(null));
    let unknown = redeem(&server, "", &json!({ "token": "unknown" }));
    assert_eq!(unknown.status, 401, "{unknown:?}");
}

#[test]
fn the_link_of_our_own_command_signs_in_without_a_question() {
    let server = Server::start();
    let answer = redeem(&server, "", &json!({ "token": server.own_token() }));
    assert_eq!(answer.json(), json!({ "name": USER }));
    let again = json!({ "token": server.token() });
    let cookie = answer.header("set-cookie").unwrap();
    let answer = redeem(&server, cookie.split(';').next().unwrap(), &again);
    assert_eq!(answer.status, 200, "the same user once more");
}

#[test]
fn a_page_that_sends_the_browser_to_its_own_link_signs_it_in_after_a_click_alone() {
    if !is_there("chromedriver") {
        return;
    }
    let (server, token) = with_link_of_bob();
    let browser = Browser::open(&DESK);
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("document.getElementById('sure').open");
    browser.until("document.getElementById('sure-title').textContent === 'Sign in as bob?'");
    assert_eq!(browser.value("document.getElementById('app').hidden"), true);
    assert_eq!(
        browser.value("document.activeElement.id === 'sure-go'"),
        false,
        "a key that was on its way confirms nothing"
    );
    browser.click("#sure [data-close]");
    browser.until("!document.getElementById('door').hidden");
    browser.go("about:blank");
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("document.getElementById('sure').open");
    browser.click("#sure-go");
    browser.until("!document.getElementById('app').hidden");
    browser.until("document.getElementById('who').textContent === 'Signed in as bob'");
}
