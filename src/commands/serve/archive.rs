//! Readers of the files that the broker's page shows: the message history, the dead letters, and
//! how sessions were opened, as `cbroker history`, `dead` and `list` show them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use broker::{Archive, ArchiveCharge, ArchiveError, ArchiveResult};
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use crate::clean;
use crate::commands::dead;
use crate::config::{Config, Credentials};
use crate::error::Error;
use crate::message_history::MessageHistory;
use crate::peer::Peer;
use crate::wrap::{KeptDeadLetter, all_opened, each_dead_letter};

/// How many messages of the conversation are shown: this many of the user's own, and as many of
/// others. `cbroker history` has all.
const MOST_MESSAGES: usize = 2000;
/// How many dead letters are shown: the latest of the user's own, and as many of others.
const MOST_LETTERS: usize = 500;
/// Longest excerpt of a text. The page requests a whole text by its id.
const EXCERPT_BYTES: usize = 4096;

/// The files of one home.
#[derive(Debug)]
pub(super) struct HomeArchive {
    config: Config,
    /// The URL of this broker, once it listens.
    url: OnceLock<String>,
    /// Held while the files are read, to bound the memory of readers.
    reading: Mutex<()>,
    letters: Mutex<Option<(FileStamps, String)>>,
    /// Held while a letter is sent, so that none is sent twice.
    sending: Mutex<()>,
}

/// Inode, length and modification time of each file.
type FileStamps = BTreeMap<PathBuf, (u64, u64, i64, i64)>;

impl HomeArchive {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            url: OnceLock::new(),
            reading: Mutex::default(),
            letters: Mutex::default(),
            sending: Mutex::default(),
        }
    }

    /// Says where this broker listens.
    pub(super) fn listens_at(&self, url: String) {
        // It listens once.
        let _ = self.url.set(url);
    }

    fn history(&self) -> MessageHistory {
        MessageHistory::of(&self.config.home)
    }

    fn letter(&self, id: &str) -> Result<KeptDeadLetter, ArchiveError> {
        let mut found = None;
        let take = |letter: KeptDeadLetter| {
            if found.is_none() && letter.id == id {
                found = Some(letter);
            }
            Ok(())
        };
        each_dead_letter(&self.config.home, None, take)?;
        found.ok_or(ArchiveError::Missing)
    }

    /// The current stamps of the dead-letter files.
    fn stamps(&self) -> io::Result<FileStamps> {
        let file = self.config.home.dead_letters("any");
        let folder = file.parent().unwrap_or(&file);
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileStamps::new()),
            entries => entries?,
        };
        let mut stamps = FileStamps::new();
        for entry in entries.flatten() {
            if let Ok(file) = entry.metadata() {
                let stamp = (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
                stamps.insert(entry.path(), stamp);
            }
        }
        Ok(stamps)
    }

    /// A connection to this broker, and the configuration for it; `None` before it listens.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Option<(Peer, Config)>, Error> {
        let Some(url) = self.url.get() else {
            return Ok(None);
        };
        let here = self.config.for_url(url)?;
        let peer = Peer::connect(&here.endpoint, purpose).await?;
        Ok(Some((peer, here)))
    }

    async fn send_again(&self, letter: &KeptDeadLetter) -> Result<Value, ArchiveError> {
        let connected = self.connect("dead").await.map_err(not_sent)?;
        let (mut peer, here) = connected.ok_or(ArchiveError::Missing)?;
        let sent = dead::send_again(letter, &mut peer, &here).await;
        peer.close().await;
        let envelope = sent.map_err(not_sent)?;
        Ok(json!({ "id": envelope.id, "to": envelope.to }))
    }
}

/// A failed command of ours as the cause of another error: what and why, for a person.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.summary())]
struct CommandFailure(#[source] Error);

fn not_sent(error: impl Into<Error>) -> ArchiveError {
    ArchiveError::NotSent(Box::new(CommandFailure(error.into())))
}

/// Passes the bytes held now to `charge`. Its refusal is put into `refused`, because readers of
/// files return only `io::Error`.
fn charged(
    charge: ArchiveCharge<'_>,
    refused: &mut Option<ArchiveError>,
    bytes: usize,
) -> io::Result<()> {
    charge(bytes).map_err(|error| {
        *refused = Some(error);
        io::ErrorKind::OutOfMemory.into()
    })
}

/// The latest dead letters of one kind, as the page shows them.
#[derive(Default)]
struct LatestDeadLetters {
    letters: Vec<(String, Value)>,
    older: usize,
    bytes: usize,
}

impl LatestDeadLetters {
    fn add(&mut self, letter: &KeptDeadLetter) {
        self.bytes += 2 * size_of::<KeptDeadLetter>() + letter.raw.len().min(EXCERPT_BYTES);
        self.letters.push((letter.ts.clone(), excerpt(letter)));
        if self.letters.len() > 2 * MOST_LETTERS {
            self.thin_out();
        }
    }

    /// Drops all but the latest. Each session has files of its own, so all must be sorted.
    fn thin_out(&mut self) {
        self.letters.sort_by(|(one, _), (two, _)| one.cmp(two));
        let older = self.letters.len().saturating_sub(MOST_LETTERS);
        self.letters.drain(..older);
        self.older += older;
        let raw = |(_, letter): &(String, Value)| letter["raw"].as_str().map_or(0, str::len);
        let raw: usize = self.letters.iter().map(raw).sum();
        self.bytes = raw + self.letters.len() * 2 * size_of::<KeptDeadLetter>();
    }
}

impl Archive for HomeArchive {
    fn is_stored_login(&self, user: &str, password: &str) -> bool {
        let stored = Credentials::read(&self.config.home).ok().flatten();
        stored.is_some_and(|login| login.user == user && login.password == password)
    }

    fn conversation(&self, known: Option<&str>, charge: ArchiveCharge<'_>) -> ArchiveResult {
        let history = self.history();
        let version = history.version();
        if known == Some(&version) {
            return Ok(text(&json!({ "version": version })));
        }
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refused = None;
        let mut charge = |bytes| charged(charge, &mut refused, bytes);
        let latest = history.latest(EXCERPT_BYTES, MOST_MESSAGES, &mut charge);
        let mut latest = latest.map_err(|error| refused.unwrap_or(error.into()))?;
        for message in &mut latest.messages {
            // The page must not learn file names.
            message.message.whole = None;
        }
        Ok(text(
            &json!({ "version": version, "older": latest.older, "messages": latest.messages }),
        ))
    }

    fn message(&self, queue: &str, id: &str, publisher: Option<&str>) -> ArchiveResult {
        let found = self.history().message(queue, id, publisher)?;
        Ok(text(&json!(found.ok_or(ArchiveError::Missing)?)))
    }

    fn openings(&self, charge: ArchiveCharge<'_>) -> ArchiveResult {
        let mut refused = None;
        let mut bytes = 0;
        let mut openings = Map::new();
        let each = all_opened(&self.config.home)?;
        for (name, command) in each {
            bytes += 2 * (name.len() + command.len());
            charged(charge, &mut refused, bytes)
                .map_err(|error| refused.take().unwrap_or(error.into()))?;
            openings.insert(name, command.into());
        }
        Ok(text(&openings.into()))
    }

    fn dead_letters(&self, charge: ArchiveCharge<'_>) -> ArchiveResult {
        let stamps = self.stamps()?;
        let mut known = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((as_of, all)) = &*known
            && *as_of == stamps
        {
            return Ok(all.clone());
        }
        let (mut own, mut others, mut refused) = (
            LatestDeadLetters::default(),
            LatestDeadLetters::default(),
            None,
        );
        let take = |letter: KeptDeadLetter| {
            let kind = if letter.is_own { &mut own } else { &mut others };
            kind.add(&letter);
            charged(charge, &mut refused, own.bytes + others.bytes)
        };
        each_dead_letter(&self.config.home, None, take)
            .map_err(|error| refused.unwrap_or(error.into()))?;
        own.thin_out();
        others.thin_out();
        let older = own.older + others.older;
        let mut letters = own.letters;
        letters.append(&mut others.letters);
        letters.sort_by(|(one, _), (two, _)| one.cmp(two));
        let letters: Vec<Value> = letters.into_iter().map(|(_, letter)| letter).collect();
        let all = text(&json!({ "older": older, "letters": letters }));
        *known = Some((stamps, all.clone()));
        Ok(all)
    }

    fn dead_letter(&self, id: &str) -> ArchiveResult {
        Ok(text(&json!(self.letter(id)?)))
    }

    fn drop_dead_letter(&self, id: &str) -> ArchiveResult {
        let letter = self.letter(id)?;
        dead::drop_letter(&letter, &self.config)?;
        Ok(text(&json!({ "id": letter.id, "queue": letter.queue })))
    }

    fn resend(&self, id: &str, is_agreed: bool) -> ArchiveResult {
        let _one = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let letter = self.letter(id)?;
        if !letter.is_own && !is_agreed {
            return Err(ArchiveError::NotVouched);
        }
        let sent = Handle::current().block_on(self.send_again(&letter));
        Ok(text(&sent?))
    }
}

/// A letter with the beginning of its body.
fn excerpt(letter: &KeptDeadLetter) -> Value {
    let end = letter.raw.floor_char_boundary(EXCERPT_BYTES);
    let mut shown = json!(letter);
    shown["raw"] = letter.raw[..end].into();
    shown["is_excerpt"] = (end < letter.raw.len()).into();
    shown
}

fn text(value: &Value) -> String {
    clean::json(&value.to_string())
}
