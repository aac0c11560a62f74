//! Opens a folder after whatever happened to it: the known faults of the engine are mended by fixed steps, in order, each reported.
//!
//! 1. A copy that a crash interrupted is finished or undone. 2. Snapshots that were being written are deleted: the engine takes them for
//!    whole ones. 3. The engine is opened and its counts are read. Where that fails: 4. the snapshots are set aside, then the engine's settings,
//!    and it is opened again. 5. What can be read is copied out, and the damaged rows are set aside whole. 6. Where not even that is
//!    possible, they are set aside and the store begins empty. Nothing that holds a message is deleted, and nothing panics.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::engine::{EngineError, Sled};
use crate::error::OpenError;
use crate::folder::Folder;
use crate::record::FORMAT_VERSION;
use crate::recovery::{self, Found};
use crate::rewrite;
use crate::terms::Report;

/// A store's rows, opened and understood.
pub(crate) struct Repaired {
    pub(crate) engine: Sled,
    pub(crate) found: Found,
    pub(crate) report: Report,
}

/// Opens the rows of a folder, and repairs them where that is needed.
pub(crate) fn open(folder: &Folder) -> Result<Repaired, OpenError> {
    let mut report = Report::default();
    let done = folder
        .settle_copies()
        .map_err(|source| failed(folder, "cleaned up", source))?;
    report.repairs.extend(done.map(str::to_owned));
    remove_half_snapshots(folder, &mut report)
        .map_err(|source| failed(folder, "cleaned up", source))?;
    let (engine, found) = match attempt(folder)? {
        Ok(opened) => opened,
        Err(reason) => mend(folder, &reason, &mut report)?,
    };
    folder.keep_reserve();
    report.losses.extend(found.damage.iter().cloned());
    Ok(Repaired {
        engine,
        found,
        report,
    })
}

fn failed(folder: &Folder, doing: &'static str, source: io::Error) -> OpenError {
    OpenError::Io {
        folder: folder.path().to_owned(),
        doing,
        source,
    }
}

/// Opens and reads. The inner error is damage, which a repair may mend.
fn attempt(folder: &Folder) -> Result<Result<(Sled, Found), String>, OpenError> {
    let opened = folder.open_rows().and_then(|engine| {
        let version = recovery::version(&engine)?;
        let found = if version > FORMAT_VERSION {
            Found::default()
        } else {
            recovery::find(&engine)?
        };
        Ok((engine, version, found))
    });
    match opened {
        Ok((_, found, _)) if found > FORMAT_VERSION => Err(OpenError::Newer {
            folder: folder.path().to_owned(),
            found,
            known: FORMAT_VERSION,
        }),
        Ok((engine, _, found)) => Ok(Ok((engine, found))),
        Err(EngineError::NoRoom) => Err(OpenError::NoRoom {
            folder: folder.path().to_owned(),
        }),
        Err(EngineError::Broken(reason)) => Ok(Err(reason)),
    }
}

fn remove_half_snapshots(folder: &Folder, report: &mut Report) -> io::Result<()> {
    for file in files(folder, |name| {
        name.starts_with("snap.") && name.ends_with(".generating")
    })? {
        fs::remove_file(&file)?;
        report.repairs.push(format!(
            "removed {}, which a crash left half written",
            file.display()
        ));
    }
    Ok(())
}

fn files(folder: &Folder, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let rows = folder.rows();
    if !rows.exists() {
        return Ok(Vec::new());
    }
    let files = fs::read_dir(rows)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = files.collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| {
        file.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(&is_wanted)
    });
    Ok(files)
}

fn mend(folder: &Folder, reason: &str, report: &mut Report) -> Result<(Sled, Found), OpenError> {
    report
        .repairs
        .push(format!("the rows could not be opened: {reason}"));
    for is_wanted in [
        |name: &str| name.starts_with("snap."),
        |name: &str| name == "conf",
    ] {
        let suspects =
            files(folder, is_wanted).map_err(|source| failed(folder, "repaired", source))?;
        if suspects.is_empty() {
            continue;
        }
        for file in suspects {
            let kept = folder
                .set_aside(&file)
                .map_err(|source| failed(folder, "repaired", source))?;
            report.repairs.push(format!(
                "set {} aside as {}",
                file.display(),
                kept.display()
            ));
        }
        match attempt(folder)? {
            Ok(opened) => return Ok(opened),
            Err(reason) => report
                .repairs
                .push(format!("the rows could still not be opened: {reason}")),
        }
    }
    salvage(folder, report)
}

fn salvage(folder: &Folder, report: &mut Report) -> Result<(Sled, Found), OpenError> {
    let unreadable = |error: EngineError| match error {
        EngineError::NoRoom => OpenError::NoRoom {
            folder: folder.path().to_owned(),
        },
        EngineError::Broken(reason) => OpenError::Unreadable {
            folder: folder.path().to_owned(),
            reason,
        },
    };
    let (new, copy) = folder.open_copy().map_err(unreadable)?;
    match folder.open_rows() {
        Ok(damaged) => {
            let salvaged = rewrite::salvage(&damaged, &copy).map_err(unreadable)?;
            report.losses.push(format!(
                "{} rows were saved; {} places could not be read and {} rows were damaged",
                salvaged.rows, salvaged.gaps, salvaged.damaged
            ));
        }
        Err(EngineError::NoRoom) => return Err(unreadable(EngineError::NoRoom)),
        Err(EngineError::Broken(reason)) => {
            report.losses.push(format!(
                "nothing could be read, the store begins empty: {reason}"
            ));
        }
    }
    drop(copy);
    let swapped = folder.swap(&new, |rows| {
        let kept = folder.set_aside(rows)?;
        report.losses.push(format!(
            "the damaged rows were kept as {}: keep them until nothing is missed",
            kept.display()
        ));
        Ok(())
    });
    swapped.map_err(|source| failed(folder, "repaired", source))?;
    attempt(folder)?.map_err(|reason| OpenError::Unreadable {
        folder: folder.path().to_owned(),
        reason,
    })
}
