//! Opens a folder after whatever happened to it: the known faults of the engine are mended by fixed steps, in order, each reported.
//!
//! 1. A copy that a crash interrupted is finished or undone. 2. Snapshots that were being written are deleted: the engine takes them for
//!    whole ones. 3. The engine is opened and its counts are read, and every row where one could not be read before. Where it does not
//!    open: 4. a copy of everything is kept, and it is opened with our copy of its snapshot, then with settings made anew, then without what came
//!    after the snapshot, then without a snapshot. Where it opens and rows cannot be read, or do not go with their journal: 5. what can be read is copied out, and the damaged rows are set aside
//!    whole. 6. Where not even that is possible, they are set aside and the store begins empty. 7. Rows that come less far than they once
//!    did have lost something, which is said. Nothing that holds a message is deleted without a copy, and nothing panics.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::engine::{Engine, EngineError};
use crate::error::OpenError;
use crate::folder::Folder;
use crate::journaled::Journaled;
use crate::key;
use crate::record::FORMAT_VERSION;
use crate::recovery::{self, Found};
use crate::rewrite;
use crate::segments::Tip;
use crate::terms::Report;

/// A store that holds no more than this is read through at every start, which takes some 50 ms: the engine can lose rows from a damaged
/// log without a word.
const ALWAYS_CHECKED_BYTES: u64 = 32 << 20;

/// A store's rows, opened and understood.
pub(crate) struct Repaired {
    pub(crate) engine: Journaled,
    pub(crate) found: Found,
    pub(crate) report: Report,
}

/// Opens the rows of a folder, and repairs them where that is needed.
pub(crate) fn open(folder: &Folder) -> Result<Repaired, OpenError> {
    let mut report = Report::default();
    let cleaned = |source| failed(folder, "cleaned up", source);
    let done = folder.settle_copies().map_err(cleaned)?;
    report.repairs.extend(done.map(str::to_owned));
    remove_half_snapshots(folder, &mut report).map_err(cleaned)?;
    let tip = folder.tip().map_err(cleaned)?;
    let (engine, found) = match attempt(folder)? {
        Ok(opened) => opened,
        Err(fault) => mend(folder, &fault, tip.as_ref(), &mut report)?,
    };
    let serial = found.committed.serial();
    if let Some(witnessed) = folder.witnessed().filter(|witnessed| *witnessed > serial) {
        report.losses.push(format!(
            "the rows end at commit {serial}, but had come to {witnessed} before: what came between is lost"
        ));
    }
    match recovery::finish_parts(&engine) {
        Ok(0) => {}
        Ok(count) => tracing::info!(
            count,
            "big messages that a crash cut short were cleared away"
        ),
        Err(EngineError::NoRoom) => {
            return Err(OpenError::NoRoom {
                folder: folder.path().to_owned(),
            });
        }
        Err(EngineError::Broken(reason)) => {
            return Err(OpenError::Unreadable {
                folder: folder.path().to_owned(),
                reason,
            });
        }
    }
    folder.trust().map_err(cleaned)?;
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

/// Damage, which a repair may mend.
enum Fault {
    /// The engine does not open.
    Opening(String),
    /// It opens, but some rows cannot be read.
    Reading(String),
}

/// Opens and reads.
fn attempt(folder: &Folder) -> Result<Result<(Journaled, Found), Fault>, OpenError> {
    let no_room = || OpenError::NoRoom {
        folder: folder.path().to_owned(),
    };
    let engine = match folder.open_rows() {
        Ok(engine) => engine,
        Err(EngineError::NoRoom) => return Err(no_room()),
        Err(EngineError::Broken(reason)) => return Ok(Err(Fault::Opening(reason))),
    };
    if let Some(doubt) = engine.doubt() {
        return Ok(Err(Fault::Reading(doubt.to_owned())));
    }
    if folder.witnessed().is_some() && engine.get(key::FORMAT) == Ok(None) {
        return Ok(Err(Fault::Reading("what was a store is empty".to_owned())));
    }
    let read = recovery::version(&engine).and_then(|version| {
        if version > FORMAT_VERSION {
            return Ok((version, Found::default()));
        }
        let found = recovery::find(&engine)?;
        if folder.is_suspect() || found.committed.live_bytes() <= ALWAYS_CHECKED_BYTES {
            rewrite::look_at_all(&engine)?;
        }
        Ok((version, found))
    });
    match read {
        Ok((found, _)) if found > FORMAT_VERSION => Err(OpenError::Newer {
            folder: folder.path().to_owned(),
            found,
            known: FORMAT_VERSION,
        }),
        // A damaged count is made anew from the rows.
        Ok((_, found)) if !found.damage.is_empty() => {
            Ok(Err(Fault::Reading(found.damage.join("; "))))
        }
        Ok((_, found)) => Ok(Ok((engine, found))),
        Err(EngineError::NoRoom) => Err(no_room()),
        Err(EngineError::Broken(reason)) => Ok(Err(Fault::Reading(reason))),
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

fn mend(
    folder: &Folder,
    fault: &Fault,
    tip: Option<&Tip>,
    report: &mut Report,
) -> Result<(Journaled, Found), OpenError> {
    match fault {
        Fault::Opening(reason) => {
            report
                .repairs
                .push(format!("the rows could not be opened: {reason}"));
            if let Some(opened) = make_openable(folder, tip, report)? {
                return Ok(opened);
            }
        }
        Fault::Reading(reason) => report
            .repairs
            .push(format!("some rows could not be read: {reason}")),
    }
    salvage(folder, report)
}

/// Mends what the engine keeps beside its rows, from the mildest means to the harshest. Returns rows that are whole; where there are
/// none, a salvage finds the folder in the best state that was reached.
fn make_openable(
    folder: &Folder,
    tip: Option<&Tip>,
    report: &mut Report,
) -> Result<Option<(Journaled, Found)>, OpenError> {
    let repaired = |source| failed(folder, "repaired", source);
    let restore_tip = || {
        tip.map_or(Ok(()), |tip| folder.restore_tip(tip))
            .map_err(repaired)
    };
    restore_tip()?;
    let kept = folder.copy_aside().map_err(repaired)?;
    report
        .repairs
        .push(format!("kept a copy of them as {}", kept.display()));
    for mildness in [Means::Snapshot, Means::Settings] {
        match mildness {
            Means::Snapshot => {
                folder.restore_snapshot().map_err(repaired)?;
                report
                    .repairs
                    .push("took the copy of the engine's snapshot".to_owned());
            }
            Means::Settings => {
                remove(folder, "conf").map_err(repaired)?;
                report
                    .repairs
                    .push("had the engine make its settings anew".to_owned());
            }
        }
        match attempt(folder)? {
            Ok(opened) => return Ok(Some(opened)),
            Err(Fault::Reading(_)) => return Ok(None),
            Err(Fault::Opening(_)) => restore_tip()?,
        }
    }
    if folder.forget_log().map_err(repaired)? && folder.open_rows().is_ok() {
        report
            .losses
            .push("what was written since the engine's last snapshot is lost".to_owned());
        return Ok(None);
    }
    folder.remove_snapshots().map_err(repaired)?;
    report
        .losses
        .push("the rows had to be opened without a snapshot, which loses many".to_owned());
    Ok(None)
}

enum Means {
    Snapshot,
    Settings,
}

fn remove(folder: &Folder, name: &str) -> io::Result<()> {
    match fs::remove_file(folder.rows().join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn salvage(folder: &Folder, report: &mut Report) -> Result<(Journaled, Found), OpenError> {
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
    recovery::version(&copy).map_err(unreadable)?;
    match folder.open_rows() {
        Ok(damaged) => {
            let salvaged = rewrite::salvage(&damaged, &copy).map_err(unreadable)?;
            report.losses.push(format!(
                "{} rows were saved; {} places could not be read ({}) and {} rows were damaged",
                salvaged.rows,
                salvaged.gaps,
                salvaged.reason.as_deref().unwrap_or("none"),
                salvaged.damaged
            ));
        }
        Err(EngineError::NoRoom) => return Err(unreadable(EngineError::NoRoom)),
        Err(EngineError::Broken(reason)) => {
            report.losses.push(format!(
                "nothing could be read, the store begins empty: {reason}"
            ));
        }
    }
    let void = folder
        .void_journal()
        .map_err(|source| failed(folder, "repaired", source))?;
    copy.commit(&[vec![void]]).map_err(unreadable)?;
    drop(copy);
    let swapped = folder.swap(&new, |_| {
        let kept = folder.set_aside()?;
        report.losses.push(format!(
            "the damaged rows were kept as {}: keep them until nothing is missed",
            kept.display()
        ));
        Ok(())
    });
    swapped.map_err(|source| failed(folder, "repaired", source))?;
    attempt(folder)?.map_err(|fault| {
        let (Fault::Opening(reason) | Fault::Reading(reason)) = fault;
        unreadable(EngineError::Broken(reason))
    })
}
