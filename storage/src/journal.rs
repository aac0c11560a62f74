//! A file of small commits, each one write and one sync: what sled needs two threads, two waits and whole pages for.
//!
//! The file has its full length from the beginning, so that a sync has bytes to wait for and no length. Records follow one another from
//! the start; all of one round carry the same number. When their changes have reached the rows, the next round begins at the start
//! again under a higher number, and what is left of the old one counts no more. `docs/storage.md` has the bytes.
//! Relies on nothing but [`Change`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::engine::{Change, sync_folder};

/// The whole file.
const FILE_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 4096;
/// Length, round and sum.
const HEAD_BYTES: usize = 16;
const DELETE: u8 = 0;
const PUT: u8 = 1;

/// The file, opened for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    round: u64,
    at: usize,
}

/// What a journal says.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Which round the records belong to; 0 where there are none.
    pub(crate) round: u64,
    /// Their changes, in order.
    pub(crate) changes: Vec<Change>,
    end: usize,
}

/// Reads the records of the round that stands at the start. A record that a crash tore ends them.
pub(crate) fn replay(path: &Path) -> io::Result<Replay> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Replay::default()),
        bytes => Ok(understand(&bytes?)),
    }
}

fn understand(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    while let Some((round, payload)) = record_at(bytes, replay.end) {
        if replay.round != 0 && round != replay.round {
            break;
        }
        let Some(changes) = decode(payload) else {
            break;
        };
        replay.round = round;
        replay.changes.extend(changes);
        replay.end += HEAD_BYTES + payload.len();
    }
    replay
}

/// Whether a whole record of a round stands behind what was replayed: then the one before it was not torn by a crash but damaged.
pub(crate) fn has_gap(path: &Path, replayed: &Replay, round: u64) -> io::Result<bool> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        bytes => bytes?,
    };
    let number = round.to_be_bytes();
    let begun = replayed.end..bytes.len().saturating_sub(HEAD_BYTES);
    let is_record = |at: usize| {
        bytes[at + 4..at + 12] == number && record_at(&bytes, at).is_some_and(|(of, _)| of == round)
    };
    Ok(round > 0 && begun.into_iter().any(is_record))
}

fn record_at(bytes: &[u8], at: usize) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<HEAD_BYTES>()?;
    let length = u32::from_be_bytes(*head.first_chunk()?) as usize;
    let round = u64::from_be_bytes(*head[4..].first_chunk()?);
    let payload = rest.get(..length)?;
    let is_whole = round > 0 && *head.last_chunk()? == sum(&head[..12], payload);
    is_whole.then_some((round, payload))
}

fn sum(head: &[u8], payload: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(head), payload).to_be_bytes()
}

/// Bytes that changes take in a record.
pub(crate) fn length_of<'a>(changes: impl Iterator<Item = &'a Change>) -> usize {
    let lengths = changes.map(|change| match change {
        Change::Put(key, value) => 7 + key.len() + value.len(),
        Change::Delete(key) => 3 + key.len(),
    });
    HEAD_BYTES + lengths.sum::<usize>()
}

fn encode<'a>(changes: impl Iterator<Item = &'a Change>, record: &mut Vec<u8>) {
    // Keys have at most 1,027 bytes and values 7,000.
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    for change in changes {
        let (kind, key) = match change {
            Change::Put(key, _) => (PUT, key),
            Change::Delete(key) => (DELETE, key),
        };
        record.push(kind);
        record.extend_from_slice(&short(key.len()));
        record.extend_from_slice(key);
        if let Change::Put(_, value) = change {
            let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
            record.extend_from_slice(&length.to_be_bytes());
            record.extend_from_slice(value);
        }
    }
}

fn decode(mut payload: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while let Some((kind, rest)) = payload.split_first() {
        let (length, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        payload = rest;
        if *kind == PUT {
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            payload = rest;
            changes.push(Change::Put(key.to_vec(), value.to_vec()));
        } else {
            changes.push(Change::Delete(key.to_vec()));
        }
    }
    Some(changes)
}

impl Journal {
    /// Opens the file where it is whole and makes it otherwise. Goes on behind what was replayed, or in a round of its own.
    pub(crate) fn open(path: &Path, replayed: &Replay, round: u64) -> io::Result<Self> {
        let is_whole = fs::metadata(path).is_ok_and(|found| found.len() == FILE_BYTES as u64);
        if !is_whole {
            make(path)?;
        }
        let file = OpenOptions::new().write(true).open(path)?;
        let at = if round == replayed.round {
            replayed.end
        } else {
            0
        };
        Ok(Self { file, round, at })
    }

    /// Whether a record of so many bytes still fits.
    pub(crate) fn has_room_for(&self, length: usize) -> bool {
        self.at + length <= FILE_BYTES
    }

    /// Writes one commit. Returns when it has reached the disk.
    pub(crate) fn append<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        record: &mut Vec<u8>,
    ) -> io::Result<()> {
        record.clear();
        record.extend_from_slice(&[0; HEAD_BYTES]);
        encode(changes, record);
        let length = u32::try_from(record.len() - HEAD_BYTES).unwrap_or(u32::MAX);
        let (head, payload) = record.split_at_mut(HEAD_BYTES);
        head[..4].copy_from_slice(&length.to_be_bytes());
        head[4..12].copy_from_slice(&self.round.to_be_bytes());
        let sum = sum(&head[..12], payload);
        head[12..].copy_from_slice(&sum);
        self.file.write_all_at(record, self.at as u64)?;
        self.file.sync_data()?;
        self.at += record.len();
        Ok(())
    }

    /// Begins the next round: what was written so far is in the rows for good.
    pub(crate) fn begin(&mut self, round: u64) {
        self.round = round;
        self.at = 0;
    }
}

/// Makes the file, all zeros, under its name only when it is whole.
fn make(path: &Path) -> io::Result<()> {
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    // In pieces: a page cache that takes the file as one page counts all of it as written whenever a byte is.
    let made = (0..FILE_BYTES)
        .step_by(PIECE_BYTES)
        .try_for_each(|at| file.write_all_at(&[0; PIECE_BYTES], at as u64))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| path.parent().map_or(Ok(()), sync_folder));
    if made.is_err() {
        // Half a file only takes room away; what stood under the name stands there still.
        let _ = fs::remove_file(&new);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(number: u8) -> Change {
        Change::Put(vec![number], vec![number; usize::from(number)])
    }

    fn journal(path: &Path, round: u64) -> Journal {
        Journal::open(path, &replay(path).unwrap(), round).unwrap()
    }

    #[test]
    fn commits_come_back_in_order_and_a_torn_one_ends_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = journal(&path, 1);
        let commits = [
            vec![put(1), Change::Delete(vec![9; 40])],
            vec![put(200)],
            vec![put(3)],
        ];
        for commit in &commits {
            journal.append(commit.iter(), &mut Vec::new()).unwrap();
        }
        let whole = replay(&path).unwrap();
        assert_eq!((whole.round, whole.changes), (1, commits.concat()));
        let bytes = fs::read(&path).unwrap()[..2 * journal.at].to_vec();
        for torn in 1..=journal.at {
            let mut bytes = bytes.clone();
            bytes[torn - 1] ^= 0x40;
            let left = understand(&bytes).changes;
            assert!(
                left.len() < 4 && commits.concat().starts_with(&left),
                "byte {torn}"
            );
        }
    }

    #[test]
    fn a_new_round_makes_the_old_one_count_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = journal(&path, 1);
        for number in 1..20 {
            journal
                .append([put(number)].iter(), &mut Vec::new())
                .unwrap();
        }
        journal.begin(2);
        journal.append([put(50)].iter(), &mut Vec::new()).unwrap();
        let found = replay(&path).unwrap();
        assert_eq!((found.round, found.changes), (2, vec![put(50)]));
    }

    #[test]
    fn work_goes_on_behind_what_was_replayed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 4)
            .append([put(1)].iter(), &mut Vec::new())
            .unwrap();
        journal(&path, 4)
            .append([put(2)].iter(), &mut Vec::new())
            .unwrap();
        assert_eq!(replay(&path).unwrap().changes, [put(1), put(2)]);
    }
}
