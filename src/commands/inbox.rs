//! `cbroker inbox`: shows what a session holds and why, as the session itself reports it.

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::sessions;
use crate::cli::InboxArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::name::SessionName;
use crate::output::{Output, Style, counted, foreign_part, state_words};
use crate::peer::{Answer, HeldMessage, Peer, ReceiptState, Request, RequestScope};

/// Messages that were printed in place of being delivered. Their sessions settle them once they are
/// confirmed.
pub(super) struct TakenMessages {
    peer: Peer,
    name: SessionName,
    /// A request for each session that listed some.
    requests: Vec<Request>,
}

/// Prints the held messages, oldest first. With `--take`, confirms then that they were printed.
pub(super) async fn run(args: InboxArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    if let Some(taken) = print(args, config, output).await? {
        taken.confirm().await?;
    }
    Ok(Exit::Done)
}

/// Prints the held messages. Returns those that are taken: the caller must confirm them once their
/// reader has them.
pub(super) async fn print(
    args: InboxArgs,
    config: &Config,
    output: &Output,
) -> Result<Option<TakenMessages>, Error> {
    let Some(name) = args.name.or_else(|| config.inside.name.clone()) else {
        return Err(Error::usage("no session given")
            .caused_by("this shell does not run in a session")
            .with_hint("cbroker inbox NAME"));
    };
    let name = session_name(&name, "NAME")?;
    let mut peer = connect::peer(config, "inbox", Autostart::Never, output).await?;
    let request = Request::Inbox {
        scope: RequestScope::Name(name.to_string()),
        take: args.take,
    };
    let attached = peer
        .queue_counts(&name)
        .await?
        .map_or(0, |state| state.consumers);
    let awaited = sessions::answers_of(&name, attached);
    let answers = peer.ask_sessions(&[request], &awaited).await?;
    let waiting = peer
        .queue_counts(&name)
        .await?
        .map_or(0, |state| state.messages);
    if answers.is_empty() {
        peer.close().await;
        return Err(Error::new(format!("no session `{name}` is attached"))
            .caused_by(format!(
                "waiting in its queue: {}",
                counted(waiting, "message")
            ))
            .with_hint(format!("`cbroker tail {name} --no-ack` shows them")));
    }
    let held = HeldMessages::of(answers, &name);
    held.print(output, || {
        format!(
            "`{name}` holds nothing; waiting in its queue: {}",
            counted(waiting, "message")
        )
    })?;
    if !args.take || held.requests.is_empty() {
        peer.close().await;
        return Ok(None);
    }
    Ok(Some(TakenMessages {
        peer,
        name,
        requests: held.requests,
    }))
}

impl TakenMessages {
    /// Has the sessions settle the messages.
    pub(super) async fn confirm(self) -> Result<(), Error> {
        let sessions = self.requests.len();
        let count = u32::try_from(sessions).unwrap_or(u32::MAX);
        let awaited = sessions::answers_of(&self.name, count);
        let answers = self.peer.ask_sessions(&self.requests, &awaited).await;
        self.peer.close().await;
        let why = match answers {
            Ok(answers) if answers.len() >= sessions => return all_taken(&answers),
            Ok(_) => Error::new("it does not answer"),
            Err(error) => error.into(),
        };
        let what = format!(
            "`{}` has not confirmed that its messages are taken",
            self.name
        );
        Err(Error::new(what)
            .caused_by(why.summary())
            .with_hint("it may deliver them again, marked as a possible repeat")
            .exit_with(Exit::Unconfirmed))
    }
}

/// The error if the agent got some of them before they were printed.
fn all_taken(answers: &[Answer]) -> Result<(), Error> {
    let left = answers.iter().map(|answer| match answer {
        Answer::Taken { left, .. } => u64::from(*left),
        Answer::State(_) | Answer::Inbox { .. } => 0,
    });
    match left.sum() {
        0 => Ok(()),
        left => Err(Error::new(format!("not taken: {}", left_with_others(left)))
            .caused_by("it took too long to print them")
            .exit_with(Exit::Unconfirmed)),
    }
}

/// The state of a message, and why it is held or by which way it was handed over.
fn words_of(message: &HeldMessage) -> String {
    let state = foreign_part(&message.state);
    match (state.as_str(), message.reason.as_str()) {
        // An older session.
        ("", reason) => foreign_part(reason),
        (state, "") => state.to_owned(),
        (state, way) if state == ReceiptState::HandedOver.word() => {
            state_words(state, Some(way), None)
        }
        (state, reason) => state_words(state, None, Some(reason)),
    }
}

/// What the sessions of a name hold.
struct HeldMessages {
    messages: Vec<HeldMessage>,
    /// The number of messages that they do not list.
    not_shown: u64,
    /// The number of messages that they did not give away.
    left: u64,
    /// What confirms that the messages were taken.
    requests: Vec<Request>,
}

impl HeldMessages {
    fn of(answers: Vec<Answer>, name: &SessionName) -> Self {
        let mut held = Self {
            messages: Vec::new(),
            not_shown: 0,
            left: 0,
            requests: Vec::new(),
        };
        for answer in answers {
            let Answer::Inbox {
                session,
                keys,
                messages,
                parked,
                left,
                ..
            } = answer
            else {
                continue;
            };
            held.messages.extend(messages);
            held.not_shown += u64::from(parked);
            held.left += u64::from(left);
            if !keys.is_empty() {
                held.requests.push(Request::Taken {
                    scope: RequestScope::Name(name.to_string()),
                    session,
                    keys,
                });
            }
        }
        held
    }

    /// Prints the messages, or what `nothing` returns if there are none.
    fn print(&self, output: &Output, nothing: impl Fn() -> String) -> Result<(), Error> {
        output.json(&self.messages)?;
        for message in &self.messages {
            let state = output.paint(Style::Warning, &words_of(message));
            output.line(format!("{state} {}", message.line))?;
        }
        if self.not_shown > 0 {
            let more = counted(self.not_shown, "more message");
            remark(
                output,
                &format!("and {more} of other users, shown as these go"),
            )?;
        }
        if self.left > 0 {
            remark(
                output,
                &format!("not taken: {}", left_with_others(self.left)),
            )?;
        }
        if self.messages.is_empty() && self.not_shown == 0 && self.left == 0 {
            output.line(output.paint(Style::Dim, &nothing()))?;
        }
        Ok(())
    }
}

/// Prints a line about messages that are not listed.
fn remark(output: &Output, text: &str) -> Result<(), Error> {
    output.line(output.paint(Style::Dim, text))?;
    if output.is_json() {
        output.notice(text);
    }
    Ok(())
}

/// Says why a command cannot take these messages.
pub(super) fn left_with_others(count: u64) -> String {
    format!(
        "{}, which the agent or another command already has",
        counted(count, "message")
    )
}
