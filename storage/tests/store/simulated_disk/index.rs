//! The index of a simulated disk: rows in memory.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use storage::engine::{Change, Engine, EngineError, Visit};

use super::{DISKS, Kind, SimulatedDisk, locked};

/// The rows of the index on a simulated disk.
struct MemoryEngine(SimulatedDisk);

pub(super) fn open(path: &Path) -> Result<Box<dyn Engine>, EngineError> {
    let folder = path.parent().unwrap();
    let disk = locked(&DISKS).get(folder).cloned();
    let disk = disk.ok_or_else(|| EngineError::Broken("no disk is there".to_owned()))?;
    Ok(Box::new(MemoryEngine(disk)))
}

impl Engine for MemoryEngine {
    fn commit(&self, changes: &[Change]) -> Result<(), EngineError> {
        let state = self.0.begin(Kind::Index);
        let mut state = state.map_err(EngineError::from)?;
        for change in changes {
            match change {
                Change::Put(key, value) => state.rows.insert(key.clone(), value.clone()),
                Change::Delete(key) => state.rows.remove(key),
            };
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), EngineError> {
        let state = locked(&self.0.state);
        let rows: Vec<_> = state
            .rows
            .range(from.to_vec()..until.to_vec())
            .map(|(key, value)| (key.clone(), Bytes::copy_from_slice(value)))
            .collect();
        drop(state);
        for (key, value) in rows {
            if visit(&key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
