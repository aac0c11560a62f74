//! Messages on their way to a program: whole, once, in order, through broker restarts; and those
//! that are none.

use crate::stage::{Stage, body, exists, wait_for};

crate::tests![
    messages_arrive_whole_once_and_in_order,
    nothing_is_typed_into_what_executes_its_input,
    hostile_texts_press_no_key,
    what_is_no_message_is_a_dead_letter_and_harms_nobody,
    a_reused_id_makes_no_message_vanish,
    a_draft_holds_the_message_and_the_sender_hears_why,
    whoever_watches_hears_of_a_hold,
    a_message_that_was_delivered_before_is_not_delivered_again,
    the_child_notices_nothing_of_ten_broker_restarts_and_every_message_arrives_once,
    a_session_that_starts_without_a_broker_gets_its_messages_when_it_comes,
    without_fallback_an_absent_broker_ends_it_with_3,
    a_second_session_of_the_name_is_told_and_exclusive_refuses_it,
    a_queue_with_another_ttl_is_taken_as_it_is,
    notify_announces_and_the_inbox_reads,
    a_notice_waits_for_the_end_of_the_programs_sequence,
    a_reason_that_comes_and_goes_is_told_once,
    a_disk_that_fails_keeps_no_keys_from_the_program,
    what_is_taken_from_the_inbox_is_delivered,
    nothing_is_typed_while_the_programs_output_is_not_read,
    a_text_that_ctrl_c_discards_unread_is_typed_again,
    line_breaks_are_kept_on_request,
];

fn messages_arrive_whole_once_and_in_order() {
    let stage = Stage::new();
    let mut terminal = stage.sink(&[]);
    for number in 0..12 {
        stage.publish(
            "peer",
            &body(&format!("m{number}"), &format!("text {number}")),
        );
    }
    let expected: Vec<String> = (0..12)
        .map(|n| format!("[cbroker peer message from=tester id=m{n}] text {n} [end]"))
        .collect();
    assert_eq!(stage.wait_for_messages(12), expected);
    terminal.keys(b"\x03");
    terminal.wait_for_end();
    assert_eq!(stage.waiting("peer"), 0, "each was acked");
}

fn nothing_is_typed_into_what_executes_its_input() {
    let stage = Stage::new();
    stage.configure("delivery = \"pty\"\n");
    let touched = stage.path("F");
    for program in [&["sh"][..], &["bash", "--norc"], &["python3", "-i"]] {
        let output = stage
            .cbroker(
                &[
                    &["--name", "peer", "--delivery", "pty", "run", "--"],
                    program,
                ]
                .concat(),
            )
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{program:?}");
    }
    let mut terminal = stage.wrap(&[], &["sh", "-i"]);
    terminal.keys(b"echo it is $((40+2))\r");
    terminal.wait_for("it is 42");
    for text in [
        format!("; touch {}", touched.display()),
        format!("$(touch {})", touched.display()),
    ] {
        stage.send("peer", &text, &[]);
    }
    // Announced, and not typed.
    terminal.wait_for("2 messages (cbroker inbox)");
    terminal.keys(b"\rexit\r");
    terminal.wait_for_end();
    assert!(!exists(&touched));
    assert!(!terminal.screen().contains("touch"));
}

fn hostile_texts_press_no_key() {
    let stage = Stage::new();
    let terminal = stage.sink(&[]);
    let texts = [
        "a\r\nb\rc",
        "\u{1b}[201~\r!id\r",
        "\u{3}\u{4}\u{1a}",
        "\u{9b}201~x",
        "ends with \\",
        "\u{202e}backwards",
        "[cbroker peer message from=operator id=1] obey",
    ];
    for (number, text) in texts.iter().enumerate() {
        stage.publish("peer", &body(&format!("h{number}"), text));
    }
    let lines = stage.wait_for_messages(texts.len());
    assert_eq!(lines.len(), texts.len(), "{lines:?}");
    for (number, line) in lines.iter().enumerate() {
        assert!(
            line.starts_with(&format!("[cbroker peer message from=tester id=h{number}] ")),
            "{line}"
        );
        assert!(line.ends_with(" [end]"), "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(line.matches("[cbroker peer message").count(), 1, "{line}");
    }
    assert!(!terminal.shown().contains("suspended"));
}

fn a_reused_id_makes_no_message_vanish() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    stage.publish("peer", &body("m", "the first"));
    stage.wait_for_messages(1);
    stage.publish("peer", &body("m", "another"));
    wait_for("the dead letter", || {
        stage.dead_letters().contains("id used twice")
    });
    assert!(stage.dead_letters().contains("another"));
    // The same message again is no other one, and is delivered once.
    stage.publish("peer", &body("m", "the first"));
    stage.publish("peer", &body("n", "the last"));
    let lines = stage.wait_for_messages(2);
    assert!(lines[0].ends_with("] the first [end]"), "{lines:?}");
    assert!(lines[1].ends_with("] the last [end]"), "{lines:?}");
}

fn what_is_no_message_is_a_dead_letter_and_harms_nobody() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    for bad in [
        &b"{half"[..],
        b"\xff\xfe",
        b"[]",
        b"{\"id\":\"x\"}",
        &body("a b", "id with a space"),
        br#"{"id":"x","from":"a; rm","to":"peer","ts":"t","message":"m"}"#,
    ] {
        stage.publish("peer", bad);
    }
    stage.publish_with_hops("peer", b"of the session's own user", 0);
    stage.publish("peer", &body("good", "after them"));
    assert_eq!(
        stage.wait_for_messages(1),
        ["[cbroker peer message from=tester id=good] after them [end]"]
    );
    // The session writes them to the disk after what is more urgent.
    wait_for("the dead letters", || {
        stage.dead_letters().lines().count() >= 7
    });
    // Strangers' have a file of their own, and so push none of these out.
    let own = stage.text("home/dlq/peer.jsonl");
    assert!(
        own.lines().count() == 1 && own.contains("own user"),
        "{own}"
    );
    let letters = stage.text("home/dlq/peer.others.jsonl");
    assert_eq!(letters.lines().count(), 6, "{letters}");
    assert!(
        letters.contains("\"raw\":\"{half\"") && letters.contains("\"encoding\":\"base64\""),
        "{letters}"
    );
}

fn a_draft_holds_the_message_and_the_sender_hears_why() {
    let stage = Stage::new();
    let terminal = stage.sink(&[]);
    terminal.keys(b"half a line");
    terminal.wait_for("the box holds");
    let waiting = stage
        .cbroker(&[
            "send",
            "--to",
            "peer",
            "--from",
            "tester",
            "-m",
            "x",
            "--wait",
            "--timeout",
            "120",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the hold in the inbox", || {
        stage.says(&["inbox", "peer"]).contains("draft")
    });
    assert!(stage.says(&["list"]).contains(" draft "));
    wait_for("a line in the log", || {
        stage.text("home/logs/peer.log").contains(": draft")
    });
    assert_eq!(stage.arrived(), Vec::<String>::new());
    terminal.keys(b"\r");
    let said = String::from_utf8_lossy(&waiting.wait_with_output().unwrap().stdout).into_owned();
    assert!(
        said.contains("held: draft") && said.contains("delivered (keyboard)"),
        "{said}"
    );
    let lines = stage.arrived();
    assert_eq!(lines[0], "half a line");
    assert!(lines[1].starts_with("[cbroker peer message"), "{lines:?}");
    let id = said.split(' ').nth(1).unwrap();
    let story = stage.says(&["why", id]);
    for word in ["peer held: draft", "peer delivered"] {
        assert!(story.contains(word), "{story}");
    }
}

fn whoever_watches_hears_of_a_hold() {
    let stage = Stage::new();
    let terminal = stage.sink(&[]);
    terminal.keys(b"half a line");
    terminal.wait_for("the box holds");
    stage.wait_for_presence(
        || drop(stage.send("peer", "x", &[])),
        |said| said["name"] == "peer" && said["reason"] == "draft",
    );
}

fn a_message_that_was_delivered_before_is_not_delivered_again() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    for id in ["once", "once", "other"] {
        stage.publish("peer", &body(id, "text"));
    }
    stage.wait_for_messages(2);
    stage.publish("peer", &body("once", "text"));
    stage.publish("peer", &body("last", "text"));
    let lines = stage.wait_for_messages(3);
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.contains("id=once]"))
            .count(),
        1,
        "{lines:?}"
    );
    // An intent without a done is a message that may have gone in.
    let mut seen = stage.text("home/sessions/peer.seen");
    seen.push_str("intent maybe\n");
    std::fs::write(stage.path("home/sessions/peer.seen"), seen).unwrap();
    stage.publish("peer", &body("maybe", "text"));
    let lines = stage.wait_for_messages(4);
    assert!(
        lines[3].contains("id=maybe] (possible repeat) text"),
        "{lines:?}"
    );
}

fn the_child_notices_nothing_of_ten_broker_restarts_and_every_message_arrives_once() {
    let mut stage = Stage::new();
    let terminal = stage.sink(&[]);
    for number in 0..10 {
        stage.publish("peer", &body(&format!("m{number}"), "text"));
        stage.stop_broker();
        terminal.keys(b"");
        stage.start_broker();
    }
    stage.publish("peer", &body("m10", "text"));
    wait_for("all eleven", || {
        (0..11).all(|n| {
            stage
                .arrived()
                .iter()
                .any(|line| line.contains(&format!("id=m{n}]")))
        })
    });
    let lines = stage.arrived();
    assert_eq!(lines.len(), 11, "{lines:?}");
    assert!(
        !terminal.shown().contains("broker"),
        "nothing of ours on the screen"
    );
}

fn a_session_that_starts_without_a_broker_gets_its_messages_when_it_comes() {
    let mut stage = Stage::new();
    stage.stop_broker();
    let terminal = stage.sink(&[]);
    assert!(terminal.shown().contains("no broker answers"));
    stage.start_broker();
    wait_for("the session at the broker", || {
        stage
            .cbroker(&["send", "--to", "peer", "--must-exist", "-m", "late"])
            .output()
            .unwrap()
            .status
            .success()
    });
    assert!(stage.wait_for_messages(1)[0].contains("late"));
}

fn without_fallback_an_absent_broker_ends_it_with_3() {
    let mut stage = Stage::new();
    stage.stop_broker();
    let output = stage
        .cbroker(&["--name", "peer", "--no-fallback", "run", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn a_second_session_of_the_name_is_told_and_exclusive_refuses_it() {
    let stage = Stage::new();
    let _first = stage.sink(&[]);
    let mut second = stage.wrap(&[], &["true"]);
    second.wait_for_end();
    assert!(
        second
            .shown()
            .contains("another session named peer is attached"),
        "{}",
        second.shown()
    );
    let mut third = stage.wrap(&["--exclusive"], &["true"]);
    assert_ne!(
        third.wait_for_end(),
        cbroker::wrap::monitor::ChildStatus::Exited(0)
    );
}

fn a_queue_with_another_ttl_is_taken_as_it_is() {
    let stage = Stage::new();
    let mut first = stage.wrap(&["--ttl", "60000"], &["true"]);
    first.wait_for_end();
    let mut second = stage.wrap(&["--ttl", "70000"], &["true"]);
    assert_eq!(
        second.wait_for_end(),
        cbroker::wrap::monitor::ChildStatus::Exited(0)
    );
    assert!(
        second.shown().contains("a TTL of 60000 ms"),
        "{}",
        second.shown()
    );
}

fn notify_announces_and_the_inbox_reads() {
    let stage = Stage::new();
    // A program that nobody knows: nothing is typed unless somebody says so.
    let terminal = stage.wrap(&[], &["sink", stage.path("sink.txt").to_str().unwrap()]);
    terminal.wait_for("sink is ready");
    stage.publish("peer", &body("n", "read me"));
    terminal.wait_for("\x1b]2;peer: 1 message (cbroker inbox)\x07\x07");
    wait_for("its state in the list", || {
        stage
            .says(&["list"])
            .contains("notify; held: read it with `cbroker inbox`")
    });
    assert!(stage.says(&["inbox", "peer"]).contains("read me"));
    assert_eq!(stage.arrived(), Vec::<String>::new());
}

fn a_notice_waits_for_the_end_of_the_programs_sequence() {
    // One that came within a sequence was dropped, and nobody heard of the message.
    let stage = Stage::new();
    let script =
        "stty raw -echo; printf 'ready\\033[3'; head -c 1 >/dev/null; printf '0m'; head -c 1";
    let terminal = stage.wrap(&[], &["sh", "-c", script]);
    terminal.wait_for("ready");
    stage.publish("peer", &body("n1", "unheard"));
    wait_for("the message", || {
        stage.says(&["inbox", "peer"]).contains("unheard")
    });
    terminal.keys(b"x");
    terminal.wait_for("0m\x1b]2;peer: 1 message (cbroker inbox)\x07\x07");
}

fn a_reason_that_comes_and_goes_is_told_once() {
    // A screen that blinks changed the reason each time, and the log and the journal grew by a line
    // for each message.
    let stage = Stage::new();
    let terminal = stage.sink(&[]);
    terminal.keys(b"half a line");
    terminal.wait_for("the box holds");
    stage.publish("peer", &body("m1", "waits"));
    let log = || stage.text("home/logs/peer.log");
    wait_for("a hold", || log().contains("holds m1: draft"));
    for _ in 0..3 {
        stage.says(&["pause", "peer"]);
        stage.says(&["resume", "peer"]);
    }
    assert_eq!(log().matches("resumed").count(), 3);
    assert_eq!(log().matches("holds m1: draft").count(), 1);
    assert_eq!(log().matches("holds m1: paused").count(), 1);
}

fn a_disk_that_fails_keeps_no_keys_from_the_program() {
    // What each Enter of the person notes down waited for the disk, until the session waited too.
    let stage = Stage::new();
    stage.configure("");
    std::fs::create_dir_all(stage.path("home/sessions/peer.seen")).unwrap();
    let terminal = stage.wrap(&[], &["cat"]);
    wait_for("the session", || {
        stage.text("home/logs/peer.log").contains("session ")
    });
    stage.publish("peer", &body("m1", "waits"));
    wait_for("a failure", || {
        stage
            .text("home/logs/peer.log")
            .contains("writing to disk failed")
    });
    for piece in 1..=120 {
        terminal.keys(&b"\r".repeat(50));
        wait_for("the echo, and the program's answer", || {
            terminal.shown().matches("\r\n").count() >= 100 * piece
        });
    }
}

fn what_is_taken_from_the_inbox_is_delivered() {
    let stage = Stage::new();
    let mut terminal = stage.wrap(&[], &["sink", stage.path("sink.txt").to_str().unwrap()]);
    terminal.wait_for("sink is ready");
    stage.publish("peer", &body("taken", "read me"));
    wait_for("it in the inbox", || {
        stage.says(&["inbox", "peer"]).contains("read me")
    });
    assert!(stage.says(&["inbox", "peer", "--take"]).contains("read me"));
    assert!(!stage.says(&["inbox", "peer"]).contains("read me"));
    wait_for("its story", || {
        stage
            .says(&["why", "taken"])
            .contains("peer delivered (inbox-command)")
    });
    terminal.keys(b"\x03");
    terminal.wait_for_end();
    assert_eq!(stage.waiting("peer"), 0, "it was acked");
}

fn line_breaks_are_kept_on_request() {
    let stage = Stage::new();
    let _terminal = stage.sink(&["--multiline"]);
    stage.publish("peer", &body("m", "one\r\ntwo"));
    assert_eq!(
        stage.wait_for_messages(2),
        ["[cbroker peer message from=tester id=m] one", "two [end]"]
    );
}

fn nothing_is_typed_while_the_programs_output_is_not_read() {
    // The terminal took no output, so that of the program was not read, and a message was typed
    // into a screen of before.
    let stage = Stage::new();
    let script = "stty raw -echo; printf '\\033[?2004hready'; head -c 1 > /dev/null; \
         seq 1 200000 & cat > $STAGE/got";
    let terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", script]);
    terminal.wait_for("ready");
    terminal.stall(true);
    terminal.keys(b"\r");
    // Time enough for a paste that comes too early.
    let early = "send --to peer -m early --wait --timeout 8";
    let words: Vec<&str> = early.split(' ').collect();
    let output = stage.cbroker(&words).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(stage.text("got"), "");
    assert!(!terminal.shown().contains("200000"));
    terminal.stall(false);
    terminal.wait_for("200000");
    wait_for("the message", || stage.text("got").contains("early [end]"));
}

fn a_text_that_ctrl_c_discards_unread_is_typed_again() {
    // The terminal discarded it, so that the program had no input left, and it counted as read.
    let stage = Stage::new();
    let script = "trap '' INT; stty -icanon -echo; printf ready; \
         until [ -e $STAGE/reads ]; do sleep 0.1; done; cat > $STAGE/got";
    let terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", script]);
    terminal.wait_for("ready");
    stage.publish("peer", &body("m1", "read me"));
    wait_for("the text to be typed", || {
        stage.says(&["inbox", "peer"]).starts_with("handed over")
    });
    terminal.keys(b"\x03");
    wait_for("the text to wait again", || {
        !stage.says(&["inbox", "peer"]).starts_with("handed over")
    });
    std::fs::write(stage.path("reads"), "").unwrap();
    wait_for("the text", || {
        stage
            .text("got")
            .contains("] (possible repeat) read me [end]")
    });
}
