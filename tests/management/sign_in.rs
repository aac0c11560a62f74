//! Signing in: by the form, and attacks with links of somebody else, which must sign nobody in
//! unasked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::browser::DESK;
use crate::fixture::{PASSWORD, Server, USER};
use crate::http::{Answer, PageLogin};
use crate::tools::is_there;
use crate::webdriver::Browser;

/// A broker with the user `bob`, and a link that he made with his password.
fn with_link_of_bob() -> (Server, String) {
    let server = with_bob();
    let token = token_of_bob(&server);
    (server, token)
}

fn with_bob() -> Server {
    let server = Server::start();
    // Without any permission, as a stranger's user may be.
    let user = r#"{"password":"pw","tags":"management"}"#;
    assert_eq!(server.ask("PUT", "/api/users/bob", user).status, 201);
    server
}

/// A link with it lives for a minute.
fn token_of_bob(server: &Server) -> String {
    let asked = server.request("POST", "/api/session/token");
    let made = asked.password("bob", "pw").send("");
    made.json()["token"].as_str().unwrap().to_owned()
}

fn redeem(server: &Server, login: Option<&PageLogin>, body: &serde_json::Value) -> Answer {
    let request = server.request("POST", "/api/session");
    let request = request.header("origin", &server.origin());
    let request = match login {
        Some(login) => request.signed_in(login),
        None => request,
    };
    request.send(&body.to_string())
}

#[test]
fn a_link_of_another_user_replaces_nobody_who_is_signed_in() {
    let (server, token) = with_link_of_bob();
    let login = server.sign_in();
    let answer = redeem(&server, Some(&login), &json!({ "token": token }));
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(answer.header("set-cookie"), None);
    let told = answer.json();
    assert_eq!(
        (&told["user"], &told["instead_of"]),
        (&json!("bob"), &json!(USER))
    );
    let confirmed = json!({ "token": token, "confirmed": true });
    let answer = redeem(&server, Some(&login), &confirmed);
    assert_eq!(answer.json()["name"], "bob");
    let again = redeem(&server, None, &confirmed);
    assert_eq!(again.status, 401, "a link works once");
}

#[test]
fn a_link_of_another_user_signs_in_nobody_who_was_not_asked() {
    let (server, token) = with_link_of_bob();
    let answer = redeem(&server, None, &json!({ "token": token }));
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.json()["instead_of"], json!(null));
    let unknown = redeem(&server, None, &json!({ "token": "unknown" }));
    assert_eq!(unknown.status, 401, "{unknown:?}");
}

#[test]
fn the_link_of_our_own_command_signs_in_without_a_question() {
    let server = Server::start();
    let answer = redeem(&server, None, &json!({ "token": server.own_token() }));
    assert_eq!(answer.json()["name"], USER);
    let again = json!({ "token": server.token() });
    let answer = redeem(&server, Some(&PageLogin::of(&answer)), &again);
    assert_eq!(answer.status, 200, "the same user once more");
}

#[test]
fn a_page_that_sends_the_browser_to_its_own_link_signs_it_in_after_a_click_alone() {
    if !is_there("chromedriver") {
        return;
    }
    let server = with_bob();
    let browser = Browser::open(&DESK);
    let token = token_of_bob(&server);
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("document.getElementById('confirm').open");
    browser.until("document.getElementById('confirm-title').textContent === 'Sign in as bob?'");
    assert_eq!(browser.value("document.getElementById('app').hidden"), true);
    assert_eq!(
        browser.value("document.activeElement.id === 'confirm-go'"),
        false,
        "a key that was on its way confirms nothing"
    );
    browser.click("#confirm [data-close]");
    browser.until("!document.getElementById('sign-in').hidden");
    browser.go("about:blank");
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("document.getElementById('confirm').open");
    browser.click("#confirm-go");
    browser.until("!document.getElementById('app').hidden");
    browser.until("document.getElementById('who').textContent === 'Signed in as bob'");
}

fn entered(server: &Server, user: &str, password: &str) -> PageLogin {
    let request = server.request("POST", "/api/session");
    let body = json!({ "username": user, "password": password }).to_string();
    PageLogin::of(&request.header("origin", &server.origin()).send(&body))
}

#[test]
fn a_cookie_planted_from_another_port_makes_a_browser_nobody_else() {
    let server = with_bob();
    let own = entered(&server, USER, PASSWORD);
    let planted = entered(&server, "bob", "pw");
    let who = |login: &PageLogin| {
        let answer = server
            .request("GET", "/api/session")
            .signed_in(login)
            .send("");
        (answer.status == 200).then(|| answer.json()["name"].as_str().unwrap().to_owned())
    };
    // One with a longer path comes first.
    let both = own.with_cookies(&format!("{}; {}", planted.cookie, own.cookie));
    assert_eq!(who(&both).as_deref(), Some(USER));
    let ended = own.with_cookies(&planted.cookie);
    assert_eq!(who(&ended), None, "the own one had ended");
    assert_eq!(who(&planted.with_cookies(&own.cookie)), None);
    let stranger = PageLogin {
        key: String::new(),
        ..planted
    };
    assert_eq!(who(&stranger), None, "a browser that never signed in");
    let link = json!({ "token": server.own_token() });
    let answer = redeem(&server, Some(&stranger), &link);
    assert_eq!(answer.json()["name"], USER, "no question about bob");
}

#[test]
fn a_cookie_in_place_of_ours_signs_the_page_out_and_lets_nobody_in() {
    let server = Server::start();
    let own = server.sign_in();
    let name = own.cookie.split_once('=').unwrap().0;
    let other = server.sign_in();
    let who = |login: &PageLogin| {
        let asked = server.request("GET", "/api/session").signed_in(login);
        asked.send("").status
    };
    let planted = other.cookie.split_once('=').unwrap().1;
    for cookie in [
        format!("{name}=evil"),
        format!("{name}={planted}"),
        String::new(),
    ] {
        assert_eq!(who(&own.with_cookies(&cookie)), 401, "{cookie}");
    }
    assert_eq!(who(&own), 200, "its session goes on");
}

#[test]
fn a_server_that_was_sent_the_cookie_can_do_nothing_with_it() {
    let server = Server::start();
    let login = entered(&server, USER, PASSWORD);
    let asked = |path: &str| {
        let request = server.request("GET", path).header("cookie", &login.cookie);
        request
            .header("sec-fetch-site", "same-origin")
            .send("")
            .status
    };
    assert_eq!(asked("/api/queues"), 401);
    assert_eq!(asked("/api/tap"), 401);
    let with_key = format!("/api/queues?key={}", login.key);
    assert_eq!(asked(&with_key), 401, "the address is for the tap alone");
}

#[test]
fn a_page_of_another_port_plants_a_cookie_and_the_browser_keeps_its_user() {
    if !is_there("chromedriver") {
        return;
    }
    let server = with_bob();
    let other = Server::start();
    let planted = entered(&server, "bob", "pw").cookie;
    let browser = Browser::open(&DESK);
    let visit_the_other = || {
        browser.go(&format!("http://{}/", other.page()));
        browser.until(&format!("(document.cookie = '{planted}; path=/api', true)"));
    };
    visit_the_other();
    browser.go(&format!("http://{}/", server.page()));
    browser.until("!document.getElementById('sign-in').hidden");
    browser.go("about:blank");
    let token = server.own_token();
    browser.go(&format!("http://{}/#token={token}", server.page()));
    browser.until("!document.getElementById('app').hidden");
    visit_the_other();
    browser.go(&format!("http://{}/", server.page()));
    browser.until("!document.getElementById('app').hidden");
    let who = "document.getElementById('who').textContent";
    browser.until(&format!("{who} === 'Signed in as {USER}'"));
    browser.until("document.getElementById('live').textContent === 'live'");
}

/// Whether an answer to a request with the nonce `nonce` comes from the broker of this sign-in.
fn is_proven(answer: &Answer, login: &PageLogin) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(login.proof_key.as_bytes()).unwrap();
    mac.update(b"nonce");
    let proof = STANDARD.encode(mac.finalize().into_bytes());
    answer.header("x-cbroker-proof") == Some(&proof)
}

#[test]
fn the_broker_proves_to_a_page_that_is_signed_in_whose_its_answers_are() {
    let server = Server::start();
    let (login, other) = (server.sign_in(), server.sign_in());
    let answer = |server: &Server, path: &str, login: &PageLogin| {
        let request = server.request("GET", path).signed_in(login);
        Answer::head(request.header("x-cbroker-nonce", "nonce").open(""))
    };
    // Refusals of every kind are the broker's too.
    for (path, status) in [
        ("/api/session", 200),
        ("/api/tap", 200),
        ("/api/queues/%2F/none", 404),
        ("/api/queues?page=none", 400),
        ("/none", 404),
    ] {
        let answer = answer(&server, path, &login);
        assert_eq!(answer.status, status, "{path}");
        assert!(is_proven(&answer, &login), "{path}: {answer:?}");
        assert!(!is_proven(&answer, &other), "{path}");
    }
    let stranger = PageLogin {
        key: other.key.clone(),
        ..login.clone()
    };
    let refused = answer(&server, "/api/session", &stranger);
    assert_eq!(refused.header("x-cbroker-proof"), None, "{refused:?}");
    let unasked = server.request("GET", "/api/session").signed_in(&login);
    assert_eq!(unasked.send("").header("x-cbroker-proof"), None);
    // The page is open meanwhile, and does not sign in again.
    let server = server.restart();
    assert!(is_proven(&answer(&server, "/api/session", &login), &login));
}

#[test]
fn a_link_signs_in_at_a_name_below_localhost_and_at_the_plain_address() {
    if !is_there("chromedriver") {
        return;
    }
    let server = Server::start();
    let browser = Browser::open(&DESK);
    let port = server.page().port();
    for host in ["01jd3zq8v4mz5x000000000own.localhost", "127.0.0.1"] {
        let signed_out = "!document.getElementById('sign-in').hidden";
        browser.go(&format!("http://{host}:{port}/"));
        browser.until(signed_out);
        browser.go("about:blank");
        let token = server.own_token();
        browser.go(&format!("http://{host}:{port}/#token={token}"));
        browser.until("document.getElementById('live').textContent === 'live'");
        assert_eq!(browser.value("isSecureContext"), true, "{host}");
    }
    assert_eq!(browser.errors(), [] as [String; 0]);
}

#[test]
fn a_person_signs_in_with_a_password_and_out_again() {
    if !is_there("chromedriver") {
        return;
    }
    let server = Server::start();
    let browser = Browser::open(&DESK);
    browser.go(&format!("http://{}/", server.page()));
    let is_out = "!document.getElementById('sign-in').hidden";
    browser.until(is_out);
    let form = "document.getElementById('sign-in-form')";
    let fill = |password: &str| {
        browser.run(&format!(
            "{form}.elements.username.value = '{USER}';
             {form}.elements.password.value = '{password}';
             {form}.requestSubmit();
             done();"
        ));
    };
    fill("wrong");
    browser.until(
        "document.getElementById('sign-in-error').textContent === 'Wrong name or password.'",
    );
    fill(PASSWORD);
    browser.until("document.getElementById('live').textContent === 'live'");
    browser.click("#menu summary");
    browser.click("#leave");
    browser.until(is_out);
    browser.until("localStorage.getItem('key') === null");
}
