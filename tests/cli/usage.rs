//! Invalid command lines give one line, a hint and exit code 2; unreachable brokers give exit code
//! 3.

use crate::lifecycle::Own;
use crate::support::{Place, Ran, Server, Terminal};

#[test]
fn every_error_is_one_line_and_a_hint() {
    let place = Place::new();
    place
        .run(["frobnicate"])
        .fails(2, "unrecognized subcommand 'frobnicate'");
    place
        .run(["send", "--too", "x"])
        .fails(2, "unexpected argument '--too' found")
        .hints("'--to'");
    place.run(["move"]).fails(
        2,
        "the following required arguments were not provided: <--to <URL>|--from <URL>>",
    );
    place
        .run(["--name", "x", "list"])
        .fails(2, "--name is an option of a wrap");
    place.run(["--name", "x"]).fails(2, "nothing to wrap");
    place
        .run(["group"])
        .fails(2, "`cbroker group` needs a subcommand: list, join or leave");
    place.run(["service", "-q"]).fails(
        2,
        "`cbroker service` needs a subcommand: install, uninstall or status",
    );
    place
        .run(["claude"])
        .fails(2, "a wrap needs a name")
        .hints("cbroker --name NAME claude");
    place
        .run(["run", "--", "sh"])
        .fails(2, "a wrap needs a name");
    place.run(["--name", "x", "run"]).fails(2, "nothing to run");
    place
        .run(["--url", "localhost", "list"])
        .fails(2, "--url is not a broker address")
        .hints("amqp://");
    place
        .run(["--mgmt-url", "localhost", "list"])
        .fails(2, "the management address is not a URL");
    place
        .run(["--url", "amqp://far.example", "stop"])
        .fails(2, "this command acts on the local broker only");
    place
        .run(["move", "--to", "amqp://localhost"])
        .fails(2, "both sides are the same broker");
    // These complained about --url, which nobody gave.
    place
        .run(["move", "--to", "x", "--from", "amqp://localhost"])
        .fails(2, "--to is not a broker address")
        .hints("amqp://");
    place
        .run(["move", "--from", "y"])
        .fails(2, "--from is not a broker address");
    // It said "invalid digit found in string".
    place
        .run(["logs", "-n", "x"])
        .fails(2, "invalid value 'x' for '--lines <N>': expected a number");
    // It named claude as a similar value.
    let unknown = place.run(["mcp", "install", "aider"]);
    unknown
        .fails(2, "invalid value 'aider' for '<AGENT>': expected claude")
        .hints("cbroker mcp install --help");
}

#[test]
fn an_invalid_message_is_reported_before_a_broker_is_asked() {
    let place = Place::new();
    place
        .run(["send", "-m", "x"])
        .fails(2, "no recipient")
        .hints("cbroker send NAME TEXT");
    place
        .run(["send", "a", "text", "more"])
        .fails(2, "unexpected argument 'more' found");
    place
        .run(["send", "a", "--wiat"])
        .fails(2, "invalid value '--wiat' for '[TEXT]': no such option");
    place
        .run(["send", "--to", "a", "b", "text"])
        .fails(2, "unexpected argument `b`");
    place.run(["send", "a", "text", "-m", "x"]).fails(
        2,
        "the argument '[TEXT]' cannot be used with '--message <TEXT>'",
    );
    place
        .run(["send", "a", "x", "--when", "nxt"])
        .fails(2, "invalid value 'nxt' for '--when <WHEN>': expected idle")
        .hints("a similar value exists: 'next'");
    place
        .run(["ask", "a,b", "text"])
        .fails(2, "one session or group is asked at a time");
    place.run(["send", "a", "x", "--ttl", "soon"]).fails(
        2,
        "invalid value 'soon' for '--ttl <TIME>': expected a number",
    );
}

#[test]
fn a_text_behind_two_dashes_may_look_like_an_option() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "list", "--", "-x"]);
    place.ok(["send", "list", "--no-start", "--", "--wiat"]);
    place.ok(["send", "--to", "list", "--", "--all"]);
    // No option looks like these.
    place.ok(["send", "list", "-1"]);
    place.ok(["send", "list", "->"]);
    let taken = place.json(["tail", "list", "-n", "5"]);
    let texts: Vec<_> = taken.iter().map(|one| one["message"].as_str()).collect();
    let sent = ["-x", "--wiat", "--all", "-1", "->"].map(Some);
    assert_eq!(texts, sent);
    place
        .run(["ask", "list", "--timeout", "100ms", "--", "-x"])
        .fails(4, "");
    place
        .run(["send", "list", "--wiat"])
        .fails(2, "invalid value '--wiat' for '[TEXT]': no such option")
        .hints("--");
}

#[test]
fn a_slip_in_the_configuration_file_is_named_with_its_line() {
    let place = Place::new();
    std::fs::create_dir_all(place.home()).unwrap();
    let file = place.home().join("config.toml");
    std::fs::write(&file, "ttl_ms = 1\nautostrat = false\n").unwrap();
    place
        .run(["list"])
        .fails(
            2,
            &format!("{} line 2: unknown field `autostrat`", file.display()),
        )
        .hints("cbroker doctor");
}

#[test]
fn what_needs_no_configuration_works_beside_a_broken_file() {
    let place = Place::new();
    std::fs::create_dir_all(place.home()).unwrap();
    std::fs::write(place.home().join("config.toml"), "autostrat = 1\n").unwrap();
    for arguments in [
        &["version"][..],
        &["man"],
        &["completions", "bash"],
        &["brief"],
    ] {
        let ran = place.run(arguments);
        assert_eq!((ran.code, &*ran.err), (0, ""), "{arguments:?}: {ran:?}");
        assert!(!ran.out.is_empty());
    }
    let asked = place
        .command()
        .env("CBROKER_COMPLETE", "fish")
        .args(["--", "cbroker", "wait", "x", "--until", "clo"])
        .output()
        .unwrap();
    assert_eq!(Ran::of(&asked).out.lines().count(), 1);
}

/// A background broker with a message, and then a mistake in `config.toml`. Also returns how each
/// report of it begins.
fn with_a_mistake() -> (Own, String) {
    let own = Own::new();
    assert_eq!(own.start().code, 0);
    own.0.ok(["send", "backend", "which port?"]);
    let file = own.0.home().join("config.toml");
    std::fs::write(&file, "ttl_ms = 1\nautostrat = 1\n").unwrap();
    let problem = format!("{} line 2: unknown field", file.display());
    (own, problem)
}

#[test]
fn what_a_broken_file_cannot_change_is_done_with_one_line_about_the_file() {
    let (own, problem) = with_a_mistake();
    let place = &own.0;
    let goes_on = |arguments: &[&str], code: i32, out: &str| {
        let ran = place.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.out.contains(out), "{arguments:?}: {ran:?}");
        let line = ran.err.lines().next().unwrap_or_default();
        assert!(line.contains(&problem), "{arguments:?}: {ran:?}");
        assert!(line.ends_with("goes on without the file"), "{ran:?}");
        ran
    };
    let history = goes_on(&["history"], 0, "which port?");
    assert_eq!(history.err.lines().count(), 1, "{history:?}");
    let id = place.home().join("logs/messages.jsonl");
    let id = std::fs::read_to_string(id).unwrap();
    let id: serde_json::Value = serde_json::from_str(id.lines().next().unwrap()).unwrap();
    goes_on(&["why", id["id"].as_str().unwrap()], 0, "confirmed");
    goes_on(&["logs"], 0, "");
    goes_on(&["dead"], 0, "");
    // What would be lost, and what may be meant for another broker.
    for arguments in [
        &["nuke", "--yes"][..],
        &["restart"],
        &["send", "backend", "x"],
        &["status"],
    ] {
        let refused = place.run(arguments);
        refused.fails(2, &problem).hints("correct that line");
    }
    assert!(place.home().join("data").exists());
    goes_on(&["stop"], 0, "broker stopped");
}

#[test]
fn config_says_where_a_broken_file_is_and_what_is_wrong_with_it() {
    let (own, problem) = with_a_mistake();
    let place = &own.0;
    let file = place.home().join("config.toml");
    let ran = place.run(["config"]);
    ran.fails(2, &problem).hints("correct that line");
    let has = |key: &str, value: &str| {
        let is_it = |line: &str| line.starts_with(key) && line.contains(value);
        ran.out.lines().any(is_it)
    };
    assert!(has("config_file ", file.to_str().unwrap()), "{ran:?}");
    assert!(has("ttl_ms ", "86400000"), "{ran:?}");
    // An address that is none is found later than a mistake in the file's form.
    std::fs::write(&file, "url = \"nowhere\"\n").unwrap();
    let ran = place.run(["config"]);
    ran.fails(2, &format!("the url of {} is not a", file.display()));
    assert!(ran.out.contains(file.to_str().unwrap()), "{ran:?}");
    assert_eq!(place.run(["history"]).code, 0);
}

#[test]
fn the_names_are_completed_beside_a_broken_file() {
    let place = Place::new();
    let _server = Server::start(&place);
    place.ok(["send", "backend", "x"]);
    std::fs::write(place.home().join("config.toml"), "autostrat = 1\n").unwrap();
    let asked = place
        .command()
        .env("CBROKER_COMPLETE", "fish")
        .args(["--", "cbroker", "send", "back"])
        .output()
        .unwrap();
    assert_eq!(Ran::of(&asked).out.trim(), "backend");
}

#[test]
fn a_broker_that_is_not_there_is_exit_3_for_every_command_that_needs_one() {
    let place = Place::at("amqp://localhost:1", None);
    for command in [
        vec!["list"],
        vec!["send", "--to", "a", "-m", "x"],
        vec!["ask", "--to", "a", "-m", "x"],
        vec!["tail", "a"],
        vec!["purge", "a", "--yes"],
        vec!["delete", "a", "--yes"],
        vec!["pause", "a"],
        vec!["inbox", "a"],
        vec!["move", "--to", "amqp://localhost:2"],
    ] {
        place
            .run(&command)
            .fails(
                3,
                "no broker answers at amqp://localhost:1: connection refused",
            )
            .hints("check the URL");
    }
    // No URL: the local one is meant, and can be started.
    let place = Place::new();
    Server::start(&place).kill();
    place
        .run(["list"])
        .fails(3, "no broker answers at amqp://127.0.0.1:")
        .hints("start one with `cbroker start`");
}

#[test]
fn a_named_broker_that_is_not_there_is_not_said_to_be_started_by_start() {
    let place = Place::new();
    let _server = Server::start(&place);
    let gone = "amqp://127.0.0.1:1";
    for arguments in [
        &["list", "--url", gone][..],
        &["move", "--to", gone],
        &["move", "--from", gone],
    ] {
        let ran = place.run(arguments);
        ran.fails(3, "no broker answers at amqp://127.0.0.1:1")
            .hints("check the URL");
        assert!(!ran.err.contains("cbroker start"), "{ran:?}");
    }
}

#[test]
fn tls_on_a_port_without_it_is_named() {
    let place = Place::new();
    let server = Server::start(&place);
    let url = format!("amqps://localhost:{}", server.port);
    place
        .run(["list", "--url", &url])
        .fails(3, &format!("{url} does not speak TLS"))
        .hints("amqp://");
}

#[test]
fn an_id_that_is_too_short_is_said_to_be() {
    let place = Place::new();
    place.run(["why", "1"]).fails(
        2,
        "`1` is too short: of an id, the last characters, at least six, are needed",
    );
    place
        .run(["why", "abcdef"])
        .fails(1, "nothing is known of `abcdef` on this machine");
    for option in ["--drop", "--resend"] {
        place.run(["dead", option, "2a"]).fails(
            2,
            "`2a` is too short: of an id, the first characters, at least four, are needed",
        );
    }
    place
        .run(["dead", "--drop", "2a3b"])
        .fails(1, "there is no dead letter `2a3b`");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let place = Place::new();
    assert!(!place.run(["status"]).out.contains('\u{1b}'));
    let on_terminal = |no_colour: bool| {
        let mut command = place.command();
        command.arg("status");
        if no_colour {
            command.env("NO_COLOR", "1");
        }
        let mut terminal = Terminal::run(command);
        terminal.ended();
        terminal.wait_for("kind");
        terminal.shown()
    };
    assert!(on_terminal(false).contains("\u{1b}[31mnot reachable"));
    assert!(!on_terminal(true).contains('\u{1b}'));
}

#[test]
fn notices_are_as_many_as_the_user_wants() {
    let place = Place::new();
    let server = Server::start(&place);
    let told = |more: &[&str]| {
        let ran = place.run(
            ["send", "--to", "a", "-m", "x", "-f", "no-such-file"]
                .iter()
                .chain(more),
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.err
    };
    assert_eq!(told(&[]).lines().count(), 1);
    assert_eq!(told(&["-q"]), "");
    let connected = format!("cbroker: connected to {} as cbroker in ", server.url());
    assert!(told(&["-v"]).contains(&connected));
    assert!(!told(&["-v"]).contains("DEBUG") && told(&["-vv"]).contains("DEBUG"));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let place = Place::new();
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "\"$1\" man | head -c 10; \"$1\" completions bash | true",
        "sh",
        env!("CARGO_BIN_EXE_cbroker"),
    ]);
    let output = command.env("CBROKER_HOME", place.home()).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_service_is_written_for_the_user_s_own_service_manager() {
    let place = Place::new();
    let bin = place.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let manager = if cfg!(target_os = "macos") {
        "launchctl"
    } else {
        "systemctl"
    };
    // What launchctl prints of a service that runs.
    let script = "#!/bin/sh\necho \"$@\" >> calls\necho '\t\"PID\" = 1;'\n";
    std::fs::write(bin.join(manager), script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.join(manager), executable).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let said = |verb: &str, code: i32| {
        let output = place
            .command()
            .args(["service", verb, "--json"])
            .env("PATH", &path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let run = |verb: &str| said(verb, 0)["file"].as_str().unwrap().to_owned();
    let status = |code: i32| {
        let status = said("status", code);
        ["installed", "current", "active"].map(|word| status[word].as_bool().unwrap())
    };
    assert_eq!(status(1), [false; 3]);
    let file = run("install");
    assert_eq!(status(0), [true; 3]);
    std::fs::write(&file, "of another version").unwrap();
    assert_eq!(status(0), [true, false, true]);
    run("install");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(env!("CARGO_BIN_EXE_cbroker")) && text.contains("serve"),
        "{text}"
    );
    assert!(text.contains(place.home().to_str().unwrap()), "{text}");
    run("uninstall");
    assert!(!std::path::Path::new(&file).exists());
    assert_eq!(status(1), [false; 3]);
    run("uninstall");
    let calls = std::fs::read_to_string(place.path().join("calls")).unwrap();
    assert!(
        calls.contains("enable --now") && calls.contains("disable --now") || manager == "launchctl",
        "{calls}"
    );
    let last = calls.lines().last().unwrap();
    assert!(
        last.ends_with("daemon-reload") || manager == "launchctl",
        "the manager forgets the file that is gone: {calls}"
    );
}

#[test]
fn a_service_is_uninstalled_where_no_service_manager_can_be_reached() {
    // The file stayed, and every run failed.
    let place = Place::new();
    let bin = place.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = "#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n";
    for manager in ["launchctl", "systemctl"] {
        std::fs::write(bin.join(manager), script).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.join(manager), executable).unwrap();
    }
    let run = |verb: &str| {
        let mut command = place.command();
        let command = command.args(["service", verb]).env("PATH", &bin);
        Ran::of(&command.output().unwrap())
    };
    run("install").fails(1, "the service manager refused a command");
    let ran = run("uninstall");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("removed "), "{ran:?}");
    let words = ["Failed to connect to bus", "may still run"];
    assert!(words.iter().all(|word| ran.err.contains(word)), "{ran:?}");
    assert_eq!(run("uninstall").out, "no service is installed\n");
}
