//! Records how each session was last opened on this machine, in a small file for each name, so that
//! `list` and the page can show how to open a closed session that has messages.
//!
//! Arguments of the program are not recorded, because they may hold secrets.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::agents::agent_programs;
use super::options::WrapOptions;
use crate::config::Home;
use crate::name::SessionName;

/// The extension of the files.
pub(super) const SUFFIX: &str = "opened";
/// Maximum bytes of a file; a path has at most 4,096 bytes.
const FILE_BYTES: u64 = 16 << 10;

/// How a session was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Opening {
    program: String,
    has_arguments: bool,
    may_send: bool,
    folder: PathBuf,
}

/// Records how a session is opened now. A program whose name is not UTF-8 is not recorded.
pub(super) fn remember(home: &Home, options: &WrapOptions) -> io::Result<()> {
    let Some(program) = options.program.to_str() else {
        return Ok(());
    };
    let opening = Opening {
        program: program.to_owned(),
        has_arguments: !options.arguments.is_empty(),
        may_send: options.may_send,
        folder: std::env::current_dir()?,
    };
    // A file that was truncated by a crash is ignored when it is read.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path(home, options.name.as_str()))?;
    file.write_all(&serde_json::to_vec(&opening)?)
}

/// Returns the command that opens the session as it was last opened, or with `<agent>` as the
/// program if that is not recorded. `options` are inserted after `cbroker`.
pub fn how_to_open(home: &Home, name: &SessionName, options: &[&str]) -> String {
    command(name.as_str(), read(home, name.as_str()).as_ref(), options)
}

/// Returns the command of [`how_to_open`] for every session that was opened on this machine.
///
/// # Errors
/// If the folder cannot be read.
pub fn all_opened(home: &Home) -> io::Result<BTreeMap<String, String>> {
    let files = match fs::read_dir(home.sessions()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        files => files?,
    };
    let named = files.flatten().filter_map(|file| {
        let file = PathBuf::from(file.file_name());
        let is_ours = file.extension().is_some_and(|suffix| suffix == SUFFIX);
        let name = file.file_stem()?.to_str()?;
        let is_name = SessionName::is_exact(name);
        (is_ours && is_name).then(|| name.to_owned())
    });
    let opened = named.filter_map(|name| {
        let opening = read(home, &name)?;
        let command = command(&name, Some(&opening), &[]);
        Some((name, command))
    });
    Ok(opened.collect())
}

fn path(home: &Home, name: &str) -> PathBuf {
    home.sessions().join(format!("{name}.{SUFFIX}"))
}

fn read(home: &Home, name: &str) -> Option<Opening> {
    let mut text = Vec::new();
    let file = fs::File::open(path(home, name)).ok()?;
    file.take(FILE_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn command(name: &str, opening: Option<&Opening>, options: &[&str]) -> String {
    let mut words = vec!["cbroker"];
    words.extend(options);
    words.extend(["--name", name]);
    let Some(opening) = opening else {
        words.push("<agent>");
        return words.join(" ");
    };
    if opening.may_send {
        words.push("--allow-send");
    }
    let is_known = agent_programs().contains(&opening.program.as_str());
    if !is_known {
        words.extend(["run", "--"]);
    }
    let program = quoted(&opening.program);
    words.push(&program);
    // An agent can be opened without its arguments; another program needs them, but they are not
    // recorded.
    if opening.has_arguments && !is_known {
        words.push("…");
    }
    let opens = words.join(" ");
    match folder(&opening.folder) {
        Some(folder) => format!("cd {folder} && {opens}"),
        None => opens,
    }
}

/// The folder, quoted for a shell, if it exists and its name can be shown.
fn folder(path: &Path) -> Option<String> {
    let shown = path
        .to_str()
        .filter(|text| !text.contains(char::is_control))?;
    path.is_dir().then(|| quoted(shown))
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+@:,=%".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(program: &str, folder: &str) -> Opening {
        Opening {
            program: program.to_owned(),
            has_arguments: false,
            may_send: false,
            folder: folder.into(),
        }
    }

    fn shown(opening: &Opening) -> String {
        command("api", Some(opening), &[])
    }

    #[test]
    fn an_agent_is_opened_by_its_name_and_another_program_by_run() {
        let claude = opening("claude", "/");
        assert_eq!(shown(&claude), "cd / && cbroker --name api claude");
        let codex = Opening {
            has_arguments: true,
            may_send: true,
            ..opening("codex", "/")
        };
        assert_eq!(
            shown(&codex),
            "cd / && cbroker --name api --allow-send codex"
        );
        let npm = Opening {
            has_arguments: true,
            ..opening("npm", "/")
        };
        assert_eq!(shown(&npm), "cd / && cbroker --name api run -- npm …");
    }

    #[test]
    fn an_unknown_session_is_opened_with_a_placeholder() {
        assert_eq!(command("api", None, &[]), "cbroker --name api <agent>");
        assert_eq!(
            command("api", None, &["--url", "<url>"]),
            "cbroker --url <url> --name api <agent>"
        );
    }

    #[test]
    fn a_folder_is_quoted_and_omitted_if_it_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("it's $(mine)");
        fs::create_dir(&odd).unwrap();
        let there = opening("claude", odd.to_str().unwrap());
        let quoted = format!("{}/it'\\''s $(mine)", folder.path().display());
        assert_eq!(
            shown(&there),
            format!("cd '{quoted}' && cbroker --name api claude")
        );
        fs::remove_dir(&odd).unwrap();
        assert_eq!(shown(&there), "cbroker --name api claude");
    }
}
