//! Power cuts: what a disk may hold when the current fails, built from a record of every write,
//! and opened.
//!
//! A child runs a store on real files, sled included, with a library preloaded that records each
//! change of a file ([`power_shim`], [`record`]). A file keeps what it held at its last sync, and
//! of the later writes a prefix or any subset, each possibly torn at 512 or 4096 bytes. Names
//! change in order, and those after the last sync of their folder may be missing. `faults.rs` cuts
//! the power at every single operation of the log.
//!
//! [`power_shim`]: ../../examples/power_shim.rs

mod record;

use std::path::Path;

use crate::child::{command, follow, length_of, options};
use crate::model::Model;
use crate::random::{self, Random};
use crate::support::open_with;
use record::{Entry, Op, Platter, parse, record_into};

/// Cuts of one record; `CBROKER_SOAK_RECORDS` asks for more records (`just soak`).
const CUTS: u64 = 320;

/// Runs the child to its end with the recorder in it, three times on the same folder.
fn recorded(folder: &Path, seed: u64) -> Vec<Entry> {
    for session in 0..3 {
        let mut child = command(folder, seed * 3 + session, 350);
        record_into(&mut child, folder, &folder.join("../record"));
        assert!(child.output().unwrap().status.success());
    }
    parse(&std::fs::read(folder.join("../record")).unwrap())
}

#[test]
fn nothing_confirmed_is_lost_when_the_power_fails() {
    let records =
        std::env::var("CBROKER_SOAK_RECORDS").map_or(1, |records| records.parse().unwrap());
    (0..records).for_each(cut_one_record);
}

fn cut_one_record(seed: u64) {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let entries = recorded(&folder, 77 + seed);
    let mut cuts = Random(0xC07 + seed);
    let mut at: Vec<u64> = (0..CUTS)
        .map(|_| cuts.below(entries.len() as u64))
        .collect();
    at.sort_unstable();
    let confirmed = check_cuts(&folder, &entries, &at, seed);
    assert!(confirmed > 0, "no cut came after a commit");
}

/// Builds what each cut may leave and opens it. Returns how much was confirmed, over all of them.
fn check_cuts(folder: &Path, entries: &[Entry], at: &[u64], seed: u64) -> u64 {
    let root = folder.to_str().unwrap();
    // What the child wrote down of its own calls, which is no file of the store's.
    let diary = format!("{root}/journal");
    let mut platter = Platter::default();
    let mut journal = String::new();
    let mut done = 0;
    let mut confirmed = 0;
    for (number, cut) in at.iter().enumerate() {
        for entry in &entries[done..*cut as usize] {
            match &entry.op {
                Op::Write { data, .. } if entry.path == diary => {
                    journal.push_str(std::str::from_utf8(data).unwrap());
                }
                _ if entry.path == diary => {}
                _ => platter.follow(entry),
            }
        }
        done = *cut as usize;
        let target = folder.join(format!("../cut-{number}"));
        std::fs::create_dir(&target).unwrap();
        let mut random = Random(number as u64 * 7 + 3 + seed);
        platter.cut(&mut random, (root, "store"), &target);
        let mut model = Model::default();
        let durable = follow(&journal, &mut model);
        confirmed += durable;
        let (opened, _progress) = open_with(&target.join("store"), options());
        let last = &entries[(*cut as usize).saturating_sub(1)].path;
        assert_eq!(
            opened.report.losses, [""; 0],
            "at cut {number}, operation {cut}, after a change of {last}: {:?}",
            opened.report.repairs
        );
        model.check(&opened, durable, length_of);
        drop(opened);
        std::fs::remove_dir_all(target).unwrap();
    }
    confirmed
}
