//! What other users of the machine see of a session: the command lines of what it starts.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use cbroker::envelope::digest;
use serde_json::{Value, json};

use crate::claude::{log_lines, wait_for_log};
use crate::process::all_arguments;
use crate::stage::{CBROKER, Stage, Terminal, wait_for};

crate::tests![
    a_codex_without_its_daemon_gets_no_text_on_a_command_line,
    settings_and_tokens_are_on_no_command_line,
    settings_end_with_their_session,
    settings_stay_for_a_session_that_moved_to_another_process,
];

/// A Codex without its daemon, behind the first turn of its thread. `codex queue` notes its own
/// command line as others see it, and writes the text into the thread's history.
const CODEX: &str = r#"#!/bin/sh
if [ "$1" = queue ]; then
    tr '\0' ' ' <"/proc/$$/cmdline" >>"$CODEX_HOME/seen"
    row='{"type":"response_item","payload":{"type":"message","role":"user","content":['
    text=$(printf '%s' "$5" | sed 's/["\\]/\\&/g')
    printf '%s{"type":"input_text","text":"%s"}]}}\n' "$row" "$text" >>"$CODEX_HOME/r-01a.jsonl"
    exit
fi
exec 3>"$CODEX_HOME/thread-writer-locks/01a.lock" 4>>"$CODEX_HOME/r-01a.jsonl"
exec cat
"#;

fn a_codex_without_its_daemon_gets_no_text_on_a_command_line() {
    let stage = Stage::new();
    let home = stage.path("codex-home");
    std::fs::create_dir_all(home.join("thread-writer-locks")).unwrap();
    let (script, program) = (stage.path("script"), stage.path("codex"));
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&script, CODEX).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    // No file runs that is open for writing, as it may be in what other tests start.
    let copied = Command::new("cp").args([&script, &program]).status();
    assert!(copied.unwrap().success());
    let version = r#"{"name": "codex", "version": "0.171.0"}"#;
    std::fs::write(stage.path("package.json"), version).unwrap();
    let folder = home.to_str().unwrap();
    let _terminal = stage.wrap_with(
        &["--delivery", "api"],
        &["codex"],
        &[("CODEX_HOME", folder)],
    );
    let more = ["-f", "/some/private-name", "--meta", "key=private-value"];
    stage.send("peer", "a private text", &more);
    wait_for("the delivery", || {
        stage.text("home/logs/peer.log").contains("delivered ")
    });
    // A refused attempt was reported to the sender as handed over.
    let log = stage.text("home/logs/peer.log");
    assert!(!log.contains("did not take the text"), "{log}");
    let seen = stage.text("codex-home/seen");
    assert!(!seen.contains("private"), "{seen}");
    // Nor what confirms a guess: a digest of these words alone, their length, the number of names.
    let guess = "file: /some/private-name\nmetadata: {\"key\":\"private-value\"}\na private text";
    assert!(!seen.contains(&digest(guess.as_bytes(), 12)), "{seen}");
    assert!(!seen.contains("bytes") && !seen.contains("lines"), "{seen}");
    let mut words = seen.split_whitespace();
    let path = words.find(|word| word.contains("/spill/")).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    for part in ["a private text", "/some/private-name", "private-value"] {
        assert!(text.contains(part), "{text}");
    }
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!([0o600, 0o400].contains(&mode), "{mode:o}");
}

const SECRET: &str = "a-private-value";

/// A Claude Code with these settings, whose hooks have run.
fn claude(stage: &Stage, settings: &str, quirks: &str) -> Terminal {
    let command = [CBROKER, "--name", "peer", "claude", "--settings", settings];
    let terminal = stage.terminal_with(&command, &[("AGENT", quirks)]);
    wait_for_log(stage, "started");
    terminal
}

/// Settings with a secret and a hook of the person's own.
fn settings(stage: &Stage) -> String {
    let hook = format!("touch {}", stage.path("theirs").display());
    let hooks = json!([{"hooks": [{"type": "command", "command": hook}]}]);
    json!({"env": {"ANTHROPIC_AUTH_TOKEN": SECRET}, "hooks": {"Stop": hooks}}).to_string()
}

/// The files of sessions with this end.
fn session_files(stage: &Stage, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(stage.path("home/sessions")).unwrap();
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

fn settings_and_tokens_are_on_no_command_line() {
    let stage = Stage::new();
    let file = stage.path("other.json");
    std::fs::write(&file, settings(&stage)).unwrap();
    for given in [file.to_str().unwrap(), &settings(&stage)] {
        std::fs::remove_file(stage.path("agent.log")).unwrap_or_default();
        let mut terminal = claude(&stage, given, "plugin");
        let folder = stage.path("").to_string_lossy().into_owned();
        let is_ours = |line: &String| line.contains(&folder);
        wait_for("a waiting hook", || {
            let is_waiter = |line: &String| line.contains(" hook wait ") && is_ours(line);
            all_arguments().iter().any(is_waiter)
        });
        // What the person wrote themselves stays where they wrote it.
        let is_theirs = |line: &String| line.contains(&format!("{CBROKER} --name peer claude"));
        let mut lines = all_arguments();
        lines.retain(|line| is_ours(line) && !is_theirs(line));
        assert!(lines.iter().any(|line| line.contains("__monitor")));
        for line in lines {
            assert!(!line.contains(SECRET), "{line}");
            assert!(!line.contains("--token "), "{line}");
            assert!(!line.contains("pluginConfigs"), "{line}");
        }
        // The gate, which has become the agent, had the same arguments.
        let arguments = log_lines(&stage, "arguments");
        assert!(!arguments[0].contains(SECRET), "{arguments:?}");
        let said: Vec<String> = log_lines(&stage, "settings");
        let said: Value = serde_json::from_str(said[0].split_once(' ').unwrap().1).unwrap();
        assert_eq!(said["env"]["ANTHROPIC_AUTH_TOKEN"], SECRET);
        let token = &said["pluginConfigs"]["cbroker@inline"]["options"]["token"];
        let token = token.as_str().unwrap();
        assert!(!all_arguments().iter().any(|line| line.contains(token)));
        for end in [".settings.json", ".token"] {
            let files = session_files(&stage, end);
            assert_eq!(files.len(), 1, "{files:?}");
            let mode = files[0].metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{files:?}");
        }
        terminal.submit("hello");
        wait_for("their own hook", || stage.path("theirs").exists());
        std::fs::remove_file(stage.path("theirs")).unwrap();
        terminal.submit("/exit");
        terminal.wait_for_end();
    }
}

fn settings_end_with_their_session() {
    let stage = Stage::new();
    let mut terminal = claude(&stage, &settings(&stage), "plugin");
    assert_eq!(session_files(&stage, ".settings.json").len(), 1);
    terminal.submit("/exit");
    terminal.wait_for_end();
    for end in [".settings.json", ".token"] {
        assert_eq!(session_files(&stage, end), Vec::<PathBuf>::new());
    }
}

fn settings_stay_for_a_session_that_moved_to_another_process() {
    // That process goes on when this session has ended. Claude Code does not start without them.
    let stage = Stage::new();
    let mut terminal = claude(&stage, &settings(&stage), "plugin moves");
    terminal.keys(b"\x1b[D");
    wait_for_log(&stage, "moved started");
    // By now the session has heard the hooks of that process too.
    stage.send("peer", "where are you", &["--wait"]);
    terminal.keys(b"\x1b");
    terminal.submit("/exit");
    terminal.wait_for_end();
    let files = session_files(&stage, ".settings.json");
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(std::fs::read_to_string(&files[0]).unwrap().contains(SECRET));
    assert_eq!(session_files(&stage, ".token"), Vec::<PathBuf>::new());
}
