//! Runs every command of the README and of the guide, each page in a home of its own.
//!
//! Each line of an `sh` block must end by itself and succeed. `cargo run --release --` stands for
//! this build's binary. The other `cargo` lines build the program and are left to CI. The agents
//! are stand-ins that print that they ran. Of the commands inside sentences, which may wait for
//! ever or need another machine, the verbs and the options must exist.

#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

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
            found.push(line.to_owned());
        }
    }
    found
}

/// Returns the commands inside sentences and tables: what stands between single backquotes.
fn commands_in_sentences(page: &str) -> Vec<String> {
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
    quoted
        .filter(|quoted| quoted.starts_with("cbroker "))
        .map(str::to_owned)
        .collect()
}

/// Returns a PATH that begins with cbroker, stand-ins for the agents, and no browser.
fn path(place: &Place) -> String {
    let programs = place.path().join("bin");
    fs::create_dir_all(&programs).unwrap();
    symlink(env!("CARGO_BIN_EXE_cbroker"), programs.join("cbroker")).unwrap();
    for name in ["claude", "codex", "opencode", "xdg-open", "open"] {
        let program = programs.join(name);
        fs::write(&program, format!("#!/bin/sh\necho \"{name} ran\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap())
}

/// Runs a line in the project's folder, with only the place's environment.
fn run(line: &str, place: &Place, path: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-euc", line]).env_clear();
    for (name, value) in place.command().get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let child = shell
        .env("PATH", path)
        .current_dir(PROJECT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait(child, line)
}

/// Returns the output, or fails if the command does not end.
fn wait(mut child: Child, line: &str) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("`{line}` does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
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
        let line = line.replace("cargo run --release --", "cbroker");
        if line.starts_with("cargo ") {
            continue;
        }
        let output = run(&line, &place, &path);
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

/// Returns the help for a command in a sentence: its verb's, or the whole program's for a wrap.
fn help_for(place: &Place, command: &str) -> String {
    let verb = command.split(' ').nth(1).unwrap();
    let is_verb = !verb.starts_with('-');
    let asked = if is_verb {
        place.run([verb, "--help"])
    } else {
        place.run(["--help"])
    };
    assert_eq!(asked.code, 0, "`{command}`: {}", asked.err);
    asked.out
}

#[test]
fn commands_in_sentences_have_verbs_and_options_that_exist() {
    let place = Place::new();
    for page in ["README.md", "docs/guide.md"] {
        let text = fs::read_to_string(Path::new(PROJECT).join(page)).unwrap();
        let found = commands_in_sentences(&text);
        assert!(found.len() > 5, "{page}: {found:?}");
        for command in found {
            let help = help_for(&place, &command);
            // Behind a wrapped program its own options follow.
            let ours = command.split(" claude").next().unwrap();
            for option in ours.split(' ').filter(|word| word.starts_with("--")) {
                let name = option.split('=').next().unwrap();
                assert!(help.contains(name), "{page}: `{command}` has no {name}");
            }
        }
    }
}

#[test]
fn only_lines_of_sh_blocks_are_commands() {
    let text = "a\n```sh\n# no\none\n\ntwo\n```\n```console\nthree\n```\n";
    assert_eq!(commands(text), ["one", "two"]);
}

#[test]
fn a_command_in_a_sentence_may_go_over_two_lines() {
    let text = "Say `cbroker send\nx` or `other`.\n```sh\n`cbroker no`\n```\n`cbroker list`\n";
    assert_eq!(
        commands_in_sentences(text),
        ["cbroker send x", "cbroker list"]
    );
}
