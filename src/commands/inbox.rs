//! `cbroker inbox`: shows what a session holds and why, as the session itself reports it.

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::sessions;
use crate::cli::InboxArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style, counted, foreign_part};
use crate::peer::{Answer, HeldMessage, Request, RequestScope};

/// Prints the held messages, oldest first.
pub(super) async fn run(args: InboxArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let Some(name) = args.name.or_else(|| config.inside.name.clone()) else {
        return Err(Error::usage("no session given")
            .because("this shell does not run in a session")
            .hint("cbroker inbox NAME"));
    };
    let name = session_name(&name, "NAME")?;
    let mut peer = connect::peer(config, "inbox", Autostart::Never, output).await?;
    let request = Request::Inbox {
        scope: RequestScope::Name(name.to_string()),
        take: args.take,
    };
    let attached = peer.look(&name).await?.map_or(0, |state| state.consumers);
    let awaited = sessions::answers_of(&name, attached);
    let answers = peer.ask_sessions(&[request], &awaited).await?;
    let waiting = peer.look(&name).await?.map_or(0, |state| state.messages);
    peer.close().await;
    if answers.is_empty() {
        return Err(Error::new(format!("no session `{name}` is attached"))
            .because(format!(
                "waiting in its queue: {}",
                counted(waiting, "message")
            ))
            .hint(format!("`cbroker tail {name} --no-ack` shows them")));
    }
    let (held, not_shown) = held_messages(answers);
    output.json(&held)?;
    for message in &held {
        let state = output.paint(Style::Warning, &state_words(message));
        output.line(format!("{state} {}", message.line))?;
    }
    if not_shown > 0 {
        let more = counted(not_shown, "more message");
        let why = format!("and {more} of other users, shown as these go");
        output.line(output.paint(Style::Dim, &why))?;
        if output.is_json() {
            output.notice(why);
        }
    } else if held.is_empty() {
        output.line(output.paint(
            Style::Dim,
            &format!(
                "`{name}` holds nothing; waiting in its queue: {}",
                counted(waiting, "message")
            ),
        ))?;
    }
    Ok(Exit::Done)
}

/// The state of a message, and why it is held or by which way it was handed over.
fn state_words(message: &HeldMessage) -> String {
    let (state, reason) = (foreign_part(&message.state), foreign_part(&message.reason));
    match (state.is_empty(), reason.is_empty()) {
        (true, _) => reason,
        (false, true) => state,
        (false, false) => format!("{state}: {reason}"),
    }
}

/// The messages that the sessions list, and the number of those that they do not list.
fn held_messages(answers: Vec<Answer>) -> (Vec<HeldMessage>, u64) {
    let mut held = Vec::new();
    let mut not_shown = 0;
    for answer in answers {
        if let Answer::Inbox {
            messages, parked, ..
        } = answer
        {
            held.extend(messages);
            not_shown += u64::from(parked);
        }
    }
    (held, not_shown)
}
