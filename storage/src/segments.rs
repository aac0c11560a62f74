//! sled's file as segments: what a repair has to know of it.
//!
//! The file is a row of segments; each begins with a checksum (4 bytes), its place in the log and the place up to which the log was
//! stable (8 bytes each, little-endian, the lower 63 bits inverted). A snapshot's name says how far it covers the log. Opening a
//! damaged file makes sled overwrite the rest of the segment in which the snapshot ends, so that one is saved before.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::engine::SEGMENT_BYTES;

const HEADER_BYTES: usize = 20;
const PLACE_MASK: i64 = i64::MAX;

/// The segment in which a snapshot ends, as it was before the engine was opened.
pub(crate) struct Tip {
    at: u64,
    bytes: Vec<u8>,
}

/// Reads that segment. `None` where there is no such one.
pub(crate) fn tip(folder: &Path, snapshot: &str) -> io::Result<Option<Tip>> {
    let Some(covered) = covered_by(snapshot) else {
        return Ok(None);
    };
    let mut found = None;
    each(folder, |file, at, place| {
        if place == Some(covered) {
            let mut bytes = vec![0; SEGMENT_BYTES];
            let length = file.read_at(&mut bytes, at)?;
            bytes.truncate(length);
            found = Some(Tip { at, bytes });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Puts the segment back.
pub(crate) fn restore(folder: &Path, tip: &Tip) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(folder.join("db"))?;
    file.write_all_at(&tip.bytes, tip.at)?;
    file.sync_all()
}

/// Takes the part of the log out that a snapshot of that name does not cover, so that the engine opens as it was then. For reading only:
/// a segment without its header is passed over by the log, but its rows are still where the snapshot says.
pub(crate) fn forget_log(folder: &Path, snapshot: &str) -> io::Result<()> {
    let Some(covered) = covered_by(snapshot) else {
        return Ok(());
    };
    each(folder, |file, at, place| match place {
        Some(place) if place >= covered => file.write_all_at(&[0; HEADER_BYTES], at),
        _ => Ok(()),
    })
}

/// The place in the log of the segment in which a snapshot ends.
fn covered_by(snapshot: &str) -> Option<u64> {
    let end = u64::from_str_radix(snapshot.strip_prefix("snap.")?, 16).ok()?;
    Some(end - end % SEGMENT_BYTES as u64)
}

fn each(
    folder: &Path,
    mut visit: impl FnMut(&std::fs::File, u64, Option<u64>) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(folder.join("db"))?;
    for at in (0..file.metadata()?.len()).step_by(SEGMENT_BYTES) {
        let mut header = [0; HEADER_BYTES];
        if file.read_exact_at(&mut header, at).is_err() {
            break;
        }
        let mut place = [0; 8];
        place.copy_from_slice(&header[4..12]);
        visit(
            &file,
            at,
            u64::try_from(i64::from_le_bytes(place) ^ PLACE_MASK).ok(),
        )?;
    }
    Ok(())
}
