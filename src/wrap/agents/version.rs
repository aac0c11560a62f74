//! The version of an agent that is installed, as its program says it.
//!
//! An option that a version does not know stops an agent from starting, so a version is known
//! before an option is added. The answer is kept on disk, since asking takes up to a second; it
//! counts as long as the program's file is the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// A program that has not said its version within this is not waited for. opencode takes a second
/// on an idle machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);
/// Programs that are remembered; the file is begun anew beyond that.
const REMEMBERED: usize = 64;

/// Major, minor, patch.
pub type Version = (u32, u32, u32);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    programs: BTreeMap<String, Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    /// Device, inode, size and the time of the last change of any kind: package managers set the
    /// time of the content to a constant.
    file: (u64, u64, u64, i64, i64),
    version: Version,
}

/// The version of the program at `path`, from `cache` where it is known there; `None` when the
/// program does not say one in time.
pub async fn of(path: &Path, cache: &Path) -> Option<Version> {
    let metadata = fs::metadata(path).ok()?;
    let file = (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    );
    let name = path.to_string_lossy().into_owned();
    let mut known = read(cache);
    if let Some(answer) = known.programs.get(&name).filter(|known| known.file == file) {
        return Some(answer.version);
    }
    let version = ask(path).await?;
    if known.programs.len() >= REMEMBERED {
        known.programs.clear();
    }
    known.programs.insert(name, Answer { file, version });
    write(cache, &known);
    Some(version)
}

async fn ask(path: &Path) -> Option<Version> {
    let asked = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(ANSWERS_WITHIN, asked)
        .await
        .ok()?
        .ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

/// The first word of the form `1.2.3`, whatever follows the third number.
fn version_in(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.trim_start_matches('v').splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let rest = numbers.next()?;
        let end = rest.find(|c: char| !c.is_ascii_digit());
        Some((
            major,
            minor,
            rest[..end.unwrap_or(rest.len())].parse().ok()?,
        ))
    })
}

fn read(cache: &Path) -> Known {
    let text = fs::read(cache).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// A cache that cannot be written costs the next start a question.
fn write(cache: &Path, known: &Known) {
    let draft = cache.with_extension(ulid::Ulid::generate().to_string());
    let written = serde_json::to_vec(known)
        .map_err(std::io::Error::other)
        .and_then(|text| fs::write(&draft, text))
        .and_then(|()| fs::rename(&draft, cache));
    if written.is_err() {
        let _was_never_made = fs::remove_file(&draft);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(path: &Path, line: &str) {
        let draft = path.with_extension("draft");
        fs::write(
            &draft,
            format!("#!/bin/sh\necho asked >> {}.log\n{line}\n", path.display()),
        )
        .unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&draft, path).unwrap();
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("codex-cli 0.171.0\n", Some((0, 171, 0))),
            ("2.1.332 (Claude Code)", Some((2, 1, 332))),
            ("v1.18.33-beta.2", Some((1, 18, 33))),
            ("no version here 1.2", None),
            ("", None),
        ] {
            assert_eq!(version_in(said), version, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_again_only_after_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("agent"), folder.path().join("cache"));
        program(&path, "echo agent 1.2.3");
        assert_eq!(of(&path, &cache).await, Some((1, 2, 3)));
        assert_eq!(of(&path, &cache).await, Some((1, 2, 3)));
        let asked = fs::read_to_string(folder.path().join("agent.log")).unwrap();
        assert_eq!(asked.lines().count(), 1);
        program(&path, "echo agent 1.2.4");
        assert_eq!(of(&path, &cache).await, Some((1, 2, 4)));
    }

    #[tokio::test]
    async fn a_program_that_says_none_has_none_and_a_damaged_cache_is_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("agent"), folder.path().join("cache"));
        program(&path, "exit 3");
        assert_eq!(of(&path, &cache).await, None);
        fs::write(&cache, "{\"x\": [").unwrap();
        program(&path, "echo 1.0.0");
        assert_eq!(of(&path, &cache).await, Some((1, 0, 0)));
        assert_eq!(of(&folder.path().join("absent"), &cache).await, None);
    }
}
