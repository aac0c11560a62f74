//! `cbroker dead`: shows the messages that sessions of this machine refused, sends one again, or
//! drops it.

use std::error::Error as StdError;
use std::io;

use chrono::Utc;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::send::{CONFIRM_WITHIN, unpublished, was_returned};
use crate::cli::DeadArgs;
use crate::config::Config;
use crate::envelope::{Envelope, timestamp};
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{HistoryEntry, HistoryEvent, MessageHistory, MessageText};
use crate::name::SessionName;
use crate::output::{Output, Style, foreign_part};
use crate::peer::{Peer, Publication, PublishOutcome};
use crate::wrap::{KeptDeadLetter, dead_letters, remove_dead_letter};

/// The fewest first characters that identify a dead letter.
const SHORT_ID: usize = 4;
/// The number of bytes of a body that are shown.
const EXCERPT: usize = 400;

/// Lists the dead letters, or resends or drops one.
pub(super) async fn run(args: DeadArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let name = args.name.as_deref().map(|name| session_name(name, "NAME"));
    let name = name.transpose()?;
    let letters = dead_letters(&config.home, name.as_ref())
        .map_err(|error| Error::new("cannot read the dead letters").caused_by(error))?;
    if let Some(id) = &args.drop {
        let letter = find(&letters, id)?;
        drop_letter(letter, config)
            .map_err(|error| Error::new("cannot remove the dead letter").caused_by(error))?;
        output.json(letter)?;
        output.line(format!("dropped {} of {}", letter.id, letter.queue))?;
    } else if let Some(id) = &args.resend {
        let letter = find(&letters, id)?;
        if !letter.is_own && !args.yes {
            return Err(unconfirmed_publisher(letter));
        }
        resend(letter, config, output).await?;
    } else {
        for letter in &letters {
            output.json(letter)?;
            print(letter, output)?;
        }
        if letters.is_empty() {
            let none = match &name {
                Some(name) if has_dead_letters(config) => {
                    format!("no dead letters of `{name}`; `cbroker dead` shows those of others")
                }
                _ => "no dead letters on this machine".to_owned(),
            };
            output.line(output.paint(Style::Dim, &none))?;
        }
    }
    Ok(Exit::Done)
}

fn has_dead_letters(config: &Config) -> bool {
    dead_letters(&config.home, None).is_ok_and(|letters| !letters.is_empty())
}

fn find<'a>(letters: &'a [KeptDeadLetter], id: &str) -> Result<&'a KeptDeadLetter, Error> {
    let id = id.to_ascii_lowercase();
    if id.len() < SHORT_ID {
        return Err(Error::usage(format!(
            "`{id}` is too short: of an id, the first characters, at least four, are needed"
        )));
    }
    let is_it = |letter: &&KeptDeadLetter| letter.id.starts_with(&id);
    let found: Vec<_> = letters.iter().filter(is_it).collect();
    match found.as_slice() {
        [letter] => Ok(letter),
        [] => Err(Error::new(format!("there is no dead letter `{id}`"))
            .with_hint("`cbroker dead` lists them, each with its id")),
        _ => Err(Error::usage(format!(
            "`{id}` is the beginning of several ids"
        ))),
    }
}

/// A resent message is published under the user's own name, so the text of another user needs
/// `--yes`.
fn unconfirmed_publisher(letter: &KeptDeadLetter) -> Error {
    Error::usage(format!(
        "another user may have published the dead letter {}",
        letter.id
    ))
    .caused_by("the broker does not confirm that it was your user")
    .with_hint("`cbroker dead --json` shows it whole; add --yes to send it as yours")
}

/// Removes a dead letter for good. The story of its message says so, where that was the user's own:
/// others choose their ids.
pub(super) fn drop_letter(letter: &KeptDeadLetter, config: &Config) -> io::Result<()> {
    remove_dead_letter(&config.home, letter)?;
    if let Some(id) = letter.message_id.as_ref().filter(|_| letter.is_own) {
        let entry = HistoryEntry::new(Utc::now(), id, HistoryEvent::DeadLettered, &letter.queue);
        // It is dropped even if the history cannot be written.
        let _unrecorded = MessageHistory::of(&config.home)
            .note(&entry.with_detail("its dead letter was dropped"));
    }
    Ok(())
}

fn print(letter: &KeptDeadLetter, output: &Output) -> Result<(), Error> {
    output.line(format!(
        "{} {} {} {}",
        letter.id,
        letter.ts,
        output.paint(Style::Bold, &letter.queue),
        output.paint(Style::Bad, &foreign_part(&letter.error)),
    ))?;
    if !letter.is_own {
        let note = "    (publisher not confirmed: another user may have published it)";
        output.line(output.paint(Style::Warning, note))?;
    }
    let end = letter.raw.floor_char_boundary(EXCERPT);
    let more = if end < letter.raw.len() { " …" } else { "" };
    output.line(format!("    {}{more}", foreign_part(&letter.raw[..end])))?;
    if let Some(bytes) = letter.cut_from {
        let kept = letter.body().len();
        let note = format!("    ({kept} of {bytes} bytes were kept)");
        output.line(output.paint(Style::Dim, &note))?;
    }
    Ok(())
}

async fn resend(letter: &KeptDeadLetter, config: &Config, output: &Output) -> Result<(), Error> {
    let to = session_name(&letter.queue, "its queue")?;
    // A dead letter that cannot be repaired does not start a broker.
    mended(letter, &to, config)?;
    let mut peer = connect::peer(config, "dead", Autostart::Allowed, output).await?;
    let sent = send_again(letter, &mut peer, config).await;
    peer.close().await;
    let Envelope { id, to, .. } = sent?;
    output.json(&serde_json::json!({ "id": id, "to": to }))?;
    output.line(format!("sent {id} -> {to}"))
}

/// Sends it to its session as a new message, and removes it once the broker has confirmed that.
pub(super) async fn send_again(
    letter: &KeptDeadLetter,
    peer: &mut Peer,
    config: &Config,
) -> Result<Envelope, Error> {
    let to = session_name(&letter.queue, "its queue")?;
    let envelope = mended(letter, &to, config)?;
    let history = MessageHistory::of(&config.home);
    let entry = |event| HistoryEntry::new(Utc::now(), &envelope.id, event, to.as_str());
    let was = format!("it was the dead letter {}", letter.id);
    let intent = entry(HistoryEvent::Sent).saying(MessageText::of(&envelope));
    // The history is for people. The message is sent even if it cannot be written.
    let _unrecorded = history.note(&intent.with_detail(was));
    let sent: Result<_, Error> = async {
        peer.ensure_queue(&to, config.settings.ttl_ms).await?;
        let message = Publication::plain(&envelope);
        let published = peer.publish(&message, CONFIRM_WITHIN).await;
        published.map_err(|error| unpublished("message", &envelope, &to, error))
    }
    .await;
    match sent.map(PublishOutcome::why_returned) {
        Ok(None) => {}
        Ok(Some(why)) => {
            let _unrecorded = history.note(&entry(HistoryEvent::Returned).with_detail(why));
            return Err(was_returned("message", &to, why).with_hint("the dead letter stays"));
        }
        Err(error) => {
            let failed = entry(HistoryEvent::Unconfirmed).with_detail(error.summary());
            let _unrecorded = history.note(&failed);
            return Err(error);
        }
    }
    let _unrecorded = history.note(&entry(HistoryEvent::Confirmed));
    remove_dead_letter(&config.home, letter)
        .map_err(|error| Error::new("cannot remove the dead letter").caused_by(error))?;
    Ok(envelope)
}

/// Why the body of a dead letter is no message.
#[derive(Debug, thiserror::Error)]
#[error("it is not a JSON object: {0}")]
struct NotAnObject(#[source] serde_json::Error);

/// A message with the text of a dead letter, a new id, and values for missing fields.
fn mended(letter: &KeptDeadLetter, to: &SessionName, config: &Config) -> Result<Envelope, Error> {
    let cannot = |why: Box<dyn StdError + Send + Sync>| {
        Error::new(format!(
            "the dead letter {} cannot be sent again",
            letter.id
        ))
        .caused_by(why)
        .with_hint("`cbroker dead --json` shows it whole; `cbroker send` sends its text as yours")
    };
    if let Some(bytes) = letter.cut_from {
        let why = format!("only the beginning of its {bytes} bytes was kept");
        return Err(cannot(why.into()));
    }
    let body = letter.body();
    let mut fields: Map<String, Value> =
        serde_json::from_slice(&body).map_err(|error| cannot(NotAnObject(error).into()))?;
    let is_name = |from: &Value| from.as_str().is_some_and(SessionName::is_exact);
    if !fields.get("from").is_some_and(is_name) {
        fields.insert("from".into(), "cli".into());
    }
    fields.insert("id".into(), Ulid::generate().to_string().into());
    fields.insert("to".into(), to.as_str().into());
    fields.insert("ts".into(), timestamp(Utc::now()).into());
    let body = serde_json::to_vec(&fields).map_err(|error| cannot(error.into()))?;
    Envelope::parse_whole(&body, config.settings.body_limit_bytes)
        .map_err(|invalid| cannot(invalid.into()))
}
