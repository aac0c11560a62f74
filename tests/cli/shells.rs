//! Completion of the command line in the real shells: what a person types, with the Tab key.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::client;
use crate::support::{PATIENCE, Place, Server, Terminal, binary, skip, wait_until};

const PROMPT: &str = "ready-for-keys>";

/// A shell of this name; `None` where the machine has none.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("there is no {name}"));
    }
    found
}

/// A home with a broker, the session `backendApi` and the group `@crewOne`, and the program under
/// its name on the PATH.
fn place_with_names() -> (Place, Server) {
    let place = Place::new();
    let server = Server::start(&place);
    client::make_queue(&place, "backendApi");
    place.ok(["group", "join", "crewOne", "backendApi"]);
    let bin = place.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(binary(), bin.join("cbroker")).unwrap();
    (place, server)
}

/// A command of the shell in the place's environment.
fn shell(place: &Place, program: &PathBuf) -> Command {
    let mut path = std::ffi::OsString::from(place.path().join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // It keeps what the place's commands have, and runs another program.
    let like = place.command();
    let mut command = Command::new(program);
    command.env_clear().current_dir(place.path());
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("PATH", path).env("TERM", "dumb");
    command
}

/// Types a line until it did what it says: on a busy machine a shell may get no candidates in time,
/// and then runs what was typed as it is.
fn type_line(terminal: &mut Terminal, keys: &str, did: impl Fn(&Terminal) -> bool) {
    let prompts = |terminal: &Terminal| terminal.shown().matches(PROMPT).count();
    let until = Instant::now() + PATIENCE;
    while !did(terminal) {
        let before = prompts(terminal);
        assert!(
            Instant::now() < until,
            "{keys:?}; the terminal shows {}",
            terminal.shown()
        );
        terminal.press(keys.as_bytes());
        wait_until(
            || prompts(terminal) > before,
            || format!("the command ends; the terminal shows {}", terminal.shown()),
        );
    }
}

/// Types lines with Tab keys in them into a shell that has loaded the script.
fn types(place: &Place, mut terminal: Terminal) {
    terminal.wait_for(PROMPT);
    let messages = || place.json(["tail", "backendApi", "--no-ack"]);
    let texts = || -> Vec<String> {
        let messages = messages();
        let texts = messages.iter().map(|message| message["message"].as_str());
        texts.map(|text| text.unwrap().to_owned()).collect()
    };
    for (keys, count) in [
        // A name, a group, and a name behind a comma and an option.
        ("cbroker send backe\tto-the-session\r", 1),
        ("cbroker send @cre\tto-the-group\r", 2),
        ("cbroker send --to someone,backe\t-m to-the-list\r", 3),
    ] {
        type_line(&mut terminal, keys, |_| texts().len() == count);
    }
    assert_eq!(texts(), ["to-the-session", "to-the-group", "to-the-list"]);
    // Names and values behind `=` and behind a space.
    for (keys, count) in [
        ("cbroker send --to=backe\t -m urgent --priority=hi\t\r", 4),
        (
            "cbroker send --to=someone,backe\t -m later --priority lo\t\r",
            5,
        ),
    ] {
        type_line(&mut terminal, keys, |_| texts().len() == count);
    }
    let priority = |place: usize| messages()[place]["priority"].clone();
    assert_eq!([priority(3), priority(4)], ["high", "low"]);
    let shows = |text: &'static str| move |terminal: &Terminal| terminal.shown().contains(text);
    // A verb and a value.
    let version = concat!("cbroker ", env!("CARGO_PKG_VERSION"));
    type_line(&mut terminal, "cbroker versi\t\r", shows(version));
    let wait = "cbroker wait backendApi --until clo\t\r";
    type_line(&mut terminal, wait, shows("backendApi: closed"));
    // A value behind `=`, at which bash splits, of an option and of a session's name.
    let times = |text: &'static str, count: usize| {
        move |terminal: &Terminal| terminal.shown().matches(text).count() >= count
    };
    let until = "cbroker wait backendApi --until=clo\t\r";
    let before = terminal.shown().matches("backendApi: closed").count();
    type_line(
        &mut terminal,
        until,
        times("backendApi: closed", before + 1),
    );
    // Ctrl-A and `echo` print the line: the agent itself is not run.
    for (keys, line) in [
        (
            "cbroker --name x cod\t\u{1}echo \r",
            "cbroker --name x codex",
        ),
        (
            "cbroker --name=y --delivery=plu\t ope\t\u{1}echo \r",
            "cbroker --name=y --delivery=plugin opencode",
        ),
    ] {
        type_line(&mut terminal, keys, shows(line));
    }
    let brief = "cbroker brief --name=backe\t\r";
    type_line(&mut terminal, brief, shows("`backendApi`"));
}

#[test]
fn bash_completes_names_groups_verbs_and_values() {
    let Some(bash) = find("bash") else { return };
    let (place, _server) = place_with_names();
    let start = place.path().join("bashrc");
    let text = format!("source <(cbroker completions bash)\nPS1='{PROMPT}'\n");
    fs::write(&start, text).unwrap();
    let mut command = shell(&place, &bash);
    command
        .arg("--noprofile")
        .arg("--rcfile")
        .arg(&start)
        .arg("-i");
    types(&place, Terminal::run(command));
}

#[test]
fn zsh_completes_names_groups_verbs_and_values() {
    let Some(zsh) = find("zsh") else { return };
    let (place, _server) = place_with_names();
    let folder = place.path().join("functions");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("_cbroker"), place.ok(["completions", "zsh"])).unwrap();
    let text = format!(
        "fpath=({functions} $fpath)\nautoload -Uz compinit\ncompinit -u -d {dump}\n\
         PS1='{PROMPT}'\n",
        functions = folder.display(),
        dump = place.path().join("dump").display(),
    );
    fs::write(place.path().join(".zshrc"), text).unwrap();
    let mut command = shell(&place, &zsh);
    command.env("ZDOTDIR", place.path()).arg("-i");
    types(&place, Terminal::run(command));
}

#[test]
fn fish_completes_names_groups_verbs_and_values() {
    let Some(fish) = find("fish") else { return };
    let (place, _server) = place_with_names();
    for (typed, completed) in [
        ("cbroker send backe", "backendApi"),
        ("cbroker send @cre", "@crewOne"),
        ("cbroker send --to someone,backe", "someone,backendApi"),
        ("cbroker versi", "version"),
        ("cbroker wait backendApi --until clo", "closed"),
        ("cbroker --group cre", "crewOne"),
        ("cbroker send x --wait=ans", "--wait=answered"),
        ("cbroker send x --priority hi", "high"),
        ("cbroker send x --priority=hi", "--priority=high"),
        ("cbroker send --to=backe", "--to=backendApi"),
        ("cbroker send --to=x,backe", "--to=x,backendApi"),
        ("cbroker --group=cre", "--group=crewOne"),
        ("cbroker --name=y --delivery=plugin ope", "opencode"),
        ("cbroker doctor --probe open", "opencode"),
        ("cbroker --name x cod", "codex"),
    ] {
        let mut command = shell(&place, &fish);
        command.arg("--no-config").arg("-c");
        command.arg(format!(
            "cbroker completions fish | source; complete -C '{typed}'"
        ));
        let mut said = String::new();
        wait_until(
            || {
                said = String::from_utf8(command.output().unwrap().stdout).unwrap();
                let first = said.lines().next().unwrap_or_default();
                first.split('\t').next() == Some(completed)
            },
            || format!("`{typed}` becomes `{completed}`"),
        );
    }
}

#[test]
fn values_and_agents_are_completed() {
    let place = Place::new();
    for (typed, completed) in [
        (&["send", "x", "--wait=ans"][..], "--wait=answered"),
        (&["send", "x", "--priority", "hi"], "high"),
        (&["doctor", "--probe", "open"], "opencode"),
        (&["--name", "x", "cod"], "codex"),
    ] {
        let mut asking = place.command();
        asking.env("CBROKER_COMPLETE", "fish");
        let asked = asking.args(["--", "cbroker"]).args(typed).output().unwrap();
        let said = String::from_utf8(asked.stdout).unwrap();
        let word = said.split(['\t', '\n']).next();
        assert_eq!(word, Some(completed), "{typed:?}: {said}");
    }
}
