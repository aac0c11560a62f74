//! `definitions.json`, the readable second copy of the definitions, and the folder of damaged
//! things.

use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::disk::Disk;
use crate::terms::Definitions;

/// Keys and values of all definitions, in the order of their keys.
pub(crate) type AllDefinitions = Vec<(Vec<u8>, Vec<u8>)>;

/// `definitions.json` in a store's folder.
fn definitions_path(folder: &Path) -> PathBuf {
    folder.join("definitions.json")
}

const PREFIX: &str = "{\"cbroker_store\":{\"commit\":";

/// Replaces `definitions.json`.
pub(crate) fn save_definitions(
    disk: &dyn Disk,
    folder: &Path,
    (format, commit): (Definitions, u64),
    all: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<()> {
    let rendered = (format.render)(all);
    let sum = xxh3_64(&rendered);
    let mut bytes = format!("{PREFIX}{commit},\"sum\":\"{sum:016x}\"}},\n").into_bytes();
    bytes.extend_from_slice(rendered.get(1..).unwrap_or_default());
    let new = folder.join("definitions.json.new");
    disk.write_file(&new, &bytes)?;
    disk.rename(&new, &definitions_path(folder))?;
    disk.sync_folder(folder)
}

/// Reads `definitions.json` and the commit that it belongs to; `None` where there is none.
pub(crate) fn load_definitions(
    disk: &dyn Disk,
    folder: &Path,
    format: Definitions,
) -> Result<Option<(AllDefinitions, u64)>, String> {
    let bytes = match disk.read_file(&definitions_path(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| error.to_string())?,
    };
    let damaged = || "its checksum does not match".to_owned();
    let rest = bytes.strip_prefix(PREFIX.as_bytes()).ok_or_else(damaged)?;
    let end = rest
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(damaged)?;
    let head = std::str::from_utf8(&rest[..end]).map_err(|_| damaged())?;
    let (commit, sum) = head.split_once(",\"sum\":\"").ok_or_else(damaged)?;
    let sum = sum.strip_suffix("\"},").ok_or_else(damaged)?;
    let mut rendered = b"{".to_vec();
    rendered.extend_from_slice(&rest[end + 1..]);
    if format!("{:016x}", xxh3_64(&rendered)) != sum {
        return Err(damaged());
    }
    let commit = commit.parse().map_err(|_| damaged())?;
    Ok(Some(((format.parse)(&rendered)?, commit)))
}

/// Moves a damaged file or folder under `set-aside/`. Returns its new place.
pub(crate) fn set_aside(disk: &dyn Disk, folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let aside = folder.join("set-aside");
    disk.create_folder(&aside)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let taken = disk.list(&aside)?;
    let free = (1_u32..).map(|number| aside.join(format!("{name}-{number}")));
    let to = free
        .into_iter()
        .find(|place| !taken.contains(place))
        .unwrap_or_else(|| aside.join("last"));
    disk.rename(path, &to)?;
    disk.sync_folder(&aside)?;
    disk.sync_folder(folder)?;
    Ok(to)
}
