//! `serve`: who can log in, how it stops, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::process::arguments;
use crate::support::{Place, Ran, Server, certificate, free_port, skip, wait_until};

#[test]
fn the_first_start_makes_a_password_that_only_the_user_can_read() {
    let place = Place::new();
    let server = Server::start(&place);
    let mode = |name: &str| {
        fs::metadata(place.home().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("credentials"), 0o600);
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("data"), 0o700);
    let command_line = arguments(server.pid());
    assert!(command_line.contains("serve"), "{command_line}");
    let credentials = fs::read_to_string(place.home().join("credentials")).unwrap();
    let password = credentials
        .lines()
        .find_map(|line| line.strip_prefix("password = "))
        .unwrap()
        .trim_matches('"');
    assert!(!command_line.contains(password));
    place.ok([
        "send",
        "--to",
        "a",
        "-m",
        "the commands use it by themselves",
    ]);
}

#[test]
fn guest_and_strangers_are_refused_and_allow_guest_lets_guest_in() {
    let place = Place::new();
    let server = Server::start(&place);
    for login in ["guest:guest", "cbroker:wrong", "nobody:x"] {
        let url = format!("amqp://{login}@localhost:{}", server.port);
        let user = login.split(':').next().unwrap();
        place
            .run(["send", "--url", &url, "--to", "a", "-m", "x"])
            .fails(
                3,
                &format!(
                    "the broker at amqp://{user}:***@localhost:{} refused",
                    server.port
                ),
            );
    }
    drop(server);
    let server = Server::start_with(&place, 0, 0, &["--allow-guest"]);
    place.ok([
        "send",
        "--url",
        &format!("amqp://guest:guest@localhost:{}", server.port),
        "--to",
        "a",
        "-m",
        "x",
    ]);
}

#[test]
fn signals_end_it_cleanly_and_a_hangup_does_not() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&place);
        server.signal(Signal::HUP);
        place.ok(["send", "--to", "kept", "-m", "x"]);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0));
        assert!(
            !place.home().join("broker.json").exists(),
            "a clean end takes its record away"
        );
    }
    let _server = Server::start(&place);
    assert_eq!(place.listed("kept").unwrap()["pending"], 2);
}

#[test]
fn a_stop_does_not_wait_for_what_a_request_has_it_work_out() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let user = |number: usize| format!(r#"{{"name":"u{number}","password":"p","tags":""}}"#);
    let users: Vec<_> = (0..100_000).map(user).collect();
    let document = format!(r#"{{"users":[{}]}}"#, users.join(","));
    // Each password takes 4096 rounds of a hash.
    let request = server.own_request(&place, "POST", "/api/definitions");
    let import = request.open(&document);
    std::thread::sleep(std::time::Duration::from_secs(1));
    server.signal(Signal::TERM);
    wait_until(
        || server.try_wait().is_some(),
        || "the broker waits for the import".to_owned(),
    );
    drop(import);
}

#[test]
fn beyond_loopback_it_requires_tls_or_insecure() {
    let place = Place::new();
    place
        .run([
            "serve",
            "--bind",
            "0.0.0.0",
            "--port",
            "0",
            "--mgmt-port",
            "0",
        ])
        .fails(2, "0.0.0.0 is reachable from other machines")
        .hints("--insecure");
    let _server = Server::start_with(&place, 0, 0, &["--bind", "0.0.0.0", "--insecure"]);
    place.ok(["send", "--to", "a", "-m", "x"]);
}

#[test]
fn two_brokers_do_not_share_a_store_or_a_port() {
    let place = Place::new();
    let server = Server::start(&place);
    place
        .run(["serve", "--port", "0", "--mgmt-port", "0"])
        .fails(1, "the broker cannot start: cannot open the message store");
    let port = server.port.to_string();
    let other = Place::new();
    other
        .run(["serve", "--port", &port, "--mgmt-port", "0"])
        .fails(1, &format!("port {port} is in use"))
        .hints("--port");
    assert!(
        place.home().join("broker.json").exists(),
        "the first one is still known"
    );
}

#[test]
fn it_may_open_as_many_files_as_the_system_allows() {
    if cfg!(not(target_os = "linux")) {
        eprintln!("skipped: this system does not tell the limits of another process");
        return;
    }
    let place = Place::new();
    let own = place.command();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 256; exec \"$0\" \"$@\""]);
    command.arg(own.get_program()).env_clear();
    command.envs(
        own.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let server = Server::start_by(command, 0, 0, &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3], words[4], "{words:?}");
}

#[test]
fn the_store_may_lie_elsewhere() {
    let place = Place::new();
    let folder = place.path().join("elsewhere");
    let (port, management) = (free_port(), free_port());
    let more = ["--data-dir", folder.to_str().unwrap()];
    let mut server = Server::start_with(&place, port, management, &more);
    place.ok(["send", "--to", "a", "-m", "x"]);
    server.kill();
    assert!(folder.is_dir() && !place.home().join("data").exists());
    let _server = Server::start_with(&place, port, management, &more);
    assert_eq!(place.listed("a").unwrap()["pending"], 1);
}

#[test]
fn the_doctor_finds_what_is_wrong_and_how_to_mend_it() {
    let place = Place::new();
    let agents = place.path().join("bin");
    fs::create_dir(&agents).unwrap();
    // Any of the known agents will do.
    fs::write(agents.join("codex"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(agents.join("codex"), fs::Permissions::from_mode(0o755)).unwrap();
    let doctor = |path: &str| {
        let mut command = place.command();
        let output = command
            .args(["doctor", "--json"])
            .env("PATH", path)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let wrong: Vec<String> = findings
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["ok"] == false)
            .map(|finding| {
                assert!(finding["mend"].is_string(), "{finding}");
                finding["check"].as_str().unwrap().to_owned()
            })
            .collect();
        (output.status.code().unwrap(), wrong)
    };
    let path = agents.to_str().unwrap();
    let (code, wrong) = doctor(path);
    assert_eq!(code, 1);
    assert!(
        ["broker", "round trip"]
            .iter()
            .all(|check| wrong.contains(&(*check).to_owned())),
        "{wrong:?}"
    );
    let _server = Server::start(&place);
    wait_until(
        || doctor(path) == (0, vec![]),
        || format!("{:?}", doctor(path)),
    );
    let finds = |path: &str, check: &str| {
        wait_until(
            || doctor(path) == (1, vec![check.to_owned()]),
            || format!("{check}: {:?}", doctor(path)),
        );
    };
    finds("/nowhere", "agent");
    fs::set_permissions(
        place.home().join("credentials"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    finds(path, "credentials");
}

#[test]
fn the_doctor_goes_on_where_the_configuration_is_broken() {
    let place = Place::new();
    let server = Server::start(&place);
    let settings = place.home().join("config.toml");
    fs::write(&settings, "autostart = true\nttl = \n").unwrap();
    place
        .run(["list"])
        .fails(2, &format!("{} line 2", settings.display()));
    let ran = place.run(["doctor"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.out.contains("✗ config") && ran.out.contains("line 2"),
        "{ran:?}"
    );
    for check in ["home", "credentials", "broker", "round trip", "management"] {
        assert!(ran.out.contains(&format!("✓ {check} ")), "{check}: {ran:?}");
    }
    drop(server);
    // A file where the folder should be.
    let mut nowhere = place.command();
    nowhere
        .env("CBROKER_HOME", &settings)
        .args(["doctor", "--json"]);
    let ran = Ran::of(&nowhere.output().unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    let findings: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let of = |check: &str| {
        let all = findings.as_array().unwrap();
        all.iter()
            .find(|finding| finding["check"] == check)
            .cloned()
    };
    assert_eq!(of("home").unwrap()["ok"], false, "{findings}");
    assert_eq!(of("environment").unwrap()["ok"], true, "{findings}");
    // Neither HOME nor CBROKER_HOME.
    let mut homeless = place.command();
    homeless
        .env_remove("CBROKER_HOME")
        .env_remove("HOME")
        .arg("doctor");
    let ran = Ran::of(&homeless.output().unwrap());
    assert!(ran.code == 1 && ran.out.contains("✗ home"), "{ran:?}");
}

#[test]
fn over_tls_the_certificate_must_be_trusted() {
    let place = Place::new();
    let Some(paths) = certificate(place.path()) else {
        skip("openssl is not there");
        return;
    };
    let [certificate, key] = [paths.0, paths.1].map(|path| path.to_str().unwrap().to_owned());
    let port = free_port().to_string();
    let more = [
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--tls-port",
        &port,
    ];
    let _server = Server::start_with(&place, 0, 0, &more);
    let url = format!("amqps://localhost:{port}");
    place.ok([
        "send",
        "--url",
        &url,
        "--ca-cert",
        &certificate,
        "--to",
        "a",
        "-m",
        "under TLS",
    ]);
    place
        .run(["send", "--url", &url, "--to", "a", "-m", "x"])
        .fails(3, &format!("the certificate of {url} is not trusted"))
        .hints("--ca-cert");
    let plain = format!("amqp://localhost:{port}");
    place
        .run(["send", "--url", &plain, "--to", "a", "-m", "x"])
        .fails(3, &format!("{plain} does not speak AMQP"))
        .hints("amqps://");
}
