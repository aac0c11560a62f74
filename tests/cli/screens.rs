//! `screen`: what a session's terminal shows, for its own user on its own machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Place, Server, Terminal, wait_until};

/// Wraps a shell command that draws something and stays until Enter. Not until Ctrl-C, which tests
/// that are started in the background ignore.
fn draws(place: &Place, name: &str, script: &str) -> Terminal {
    let mut command = place.command();
    command
        .args(["--name", name, "run", "--", "sh", "-c"])
        .arg(format!("{script}; read -r line"));
    Terminal::run(command)
}

fn lines(place: &Place, name: &str) -> Vec<String> {
    let ran = place.run(["screen", name, "--json"]);
    let Ok(screen) = serde_json::from_str::<serde_json::Value>(&ran.out) else {
        return Vec::new();
    };
    assert_eq!(
        (&screen["rows"], &screen["columns"]),
        (&24.into(), &80.into())
    );
    let lines = screen["lines"].as_array().unwrap();
    lines
        .iter()
        .map(|line| line.as_str().unwrap().to_owned())
        .collect()
}

fn sockets(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "screen"))
        .collect()
}

#[test]
fn the_screen_of_a_session_is_shown_as_it_is_drawn_and_made_harmless() {
    let place = Place::new();
    let server = Server::start(&place);
    // It overwrites a part of a line; a title and reordering characters are not text.
    let script = [
        r"printf 'first line\r\nwrong\rright\033[0K\r\n'",
        r"printf '\033]0;a title\007\033[31mred\033[0m \342\200\256end'",
    ];
    let mut session = draws(&place, "painter", &script.join("; "));
    let drawn = ["first line", "right", "red end"];
    wait_until(
        || {
            lines(&place, "painter")
                .last()
                .is_some_and(|last| last.starts_with("red"))
        },
        || {
            format!(
                "{:?}; the terminal: {:?}",
                lines(&place, "painter"),
                session.shown()
            )
        },
    );
    let shown = place.ok(["screen", "painter"]);
    assert_eq!(shown.lines().collect::<Vec<_>>(), drawn);
    let socket = sockets(&place.home().join("sessions")).remove(0);
    let file = fs::metadata(&socket).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    // It works without the broker.
    drop(server);
    assert_eq!(place.ok(["screen", "painter"]), shown);
    session.press(b"\r");
    session.ended();
    assert!(sockets(&place.home().join("sessions")).is_empty());
    place
        .run(["screen", "painter"])
        .fails(1, "no session `painter` runs on this machine");
}

#[test]
fn a_screen_is_found_by_the_name_of_its_session() {
    let place = Place::new();
    let _server = Server::start(&place);
    let _sessions = [
        draws(&place, "one", "printf 'of one'"),
        draws(&place, "other", "printf 'of the other'"),
    ];
    wait_until(
        || lines(&place, "one") == ["of one"] && lines(&place, "other") == ["of the other"],
        || format!("{:?} {:?}", lines(&place, "one"), lines(&place, "other")),
    );
    let _twin = draws(&place, "one", "printf 'of its twin'");
    wait_until(
        || {
            let shown = place.ok(["screen", "one"]);
            shown.contains("of one\n") && shown.contains("of its twin\n")
        },
        || place.ok(["screen", "one"]),
    );
}

/// Runs Python as the user `nobody`; prints why and returns `None` where this is not root.
fn as_stranger(script: &str, socket: &Path) -> Option<Command> {
    if !rustix::process::geteuid().is_root() || !cfg!(target_os = "linux") {
        eprintln!("skipped: only root can start a program of another user");
        return None;
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--clear-groups",
            "/usr/bin/python3",
            "-I",
            "-c",
        ])
        .arg(script)
        .arg(socket)
        .stdin(Stdio::null());
    Some(command)
}

#[test]
fn neither_side_of_the_socket_talks_to_another_user() {
    const ASKS: &str = "import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
try:
    peer.sendall(b'secretive\\n')
    print(peer.recv(65536))
except OSError:
    print(b'')";
    const LIES: &str = "import json, socket, sys
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
door.listen()
print('ready', flush=True)
while True:
    peer, _ = door.accept()
    lie = dict(name='secretive', session='x', rows=1, columns=1, lines=['a lie'])
    peer.sendall(json.dumps(lie).encode())
    peer.close()";
    let place = Place::new();
    let _server = Server::start(&place);
    let _session = draws(&place, "secretive", "printf 'a secret'");
    wait_until(
        || lines(&place, "secretive") == ["a secret"],
        || format!("{:?}", lines(&place, "secretive")),
    );
    let sessions = place.home().join("sessions");
    let socket = sockets(&sessions).remove(0);
    let Some(mut asks) = as_stranger(ASKS, &socket) else {
        return;
    };
    // The sockets are opened to everybody: the session itself checks who asks.
    for (path, mode) in [
        (place.path(), 0o777),
        (&place.home(), 0o711),
        (&sessions, 0o777),
        (&socket, 0o666),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let heard = asks.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "b''\n", "{heard:?}");
    let liar = sessions.join("01LIAR.screen");
    let mut lies = as_stranger(LIES, &liar).unwrap();
    let mut lies = lies.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    let mut said = BufReader::new(lies.stdout.take().unwrap());
    said.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let shown = place.ok(["screen", "secretive"]);
    let _ended = (lies.kill(), lies.wait());
    assert_eq!(shown, "a secret\n");
}

#[test]
fn sockets_with_a_path_too_long_are_in_the_runtime_folder_each_for_its_own_home() {
    let runtime = tempfile::Builder::new().prefix("cb").tempdir_in("/tmp");
    let runtime = runtime.unwrap();
    // The sockets of the broker are in the first home, and those of its session too far down.
    let homes = [("short", 70), ("long", 120), ("other", 120)].map(|(of, length)| {
        let place = Place::with_long_path(length, runtime.path());
        let server = Server::start(&place);
        let drawn = format!("of{of}");
        let session = draws(&place, "painter", &format!("printf {drawn}"));
        wait_until(
            || lines(&place, "painter") == [drawn.as_str()],
            || format!("{:?}", lines(&place, "painter")),
        );
        (place, server, session, drawn)
    });
    for (place, _, _, drawn) in &homes {
        let shown = place.ok(["screen", "painter"]);
        assert_eq!(shown.trim_end(), drawn, "no screen of the other home's");
        place.ok(["send", "--to", drawn, "-m", "x"]);
        assert_eq!(place.listed(drawn).unwrap()["pending"], 1);
    }
    let sockets: Vec<_> = fs::read_dir(runtime.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_socket())
        .collect();
    for entry in &sockets {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    let of_kind = |end: &str| {
        let names = sockets.iter().map(fs::DirEntry::file_name);
        names
            .filter(|name| name.to_string_lossy().ends_with(end))
            .count()
    };
    for (kind, count) in [("broker.sock", 2), ("management.sock", 2), (".screen", 3)] {
        assert_eq!(of_kind(kind), count, "{kind}: {sockets:?}");
    }
}
