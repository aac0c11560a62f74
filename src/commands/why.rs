//! `cbroker why`: prints the history of one message, from this machine's logs.

use crate::cli::WhyArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{HistoryEvent, MessageHistory, SHORT_ID};
use crate::output::{Output, Style, state_words};

/// Prints what happened to the message, in order.
pub(super) fn run(args: &WhyArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let history = MessageHistory::of(&config.home);
    let unreadable = |error| Error::new("cannot read the message history").caused_by(error);
    let ids: Vec<String> = history
        .ids_like(&args.id)
        .map_err(unreadable)?
        .into_iter()
        .collect();
    let story = match ids.as_slice() {
        [id] => history.events_of(id).map_err(unreadable)?,
        [] if args.id.chars().count() < SHORT_ID => {
            return Err(Error::usage(format!(
                "`{}` is too short: of an id, the last characters, at least six, are needed",
                args.id
            )));
        }
        [] => {
            return Err(
                Error::new(format!("nothing is known of `{}` on this machine", args.id)).with_hint(
                    "it may have been sent and received elsewhere; `cbroker tail NAME --no-ack` \
                     shows what waits",
                ),
            );
        }
        several => {
            return Err(
                Error::usage(format!("`{}` is the end of several ids", args.id))
                    .caused_by(several.join(", ")),
            );
        }
    };
    output.json(&story)?;
    let is_shared = story
        .iter()
        .any(|entry| entry.publisher != story[0].publisher);
    for entry in &story {
        let word = output.paint(style(entry.event), entry.event.words());
        let (way, reason) = entry.event.way_and_reason(entry.detail.as_deref());
        let event = state_words(&word, way, reason);
        // Under one id there can be messages of several users, and each has an end of its own.
        let whose = match &entry.publisher {
            Some(publisher) => format!(" (another user's message: {publisher})"),
            None if is_shared => " (your user's message)".to_owned(),
            None => String::new(),
        };
        output.line(format!(
            "{} {} {event}{}",
            entry.ts,
            entry.session,
            output.paint(Style::Dim, &whose)
        ))?;
    }
    Ok(Exit::Done)
}

/// How an event is highlighted.
pub(super) fn style(event: HistoryEvent) -> Style {
    match event {
        HistoryEvent::Confirmed | HistoryEvent::Delivered | HistoryEvent::Answered => Style::Good,
        HistoryEvent::Held => Style::Warning,
        HistoryEvent::Unconfirmed
        | HistoryEvent::Returned
        | HistoryEvent::Deleted
        | HistoryEvent::Purged
        | HistoryEvent::Expired
        | HistoryEvent::Dropped
        | HistoryEvent::DeadLettered => Style::Bad,
        HistoryEvent::Sent
        | HistoryEvent::Received
        | HistoryEvent::HandedOver
        | HistoryEvent::Repeated
        | HistoryEvent::Requeued => Style::Dim,
    }
}
