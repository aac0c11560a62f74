//! First command lines of a new user: a slip gets one line, and a hint that says what to type.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lifecycle::Own;
use crate::support::{Place, Ran};

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
    let cases: [(&[&str], i32, String, &str); 6] = [
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
