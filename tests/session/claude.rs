//! The rules of docs/delivery.md, seen from outside: a wrap around an agent that looks and behaves
//! like Claude Code.

use std::time::{Duration, Instant};

use cbroker::wrap::monitor::ChildStatus;

use crate::process::all_arguments;
use crate::stage::{CBROKER, LIMIT, Stage, Terminal, exists, wait_for};

crate::tests![
    at_a_free_prompt_a_message_is_submitted_once_and_alone,
    a_dialog_is_never_answered_by_a_message,
    a_draft_stays_and_the_hook_carries_the_message_in,
    a_running_turn_is_not_disturbed_from_the_keyboard,
    in_shell_mode_nothing_is_typed,
    keys_during_an_injection_come_after_it,
    a_slow_agent_gets_its_enter_when_it_has_drawn,
    an_enter_that_was_lost_is_pressed_once_more,
    messages_that_waited_at_the_start_are_all_submitted,
    a_text_that_was_swallowed_comes_again_and_says_so,
    a_message_of_a_killed_wrap_is_back_in_its_queue_and_says_so,
    what_stands_in_no_transcript_did_not_arrive,
    a_message_that_was_accepted_but_not_read_is_not_lost_with_the_agent,
    one_waiter_waits_and_no_more,
    unbriefed_and_allowed_to_send,
    without_hooks_the_screen_decides,
    the_agents_own_arguments_are_kept,
    an_agent_that_suspends_itself_is_continued_with_the_wrap,
    the_hooks_end_with_the_session,
    a_run_that_answers_gets_its_arguments_untouched,
];

pub(crate) fn claude(stage: &Stage, options: &[&str], quirks: &str) -> Terminal {
    let command = [&[CBROKER, "--name", "peer"], options, &["claude"]].concat();
    stage.terminal_with(&command, &[("AGENT", quirks)])
}

pub(crate) fn ready(stage: &Stage, options: &[&str], quirks: &str) -> Terminal {
    let terminal = claude(stage, options, quirks);
    wait_for_log(stage, "started");
    terminal
}

pub(crate) fn wait_for_log(stage: &Stage, text: &str) {
    wait_for(&format!("`{text}` in the agent's log"), || {
        stage.text("agent.log").contains(text)
    });
}

pub(crate) fn log_lines(stage: &Stage, word: &str) -> Vec<String> {
    stage
        .text("agent.log")
        .lines()
        .filter(|line| line.starts_with(word))
        .map(str::to_owned)
        .collect()
}

pub(crate) fn wait_for_hold(stage: &Stage, reason: &str) {
    wait_for_output(stage, &["inbox", "peer"], reason);
}

/// Waits until `cbroker list` says this of the session.
pub(crate) fn wait_for_listed(stage: &Stage, state: &str) {
    wait_for_output(stage, &["list"], state);
}

/// Waits until this command of `cbroker` prints the text.
fn wait_for_output(stage: &Stage, command: &[&str], text: &str) {
    let until = Instant::now() + LIMIT;
    loop {
        let output = stage.cbroker(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains(text) {
            return;
        }
        assert!(
            Instant::now() < until,
            "waited in vain for `{text}` from {command:?}, which says\n{said}{}\n\
             the session's log:\n{}\nthe agent's log:\n{}",
            String::from_utf8_lossy(&output.stderr),
            stage.text("home/logs/peer.log"),
            stage.text("agent.log")
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn at_a_free_prompt_a_message_is_submitted_once_and_alone() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &["--delivery", "pty"], "");
    let said = stage.send("peer", "hello", &["--wait", "--timeout", "120"]);
    assert!(said.contains("delivered (keyboard)"), "{said}");
    let submitted = log_lines(&stage, "submitted");
    assert_eq!(submitted.len(), 1, "{submitted:?}");
    assert!(submitted[0].ends_with("] hello [end]"), "{submitted:?}");
}

fn a_dialog_is_never_answered_by_a_message() {
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "pty"], "");
    terminal.submit("please ASK{danger}");
    terminal.wait_for_screen("Do you want to proceed?");
    stage.send("peer", "1", &[]);
    wait_for_hold(&stage, "needs you: permission for Bash");
    assert!(!stage.text("agent.log").contains("approved"));
    terminal.keys(b"\x1b");
    wait_for_log(&stage, "rejected danger");
    wait_for_log(&stage, "] 1 [end]");
    assert!(!stage.text("agent.log").contains("approved"));
}

fn a_draft_stays_and_the_hook_carries_the_message_in() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "");
    terminal.keys(b"half a draft");
    terminal.wait_for_screen("half a draft");
    let said = stage.send("peer", "by the hook", &["--wait", "--timeout", "120"]);
    assert!(said.contains("delivered (hook)"), "{said}");
    wait_for_log(&stage, "reminder [cbroker peer message");
    assert_eq!(log_lines(&stage, "submitted"), Vec::<String>::new());
    terminal.wait_for_screen("❯ half a draft");
}

fn a_running_turn_is_not_disturbed_from_the_keyboard() {
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "pty"], "");
    terminal.submit("work SLOW20");
    terminal.wait_for_screen("esc to interrupt");
    stage.send("peer", "meanwhile", &[]);
    wait_for_log(&stage, "] meanwhile [end]");
    let log = stage.text("agent.log");
    let (before, _) = log.split_once("] meanwhile [end]").unwrap();
    assert!(before.contains("turn ended"), "{log}");
}

fn in_shell_mode_nothing_is_typed() {
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "pty"], "");
    terminal.keys(b"!");
    terminal.wait_for_screen("! ");
    let touched = stage.path("F");
    stage.send("peer", &format!("; touch {}", touched.display()), &[]);
    wait_for_hold(&stage, "shell mode");
    terminal.keys(b"\x7f");
    wait_for_log(&stage, "[cbroker peer message");
    assert_eq!(log_lines(&stage, "shell"), Vec::<String>::new());
    assert!(!exists(&touched));
}

fn keys_during_an_injection_come_after_it() {
    let stage = Stage::new();
    let terminal = ready(&stage, &["--delivery", "pty"], "slow");
    stage.send("peer", "first", &[]);
    terminal.wait_for("first [end]");
    // Pasted, drawn late: these keys fall between the text and its Enter, or behind it.
    terminal.keys(b"mine");
    wait_for_log(&stage, "submitted");
    terminal.wait_for_screen("❯ mine");
    let submitted = log_lines(&stage, "submitted");
    assert!(
        submitted.len() == 1 && submitted[0].ends_with("] first [end]"),
        "{submitted:?}"
    );
}

fn a_slow_agent_gets_its_enter_when_it_has_drawn() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &["--delivery", "pty"], "slow");
    let said = stage.send("peer", "patience", &["--wait", "--timeout", "120"]);
    assert!(said.contains("delivered (keyboard)"), "{said}");
    assert_eq!(log_lines(&stage, "submitted").len(), 1);
}

fn an_enter_that_was_lost_is_pressed_once_more() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &["--delivery", "pty"], "lost");
    let said = stage.send("peer", "twice", &["--wait", "--timeout", "120"]);
    assert!(said.contains("delivered (keyboard)"), "{said}");
    let submitted = log_lines(&stage, "submitted");
    assert!(
        submitted.len() == 1 && submitted[0].ends_with("] twice [end]"),
        "{submitted:?}"
    );
}

fn messages_that_waited_at_the_start_are_all_submitted() {
    let stage = Stage::new();
    for number in 0..3 {
        stage.send("peer", &format!("waited {number}"), &[]);
    }
    let _terminal = claude(&stage, &["--delivery", "pty", "--batch", "1"], "late");
    wait_for_log(&stage, "] waited 2 [end]");
    let submitted = log_lines(&stage, "submitted");
    assert_eq!(submitted.len(), 3, "{submitted:?}");
    for (number, line) in submitted.iter().enumerate() {
        assert!(
            line.ends_with(&format!("] waited {number} [end]")),
            "{submitted:?}"
        );
    }
}

fn without_hooks_the_screen_decides() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &[], "nohooks notitle");
    stage.send("peer", "by the screen", &[]);
    wait_for_log(&stage, "] by the screen [end]");
    assert_eq!(log_lines(&stage, "submitted").len(), 1);
    let log = stage.text("home/logs/peer.log");
    assert!(log.contains("using the screen only"), "{log}");
}

fn a_text_that_was_swallowed_comes_again_and_says_so() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &["--delivery", "pty"], "swallow");
    let said = stage.send("peer", "swallowed", &["--wait", "--timeout", "120"]);
    assert!(
        said.contains("held: the agent does not show what was typed"),
        "{said}"
    );
    wait_for_log(&stage, "submitted");
    let submitted = log_lines(&stage, "submitted");
    assert_eq!(submitted.len(), 1, "{submitted:?}");
    assert!(
        submitted[0].ends_with("] (possible repeat) swallowed [end]"),
        "{submitted:?}"
    );
}

fn a_message_of_a_killed_wrap_is_back_in_its_queue_and_says_so() {
    let stage = Stage::new();
    let mut terminal = ready(&stage, &["--delivery", "pty"], "swallow");
    terminal.wait_for_start();
    stage.send("peer", "cut off", &[]);
    wait_for("the intent on disk", || {
        stage.text("home/sessions/peer.seen").contains("intent ")
    });
    terminal.signal(rustix::process::Signal::KILL);
    wait_for("the message in its queue", || stage.waiting("peer") == 1);
    let _terminal = claude(&stage, &["--delivery", "pty"], "");
    wait_for_log(&stage, "] (possible repeat) cut off [end]");
}

fn what_stands_in_no_transcript_did_not_arrive() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "forgetful");
    terminal.keys(b"half a draft");
    terminal.wait_for_screen("half a draft");
    stage.send("peer", "unseen", &[]);
    wait_for("the hook to be given up", || {
        let log = stage.text("home/logs/peer.log");
        log.contains("switched off after failures: hook")
    });
    assert_eq!(stage.says(&["inbox", "peer"]).matches("draft").count(), 1);
    terminal.keys(b"\x15");
    wait_for_log(&stage, "submitted [cbroker peer message");
    let submitted = log_lines(&stage, "submitted");
    assert!(
        submitted[0].ends_with("] (possible repeat) unseen [end]"),
        "{submitted:?}"
    );
}

fn a_message_that_was_accepted_but_not_read_is_not_lost_with_the_agent() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "");
    terminal.submit("please ASK{something}");
    terminal.wait_for_screen("Do you want to proceed?");
    stage.send("peer", "not read yet", &[]);
    wait_for_log(&stage, "accepted [cbroker peer message");
    // Another waits behind it in vain: time enough for an ack that comes too early.
    let behind = [
        "send",
        "--to",
        "peer",
        "-m",
        "behind",
        "--wait",
        "--timeout",
        "2",
    ];
    let said = stage.cbroker(&behind).output().unwrap();
    assert_eq!(said.status.code(), Some(4));
    terminal.close();
    wait_for("the message in its queue", || {
        stage.consumers("peer") == 0 && stage.waiting("peer") == 2
    });
    let _terminal = claude(&stage, &["--delivery", "pty"], "");
    wait_for_log(&stage, "] (possible repeat) not read yet [end]");
}

fn one_waiter_waits_and_no_more() {
    let stage = Stage::new();
    let terminal = ready(&stage, &[], "");
    for line in ["one", "two", "three"] {
        terminal.submit(line);
        wait_for_log(&stage, &format!("submitted {line}"));
        wait_for(&format!("the end of `{line}`"), || {
            log_lines(&stage, "turn ended").len() == log_lines(&stage, "submitted").len()
        });
    }
    wait_for("a single waiter", || waiters(&stage) == 1);
}

fn unbriefed_and_allowed_to_send() {
    let stage = Stage::new();
    let _terminal = ready(&stage, &["--no-brief", "--allow-send"], "");
    let log = stage.text("agent.log");
    assert!(!log.contains("--append-system-prompt"), "{log}");
    assert!(log.contains("Bash(cbroker send:*)"), "{log}");
    assert!(!stage.text("home/logs/peer.log").contains("--allow-send"));
    let stage = Stage::new();
    let _terminal = ready(&stage, &[], "");
    assert!(!stage.text("agent.log").contains("Bash(cbroker send:*)"));
    assert!(stage.text("home/logs/peer.log").contains("--allow-send"));
}

fn the_agents_own_arguments_are_kept() {
    let stage = Stage::new();
    let theirs =
        r#"{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"touch $STAGE/theirs"}]}]}}"#;
    let command = [
        CBROKER,
        "--name",
        "peer",
        "claude",
        "--settings",
        theirs,
        "--append-system-prompt",
        "be brief",
        "a prompt",
    ];
    let terminal = stage.terminal(&command);
    wait_for_log(&stage, "started");
    let arguments = stage.text("agent.log");
    assert!(
        arguments.contains("be brief\\n\\nYou run inside cbroker as the session `peer`"),
        "{arguments}"
    );
    assert!(arguments.contains("\"a prompt\"]"), "{arguments}");
    assert_eq!(arguments.matches("--settings").count(), 1, "{arguments}");
    terminal.submit("hello");
    wait_for("their own hook", || exists(&stage.path("theirs")));
}

fn an_agent_that_suspends_itself_is_continued_with_the_wrap() {
    let stage = Stage::new();
    let mut terminal = ready(&stage, &["--delivery", "pty"], "");
    terminal.wait_for_start();
    terminal.keys(b"\x1a");
    terminal.wait_for_report(|report| matches!(report, ChildStatus::Stopped(_)));
    assert!(!terminal.is_raw());
    stage.send("peer", "while away", &[]);
    terminal.foreground();
    wait_for_log(&stage, "] while away [end]");
}

fn the_hooks_end_with_the_session() {
    let stage = Stage::new();
    let mut terminal = ready(&stage, &[], "");
    terminal.submit("/exit");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    let socket = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".sock");
    let left = std::fs::read_dir(stage.path("home/sessions"))
        .unwrap()
        .flatten()
        .filter(|entry| socket(&entry.file_name()));
    assert_eq!(left.count(), 0);
    wait_for("the end of the waiters", || waiters(&stage) == 0);
}

/// Hooks of this stage that wait to carry a message in.
fn waiters(stage: &Stage) -> usize {
    let folder = stage.path("home").to_string_lossy().into_owned();
    // Where a shell or the agent has the line as an argument, the program is in quotation marks.
    let is_waiter =
        |line: &&String| line.contains("cbroker hook wait --socket ") && line.contains(&folder);
    all_arguments().iter().filter(is_waiter).count()
}

fn a_run_that_answers_gets_its_arguments_untouched() {
    let stage = Stage::new();
    let mut terminal = stage.terminal(&[CBROKER, "--name", "peer", "claude", "-p", "question"]);
    wait_for_log(&stage, "arguments [\"-p\", \"question\"]");
    assert_eq!(stage.consumers("peer"), 0, "messages stay in the queue");
    terminal.keys(b"\x04");
    terminal.wait_for_end();
}
