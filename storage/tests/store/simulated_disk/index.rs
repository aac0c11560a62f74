//! The index of a simulated disk: rows in memory.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use storage::engine::{Change, Engine, Visit};

use super::{DISKS, Kind, SimulatedDisk, locked};

/// The rows of the index on a simulated disk.
struct MemoryEngine(SimulatedDisk);

pub(super) fn open(path: &Path) -> io::Result<Box<dyn Engine>> {
    let folder = path.parent().unwrap();
    let disk = locked(&DISKS).get(folder).cloned();
    let disk = disk.ok_or_else(|| io::Error::other("no disk is there"))?;
    Ok(Box::new(MemoryEngine(disk)))
}

impl Engine for MemoryEngine {
    fn commit(&self, changes: &[Change]) -> io::Result<()> {
        let mut state = self.0.begin(Kind::Index)?;
        for (key, value) in changes {
            match value {
                Some(value) => state.rows.insert(key.clone(), value.clone()),
                None => state.rows.remove(key),
            };
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: Visit<'_>) -> io::Result<()> {
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
