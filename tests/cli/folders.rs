//! Folders of other users: cbroker neither uses them nor changes their rights.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Ran, Server};

/// A folder that all users may read, with a file of another user in it.
fn foreign_folder(place: &Place) -> std::path::PathBuf {
    let folder = place.path().join("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs a command that has to end by itself.
fn ended(command: &mut Command) -> Ran {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ran::of(&child.wait_with_output().unwrap())
}

fn assert_untouched(folder: &std::path::Path) {
    let mode = std::fs::metadata(folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "its rights are as before");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn a_data_dir_of_somebody_else_s_files_is_refused_and_keeps_its_rights() {
    let place = Place::new();
    let folder = foreign_folder(&place);
    let name = folder.to_str().unwrap();
    let serve = [
        "serve",
        "--port",
        "0",
        "--mgmt-port",
        "0",
        "--data-dir",
        name,
    ];
    let ran = ended(place.command().args(serve));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(
        ran.err.contains(name) && ran.err.contains("it holds `notes.txt`"),
        "{ran:?}"
    );
    assert_untouched(&folder);
}

#[test]
fn a_config_file_in_a_home_that_everybody_may_write_to_is_not_believed() {
    let place = Place::new();
    let home = place.path().join("shared");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("config.toml"), "url = \"amqp://x:y@planted\"\n").unwrap();
    std::fs::set_permissions(&home, Permissions::from_mode(0o777)).unwrap();
    for arguments in [&["list"][..], &["config"], &["start"]] {
        let mut command = place.command();
        let ran = ended(command.env("CBROKER_HOME", &home).args(arguments));
        assert_eq!(ran.code, 1, "{arguments:?} {ran:?}");
        assert!(
            ran.err.contains("every user of this machine may write"),
            "{ran:?}"
        );
        assert!(!ran.err.contains("planted"), "{ran:?}");
    }
}

#[test]
fn a_home_of_somebody_else_s_files_is_refused_by_every_command_and_keeps_its_rights() {
    let place = Place::new();
    let folder = foreign_folder(&place);
    for arguments in [
        &["serve", "--port", "0", "--mgmt-port", "0"][..],
        &["start"],
        &["send", "--to", "a", "-m", "x"],
        &["list"],
        &["nuke", "--yes"],
        &["--name", "a", "--no-fallback", "run", "--", "true"],
    ] {
        let mut command = place.command();
        let ran = ended(command.env("CBROKER_HOME", &folder).args(arguments));
        assert_eq!(ran.code, 1, "{arguments:?} {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{arguments:?} {ran:?}");
        assert!(ran.err.contains("it holds `notes.txt`"), "{ran:?}");
        assert_untouched(&folder);
    }
    let mut doctor = place.command();
    let ran = ended(doctor.env("CBROKER_HOME", &folder).arg("doctor"));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.out.contains("✗ home") && ran.out.contains("it holds `notes.txt`"),
        "{ran:?}"
    );
    assert!(
        ran.out.contains(" environment "),
        "the other checks go on: {ran:?}"
    );
    assert!(!ran.out.contains("/nonexistent"), "{ran:?}");
    assert_untouched(&folder);
    let mut wrap = place.command();
    let wrap = wrap
        .env("CBROKER_HOME", &folder)
        .args(["--name", "a", "run", "--", "sh", "-c", "exit 7"]);
    let ran = ended(wrap);
    assert_eq!(ran.code, 7, "the program runs without messages: {ran:?}");
    assert_untouched(&folder);
}

#[test]
fn a_store_that_was_copied_without_its_hidden_files_is_served() {
    // It was refused as somebody else's: it holds `log`.
    let place = Place::new();
    let mut server = Server::start(&place);
    place.ok(["send", "--to", "backend", "-m", "from the backup"]);
    server.kill();
    let copy = place.path().join("restored");
    std::fs::create_dir(&copy).unwrap();
    let script = "cp -r \"$1\"/* \"$2\"";
    let mut copying = Command::new("sh");
    let copying = copying.args(["-c", script, "sh"]);
    let copied = copying.arg(place.home().join("data")).arg(&copy).status();
    assert!(copied.unwrap().success());
    let more = ["--data-dir", copy.to_str().unwrap()];
    let _server = Server::start_with(&place, 0, 0, &more);
    let row = place.listed("backend").unwrap();
    assert_eq!(row["pending"], 1, "{row}");
}

#[test]
fn doctor_names_only_what_mends_a_home_that_is_a_file() {
    // It said "correct that line", showed a store that there is not, and advised `cbroker start`.
    let place = Place::new();
    std::fs::write(place.home(), "").unwrap();
    let ran = place.run(["doctor"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for wrong in ["/nonexistent", "correct that line", "cbroker start"] {
        assert!(!ran.out.contains(wrong), "{wrong}: {}", ran.out);
    }
    assert!(ran.out.contains("✗ home"), "{}", ran.out);
    assert!(!ran.out.contains("✗ config"), "{}", ran.out);
}

#[test]
fn profiles_in_a_home_that_everybody_may_write_to_are_not_read() {
    let place = Place::new();
    let home = place.path().join("shared");
    std::fs::create_dir_all(home.join("agents")).unwrap();
    // Whoever reads it waits for a writer.
    let pipe = home.join("agents/planted.toml");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    std::fs::set_permissions(&home, Permissions::from_mode(0o777)).unwrap();
    let ran = ended(place.command().env("CBROKER_HOME", &home).arg("--help"));
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Every command refused it: it could have been another program's folder.
#[test]
fn a_usual_home_may_hold_profiles_before_the_first_start() {
    let place = Place::new();
    let agents = place.path().join(".cbroker/agents");
    std::fs::create_dir_all(&agents).unwrap();
    std::fs::write(agents.join("duckling.toml"), "programs = [\"duckling\"]\n").unwrap();
    let mut config = place.command();
    config.env_remove("CBROKER_HOME").env("HOME", place.path());
    let ran = ended(config.arg("config"));
    assert_eq!(ran.code, 0, "{ran:?}");
}
