//! The files of the history: one for the messages of the user's own, one for those of others, and
//! an older one of each. Relies on the home folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::iter::Peekable;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::probes::RecordedProbes;
use super::{HistoryEntry, MessageHistory, MessageText, texts};
use crate::clean;

const ROTATE_BYTES: u64 = 8 << 20;

/// The files of one kind of publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HistoryFiles {
    /// The user's own.
    User,
    /// Everybody else's.
    Others,
}

impl HistoryFiles {
    const ALL: [Self; 2] = [Self::User, Self::Others];

    fn of(entry: &HistoryEntry) -> Self {
        match entry.publisher {
            None => Self::User,
            Some(_) => Self::Others,
        }
    }
}

impl MessageHistory {
    /// Appends one event. The caller may ignore an error: a failing history must not stop anything.
    pub fn note(&self, entry: &HistoryEntry) -> io::Result<()> {
        let files = HistoryFiles::of(entry);
        let message = entry.message.as_ref();
        if let Some(text) = message.and_then(|message| message.to_keep.as_deref()) {
            // Without it the line still has the beginning.
            let _cut = texts::keep(&self.texts(files), text);
        }
        let mut line = clean::json(&serde_json::to_string(entry)?).into_bytes();
        line.push(b'\n');
        let path = self.path(files);
        let mut file = self.open_for_append(&path)?;
        if file.metadata()?.len() > ROTATE_BYTES {
            self.make_older(files, &file)?;
            file = self.open_for_append(&path)?;
        }
        file.write_all(&line)
    }

    /// Makes a full file the older one, unless another process has done so since it was opened, or
    /// is doing so: a second rename would put a nearly empty file in place of the full one.
    /// The file stays locked until it is closed.
    fn make_older(&self, files: HistoryFiles, full: &File) -> io::Result<()> {
        match full.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let path = self.path(files);
        let id = |file: fs::Metadata| (file.dev(), file.ino());
        let found = id(full.metadata()?);
        if fs::metadata(&path).is_ok_and(|now| id(now) == found) {
            fs::rename(&path, self.older(files))?;
        }
        Ok(())
    }

    /// Replaces the beginning of a long text by the whole text, if that is kept.
    pub fn complete(&self, message: &mut MessageText) {
        let Some(name) = message.whole.take() else {
            return;
        };
        // The name is the text's digest, so either folder may hold it.
        let mut folders = HistoryFiles::ALL.map(|files| self.texts(files)).into_iter();
        if let Some(text) = folders.find_map(|folder| texts::read(&folder, &name)) {
            message.text = text;
            message.cut_from = None;
        }
    }

    /// Returns a text that changes with the history.
    pub fn version(&self) -> String {
        let stamp = |path: PathBuf| {
            let file = fs::metadata(path).ok();
            file.map_or((0, 0), |file| (file.ino(), file.len()))
        };
        let stamps =
            HistoryFiles::ALL.map(|files| (stamp(self.older(files)), stamp(self.path(files))));
        format!("{stamps:?}").replace(|c: char| !c.is_ascii_digit(), "-")
    }

    /// Reads each line of all files, in the order of their times. Lines that cannot be parsed are
    /// skipped, and so is what older versions recorded of probes.
    pub(super) fn for_each(&self, mut take: impl FnMut(HistoryEntry)) -> io::Result<()> {
        let (mut own, mut others) = (
            self.lines(HistoryFiles::User)?,
            self.lines(HistoryFiles::Others)?,
        );
        let mut probes = RecordedProbes::default();
        while let Some(entry) = next(&mut own, &mut others) {
            let entry = entry?;
            if !probes.has(&entry) {
                take(entry);
            }
        }
        Ok(())
    }

    fn lines(
        &self,
        files: HistoryFiles,
    ) -> io::Result<Peekable<impl Iterator<Item = io::Result<HistoryEntry>>>> {
        let mut opened = Vec::new();
        for path in [self.older(files), self.path(files)] {
            match File::open(path) {
                Ok(file) => opened.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let lines = opened
            .into_iter()
            .flat_map(|file| BufReader::new(file).split(b'\n'));
        let entries = lines.filter_map(|line| match line {
            Ok(line) => serde_json::from_slice(&line).ok().map(Ok),
            Err(error) => Some(Err(error)),
        });
        Ok(entries.peekable())
    }

    /// Long texts of others have a folder of their own too.
    pub(super) fn texts(&self, files: HistoryFiles) -> PathBuf {
        self.home.logs().join(match files {
            HistoryFiles::User => "texts",
            HistoryFiles::Others => "texts.others",
        })
    }

    pub(super) fn path(&self, files: HistoryFiles) -> PathBuf {
        self.home.logs().join(match files {
            HistoryFiles::User => "messages.jsonl",
            HistoryFiles::Others => "messages.others.jsonl",
        })
    }

    pub(super) fn older(&self, files: HistoryFiles) -> PathBuf {
        self.path(files).with_extension("jsonl.1")
    }

    fn open_for_append(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.home.prepare()?;
                options.open(path)
            }
            opened => opened,
        }
    }
}

/// The earlier one of the next two entries.
fn next<I: Iterator<Item = io::Result<HistoryEntry>>>(
    own: &mut Peekable<I>,
    others: &mut Peekable<impl Iterator<Item = io::Result<HistoryEntry>>>,
) -> Option<io::Result<HistoryEntry>> {
    match (own.peek(), others.peek()) {
        (Some(Ok(one)), Some(Ok(other))) if other.ts <= one.ts => others.next(),
        (None, _) => others.next(),
        _ => own.next(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use chrono::DateTime;

    use super::*;
    use crate::message_history::tests::history;
    use crate::message_history::{ConversationMessage, HistoryEvent};

    fn says(text: &str, publisher: Option<&str>) -> HistoryEntry {
        let body = serde_json::json!({
            "id": "shared-id", "from": "a", "to": "b", "ts": "t", "message": text,
        });
        let body = body.to_string();
        let envelope = crate::envelope::Envelope::parse(body.as_bytes(), 4 << 20).unwrap();
        event(HistoryEvent::Received, publisher).saying(MessageText::of(&envelope))
    }

    fn event(event: HistoryEvent, publisher: Option<&str>) -> HistoryEntry {
        HistoryEntry::new(DateTime::UNIX_EPOCH, "shared-id", event, "b")
            .published_by(publisher.map(str::to_owned))
    }

    fn told(history: &MessageHistory) -> Vec<(Option<String>, String, HistoryEvent)> {
        let told = history.conversation(usize::MAX).unwrap().into_iter();
        told.map(
            |ConversationMessage {
                 publisher,
                 message,
                 state,
                 ..
             }| (publisher, message.text, state),
        )
        .collect()
    }

    #[test]
    fn a_stranger_who_uses_an_id_again_changes_nothing_of_the_users_message() {
        let (_folder, history) = history();
        for entry in [
            says("forged", Some("-")),
            says("mine", None),
            event(HistoryEvent::DeadLettered, Some("-")),
            event(HistoryEvent::Delivered, None),
            event(HistoryEvent::Purged, Some("0123")),
        ] {
            history.note(&entry).unwrap();
        }
        let mut found = told(&history);
        found.sort();
        assert_eq!(
            found,
            [
                (None, "mine".into(), HistoryEvent::Delivered),
                (Some("-".into()), "forged".into(), HistoryEvent::Received),
            ]
        );
        let text = |publisher| {
            let found = history.message("b", "shared-id", publisher).unwrap();
            found.map(|message| message.text)
        };
        assert_eq!(text(None).as_deref(), Some("mine"));
        assert_eq!(text(Some("-")).as_deref(), Some("forged"));
        assert_eq!(text(Some("0123")), None, "that publisher sent none");
    }

    #[test]
    fn an_answer_to_somebody_elses_message_is_told_of_that() {
        let (_folder, history) = history();
        history.note(&says("a question", Some("0123"))).unwrap();
        history.note(&event(HistoryEvent::Answered, None)).unwrap();
        let state = told(&history).remove(0).2;
        assert_eq!(state, HistoryEvent::Answered);
    }

    #[test]
    fn a_flood_of_strangers_pushes_none_of_the_users_messages_out() {
        let (_folder, history) = history();
        let mine = "my long text ".repeat(4000);
        history.note(&says(&mine, None)).unwrap();
        let flood = "x".repeat(1 << 20);
        for number in 0..70 {
            let one = says(&format!("{number}{flood}"), Some("-"));
            history.note(&one).unwrap();
        }
        for _ in 0..35 {
            let line = event(HistoryEvent::Held, Some("-")).with_detail("y".repeat(512 << 10));
            history.note(&line).unwrap();
        }
        let path = history.path(HistoryFiles::Others);
        assert!(path.with_extension("jsonl.1").exists(), "it was a flood");
        let found = history.message("b", "shared-id", None).unwrap().unwrap();
        assert_eq!((found.text.as_str(), found.cut_from), (mine.as_str(), None));
    }

    /// Sessions and commands are processes of their own, and several can find the same file full.
    #[test]
    fn two_processes_that_find_a_file_full_make_it_older_once() {
        let (_folder, history) = history();
        history.note(&says("an old message", None)).unwrap();
        let path = history.path(HistoryFiles::User);
        let found_by = [(); 2].map(|()| history.open_for_append(&path).unwrap());
        for file in found_by {
            history.make_older(HistoryFiles::User, &file).unwrap();
            history.note(&event(HistoryEvent::Delivered, None)).unwrap();
        }
        assert_eq!(told(&history).len(), 1, "the old message is kept");
    }

    #[test]
    fn strangers_without_end_take_no_place_of_the_users_messages_among_the_latest() {
        let (_folder, history) = history();
        history.note(&says("mine", None)).unwrap();
        for number in 0..10 {
            let publisher = number.to_string();
            history.note(&says("theirs", Some(&publisher))).unwrap();
        }
        history.note(&event(HistoryEvent::Delivered, None)).unwrap();
        let latest = history.latest(100, 3, &mut |_| Ok(())).unwrap();
        let shown = latest.messages.iter();
        let texts: Vec<_> = shown
            .map(|told| (&*told.message.text, told.state))
            .collect();
        assert_eq!((texts.len(), latest.older), (4, 7));
        assert!(
            texts.contains(&("mine", HistoryEvent::Delivered)),
            "{texts:?}"
        );
    }

    #[test]
    fn the_latest_messages_alone_take_memory() {
        let (_folder, history) = history();
        for number in 0..10 {
            let text = "x".repeat(1000);
            history
                .note(&says(&text, Some(&number.to_string())))
                .unwrap();
        }
        let mut most = 0;
        let mut charge = |bytes| {
            most = bytes;
            Ok(())
        };
        let latest = history.latest(100, 3, &mut charge).unwrap();
        assert_eq!((latest.messages.len(), latest.older), (3, 7));
        assert!((300..3000).contains(&most), "{most}");
        let refused = history.latest(100, 3, &mut |_| Err(io::ErrorKind::OutOfMemory.into()));
        assert!(refused.is_err());
    }
}
