//! The seen log: records on disk which messages of a queue were handed to the agent, so that a
//! crash neither loses nor repeats a message.
//!
//! `intent <id> <from> <digest>` is synced before the message is handed over by any way; `done …`
//! at the proof that it is in the model's context, before the ack; `withdrawn …` cancels an
//! unused intent. A message with `done` is never handed over again on this machine; a message with
//! only an `intent` is, marked as a possible repeat. The same id with another sender or body is
//! another message, which must not be treated as the first one: it is refused if the same user, or
//! the session's own user, used the id before. Uses of an id by other users have no effect: all
//! copies of a message to a group have one id, and a reader of the first copy could make later ones
//! disappear. So a line ends with a mark of the publisher if that was not the session's own user.
//! Two wraps of one name share the file and lock it; each reads the lines of the other before it
//! answers.
//!
//! Relies on the envelope.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::envelope::{Envelope, digest};

/// Maximum number of ids that are remembered.
const REMEMBERED: usize = 10_000;
/// The file is compacted when it has this many lines.
const LINES_LIMIT: usize = 4 * REMEMBERED;
const HEADER: &str = "cbroker-seen 1";
/// Hex digits of another user's mark.
const MARK_DIGITS: usize = 12;
/// The mark of a publisher that the broker does not name.
const UNNAMED_MARK: &str = "-";

/// The publisher of a message, as authenticated by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// The session's own user, who published to this session.
    Own,
    /// Another user, by the first hex digits of the name's SHA-256.
    Other(String),
    /// The broker names no user.
    Unnamed,
}

impl Publisher {
    /// The publisher for another user with this name.
    pub fn other(user: &str) -> Self {
        Self::Other(digest(user.as_bytes(), MARK_DIGITS))
    }

    /// The publisher of a message to a session of the user `own`, where the broker names `user`.
    pub fn named(user: Option<&str>, own: &str) -> Self {
        match user {
            Some(user) if user == own => Self::Own,
            Some(user) => Self::other(user),
            None => Self::Unnamed,
        }
    }

    /// The mark in the log; `None` for the session's own user.
    pub fn mark(&self) -> Option<&str> {
        match self {
            Self::Own => None,
            Self::Other(mark) => Some(mark),
            Self::Unnamed => Some(UNNAMED_MARK),
        }
    }

    /// The identity of a message of this publisher in the log.
    pub fn identity(&self, envelope: &Envelope) -> String {
        let of_envelope = envelope.identity();
        match self.mark() {
            None => of_envelope,
            Some(mark) => format!("{of_envelope} {mark}"),
        }
    }

    /// Whether this publisher may not use an id for another message, because `first` used it.
    pub fn is_barred_by(&self, first: &Self) -> bool {
        self == first || *first == Self::Own
    }
}

/// What the log says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// Nothing.
    Never,
    /// It may have been handed over.
    Intended,
    /// It is in the model's context.
    Done,
    /// Its id was used by another message.
    OtherContent,
}

/// The seen log of one queue.
#[derive(Debug)]
pub(super) struct SeenLog {
    path: PathBuf,
    lock: File,
    file: File,
    /// The offset up to which the file was read.
    read: u64,
    lines: usize,
    /// The uses of each id.
    known: HashMap<String, Vec<IdUse>>,
    /// Ids and publishers' marks, oldest first.
    order: VecDeque<(String, String)>,
}

/// The first message of one publisher with an id.
#[derive(Debug)]
struct IdUse {
    /// The publisher's mark; empty for the session's own user.
    mark: String,
    /// Its sender and digest.
    content: String,
    /// Its state.
    seen: Seen,
}

impl SeenLog {
    /// Opens or creates `<folder>/<queue>.seen`.
    pub(super) fn open(folder: &Path, queue: &str) -> io::Result<Self> {
        let path = folder.join(format!("{queue}.seen"));
        let lock = private(&folder.join(format!("{queue}.seen.lock")))?;
        let file = private(&path)?;
        let mut log = Self {
            path,
            lock,
            file,
            read: 0,
            lines: 0,
            known: HashMap::new(),
            order: VecDeque::new(),
        };
        log.locked(|_| Ok(()))?;
        Ok(log)
    }

    /// Looks up a message by its identity, as recorded by this wrap or another.
    pub(super) fn look_up(&mut self, identity: &str) -> io::Result<Seen> {
        let (id, content, mark) = parts(identity);
        self.locked(|log| {
            let uses = log.known.get(id).map_or(&[][..], Vec::as_slice);
            // The same content counts for every publisher.
            let same = uses.iter().filter(|used| is_same(&used.content, content));
            let is_barred = uses
                .iter()
                .any(|used| used.mark == mark || used.mark.is_empty());
            Ok(match same.map(|used| used.seen).max() {
                Some(seen) => seen,
                None if is_barred => Seen::OtherContent,
                None => Seen::Never,
            })
        })
    }

    /// Writes the intent to hand these messages over. It is on disk when this returns.
    pub(super) fn intend(&mut self, ids: &[String]) -> io::Result<()> {
        self.append("intent", ids)
    }

    /// Withdraws the intents of messages that certainly were not taken.
    pub(super) fn withdraw(&mut self, ids: &[String]) -> io::Result<()> {
        self.append("withdrawn", ids)
    }

    /// Writes that these messages are in the model's context. It is on disk when this returns.
    pub(super) fn done(&mut self, ids: &[String]) -> io::Result<()> {
        self.append("done", ids)
    }

    fn append(&mut self, word: &str, ids: &[String]) -> io::Result<()> {
        self.locked(|log| {
            let mut text = String::new();
            for id in ids {
                let _infallible = writeln!(text, "{word} {id}");
            }
            log.file.write_all(text.as_bytes())?;
            log.file.sync_data()?;
            log.catch_up()?;
            if log.lines > LINES_LIMIT {
                log.compact()
            } else {
                Ok(())
            }
        })
    }

    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.lock.lock()?;
        let result = self.catch_up().and_then(|()| work(self));
        self.lock.unlock()?;
        result
    }

    /// Reads new lines, or the whole file if it was replaced.
    fn catch_up(&mut self) -> io::Result<()> {
        let is_same = fs::metadata(&self.path)
            .and_then(|named| Ok(named.ino() == self.file.metadata()?.ino()));
        if !is_same.unwrap_or(false) {
            self.file = private(&self.path)?;
            (self.read, self.lines) = (0, 0);
            self.known.clear();
            self.order.clear();
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut lines = BufReader::new(&self.file);
        let mut line = Vec::new();
        let mut fresh = Vec::new();
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            if line.last() != Some(&b'\n') {
                // A line torn by a crash was never confirmed. It is ended, so that the next line is
                // not appended to it.
                drop(lines);
                self.file.write_all(b"\n")?;
                self.read += length as u64 + 1;
                break;
            }
            self.read += length as u64;
            fresh.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        for line in fresh {
            self.lines += 1;
            match line.split_once(' ') {
                Some(("intent", id)) => self.apply(id, Seen::Intended),
                Some(("done", id)) => self.apply(id, Seen::Done),
                Some(("withdrawn", id)) => self.apply(id, Seen::Never),
                _ => {}
            }
        }
        if self.read == 0 {
            self.file.write_all(format!("{HEADER}\n").as_bytes())?;
            self.read = self.file.metadata()?.len();
        }
        Ok(())
    }

    /// Applies a line. The first message of a publisher with an id keeps the id.
    fn apply(&mut self, identity: &str, seen: Seen) {
        let (id, content, mark) = parts(identity);
        let uses = self.known.entry(id.to_owned()).or_default();
        if let Some(used) = uses.iter_mut().find(|used| used.mark == mark) {
            if is_same(&used.content, content) && used.seen != Seen::Done {
                used.seen = seen;
            }
            return;
        }
        uses.push(IdUse {
            mark: mark.to_owned(),
            content: content.to_owned(),
            seen,
        });
        self.order.push_back((id.to_owned(), mark.to_owned()));
        if self.order.len() > REMEMBERED
            && let Some((oldest, mark)) = self.order.pop_front()
            && let Some(uses) = self.known.get_mut(&oldest)
        {
            uses.retain(|used| used.mark != mark);
            if uses.is_empty() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Replaces the file by one with only the remembered ids.
    fn compact(&mut self) -> io::Result<()> {
        let draft = self.path.with_extension("seen.new");
        let mut text = format!("{HEADER}\n");
        for (id, mark) in &self.order {
            let uses = self.known.get(id).into_iter().flatten();
            let mut uses = uses.filter(|used| used.mark == *mark);
            let Some(used) = uses.next() else {
                continue;
            };
            let word = match used.seen {
                Seen::Done => "done",
                Seen::Intended => "intent",
                Seen::Never | Seen::OtherContent => "withdrawn",
            };
            let line = [word, id, &used.content, mark].join(" ");
            let _infallible = writeln!(text, "{}", line.trim_end());
        }
        let mut file = private(&draft)?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.catch_up()
    }
}

/// Whether two contents are the same. A line of an earlier version has only the id.
fn is_same(known: &str, content: &str) -> bool {
    known.is_empty() || known == content
}

/// The id in an identity, and the mark of a publisher other than the own user.
pub(super) fn id_and_mark(identity: &str) -> (&str, Option<&str>) {
    let (id, _, mark) = parts(identity);
    (id, Some(mark).filter(|mark| !mark.is_empty()))
}

/// Splits an identity into the id, the content (sender and digest), and the publisher's mark.
fn parts(identity: &str) -> (&str, &str, &str) {
    let (id, rest) = identity.split_once(' ').unwrap_or((identity, ""));
    match rest.match_indices(' ').nth(1) {
        Some((end, _)) => (id, &rest[..end], &rest[end + 1..]),
        None => (id, rest, ""),
    }
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ids(list: &[&str]) -> Vec<String> {
        list.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn done_and_intent_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.intend(&ids(&["a", "b"])).unwrap();
        log.done(&ids(&["a"])).unwrap();
        drop(log);
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        assert_eq!(log.look_up("a").unwrap(), Seen::Done);
        assert_eq!(log.look_up("b").unwrap(), Seen::Intended);
        assert_eq!(log.look_up("c").unwrap(), Seen::Never);
    }

    #[test]
    fn a_withdrawn_intent_is_forgotten_and_done_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.intend(&ids(&["a", "b"])).unwrap();
        log.done(&ids(&["b"])).unwrap();
        log.withdraw(&ids(&["a", "b"])).unwrap();
        assert_eq!(log.look_up("a").unwrap(), Seen::Never);
        drop(log);
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        assert_eq!(log.look_up("a").unwrap(), Seen::Never);
        assert_eq!(log.look_up("b").unwrap(), Seen::Done);
        log.intend(&ids(&["a"])).unwrap();
        assert_eq!(log.look_up("a").unwrap(), Seen::Intended);
    }

    #[test]
    fn a_reused_id_does_not_make_the_genuine_message_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.done(&ids(&["a mallory 11"])).unwrap();
        assert_eq!(log.look_up("a mallory 11").unwrap(), Seen::Done);
        assert_eq!(log.look_up("a backend 11").unwrap(), Seen::OtherContent);
        assert_eq!(log.look_up("a mallory 22").unwrap(), Seen::OtherContent);
        drop(log);
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        assert_eq!(log.look_up("a backend 11").unwrap(), Seen::OtherContent);
    }

    #[test]
    fn an_id_used_by_others_is_free_for_the_own_user() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.done(&ids(&["a backend 11 0123456789ab", "a backend 22 -"]))
            .unwrap();
        for stranger in ["a backend 33 0123456789ab", "a backend 33 -"] {
            assert_eq!(log.look_up(stranger).unwrap(), Seen::OtherContent);
        }
        assert_eq!(
            log.look_up("a backend 33 ba9876543210").unwrap(),
            Seen::Never
        );
        assert_eq!(log.look_up("a backend 33").unwrap(), Seen::Never);
        log.done(&ids(&["a backend 33"])).unwrap();
        drop(log);
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        // An id of the own user is refused to all other messages, and repeats are recognized.
        for (identity, seen) in [
            ("a backend 33", Seen::Done),
            ("a backend 44", Seen::OtherContent),
            ("a backend 44 ba9876543210", Seen::OtherContent),
            ("a backend 11 0123456789ab", Seen::Done),
            ("a backend 22 -", Seen::Done),
        ] {
            assert_eq!(log.look_up(identity).unwrap(), seen, "{identity}");
        }
    }

    #[test]
    fn publishers_of_ids_survive_a_compaction() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.done(&ids(&["a backend 11 -", "a backend 22"])).unwrap();
        log.compact().unwrap();
        drop(log);
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        assert_eq!(log.look_up("a backend 22").unwrap(), Seen::Done);
        assert_eq!(log.look_up("a backend 11 -").unwrap(), Seen::Done);
        assert_eq!(log.look_up("a backend 33 -").unwrap(), Seen::OtherContent);
    }

    #[test]
    fn two_wraps_of_one_name_share_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = SeenLog::open(folder.path(), "q").unwrap();
        let mut other = SeenLog::open(folder.path(), "q").unwrap();
        one.done(&ids(&["a"])).unwrap();
        assert_eq!(other.look_up("a").unwrap(), Seen::Done);
    }

    #[test]
    fn a_line_torn_by_a_crash_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.done(&ids(&["a"])).unwrap();
        drop(log);
        let mut file = OpenOptions::new()
            .append(true)
            .open(folder.path().join("q.seen"))
            .unwrap();
        file.write_all(b"done b").unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        log.done(&ids(&["c"])).unwrap();
        drop(log);
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        assert_eq!(log.look_up("a").unwrap(), Seen::Done);
        assert_eq!(log.look_up("c").unwrap(), Seen::Done);
    }

    #[test]
    fn the_file_is_compacted_and_the_newest_ids_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SeenLog::open(folder.path(), "q").unwrap();
        let mut other = SeenLog::open(folder.path(), "q").unwrap();
        let all: Vec<String> = (0..=LINES_LIMIT).map(|n| format!("m{n}")).collect();
        log.done(&all).unwrap();
        assert_eq!(other.look_up("m0").unwrap(), Seen::Never);
        assert_eq!(other.look_up(all.last().unwrap()).unwrap(), Seen::Done);
        let text = fs::read_to_string(folder.path().join("q.seen")).unwrap();
        assert!(text.lines().count() <= REMEMBERED + 1);
    }

    #[test]
    fn two_wraps_of_one_name_lock_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let first = SeenLog::open(folder.path(), "q").unwrap();
        let mut second = SeenLog::open(folder.path(), "q").unwrap();
        first.lock.lock().unwrap();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || tell.send(second.done(&ids(&["a"])).is_ok()));
            let early = told.recv_timeout(std::time::Duration::from_millis(200));
            first.lock.unlock().unwrap();
            assert!(early.is_err(), "it wrote while the other had the lock");
            assert_eq!(told.recv(), Ok(true));
        });
    }
}
