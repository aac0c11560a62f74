//! A broker that the user names: its management options, and what works without an API.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;

use crate::everywhere::everywhere;
use crate::support::{Place, Server, wait_until};

/// Address, user and password of a place's broker, apart.
fn apart(place: &Place) -> (String, String, String) {
    let url = place.ok(["status", "--show-url"]);
    let (login, host) = url
        .trim()
        .trim_start_matches("amqp://")
        .rsplit_once('@')
        .unwrap();
    let (user, password) = login.split_once(':').unwrap();
    (host.to_owned(), user.to_owned(), password.to_owned())
}

#[test]
fn list_takes_the_management_options_from_flags_and_environment() {
    everywhere(|place, name| {
        let queue = name("waiting");
        place.ok(["send", "--to", &queue, "-m", "x"]);
        let (_, user, password) = apart(place);
        let status = place.json(["status"]).remove(0);
        let management = status["mgmt_url"].as_str().unwrap();
        // A home that knows nothing but the URL.
        let stranger = Place::at(place.ok(["status", "--show-url"]).trim(), None);
        let options = [
            "--mgmt-url",
            management,
            "--mgmt-user",
            &user,
            "--mgmt-pass",
            &password,
        ];
        let ran = stranger.run(["list"].into_iter().chain(options));
        assert!(ran.code == 0 && ran.out.contains(&queue), "{ran:?}");
        let by_environment = stranger
            .command()
            .args(["list"])
            .env("CBROKER_MGMT_URL", management)
            .env("CBROKER_MGMT_USER", &user)
            .env("CBROKER_MGMT_PASS", &password)
            .output()
            .unwrap();
        assert!(
            String::from_utf8(by_environment.stdout)
                .unwrap()
                .contains(&queue)
        );
        let wrong = ["--mgmt-url", management, "--mgmt-pass", "wrong"];
        let ran = stranger.run(["list"].into_iter().chain(wrong));
        assert!(ran.code == 0 && !ran.out.contains(&queue), "{ran:?}");
        assert!(ran.err.contains("refused the login"), "{ran:?}");
    });
}

#[test]
fn without_an_api_the_locally_known_names_are_listed() {
    everywhere(|place, name| {
        let queue = name("known");
        place.ok(["send", "--to", &queue, "-m", "x"]);
        let ran = place.run(["list", "--mgmt-url", "http://localhost:1"]);
        assert!(ran.code == 0 && ran.out.contains(&queue), "{ran:?}");
        assert!(
            ran.err
                .contains("only names that are known without the API"),
            "{ran:?}"
        );
    });
}

#[test]
fn status_and_doctor_leave_out_what_is_not_on_this_machine() {
    let place = Place::new();
    let _server = Server::start(&place);
    let checks = |place: &Place| {
        let found = place.run(["doctor", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&found.out).unwrap();
        let names = found.as_array().unwrap().iter();
        names
            .map(|one| one["check"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(checks(&place).contains(&"store".to_owned()));
    let named = Place::at(place.ok(["status", "--show-url"]).trim(), None);
    let looked_at = checks(&named);
    assert!(
        !looked_at
            .iter()
            .any(|check| check == "store" || check == "docker"),
        "{looked_at:?}"
    );
    let status = Place::at("amqp://far.invalid", None).run(["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["kind"], "remote");
}

#[test]
fn the_browser_is_given_a_private_file_and_never_the_token_in_its_arguments() {
    let place = Place::new();
    let server = Server::start(&place);
    let programs = place.path().join("bin");
    fs::create_dir(&programs).unwrap();
    let (opener, opened) = (programs.join("xdg-open"), place.path().join("opened"));
    fs::write(
        &opener,
        format!("#!/bin/sh\necho \"$@\" > {}\n", opened.display()),
    )
    .unwrap();
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = place.command();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    command.args(["ui"]).env("PATH", path).env("DISPLAY", ":0");
    let output = command.output().unwrap();
    let url = String::from_utf8(output.stdout).unwrap();
    let port = server.management_port.unwrap();
    assert!(
        url.starts_with(&format!("http://127.0.0.1:{port}/#token=")),
        "{url}"
    );
    let given = || fs::read_to_string(&opened).unwrap_or_default();
    wait_until(
        || given().ends_with('\n'),
        || "the browser is opened".to_owned(),
    );
    let given = given();
    assert!(!given.contains("token"), "{given}");
    assert!(
        fs::read_to_string(given.trim())
            .unwrap()
            .contains(url.trim())
    );
    place
        .run(["ui", "--mgmt-url", "https://far.invalid"])
        .fails(3, "no management API answers at https://far.invalid");
}

#[test]
fn the_own_page_of_a_broker_without_sign_in_links_is_opened() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.is_empty()), "the end of the head");
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        (&stream).write_all(answer).unwrap();
    });
    let opened = Place::new().ok(["ui", "--mgmt-url", &url]);
    assert_eq!(opened.trim(), format!("{url}/"));
    answering.join().unwrap();
}

#[test]
fn somebody_else_s_broker_on_the_port_gets_a_line_and_two_ways_out() {
    let theirs = Place::new();
    let server = Server::start(&theirs);
    let me = Place::at(&server.url(), None);
    me.run(["send", "--to", "a", "-m", "x"])
        .fails(3, &format!("the broker at {} refused", server.url()))
        .hints("--url amqp://USER:PASSWORD@localhost")
        .hints("cbroker start --port");
}

#[test]
fn a_refused_login_is_reported_with_a_remedy() {
    let (theirs, mine) = (Place::new(), Place::new());
    let (server, own) = (Server::start(&theirs), Server::start(&mine));
    let url = theirs.ok(["status", "--show-url"]);
    let (host, user, password) = apart(&theirs);
    let host = host.trim_end_matches('/');
    let port = server.port;
    for (url, hint) in [
        (
            format!("amqp://{user}:wrong@{host}"),
            "check user and password of the URL",
        ),
        (
            format!("amqp://{user}:{password}@{host}/nowhere"),
            "check the vhost",
        ),
        (
            format!("amqps://{user}:{password}@{host}"),
            "it has no TLS and wants amqp://",
        ),
    ] {
        let ran = Place::at(&url, None).run(["send", "a", "x"]);
        assert_eq!(ran.code, 3, "{url}: {ran:?}");
        ran.hints(hint);
        for unfit in ["guest", "cbroker start"] {
            assert!(!ran.err.contains(unfit), "{url}: {ran:?}");
        }
    }
    // The login that is stored for the own broker, at the port of another one.
    mine.run(["list", "--url", &server.url()])
        .fails(3, &format!("the broker at {} refused", server.url()))
        .hints(&format!("--url amqp://guest:guest@localhost:{port}"));
    Place::at(url.trim(), None).ok(["list"]);
    drop(own);
}
