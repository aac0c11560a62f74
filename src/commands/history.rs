//! `cbroker history`: the conversation of the sessions on this machine, as text.

use chrono::{DateTime, Utc};

use super::compose::session_name;
use super::why::style;
use crate::cli::{HistoryArgs, Since};
use crate::config::Config;
use crate::envelope::timestamp;
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{ConversationMessage, MessageHistory, SHORT_ID};
use crate::output::{Output, Style, foreign_part};

/// Prints the messages that fit, oldest first.
pub(super) fn run(args: &HistoryArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let wanted = HistoryFilter::of(args, Utc::now())?;
    let history = MessageHistory::of(&config.home);
    let told = history
        .conversation(usize::MAX)
        .map_err(|error| Error::new("cannot read the message history").because(error))?;
    let mut told: Vec<_> = told.into_iter().filter(|told| wanted.has(told)).collect();
    let first = args.last.map_or(0, |last| told.len().saturating_sub(last));
    for message in &mut told[first..] {
        history.complete(&mut message.message);
        output.json(message)?;
        print(message, output)?;
    }
    if told.is_empty() {
        output.line(output.paint(Style::Dim, "no such message on this machine"))?;
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

    fn has(&self, told: &ConversationMessage) -> bool {
        let is_of = |name: &String| told.message.from == *name || told.to == *name;
        self.name.as_ref().is_none_or(is_of)
            && self.since.as_ref().is_none_or(|since| told.ts >= *since)
            && self
                .text
                .as_ref()
                .is_none_or(|text| told.message.text.to_lowercase().contains(text))
    }
}

fn print(told: &ConversationMessage, output: &Output) -> Result<(), Error> {
    let state = match &told.detail {
        Some(detail) => format!("{}: {}", told.state.words(), foreign_part(detail)),
        None => told.state.words().to_owned(),
    };
    let end = told.id.len().saturating_sub(SHORT_ID);
    output.line(format!(
        "{} {} -> {} {} {}",
        told.ts,
        output.paint(Style::Bold, &told.message.from),
        output.paint(Style::Bold, &told.to),
        output.paint(style(told.state), &state),
        output.paint(Style::Dim, told.id.get(end..).unwrap_or(&told.id)),
    ))?;
    if told.publisher.is_some() {
        let note = "    (publisher not confirmed: another user may have published it)";
        output.line(output.paint(Style::Warning, note))?;
    }
    output.foreign_under_heading(&told.message.text)?;
    if let Some(bytes) = told.message.cut_from {
        output.line(output.paint(Style::Dim, &format!("    … ({bytes} bytes in all)")))?;
    }
    Ok(())
}
