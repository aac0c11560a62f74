//! What this machine keeps for its user, for the page of the broker: the message history and the
//! dead letters, as `cbroker history` and `cbroker dead` show them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};

use broker::{Archive, ArchiveAnswer, ArchiveError};
use serde_json::{Value, json};

use crate::clean;
use crate::commands::dead;
use crate::config::{Config, Credentials};
use crate::error::Error;
use crate::message_history::MessageHistory;
use crate::peer::Peer;
use crate::wrap::{KeptDeadLetter, dead_letters, remove_dead_letter};

/// So many messages of the conversation are shown; `cbroker history` has all.
const MOST_MESSAGES: usize = 2000;
/// So many of the dead letters; the latest ones.
const MOST_LETTERS: usize = 500;
/// So much of each text. More is asked for one by one.
const EXCERPT_BYTES: usize = 4096;

/// The files of one home.
#[derive(Debug)]
pub(super) struct HomeArchive {
    config: Config,
    /// Where this broker is reached, once it listens.
    url: OnceLock<String>,
    /// One reader of the files at a time: each takes memory.
    reading: Mutex<()>,
    letters: Mutex<Option<(FileStamps, String)>>,
    /// One letter is sent at a time, so that none is sent twice.
    sending: tokio::sync::Mutex<()>,
}

/// Which files there are, and how long and how new each is.
type FileStamps = BTreeMap<PathBuf, (u64, u64, i64, i64)>;

impl HomeArchive {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            url: OnceLock::new(),
            reading: Mutex::default(),
            letters: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
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
        let letters = dead_letters(&self.config.home, None).map_err(|error| failed(&error))?;
        let mut found = letters.into_iter().filter(|letter| letter.id == id);
        found.next().ok_or(ArchiveError::Missing)
    }

    /// The files of dead letters as they are now.
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

    async fn send_again(&self, id: &str) -> Result<Value, ArchiveError> {
        let _one = self.sending.lock().await;
        let letter = self.letter(id)?;
        let url = self.url.get().ok_or(ArchiveError::Missing)?;
        let told = |error: &Error| ArchiveError::Failed(error.summary());
        let here = self.config.for_url(url).map_err(|error| told(&error))?;
        let peer = Peer::connect(&here.endpoint, "dead").await;
        let mut peer = peer.map_err(|error| told(&error.into()))?;
        let sent = dead::send_again(&letter, &mut peer, &here).await;
        peer.close().await;
        let envelope = sent.map_err(|error| told(&error))?;
        Ok(json!({ "id": envelope.id, "to": envelope.to }))
    }
}

impl Archive for HomeArchive {
    fn is_stored_login(&self, user: &str, password: &str) -> bool {
        let stored = Credentials::read(&self.config.home).ok().flatten();
        stored.is_some_and(|login| login.user == user && login.password == password)
    }

    fn conversation(&self, known: Option<&str>) -> ArchiveAnswer {
        let history = self.history();
        let version = history.version();
        if known == Some(&version) {
            return Ok(text(&json!({ "version": version })));
        }
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = history
            .conversation(EXCERPT_BYTES)
            .map_err(|error| failed(&error))?;
        let older = told.len().saturating_sub(MOST_MESSAGES);
        told.drain(..older);
        for one in &mut told {
            // The name of a file is nothing for the page.
            one.message.whole = None;
        }
        Ok(text(
            &json!({ "version": version, "older": older, "messages": told }),
        ))
    }

    fn message(&self, queue: &str, id: &str) -> ArchiveAnswer {
        let found = self
            .history()
            .message(queue, id)
            .map_err(|error| failed(&error))?;
        Ok(text(&json!(found.ok_or(ArchiveError::Missing)?)))
    }

    fn dead_letters(&self) -> ArchiveAnswer {
        let stamps = self.stamps().map_err(|error| failed(&error))?;
        let mut known = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((as_of, all)) = &*known
            && *as_of == stamps
        {
            return Ok(all.clone());
        }
        let letters = dead_letters(&self.config.home, None).map_err(|error| failed(&error))?;
        let older = letters.len().saturating_sub(MOST_LETTERS);
        let shown: Vec<Value> = letters[older..].iter().map(excerpt).collect();
        let all = text(&json!({ "older": older, "letters": shown }));
        *known = Some((stamps, all.clone()));
        Ok(all)
    }

    fn dead_letter(&self, id: &str) -> ArchiveAnswer {
        Ok(text(&json!(self.letter(id)?)))
    }

    fn drop_dead_letter(&self, id: &str) -> ArchiveAnswer {
        let letter = self.letter(id)?;
        remove_dead_letter(&self.config.home, &letter).map_err(|error| failed(&error))?;
        Ok(text(&json!({ "id": letter.id, "queue": letter.queue })))
    }

    fn resend(&self, id: String) -> Pin<Box<dyn Future<Output = ArchiveAnswer> + Send + '_>> {
        Box::pin(async move { Ok(text(&self.send_again(&id).await?)) })
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

fn failed(error: &io::Error) -> ArchiveError {
    ArchiveError::Failed(format!("cannot read what is kept: {error}"))
}
