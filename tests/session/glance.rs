//! What a tired person learns from `cbroker list` alone: who needs them, why, since when, how much
//! is held, and what to do about it.

use serde_json::Value;

use crate::stage::{CBROKER, Stage, Terminal, wait_for};

crate::tests![
    the_list_says_who_needs_a_person_and_what_to_do,
    a_state_goes_on_while_the_broker_is_away,
];

/// An agent in a session of this name, with a folder of its own.
fn open(stage: &Stage, name: &str, agent: &str) -> Terminal {
    let folder = stage.path(&format!("of-{name}"));
    std::fs::create_dir(&folder).unwrap();
    let more = [("STAGE", folder.to_str().unwrap())];
    stage.terminal_with(&[CBROKER, "--name", name, agent], &more)
}

/// The row of a name in `list`, and the line below it.
fn row(stage: &Stage, name: &str) -> (String, String) {
    let table = stage.says(&["list"]);
    let mut lines = table.lines();
    let row = lines.find(|line| line.split(' ').next() == Some(name));
    let below = lines.next().filter(|line| line.starts_with("  "));
    let text = |line: Option<&str>| line.unwrap_or_default().trim().to_owned();
    (text(row), text(below))
}

fn is(stage: &Stage, name: &str, state: &str) {
    wait_for(&format!("{name}: {state}"), || {
        row(stage, name).0.contains(state)
    });
}

/// Opens a session whose agent asks for a permission.
fn asks(stage: &Stage, name: &str) -> Terminal {
    let terminal = open(stage, name, "claude");
    is(stage, name, " idle ");
    terminal.submit("please ASK{danger}");
    is(stage, name, " needs you: permission for Bash ");
    terminal
}

fn the_list_says_who_needs_a_person_and_what_to_do() {
    let stage = Stage::new();
    // Its agent takes no Enter before it is ready, and never is.
    stage.send("tests", "run them", &[]);
    let _stuck = open(&stage, "tests", "gemini");
    let _asking = [asks(&stage, "frontend"), asks(&stage, "backend")];
    let _fine = ["idler", "worker"].map(|name| open(&stage, name, "claude"));
    stage.send("docs", "for later", &[]);
    stage.send("backend", "behind the dialog", &[]);
    is(&stage, "tests", " stuck ");
    is(&stage, "backend", " 0 + 1 held ");
    for name in ["idler", "worker"] {
        is(&stage, name, " idle ");
    }
    stage.says(&["pause", "worker"]);
    let table = stage.says(&["list"]);
    let names = table.lines().skip(1).filter(|line| !line.starts_with("  "));
    let names: Vec<_> = names.map(|line| line.split(' ').next().unwrap()).collect();
    let order = ["backend", "frontend", "tests", "docs", "idler", "worker"];
    assert_eq!(names, order, "{table}");
    for (name, below) in [
        (
            "backend",
            "answer in its terminal; to see it from here: cbroker screen backend",
        ),
        (
            "tests",
            "a message stands in its input box: press Enter there, or clear it",
        ),
        ("docs", "open it: cbroker --name docs <agent>"),
        ("idler", ""),
        ("worker", ""),
    ] {
        assert_eq!(row(&stage, name).1, below, "{table}");
    }
    // Since when, and by whom.
    let (backend, _) = row(&stage, "backend");
    let mut end = backend.split_whitespace().rev();
    assert_eq!(end.next(), Some("claude"), "{backend}");
    assert!(end.next().unwrap().ends_with(['s', 'm']), "{backend}");
    // What is behind the command that the list names.
    assert!(
        stage
            .says(&["screen", "backend"])
            .contains("Do you want to proceed?")
    );
    let waited = stage.says(&["wait", "backend", "--until", "needs-you"]);
    assert_eq!(waited, "backend: needs you: permission for Bash\n");

    // Once something waits behind it, a pause is for its person to end.
    stage.send("worker", "x", &[]);
    wait_for("the advice", || {
        row(&stage, "worker").1 == "resume it: cbroker resume worker"
    });
    let coloured = stage.terminal(&[CBROKER, "list"]);
    for start in ["\u{1b}[31mbackend ", "\u{1b}[31mtests ", "\u{1b}[33mdocs "] {
        coloured.wait_for(start);
    }
}

/// The state of a name in `list`, and since when it has it.
fn state_and_since(stage: &Stage, name: &str) -> (Value, Value) {
    let rows: Value = serde_json::from_str(&stage.says(&["--json", "list", "-q"])).unwrap();
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == name);
    row.map_or((Value::Null, Value::Null), |row| {
        (row["state"].clone(), row["since"].clone())
    })
}

fn a_state_goes_on_while_the_broker_is_away() {
    // Its time began anew with the connection, so that the oldest dialog looked like the newest.
    let mut stage = Stage::new();
    let _asking = asks(&stage, "backend");
    let before = state_and_since(&stage, "backend");
    assert_eq!(before.0, "needs you: permission for Bash");
    stage.stop_broker();
    stage.start_broker();
    wait_for("the session to be back", || {
        state_and_since(&stage, "backend").0 == before.0
    });
    assert_eq!(state_and_since(&stage, "backend"), before);
}
