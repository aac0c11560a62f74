//! First command lines of a new user: a slip gets one line, and a hint that says what to type.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lifecycle::Own;
use crate::support::{Place, Ran, Server};

/// A command that finds these programs, which print their arguments, and no others.
fn command_with(place: &Place, programs: &[&str]) -> Command {
    let bin = place.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    for program in programs {
        let program = bin.join(program);
        fs::write(&program, "#!/bin/sh\necho \"arguments: $*\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = place.command();
    command.env("PATH", &bin);
    command
}

fn run(mut command: Command, arguments: &[&str]) -> Ran {
    Ran::of(&command.args(arguments).output().unwrap())
}

#[test]
fn a_wrap_that_cannot_start_its_program_starts_no_broker() {
    // The broker was started first, and stayed.
    let own = Own::new();
    let place = &own.0;
    let file = place.path().join("plain.txt");
    fs::write(&file, "no program").unwrap();
    let plain = file.to_str().unwrap();
    let absent = "cannot be run: there is no such program on the PATH";
    let folder = place.path().to_str().unwrap();
    let cases: [(&[&str], i32, String, &str); 7] = [
        (
            &["run", "--", "nosuchprogram"],
            127,
            format!("nosuchprogram {absent}"),
            "run -- /PATH/TO/nosuchprogram",
        ),
        (&["claude"], 127, format!("claude {absent}"), "install"),
        (&["codex"], 127, format!("codex {absent}"), "install"),
        (
            &["run", "./nosuchprogram"],
            127,
            "./nosuchprogram cannot be run: there is no such file".to_owned(),
            "path",
        ),
        (
            &["run", plain],
            126,
            format!("{plain} cannot be run: it is not an executable file"),
            "chmod +x",
        ),
        (
            &["run", folder],
            126,
            format!("{folder} cannot be run: it is a folder"),
            "/PROGRAM",
        ),
        (
            &["--delivery", "pty", "run", "sh"],
            2,
            "nothing is typed into sh".to_owned(),
            "--delivery",
        ),
    ];
    for (arguments, code, said, hint) in cases {
        let arguments = [&["--name", "x"], arguments].concat();
        let ran = run(command_with(place, &["sh"]), &arguments);
        ran.fails(code, &said).hints(hint);
        let has_started = place.home().join("broker.json").exists();
        assert!(!has_started, "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_program_without_a_name_gets_the_line_to_type() {
    let place = Place::new();
    for (arguments, said, hint) in [
        (
            &["codex"][..],
            "a wrap needs a name",
            "cbroker --name NAME codex",
        ),
        (
            &["opencode", "--name", "x"],
            "a wrap needs a name: --name NAME is missing before `opencode`",
            "cbroker --name NAME opencode",
        ),
        (
            &["claude"],
            "a wrap needs a name: --name NAME is missing before `claude`",
            "cbroker --name NAME claude",
        ),
        (
            &["run", "--", "htop", "-d", "9"],
            "a wrap needs a name: --name NAME is missing before `run`",
            "cbroker --name NAME run -- htop",
        ),
        (
            &["run", "--name", "x", "htop"],
            "`--name` is not a program",
            "cbroker --name NAME run -- PROGRAM",
        ),
    ] {
        place.run(arguments).fails(2, said).hints(hint);
    }
}

#[test]
fn an_unknown_command_and_an_option_in_the_wrong_place_get_the_line_to_type() {
    let place = Place::new();
    for (arguments, said, hint) in [
        (
            &["--name", "x", "foo"][..],
            "unrecognized subcommand 'foo'",
            "cbroker --name x run -- foo",
        ),
        (
            &["--no-start", "--name=x", "foo", "bar"],
            "unrecognized subcommand 'foo'",
            "cbroker --name x run -- foo",
        ),
        (
            &["--name", "x", "codx"],
            "unrecognized subcommand 'codx'",
            "cbroker --name x codex",
        ),
        (
            &["--name", "x", "cluade"],
            "unrecognized subcommand 'cluade'",
            "cbroker --name x claude",
        ),
        (
            &["foo"],
            "unrecognized subcommand 'foo'",
            "cbroker --name NAME run -- foo",
        ),
        (
            &["help", "codex"],
            "unrecognized subcommand 'codex'",
            "cbroker --name NAME codex",
        ),
        (
            &["--ttl", "2h", "send", "x", "y"],
            "--ttl is an option of a wrap",
            "behind `send` it is an option of that command: cbroker send --ttl",
        ),
        (
            &["--group", "x", "list"],
            "--group is an option of a wrap: it is only valid before an agent or `run`",
            "cbroker --name NAME claude",
        ),
        (&["ask"], "no recipient", "cbroker ask NAME TEXT"),
        (&["send"], "no recipient", "cbroker send NAME TEXT"),
        (
            &["sned", "x", "y"],
            "unrecognized subcommand 'sned'",
            "'send'",
        ),
    ] {
        place.run(arguments).fails(2, said).hints(hint);
    }
}

#[test]
fn help_behind_a_program_without_a_name_is_about_the_wrap() {
    // It said that a name is missing.
    let place = Place::new();
    for (arguments, usage) in [
        (&["claude", "--help"][..], "claude [ARGS]"),
        (&["claude", "-h"], "claude [ARGS]"),
        (&["help", "claude"], "claude [ARGS]"),
        (&["codex", "--help"], "run -- PROGRAM [ARGS]"),
        (&["run", "--help"], "run -- PROGRAM [ARGS]"),
        (&["help", "run"], "run -- PROGRAM [ARGS]"),
        (&["--name", "x", "run", "--help"], "run -- PROGRAM [ARGS]"),
    ] {
        let help = place.ok(arguments);
        let usage = format!("Usage: cbroker --name NAME [OPTIONS] {usage}");
        for part in [&*usage, "--exclusive", "--url", "Example"] {
            assert!(help.contains(part), "{arguments:?}, {part}: {help}");
        }
    }
    // With a name it is the agent's own.
    let ran = run(
        command_with(&place, &["claude"]),
        &["--name", "x", "--no-start", "claude", "--help"],
    );
    assert_eq!(ran.out, "arguments: --help\n", "{ran:?}");
}

#[test]
fn a_page_without_a_broker_hints_at_a_start_and_not_at_the_address_of_the_page() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let mend = |more: &[&str]| {
        let ran = place.run(["doctor", "--json"].iter().chain(more));
        let findings: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let mut findings = findings.as_array().unwrap().iter();
        let found = findings.find(|one| one["check"] == "management").unwrap();
        found["mend"].as_str().unwrap_or_default().to_owned()
    };
    // The broker answers, and its API is elsewhere.
    let elsewhere = ["--mgmt-url", "http://localhost:1"];
    place
        .run(["ui"].iter().chain(&elsewhere))
        .fails(3, "no management API answers at http://localhost:1")
        .hints("--mgmt-url");
    assert!(mend(&elsewhere).contains("--mgmt-url"));
    assert_eq!(mend(&[]), "");
    server.kill();
    place
        .run(["ui"])
        .fails(3, "no broker answers at amqp://127.0.0.1:")
        .hints("start one with `cbroker start`");
    let mend = mend(&[]);
    assert!(mend.contains("`cbroker start`"), "{mend}");
    assert!(!mend.contains("--mgmt-url"), "{mend}");
}

#[test]
fn a_time_to_live_of_a_few_milliseconds_is_pointed_out() {
    // `--timeout 60` are seconds.
    let place = Place::new();
    let _server = Server::start(&place);
    for (ttl, is_short) in [
        ("60", true),
        ("999", true),
        ("1000", false),
        ("0", false),
        ("60ms", false),
        ("60s", false),
    ] {
        let notice =
            format!("cbroker: --ttl {ttl} is {ttl} milliseconds; write {ttl}s for seconds\n");
        let expected = if is_short { &*notice } else { "" };
        let ran = place.run(["send", "a", "x", "--ttl", ttl]);
        assert_eq!((ran.code, &*ran.err), (0, expected), "{ran:?}");
        assert_eq!(
            place.run(["-q", "send", "a", "x", "--ttl", ttl]).err,
            "",
            "--quiet"
        );
    }
    let notice = "--ttl 60 is 60 milliseconds; write 60s for seconds";
    let asked = place.run(["ask", "a", "?", "--ttl", "60", "--timeout", "100ms"]);
    assert!(asked.err.contains(notice), "{asked:?}");
    let wrap = ["--name", "b", "--ttl", "60", "run", "--", "true"];
    let wrapped = place.run(wrap);
    assert_eq!(wrapped.code, 0, "{wrapped:?}");
    assert!(wrapped.err.contains(notice), "{wrapped:?}");
}

#[test]
fn the_known_agents_are_named_also_those_of_the_user() {
    let place = Place::new();
    let folder = place.home().join("agents");
    fs::create_dir_all(&folder).unwrap();
    let profile = folder.join("duckling.toml");
    fs::write(profile, "programs = [\"duckling\"]\n").unwrap();
    let mut doctor = place.command();
    doctor.env("PATH", place.path());
    let doctor = run(doctor, &["doctor"]).out;
    let mut completing = place.command();
    completing.env("CBROKER_COMPLETE", "fish");
    let completed = run(completing, &["--", "cbroker", "doctor", "--probe", ""]).out;
    for (text, place_of_it) in [
        (place.ok(["--help"]), "Agents"),
        (place.ok(["man"]), "Agents"),
        (doctor, "agent "),
        (completed, ""),
    ] {
        let begin = text.find(place_of_it).unwrap_or(text.len());
        for agent in ["claude", "codex", "opencode", "gemini", "aider", "duckling"] {
            assert!(text[begin..].contains(agent), "{agent}: {text}");
        }
    }
}

#[test]
fn an_empty_history_says_that_it_is_empty() {
    // It said that there is no such message.
    let place = Place::new();
    for arguments in [&["history"][..], &["history", "backend", "--grep", "x"]] {
        assert_eq!(place.ok(arguments), "no messages on this machine yet\n");
    }
    let _server = Server::start(&place);
    place.ok(["send", "backend", "x"]);
    assert_eq!(
        place.ok(["history", "frontend"]),
        "no such message on this machine\n"
    );
}

#[test]
fn an_agent_without_a_known_configuration_hears_which_ones_are_known() {
    let place = Place::new();
    place
        .run(["mcp", "install", "aider"])
        .fails(
            2,
            "invalid value 'aider' for '<AGENT>': expected claude, codex, gemini, opencode",
        )
        .hints("cbroker mcp install --help");
    let help = place.ok(["mcp", "install", "--help"]);
    assert!(help.contains("Any other agent"), "{help}");
}

#[test]
fn nuke_deletes_and_keeps_what_its_help_says() {
    let own = Own::new();
    let place = &own.0;
    assert_eq!(own.start().code, 0);
    place.ok(["send", "backend", "kept in the history"]);
    for (folder, file) in [("agents", "duckling.toml"), ("dlq", "backend.jsonl")] {
        fs::create_dir_all(place.home().join(folder)).unwrap();
        fs::write(place.home().join(folder).join(file), "").unwrap();
    }
    fs::write(place.home().join("config.toml"), "batch = 3\n").unwrap();
    let help = place.ok(["nuke", "--help"]);
    let (deleted, kept) = help.split_once("Kept").unwrap();
    assert!(deleted.contains("~/.cbroker/data"), "{help}");
    place.ok(["nuke", "--yes"]);
    assert!(!place.home().join("data").exists());
    for name in ["credentials", "config.toml", "agents", "logs", "dlq"] {
        assert!(kept.contains(name), "{name}: {help}");
        assert!(place.home().join(name).exists(), "{name}");
    }
    assert!(place.ok(["history"]).contains("kept in the history"));
}
