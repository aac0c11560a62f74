//! Profiles of agents that the user keeps in the home folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Place, Server, Terminal, binary, wait_until};

/// A program of this name on the PATH of its place: the toy agent, which records what it is given.
fn command(place: &Place, name: &str) -> std::process::Command {
    let record = place.path().join("record");
    command_with(
        place,
        name,
        &format!("exec {} toy --record {}", binary(), record.display()),
    )
}

/// The same with a script of its own.
fn command_with(place: &Place, name: &str, script: &str) -> std::process::Command {
    let bin = place.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = bin.join(name);
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = place.command();
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    command
}

fn write_profile(place: &Place, file: &str, text: &str) {
    let folder = place.home().join("agents");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(file), text).unwrap();
}

#[test]
fn a_file_of_the_user_makes_an_agent_known() {
    let place = Place::new();
    let _server = Server::start(&place);
    let start = || {
        let mut command = command(&place, "duckling");
        command.args(["--name", "pond", "duckling"]);
        command
    };
    let refused = start().output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    write_profile(&place, "duckling.toml", "programs = [\"duckling\"]\n");
    let session = Terminal::run(start());
    let agent = || place.listed("pond").map(|row| row["agent"].clone());
    wait_until(
        || agent().is_some_and(|agent| agent == "duckling"),
        || format!("{:?}; its terminal shows {:?}", agent(), session.shown()),
    );
    let said = place.ok(["send", "pond", "hello", "--wait", "--timeout", "10m"]);
    assert!(said.contains("delivered (keyboard)"), "{said}");
    let record = fs::read_to_string(place.path().join("record")).unwrap();
    assert!(record.contains("hello [end]"), "{record}");
}

#[test]
fn a_profile_that_cannot_be_used_is_named_and_the_program_runs() {
    let place = Place::new();
    let _server = Server::start(&place);
    write_profile(&place, "broken.toml", "programs = [\n");
    write_profile(&place, "shell.toml", "programs = [\"bash\"]\n");
    let mut command = command(&place, "duckling");
    command.args(["--name", "pond", "run", "--", "sh", "-c", "exit 7"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("broken.toml is not used"), "{said}");
    assert!(
        said.contains("`bash` executes what is typed into it"),
        "{said}"
    );
}

/// The agent that `docs/agents.md` describes: what was entered goes to the record. Its dialog is
/// gone once it was answered.
const DUCKLING: &str = r#"
while printf 'duck> ' && read -r line; do
    printf '%s\n' "$line" >>"$HOME/record"
    case $line in
        *ASK*)
            printf 'Run this command? (y/n) '
            read -r answer
            printf '\033[A\033[2K'
            printf 'it said %s\n' "$answer" >>"$HOME/record"
            ;;
    esac
done"#;

#[test]
fn the_example_of_the_page_on_agents_works_as_it_stands() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/agents.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once("```toml\n").unwrap();
    let (profile, _) = block.split_once("```").unwrap();
    let place = Place::new();
    let _server = Server::start(&place);
    write_profile(&place, "duckling.toml", profile);
    let mut start = command_with(&place, "duckling", DUCKLING);
    start.args(["--name", "pond", "duckling"]);
    let mut session = Terminal::run(start);
    let said = place.ok(["send", "pond", "hello", "--wait", "--timeout", "10m"]);
    assert!(said.contains("delivered (keyboard)"), "{said}");
    let state = || place.listed("pond").map(|row| row["state"].clone());
    session.press(b"please ASK\r");
    wait_until(
        || state().is_some_and(|state| state == "needs you: permission"),
        || format!("{:?}; its terminal shows {:?}", state(), session.shown()),
    );
    let record = || fs::read_to_string(place.path().join("record")).unwrap();
    assert!(record().contains("hello [end]"), "{}", record());
    place.ok(["send", "pond", "behind the dialog"]);
    session.press(b"n\r");
    wait_until(|| record().contains("behind the dialog [end]"), record);
    assert!(record().contains("it said n\n"), "{}", record());
}
