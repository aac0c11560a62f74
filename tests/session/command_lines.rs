//! What other users of the machine see of a session: the command lines of what it starts.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cbroker::envelope::digest;

use crate::stage::{Stage, wait_for};

crate::tests![a_codex_without_its_daemon_gets_no_text_on_a_command_line];

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
