//! Builds an envelope from the command line: reads the text from an option, a file or stdin, makes
//! file paths absolute, and checks names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use chrono::Utc;
use ulid::Ulid;

use crate::cli::{MessageArgs, TimeToLive};
use crate::config::Config;
use crate::envelope::{Envelope, Invalid, JsonText, Priority};
use crate::error::Error;
use crate::name::{GroupName, SessionName};
use crate::output::Output;

/// The sender outside any session.
const NOBODY: &str = "cli";

/// A recipient as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recipient {
    /// One session.
    Session(SessionName),
    /// The members of a group.
    Group(GroupName),
}

impl Recipient {
    /// Reads `NAME` or `@GROUP`.
    pub(super) fn read(text: &str, option: &str) -> Result<Self, Error> {
        if GroupName::is_meant(text) {
            Ok(Self::Group(group_name(text, option)?))
        } else {
            Ok(Self::Session(session_name(text, option)?))
        }
    }
}

/// The recipients of a message, and its text if that is on the command line: `NAME TEXT`, `--to
/// NAME TEXT` or `--to NAME -m TEXT`.
pub(super) struct RecipientAddress<'a> {
    /// The recipients, each once, in the order in which they were given.
    pub(super) recipients: Vec<Recipient>,
    text: Option<&'a str>,
    /// The command, for hints.
    verb: &'static str,
}

impl<'a> RecipientAddress<'a> {
    /// Reads the recipients and the text of `verb`. `to` are the values of `--to`.
    pub(super) fn read(
        verb: &'static str,
        to: &[String],
        args: &'a MessageArgs,
    ) -> Result<Self, Error> {
        let text = args.text.as_deref();
        let mut recipients = Vec::new();
        let text = match (to, args.name.as_deref()) {
            ([], Some(list)) => {
                for name in list.split(',') {
                    add(&mut recipients, Recipient::read(name, "the recipient")?);
                }
                text
            }
            ([], None) => {
                return Err(Error::usage("no recipient").with_hint(format!(
                    "cbroker {verb} NAME TEXT, or cbroker {verb} --to NAME -m TEXT"
                )));
            }
            (_, word) => {
                for name in to {
                    add(&mut recipients, Recipient::read(name, "--to")?);
                }
                after_to(word, args)?
            }
        };
        let text = text.or(args.message.as_deref());
        Ok(Self {
            recipients,
            text,
            verb,
        })
    }
}

fn add(recipients: &mut Vec<Recipient>, recipient: Recipient) {
    if !recipients.contains(&recipient) {
        recipients.push(recipient);
    }
}

/// The word after `--to NAME` is the text, if there is no other.
fn after_to<'a>(word: Option<&'a str>, args: &MessageArgs) -> Result<Option<&'a str>, Error> {
    let is_text = args.text.is_none() && args.message.is_none() && args.message_file.is_none();
    match word {
        Some(word) if !is_text => Err(Error::usage(format!("unexpected argument `{word}`"))
            .caused_by("--to names the recipient, and there is a text")
            .with_hint("several recipients: --to a,b")),
        word => Ok(word),
    }
}

/// A message without its recipient and id.
pub(super) struct MessageDraft {
    pub(super) from: SessionName,
    message: String,
    files: Vec<String>,
    priority: Option<Priority>,
    metadata: BTreeMap<String, String>,
    /// The session to send answers to.
    pub(super) reply_to: Option<SessionName>,
    /// The id of the message that this one answers.
    pub(super) correlation_id: Option<String>,
    limit_bytes: usize,
}

impl MessageDraft {
    /// Reads the text and checks the arguments. Waits for stdin if the text comes from there.
    pub(super) fn read(
        args: &MessageArgs,
        address: &RecipientAddress<'_>,
        config: &Config,
        output: &Output,
    ) -> Result<Self, Error> {
        let from = args
            .from
            .as_deref()
            .or(config.inside.name.as_deref())
            .unwrap_or(NOBODY);
        if let Some(remark) = args.ttl.and_then(TimeToLive::remark) {
            output.notice(remark);
        }
        Ok(Self {
            from: session_name(from, "--from")?,
            files: files(args, output)?,
            priority: args.priority,
            metadata: args.meta.iter().cloned().collect(),
            reply_to: None,
            correlation_id: None,
            limit_bytes: config.settings.body_limit_bytes,
            message: message(address, args, config.settings.body_limit_bytes)?,
        })
    }

    /// Builds the message for one recipient.
    pub(super) fn envelope(&self, to: &SessionName, id: Ulid) -> Result<Envelope, Error> {
        let mut envelope = Envelope::new(id, Utc::now(), &self.from, to, self.message.clone());
        envelope.files = Some(self.files.clone()).filter(|files| !files.is_empty());
        envelope.priority = self.priority;
        envelope.metadata = (!self.metadata.is_empty())
            .then(|| JsonText::of(&self.metadata))
            .transpose()
            .map_err(|error| Error::usage("--meta cannot be written as JSON").caused_by(error))?;
        envelope.reply_to = self.reply_to.as_ref().map(ToString::to_string);
        envelope.correlation_id.clone_from(&self.correlation_id);
        let body = envelope.to_json();
        match Envelope::parse(&body, self.limit_bytes) {
            Ok(_) => Ok(envelope),
            Err(Invalid::Large { bytes, limit_bytes }) => Err(too_long(bytes, limit_bytes)),
            Err(invalid) => {
                Err(Error::usage("no session would take the message").caused_by(invalid))
            }
        }
    }
}

/// Normalises a session name from the command line.
pub(super) fn session_name(text: &str, option: &str) -> Result<SessionName, Error> {
    SessionName::new(text).map_err(|error| {
        Error::usage(format!("`{text}` in {option} is not a session name")).caused_by(error)
    })
}

/// Normalises a group name from the command line.
pub(super) fn group_name(text: &str, option: &str) -> Result<GroupName, Error> {
    GroupName::new(text).map_err(|error| {
        Error::usage(format!("`{text}` in {option} is not a group name")).caused_by(error)
    })
}

fn message(
    address: &RecipientAddress<'_>,
    args: &MessageArgs,
    limit_bytes: usize,
) -> Result<String, Error> {
    let text = match (address.text, &args.message_file) {
        (Some(text), _) => text.to_owned(),
        (None, Some(path)) => {
            let cannot = |error: io::Error| {
                Error::usage(format!("cannot read {}", path.display())).caused_by(error)
            };
            let file = File::open(path).map_err(cannot)?;
            without_last_break(read_text(file, limit_bytes, &path.display().to_string())?)
        }
        (None, None) if io::stdin().is_terminal() => {
            return Err(Error::usage("no message")
                .caused_by("there is no text, no --message-file and no input from a pipe")
                .with_hint(format!("cbroker {} NAME \"…\"", address.verb)));
        }
        (None, None) => without_last_break(read_text(
            io::stdin().lock(),
            limit_bytes,
            "standard input",
        )?),
    };
    if text.is_empty() {
        return Err(Error::usage("the message is empty"));
    }
    Ok(text)
}

/// Reads at most one byte more than can be sent, so that a huge file is refused without loading it.
fn read_text(source: impl Read, limit_bytes: usize, name: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    source
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::usage(format!("cannot read {name}")).caused_by(error))?;
    if bytes.len() > limit_bytes {
        return Err(too_long(bytes.len(), limit_bytes));
    }
    String::from_utf8(bytes).map_err(|_| Error::usage(format!("{name} is not UTF-8")))
}

fn without_last_break(mut text: String) -> String {
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    text
}

fn files(args: &MessageArgs, output: &Output) -> Result<Vec<String>, Error> {
    args.files
        .iter()
        .map(|path| absolute(path, output))
        .collect()
}

/// Makes a path absolute. A missing file is only a warning: it may exist by the time the message is
/// read.
fn absolute(path: &Path, output: &Output) -> Result<String, Error> {
    let found = path.canonicalize();
    if found.is_err() {
        output.notice(format!(
            "{} does not exist; its path is sent anyway",
            path.display()
        ));
    }
    let absolute = found
        .or_else(|_| std::path::absolute(path))
        .map_err(|error| {
            Error::usage(format!("{} is not a path", path.display())).caused_by(error)
        })?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| Error::usage(format!("{} is not UTF-8", path.to_string_lossy())))
}

fn too_long(bytes: usize, limit_bytes: usize) -> Error {
    let more = if bytes > limit_bytes + 1 {
        ""
    } else {
        "at least "
    };
    Error::usage("the message is too long")
        .caused_by(format!(
            "it has {more}{bytes} bytes; the limit is {limit_bytes}"
        ))
        .with_hint("write it to a file and attach that with -f")
}
