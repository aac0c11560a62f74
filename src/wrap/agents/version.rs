//! Finds the version of an installed agent.
//!
//! An option that a version does not know prevents an agent from starting, so the version must be
//! known before an option is added. Running the program with `--version` takes a second, and the
//! start of the agent does not wait for that: the result is cached on disk until the program's file
//! changes. The version of an npm package is read from its `package.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::config::{remove_own_variables, write_private};

/// Time limit for the program to print its version. opencode takes a second on an idle machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// How long the start of an agent waits for the result. A later result is cached for the next
/// start.
const START_WAITS: Duration = Duration::from_millis(300);
/// Number of folders above a program that are searched for a `package.json`.
const PACKAGE_DEPTH: usize = 5;
/// Maximum bytes of a `package.json`.
const PACKAGE_BYTES: u64 = 1 << 20;
/// Maximum number of cached programs; the cache is cleared beyond that.
const REMEMBERED: usize = 64;

/// Major, minor, patch.
pub type Version = (u32, u32, u32);

#[derive(Debug, Default, Serialize, Deserialize)]
struct VersionCache {
    #[serde(flatten)]
    programs: BTreeMap<String, KnownVersion>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownVersion {
    /// Device, inode, size and change time of the file. Package managers set the modification time
    /// to a constant.
    file: (u64, u64, u64, i64, i64),
    version: Version,
}

/// A lookup of a version in the background.
#[derive(Debug)]
pub struct VersionLookup(tokio::task::JoinHandle<Option<Version>>);

impl VersionLookup {
    /// Starts the lookup for the program at `path`, whose packages have `name` in their names.
    pub fn new(path: PathBuf, name: &'static str, cache: PathBuf) -> Self {
        Self(tokio::spawn(async move { of(&path, name, &cache).await }))
    }

    /// Waits briefly for the result. A later result is cached for the next start.
    pub async fn wait_briefly(self) -> Option<Version> {
        let answer = tokio::time::timeout(START_WAITS, self.0).await;
        answer.ok()?.ok()?
    }
}

/// The version of the program at `path`, from `cache` if possible; `None` if the program does not
/// print one in time.
async fn of(path: &Path, package: &str, cache: &Path) -> Option<Version> {
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
    let version = match of_package(path, package) {
        Some(version) => version,
        None => ask(path).await?,
    };
    if known.programs.len() >= REMEMBERED {
        known.programs.clear();
    }
    known.programs.insert(name, KnownVersion { file, version });
    write(cache, &known);
    Some(version)
}

/// The version in the nearest `package.json` above the program, if that is of a package of this
/// name.
fn of_package(path: &Path, name: &str) -> Option<Version> {
    let program = path.canonicalize().ok()?;
    let folders = program.ancestors().skip(1).take(PACKAGE_DEPTH);
    let mut files = folders.filter_map(|folder| File::open(folder.join("package.json")).ok());
    let mut text = Vec::new();
    files
        .next()?
        .take(PACKAGE_BYTES)
        .read_to_end(&mut text)
        .ok()?;
    let package: serde_json::Value = serde_json::from_slice(&text).ok()?;
    package["name"]
        .as_str()
        .filter(|said| said.contains(name))?;
    version_in(package["version"].as_str()?)
}

async fn ask(path: &Path) -> Option<Version> {
    let mut command = Command::new(path);
    remove_own_variables(command.as_std_mut());
    let asked = command
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

/// The first word of the form `1.2.3`, with any suffix.
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

fn read(cache: &Path) -> VersionCache {
    let text = fs::read(cache).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes the cache. If that fails, the next start runs the program again.
fn write(cache: &Path, known: &VersionCache) {
    let text = serde_json::to_vec(known).map_err(std::io::Error::other);
    let _asked_again = text.and_then(|text| write_private(cache, &text));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use super::*;
    use crate::wrap::test_program::write_program;

    fn program(path: &Path, line: &str) {
        let draft = path.with_extension("draft");
        let text = format!("#!/bin/sh\necho asked >> {}.log\n{line}\n", path.display());
        write_program(&draft, &text).unwrap();
        fs::rename(&draft, path).unwrap();
    }

    #[test]
    fn versions_are_found_in_the_output_of_programs() {
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

    async fn of(path: &Path, cache: &Path) -> Option<Version> {
        super::of(path, "agent", cache).await
    }

    #[tokio::test]
    async fn the_version_of_a_package_is_read_without_running_its_program() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, cache) = (folder.path().join("bin"), folder.path().join("cache"));
        fs::create_dir(&bin).unwrap();
        let path = bin.join("agent");
        program(&path, "echo 9.9.9");
        let package = folder.path().join("package.json");
        fs::write(&package, r#"{"name": "other", "version": "1.0.0"}"#).unwrap();
        assert_eq!(of(&path, &folder.path().join("x")).await, Some((9, 9, 9)));
        let said = r#"{"name": "@x/agent-linux", "version": "1.2.3-linux-x64"}"#;
        fs::write(&package, said).unwrap();
        assert_eq!(of(&path, &cache).await, Some((1, 2, 3)));
        let asked = fs::read_to_string(bin.join("agent.log")).unwrap();
        assert_eq!(asked.lines().count(), 1);
    }

    #[tokio::test]
    async fn a_slow_program_is_not_awaited_and_its_answer_is_cached() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("agent"), folder.path().join("cache"));
        let go = folder.path().join("go");
        let line = format!(
            "until [ -e {} ]; do sleep 0.02; done; echo 1.2.3",
            go.display()
        );
        program(&path, &line);
        let ask = || VersionLookup::new(path.clone(), "agent", cache.clone());
        assert_eq!(
            ask().wait_briefly().await,
            None,
            "it does not answer before it may"
        );
        fs::write(&go, "").unwrap();
        let until = Instant::now() + Duration::from_mins(3);
        while read(&cache).programs.is_empty() {
            assert!(Instant::now() < until, "it is not cached");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // On a busy machine the disk may answer later than a start waits.
        let mut version = None;
        while version.is_none() {
            assert!(Instant::now() < until, "the cache is not read");
            version = ask().wait_briefly().await;
        }
        assert_eq!(version, Some((1, 2, 3)));
        let asked = fs::read_to_string(folder.path().join("agent.log")).unwrap();
        assert_eq!(asked.lines().count(), 1);
    }

    #[tokio::test]
    async fn a_program_is_run_again_only_after_it_changed() {
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
    async fn a_program_may_have_no_version_and_a_damaged_cache_is_ignored() {
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
