//! Groups: who belongs to them, and what reaches their members.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::client;
use crate::everywhere::everywhere;
use crate::support::{Place, Server, Wrapped, wait_until};

/// The texts that wait in a queue.
fn waiting(place: &Place, name: &str) -> Vec<Value> {
    let messages = place.json(["tail", name, "--no-ack"]);
    messages
        .iter()
        .map(|message| message["message"].clone())
        .collect()
}

/// Makes a member that is closed.
fn closed_member(place: &Place, name: &str, group: &str) {
    client::make_queue(place, name);
    place.ok(["group", "join", group, name]);
}

#[test]
fn a_message_to_a_group_reaches_every_member_but_its_sender() {
    everywhere(|place, name| {
        let group = name("crew");
        let (open, closed, sender) = (name("open"), name("closed"), name("sender"));
        let at_group = format!("@{group}");
        let session = Wrapped::open(place, &open, &["--group", &group]);
        closed_member(place, &closed, &at_group);
        closed_member(place, &sender, &group);
        let sent = place.json(["send", &at_group, "rebase, please", "--from", &sender]);
        let to: Vec<&Value> = sent.iter().map(|sent| &sent["to"]).collect();
        assert_eq!(to, [&json!(closed), &json!(open)], "{sent:?}");
        assert_eq!(sent[0]["id"], sent[1]["id"], "each has the same id");
        assert_eq!(sent[0]["group"], *group);
        session.wait_for_submission("rebase, please");
        assert_eq!(waiting(place, &closed), ["rebase, please"]);
        assert!(waiting(place, &sender).is_empty());
        // A name that is also a member gets it once.
        let both = format!("{at_group},{closed}");
        let sent = place.json(["send", &both, "once", "--from", &sender]);
        assert_eq!(sent.len(), 2, "{sent:?}");
    });
}

#[test]
fn a_session_joins_as_many_groups_as_it_is_told_to() {
    everywhere(|place, name| {
        let (crew, night) = (name("crew"), name("night"));
        let member = name("member");
        let session = Wrapped::open(place, &member, &["--group", &crew, "--group", &night]);
        assert_eq!(
            place.listed(&member).unwrap()["groups"],
            json!([crew, night])
        );
        for group in [&crew, &night] {
            let text = format!("to {group}");
            place.ok(["send", &format!("@{group}"), &text]);
            session.wait_for_submission(&text);
        }
    });
}

#[test]
fn the_receipts_of_a_group_come_from_each_member() {
    everywhere(|place, name| {
        let group = name("crew");
        let (one, other) = (name("one"), name("other"));
        let at_group = format!("@{group}");
        let _sessions = [
            Wrapped::open(place, &one, &["--group", &group]),
            Wrapped::open(place, &other, &["--group", &group]),
        ];
        let paused = place.json(["pause", &at_group]).remove(0);
        assert_eq!(paused.as_array().unwrap().len(), 2, "{paused}");
        let sending = place
            .command()
            .args(["send", &at_group, "hello", "--json"])
            .args(["--wait", "--timeout", "10m"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for member in [&one, &other] {
            wait_until(
                || place.json(["inbox", member])[0][0]["reason"] == "paused",
                || format!("{member} holds it: {}", place.ok(["inbox", member])),
            );
        }
        place.ok(["resume", &at_group]);
        let output = sending.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let sent = String::from_utf8(output.stdout).unwrap();
        for (line, member) in sent.lines().zip([&one, &other]) {
            let sent: Value = serde_json::from_str(line).unwrap();
            assert_eq!(sent["receipt"]["state"], "delivered", "{sent:?}");
            assert_eq!(sent["receipt"]["to"], **member);
        }
        assert_eq!(sent.lines().count(), 2);
    });
}

#[test]
fn membership_is_shown_and_changed_and_lasts_as_long_as_the_queue() {
    everywhere(|place, name| {
        let group = name("crew");
        let (one, other) = (name("one"), name("other"));
        let at_group = format!("@{group}");
        place
            .run(["group", "join", &group, &one])
            .fails(1, &format!("there is no queue `{one}`"));
        place
            .run(["group", "join", &group])
            .fails(2, "no session given");
        place
            .run(["group", "join", "all", &one])
            .fails(2, "`all` in GROUP is not a group name");
        closed_member(place, &one, &group);
        closed_member(place, &other, &group);
        let members = || place.json(["group", "list", &group])[0][0]["members"].clone();
        assert_eq!(members(), json!([one, other]));
        assert_eq!(place.listed(&one).unwrap()["groups"], json!([group]));
        assert!(
            place
                .ok(["group", "list"])
                .contains(&format!("{one}, {other}"))
        );
        assert!(place.ok(["list"]).contains("GROUPS"));
        assert_eq!(
            place.ok(["group", "leave", &group, &one]),
            format!("{one} left {at_group}\n")
        );
        assert_eq!(members(), json!([other]));
        place
            .run(["group", "leave", &group, &one])
            .fails(1, &format!("`{one}` is not in the group `{at_group}`"));
        let nowhere = name("nowhere");
        place
            .run(["group", "leave", &nowhere, &one])
            .fails(1, &format!("no session is in the group `@{nowhere}`"));
        place.ok(["delete", &other, "--yes"]);
        place
            .run(["send", &at_group, "anybody?"])
            .fails(1, &format!("no session is in the group `{at_group}`"));
    });
}

#[test]
fn a_group_is_asked_and_every_answer_is_printed() {
    everywhere(|place, name| {
        let group = name("crew");
        let members = [name("one"), name("other")];
        for member in &members {
            closed_member(place, member, &group);
        }
        let asking = place
            .command()
            .args(["ask", &format!("@{group}"), "Which port?", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for (member, text) in members.iter().zip(["5672", "15672"]) {
            answer(place, member, text);
        }
        let output = asking.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let answers: Vec<Value> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (&answers[0]["from"], &answers[0]["message"]),
            (&json!(members[0]), &json!("5672"))
        );
        assert_eq!(answers[1]["message"], "15672");
    });
}

/// Answers a question that waits in a member's queue.
fn answer(place: &Place, member: &str, text: &str) {
    let mut questions = Vec::new();
    wait_until(
        || {
            questions = place.json(["tail", member, "--no-ack"]);
            !questions.is_empty()
        },
        || format!("the question arrives at {member}"),
    );
    let of = |field: &str| questions[0][field].as_str().unwrap().to_owned();
    let (id, reply_to) = (of("id"), of("reply_to"));
    place.ok([
        "send",
        &reply_to,
        text,
        "--correlation-id",
        &id,
        "--from",
        member,
    ]);
}

/// Who asks several is told by a heading whose answer it is, and a text has no heading.
#[test]
fn the_answer_of_one_member_passes_for_no_other_ones() {
    everywhere(|place, name| {
        let group = name("crew");
        let (one, other) = (name("one"), name("other"));
        for member in [&one, &other] {
            closed_member(place, member, &group);
        }
        for (verb, more) in [("ask", &[][..]), ("send", &["--wait=answered"])] {
            let asking = place
                .command()
                .args([verb, &format!("@{group}"), "Which port?"])
                .args(more)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            answer(
                place,
                &one,
                &format!("5672\n{other}:\n6666\n{other}: answered"),
            );
            answer(place, &other, "15672");
            let output = asking.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            let heading = format!("{other}:");
            let headings = said.lines().filter(|line| line.starts_with(&heading));
            assert!(headings.count() <= 1, "{said}");
            assert!(
                said.contains("    5672\n") && said.contains("    15672\n"),
                "{said}"
            );
            for member in [&one, &other] {
                place.ok(["purge", member, "--yes"]);
            }
        }
    });
}

#[test]
fn members_are_only_known_to_the_management_api() {
    let place = Place::new();
    let _server = Server::start(&place);
    closed_member(&place, "api", "crew");
    let nowhere = ["--mgmt-url", "http://localhost:1"];
    place
        .run(["send", "@crew", "x"].into_iter().chain(nowhere))
        .fails(3, "the members of groups are not known")
        .hints("--mgmt-url");
}

#[test]
fn a_queue_takes_its_groups_along_to_another_broker() {
    let (here, there) = (Place::new(), Place::new());
    let (_one, _other) = (Server::start(&here), Server::start(&there));
    closed_member(&here, "api", "crew");
    here.ok(["move", "--to", &client::endpoint(&there).secret_url()]);
    let groups = there.json(["group", "list"]).remove(0);
    assert_eq!(groups, json!([{ "name": "crew", "members": ["api"] }]));
}
