//! The brake: what a session, a script and a person may send, and how a person holds and releases.

use crate::stage::{Stage, Terminal, body, wait_for};

crate::tests![
    a_paused_session_holds_until_it_is_resumed,
    answers_without_end_are_held,
    a_session_that_sends_too_much_is_held_and_a_script_is_not,
    a_ts_of_2099_under_a_claimed_name_holds_no_mail_of_the_one_who_has_it,
    a_stranger_without_the_hops_header_is_held_and_its_hops_go_no_further,
    forty_held_messages_of_a_stranger_stop_no_message_of_the_own_user,
    four_hundred_held_messages_of_a_stranger_stop_no_message_of_the_own_user,
    two_hundred_held_messages_of_a_stranger_stop_no_message_of_another,
    the_own_backlog_at_the_start_of_a_session_is_no_loop,
    what_waits_of_a_stranger_lets_no_message_of_a_session_past_the_brake,
    copies_of_held_messages_of_a_stranger_stop_no_message_of_the_own_user,
    messages_of_a_stranger_that_no_brake_holds_stop_no_message_of_the_own_user,
    a_thousand_messages_that_name_no_user_arrive_whole,
    hops_claimed_by_another_user_do_not_count,
    what_a_session_sends_counts_the_messages_since_a_person_spoke,
];

fn a_paused_session_holds_until_it_is_resumed() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.says(&["pause", "peer"]);
    stage.publish("peer", &body("p", "text"));
    wait_for("the hold", || {
        stage.says(&["inbox", "peer"]).contains("paused")
    });
    assert_eq!(stage.arrived(), Vec::<String>::new());
    stage.says(&["resume", "peer"]);
    stage.wait_for_messages(1);
}

fn answers_without_end_are_held() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    for (id, hops) in [("few", 20), ("many", 21)] {
        stage.publish_with_hops("peer", &body(id, "text"), hops);
    }
    let lines = stage.wait_for_messages(1);
    assert!(lines[0].contains("id=few]"));
    wait_for("the hold", || {
        stage.says(&["inbox", "peer"]).contains("loop?")
    });
    stage.says(&["resume", "peer"]);
    assert!(stage.wait_for_messages(2)[1].contains("id=many]"));
}

fn a_session_that_sends_too_much_is_held_and_a_script_is_not() {
    let stage = Stage::new();
    stage.configure("max_messages_per_minute = 3\nmax_hops = 1\n");
    let _terminal = stage.sink(&[]);
    for number in 0..4 {
        stage.publish_with_hops("peer", &body(&format!("session{number}"), "text"), 0);
    }
    stage.publish_with_hops("peer", &body("far", "text"), 2);
    for _ in 0..5 {
        stage.send("peer", "a script's", &[]);
    }
    let lines = stage.wait_for_messages(8);
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("id=session3]") || line.contains("id=far]"))
    );
    let held = stage.says(&["inbox", "peer"]);
    assert_eq!(held.matches("loop?").count(), 2, "{held}");
    stage.says(&["resume", "peer"]);
    assert_eq!(stage.wait_for_messages(10).len(), 10);
    // Counting began anew.
    stage.publish_with_hops("peer", &body("later", "text"), 0);
    stage.wait_for_messages(11);
}

fn a_ts_of_2099_under_a_claimed_name_holds_no_mail_of_the_one_who_has_it() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    // `tester` is the name in the genuine messages too.
    let forged = (0..31).map(|number| {
        let body = String::from_utf8(body(&format!("forged{number}"), "text")).unwrap();
        body.replace("2026-01-01", "2099-01-01").into_bytes()
    });
    // At once: the brake counts those of a minute.
    stage.flood_as_stranger_with_hops("peer", 0, forged);
    wait_for("the hold", || {
        stage.says(&["inbox", "peer"]).contains("loop?")
    });
    for number in 0..3 {
        let genuine = body(&format!("genuine{number}"), "text");
        stage.publish_with_hops("peer", &genuine, 0);
    }
    let lines = stage.wait_for_messages(33);
    let genuine = lines.iter().filter(|line| line.contains("id=genuine"));
    assert_eq!(genuine.count(), 3, "{lines:?}");
}

fn a_stranger_without_the_hops_header_is_held_and_its_hops_go_no_further() {
    let stage = Stage::new();
    stage.configure("max_messages_per_minute = 3\n");
    let _terminal = stage.sink(&[]);
    stage.publish_as_stranger("peer", &body("far", "text"), 20);
    stage.wait_for_messages(1);
    wait_for("the number of hops on disk", || noted_hops(&stage) == "0\n");
    for number in 0..4 {
        stage.publish("peer", &body(&format!("flood{number}"), "text"));
    }
    wait_for("the hold", || {
        stage.says(&["inbox", "peer"]).contains("loop?")
    });
    stage.send("peer", "a person's", &[]);
    let lines = stage.wait_for_messages(4);
    assert!(lines.iter().any(|line| line.contains("a person's")));
}

fn forty_held_messages_of_a_stranger_stop_no_message_of_the_own_user() {
    let (stage, _terminal) = flooded((0..40).map(flood));
    assert_eq!(stage.arrived().len(), 4, "{:?}", stage.arrived());
    assert_eq!(stage.dead_letters(), "");
}

fn copies_of_held_messages_of_a_stranger_stop_no_message_of_the_own_user() {
    let (stage, _terminal) = flooded((0..72).map(|number| flood(number / 6)));
    assert_eq!(stage.arrived().len(), 4, "{:?}", stage.arrived());
    assert_eq!(stage.dead_letters(), "");
}

fn four_hundred_held_messages_of_a_stranger_stop_no_message_of_the_own_user() {
    let (stage, _terminal) = flooded((0..400).map(flood));
    wait_for("the rest in the session", || {
        let held = format!("{} held", 401 - stage.arrived().len());
        stage.says(&["list"]).contains(&held)
    });
    assert_eq!(stage.dead_letters(), "");
    // What is not shown is counted.
    let inbox = stage.says(&["inbox", "peer"]);
    let (shown, last) = inbox.trim_end().rsplit_once('\n').unwrap();
    let more = 401 - stage.arrived().len() - shown.lines().count();
    assert!(more > 0, "{inbox}");
    let said = format!("and {more} more messages of other users, ");
    assert!(last.starts_with(&said), "{last}, not {said}");
}

fn two_hundred_held_messages_of_a_stranger_stop_no_message_of_another() {
    let (stage, _terminal) = flooded((0..200).map(flood));
    stage.publish_as_guest("peer", &body("another", "text"));
    wait_for("the other user's message", || {
        stage
            .arrived()
            .iter()
            .any(|line| line.contains("id=another]"))
    });
    assert_eq!(stage.dead_letters(), "");
}

/// Forty messages of a session, ten more than the brake lets through in a minute.
fn forty() -> impl Iterator<Item = Vec<u8>> {
    (0..40).map(|number| body(&format!("own{number}"), "text"))
}

fn the_own_backlog_at_the_start_of_a_session_is_no_loop() {
    let stage = Stage::new();
    drop(stage.sink(&[]));
    wait_for("the end of the session", || stage.consumers("peer") == 0);
    stage.flood_as_session("peer", 0, forty());
    let _terminal = stage.sink(&[]);
    stage.wait_for_messages(40);
}

fn what_waits_of_a_stranger_lets_no_message_of_a_session_past_the_brake() {
    let mut stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.says(&["pause", "peer"]);
    stage.flood_as_stranger("peer", under_many_names(200));
    // The session attaches again, and all of them wait at that moment.
    stage.stop_broker();
    stage.start_broker();
    wait_for("all of them in the session", || {
        stage.consumers("peer") == 1 && stage.waiting("peer") == 0
    });
    stage.flood_as_session("peer", 0, forty());
    wait_for("ten held by the brake", || {
        let inbox = stage.says(&["inbox", "peer"]);
        let is_held = |line: &&str| line.starts_with("held: loop?") && line.contains("id=own");
        inbox.contains("id=own39]") && inbox.lines().filter(is_held).count() == 10
    });
}

fn flood(number: usize) -> Vec<u8> {
    body(&format!("flood{number}"), "text")
}

/// A stage where a stranger has sent all this, and the session's own user one message after it,
/// which was delivered.
fn flooded(bodies: impl Iterator<Item = Vec<u8>>) -> (Stage, Terminal) {
    let stage = Stage::new();
    stage.configure("max_messages_per_minute = 3\n");
    let terminal = stage.sink(&[]);
    stage.flood_as_stranger("peer", bodies);
    let said = stage.send("peer", "a person's", &["--wait", "--timeout", "120"]);
    assert!(said.contains("delivered"), "{said}");
    wait_for("an empty queue", || stage.waiting("peer") == 0);
    (stage, terminal)
}

fn messages_of_a_stranger_that_no_brake_holds_stop_no_message_of_the_own_user() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.says(&["pause", "peer"]);
    stage.flood_as_stranger("peer", under_many_names(200));
    stage.send("peer", "a person's", &[]);
    wait_for("the own user's message in the session", || {
        stage.says(&["inbox", "peer"]).contains("a person's")
    });
    wait_for("all of them in the session", || {
        stage.says(&["list"]).contains("201 held")
    });
    assert_eq!(stage.dead_letters(), "");
}

/// With many names, the brake lets three hundred a minute pass.
fn under_many_names(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| {
        let of_tester = String::from_utf8(flood(number)).unwrap();
        let name = format!("\"from\":\"name{number}\"");
        of_tester.replace("\"from\":\"tester\"", &name).into_bytes()
    })
}

/// Sessions of other tools name no user, and a backlog of their messages is no flood.
fn a_thousand_messages_that_name_no_user_arrive_whole() {
    let stage = Stage::new();
    drop(stage.sink(&[]));
    wait_for("the end of the session", || stage.consumers("peer") == 0);
    stage.flood_as_stranger("peer", (0..1000).map(flood));
    assert_eq!(stage.waiting("peer"), 1000);
    let _terminal = stage.wrap(&["--delivery", "notify"], &["sleep", "1000"]);
    wait_for("all of them in the session", || {
        stage.says(&["list"]).contains("1000 held")
    });
    let mut taken = Vec::new();
    wait_for("all of them", || {
        let held = stage.says(&["--json", "inbox", "peer", "--take"]);
        let held: serde_json::Value = serde_json::from_str(&held).unwrap();
        let held = held.as_array().unwrap().iter();
        taken.extend(held.map(|message| message["id"].as_str().unwrap().to_owned()));
        taken.len() >= 1000
    });
    let sent: Vec<String> = (0..1000).map(|number| format!("flood{number}")).collect();
    assert_eq!(taken, sent, "each once, in order");
    assert_eq!(stage.dead_letters(), "");
}

fn hops_claimed_by_another_user_do_not_count() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.publish_as_stranger("peer", &body("far", "text"), 21);
    stage.wait_for_messages(1);
}

fn what_a_session_sends_counts_the_messages_since_a_person_spoke() {
    let stage = Stage::new();
    // The program answers when it is told to: a real one takes longer than the disk.
    let script = "echo ready; while read -r line; do \
                  until rm $STAGE/go; do sleep 0.02; done 2> /dev/null; \
                  until cbroker send --to other -m \"$line\"; do [ $? = 3 ] || break; done; done";
    let terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", script]);
    terminal.wait_for("ready");
    let answer = |noted: &str| {
        wait_for("the number of hops on disk", || noted_hops(&stage) == noted);
        std::fs::write(stage.path("go"), "").unwrap();
        stage.hops_of_next("other")
    };
    terminal.keys(b"a person speaks\r");
    assert_eq!(answer(""), Some(0));
    stage.publish_with_hops("peer", &body("m", "an agent speaks"), 6);
    assert_eq!(answer("6\n"), Some(7));
    stage.publish("peer", &body("n", "a script speaks"));
    assert_eq!(answer("0\n"), Some(1));
    terminal.keys(b"a person again\r");
    assert_eq!(answer(""), Some(0));
}

/// The hops of the message that the session answers now; empty after a person spoke.
fn noted_hops(stage: &Stage) -> String {
    let entries = std::fs::read_dir(stage.path("home/sessions")).into_iter();
    let file = entries
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "hops"));
    file.and_then(|file| std::fs::read_to_string(file).ok())
        .unwrap_or_default()
}
