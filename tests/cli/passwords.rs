//! The password of the local broker, the page's cookie, and what the doctor says of the listeners.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::background_broker::{api, kill_broker, password, started};
use crate::fake_http;
use crate::support::{PageLogin, Place, Ran, Request, Wrapped, free_port};

/// Signs in at the page with a one-time token.
fn sign_in(place: &Place) -> PageLogin {
    let token = api(place, "session/token", &json!({}))["token"].clone();
    let url = management_url(place);
    let answer = Request::to_url(&url, "POST", "/api/session")
        .header("origin", &url)
        .send(&json!({ "token": token, "confirmed": true }).to_string());
    PageLogin::of(&answer)
}

/// What the page is answered that has this cookie and its key.
fn signed_in(place: &Place, login: &PageLogin) -> u16 {
    let asked = Request::to_url(&management_url(place), "GET", "/api/session");
    asked.signed_in(login).send("").status
}

/// When each open connection was opened: those over the Unix socket have no name of their own.
fn connections(place: &Place) -> BTreeSet<String> {
    let request = Request::to_url(&management_url(place), "GET", "/api/connections");
    let all = request
        .password("cbroker", &password(place))
        .send("")
        .json();
    let opened = all.as_array().unwrap().iter();
    opened.map(|one| one["connected_at"].to_string()).collect()
}

fn management_url(place: &Place) -> String {
    let status = &place.json(["status"])[0];
    status["mgmt_url"].as_str().unwrap().to_owned()
}

#[test]
fn the_page_s_cookie_survives_a_restart_and_a_crash_of_the_broker() {
    let place = Place::new();
    let ports = [free_port().to_string(), free_port().to_string()];
    let start = || place.ok(["start", "--port", &ports[0], "--mgmt-port", &ports[1]]);
    start();
    let cookie = sign_in(&place);
    assert_eq!(signed_in(&place, &cookie), 200);
    place.ok(["restart"]);
    assert_eq!(signed_in(&place, &cookie), 200, "after a restart");
    kill_broker(&place);
    start();
    assert_eq!(signed_in(&place, &cookie), 200, "after a crash");
    place.ok(["stop"]);
}

#[test]
fn rotate_ends_the_page_s_sessions_and_the_old_password_everywhere() {
    let place = Place::new();
    let _broker = started(&place);
    let (cookie, old) = (sign_in(&place), password(&place));
    place.ok(["rotate"]);
    assert_eq!(signed_in(&place, &cookie), 401);
    let by_http = Request::to_url(&management_url(&place), "GET", "/api/whoami");
    let answer = by_http.password("cbroker", &old).send("");
    assert_eq!(answer.status, 401, "{answer:?}");
    let file = place.home().join("credentials");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&old));
    place.ok(["stop"]);
}

#[test]
fn rotate_tells_no_other_broker_the_new_password() {
    let place = Place::new();
    let _broker = started(&place);
    let old = place.ok(["status", "--show-url"]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let other = fake_http::on_tcp(move |request, body| {
        let body = String::from_utf8_lossy(body).into_owned();
        seen.lock().unwrap().push((request.to_owned(), body));
        (204, String::new())
    });
    let login = [
        ("CBROKER_MGMT_URL", other.as_str()),
        ("CBROKER_MGMT_USER", "ada"),
        ("CBROKER_MGMT_PASS", "hush"),
    ];
    let rotated = place.command().arg("rotate").envs(login).output().unwrap();
    let rotated = Ran::of(&rotated);
    assert_eq!(rotated.code, 0, "{rotated:?}");
    let settings = format!("mgmt_url = \"{other}\"\nmgmt_user = \"ada\"\nmgmt_pass = \"hush\"\n");
    std::fs::write(place.home().join("config.toml"), settings).unwrap();
    place.ok(["rotate"]);
    assert_eq!(*asked.lock().unwrap(), []);
    std::fs::remove_file(place.home().join("config.toml")).unwrap();
    // The running broker has the new password.
    let new = place.ok(["status", "--show-url"]);
    assert_ne!(old, new);
    assert_eq!(place.run(["list", "--url", old.trim()]).code, 3);
    place.ok(["list", "--url", new.trim()]);
    place.ok(["stop"]);
}

#[test]
fn rotate_without_a_broker_counts_from_its_next_start() {
    let place = Place::new();
    let _broker = started(&place);
    let old = place.ok(["status", "--show-url"]);
    place.ok(["stop"]);
    place.ok(["rotate"]);
    let address = old.trim().rsplit_once(':').unwrap().1;
    let port = address.trim_end_matches('/');
    place.ok([
        "start",
        "--port",
        port,
        "--mgmt-port",
        &free_port().to_string(),
    ]);
    let refused = place.run(["list", "--url", old.trim()]);
    assert_eq!(refused.code, 3, "{refused:?}");
    place.ok(["list"]);
    place.ok(["stop"]);
}

#[test]
fn the_doctor_says_who_listens() {
    let place = Place::new();
    let _broker = started(&place);
    let record = std::fs::read(place.home().join("broker.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let doctor = place.run(["doctor"]).out;
    let line = doctor.lines().find(|line| line.contains("listener"));
    let named = format!("cbroker (process {} of user ", record["pid"]);
    assert!(line.is_some_and(|line| line.contains(&named)), "{doctor}");
    place.ok(["stop"]);
}

#[test]
fn a_new_password_shuts_out_the_old_one_and_the_session_comes_back_by_itself() {
    let place = Place::new();
    let _broker = started(&place);
    let old = place.ok(["status", "--show-url"]);
    let session = Wrapped::open(&place, "backend", &[]);
    let before = connections(&place);
    assert!(!before.is_empty());
    place.ok(["rotate"]);
    let new = place.ok(["status", "--show-url"]);
    assert_ne!(old, new);
    let refused = place.run(["list", "--url", old.trim()]);
    assert_eq!(refused.code, 3, "{refused:?}");
    place.ok(["send", "--to", "backend", "-m", "still here"]);
    session.wait_for_submission("still here");
    let after = connections(&place);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    place.ok(["restart"]);
    place.ok(["send", "--to", "backend", "-m", "after a restart"]);
    session.wait_for_submission("after a restart");
    place.ok(["stop"]);
}
