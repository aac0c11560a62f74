//! The program runs whatever happens to what is ours: its home, its disk, its configuration.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cbroker::wrap::monitor::ChildStatus;
use serde_json::json;

use crate::stage::{CBROKER, Stage, wait_for};

crate::tests![
    a_configuration_that_cannot_be_read_keeps_nobody_from_working,
    a_home_that_is_a_file_keeps_nobody_from_working,
    a_home_on_a_full_or_read_only_disk_keeps_nobody_from_working,
    whoever_wants_no_program_without_messages_gets_none,
    a_known_agent_is_wrapped_without_the_word_run,
    a_probe_says_which_signals_an_agent_gives,
    a_probe_says_what_an_agent_asks_instead_of_its_prompt,
    a_probe_tries_a_send_inside_the_sandbox_that_the_settings_switch_on,
    a_probe_runs_no_program_that_the_folder_names,
    a_probe_of_an_agent_with_a_line_tells_its_prompt_and_whether_a_send_works,
];

const PROGRAM: [&str; 3] = ["sh", "-c", "echo it ran; exit 5"];

/// The program runs in a terminal and without one, and the person hears why it gets no messages.
fn runs_and_says(stage: &Stage, why: &str) {
    let mut terminal = stage.wrap(&[], &PROGRAM);
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(5));
    for part in ["runs without messages", why, "it ran"] {
        terminal.wait_for(part);
    }
    let arguments = [&["--name", "peer", "run", "--"][..], &PROGRAM].concat();
    let output = stage.cbroker(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(output.stdout, b"it ran\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains(why) && said.contains("runs without messages"),
        "{said}"
    );
}

fn a_configuration_that_cannot_be_read_keeps_nobody_from_working() {
    let stage = Stage::new();
    stage.configure("autostrat = true\n");
    runs_and_says(&stage, "config.toml line 1: unknown field");
}

fn a_home_that_is_a_file_keeps_nobody_from_working() {
    let stage = Stage::new();
    std::fs::write(stage.path("home"), "").unwrap();
    runs_and_says(&stage, "home");
}

fn whoever_wants_no_program_without_messages_gets_none() {
    let stage = Stage::new();
    stage.configure("autostrat = true\n");
    let arguments = [
        &["--name", "peer", "--no-fallback", "run", "--"][..],
        &PROGRAM,
    ]
    .concat();
    let output = stage.cbroker(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout, b"");
}

fn a_home_on_a_full_or_read_only_disk_keeps_nobody_from_working() {
    let alone = ["--map-root-user", "--mount"];
    let may_mount = Command::new("unshare").args(alone).arg("true").output();
    if !may_mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespaces here");
        return;
    }
    let full = "mount -t tmpfs -o size=64k none $CBROKER_HOME && mkdir $CBROKER_HOME/sessions \
        && head -c 1M /dev/zero 2>/dev/null > $CBROKER_HOME/fill";
    let read_only = "mount -t tmpfs -o ro none $CBROKER_HOME";
    for setup in [full, read_only] {
        let stage = Stage::new();
        std::fs::create_dir(stage.path("home")).unwrap();
        let script = format!(
            "({setup}); df $CBROKER_HOME | grep -q ^none || exit 99; \
             exec {CBROKER} --name peer run -- sh -c 'echo it ran; exit 5'"
        );
        let command = [&["unshare"][..], &alone, &["sh", "-c", &script]].concat();
        let mut terminal = stage.terminal(&command);
        assert_eq!(
            terminal.wait_for_end(),
            ChildStatus::Exited(5),
            "{}",
            terminal.shown()
        );
        terminal.wait_for("runs without messages");
        terminal.wait_for("it ran");
    }
}

fn a_known_agent_is_wrapped_without_the_word_run() {
    let stage = Stage::new();
    for agent in ["codex", "gemini"] {
        let _terminal = stage.terminal(&[CBROKER, "--name", agent, agent]);
        wait_for("its row", || {
            let list = stage.says(&["list"]);
            let row = list.lines().find(|row| row.starts_with(agent));
            row.is_some_and(|row| row.ends_with(agent))
        });
    }
    // What is no agent needs the word.
    let output = stage.cbroker(&["--name", "peer", "sink"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}

/// What `doctor --probe` says of the agent that this stage calls `claude`.
fn probed(stage: &Stage, quirks: &str) -> String {
    probed_of(stage, "claude", quirks)
}

fn probed_of(stage: &Stage, agent: &str, quirks: &str) -> String {
    let mut doctor = stage.cbroker(&["doctor", "--probe", agent]);
    doctor.env("AGENT", quirks).env("HOME", stage.path("user"));
    doctor.env_remove("CODEX_HOME");
    let output = doctor.output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn a_probe_says_which_signals_an_agent_gives() {
    let stage = Stage::new();
    let said = probed(&stage, "");
    for line in [
        "✓ paste        bracketed paste",
        "✓ prompt       empty, looks as in claude",
        "✓ title        \"✳ Claude Code\"",
        "✓ hooks        the hook SessionStart",
        "✓ second way   a waiting hook can deliver messages without the keyboard",
        "✓ send         ",
    ] {
        assert!(said.contains(line), "no `{line}` in\n{said}");
    }
}

fn a_probe_says_what_an_agent_asks_instead_of_its_prompt() {
    let stage = Stage::new();
    let said = probed(&stage, "trust");
    assert!(
        said.contains("✗ prompt       a dialog is open instead: "),
        "{said}"
    );
}

/// The line about the sign `send` of a probe, where this script is `bwrap`.
fn send_by(stage: &Stage, bwrap: &str) -> String {
    let path = stage.path("bwrap");
    std::fs::write(&path, format!("#!/bin/sh\n{bwrap}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let said = probed(stage, "");
    let line = said.lines().find(|line| line.contains("`cbroker send`"));
    line.unwrap_or_else(|| panic!("no sign `send` in\n{said}"))
        .to_owned()
}

fn a_probe_tries_a_send_inside_the_sandbox_that_the_settings_switch_on() {
    const RUNS: &str = r#"echo "$@" >> $STAGE/bwrapped
while [ "$1" != -- ]; do shift; done
shift
"#;
    let stage = Stage::new();
    let settings = stage.path("user/.claude/settings.json");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let switch_on = |more: &str| {
        let text = format!(r#"{{"sandbox": {{"enabled": true{more}}}}}"#);
        std::fs::write(&settings, text).unwrap();
    };
    switch_on("");
    let by = format!("`sandbox.enabled` in {}", settings.display());
    let inside = format!("tried inside bwrap without network, as {by} has it");
    let let_through = send_by(&stage, &format!("{RUNS}exec \"$@\""));
    assert!(let_through.contains("✓ send"), "{let_through}");
    assert!(let_through.contains(&inside), "{let_through}");
    let bwrapped = stage.text("bwrapped");
    assert!(bwrapped.contains("--unshare-net"), "{bwrapped}");
    // As without a network: nothing answers at the broker's address.
    let dead = "export CBROKER_URL=amqp://tester:secret@127.0.0.1:1";
    let shut_in = send_by(&stage, &format!("{RUNS}{dead}\nexec \"$@\""));
    assert!(shut_in.contains("✗ send"), "{shut_in}");
    assert!(shut_in.contains(&inside), "{shut_in}");
    let tried = stage.text("bwrapped");
    switch_on(r#", "excludedCommands": ["cbroker send:*"]"#);
    let excepted = send_by(&stage, RUNS);
    assert!(excepted.contains("✓ send"), "{excepted}");
    assert!(
        excepted.contains("`sandbox.excludedCommands`"),
        "{excepted}"
    );
    assert_eq!(stage.text("bwrapped"), tried, "it needs no sandbox");
    switch_on("");
    let useless = "echo 'bwrap: no permissions to create a namespace' >&2; exit 1";
    std::fs::write(stage.path("bwrap"), format!("#!/bin/sh\n{useless}\n")).unwrap();
    let said = probed(&stage, "");
    let not_tried = format!("not tried: the agent's sandbox is on ({by}), and bwrap: no perm");
    assert!(said.contains(&not_tried), "{said}");
}

fn a_probe_runs_no_program_that_the_folder_names() {
    let stage = Stage::new();
    let tool = stage.path("tool");
    std::fs::write(&tool, "#!/bin/sh\nenv > \"$STAGE/environment\"\n").unwrap();
    std::fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
    let settings = json!({"sandbox": {"enabled": true, "bwrapPath": tool}}).to_string();
    let probe_with = |file: &str| {
        let file = stage.path(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &settings).unwrap();
        let mut doctor = stage.cbroker(&["doctor", "--probe", "claude"]);
        doctor.current_dir(stage.path("repository"));
        doctor.env("HOME", stage.path("user"));
        doctor.env("CBROKER_MGMT_URL", "https://ada:hush@api.example/x");
        doctor.env("CBROKER_MGMT_PASS", "hush");
        doctor.output().unwrap();
        std::fs::remove_file(&file).unwrap();
        stage.text("environment")
    };
    for name in ["settings.json", "settings.local.json"] {
        let environment = probe_with(&format!("repository/.claude/{name}"));
        assert_eq!(environment, "", "{name}");
    }
    // The person's own settings may name it, and it gets no password.
    let environment = probe_with("user/.claude/settings.json");
    assert!(environment.contains("CBROKER_MGMT_URL=https://api.example/x\n"));
    assert!(!environment.contains("hush"), "{environment}");
    assert!(!environment.contains(":secret@"), "{environment}");
}

fn a_probe_of_an_agent_with_a_line_tells_its_prompt_and_whether_a_send_works() {
    let stage = Stage::new();
    let gemini = probed_of(&stage, "gemini", "");
    for line in [
        "✓ prompt       empty, looks as in gemini",
        "✓ send         `cbroker send` arr",
    ] {
        assert!(gemini.contains(line), "no `{line}` in\n{gemini}");
    }
    // It stood in the conversation as a message to a session.
    let told = stage.says(&["history"]);
    assert!(!told.contains("a probe"), "{told}");
    let codex = probed_of(&stage, "codex", "");
    assert!(
        codex.contains("✗ send         not tried: Codex's sandbox"),
        "{codex}"
    );
    assert!(
        codex.contains("sandbox_workspace_write.network_access"),
        "{codex}"
    );
    let settings = stage.path("user/.codex/config.toml");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    std::fs::write(&settings, "sandbox_mode = \"danger-full-access\"\n").unwrap();
    let codex = probed_of(&stage, "codex", "");
    assert!(
        codex.contains("✓ send         `cbroker send` arrives"),
        "{codex}"
    );
}
