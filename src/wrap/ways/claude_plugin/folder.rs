//! The plugin's folder under the cbroker home: `plugin/<hash of its files>/`.
//!
//! The folder is read-only, so that Claude Code does not write its type declarations into it. Its
//! name is a hash of its content, so two versions of cbroker never change each other's files, and a
//! running Claude Code, which watches the folder, sees no change.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::envelope::digest;

/// The plugin's name, as Claude Code shows it.
pub(super) const NAME: &str = "cbroker";

const FILES: [(&str, &str); 3] = [
    (
        ".claude-plugin/plugin.json",
        include_str!("module/.claude-plugin/plugin.json"),
    ),
    ("hooks/hooks.json", include_str!("module/hooks/hooks.json")),
    ("hooks/cbroker.js", include_str!("module/hooks/cbroker.js")),
];
const READ_ONLY_FILE: u32 = 0o444;
const READ_ONLY_FOLDER: u32 = 0o555;
const OWN_FOLDER: u32 = 0o755;
/// Hex digits of the folder's name.
const NAME_DIGITS: usize = 16;

/// Returns the folder below `base`. Creates it, or writes it again if its content differs.
///
/// # Errors
/// If it cannot be written.
pub(super) fn ensure(base: &Path) -> io::Result<PathBuf> {
    let folder = base.join(name());
    if !is_whole(&folder) {
        write(&folder)?;
    }
    Ok(folder)
}

fn name() -> String {
    let mut all = Vec::new();
    for (path, content) in FILES {
        for part in [path, content] {
            all.extend((part.len() as u64).to_be_bytes());
            all.extend(part.as_bytes());
        }
    }
    digest(&all, NAME_DIGITS)
}

fn is_whole(folder: &Path) -> bool {
    let has_content = |(path, content): &(&str, &str)| {
        fs::read(folder.join(path)).is_ok_and(|is| is == content.as_bytes())
    };
    FILES.iter().all(has_content)
}

fn write(folder: &Path) -> io::Result<()> {
    let folders = [
        folder.to_owned(),
        folder.join(".claude-plugin"),
        folder.join("hooks"),
    ];
    for each in &folders {
        make_folder(each)?;
    }
    for (path, content) in FILES {
        write_file(&folder.join(path), content)?;
    }
    for each in &folders {
        fs::set_permissions(each, Permissions::from_mode(READ_ONLY_FOLDER))?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
        fs::remove_file(folder)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(OWN_FOLDER)
        .create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(OWN_FOLDER))
}

/// Replaces a file atomically: a Claude Code that reads it sees the old or the new content.
fn write_file(path: &Path, content: &str) -> io::Result<()> {
    if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        fs::remove_dir_all(path)?;
    }
    let mut draft = path.to_owned();
    draft.set_extension(ulid::Ulid::generate().to_string());
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(READ_ONLY_FILE)
        .open(&draft)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _was_never_made = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_whole_read_only_and_always_the_same() {
        let base = tempfile::tempdir().unwrap();
        let folder = ensure(base.path()).unwrap();
        assert!(is_whole(&folder));
        assert_eq!(mode(&folder), READ_ONLY_FOLDER);
        assert_eq!(mode(&folder.join("hooks/cbroker.js")), READ_ONLY_FILE);
        let before = folder.join("hooks/cbroker.js").metadata().unwrap();
        assert_eq!(ensure(base.path()).unwrap(), folder);
        let after = folder.join("hooks/cbroker.js").metadata().unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    }

    #[test]
    fn a_damaged_folder_is_repaired() {
        let base = tempfile::tempdir().unwrap();
        let folder = ensure(base.path()).unwrap();
        let file = folder.join("hooks/cbroker.js");
        fs::set_permissions(folder.join("hooks"), Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(folder.join(".claude-plugin")).unwrap();
        fs::write(folder.join(".claude-plugin"), "").unwrap();
        assert_eq!(ensure(base.path()).unwrap(), folder);
        assert!(is_whole(&folder));
        assert_eq!(mode(&folder), READ_ONLY_FOLDER);
    }

    #[test]
    fn the_parts_of_the_plugin_fit_each_other() {
        let content = |path: &str| FILES.iter().find(|(each, _)| *each == path).unwrap().1;
        let manifest: serde_json::Value =
            serde_json::from_str(content(".claude-plugin/plugin.json")).unwrap();
        assert_eq!(manifest["name"], NAME);
        let module = content("hooks/cbroker.js");
        for option in manifest["userConfig"].as_object().unwrap().keys() {
            assert!(module.contains(&format!("!{option}")), "{option}");
        }
        let hooks: serde_json::Value = serde_json::from_str(content("hooks/hooks.json")).unwrap();
        assert_eq!(hooks["modules"][0], "./cbroker.js");
    }
}
