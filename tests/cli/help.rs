//! Help texts as golden files. `CBROKER_BLESS=1` accepts a change.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::support::Place;

const VERBS: [&str; 39] = [
    "send",
    "ask",
    "list",
    "group",
    "group list",
    "group join",
    "group leave",
    "wait",
    "screen",
    "inbox",
    "dead",
    "why",
    "history",
    "tail",
    "purge",
    "delete",
    "pause",
    "resume",
    "start",
    "stop",
    "restart",
    "rotate",
    "status",
    "logs",
    "ui",
    "nuke",
    "serve",
    "move",
    "service",
    "doctor",
    "config",
    "brief",
    "demo",
    "mcp",
    "mcp install",
    "completions",
    "man",
    "version",
    "service install",
];

fn golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cli/golden")
        .join(file);
    if std::env::var_os("CBROKER_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, expected,
        "{file} differs; CBROKER_BLESS=1 takes the new text over"
    );
}

#[test]
fn every_help_text_is_as_it_was_agreed() {
    let place = Place::new();
    let mut all = place.ok(["--help"]);
    for verb in VERBS {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let _ = write!(all, "\n=== cbroker {verb} ===\n{}", place.ok(words));
    }
    golden("help.txt", &all);
}

#[test]
fn every_verb_teaches_by_an_example() {
    let place = Place::new();
    for verb in VERBS.iter().filter(|verb| **verb != "service") {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = place.ok(words);
        assert!(help.contains("Example"), "{verb}: {help}");
        assert!(
            help.contains(&format!("  cbroker {verb}")),
            "{verb}: {help}"
        );
    }
}

#[test]
fn the_bare_command_and_the_version_say_what_this_is() {
    let place = Place::new();
    assert!(place.ok::<&str>([]).contains("Usage: cbroker"));
    assert_eq!(
        place.ok(["--version"]),
        format!("cbroker {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(
        place
            .ok(["--help"])
            .contains("--name NAME [OPTIONS] claude")
    );
}

#[test]
fn completions_and_the_manual_know_every_verb() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.ok(["completions", shell]);
        assert!(script.contains("cbroker"), "{shell}: {script}");
    }
    let mut asking = place.command();
    asking.env("CBROKER_COMPLETE", "fish");
    let output = asking.args(["--", "cbroker", ""]).output().unwrap();
    let verbs = String::from_utf8(output.stdout).unwrap();
    for verb in ["send", "claude", "doctor"] {
        assert!(verbs.contains(verb), "{verb} is not among {verbs}");
    }
    assert!(!verbs.contains("toy"), "it shows what is hidden: {verbs}");
    let manual = place.ok(["man"]);
    assert!(manual.starts_with(".ie") || manual.contains(".TH cbroker 1"));
    assert!(
        manual.contains("CBROKER SEND")
            && manual.contains("must\\-exist")
            && !manual.contains("TOY")
    );
}

#[test]
fn the_briefing_names_the_session_that_it_is_for() {
    let place = Place::new();
    assert!(
        place
            .ok(["brief", "--name", "my-backend"])
            .contains("`myBackend`")
    );
    assert!(place.ok(["brief"]).contains("$CBROKER_NAME"));
    assert!(
        place.json(["brief"])[0]["briefing"]
            .as_str()
            .unwrap()
            .contains("peer message")
    );
}
