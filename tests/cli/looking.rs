//! `list`, `tail`, `purge`, `delete`, `why`, `pause`, `resume`, `config`, `status`.

use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::client;
use crate::everywhere::everywhere;
use crate::support::{Place, Ran, Server, Wrapped, wait_until};

#[test]
fn list_shows_who_is_there_and_what_waits() {
    everywhere(|place, name| {
        let (open, closed) = (name("open"), name("closed"));
        place.ok(["send", "--to", &closed, "-m", "x"]);
        let mut session = Wrapped::open(place, &open, &[]);
        wait_until(
            || {
                place
                    .listed(&open)
                    .is_some_and(|row| row["state"] == "idle")
            },
            || format!("{:?}", place.listed(&open)),
        );
        let row = place.listed(&open).unwrap();
        assert_eq!(
            (&row["consumers"], &row["pending"], &row["held"]),
            (&json!(1), &json!(0), &json!(0))
        );
        assert_eq!(row["agent"], "cbroker");
        let row = place.listed(&closed).unwrap();
        assert_eq!(
            (&row["consumers"], &row["pending"], &row["state"]),
            (&json!(0), &json!(1), &json!("closed"))
        );
        let table = place.ok(["list"]);
        assert!(
            table.starts_with("NAME ") && table.contains("CONSUMERS  PENDING"),
            "{table}"
        );
        assert_eq!(session.leave(), 0);
        wait_until(
            || {
                place
                    .listed(&open)
                    .is_some_and(|row| row["state"] == "closed")
            },
            || format!("{:?}", place.listed(&open)),
        );
    });
}

#[test]
fn list_hides_the_queues_of_answers() {
    everywhere(|place, name| {
        let to = name("asked");
        let mut asking = place
            .command()
            .args(["ask", "--to", &to, "-m", "?"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(
            || place.listed(&to).is_some(),
            || "the question is asked".to_owned(),
        );
        let rows = place.json(["list", "-q"]).remove(0);
        let names: Vec<&str> = rows
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|row| row["name"].as_str())
            .collect();
        assert!(
            !names.iter().any(|name| name.starts_with("ask0")),
            "{names:?}"
        );
        asking.kill().unwrap();
        asking.wait().unwrap();
    });
}

#[test]
fn tail_takes_messages_and_peeking_leaves_them_in_their_queue() {
    everywhere(|place, name| {
        let queue = name("tailed");
        place.ok(["send", "--to", &queue, "-m", "m0"]);
        client::publish(place, &queue, (1..5).map(|number| format!("m{number}")));
        let texts = |lines: &[Value]| -> Vec<String> {
            lines
                .iter()
                .map(|line| line["message"].as_str().unwrap().to_owned())
                .collect()
        };
        for _ in 0..3 {
            let peeked = place.json(["tail", &queue, "--no-ack"]);
            assert_eq!(texts(&peeked), ["m0", "m1", "m2", "m3", "m4"]);
        }
        let taken = place.json(["tail", &queue, "-n", "2"]);
        assert_eq!(texts(&taken), ["m0", "m1"]);
        assert_eq!(
            texts(&place.json(["tail", &queue, "--no-ack"])),
            ["m2", "m3", "m4"]
        );
        let line = place.ok(["tail", &queue, "-n", "1"]);
        assert!(
            line.contains(&format!("-> {queue}")) && line.trim_end().ends_with("m2"),
            "{line}"
        );
    });
}

#[test]
fn peeking_at_the_embedded_broker_changes_nothing_however_much_waits() {
    let place = Place::new();
    let server = Server::start(&place);
    client::make_queue(&place, "long");
    client::publish(&place, "long", (0..600).map(|number| format!("m{number}")));
    let peeked = place.json(["tail", "long", "--no-ack"]);
    assert!(
        peeked
            .iter()
            .enumerate()
            .all(|(number, line)| line["message"] == format!("m{number}")),
        "{peeked:?}"
    );
    assert_eq!(peeked.len(), 600);
    assert_eq!(place.json(["tail", "long", "--no-ack", "-n", "3"]).len(), 3);
    let marks = server.api(&place, "/api/queues/%2F/long/peek?count=1000");
    let marks = marks.as_array().unwrap();
    assert_eq!(marks.len(), 600);
    assert!(marks.iter().all(|message| message["redelivered"] == false));
}

#[test]
fn peeking_without_an_api_refuses_while_a_session_is_attached() {
    everywhere(|place, name| {
        let queue = name("peeked");
        place.ok(["send", "--to", &queue, "-m", "first"]);
        client::publish(place, &queue, ["second".to_owned()].into_iter());
        let nowhere = ["--mgmt-url", "http://localhost:1"];
        for _ in 0..2 {
            let peeked = place.json(["tail", &queue, "--no-ack"].into_iter().chain(nowhere));
            let texts: Vec<_> = peeked.iter().map(|line| &line["message"]).collect();
            assert_eq!(texts, ["first", "second"]);
        }
        let _session = Wrapped::open(place, &queue, &[]);
        place
            .run(["tail", &queue, "--no-ack"].into_iter().chain(nowhere))
            .fails(
                1,
                &format!("cannot show the messages of `{queue}` without taking them"),
            )
            .hints("--mgmt-url");
    });
}

#[test]
fn tail_goes_on_until_it_is_interrupted() {
    everywhere(|place, name| {
        let queue = name("streamed");
        let tail = place
            .command()
            .args(["tail", &queue, "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(
            || {
                place
                    .listed(&queue)
                    .is_some_and(|row| row["consumers"] == 1)
            },
            || "tail makes the queue and consumes".to_owned(),
        );
        place.ok(["send", "--to", &queue, "-m", "as it comes"]);
        wait_until(
            || place.json(["tail", &queue, "--no-ack"]).is_empty(),
            || "the message is taken".to_owned(),
        );
        kill_process(
            Pid::from_raw(i32::try_from(tail.id()).unwrap()).unwrap(),
            Signal::INT,
        )
        .unwrap();
        let ended = tail.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0));
        assert!(
            String::from_utf8(ended.stdout)
                .unwrap()
                .contains("as it comes")
        );
    });
}

#[test]
fn a_tail_of_a_new_name_says_so_and_leaves_no_queue_behind() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "backend", "x"]);
    let tail = place
        .command()
        .args(["tail", "bakend"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let attached = |row: Value| row["consumers"] == 1;
    wait_until(
        || place.listed("bakend").is_some_and(attached),
        || "tail makes the queue and consumes".to_owned(),
    );
    let pid = Pid::from_raw(i32::try_from(tail.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ran = Ran::of(&tail.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    let notice = "cbroker: a new name; did you mean `backend`?";
    assert!(ran.err.contains(notice), "{ran:?}");
    assert_eq!(place.listed("bakend"), None);
    // A queue that was there stays, and so does one with messages.
    place.ok(["tail", "backend", "-n", "1"]);
    assert!(place.listed("backend").is_some());
}

#[test]
fn a_tail_that_is_interrupted_before_it_consumes_leaves_no_queue_behind() {
    let place = Place::new();
    let _server = Server::start(&place);
    // Asked for the names that exist, and never heard.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let api = format!("http://{}", silent.local_addr().unwrap());
    let tail = place
        .command()
        .args(["tail", "new", "--mgmt-url", &api])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = None;
    wait_until(
        || {
            asked = asked.take().or_else(|| silent.accept().ok());
            asked.is_some()
        },
        || "tail has made the queue and asks".to_owned(),
    );
    let pid = Pid::from_raw(i32::try_from(tail.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ran = Ran::of(&tail.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(place.listed("new"), None);
}

#[test]
fn purge_and_delete_need_yes_and_say_how_many() {
    everywhere(|place, name| {
        let queue = name("doomed");
        place
            .run(["purge", &queue, "--yes"])
            .fails(1, &format!("there is no queue `{queue}`"));
        place
            .run(["delete", &queue, "--yes"])
            .fails(1, &format!("there is no queue `{queue}`"));
        place.ok(["send", "--to", &queue, "-m", "1"]);
        place.ok(["send", "--to", &queue, "-m", "2"]);
        place
            .run(["purge", &queue])
            .fails(2, "deleting all messages")
            .hints("--yes");
        place
            .run(["delete", &queue])
            .fails(2, "deleting")
            .hints("--yes");
        assert_eq!(
            place.ok(["purge", &queue, "--yes"]),
            format!("purged {queue}: 2 messages deleted\n")
        );
        place.ok(["send", "--to", &queue, "-m", "3"]);
        assert_eq!(
            place.json(["delete", &queue, "--yes"]),
            [json!({ "name": queue, "messages": 1, "left": 0 })]
        );
        assert!(place.listed(&queue).is_none());
    });
}

#[test]
fn why_tells_a_message_s_story_on_this_machine() {
    everywhere(|place, name| {
        let to = name("storied");
        let id = place.json(["send", "--to", &to, "-m", "x"])[0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let session = Wrapped::open(place, &to, &[]);
        session.wait_for_submission(&id);
        let events = || {
            let story = place.json(["why", &id]).remove(0);
            let events = story
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["event"].as_str().unwrap().to_owned());
            events.collect::<Vec<_>>()
        };
        wait_until(
            || events().contains(&"delivered".to_owned()),
            || format!("{:?}", events()),
        );
        assert_eq!(events()[..2], ["sent", "confirmed"]);
        let by_its_end = place.json(["why", &id[id.len() - 6..].to_lowercase()]);
        assert_eq!(by_its_end[0][0]["id"], id);
        place
            .run(["why", "unheard-of"])
            .fails(1, "nothing is known of `unheard-of`");
    });
}

#[test]
fn only_an_open_session_can_be_paused() {
    everywhere(|place, name| {
        let who = name("nobody");
        place
            .run(["pause", &who])
            .fails(1, &format!("no session `{who}` is attached"));
        place
            .run(["pause"])
            .fails(2, "the following required arguments were not provided");
    });
    let place = Place::new();
    let _server = Server::start(&place);
    for verb in ["pause", "resume"] {
        assert_eq!(place.ok([verb, "--all"]), "no session is attached\n");
        assert_eq!(place.json([verb, "--all"]), [json!([])]);
    }
}

#[test]
fn config_says_where_each_value_came_from() {
    let place = Place::new();
    std::fs::create_dir_all(place.home()).unwrap();
    std::fs::write(
        place.home().join("config.toml"),
        "ttl_ms = 5000\nurl_file = \"url\"\n",
    )
    .unwrap();
    std::fs::write(
        place.path().join("url"),
        "amqps://me:topsecret@far.example/v\n",
    )
    .unwrap();
    let rows = place.json(["config"]).remove(0);
    let row = |key: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .find(|row| row["key"] == key)
            .cloned()
            .unwrap()
    };
    assert_eq!(
        row("ttl_ms"),
        json!({ "key": "ttl_ms", "value": "5000", "origin": "file" })
    );
    assert_eq!(row("url")["value"], "amqps://me:***@far.example:5671/v");
    assert_eq!(row("mgmt_url")["value"], "https://far.example");
    assert_eq!(row("home")["origin"], "environment");
    let file = place.home().join("config.toml");
    assert_eq!(row("config_file")["value"], file.to_str().unwrap());
    let table = place.ok(["config", "--url", "amqp://elsewhere"]);
    assert!(
        table.contains("flag") && !table.contains("topsecret"),
        "{table}"
    );
}

#[test]
fn status_shows_the_password_only_when_asked_for_the_url() {
    let place = Place::new();
    let gone = place.run(["status"]);
    assert_eq!(gone.code, 3, "{gone:?}");
    assert!(gone.out.contains("no local broker runs"), "{gone:?}");
    let server = Server::start(&place);
    let url = place.ok(["status", "--show-url"]);
    let password = url.split(':').nth(2).unwrap().split('@').next().unwrap();
    assert!(password.len() >= 24, "{url}");
    let status = place.ok(["status"]);
    assert!(
        status.contains("running") && status.contains(&format!("process {}", server.pid())),
        "{status}"
    );
    assert!(!status.contains(password));
    let status = place.json(["status"]).remove(0);
    assert_eq!(
        (&status["kind"], &status["reachable"]),
        (&json!("embedded"), &json!(true))
    );
}

/// Makes everything in the history some minutes older.
fn age_the_history(place: &Place, minutes: i64) {
    for folder in [
        place.home(),
        place.home().join("logs"),
        place.home().join("history"),
    ] {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = files.map(|file| file.path());
        for file in files.filter(|file| file.is_file()) {
            let Ok(text) = std::fs::read_to_string(&file) else {
                continue;
            };
            let older = text.lines().map(|line| {
                let Ok(mut entry) = serde_json::from_str::<Value>(line) else {
                    return format!("{line}\n");
                };
                let ts = entry["ts"].as_str().and_then(|ts| ts.parse().ok());
                if let Some(ts) = ts {
                    let ts: chrono::DateTime<chrono::Utc> = ts;
                    let ts = ts - chrono::Duration::minutes(minutes);
                    entry["ts"] = json!(ts.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
                }
                format!("{entry}\n")
            });
            let older: String = older.collect();
            std::fs::write(&file, older).unwrap();
        }
    }
}

#[test]
fn history_tells_the_conversation_and_survives_the_broker() {
    let place = Place::new();
    let server = Server::start(&place);
    let session = Wrapped::open(&place, "backend", &[]);
    place.ok([
        "send",
        "backend",
        "run the Migration\nthen report",
        "--from",
        "frontend",
    ]);
    place.ok(["send", "later", "for\u{202e} another", "--from", "frontend"]);
    session.wait_for_submission("then report");
    let told = |more: &[&str]| place.json(["history"].iter().chain(more));
    wait_until(
        || told(&["backend"])[0]["state"] == "delivered",
        || format!("{:?}", told(&[])),
    );
    drop(session);
    drop(server);
    let all = told(&["frontend"]);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(
        (&all[0]["from"], &all[0]["to"], &all[0]["text"]),
        (
            &json!("frontend"),
            &json!("backend"),
            &json!("run the Migration\nthen report")
        )
    );
    assert_eq!(all[1]["state"], "queued");
    let texts = |more: &[&str]| told(more).len();
    assert_eq!(texts(&["--grep", "migration"]), 1);
    assert_eq!(texts(&["--since", "1h"]), 2);
    assert_eq!(texts(&["--since", "2999-01-01T00:00:00Z"]), 0);
    age_the_history(&place, 90);
    assert_eq!(texts(&["--since", "1h"]), 0, "they are 90 minutes old");
    assert_eq!(texts(&["--since", "89m"]), 0);
    assert_eq!(texts(&["--since", "2h"]), 2);
    assert_eq!(texts(&["-n", "1"]), 1);
    let shown = place.ok(["history", "later"]);
    assert!(shown.contains("frontend -> later queued "), "{shown}");
    assert!(shown.contains("\n    for another\n"), "{shown:?}");
    place
        .run(["history", "--since", "once"])
        .fails(2, "invalid value 'once'");
}
