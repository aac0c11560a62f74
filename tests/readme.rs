//! Runs every command of the README in a home of its own.
//!
//! Each line of an `sh` block must end by itself and succeed. `cargo run --release --` stands for
//! this build's binary. The other `cargo` lines build or run the tests and are left to CI. `claude`
//! is a stand-in that prints that it ran.

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

/// Returns a PATH that begins with cbroker and a stand-in `claude`.
fn path(place: &Place) -> String {
    let programs = place.path().join("bin");
    fs::create_dir_all(&programs).unwrap();
    symlink(env!("CARGO_BIN_EXE_cbroker"), programs.join("cbroker")).unwrap();
    let claude = programs.join("claude");
    fs::write(&claude, "#!/bin/sh\necho \"claude ran\"\n").unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
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

#[test]
fn every_command_of_the_readme_works_as_it_stands() {
    let readme = fs::read_to_string(Path::new(PROJECT).join("README.md")).unwrap();
    let place = Place::new();
    let path = path(&place);
    let _background = Background::start(&place);
    let mut ran = 0;
    for line in commands(&readme) {
        let line = line.replace("cargo run --release --", "cbroker");
        if line.starts_with("cargo ") {
            continue;
        }
        let output = run(&line, &place, &path);
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "`{line}` ended with {}:\n{said}\n{wrong}",
            output.status
        );
        ran += 1;
    }
    assert!(ran >= 10, "only {ran} commands were found");
}

#[test]
fn only_lines_of_sh_blocks_are_commands() {
    let text = "a\n```sh\n# no\none\n\ntwo\n```\n```console\nthree\n```\n";
    assert_eq!(commands(text), ["one", "two"]);
}
