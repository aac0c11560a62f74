//! What executes its input is not typed into, however it was started.
//!
//! The command line at the start says little: a launcher becomes a shell, or has one as its child.
//! What the terminal's foreground runs is looked at when a text is about to be typed.

use cbroker::wrap::monitor::ChildStatus;

use crate::stage::{CBROKER, Stage, Terminal, body, exists, wait_for};

crate::tests![
    a_shell_in_place_of_its_launcher_is_not_typed_into,
    a_shell_started_by_setpriv_is_not_typed_into,
    a_shell_on_another_terminal_of_its_launcher_is_not_typed_into,
    a_shell_in_a_wrap_within_the_wrap_is_not_typed_into,
    a_shell_that_follows_the_program_is_not_typed_into,
    pythons_prompts_are_not_typed_into,
    a_program_behind_a_launcher_is_typed_into,
];

/// Sends texts that a shell would execute. They are held, with this program as the reason.
fn holds_back(stage: &Stage, terminal: &Terminal, program: &str) {
    let touched = stage.path("F");
    for (number, text) in [
        format!("; touch {}", touched.display()),
        format!("$(touch {})", touched.display()),
    ]
    .iter()
    .enumerate()
    {
        stage.publish("peer", &body(&format!("m{number}"), text));
    }
    let reason = format!("{program} executes what is typed");
    wait_for(
        &format!("`{reason}`; the screen is\n{}", terminal.screen()),
        || stage.says(&["inbox", "peer"]).matches(&reason).count() == 2,
    );
    assert!(!exists(&touched));
    assert!(
        !terminal.shown().contains("peer message"),
        "{}",
        terminal.screen()
    );
}

/// A wrap that may type, around a shell that waits for commands.
fn shell(stage: &Stage, launcher: &[&str]) -> Terminal {
    let terminal = stage.wrap(&["--delivery", "pty"], launcher);
    terminal.keys(b"echo it is $((40+2))\r");
    terminal.wait_for("it is 42");
    terminal
}

fn a_shell_in_place_of_its_launcher_is_not_typed_into() {
    let stage = Stage::new();
    let terminal = shell(&stage, &["bash", "-c", "exec bash --norc"]);
    holds_back(&stage, &terminal, "bash");
}

fn a_shell_started_by_setpriv_is_not_typed_into() {
    let stage = Stage::new();
    let launcher = ["sh", "-c", "setpriv --no-new-privs bash --norc; true"];
    let terminal = shell(&stage, &launcher);
    holds_back(&stage, &terminal, "bash");
}

fn a_shell_on_another_terminal_of_its_launcher_is_not_typed_into() {
    let stage = Stage::new();
    let launcher = ["sh", "-c", "socat - EXEC:bash,pty,setsid; true"];
    let terminal = shell(&stage, &launcher);
    holds_back(&stage, &terminal, "");
}

fn a_shell_in_a_wrap_within_the_wrap_is_not_typed_into() {
    let stage = Stage::new();
    let inner = [CBROKER, "--name", "inner", "run", "--", "bash", "--norc"];
    let terminal = shell(&stage, &inner);
    holds_back(&stage, &terminal, "");
}

fn a_shell_that_follows_the_program_is_not_typed_into() {
    let stage = Stage::new();
    let script = "sink $STAGE/sink.txt; exec bash --norc";
    let terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", script]);
    terminal.wait_for("sink is ready");
    stage.publish("peer", &body("first", "for the program"));
    stage.wait_for_messages(1);
    terminal.keys(b"\x03");
    terminal.wait_for("\x1b[?2004l");
    let shown = terminal.output().len();
    terminal.keys(b"stty sane; echo it is $((40+2))\r");
    terminal.wait_for("it is 42");
    let touched = stage.path("F");
    let text = format!("; touch {}", touched.display());
    stage.publish("peer", &body("second", &text));
    wait_for("a hold", || {
        stage
            .says(&["inbox", "peer"])
            .contains("bash executes what is typed")
    });
    assert!(!exists(&touched));
    let since = String::from_utf8_lossy(&terminal.output()[shown..]).into_owned();
    assert!(!since.contains("peer message"), "{since}");
}

fn pythons_prompts_are_not_typed_into() {
    let stage = Stage::new();
    for module in ["code", "asyncio"] {
        let arguments = [
            "--name",
            "peer",
            "--delivery",
            "pty",
            "run",
            "--",
            "python3",
            "-m",
        ];
        let output = stage
            .cbroker(&[&arguments[..], &[module]].concat())
            .output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{module}");
        let script = format!("python3 -m {module}; true");
        let mut terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", &script]);
        terminal.wait_for(">>> ");
        stage.publish("peer", &body(module, "__import__('os').system('touch F')"));
        wait_for("a hold", || {
            let held = stage.says(&["inbox", "peer"]);
            held.contains("python") && held.contains(" executes what is typed")
        });
        assert!(
            !terminal.shown().contains("peer message"),
            "{}",
            terminal.screen()
        );
        stage.says(&["inbox", "peer", "--take"]);
        terminal.keys(b"\x04");
        assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    }
}

fn a_program_behind_a_launcher_is_typed_into() {
    let stage = Stage::new();
    let script = "setpriv --no-new-privs sink $STAGE/sink.txt; true";
    let terminal = stage.wrap(&["--delivery", "pty"], &["bash", "-c", script]);
    terminal.wait_for("sink is ready");
    stage.publish("peer", &body("m", "hello"));
    assert!(stage.wait_for_messages(1)[0].contains("hello"));
}
