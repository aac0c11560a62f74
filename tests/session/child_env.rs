//! What the program finds around it: nothing that belongs to another session, and a search path
//! without folders of other users.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cbroker::wrap::monitor::ChildStatus;

use crate::stage::{CBROKER, Stage};

crate::tests![
    nothing_of_an_outer_session_reaches_the_program,
    the_program_gets_no_password_in_a_url,
    a_probed_agent_gets_no_password_and_nothing_of_an_outer_session,
    a_program_without_messages_is_not_taken_for_the_session_around_it,
    without_a_search_path_the_program_runs_and_finds_others,
    a_folder_that_others_can_write_to_is_not_searched,
    the_program_is_the_one_that_the_search_path_names,
];

/// What a Claude Code around the wrap, and the person's shell, may have set.
const OUTER: [(&str, &str); 7] = [
    ("CLAUDECODE", "1"),
    ("CLAUDE_CODE_SESSION_ID", "outer"),
    ("CLAUDE_CODE_MESSAGING_SOCKET", "/tmp/outer.sock"),
    ("CLAUDE_CODE_MESSAGING_TOKEN", "outer"),
    ("CLAUDE_CODE_MESSAGING_ANYTHING", "outer"),
    ("CLAUDE_PID", "1"),
    ("CBROKER_MGMT_PASS", "hush"),
];

fn nothing_of_an_outer_session_reaches_the_program() {
    // A Claude that was started in a hook or a tool of another took itself for a part of it.
    let stage = Stage::new();
    let environment = [&OUTER[..], &[("CLAUDE_CODE_USE_BEDROCK", "1")]].concat();
    let mut terminal = stage.wrap_with(&[], &["sh", "-c", "env; echo over"], &environment);
    terminal.wait_for("over");
    terminal.wait_for_end();
    let without_terminal = stage
        .cbroker(&["--name", "peer", "run", "--", "env"])
        .envs(environment)
        .output()
        .unwrap();
    for shown in [
        terminal.shown(),
        String::from_utf8_lossy(&without_terminal.stdout).into_owned(),
    ] {
        for (name, _) in OUTER {
            assert!(!shown.contains(&format!("{name}=")), "{name} in {shown}");
        }
        assert!(shown.contains("CLAUDE_CODE_USE_BEDROCK=1"), "{shown}");
    }
}

fn a_probed_agent_gets_no_password_and_nothing_of_an_outer_session() {
    let stage = Stage::new();
    let agent = stage.path("agent");
    std::fs::write(&agent, "#!/bin/sh\nenv > \"$STAGE/environment\"\n").unwrap();
    std::fs::set_permissions(&agent, Permissions::from_mode(0o755)).unwrap();
    let mut doctor = stage.cbroker(&["doctor", "--probe"]);
    doctor.arg(&agent).envs(OUTER);
    doctor.env("CBROKER_URL", "amqp://ada:hush@127.0.0.1:1/v");
    doctor.env("CBROKER_MGMT_URL", "https://ada:hush@api.example/x");
    doctor.output().unwrap();
    let environment = std::fs::read_to_string(stage.path("environment")).unwrap();
    assert!(environment.contains("CBROKER_URL=amqp://ada@127.0.0.1:1/v\n"));
    for outer in OUTER.map(|(name, _)| name).into_iter().chain(["hush"]) {
        assert!(!environment.contains(outer), "{outer} in {environment}");
    }
}

fn the_program_gets_no_password_in_a_url() {
    let stage = Stage::new();
    std::fs::write(stage.path("no folder"), "").unwrap();
    let given = |url: &str| (url.to_owned(), "runs without messages");
    for (home, (url, told), shown) in [
        ("home", (stage.url(), ""), "CBROKER_URL=amqp://tester@"),
        (
            "no folder",
            given("amqp://ada:hush@127.0.0.1:1/v"),
            "CBROKER_URL=amqp://ada@127.0.0.1:1/v\n",
        ),
        ("no folder", given("amqp://ada:hush@127.0.0.1:0/v"), ""),
        ("home", given("127.0.0.1 ada:hush"), ""),
    ] {
        let output = stage
            .cbroker(&["--name", "peer", "run", "--", "env"])
            .env("CBROKER_HOME", stage.path(home))
            .env("CBROKER_URL", &url)
            .env("CBROKER_MGMT_URL", "https://ada:hush@api.example/x")
            .output()
            .unwrap();
        let environment = String::from_utf8_lossy(&output.stdout);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(told),
            "{output:?}"
        );
        for secret in ["hush", "secret"] {
            assert!(!environment.contains(secret), "{environment}");
        }
        assert_eq!(
            environment.contains("CBROKER_URL="),
            !shown.is_empty(),
            "{environment}"
        );
        assert!(environment.contains(shown), "{environment}");
        let management = "CBROKER_MGMT_URL=https://api.example/x\n";
        assert!(environment.contains(management), "{environment}");
    }
}

fn a_program_without_messages_is_not_taken_for_the_session_around_it() {
    // Its `cbroker send` signed as the outer session, with that session's login and hop count.
    let stage = Stage::new();
    stage.configure("autostrat = true\n");
    let outer = [("CBROKER_NAME", "outer"), ("CBROKER_SESSION", "01OUTER")];
    let output = stage
        .cbroker(&["--name", "peer", "run", "--", "env"])
        .envs(outer)
        .output()
        .unwrap();
    let environment = String::from_utf8_lossy(&output.stdout);
    assert!(environment.contains("CBROKER_DISABLED=1"), "{output:?}");
    for (name, _) in outer {
        assert!(!environment.contains(name), "{name} in {environment}");
    }
    let agent = stage.path("agent");
    std::fs::write(&agent, "#!/bin/sh\nenv > \"$STAGE/environment\"\n").unwrap();
    std::fs::set_permissions(&agent, Permissions::from_mode(0o755)).unwrap();
    stage.configure("");
    let mut doctor = stage.cbroker(&["doctor", "--probe"]);
    doctor.arg(&agent).envs(outer).output().unwrap();
    let probed = stage.text("environment");
    assert!(
        !probed.contains("outer") && !probed.contains("01OUTER"),
        "{probed}"
    );
}

fn without_a_search_path_the_program_runs_and_finds_others() {
    let stage = Stage::new();
    let script = "command -v ls; command -v cbroker; echo over";
    let mut terminal = stage.terminal(&[
        "env", "-u", "PATH", CBROKER, "--name", "peer", "run", "--", "sh", "-c", script,
    ]);
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    terminal.wait_for("over");
    let shown = terminal.shown();
    assert!(shown.contains("/ls\r\n"), "{shown}");
    assert!(shown.contains(CBROKER), "{shown}");
}

/// Copies the program under test. Another process writes it: what other tests start would inherit
/// a descriptor of this one, and no file runs that is open for writing.
fn copy_binary(to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg(CBROKER)
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}

fn a_folder_that_others_can_write_to_is_not_searched() {
    // Whoever could write there had the agent run a program under any name, such as `git`.
    let stage = Stage::new();
    let folder = stage.path("shared");
    std::fs::create_dir(&folder).unwrap();
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    copy_binary(&folder.join("cbroker"));
    std::fs::write(folder.join("planted-tool"), "#!/bin/sh\necho it ran\n").unwrap();
    set_mode(&folder.join("planted-tool"), 0o755);
    set_mode(&folder, 0o1777);
    let binary = folder.join("cbroker");
    let script = "planted-tool; echo over";
    let mut terminal = stage.terminal(&[
        binary.to_str().unwrap(),
        "--name",
        "peer",
        "run",
        "--",
        "sh",
        "-c",
        script,
    ]);
    terminal.wait_for("over");
    terminal.wait_for_end();
    assert!(!terminal.shown().contains("it ran"), "{}", terminal.shown());
    let log = stage.text("home/logs/peer.log");
    assert!(log.contains("other users can write to"), "{log}");
}

fn the_program_is_the_one_that_the_search_path_names() {
    // The folder of a `cbroker` that was called by its path came first, with all that was in it.
    let stage = Stage::new();
    let [beside, usual] = ["beside", "usual"].map(|name| stage.path(name));
    for folder in [&beside, &usual] {
        std::fs::create_dir(folder).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let script = format!("#!/bin/sh\necho \"the $0 of {name}\"; command -v cbroker\n");
        std::fs::write(folder.join("an-agent"), script).unwrap();
        let executable = Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.join("an-agent"), executable).unwrap();
    }
    let binary = beside.join("cbroker");
    copy_binary(&binary);
    let [binary, usual] = [&binary, &usual].map(|path| path.to_str().unwrap());
    let path = format!("PATH={usual}:/usr/bin:/bin");
    let mut terminal = stage.terminal(&[
        "env", &path, binary, "--name", "peer", "run", "--", "an-agent",
    ]);
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    terminal.wait_for("of usual");
    let shown = terminal.shown();
    assert!(shown.contains(binary), "{shown}");
}
