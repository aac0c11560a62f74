//! Power cuts: what a disk may hold when the current fails, built from a record of every write,
//! and opened.
//!
//! A child runs a store on real files, sled included, with a library preloaded that records each
//! change of a file ([`power_shim`]). A file keeps what it held at its last sync, and of the
//! later writes a prefix or any subset, each possibly torn at 512 or 4096 bytes. Names change in
//! order, and those after the last sync of their folder may be missing. `faults.rs` cuts the
//! power at every single operation of the log.
//!
//! [`power_shim`]: ../../examples/power_shim.rs

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{command, follow, length_of, options};
use crate::model::Model;
use crate::random::Random;
use crate::support::open_with;

/// Cuts of one record; `CBROKER_SOAK_RECORDS` asks for more records (`just soak`).
const CUTS: u64 = 320;
const SECTORS: [u64; 2] = [512, 4096];

enum Op {
    Create {
        is_cut: bool,
    },
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Length(u64),
    /// With the length that the file had: allocated blocks are no write.
    Sync(u64),
    Rename(String),
    Remove,
}

struct Entry {
    path: String,
    op: Op,
}

fn parse(log: &[u8]) -> Vec<Entry> {
    let mut rest = log;
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at(length);
        rest = left;
        (taken.to_vec(), left.is_empty())
    };
    let mut entries = Vec::new();
    loop {
        let kind = take(1).0[0];
        let length = u32::from_be_bytes(take(4).0.try_into().unwrap()) as usize;
        let path = String::from_utf8(take(length).0).unwrap();
        let number = u64::from_be_bytes(take(8).0.try_into().unwrap());
        let length = u32::from_be_bytes(take(4).0.try_into().unwrap()) as usize;
        let (data, is_last) = take(length);
        let op = match kind {
            b'c' => Op::Create {
                is_cut: number == 1,
            },
            b'w' => Op::Write {
                offset: number,
                data,
            },
            b't' => Op::Length(number),
            b's' => Op::Sync(number),
            b'r' => Op::Rename(String::from_utf8(data).unwrap()),
            b'u' => Op::Remove,
            other => panic!("an entry of kind {other}"),
        };
        entries.push(Entry { path, op });
        if is_last {
            return entries;
        }
    }
}

/// A change of bytes that no sync has covered yet.
#[derive(Clone)]
enum Loose {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// One file: what is surely on disk, and what may be.
#[derive(Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    loose: Vec<Loose>,
}

impl Inode {
    fn sync(&mut self, length: u64) {
        for change in std::mem::take(&mut self.loose) {
            apply(&mut self.synced, &change);
        }
        let length = self.synced.len().max(length as usize);
        self.synced.resize(length, 0);
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Loose) {
    match change {
        Loose::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Loose::Length(length) => bytes.resize(*length as usize, 0),
    }
}

type Names = BTreeMap<String, usize>;

/// The disk as it follows the record: names now, names after each change since their folder was
/// last synced.
#[derive(Default)]
struct Platter {
    inodes: Vec<Inode>,
    names: Names,
    /// What the names may be after a cut, oldest first; the first is certain.
    possible: Vec<Names>,
}

impl Platter {
    fn follow(&mut self, entry: &Entry) {
        if self.possible.is_empty() {
            self.possible.push(Names::new());
        }
        let known = self.names.get(&entry.path).copied();
        match (&entry.op, known) {
            (Op::Create { is_cut: true }, Some(inode)) => {
                self.inodes[inode].loose.push(Loose::Length(0));
            }
            (Op::Create { .. }, Some(_)) => {}
            (Op::Create { .. }, None) => {
                self.inodes.push(Inode::default());
                self.names.insert(entry.path.clone(), self.inodes.len() - 1);
                self.possible.push(self.names.clone());
            }
            (Op::Write { offset, data }, Some(inode)) => self.inodes[inode]
                .loose
                .push(Loose::Write(*offset, data.clone())),
            (Op::Length(length), Some(inode)) => {
                self.inodes[inode].loose.push(Loose::Length(*length));
            }
            (Op::Sync(length), Some(inode)) => self.inodes[inode].sync(*length),
            (Op::Rename(target), Some(inode)) => {
                self.names.remove(&entry.path);
                self.names.insert(target.clone(), inode);
                self.possible.push(self.names.clone());
            }
            (Op::Remove, Some(_)) => {
                self.names.remove(&entry.path);
                self.possible.push(self.names.clone());
            }
            (Op::Rename(target), None) => self.rename_folder(&entry.path, target),
            // A folder: all its names are certain now. Nested ones count as one, which the store
            // syncs together.
            (Op::Sync(_), None) => self.possible = vec![self.names.clone()],
            (_, None) => panic!("{} was changed before it was there", entry.path),
        }
    }

    fn rename_folder(&mut self, from: &str, to: &str) {
        let from = format!("{from}/");
        let inside = |path: &str| Some(format!("{to}/{}", path.strip_prefix(&from)?));
        let names = std::mem::take(&mut self.names);
        self.names = names
            .into_iter()
            .map(|(path, inode)| (inside(&path).unwrap_or(path), inode))
            .collect();
        self.possible.push(self.names.clone());
    }

    /// Writes down one of the disks that a cut may leave.
    fn cut(&self, random: &mut Random, root: &str, target: &Path) {
        let names = match self.possible.len() {
            0 => return,
            count => &self.possible[random.below(count as u64) as usize],
        };
        let everything = random.below(8) == 0;
        let sector = SECTORS[random.below(2) as usize];
        for (name, inode) in names
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("{root}/store")))
        {
            let inode = &self.inodes[*inode];
            let mut bytes = inode.synced.clone();
            let is_prefix = random.below(2) == 0;
            let kept = random.below(inode.loose.len() as u64 + 1) as usize;
            for (index, change) in inode.loose.iter().enumerate() {
                let is_kept = everything
                    || if is_prefix {
                        index < kept
                    } else {
                        random.below(2) == 0
                    };
                match change {
                    _ if !(is_kept || is_prefix && index == kept) => {}
                    Loose::Write(offset, data) if !everything && random.below(3) == 0 => {
                        tear(&mut bytes, (*offset, data), sector, random);
                    }
                    change if is_kept => apply(&mut bytes, change),
                    _ => {}
                }
            }
            let path = target.join(name.strip_prefix(&format!("{root}/")).unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// Writes some of the sectors.
fn tear(bytes: &mut Vec<u8>, (offset, data): (u64, &[u8]), sector: u64, random: &mut Random) {
    let is_prefix = random.below(2) == 0;
    let sectors = (offset + data.len() as u64).div_ceil(sector) - offset / sector;
    let kept = random.below(sectors + 1);
    let mut at = 0;
    for index in 0..sectors {
        let end =
            (((offset / sector) + index + 1) * sector - offset).min(data.len() as u64) as usize;
        if if is_prefix {
            index < kept
        } else {
            random.below(2) == 0
        } {
            apply(
                bytes,
                &Loose::Write(offset + at as u64, data[at..end].to_vec()),
            );
        }
        at = end;
    }
}

/// The library, where cargo puts what an example builds. `cargo test --test store` alone does not
/// build it.
fn shim() -> PathBuf {
    let target = std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    let library = target.join("examples").join("libpower_shim.so");
    if !library.exists() {
        let folder = target.file_name().unwrap().to_str().unwrap();
        let profile = if folder == "debug" { "dev" } else { folder };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--quiet",
            "--example",
            "power_shim",
            "--profile",
            profile,
        ]);
        assert!(
            cargo
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap()
                .success()
        );
    }
    library
}

/// The same command with the recorder in it.
fn under_record<'c>(child: &'c mut Command, folder: &Path) -> &'c mut Command {
    child
        .env("LD_PRELOAD", shim())
        .env("CBROKER_POWER_ROOT", folder)
        .env("CBROKER_POWER_LOG", folder.join("../record"))
}

/// Runs the child to its end with the recorder in it, three times on the same folder.
fn recorded(folder: &Path, seed: u64) -> Vec<Entry> {
    for session in 0..3 {
        let mut child = command(folder, seed * 3 + session, 350);
        let ran = under_record(&mut child, folder).output();
        assert!(ran.unwrap().status.success());
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
        platter.cut(&mut Random(number as u64 * 7 + 3 + seed), root, &target);
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
