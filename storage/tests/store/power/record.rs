//! The record of what a program did to the files of one folder, and the disks that a power cut may
//! leave of it. Tests of the store and tests of the broker read such records.

#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers, chosen by tests"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::random::Random;

const SECTORS: [u64; 2] = [512, 4096];

/// One change of a file.
pub(crate) enum Op {
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

/// A change of the file or folder `path`.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) op: Op,
}

/// Reads all entries that are whole; the program may be writing the last one.
pub(crate) fn parse(record: &[u8]) -> Vec<Entry> {
    let mut rest = record;
    std::iter::from_fn(|| next(&mut rest)).collect()
}

fn next(rest: &mut &[u8]) -> Option<Entry> {
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        *rest = left;
        Some(taken.to_vec())
    };
    let kind = take(1)?[0];
    let length = u32::from_be_bytes(take(4)?.try_into().ok()?) as usize;
    let path = String::from_utf8(take(length)?).unwrap();
    let number = u64::from_be_bytes(take(8)?.try_into().ok()?);
    let length = u32::from_be_bytes(take(4)?.try_into().ok()?) as usize;
    let data = take(length)?;
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
    Some(Entry { path, op })
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
pub(crate) struct Platter {
    inodes: Vec<Inode>,
    names: Names,
    /// What the names may be after a cut, oldest first; the first is certain.
    possible: Vec<Names>,
}

impl Platter {
    /// Carries out one change.
    pub(crate) fn follow(&mut self, entry: &Entry) {
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

    /// Makes in `target` one of the disks that a cut may leave of the folder `folder` in `root`.
    pub(crate) fn cut(&self, random: &mut Random, (root, folder): (&str, &str), target: &Path) {
        let names = match self.possible.len() {
            0 => return,
            count => &self.possible[random.below(count as u64) as usize],
        };
        let everything = random.below(8) == 0;
        let sector = SECTORS[random.below(2) as usize];
        for (name, inode) in names
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("{root}/{folder}")))
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

/// Lets `command` record what it does in `folder`, in the file `record`.
pub(crate) fn record_into(command: &mut Command, folder: &Path, record: &Path) {
    command
        .env("LD_PRELOAD", shim())
        .env("CBROKER_POWER_ROOT", folder)
        .env("CBROKER_POWER_LOG", record);
}

/// The library, where cargo puts what an example builds. A test program alone does not build it.
fn shim() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(2).unwrap();
    let library = target.join("examples").join("libpower_shim.so");
    if !library.exists() {
        let folder = target.file_name().unwrap().to_str().unwrap();
        let profile = if folder == "debug" { "dev" } else { folder };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--workspace", "--example", "power_shim"]);
        cargo.args(["--profile", profile]);
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success());
    }
    library
}
