//! Runs every command of the README and of the guide, each page in a home of its own.
//!
//! Each line of an `sh` block must end by itself and succeed. `cargo run --release --` stands for
//! this build's binary. The other `cargo` lines build the program and are left to CI, the `curl`
//! lines to `packaging/tests/run.sh`. The agents are stand-ins that print that they ran.
//!
//! What stands between backquotes inside sentences may wait for ever, or need a broker that is not
//! there: a command must be understood (any exit code but 2), an option must exist, and so must a
//! file of the project.

#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use support::{PATIENCE, Place, free_port};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the lines of the `sh` blocks, without comments.
fn commands(readme: &str) -> Vec<String> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            in_block = line == "```sh";
        } else if in_block && !line.trim().is_empty() && !line.starts_with('#') {
            found.push(line.replace("cargo run --release --", "cbroker"));
        }
    }
    found
}

/// Returns what stands between single backquotes inside sentences and tables.
fn quotes(page: &str) -> Vec<String> {
    let mut in_block = false;
    let text: Vec<&str> = page
        .lines()
        .filter(|line| {
            let is_fence = line.starts_with("```");
            in_block ^= is_fence;
            !in_block && !is_fence
        })
        .collect();
    let text = text.join(" ");
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// Returns a PATH that begins with cbroker, stand-ins for the agents, and no browser.
fn path(place: &Place) -> String {
    let programs = place.path().join("bin");
    fs::create_dir_all(&programs).unwrap();
    symlink(env!("CARGO_BIN_EXE_cbroker"), programs.join("cbroker")).unwrap();
    let programs_of_others = [
        "claude",
        "codex",
        "launchctl",
        "open",
        "opencode",
        "systemctl",
        "xdg-open",
    ];
    for name in programs_of_others {
        let program = programs.join(name);
        fs::write(&program, format!("#!/bin/sh\necho \"{name} ran\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap())
}

/// Starts a line in the project's folder, with only the place's environment, and in a process group
/// of its own.
fn start(line: &str, place: &Place, path: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-euc", line]).env_clear();
    for (name, value) in place.command().get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell
        .env("PATH", path)
        .current_dir(PROJECT)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the output. A command that does not end in time is killed, with what it started, and
/// there is none.
fn wait(mut child: Child, limit: Duration) -> Option<Output> {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > limit {
            let group = Pid::from_child(&child);
            kill_process_group(group, Signal::KILL).unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child.wait_with_output().unwrap())
}

/// The local broker on free ports, because the default ones may be in use. Every command finds it.
struct Background<'a>(&'a Place);

impl<'a> Background<'a> {
    fn start(place: &'a Place) -> Self {
        let (port, management) = (free_port().to_string(), free_port().to_string());
        place.ok(["start", "--port", &port, "--mgmt-port", &management]);
        Self(place)
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        self.0.run(["stop"]);
    }
}

/// Runs the lines of a page's blocks, one after the other.
fn run_page(page: &str) {
    let text = fs::read_to_string(Path::new(PROJECT).join(page)).unwrap();
    let place = Place::new();
    let path = path(&place);
    let _background = Background::start(&place);
    let mut ran = 0;
    for line in commands(&text) {
        if line.starts_with("cargo ") {
            continue;
        }
        let output = wait(start(&line, &place, &path), PATIENCE);
        let output = output.unwrap_or_else(|| panic!("`{line}` does not end"));
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{page}: `{line}` ended with {}:\n{said}\n{wrong}",
            output.status
        );
        ran += 1;
    }
    assert!(ran >= 10, "{page}: only {ran} commands were found");
}

#[test]
fn every_command_of_the_readme_works_as_it_stands() {
    run_page("README.md");
}

#[test]
fn every_command_of_the_guide_works_as_it_stands() {
    run_page("docs/guide.md");
}

/// What a quote is, as far as a test can say.
#[derive(Debug, PartialEq)]
enum Quote {
    /// To be run.
    Command(String),
    /// An option of some command.
    Option(String),
    /// A file of this project.
    File(String),
    /// A word, a value, another program.
    Other,
}

impl Quote {
    /// A verb alone may be its name: whether it would run without arguments says nothing.
    fn of(quote: &str, verbs: &[String]) -> Self {
        let line = quote.strip_prefix("cbroker ").unwrap_or(quote);
        let (word, more) = line.split_once(' ').unwrap_or((line, ""));
        let is_verb = verbs.iter().any(|verb| verb == word);
        let is_wrap = line.len() < quote.len() && word == "--name";
        if (is_verb || is_wrap) && !more.is_empty() && !more.ends_with("--") {
            return Self::Command(format!("cbroker {line}"));
        }
        assert!(
            is_verb || is_wrap || line.len() == quote.len(),
            "`{quote}`: there is no such command"
        );
        let folder = quote.split_once('/').map_or("", |(folder, _)| folder);
        if word.starts_with("--") {
            let name = word.split('=').next().unwrap();
            Self::Option(name.to_owned())
        } else if !folder.is_empty() && Path::new(PROJECT).join(folder).is_dir() {
            Self::File(quote.to_owned())
        } else {
            Self::Other
        }
    }
}

/// Returns the names of all commands, and the help of each and of the program.
fn verbs_and_help(place: &Place) -> (Vec<String>, String) {
    let mut help = place.ok(["help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs: Vec<String> = listed
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    // The help behind `claude` is Claude Code's, and `run` needs a name first.
    let asked = |verb: &&String| !["help", "claude", "run"].contains(&verb.as_str());
    for verb in verbs.iter().filter(asked) {
        help.push_str(&place.ok([verb, "--help"]));
    }
    (verbs, help)
}

/// The exit code of a command in a home without a broker; `None` where it goes on.
fn exit_code(command: &str) -> Option<i32> {
    // Long enough to understand the command, also on a busy machine.
    const LIMIT: Duration = Duration::from_secs(15);
    let place = Place::at("amqp://127.0.0.1:1", None);
    let line = command
        .replace("URL", "amqp://127.0.0.1:2")
        .replace("cbroker serve", "cbroker serve --port 0 --mgmt-port 0");
    let path = path(&place);
    let output = wait(start(&line, &place, &path), LIMIT);
    place.run(["stop"]);
    output.and_then(|output| output.status.code())
}

#[test]
fn what_is_quoted_in_sentences_exists_and_is_understood() {
    let place = Place::new();
    let (verbs, help) = verbs_and_help(&place);
    for page in ["README.md", "docs/guide.md"] {
        let text = fs::read_to_string(Path::new(PROJECT).join(page)).unwrap();
        let in_blocks = commands(&text);
        let mut ran = 0;
        for quote in quotes(&text) {
            match Quote::of(&quote, &verbs) {
                Quote::Command(command) if !in_blocks.contains(&command) => {
                    assert_ne!(exit_code(&command), Some(2), "{page}: `{command}`");
                    ran += 1;
                }
                Quote::Command(_) | Quote::Other => {}
                Quote::Option(name) => {
                    let mut words = help.split(|at: char| !at.is_alphanumeric() && at != '-');
                    assert!(words.any(|word| word == name), "{page}: no option {name}");
                }
                Quote::File(name) => {
                    let exists = Path::new(PROJECT).join(&name).exists();
                    assert!(exists, "{page}: there is no {name}");
                }
            }
        }
        assert!(ran >= 3, "{page}: only {ran} commands were run");
    }
}

#[test]
fn a_command_that_makes_no_sense_is_found_out() {
    for command in ["cbroker list --no-such-option", "cbroker move --to"] {
        assert_eq!(exit_code(command), Some(2), "{command}");
    }
    let verbs = ["list".to_owned(), "run".to_owned()];
    for (quote, is) in [
        (
            "list --watch",
            Quote::Command("cbroker list --watch".into()),
        ),
        (
            "cbroker --name a claude",
            Quote::Command("cbroker --name a claude".into()),
        ),
        ("cbroker list", Quote::Other),
        ("run --", Quote::Other),
        ("--wait=answered", Quote::Option("--wait".into())),
        ("docs/none.md", Quote::File("docs/none.md".into())),
        ("~/.cbroker", Quote::Other),
    ] {
        assert_eq!(Quote::of(quote, &verbs), is, "{quote}");
    }
}

#[test]
fn only_lines_of_sh_blocks_are_commands() {
    let text = "a\n```sh\n# no\none\n\ntwo\n```\n```console\nthree\n```\n";
    assert_eq!(commands(text), ["one", "two"]);
}

#[test]
fn a_quote_may_go_over_two_lines() {
    let text = "Say `cbroker send\nx` or `other`.\n```sh\n`cbroker no`\n```\n`cbroker list`\n";
    assert_eq!(quotes(text), ["cbroker send x", "other", "cbroker list"]);
}
