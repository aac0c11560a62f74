//! Rows with a journal before them: a small commit goes to the journal and is shown from memory; many of them reach the rows at once.
//!
//! What is in the journal and not yet in the rows is the overlay: whole values by key, laid over every read. It is folded into the rows
//! when it is large, when a commit is too large for the journal, and at the end. The rows name the journal's round that they do not have
//! yet; the same batch that folds sets the next one, so a crash at any moment leaves a journal that is either still needed or void.
//!
//! # Cost
//! A small commit is one write and one `fdatasync` of a file whose length does not change.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use crate::engine::{Change, Engine, EngineError, Sled, Visit};
use crate::journal::{self, Journal, Replay};
use crate::key;
use crate::record;
use crate::steps::Steps;

/// A commit of more than this goes to the rows.
const SMALL_BYTES: usize = 16 << 10;
/// The overlay is folded when it has so many keys or bytes.
const FOLD_KEYS: usize = 256;
const FOLD_BYTES: usize = 512 << 10;

/// The newest values of some keys; `None` for a key that is gone.
type Overlay = BTreeMap<Vec<u8>, Option<Bytes>>;

/// sled and the journal before it.
pub(crate) struct Journaled {
    rows: Sled,
    path: PathBuf,
    overlay: RwLock<Arc<Overlay>>,
    writing: Mutex<Writing>,
    doubt: Option<String>,
}

/// What only a commit touches.
struct Writing {
    /// Opened by the first small commit.
    journal: Option<Journal>,
    replayed: Replay,
    /// The journal's round that the rows do not have.
    round: u64,
    /// The rows have a round. Until then the journal must not be used.
    is_named: bool,
    overlay_bytes: usize,
    record: Vec<u8>,
    /// Something was written and nothing has failed. Otherwise the rows are left as they are on the way out.
    is_in_use: bool,
}

impl Journaled {
    /// Opens rows and reads the journal that belongs to them.
    pub(crate) fn open(
        folder: &Path,
        journal: &Path,
        cache_bytes: u64,
    ) -> Result<Self, EngineError> {
        let rows = Sled::open(folder, cache_bytes)?;
        let named = match rows.get(key::ROUND) {
            Ok(Some(value)) => record::parse_serial(&value).map_err(|damaged| damaged.to_string()),
            Ok(None) => Ok(0),
            Err(EngineError::NoRoom) => return Err(EngineError::NoRoom),
            Err(EngineError::Broken(reason)) => Err(reason),
        };
        let mut replayed = journal::replay(journal).map_err(|error| EngineError::from(&error))?;
        let changes = std::mem::take(&mut replayed.changes);
        let mut overlay = Overlay::new();
        let (known, doubt) = match named {
            Ok(known) if replayed.round > known => (
                known,
                Some("the rows end before the journal begins".to_owned()),
            ),
            Ok(known) => {
                let has_gap = journal::has_gap(journal, &replayed, known);
                let has_gap = has_gap.map_err(|error| EngineError::from(&error))?;
                (
                    known,
                    has_gap.then(|| "a record of the journal is damaged".to_owned()),
                )
            }
            Err(reason) => (
                replayed.round,
                Some(format!("the journal's round: {reason}")),
            ),
        };
        // Rows that never named a round never had a journal: one that is there belonged to others.
        if known > 0 && replayed.round >= known {
            lay(&mut overlay, changes);
        }
        let writing = Writing {
            journal: None,
            round: known.max(replayed.round),
            is_named: known > 0,
            overlay_bytes: 0,
            record: Vec::new(),
            is_in_use: false,
            replayed,
        };
        Ok(Self {
            rows,
            path: journal.to_owned(),
            overlay: RwLock::new(Arc::new(overlay)),
            writing: Mutex::new(writing),
            doubt,
        })
    }

    /// Why rows and journal do not belong together: rows are lost, and what is left has to be saved.
    pub(crate) fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay(&self) -> Arc<Overlay> {
        Arc::clone(&self.overlay.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One record of the journal. `false` where none can be made, so that the rows have to take the commit.
    fn note(
        &self,
        writing: &mut Writing,
        steps: &[Vec<Change>],
        length: usize,
    ) -> Result<bool, EngineError> {
        let opened = match writing.journal.take() {
            Some(journal) => Ok(journal),
            None => Journal::open(&self.path, &writing.replayed, writing.round),
        };
        let journal = match opened {
            Ok(journal) => writing.journal.insert(journal),
            Err(error) => {
                tracing::debug!("the store has no journal: {error}");
                return Ok(false);
            }
        };
        if !journal.has_room_for(length) {
            return Ok(false);
        }
        journal
            .append(steps.iter().flatten(), &mut writing.record)
            .map_err(|error| EngineError::from(&error))?;
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        lay(Arc::make_mut(&mut overlay), steps.iter().flatten().cloned());
        writing.overlay_bytes += length;
        Ok(true)
    }

    /// Brings the overlay and then the steps to the rows.
    fn fold(&self, writing: &mut Writing, steps: &[Vec<Change>]) -> Result<(), EngineError> {
        let overlay = self.overlay();
        if overlay.is_empty() && writing.is_named {
            return self.rows.commit(steps);
        }
        let mut folded = Steps::default();
        for (key, value) in overlay.iter() {
            folded.push(match value {
                Some(value) => Change::Put(key.clone(), value.to_vec()),
                None => Change::Delete(key.clone()),
            });
            if folded.is_full() {
                folded.end();
            }
        }
        writing.round += 1;
        // In the last step: until then the journal says all of it once more.
        folded.push(Change::Put(
            key::ROUND.to_vec(),
            record::serial_row(writing.round),
        ));
        self.rows.commit(&folded.finish())?;
        if !steps.is_empty() {
            self.rows.commit(steps)?;
        }
        *self.overlay.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        writing.overlay_bytes = 0;
        writing.is_named = true;
        if let Some(journal) = &mut writing.journal {
            journal.begin(writing.round);
        }
        Ok(())
    }

    fn write(&self, writing: &mut Writing, steps: &[Vec<Change>]) -> Result<(), EngineError> {
        let length = journal::length_of(steps.iter().flatten());
        let is_small = length <= SMALL_BYTES && writing.is_named;
        let has_room =
            self.overlay().len() < FOLD_KEYS && writing.overlay_bytes + length <= FOLD_BYTES;
        if !steps.is_empty() && is_small && has_room && self.note(writing, steps, length)? {
            return Ok(());
        }
        self.fold(writing, steps)
    }
}

/// Lays changes over an overlay.
fn lay(overlay: &mut Overlay, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        match change {
            Change::Put(key, value) => overlay.insert(key, Some(Bytes::from(value))),
            Change::Delete(key) => overlay.insert(key, None),
        };
    }
}

impl Engine for Journaled {
    fn commit(&self, steps: &[Vec<Change>]) -> Result<(), EngineError> {
        let mut writing = self.writing();
        let outcome = self.write(&mut writing, steps);
        writing.is_in_use = outcome.is_ok();
        outcome
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.overlay().get(key) {
            Some(value) => Ok(value.clone()),
            None => self.rows.get(key),
        }
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), EngineError> {
        // Taken before the rows are read: what is folded in between is seen twice and is the same.
        let overlay = self.overlay();
        if overlay.is_empty() || from >= until {
            return self.rows.scan(from, until, visit);
        }
        let range = (Bound::Included(from), Bound::Excluded(until));
        let mut laid = overlay.range::<[u8], _>(range).peekable();
        let mut has_broken = false;
        let mut show = |key: &[u8], value: Bytes| {
            let flow = visit(key, value);
            has_broken = flow.is_break();
            flow
        };
        self.rows.scan(from, until, &mut |key, value| {
            while let Some((before, laid)) = laid.next_if(|(laid, _)| laid.as_slice() < key) {
                if let Some(laid) = laid {
                    show(before, laid.clone())?;
                }
            }
            match laid.next_if(|(laid, _)| laid.as_slice() == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(laid))) => show(key, laid.clone()),
                None => show(key, value),
            }
        })?;
        for (key, value) in laid {
            if has_broken {
                break;
            }
            if let Some(value) = value {
                let flow = visit(key, value.clone());
                has_broken = flow.is_break();
            }
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes()
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        let mut writing = self.writing();
        // Where this fails the journal has it all, and the next opening reads it.
        if writing.is_in_use && !self.overlay().is_empty() {
            let folded = self.fold(&mut writing, &[]);
            drop(folded.inspect_err(|error| tracing::debug!("the journal stays: {error}")));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::cast_possible_truncation,
        reason = "small numbers, chosen here"
    )]

    use super::*;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn open(folder: &Path) -> Journaled {
        Journaled::open(&folder.join("rows"), &folder.join("journal"), 1 << 20).unwrap()
    }

    fn scanned(engine: &Journaled, from: &[u8], until: &[u8], limit: usize) -> Rows {
        let mut rows = Rows::new();
        let visit: Visit<'_> = &mut |key, value| {
            assert!(rows.insert(key.to_vec(), value.to_vec()).is_none());
            if rows.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        engine.scan(from, until, visit).unwrap();
        rows
    }

    #[test]
    fn rows_and_journal_are_read_as_one_whatever_was_folded_or_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = open(folder.path());
        let mut expected = Rows::new();
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) % below
        };
        for round in 0..1_500_u64 {
            // Most commits are small; some are too large for the journal.
            let value = vec![round as u8; if random(40) == 0 { SMALL_BYTES / 3 } else { 5 }];
            let mut step = Vec::new();
            for _ in 0..=random(4) {
                let key = vec![0x20, random(200) as u8, random(3) as u8];
                step.push(if random(3) == 0 {
                    expected.remove(&key);
                    Change::Delete(key)
                } else {
                    expected.insert(key.clone(), value.clone());
                    Change::Put(key, value.clone())
                });
            }
            engine.commit(&[step]).unwrap();
            if random(100) == 0 {
                drop(engine);
                engine = open(folder.path());
                assert_eq!(engine.doubt(), None);
            }
            let (from, limit) = ([0x20, random(200) as u8], 1 + random(30) as usize);
            let wanted = expected.range(from.to_vec()..).take(limit);
            let wanted: Rows = wanted
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(
                scanned(&engine, &from, &[0x21], limit),
                wanted,
                "round {round}"
            );
            let key = [0x20, random(200) as u8, 1];
            let found = engine.get(&key).unwrap();
            assert_eq!(found.as_deref(), expected.get(&key[..]).map(Vec::as_slice));
        }
        assert!(engine.writing().round > 5, "it was folded now and then");
    }
}
