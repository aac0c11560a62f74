//! The files of a simulated disk, as the store calls for them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::disk::{Disk, DiskFile};

use super::{Inode, Kind, Loose, SimulatedDisk, State, apply, change_name, locked};

/// One open file of a simulated disk.
struct OpenFile {
    disk: SimulatedDisk,
    inode: usize,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("OpenFile")
    }
}

impl DiskFile for OpenFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.begin(Kind::Read)?;
        let bytes = &state.inodes[self.inode].current;
        let from = (offset as usize).min(bytes.len());
        let length = buffer.len().min(bytes.len() - from);
        let is_bad = |(inode, at)| inode == self.inode && (from..from + length).contains(&at);
        if state.bad_byte.is_some_and(is_bad) {
            return Err(io::Error::other("a sector cannot be read"));
        }
        buffer[..length].copy_from_slice(&bytes[from..from + length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = Loose {
            offset: offset as usize,
            bytes: bytes.to_vec(),
        };
        let mut outcome = self.disk.begin(Kind::Write).map(drop);
        let mut state = locked(&self.disk.state);
        state.written += bytes.len() as u64;
        let is_long = state.longest_write.is_some_and(|most| bytes.len() > most);
        if is_long {
            outcome = Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut state.inodes[self.inode];
        match &outcome {
            // No room: nothing of it is there. Another failure leaves the first half.
            Err(error) if error.kind() != io::ErrorKind::Other && !is_long => {}
            Err(_) => {
                let half = Loose {
                    bytes: bytes[..bytes.len() / 2].to_vec(),
                    ..write
                };
                apply(&mut inode.current, &half);
                inode.loose.push(half);
            }
            Ok(()) => {
                apply(&mut inode.current, &write);
                inode.loose.push(write);
            }
        }
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let outcome = self.disk.begin(Kind::Sync).map(drop);
        let mut state = locked(&self.disk.state);
        let inode = &mut state.inodes[self.inode];
        let loose = std::mem::take(&mut inode.loose);
        if outcome.is_ok() {
            for write in &loose {
                apply(&mut inode.synced, write);
            }
        }
        // After a failure the system takes the pages for clean: no later sync writes them.
        outcome
    }

    fn length(&self) -> io::Result<u64> {
        Ok(locked(&self.disk.state).inodes[self.inode].current.len() as u64)
    }
}

impl SimulatedDisk {
    fn add(&self, path: &Path, bytes: Vec<u8>, kind: Kind) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.relative(path);
        let mut state = self.begin(kind)?;
        let inode = state.inodes.len();
        state.written += if kind == Kind::WriteFile {
            bytes.len() as u64
        } else {
            0
        };
        state.inodes.push(Inode {
            current: bytes.clone(),
            synced: bytes,
            loose: Vec::new(),
        });
        let change = (None, Some(path), inode);
        change_name(&mut state.names, &change);
        state.pending.push(change);
        Ok(Arc::new(OpenFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn inode(&self, state: &State, path: &Path) -> io::Result<usize> {
        let found = state.names.get(&self.relative(path)).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let relative = self.relative(folder);
        let state = locked(&self.state);
        let inside = state
            .names
            .keys()
            .filter(|path| path.parent() == Some(relative.as_path()));
        Ok(inside
            .map(|path| folder.join(path.file_name().unwrap()))
            .collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.begin(Kind::Read)?;
        let inode = self.inode(&state, path)?;
        Ok(Arc::new(OpenFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn create(&self, path: &Path, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let is_barred = || {
            let bar = *locked(&self.bar);
            bar.is_some_and(|name| path.to_string_lossy().contains(name))
        };
        // Not for ever: a test that has failed must end.
        for _ in 0..100_000 {
            if !is_barred() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.add(path, vec![0; length as usize], Kind::Create)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.add(path, bytes.to_vec(), Kind::WriteFile).map(drop)
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.begin(Kind::ReadFile)?;
        let inode = self.inode(&state, path)?;
        Ok(state.inodes[inode].current.clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Rename)?;
        let Ok(inode) = self.inode(&state, from) else {
            // The index: its rows are set aside whole.
            state.rows.clear();
            return Ok(());
        };
        let change = (Some(self.relative(from)), Some(self.relative(to)), inode);
        change_name(&mut state.names, &change);
        state.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Remove)?;
        let inode = self.inode(&state, path)?;
        let change = (Some(self.relative(path)), None, inode);
        change_name(&mut state.names, &change);
        state.pending.push(change);
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let folder = self.relative(path);
        let mut state = locked(&self.state);
        // The last ancestor is the store's own folder.
        for folder in folder.ancestors() {
            state.folders.entry(folder.to_owned()).or_insert(false);
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let folder = self.relative(path);
        let is_around = locked(&self.root).parent() == Some(path);
        let mut state = self.begin(Kind::SyncFolder)?;
        for (inside, is_certain) in &mut state.folders {
            let parent = inside.parent();
            *is_certain |= parent == Some(folder.as_path()) || parent.is_none() && is_around;
        }
        let is_inside = |path: &Option<PathBuf>| {
            path.as_ref()
                .is_some_and(|path| path.parent() == Some(folder.as_path()))
        };
        let pending = std::mem::take(&mut state.pending);
        let (synced, left): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|(from, to, _)| is_inside(from) || is_inside(to));
        for change in &synced {
            change_name(&mut state.certain, change);
        }
        state.pending = left;
        Ok(())
    }

    fn writes_in_place(&self, _path: &Path) -> bool {
        true
    }

    fn free_bytes(&self, _path: &Path) -> u64 {
        locked(&self.state).free_bytes.unwrap_or(u64::MAX)
    }
}
