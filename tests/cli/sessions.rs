//! The features of wraps that the README lists: names, arguments, TTL, fallback, exclusive.

use std::fs;

use rustix::fs::{FlockOperation, flock};

use crate::everywhere::everywhere;
use crate::support::{Place, Server, Terminal, Wrapped, binary, free_port, wait_until};

#[test]
fn a_name_is_normalised_everywhere_alike() {
    everywhere(|place, name| {
        let own = name("x");
        let session = Wrapped::open_unattached(place, &format!("my-back_end {own}"), &[]);
        let upper = own[..1].to_uppercase() + &own[1..];
        let normal = format!("myBackEnd{upper}");
        wait_until(
            || {
                place
                    .listed(&normal)
                    .is_some_and(|row| row["consumers"] == 1)
            },
            || normal.clone(),
        );
        place.ok([
            "send",
            "--to",
            &format!("my_back-end_{own}"),
            "-m",
            "by another spelling",
        ]);
        session.wait_for_submission("by another spelling");
    });
}

#[test]
fn a_known_agents_name_needs_no_run() {
    let place = Place::new();
    let _server = Server::start(&place);
    let bin = place.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let agent = bin.join("codex");
    fs::write(&agent, "#!/bin/sh\necho \"codex was given $*\"\nexit 7\n").unwrap();
    fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.command();
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    command.args(["--name", "a", "codex", "resume", "--last"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    let arguments = shown.split("codex was given ").nth(1).unwrap();
    assert!(arguments.contains("resume --last"), "{shown}");
}

#[test]
fn arguments_after_the_program_pass_through_untouched() {
    let place = Place::new();
    let _server = Server::start(&place);
    let bin = place.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let agent = bin.join("claude");
    fs::write(
        &agent,
        "#!/bin/sh\nfor a in \"$@\"; do echo \"<$a>\"; done\nexit 7\n",
    )
    .unwrap();
    fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let output = place
        .command()
        .env("PATH", path)
        .args([
            "--name", "a", "claude", "--", "--help", "--name", "b", "-p", "run",
        ])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(7),
        "the exit code is the program's"
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.ends_with("<--help>\n<--name>\n<b>\n<-p>\n<run>\n"),
        "{said}"
    );
}

#[test]
fn an_existing_queue_with_another_ttl_is_used_unchanged() {
    everywhere(|place, name| {
        let who = name("ttl");
        place.ok(["send", "--to", &who, "-m", "before"]);
        let session = Wrapped::open(place, &who, &["--ttl", "60000"]);
        session.terminal.wait_for("86400000");
        place.ok(["send", "--to", &who, "-m", "after"]);
        session.wait_for_submission("before");
        session.wait_for_submission("after");
    });
}

#[test]
fn without_a_broker_the_program_runs_all_the_same_or_not_as_the_user_wishes() {
    let place = Place::at("amqp://localhost:1", None);
    let output = place
        .command()
        .args(["--name", "a", "run", "--", "sh", "-c"])
        .arg("echo ran, disabled: $CBROKER_DISABLED; exit 5")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ran, disabled: 1"));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no broker answers"),
        "{output:?}"
    );
    place
        .run([
            "--name",
            "a",
            "--no-fallback",
            "run",
            "--",
            "sh",
            "-c",
            "echo ran",
        ])
        .fails(3, "no broker answers at amqp://localhost:1");
}

#[test]
fn a_session_attaches_when_its_broker_comes_later() {
    let place = Place::new();
    let mut server = Server::start(&place);
    server.kill();
    let session = Wrapped::open_unattached(&place, "early", &["--no-start"]);
    session.terminal.wait_for("Toy agent");
    let _server = Server::start_with(
        &place,
        server.port,
        server.management_port.unwrap_or(0),
        &[],
    );
    place.ok(["send", "--to", "early", "-m", "better late"]);
    session.wait_for_submission("better late");
}

#[test]
fn exclusive_refuses_a_name_that_is_taken() {
    everywhere(|place, name| {
        let who = name("single");
        let _first = Wrapped::open(place, &who, &[]);
        let mut command = place.command();
        command.args([
            "--name",
            &who,
            "--exclusive",
            "--no-fallback",
            "run",
            "--",
            "sh",
            "-c",
            "echo ran",
        ]);
        let mut second = Terminal::run(command);
        assert_ne!(second.ended(), 0, "{}", second.shown());
        assert!(!second.shown().contains("ran\r\n"), "{}", second.shown());
    });
}

#[test]
fn a_session_sends_in_its_own_name_without_a_password_in_its_environment() {
    everywhere(|place, name| {
        let (who, to) = (name("speaker"), name("listener"));
        let script = format!("env > env.txt; cbroker send --to {to} -m 'from inside'; sleep 0.2");
        let mut command = place.command();
        command.args(["--name", &who, "run", "--", "sh", "-c", &script]);
        let mut terminal = Terminal::run(command);
        assert_eq!(terminal.ended(), 0, "{}", terminal.shown());
        let message = place.json(["tail", &to, "--no-ack"]).remove(0);
        assert_eq!(message["from"], *who, "{message}");
        let environment = fs::read_to_string(place.path().join("env.txt")).unwrap();
        assert!(
            environment.contains(&format!("CBROKER_NAME={who}")),
            "{environment}"
        );
        let url = environment
            .lines()
            .find(|line| line.starts_with("CBROKER_URL="))
            .unwrap();
        assert!(
            !url.contains(":guest@") && url.matches(':').count() <= 2,
            "{url}"
        );
    });
}

#[test]
fn a_session_and_its_program_follow_a_broker_that_comes_back_on_another_port_twice() {
    // The session dialled the old port for ever, and commands in it did too.
    let place = Place::new();
    let mut server = Server::start(&place);
    let script = "for move in first second; do \
                  read -r go; $0 send --to answers -m \"after the $move\" && echo \"$move sent\"; \
                  done";
    let mut command = place.command();
    command.args(["--name", "mover", "run", "--", "sh", "-c", script, binary()]);
    let mut terminal = Terminal::run(command);
    let is_attached = || {
        place
            .listed("mover")
            .is_some_and(|row| row["consumers"] == 1)
    };
    wait_until(is_attached, || "the session attaches".to_owned());
    for which in ["first", "second"] {
        let before = server.port;
        server.kill();
        let mut other = free_port();
        while other == before {
            other = free_port();
        }
        server = Server::start_with(&place, other, 0, &[]);
        wait_until(is_attached, || {
            format!("the session follows the {which} move")
        });
        terminal.press(b"\r");
        terminal.wait_for(&format!("{which} sent"));
    }
    assert_eq!(terminal.ended(), 0);
    let answers = place.listed("answers").unwrap();
    assert_eq!(answers["pending"], 2, "{answers}");
}

#[test]
fn a_broker_that_takes_long_to_start_keeps_nobody_waiting() {
    // With a full disk or a start that hung, the agent appeared after a minute.
    let place = Place::new();
    let mut server = Server::start(&place);
    server.kill();
    // Whoever holds this lock keeps every start waiting.
    let lock = fs::File::create(place.home().join("start.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let session = Wrapped::open_unattached(&place, "early", &[]);
    session.terminal.wait_for("Toy agent");
    session.terminal.wait_for("runs without messages");
    drop(lock);
    let is_attached = || {
        place.run(["status"]).code == 0
            && place
                .listed("early")
                .is_some_and(|row| row["consumers"] == 1)
    };
    wait_until(is_attached, || {
        format!("the session attaches: {:?}", session.terminal.shown())
    });
    let shown = session.terminal.shown();
    let (_, on_its_screen) = shown.split_once("Toy agent").unwrap();
    assert!(!on_its_screen.contains("cbroker:"), "{shown}");
    place.ok(["send", "--to", "early", "-m", "better late"]);
    session.wait_for_submission("better late");
    place.ok(["stop"]);
}

#[test]
fn without_a_terminal_one_line_says_that_messages_stay_queued() {
    let place = Place::new();
    let _server = Server::start(&place);
    let run = |more: &[&str]| {
        let arguments = [&["--name", "piped"], more, &["run", "--", "echo", "hello"]].concat();
        let ran = place.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (0, "hello\n"), "{ran:?}");
        ran.err
    };
    let said = run(&[]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("cbroker: messages for `piped` stay queued: "),
        "{said}"
    );
    assert_eq!(run(&["--quiet"]), "");
}
