//! `cbroker why`: prints the history of one message, from this machine's logs.

use crate::cli::WhyArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::message_history::{HistoryEvent, MessageHistory};
use crate::output::{Output, Style};

/// Prints what happened to the message, in order.
pub(super) fn run(args: &WhyArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let history = MessageHistory::of(&config.home);
    let unreadable = |error| Error::new("cannot read the message history").because(error);
    let ids: Vec<String> = history
        .ids_like(&args.id)
        .map_err(unreadable)?
        .into_iter()
        .collect();
    let story = match ids.as_slice() {
        [id] => history.story(id).map_err(unreadable)?,
        [] => {
            return Err(
                Error::new(format!("nothing is known of `{}` on this machine", args.id)).hint(
                    "it may have been sent and received elsewhere; `cbroker tail NAME --no-ack` \
                     shows what waits",
                ),
            );
        }
        several => {
            return Err(
                Error::usage(format!("`{}` is the end of several ids", args.id))
                    .because(several.join(", ")),
            );
        }
    };
    output.json(&story)?;
    for entry in &story {
        let (word, style) = match entry.event {
            HistoryEvent::Sent => ("sent", Style::Dim),
            HistoryEvent::Confirmed => ("confirmed", Style::Good),
            HistoryEvent::Unconfirmed => ("not confirmed", Style::Bad),
            HistoryEvent::Received => ("received", Style::Dim),
            HistoryEvent::Held => ("held", Style::Warning),
            HistoryEvent::HandedOver => ("handed over", Style::Dim),
            HistoryEvent::Delivered => ("delivered", Style::Good),
            HistoryEvent::Repeated => ("received again, already delivered", Style::Dim),
            HistoryEvent::Deleted => ("deleted with its queue", Style::Bad),
            HistoryEvent::Purged => ("purged", Style::Bad),
            HistoryEvent::Expired => ("expired", Style::Bad),
            HistoryEvent::Dropped => ("dropped: the queue was full", Style::Bad),
            HistoryEvent::Returned => ("back in its queue", Style::Dim),
            HistoryEvent::DeadLettered => ("dead-lettered", Style::Bad),
        };
        let detail = entry
            .detail
            .as_ref()
            .map_or_else(String::new, |detail| format!(": {detail}"));
        output.line(format!(
            "{} {} {}{detail}",
            entry.ts,
            entry.session,
            output.paint(style, word)
        ))?;
    }
    Ok(Exit::Done)
}
