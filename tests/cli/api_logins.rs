//! A login for a management API goes only to the broker that it was given for.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::client;
use crate::support::{Place, Server};

/// A management API of another broker, which fails each request and notes the logins.
struct FailingApi {
    url: String,
    logins: Arc<Mutex<Vec<String>>>,
}

impl FailingApi {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let logins = Arc::new(Mutex::new(Vec::new()));
        let noted = logins.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap_or(0) > 0 && !line.trim().is_empty() {
                    if let Some((_, login)) = line.trim().split_once(": Basic ") {
                        let login = BASE64_STANDARD.decode(login).unwrap();
                        noted
                            .lock()
                            .unwrap()
                            .push(String::from_utf8(login).unwrap());
                    }
                    line.clear();
                }
                let failed = b"HTTP/1.1 500 no\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                let _gone = stream.get_mut().write_all(failed);
            }
        });
        Self { url, logins }
    }

    fn logins(&self) -> Vec<String> {
        self.logins.lock().unwrap().clone()
    }
}

#[test]
fn the_login_for_the_api_of_the_source_goes_to_no_target() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, other) = (Server::start(&here), Server::start(&there));
    client::make_queue(&there, "waiting");
    client::publish(&there, "waiting", ["m".to_owned()].into_iter());
    let [target, source] = [&here, &there].map(client::endpoint);
    let api = FailingApi::start();
    let place = Place::at(&target.secret_url(), Some(&api.url));
    let from = source.secret_url();
    let source_api = format!("http://127.0.0.1:{}", other.management_port.unwrap());
    let login = (&source.login.user, &source.login.password);
    let said = place.ok([
        "move",
        "--from",
        &from,
        "--mgmt-url",
        &source_api,
        "--mgmt-user",
        login.0,
        "--mgmt-pass",
        login.1,
    ]);
    assert!(said.contains("moved 1 queue with 1 message"), "{said}");
    let targets = format!("{}:{}", target.login.user, target.login.password);
    let logins = api.logins();
    assert!(
        !logins.is_empty() && logins.iter().all(|login| *login == targets),
        "{logins:?}"
    );
}

#[test]
fn a_move_to_or_from_docker_names_no_api() {
    for side in ["--to", "--from"] {
        let arguments = ["move", side, "docker", "--mgmt-url", "http://localhost:1"];
        let ran = Place::new().run(arguments);
        ran.fails(2, "no management API can be named")
            .hints("leave out --mgmt-url");
    }
}

#[test]
fn the_api_of_the_usual_broker_is_not_asked_about_another_and_gets_no_login_of_it() {
    let (here, there) = (Place::new(), Place::new());
    let _servers = [&here, &there].map(Server::start);
    let api = FailingApi::start();
    let other = client::endpoint(&there).secret_url();
    let lines = format!(
        "mgmt_url = \"{}\"\nmgmt_user = \"ada\"\nmgmt_pass = \"hush\"\n",
        api.url
    );
    std::fs::write(here.home().join("config.toml"), lines).unwrap();
    here.run(["list"]);
    let usual = api.logins();
    assert!(
        !usual.is_empty() && usual.iter().all(|login| login == "ada:hush"),
        "{usual:?}"
    );
    here.run(["list", "--url", &other]);
    here.run(["send", "--url", &other, "--to", "new", "-m", "x"]);
    let with_flag = [
        "--mgmt-url",
        &api.url,
        "--mgmt-user",
        "eve",
        "--mgmt-pass",
        "hush",
    ];
    here.run([&["list", "--url", &other][..], &with_flag].concat());
    let more = &api.logins()[usual.len()..];
    assert!(
        !more.is_empty() && more.iter().all(|login| login == "eve:hush"),
        "{more:?}"
    );
}

#[test]
fn a_user_of_the_api_without_a_password_is_named() {
    let place = Place::new();
    let _server = Server::start(&place);
    let user = "mgmt_user = \"ada\"\n";
    std::fs::write(place.home().join("config.toml"), user).unwrap();
    let ran = place.run(["list"]);
    ran.fails(2, "mgmt_user in ").hints("CBROKER_MGMT_PASS");
    assert!(ran.err.contains("has no password"), "{ran:?}");
    // As for other faults of the file.
    let config = place.run(["config"]);
    assert!(
        config.code == 2 && config.out.contains("mgmt_user"),
        "{config:?}"
    );
    let doctor = place.run(["doctor"]);
    assert!(
        doctor.code == 1 && doctor.out.contains("has no password"),
        "{doctor:?}"
    );
    let mut with_password = place.command();
    with_password.env("CBROKER_MGMT_PASS", "hush");
    let listed = with_password.arg("list").output().unwrap();
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    std::fs::remove_file(place.home().join("config.toml")).unwrap();
    place
        .run(["list", "--mgmt-user", "ada"])
        .fails(2, "--mgmt-user has no password");
}
