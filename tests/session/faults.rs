//! Faults that were seen with real agents, each as it happened: the name says what must not happen
//! again.

use cbroker::wrap::monitor::ChildStatus;
use rustix::process::{Pid, Signal, kill_process};

use crate::claude::{claude, log_lines, ready, wait_for_hold, wait_for_listed, wait_for_log};
use crate::process::is_alive;
use crate::stage::{CBROKER, Stage, exists, wait_for};

crate::tests![
    no_message_starts_a_session_in_the_agents_view,
    no_message_goes_to_a_subagent_that_is_viewed,
    no_text_stays_in_a_box_that_is_too_small_for_it,
    no_key_is_submitted_with_a_message_that_a_paused_agent_has_not_read,
    no_key_that_is_not_drawn_yet_is_submitted_with_a_message,
    no_message_comes_twice_because_a_menu_stays_open,
    no_text_that_an_unready_agent_ignored_is_acked,
    no_text_that_a_start_dropped_is_acked,
    no_prompt_that_a_hook_refused_is_acked_and_none_leaves_the_agent_busy,
    no_message_is_lost_with_a_wrap_that_is_killed_after_its_enter,
    without_hooks_the_agents_own_files_say_what_it_has_read,
    no_message_is_lost_with_an_agent_that_is_killed_after_its_enter,
    no_session_stays_busy_after_a_last_frame_that_says_so,
    no_open_dialog_is_told_as_busy,
    no_message_that_only_waited_is_marked_as_a_repeat,
    no_answer_of_the_terminal_that_is_cut_holds_a_message,
    nothing_is_typed_into_an_agent_that_says_of_itself_that_it_is_busy,
    no_agent_that_ignores_the_hang_up_outlives_a_wrap_that_is_killed,
    a_text_that_the_program_never_read_is_back_in_its_queue,
];

const KEYBOARD: [&str; 2] = ["--delivery", "pty"];

fn agents_pid(stage: &Stage) -> String {
    let lines = log_lines(stage, "process");
    lines.last().unwrap().split(' ').nth(1).unwrap().to_owned()
}

/// Ends the agent's process without a word.
fn kill_agent(stage: &Stage) {
    let pid = Pid::from_raw(agents_pid(stage).parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// The agent has a message, and nothing proves that its model has it. By the keyboard that is said
/// for some seconds; then the message is held, since the agent is at rest again.
fn wait_for_hand_over(stage: &Stage) {
    wait_for("the hand-over", || {
        let inbox = stage.says(&["--json", "inbox", "peer"]);
        inbox.contains("handed over") || inbox.contains("your agent refused it")
    });
}

/// The agent wrote no line that begins so.
fn none(stage: &Stage, word: &str) {
    assert_eq!(log_lines(stage, word), Vec::<String>::new());
}

fn no_message_starts_a_session_in_the_agents_view() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    terminal.keys(b"\x1b[D");
    terminal.wait_for_screen("describe a task for a new session");
    stage.send("peer", "for the main prompt", &[]);
    wait_for_hold(&stage, "needs you: another view");
    assert!(stage.says(&["list"]).contains("needs you: another view"));
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "submitted [cbroker peer message");
    none(&stage, "new session");
}

fn no_message_goes_to_a_subagent_that_is_viewed() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    for downs in 1..=2 {
        terminal.keys(b"\x1b[B");
        wait_for("the key to be read", || {
            log_lines(&stage, "down").len() == downs
        });
    }
    terminal.keys(b"\r");
    terminal.wait_for_screen("Message @general-purpose");
    stage.send("peer", "for the main prompt", &[]);
    wait_for_hold(&stage, "needs you: another view");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "submitted [cbroker peer message");
    none(&stage, "to the subagent");
}

fn no_text_stays_in_a_box_that_is_too_small_for_it() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "");
    terminal.resize(24, 80);
    wait_for("a frame of that size", || {
        terminal.keys(b"\x1b[A");
        stage.text("agent.log").contains("window 24 80")
    });
    for length in [300, 450, 560, 790] {
        let text = format!("of{length} {}", "words ".repeat(length / 6));
        let said = stage.send("peer", &text, &["--wait"]);
        assert!(said.contains("delivered (keyboard)"), "{said}");
    }
    assert_eq!(log_lines(&stage, "submitted").len(), 4);
    none(&stage, "scrolled");
}

fn no_key_is_submitted_with_a_message_that_a_paused_agent_has_not_read() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "pause");
    stage.send("peer", "first", &[]);
    wait_for("the pause", || exists(&stage.path("paused")));
    terminal.keys(b"mine");
    wait_for_log(&stage, "submitted");
    terminal.wait_for_screen("❯ mine");
    let submitted = log_lines(&stage, "submitted");
    assert_eq!(submitted.len(), 1, "{submitted:?}");
    assert!(submitted[0].ends_with("] first [end]"), "{submitted:?}");
}

fn no_key_that_is_not_drawn_yet_is_submitted_with_a_message() {
    let stage = Stage::new();
    let terminal = ready(&stage, &KEYBOARD, "sluggish");
    terminal.keys(b"mine");
    wait_for_log(&stage, "reads keys");
    stage.send("peer", "alone", &[]);
    terminal.wait_for_screen("❯ mine");
    wait_for_hold(&stage, "draft");
    none(&stage, "submitted");
    terminal.keys(b"\x15");
    wait_for_log(&stage, "submitted");
    let submitted = log_lines(&stage, "submitted");
    assert_eq!(submitted.len(), 1, "{submitted:?}");
    assert!(
        submitted[0].starts_with("submitted [cbroker peer"),
        "{submitted:?}"
    );
    assert!(submitted[0].ends_with("] alone [end]"), "{submitted:?}");
}

fn no_message_comes_twice_because_a_menu_stays_open() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "");
    terminal.submit("/model");
    terminal.wait_for_screen("Select model");
    // Longer than the hook's text was waited for.
    let command = "send --to peer -m once --wait --timeout 7";
    let words: Vec<&str> = command.split(' ').collect();
    let sent = stage.cbroker(&words).output().unwrap();
    assert_eq!(sent.status.code(), Some(4), "{sent:?}");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "reminder [cbroker peer message");
    let said = stage.send("peer", "afterwards", &["--wait"]);
    assert!(said.contains("delivered"), "{said}");
    let log = stage.text("agent.log");
    assert_eq!(
        log.matches("] once [end]").count(),
        2,
        "accepted and read: {log}"
    );
    assert!(!log.contains("(possible repeat) once"), "{log}");
}

fn no_text_that_an_unready_agent_ignored_is_acked() {
    let stage = Stage::new();
    stage.send("peer", "too early", &[]);
    let terminal = stage.wrap(&[], &["gemini"]);
    wait_for_hold(&stage, "your input box holds a message");
    assert!(stage.says(&["list"]).contains(" stuck"));
    none(&stage, "submitted");
    std::fs::write(stage.path("go"), "").unwrap();
    terminal.keys(b"\r");
    wait_for_log(&stage, "(possible repeat) too early [end]");
    wait_for("its proof", || {
        stage.text("home/logs/peer.log").contains("delivered ")
    });
    wait_for("the end of the state", || {
        stage.says(&["list"]).contains(" idle")
    });
}

fn no_text_that_a_start_dropped_is_acked() {
    // It was in the line, and Enter emptied the line: that was taken for the turn's beginning.
    let stage = Stage::new();
    stage.send("peer", "too early", &[]);
    let _terminal = stage.wrap(&KEYBOARD, &["codex"]);
    wait_for_log(&stage, "dropped [cbroker peer message");
    wait_for("the reason", || {
        let log = stage.text("home/logs/peer.log");
        log.contains("the agent does not show what was typed")
    });
    wait_for_log(&stage, "(possible repeat) too early [end]");
    wait_for("its proof", || {
        stage.text("home/logs/peer.log").contains("delivered ")
    });
    assert_eq!(log_lines(&stage, "dropped").len(), 1);
    assert_eq!(log_lines(&stage, "submitted").len(), 1);
}

fn no_agent_that_ignores_the_hang_up_outlives_a_wrap_that_is_killed() {
    // It went on without a terminal, and what listened in it could be reached by nobody.
    let stage = Stage::new();
    let mut terminal = ready(&stage, &[], "stubborn");
    terminal.wait_for_start();
    let pid = agents_pid(&stage);
    terminal.signal(Signal::KILL);
    wait_for_log(&stage, "stays");
    wait_for("its end", || !is_alive(pid.parse().unwrap()));
}

fn no_prompt_that_a_hook_refused_is_acked_and_none_leaves_the_agent_busy() {
    // With the transcript's row or without it: whichever sign comes first.
    let reason = "your agent refused it";
    for (options, quirks) in [
        (&KEYBOARD[..], "refuse"),
        (&[], "refuse"),
        (&["--delivery", "inbox"], "refuse inbox"),
        (&[], "refuse plugin"),
        (&KEYBOARD, "refuse untold"),
        (&[], "refuse untold"),
    ] {
        let stage = Stage::new();
        let _terminal = ready(&stage, options, quirks);
        stage.send("peer", "REFUSE this", &[]);
        wait_for_hold(&stage, reason);
        wait_for_listed(&stage, " idle");
        let said = stage.send("peer", "take this", &["--wait"]);
        assert!(said.contains("delivered"), "{said}");
        assert!(stage.says(&["inbox", "peer"]).contains("REFUSE this"));
        none(
            &stage,
            "submitted [cbroker peer message from=tester id=REFUSE",
        );
    }
}

fn no_message_is_lost_with_a_wrap_that_is_killed_after_its_enter() {
    let stage = Stage::new();
    let mut terminal = ready(&stage, &KEYBOARD, "deaf");
    terminal.wait_for_start();
    stage.send("peer", "not read", &[]);
    wait_for_log(&stage, "took [cbroker");
    wait_for_hand_over(&stage);
    terminal.signal(Signal::KILL);
    wait_for("the message in its queue", || stage.waiting("peer") == 1);
    let _terminal = claude(&stage, &KEYBOARD, "");
    wait_for_log(&stage, "] (possible repeat) not read [end]");
}

fn without_hooks_the_agents_own_files_say_what_it_has_read() {
    // Claude Code with `--bare`: a box that was empty after Enter counted as read.
    let bare = |stage: &Stage, quirks: &str| {
        let command = [&[CBROKER, "--name", "peer"][..], &["claude", "--bare"]].concat();
        let terminal = stage.terminal_with(&command, &[("AGENT", quirks)]);
        wait_for_log(stage, "started");
        terminal
    };
    let stage = Stage::new();
    let mut terminal = bare(&stage, "nohooks registers forgetful");
    terminal.wait_for_start();
    stage.send("peer", "SLOW3000 not read", &[]);
    wait_for_log(&stage, "submitted [cbroker");
    wait_for_hand_over(&stage);
    terminal.signal(Signal::KILL);
    wait_for("the message in its queue", || stage.waiting("peer") == 1);
    let _terminal = bare(&stage, "nohooks registers");
    wait_for_log(&stage, "] (possible repeat) SLOW3000 not read [end]");
    wait_for("the proof", || {
        stage.text("home/logs/peer.log").contains("(keyboard)") && stage.waiting("peer") == 0
    });
}

fn no_message_is_lost_with_an_agent_that_is_killed_after_its_enter() {
    for (options, quirks, taken) in [
        (&KEYBOARD[..], "deaf", "took [cbroker"),
        (&[], "plugin forgetful", "plugin [cbroker"),
        (&["--delivery", "inbox"], "inbox deaf", "took [cbroker"),
    ] {
        let stage = Stage::new();
        let mut terminal = ready(&stage, options, quirks);
        stage.send("peer", "not read", &[]);
        wait_for_log(&stage, taken);
        wait_for_hand_over(&stage);
        kill_agent(&stage);
        let end = terminal.wait_for_end();
        assert_eq!(end, ChildStatus::Exited(128 + 9), "{quirks}");
        wait_for("the message in its queue", || {
            stage.consumers("peer") == 0 && stage.waiting("peer") == 1
        });
        let _terminal = claude(&stage, &KEYBOARD, "");
        wait_for_log(&stage, "] (possible repeat) not read [end]");
    }
}

fn no_session_stays_busy_after_a_last_frame_that_says_so() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "stops");
    let submit = || terminal.submit("hello");
    stage.wait_for_presence(submit, |said| said["state"] == "idle");
    wait_for_log(&stage, "turn ended");
    wait_for_listed(&stage, " idle");
}

fn no_open_dialog_is_told_as_busy() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "");
    terminal.submit("please ASK{something}");
    terminal.wait_for_screen("Do you want to proceed?");
    wait_for_listed(&stage, "needs you: permission for Bash");
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "rejected");
    wait_for_listed(&stage, " idle");
}

fn no_message_that_only_waited_is_marked_as_a_repeat() {
    // The intent to hand it over was on disk, and what became of that was not.
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "plugin"], "plugin");
    terminal.submit("work SLOW3000");
    wait_for_log(&stage, "submitted work");
    stage.send("peer", "not read", &[]);
    wait_for_log(&stage, "asked to submit [cbroker");
    terminal.keys(b"\x1b");
    wait_for_hold(&stage, "you pressed Escape");
    terminal.close();
    wait_for("the message in its queue", || {
        stage.consumers("peer") == 0 && stage.waiting("peer") == 1
    });
    let _terminal = claude(&stage, &KEYBOARD, "");
    wait_for_log(&stage, "submitted [cbroker peer message");
    let submitted = log_lines(&stage, "submitted [cbroker");
    assert!(submitted[0].ends_with("] not read [end]"), "{submitted:?}");
    assert!(!submitted[0].contains("(possible repeat)"), "{submitted:?}");
}

fn no_answer_of_the_terminal_that_is_cut_holds_a_message() {
    let stage = Stage::new();
    let script = "stty raw -echo; echo ready; cat > $STAGE/got";
    let terminal = stage.wrap(&KEYBOARD, &["sh", "-c", script]);
    terminal.wait_for("ready");
    for (sent, part) in [
        ("\x1b]", "\x1b]"),
        ("11;rgb:0000/0000/0000\x07", "0000\x07"),
    ] {
        terminal.keys(sent.as_bytes());
        wait_for("the program to have it", || {
            stage.text("got").ends_with(part)
        });
    }
    stage.send("peer", "no draft", &[]);
    wait_for("the message", || {
        stage.text("got").contains("] no draft [end]")
    });
}

fn nothing_is_typed_into_an_agent_that_says_of_itself_that_it_is_busy() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &KEYBOARD, "");
    let folder = stage.path("claude-folder/sessions");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{}.json", agents_pid(&stage)));
    let say = |status: &str| {
        // Claude Code's reader sees the old text or the new one, never a part.
        let new = stage.path("status.new");
        std::fs::write(&new, status).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    for (status, reason) in [
        (r#"{"status":"busy"}"#, "busy"),
        (
            r#"{"status":"waiting","waitingFor":"permission prompt"}"#,
            "needs you: permission prompt",
        ),
    ] {
        say(status);
        if status.contains("busy") {
            stage.send("peer", "at rest", &[]);
        }
        wait_for_hold(&stage, reason);
        none(&stage, "submitted");
    }
    say(r#"{"status":"idle"}"#);
    wait_for_log(&stage, "submitted [cbroker peer message");
}

fn a_text_that_the_program_never_read_is_back_in_its_queue() {
    // It was acked when its Enter was written.
    let stage = Stage::new();
    let script = "stty raw -echo; printf '\\033[?2004hready'; \
         while [ ! -e $STAGE/go ]; do sleep 0.05; done";
    let mut terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", script]);
    terminal.wait_for("ready");
    stage.send("peer", "unread", &[]);
    wait_for_hand_over(&stage);
    std::fs::write(stage.path("go"), "").unwrap();
    terminal.wait_for_end();
    wait_for("the message in its queue", || {
        stage.consumers("peer") == 0 && stage.waiting("peer") == 1
    });
    let _terminal = stage.sink(&[]);
    let arrived = stage.wait_for_messages(1);
    assert!(
        arrived[0].contains("(possible repeat) unread"),
        "{arrived:?}"
    );
}
