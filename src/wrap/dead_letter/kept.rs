//! Reads the dead letters on disk, and removes those that a person has dealt with.
//!
//! A dead letter is named by a digest of its line. The folder is locked while a file is rewritten
//! and while a session appends, so that no letter is lost.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::claimed_id;
use crate::config::{Home, write_private_with};
use crate::envelope::digest;
use crate::name::SessionName;

/// The number of digits in a dead letter's name.
const ID_DIGITS: usize = 12;

/// A dead letter on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptDeadLetter {
    /// Its name in commands.
    pub id: String,
    /// The session that refused it.
    pub queue: String,
    /// Whether the session's own user published it, according to the broker.
    pub is_own: bool,
    /// When it was refused.
    pub ts: String,
    /// Why it was refused.
    pub error: String,
    /// The id that the message claims, if it claims one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The body as text, or in base64.
    pub raw: String,
    /// `base64` if the body was not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The length of the whole body, if `raw` is only its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_from: Option<usize>,
}

#[derive(Deserialize)]
struct KeptLine {
    ts: String,
    error: String,
    raw: String,
    #[serde(default)]
    encoding: Option<String>,
    #[serde(default)]
    cut_from: Option<usize>,
}

impl KeptDeadLetter {
    fn read(line: &[u8], queue: &SessionName, is_own: bool) -> Option<Self> {
        let kept: KeptLine = serde_json::from_slice(line).ok()?;
        let mut letter = Self {
            id: digest(line, ID_DIGITS),
            queue: queue.to_string(),
            is_own,
            ts: kept.ts,
            error: kept.error,
            message_id: None,
            raw: kept.raw,
            encoding: kept.encoding,
            cut_from: kept.cut_from,
        };
        letter.message_id = Some(claimed_id(&letter.body())).filter(|id| !id.is_empty());
        Some(letter)
    }

    /// The bytes of the body, as many as were kept.
    pub fn body(&self) -> Vec<u8> {
        match self.encoding.as_deref() {
            Some("base64") => BASE64_STANDARD.decode(&self.raw).unwrap_or_default(),
            _ => self.raw.clone().into_bytes(),
        }
    }
}

/// Returns the dead letters of one session, or of all of this home, oldest first.
///
/// # Errors
/// If a file cannot be read. A file that does not exist holds none.
pub fn dead_letters(home: &Home, queue: Option<&SessionName>) -> io::Result<Vec<KeptDeadLetter>> {
    let mut letters = Vec::new();
    let keep = |letter| {
        letters.push(letter);
        Ok(())
    };
    each_dead_letter(home, queue, keep)?;
    letters.sort_by(|a: &KeptDeadLetter, b| a.ts.cmp(&b.ts));
    Ok(letters)
}

/// Reads the dead letters of one session, or of all of this home, one at a time and file by file.
///
/// # Errors
/// As [`dead_letters`], and if `take` fails.
pub fn each_dead_letter(
    home: &Home,
    queue: Option<&SessionName>,
    mut take: impl FnMut(KeptDeadLetter) -> io::Result<()>,
) -> io::Result<()> {
    let queues = match queue {
        Some(queue) => vec![queue.clone()],
        None => queues(home),
    };
    for queue in queues {
        for (file, is_own) in files(home, &queue) {
            for line in lines(&file)? {
                if let Some(letter) = KeptDeadLetter::read(&line?, &queue, is_own) {
                    take(letter)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes one dead letter. Does nothing if it does not exist.
///
/// # Errors
/// If its file cannot be locked, read or written; the dead letter is kept then.
pub fn remove_dead_letter(home: &Home, letter: &KeptDeadLetter) -> io::Result<()> {
    let Ok(queue) = SessionName::new(&letter.queue) else {
        return Ok(());
    };
    for (file, _) in files(home, &queue) {
        let _lock = lock(&file)?;
        let (mut place, mut count) = (None, 0);
        for line in lines(&file)? {
            let line = line?;
            if place.is_none() && digest(&line, ID_DIGITS) == letter.id {
                place = Some(count);
            }
            count += 1;
        }
        match place {
            Some(_) if count == 1 => return fs::remove_file(&file),
            Some(place) => return remove_line(&file, place),
            None => {}
        }
    }
    Ok(())
}

/// Rewrites a file without one of its lines. Only one line is in memory at a time, because the file
/// may be large.
fn remove_line(file: &Path, place: usize) -> io::Result<()> {
    write_private_with(file, |out| {
        let others = lines(file)?.enumerate().filter(|(at, _)| *at != place);
        for (_, line) in others {
            out.write_all(&line?)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Locks the folder of a file until the lock is dropped. Waits for the lock, which is never held
/// for long.
pub(super) fn lock(file: &Path) -> io::Result<File> {
    let folder = File::open(file.parent().unwrap_or(file))?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// The files of a queue, the older one first, followed by those of other users, and whether each
/// belongs to the own user.
fn files(home: &Home, queue: &SessionName) -> [(PathBuf, bool); 4] {
    let file = home.dead_letters(queue.as_str());
    let others = super::path_for_others(&file);
    let older = |file: &Path| file.with_extension(super::OLDER);
    [
        (older(&file), true),
        (file, true),
        (older(&others), false),
        (others, false),
    ]
}

/// The lines of a file; none if it does not exist.
fn lines(file: &Path) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>> + use<>> {
    let file = match File::open(file) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(file
        .into_iter()
        .flat_map(|file| BufReader::new(file).split(b'\n')))
}

/// The sessions that have dead letters.
fn queues(home: &Home) -> Vec<SessionName> {
    let some = home.dead_letters("x");
    let Some(Ok(entries)) = some.parent().map(fs::read_dir) else {
        return Vec::new();
    };
    let mut queues: Vec<SessionName> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let (name, _) = file.split_once('.')?;
            SessionName::new(name)
                .ok()
                .filter(|own| own.as_str() == name)
        })
        .collect();
    queues.sort();
    queues.dedup();
    queues
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Environment;
    use crate::wrap::dead_letter::{DeadBody, NewDeadLetter, append, path_for_others};

    #[test]
    fn dead_letters_of_other_users_displace_none_of_the_users_own() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
        let home = Home::of(&environment).unwrap();
        let queue = SessionName::new("backend").unwrap();
        let own = home.dead_letters(queue.as_str());
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        let keep = |file: &Path, ts: &str, body: &str| {
            let letter = NewDeadLetter {
                ts: ts.into(),
                error: "no JSON".into(),
                body: DeadBody::cut(body.into()),
                is_own: false,
            };
            append(file, &[letter]).unwrap();
        };
        keep(&own, "1", "mine");
        for number in 0..400 {
            let ts = format!("2-{number:03}");
            keep(&path_for_others(&own), &ts, &"x".repeat(1 << 20));
        }
        for asked in [Some(&queue), None] {
            let letters = dead_letters(&home, asked).unwrap();
            assert_eq!(letters[0].raw, "mine");
            assert!(letters[1..].iter().all(|letter| letter.queue == "backend"));
            assert!((100..400).contains(&letters.len()), "{}", letters.len());
        }
        let first = dead_letters(&home, None).unwrap().remove(1);
        remove_dead_letter(&home, &first).unwrap();
        assert!(!dead_letters(&home, None).unwrap().contains(&first));
    }
}
