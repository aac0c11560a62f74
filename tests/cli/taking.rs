//! `inbox`, and what it takes.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::everywhere::everywhere;
use crate::support::{Place, Wrapped, wait_until};

#[test]
fn inbox_shows_what_a_session_holds_and_can_take_it() {
    everywhere(|place, name| {
        let who = name("holder");
        place
            .run(["inbox", &who])
            .fails(1, &format!("no session `{who}` is attached"));
        place.run(["inbox"]).fails(2, "no session given");
        let session = Wrapped::open(place, &who, &[]);
        assert_eq!(place.ok(["pause", &who]), format!("{who}: paused\n"));
        place.ok(["send", "--to", &who, "-m", "read me"]);
        wait_until(
            || place.json(["inbox", &who])[0].as_array().unwrap().len() == 1,
            || place.ok(["inbox", &who]),
        );
        let held = place.json(["inbox", &who])[0][0].clone();
        assert_eq!(held["reason"], "paused");
        assert!(held["line"].as_str().unwrap().contains("read me [end]"));
        let printed = place.ok(["inbox", &who]);
        assert!(printed.starts_with("held: paused ["), "{printed}");
        assert!(place.ok(["inbox", &who, "--take"]).contains("read me"));
        place.ok(["resume", "--all"]);
        place.ok(["send", "--to", &who, "-m", "type me"]);
        session.wait_for_submission("type me");
        assert!(
            !session
                .submitted()
                .iter()
                .any(|line| line.contains("read me")),
            "what was taken is not typed"
        );
    });
}

/// Takes the messages that a session holds, once there are so many, for a reader that has gone.
fn take_unread(place: &Place, who: &str, count: usize) {
    wait_until(
        || place.json(["inbox", who])[0].as_array().unwrap().len() == count,
        || place.ok(["inbox", who]),
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut taking = place.command();
    taking.args(["inbox", who, "--take"]).stdout(writer);
    assert_eq!(taking.status().unwrap().code(), Some(0));
}

/// The messages were acked before anybody had seen them.
#[test]
fn what_is_taken_while_its_reader_goes_away_is_delivered_later() {
    everywhere(|place, name| {
        let who = name("reader");
        let session = Wrapped::open(place, &who, &[]);
        place.ok(["pause", &who]);
        for text in ["the first", "the second"] {
            place.ok(["send", "--to", &who, "-m", text]);
        }
        take_unread(place, &who, 2);
        place.ok(["resume", &who]);
        session.wait_for_submission("the second");
        let submitted = session.submitted().join("\n");
        let places = ["first", "second"]
            .map(|text| submitted.find(&format!("(possible repeat) the {text}")));
        assert!(places.iter().all(Option::is_some), "{submitted}");
        assert!(places.is_sorted(), "{submitted}");
    });
}

/// They came back ten seconds later, once the take was over.
#[test]
fn what_is_purged_after_a_take_that_nobody_read_does_not_come_back() {
    everywhere(|place, name| {
        let who = name("gone");
        let session = Wrapped::open(place, &who, &[]);
        place.ok(["pause", &who]);
        place.ok(["send", "--to", &who, "-m", "purge me"]);
        take_unread(place, &who, 1);
        let purged = place.json(["purge", &who, "--yes", "--force"]).remove(0);
        assert_eq!(
            purged,
            json!({ "name": who.as_str(), "purged": 1, "left": 0 })
        );
        place.ok(["resume", &who]);
        place.ok(["send", "--to", &who, "-m", "type me"]);
        session.wait_for_submission("type me");
        let submitted = session.submitted().join("\n");
        assert!(!submitted.contains("purge me"), "{submitted}");
    });
}

#[test]
fn what_a_session_that_does_not_answer_holds_is_not_said_to_be_gone() {
    // It said `purged` and ended with 0, and the session delivered the message later.
    everywhere(|place, name| {
        let who = name("silent");
        let session = Wrapped::open(place, &who, &[]);
        place.ok(["pause", &who]);
        place.ok(["send", "--to", &who, "-m", "still there"]);
        let held = || {
            place.json(["inbox", &who])[0]
                .as_array()
                .map_or(0, Vec::len)
        };
        wait_until(|| held() == 1, || place.ok(["inbox", &who]));
        let pid = Pid::from_raw(session.terminal.pid().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let ran = place.run(["purge", &who, "--yes", "--force"]);
        kill_process(pid, Signal::CONT).unwrap();
        ran.fails(4, &format!("1 consumer of `{who}` has not answered"));
        assert_eq!(ran.out, format!("purged {who}: 0 messages deleted\n"));
    });
}
