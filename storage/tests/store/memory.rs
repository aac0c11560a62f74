//! A disk in memory that fails when it is told to, at a step of a commit or at an opening.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use storage::disk::{Disk, Room, Slot};
use storage::engine::{Change, Engine, EngineError, Visit};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and the engine is broken.
    Broken,
    /// It is done, and the engine says that it is broken.
    BrokenAfter,
    /// The disk is full for so many looks at it.
    Full(u32),
}

#[derive(Debug, Default)]
struct Shared {
    rows: Rows,
    steps: u32,
    fault: Option<(u32, Fault)>,
    full_for: u32,
    is_broken: bool,
    little_room: bool,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Shared>>);

impl MemoryDisk {
    /// The n-th step from now on goes wrong.
    pub(crate) fn fail_at(&self, step: u32, fault: Fault) {
        self.change(|shared| shared.fault = Some((shared.steps + step, fault)));
    }

    /// What survives: the same rows on a disk that is sound.
    pub(crate) fn after_the_fault(&self) -> Self {
        let rows = self.change(|shared| shared.rows.clone());
        Self(Arc::new(Mutex::new(Shared {
            rows,
            ..Shared::default()
        })))
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.change(|shared| shared.fault.is_none_or(|(step, _)| shared.steps >= step))
    }

    pub(crate) fn steps(&self) -> u32 {
        self.change(|shared| shared.steps)
    }

    /// How many rows have a key of this kind.
    pub(crate) fn rows_of_kind(&self, kind: u8) -> usize {
        self.change(|shared| shared.rows.keys().filter(|key| key[0] == kind).count())
    }

    pub(crate) fn set_little_room(&self, is_little: bool) {
        self.change(|shared| shared.little_room = is_little);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Disk for MemoryDisk {
    fn open(&mut self) -> Result<Arc<dyn Engine>, EngineError> {
        self.change(|shared| {
            if shared.full_for > 0 {
                Err(EngineError::NoRoom)
            } else {
                Ok(())
            }
        })?;
        self.change(|shared| shared.is_broken = false);
        Ok(Arc::new(self.clone()))
    }

    fn room(&mut self) -> Room {
        self.change(|shared| {
            if shared.full_for > 0 {
                shared.full_for -= 1;
                Room::None
            } else if shared.little_room {
                Room::Little
            } else {
                Room::Plenty
            }
        })
    }

    fn restore(&mut self) {}

    fn suspect(&mut self) {}

    fn settle_in(&mut self) {}

    fn witness(&mut self, _serial: u64) {}

    fn refresh(&mut self, _engine: &Slot) -> Result<(), EngineError> {
        Ok(())
    }

    fn wants_compaction(&self, _live_bytes: u64, _disk_bytes: u64) -> bool {
        false
    }

    fn compact(&mut self, _engine: &Slot) -> Result<(), EngineError> {
        Err(EngineError::Broken("nobody asked for it".to_owned()))
    }
}

impl Engine for MemoryDisk {
    fn commit(&self, steps: &[Vec<Change>]) -> Result<(), EngineError> {
        self.change(|shared| {
            for step in steps {
                if shared.is_broken {
                    return Err(EngineError::Broken("it was broken before".to_owned()));
                }
                shared.steps += 1;
                let fault = shared
                    .fault
                    .filter(|(at, _)| *at == shared.steps)
                    .map(|(_, fault)| fault);
                match fault {
                    Some(Fault::Broken) => shared.is_broken = true,
                    Some(Fault::BrokenAfter) => {
                        apply(&mut shared.rows, step);
                        shared.is_broken = true;
                    }
                    Some(Fault::Full(looks)) => {
                        shared.full_for = looks;
                        shared.is_broken = true;
                        return Err(EngineError::NoRoom);
                    }
                    None => apply(&mut shared.rows, step),
                }
                if shared.is_broken {
                    return Err(EngineError::Broken("told to fail".to_owned()));
                }
            }
            Ok(())
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.change(|shared| {
            Ok(shared
                .rows
                .get(key)
                .map(|value| Bytes::copy_from_slice(value)))
        })
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), EngineError> {
        let mut from = from.to_vec();
        loop {
            // The lock is not held while the visitor looks: it reads rows of its own.
            let rows: Vec<_> = self.change(|shared| {
                let rows = shared.rows.range(from.clone()..until.to_vec()).take(16);
                rows.map(|(key, value)| (key.clone(), Bytes::copy_from_slice(value)))
                    .collect()
            });
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in rows {
                if visit(&key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.change(|shared| shared.rows.values().map(|value| value.len() as u64).sum())
    }
}

fn apply(rows: &mut Rows, step: &[Change]) {
    for change in step {
        match change {
            Change::Put(key, value) => rows.insert(key.clone(), value.clone()),
            Change::Delete(key) => rows.remove(key),
        };
    }
}
