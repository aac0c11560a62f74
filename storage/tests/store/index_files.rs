//! Damage to sled's own files: a damaged snapshot costs the snapshot alone, and what is set aside
//! is bounded.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use storage::engine::open_sled;
use storage::{Options, QueueId};

use crate::support::{close, fill, open_with, read_all};

const QUEUE: QueueId = QueueId(1);
const COUNT: u64 = 50;

fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(prefix)
    });
    paths
}

fn damage(path: &Path) {
    let length = fs::read(path).unwrap().len();
    fs::write(path, vec![0x5A; length]).unwrap();
}

/// Damages every row of a sound index.
fn damage_rows(index: &Path) {
    let engine = open_sled(index).unwrap();
    let mut changes = Vec::new();
    let mut visit = |key: &[u8], value: Bytes| {
        let flipped = value.iter().map(|byte| byte ^ 1).collect();
        changes.push((key.to_vec(), Some(flipped)));
        ControlFlow::Continue(())
    };
    engine.scan(&[], &[u8::MAX], &mut visit).unwrap();
    engine.commit(&changes).unwrap();
}

/// Opens, reads everything back, closes. Returns the repairs.
fn reopened(folder: &Path) -> Vec<String> {
    let (opened, _) = open_with(folder, Options::default());
    assert_eq!(opened.report.losses, [""; 0]);
    let all: Vec<u64> = (0..COUNT).collect();
    assert_eq!(read_all(&opened.store, QUEUE, 30), all);
    let repairs = opened.report.repairs.clone();
    // Before that a last checkpoint may use the index.
    close(opened.store, folder);
    repairs
}

fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (opened, _) = open_with(folder.path(), Options::default());
    fill(&opened.store, QUEUE, 0..COUNT, 30);
    close(opened.store, folder.path());
    folder
}

#[test]
fn a_damaged_snapshot_of_the_index_costs_the_snapshot_alone() {
    let folder = filled();
    // Opening writes the snapshot.
    reopened(folder.path());
    let snapshots = files(&folder.path().join("index"), "snap.");
    assert!(!snapshots.is_empty());
    for snapshot in &snapshots {
        damage(snapshot);
    }
    let repairs = reopened(folder.path());
    assert!(
        repairs.iter().any(|line| line.contains("snapshot")),
        "{repairs:?}"
    );
    assert!(
        !repairs.iter().any(|line| line.contains("the log was read")),
        "{repairs:?}"
    );
    assert_eq!(reopened(folder.path()), [""; 0]);
}

#[test]
fn only_a_few_damaged_indexes_are_kept() {
    let folder = filled();
    for round in 0..6 {
        damage_rows(&folder.path().join("index"));
        let repairs = reopened(folder.path());
        let is_told = repairs.iter().any(|line| line.contains("the log was read"));
        assert!(is_told, "round {round}: {repairs:?}");
    }
    let aside = folder.path().join("set-aside");
    let (indexes, snapshots) = (files(&aside, "index-"), files(&aside, "snap."));
    assert_eq!(indexes.len(), 3, "{indexes:?}");
    assert!(snapshots.len() <= 3, "{snapshots:?}");
}
