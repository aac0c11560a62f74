//! Help texts as golden files. `CBROKER_BLESS=1` accepts a change.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use cbroker::exit::Exit;

use crate::support::{Place, skip};

const VERBS: [&str; 41] = [
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
    "service uninstall",
    "service status",
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
    for verb in VERBS {
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
            .contains("--name NAME [OPTIONS] AGENT [ARGS]")
    );
    // The same as verbs.
    assert_eq!(place.ok(["version"]), place.ok(["--version"]));
    assert_eq!(place.ok(["help"]), place.ok(["--help"]));
    assert_eq!(place.ok(["help", "send"]), place.ok(["send", "--help"]));
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
    let names = |verb: &str| manual.contains(&format!(".SS \"cbroker {verb}\""));
    let missing: Vec<_> = VERBS.iter().filter(|verb| !names(verb)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(manual.contains("must\\-exist") && !names("toy"));
}

#[test]
fn the_manual_is_one_page_without_repetitions_and_without_faults() {
    let place = Place::new();
    let manual = place.ok(["man"]);
    let described = manual.matches("\\fB\\-\\-mgmt\\-url\\fR \\fI").count();
    assert_eq!(described, 1, "the options of all commands stand there once");
    assert!(!manual.contains("(1)"), "it names a page that nobody has");
    let file = place.path().join("cbroker.1");
    fs::write(&file, &manual).unwrap();
    let checks: [(&str, &[&str]); 2] = [
        ("mandoc", &["-Tlint", "-Wwarning"]),
        ("groff", &["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]),
    ];
    for (program, options) in checks {
        match Command::new(program).args(options).arg(&file).output() {
            Ok(checked) => {
                let complaints = [checked.stdout, checked.stderr].concat();
                let complaints = String::from_utf8_lossy(&complaints);
                assert_eq!(complaints, "", "{program}");
            }
            Err(error) if program == "mandoc" => skip(&format!("mandoc: {error}")),
            Err(_) => eprintln!("skipped: groff is not there"),
        }
    }
}

/// A text with one space in the place of each break and of several spaces.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_exit_codes_have_the_same_words_everywhere() {
    // The help did not say that 4 is also a full queue.
    let place = Place::new();
    let words = Exit::OWN.map(|exit| format!("{} {}", exit.code(), exit.words()));
    assert_eq!(Exit::OWN.map(Exit::code), [0, 1, 2, 3, 4]);
    assert!(words[4].contains("queue full"));
    let all = words.join(", ");
    let manual = place.ok(["man"]).replace("\\-", "-");
    for (text, place_of_it) in [
        (place.ok(["--help"]), "help"),
        (manual, "man"),
        (page("guide.md"), "guide.md"),
    ] {
        let text = flat(&text);
        let codes = text.split_once("Exit codes: ").map(|(_, codes)| codes);
        let codes = codes.unwrap_or_default();
        assert!(codes.starts_with(&all), "{place_of_it}: {codes:.200}");
    }
    let table = page("commands.md");
    for row in words {
        let (code, words) = row.split_once(' ').unwrap();
        assert!(table.contains(&format!("\n| {code} | {words}")), "{row}");
    }
}

/// The usage that the help of a command begins with, on one line.
fn usage(help: &str) -> String {
    let (_, usage) = help.split_once("Usage: ").unwrap();
    flat(usage.split("\n\n").next().unwrap())
}

/// The options of a command's own in its help, each with its value, without `--help`.
fn own_options(help: &str) -> Vec<&str> {
    let options = help.split_once("\nOptions:\n").map(|(_, options)| options);
    let options = options.and_then(|options| options.split("\n\nGlobal options:").next());
    let lines = options.unwrap_or_default().lines().map(str::trim_start);
    let options = lines.filter(|line| line.starts_with('-') && !line.starts_with("- "));
    options
        .filter_map(|line| line[line.find("--")?..].split("  ").next())
        .filter(|option| *option != "--help")
        .collect()
}

#[test]
fn the_manual_has_the_usage_of_each_command_with_all_of_its_options() {
    // It named no value of an option, and hidden options.
    let place = Place::new();
    let manual = place.ok(["man"]).replace("\\-", "-");
    let marks = ["\\fB", "\\fI", "\\fR"];
    let plain = |line: &str| {
        let without = |line: String, mark: &&str| line.replace(*mark, "");
        marks.iter().fold(line.to_owned(), without)
    };
    for verb in VERBS.into_iter().chain(["claude", "run"]) {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = place.ok(words);
        let heading = format!(".SS \"cbroker {verb}\"\n");
        let (_, section) = manual.split_once(&heading).unwrap();
        let synopsis = plain(section.lines().next().unwrap());
        let usage = usage(&help);
        if ["claude", "run"].contains(&verb) {
            assert_eq!(synopsis, usage);
            continue;
        }
        let (begin, end) = usage.split_once(" [OPTIONS]").unwrap();
        assert!(synopsis.starts_with(begin), "{synopsis}");
        assert!(synopsis.ends_with(end.trim_end()), "{synopsis}, {end}");
        let options = own_options(&help);
        let optional = options.iter().filter(|option| !end.contains(*option));
        for option in optional.clone() {
            assert!(
                synopsis.contains(&format!("[{option}]")),
                "{option}: {synopsis}"
            );
        }
        let named = synopsis.matches("[--").count();
        assert_eq!(named, optional.count(), "{synopsis}: {options:?}");
    }
    assert!(plain(&manual).contains("cbroker send [--to <NAME>]... [--message <TEXT>]"));
    let (_, synopsis) = manual.split_once(".SH SYNOPSIS\n").unwrap();
    let synopsis = synopsis.split(".SH ").next().unwrap();
    let is_text = |line: &&str| !line.starts_with('.');
    let lines: Vec<String> = synopsis.lines().filter(is_text).map(plain).collect();
    assert_eq!(flat(&lines.join(" ")), usage(&place.ok(["--help"])));
}

#[test]
fn the_help_says_what_is_removed_what_stays_and_which_unit_a_number_has() {
    let place = Place::new();
    let help = |verb: &str| flat(&place.ok([verb, "--help"]));
    for (verb, said) in [
        (
            "purge",
            "Delete the messages that wait in a queue; the queue stays",
        ),
        ("purge", "with what it holds; what its agent has stays"),
        ("delete", "Delete a queue and the messages that wait in it"),
        (
            "inbox",
            "--take Print the messages, and remove them: the agent does not get them",
        ),
        (
            "send",
            "--drop-oldest If 1000 messages wait in the recipient's queue, delete the oldest",
        ),
        ("send", "--ttl <TIME> Milliseconds, or 10m, 2h: "),
        ("send", "--timeout <TIME> Seconds, or 10m, 2h: "),
        ("ask", "--ttl <TIME> Milliseconds, or 10m, 2h: "),
        ("ask", "--timeout <TIME> Seconds, or 10m, 2h: "),
        ("wait", "--timeout <TIME> Seconds, or 10m, 2h: "),
        (
            "move",
            "--to <URL> The broker to move to: amqp://user:password@host:5672/vhost",
        ),
        ("move", "amqps:// with TLS, or `docker`"),
        ("move", "[default: the broker that other commands use"),
    ] {
        let help = help(verb);
        assert!(help.contains(said), "{verb}, {said}: {help}");
    }
    let all = flat(&place.ok(["--help"]));
    assert!(
        all.contains("--ttl <TIME> Milliseconds, or 10m, 2h: "),
        "{all}"
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
