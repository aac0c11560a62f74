//! Attacks on the management page, one for each of its defences.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use broker::Tls;
use serde_json::json;

use crate::fixture::{PASSWORD, Server, USER};
use crate::http::PageLogin;
use crate::tools::is_there;

#[test]
fn a_foreign_origin_is_refused_whatever_it_proves() {
    let server = Server::start();
    let cookie = server.sign_in();
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        let with_cookie = server
            .request("DELETE", "/api/queues/%2F/q")
            .header("origin", origin)
            .signed_in(&cookie);
        assert_eq!(with_cookie.send("").status, 403, "{origin}");
        let reading = server
            .request("GET", "/api/queues")
            .header("origin", origin)
            .signed_in(&cookie);
        assert_eq!(reading.send("").status, 403, "{origin}");
    }
}

#[test]
fn a_rebound_host_gets_no_response_not_even_the_page() {
    let server = Server::start();
    for path in ["/", "/api/overview", "/page.js"] {
        for host in ["evil.example", "evil.example:15672", ""] {
            let answer = server
                .request("GET", path)
                .header("host", host)
                .password(USER, PASSWORD);
            let status = answer.send("").status;
            assert!(
                status == 421 || status == 400,
                "{path} for {host}: {status}"
            );
        }
    }
    let port = server.page().port();
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(
            server
                .request("GET", "/")
                .header("host", &host)
                .send("")
                .status,
            200
        );
    }
}

#[test]
fn a_token_signs_in_once_and_a_replayed_one_does_not() {
    let server = Server::start();
    let token = server.token();
    let redeem = || {
        server
            .request("POST", "/api/session")
            .header("origin", &server.origin())
            .send(&json!({ "token": token, "confirmed": true }).to_string())
    };
    let first = redeem();
    assert_eq!(
        (first.status, first.json()["name"].clone()),
        (200, json!(USER))
    );
    let replayed = redeem();
    assert_eq!(replayed.status, 401);
    assert_eq!(replayed.header("set-cookie"), None);
}

#[test]
fn a_token_is_given_for_a_password_only() {
    let server = Server::start();
    let cookie = server.sign_in();
    let asked = server
        .request("POST", "/api/session/token")
        .header("origin", &server.origin())
        .signed_in(&cookie);
    assert_eq!(asked.send("").status, 403);
    assert_eq!(
        server.request("POST", "/api/session/token").send("").status,
        401
    );
}

#[test]
fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
    let server = Server::start();
    let answer = server
        .request("POST", "/api/session")
        .header("origin", &server.origin())
        .send(&json!({ "token": server.own_token() }).to_string());
    let cookie = answer.header("set-cookie").unwrap();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
}

#[test]
fn basic_authentication_is_refused_to_pages() {
    let server = Server::start();
    let own = server
        .request("GET", "/api/whoami")
        .header("origin", &server.origin())
        .password(USER, PASSWORD);
    assert_eq!(own.send("").status, 403, "even to our own");
    let asked = server.request("GET", "/api/whoami").send("");
    assert!(
        asked.header("www-authenticate").is_some(),
        "a tool is asked"
    );
    let browser = server
        .request("GET", "/api/whoami")
        .header("sec-fetch-mode", "navigate")
        .send("");
    assert_eq!(
        (browser.status, browser.header("www-authenticate")),
        (401, None),
        "a browser would remember"
    );
}

#[test]
fn a_change_by_cookie_needs_our_own_origin() {
    let server = Server::start();
    server.ask("PUT", "/api/queues/%2F/q", "{}");
    let cookie = server.sign_in();
    let delete = || {
        server
            .request("DELETE", "/api/queues/%2F/q")
            .signed_in(&cookie)
    };
    assert_eq!(delete().send("").status, 403);
    assert_eq!(
        delete().header("origin", &server.origin()).send("").status,
        204
    );
}

#[test]
fn signing_in_happens_at_our_own_page_alone() {
    let server = Server::start();
    let body = json!({ "token": server.token() }).to_string();
    assert_eq!(
        server.request("POST", "/api/session").send(&body).status,
        403
    );
    let foreign = server
        .request("POST", "/api/session")
        .header("origin", "http://evil.example");
    assert_eq!(foreign.send(&body).status, 403);
}

#[test]
fn the_page_cannot_be_framed_sniffed_or_made_to_run_anything_else() {
    let server = Server::start();
    for path in ["/", "/page.js", "/api/whoami", "/nowhere"] {
        let answer = server.request("GET", path).send("");
        let policy = answer.header("content-security-policy").unwrap();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[test]
fn signing_out_and_a_new_password_end_every_sign_in() {
    let server = Server::start();
    let (one, two) = (server.sign_in(), server.sign_in());
    let who = |login: &PageLogin| who(&server, login);
    assert_eq!((who(&one), who(&two)), (200, 200));
    let out = server
        .request("DELETE", "/api/session")
        .header("origin", &server.origin())
        .signed_in(&one);
    assert_eq!(out.send("").status, 204);
    assert_eq!((who(&one), who(&two)), (401, 200));
    let body = r#"{"password":"other","tags":"administrator"}"#;
    server.ask("PUT", &format!("/api/users/{USER}"), body);
    assert_eq!(who(&two), 401);
}

fn who(server: &Server, login: &PageLogin) -> u16 {
    let asked = server.request("GET", "/api/session").signed_in(login);
    asked.send("").status
}

#[test]
fn a_cookie_tossed_from_another_port_signs_nobody_out() {
    let server = Server::start();
    let own = server.sign_in();
    let name = own.cookie.split_once('=').unwrap().0;
    let who = |cookies: &str| who(&server, &own.with_cookies(cookies));
    for tossed in [
        &format!("{name}=evil"),
        &format!("{name}="),
        &format!("{name}=a; {name}=b; other=c"),
    ] {
        let before = format!("{tossed}; {}", own.cookie);
        assert_eq!(who(&before), 200, "{tossed} first");
        let after = format!("{}; {tossed}", own.cookie);
        assert_eq!(who(&after), 200, "{tossed} last");
        assert_eq!(who(tossed), 401, "{tossed} alone");
    }
}

#[test]
fn five_hundred_tossed_cookies_sign_nobody_out() {
    let server = Server::start();
    let own = server.sign_in();
    let name = own.cookie.split_once('=').unwrap().0;
    let cookies = format!("{}{}", format!("{name}=evil; ").repeat(500), own.cookie);
    assert_eq!(who(&server, &own.with_cookies(&cookies)), 200);
}

#[test]
fn another_page_of_the_same_host_makes_no_request_by_the_cookie() {
    let server = Server::start();
    let cookie = server.sign_in();
    let asked_from = |site: &str| {
        let request = server.request("GET", "/api/queues");
        let request = request.signed_in(&cookie);
        request.header("sec-fetch-site", site).send("").status
    };
    // An image of a page at another port comes with the cookie and without an origin.
    for foreign in ["same-site", "cross-site", "unheard-of"] {
        assert_eq!(asked_from(foreign), 403, "{foreign}");
    }
    for own in ["same-origin", "none"] {
        assert_eq!(asked_from(own), 200, "{own}");
    }
}

#[test]
fn a_user_who_signs_in_without_end_signs_nobody_else_out() {
    /// One more than a user may have.
    const MANY: usize = 65;
    let server = Server::start();
    let cookie = server.sign_in();
    let bob = r#"{"password":"pw","tags":"management"}"#;
    server.ask("PUT", "/api/users/bob", bob);
    let password = r#"{"username":"bob","password":"pw"}"#;
    let sign_in = || {
        let request = server.request("POST", "/api/session");
        let request = request.header("origin", &server.origin());
        assert_eq!(request.send(password).status, 200);
    };
    (0..MANY).for_each(|_| sign_in());
    // It lives for a minute: only what must be lies between it and its use.
    let token = server.token();
    for _ in 0..MANY {
        let asked = server.request("POST", "/api/session/token");
        assert_eq!(asked.password("bob", "pw").send("").status, 200);
    }
    sign_in();
    assert_eq!(who(&server, &cookie), 200);
    let redeem = server.request("POST", "/api/session");
    let redeem = redeem.header("origin", &server.origin());
    let body = json!({ "token": token, "confirmed": true }).to_string();
    assert_eq!(redeem.send(&body).status, 200);
}

#[test]
fn a_user_without_a_tag_does_not_sign_in_at_the_page() {
    let server = Server::start();
    server.ask("PUT", "/api/users/bob", r#"{"password":"pw","tags":""}"#);
    let sign_in = server
        .request("POST", "/api/session")
        .header("origin", &server.origin());
    let answer = sign_in.send(r#"{"username":"bob","password":"pw"}"#);
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.header("set-cookie"), None);
}

#[test]
fn the_cookie_of_one_broker_is_neither_replaced_nor_taken_by_another_on_the_same_host() {
    let (one, other) = (Server::start(), Server::start());
    let jar = [one.sign_in(), other.sign_in()];
    let name = |login: &PageLogin| login.cookie.split_once('=').unwrap().0.to_owned();
    assert_ne!(name(&jar[0]), name(&jar[1]), "a browser keeps both");
    assert!(name(&jar[0]).ends_with(&one.page().port().to_string()));
    // Each page sends both cookies and its own key.
    let cookies = format!("{}; {}", jar[0].cookie, jar[1].cookie);
    let both = jar.each_ref().map(|login| login.with_cookies(&cookies));
    assert_eq!((who(&one, &both[0]), who(&other, &both[1])), (200, 200));
    assert_eq!((who(&one, &jar[1]), who(&other, &jar[0])), (401, 401));
    // Under the right name too it is worth nothing elsewhere.
    let renamed = jar[1].cookie.replace(&name(&jar[1]), &name(&jar[0]));
    assert_eq!(who(&one, &jar[1].with_cookies(&renamed)), 401);
    let out = one
        .request("DELETE", "/api/session")
        .header("origin", &one.origin())
        .signed_in(&both[0]);
    assert_eq!(out.send("").status, 204);
    assert_eq!((who(&one, &both[0]), who(&other, &both[1])), (401, 200));
}

#[test]
fn a_sign_in_survives_a_restart_and_its_secret_is_not_on_the_disk() {
    let server = Server::start();
    let (stays, goes) = (server.sign_in(), server.sign_in());
    let out = server
        .request("DELETE", "/api/session")
        .header("origin", &server.origin())
        .signed_in(&goes);
    assert_eq!(out.send("").status, 204);
    let server = server.restart();
    assert_eq!(who(&server, &stays), 200);
    assert_eq!(who(&server, &goes), 401, "signing out lasts");
    let secrets = [stays.cookie.split_once('=').unwrap().1, &stays.key];
    let mut folders = vec![server.socket().with_file_name("data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                // The broker may remove a file meanwhile.
                let mut parts = bytes.windows(secrets[0].len());
                let is_there = parts.any(|part| secrets.iter().any(|it| it.as_bytes() == part));
                assert!(!is_there, "{}", path.display());
            }
        }
    }
}

#[test]
fn a_password_changed_while_the_broker_was_down_ends_the_sessions() {
    let server = Server::start();
    let cookie = server.sign_in();
    let server = server.restart_with_password("other");
    assert_eq!(who(&server, &cookie), 401);
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out() {
    let server = Server::start();
    let mut idle = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(server.page()).unwrap();
        if number % 2 == 0 {
            // In the middle of a header, for as long as the server allows.
            stream.write_all(b"GET / HTTP/1.1\r\nhost: loc").unwrap();
        }
        idle.push(stream);
    }
    assert_eq!(server.get("/api/whoami").status, 200);
    let held = std::fs::read_dir("/dev/fd").unwrap().count();
    // Both ends of each connection are in this process; the broker may hold a quarter of its
    // descriptors.
    assert!(held < 1700, "{held} descriptors");
}

#[test]
fn guessing_over_http_is_slowed_down_as_over_amqp() {
    let server = Server::start();
    for _ in 0..10 {
        let guess = server.request("GET", "/api/whoami").password(USER, "guess");
        assert_eq!(guess.send("").status, 401);
    }
    let tries: Vec<_> = (0..40)
        .map(|_| {
            let right = server
                .request("GET", "/api/whoami")
                .password(USER, PASSWORD);
            std::thread::spawn(move || right.send("").status)
        })
        .collect();
    let outcomes: Vec<_> = tries
        .into_iter()
        .map(|tried| tried.join().unwrap())
        .collect();
    assert!(outcomes.contains(&429), "{outcomes:?}");
    assert!(outcomes.contains(&200), "{outcomes:?}");
}

#[test]
fn our_own_commands_need_no_password_on_the_unix_socket() {
    let server = Server::start();
    let mode = std::fs::metadata(server.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let ask = |more: &str| {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        let head = format!(
            "GET /api/whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(USER),
        "{answer}"
    );
    let wrong = ask("authorization: Basic YWRhOndyb25n\r\n");
    assert!(
        wrong.starts_with("HTTP/1.1 401"),
        "a password that is sent is checked: {wrong}"
    );
    let page = ask("origin: http://localhost\r\n");
    assert!(
        page.starts_with("HTTP/1.1 401"),
        "no page comes this way: {page}"
    );
}

#[test]
fn looking_whether_the_broker_is_alive_changes_nothing() {
    let server = Server::start();
    assert_eq!(server.get("/api/aliveness-test/%2F").json()["status"], "ok");
    assert_eq!(server.get("/api/queues").json(), json!([]));
    assert_eq!(server.get("/api/aliveness-test/nowhere").status, 404);
}

#[test]
fn guest_cannot_log_in() {
    let server = Server::start();
    let guest = server
        .request("GET", "/api/whoami")
        .password("guest", "guest");
    assert_eq!(guest.send("").status, 401);
}

#[test]
fn beyond_loopback_there_is_tls_or_nothing() {
    let bare = Server::start_beyond_loopback(None);
    assert_eq!(bare.management, None);
    if !is_there("curl") {
        return;
    }
    let file = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/broker/src/tls/");
        PathBuf::from(format!("{folder}{name}"))
    };
    let server = Server::start_beyond_loopback(Some(Tls {
        port: 0,
        certificate: file("test-cert.pem"),
        key: file("test-key.pem"),
    }));
    let port = server.page().port();
    let asked = |scheme: &str, path: &str, more: &[&str]| {
        let url = format!("{scheme}://127.0.0.1:{port}{path}");
        let curl = Command::new("curl")
            .args(["-sk", "--max-time", "10", &url])
            .args(more)
            .output()
            .unwrap();
        String::from_utf8(curl.stdout).unwrap()
    };
    let login = format!("{USER}:{PASSWORD}");
    let who = |scheme: &str| asked(scheme, "/api/whoami", &["-u", &login]);
    let told = who("https");
    assert!(told.contains(USER), "{told}");
    assert_eq!(who("http"), "", "nothing is said in clear");
    let body = json!({ "username": USER, "password": PASSWORD }).to_string();
    let origin = format!("origin: https://127.0.0.1:{port}");
    let entered = asked(
        "https",
        "/api/session",
        &["-D", "-", "-H", &origin, "-d", &body],
    );
    let cookie = format!("set-cookie: __Host-cbroker-{port}=");
    assert!(entered.contains(&cookie), "{entered}");
}
