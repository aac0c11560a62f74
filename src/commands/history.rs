//! `cbroker history`: the conversation of the sessions on this machine, as text.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::compose::session_name;
use super::why::style;
use crate::cli::{HistoryArgs, Since};
use crate::config::Config;
use crate::envelope::timestamp;
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{
    ConversationMessage, HistoryEvent, MessageHistory, MessageText, SHORT_ID,
};
use crate::output::{Output, Style, state_words};

/// Prints the messages that fit, oldest first.
pub(super) fn run(args: &HistoryArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let wanted = HistoryFilter::of(args, Utc::now())?;
    let history = MessageHistory::of(&config.home);
    let messages = history
        .conversation(usize::MAX)
        .map_err(|error| Error::new("cannot read the message history").caused_by(error))?;
    let is_empty = messages.is_empty();
    let mut messages: Vec<_> = messages
        .into_iter()
        .filter(|message| wanted.has(message))
        .collect();
    let first = args
        .last
        .map_or(0, |last| messages.len().saturating_sub(last));
    for message in &mut messages[first..] {
        history.complete(&mut message.message);
        let shown = ShownMessage::of(message);
        output.json(&shown)?;
        shown.print(output)?;
    }
    if messages.is_empty() {
        let none = if is_empty {
            "no messages on this machine yet"
        } else {
            "no such message on this machine"
        };
        output.line(output.paint(Style::Dim, none))?;
    }
    Ok(Exit::Done)
}

/// Which messages are shown.
struct HistoryFilter {
    /// Sent by or to this session.
    name: Option<String>,
    /// Sent at this time or later, in the format of an envelope's `ts`.
    since: Option<String>,
    /// With this in the text, in lower case.
    text: Option<String>,
}

impl HistoryFilter {
    fn of(args: &HistoryArgs, now: DateTime<Utc>) -> Result<Self, Error> {
        let name = args.name.as_deref().map(|name| session_name(name, "NAME"));
        let since = args.since.map(|since| match since {
            Since::Time(time) => time,
            Since::Ago(age) => now - age,
        });
        Ok(Self {
            name: name.transpose()?.map(|name| name.to_string()),
            since: since.map(timestamp),
            text: args.grep.as_deref().map(str::to_lowercase),
        })
    }

    fn has(&self, message: &ConversationMessage) -> bool {
        let is_of = |name: &String| message.message.from == *name || message.to == *name;
        self.name.as_ref().is_none_or(is_of)
            && self.since.as_ref().is_none_or(|since| message.ts >= *since)
            && self
                .text
                .as_ref()
                .is_none_or(|text| message.message.text.to_lowercase().contains(text))
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum MessageState {
    /// In its queue, or in the session and about to go.
    Queued,
    /// The last event says it.
    #[serde(untagged)]
    After(HistoryEvent),
}

impl MessageState {
    /// The state after an event. The steps on the way to a session are one state, and nothing is
    /// `sent` that the broker has not confirmed.
    fn after(event: HistoryEvent) -> Self {
        match event {
            HistoryEvent::Confirmed | HistoryEvent::Received | HistoryEvent::Requeued => {
                Self::Queued
            }
            HistoryEvent::Sent => Self::After(HistoryEvent::Unconfirmed),
            HistoryEvent::Repeated => Self::After(HistoryEvent::Delivered),
            event => Self::After(event),
        }
    }

    /// The state in words, with the detail of the last event.
    fn words(self, detail: Option<&str>) -> String {
        match self {
            Self::Queued => state_words("queued", None, detail),
            Self::After(event) => {
                let (way, reason) = event.way_and_reason(detail);
                state_words(event.words(), way, reason)
            }
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Queued => Style::Dim,
            Self::After(event) => style(event),
        }
    }
}

/// A message as it is printed.
#[derive(Debug, Serialize)]
struct ShownMessage<'a> {
    ts: &'a str,
    id: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher: Option<&'a str>,
    #[serde(flatten)]
    message: &'a MessageText,
    state: MessageState,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> ShownMessage<'a> {
    fn of(message: &'a ConversationMessage) -> Self {
        Self {
            ts: &message.ts,
            id: &message.id,
            to: &message.to,
            publisher: message.publisher.as_deref(),
            message: &message.message,
            state: MessageState::after(message.state),
            detail: message.detail.as_deref(),
        }
    }

    fn print(&self, output: &Output) -> Result<(), Error> {
        let state = self.state.words(self.detail);
        let end = self.id.len().saturating_sub(SHORT_ID);
        output.line(format!(
            "{} {} -> {} {} {}",
            self.ts,
            output.paint(Style::Bold, &self.message.from),
            output.paint(Style::Bold, self.to),
            output.paint(self.state.style(), &state),
            output.paint(Style::Dim, self.id.get(end..).unwrap_or(self.id)),
        ))?;
        if self.publisher.is_some() {
            let note = "    (publisher not confirmed: another user may have published it)";
            output.line(output.paint(Style::Warning, note))?;
        }
        output.foreign_under_heading(&self.message.text)?;
        if let Some(bytes) = self.message.cut_from {
            output.line(output.paint(Style::Dim, &format!("    … ({bytes} bytes in all)")))?;
        }
        Ok(())
    }
}
