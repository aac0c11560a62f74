//! A crash while a user or a vhost is deleted: what is left is all of it with its rights, or
//! nothing. Half of it could later give rights to a user who should have none.
//!
//! The log of the store is cut at many places within what the deletion wrote, as a crash would.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::Server;

/// Places at which the log is cut.
const CUTS: usize = 8;

/// The files of a folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// Writes the files into a new folder. The log's are mostly zeros that were never written.
fn unpacked(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join("data").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0);
        file.write_all(&bytes[..used.map_or(0, |last| last + 1)])
            .unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }
    folder
}

/// What a crash may leave of what `act` does: the files before it, with ever more of its writes to
/// the log.
fn crashes(server: &Server, act: impl FnOnce()) -> Vec<Files> {
    let before = files(&server.data());
    act();
    let after = files(&server.data());
    let is_log = |name: &Path| name.extension().is_some_and(|kind| kind == "log");
    let mut logs = after.iter().filter(|(name, bytes)| {
        is_log(name) && before.get(*name).is_some_and(|known| known != *bytes)
    });
    let (name, new) = logs.next().expect("the log has grown");
    assert_eq!(logs.next(), None, "it is all in one file");
    let old = &before[name];
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let first = (0..new.len()).find(differs).unwrap();
    let last = (0..new.len()).rev().find(differs).unwrap();
    let cuts = (0..=CUTS).map(|cut| first + (last + 1 - first) * cut / CUTS);
    let cut_at = |at: usize| {
        let mut files = before.clone();
        let whole = new[..at].iter().chain(&old[at.min(old.len())..]);
        files.insert(name.clone(), whole.copied().collect());
        files
    };
    cuts.map(cut_at).collect()
}

/// Vhosts that bob may enter beside `/` and `v`, and queues in `v`. So many that the store begins a
/// commit of the first records while the last ones are still to come.
const MANY: usize = 100;

/// A broker with the vhost `v` and the user `bob`, who may do everything there and in many others.
fn with_bob() -> Server {
    let server = Server::start();
    let others = (0..MANY).map(|number| format!("v{number}"));
    let vhosts: Vec<_> = others.chain(["v".to_owned()]).collect();
    let permission = |vhost: &str| {
        json!({
            "user": "bob", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*",
        })
    };
    let permissions: Vec<_> = vhosts.iter().map(|vhost| permission(vhost)).collect();
    let queue = |number: usize| {
        let name = format!("q{number}");
        json!({
            "name": name, "vhost": "v", "durable": true, "auto_delete": false, "arguments": {},
        })
    };
    let document = json!({
        "users": [{ "name": "bob", "password": "pw", "tags": "management" }],
        "vhosts": vhosts.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "permissions": permissions,
        "queues": (0..MANY).map(queue).collect::<Vec<_>>(),
    });
    let imported = server.ask("POST", "/api/definitions", &document.to_string());
    assert!(imported.status < 300, "{imported:?}");
    server
}

fn is_there(server: &Server, path: &str) -> bool {
    server.get(path).status == 200
}

/// How many things a list of the API has that are bob's or in the vhost `v`; 0 without the list.
fn count(server: &Server, path: &str) -> usize {
    let answer = server.get(path);
    if answer.status == 404 {
        return 0;
    }
    let all = answer.json();
    let is_meant = |one: &&Value| one["user"] == "bob" || one["name"].is_string();
    all.as_array().unwrap().iter().filter(is_meant).count()
}

#[test]
fn a_new_user_with_a_deleted_users_name_has_none_of_its_rights_after_a_crash() {
    let server = with_bob();
    let states = crashes(&server, || {
        assert_eq!(server.ask("DELETE", "/api/users/bob", "").status, 204);
    });
    let rights = "/api/users/bob/permissions";
    let mut gone = 0;
    for state in &states {
        let server = Server::start_in(unpacked(state));
        if is_there(&server, "/api/users/bob") {
            assert_eq!(count(&server, rights), MANY + 1);
            continue;
        }
        gone += 1;
        let other = r#"{"password":"pw","tags":""}"#;
        assert_eq!(server.ask("PUT", "/api/users/bob", other).status, 201);
        let server = server.restart();
        assert_eq!(count(&server, rights), 0);
    }
    assert!(
        0 < gone && gone < states.len(),
        "{gone} of {}",
        states.len()
    );
}

#[test]
fn a_vhost_under_the_name_of_a_deleted_one_lets_nobody_in_whenever_the_broker_crashed() {
    let server = with_bob();
    let states = crashes(&server, || {
        assert_eq!(server.ask("DELETE", "/api/vhosts/v", "").status, 204);
    });
    let parts = |server: &Server| {
        let rights = count(server, "/api/vhosts/v/permissions");
        (rights, count(server, "/api/queues/v"))
    };
    let mut gone = 0;
    for state in &states {
        let server = Server::start_in(unpacked(state));
        if is_there(&server, "/api/vhosts/v") {
            assert_eq!(parts(&server), (1, MANY));
            continue;
        }
        gone += 1;
        assert_eq!(server.ask("PUT", "/api/vhosts/v", "").status, 201);
        let server = server.restart();
        assert_eq!(count(&server, "/api/vhosts/v/permissions"), 0);
        assert!(!is_there(&server, "/api/queues/v/q0"));
    }
    assert!(
        0 < gone && gone < states.len(),
        "{gone} of {}",
        states.len()
    );
}
