//! `cbroker tail`: prints the messages of a queue as they arrive, or, with `--no-ack`, those that
//! wait.
//!
//! Without `--no-ack`, each message is acked after it was printed. `--no-ack` uses the management
//! API if there is one. Over plain AMQP it gets all messages and requeues them, which is refused
//! while a session is attached.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Value, json};

use super::compose::session_name;
use super::connect::{self, Autostart};
use super::interrupt::Interrupt;
use super::send::about_new_name;
use crate::cli::TailArgs;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::exit::Exit;
use crate::management::{Client, ManagementError, Peeked};
use crate::name::SessionName;
use crate::output::{Output, Style, foreign_part};
use crate::peer::{MAX_LENGTH, Peer, ReceivedMessage, ReplyQueue};

const API_WITHIN: Duration = Duration::from_secs(30);

/// Streams until Ctrl-C, or shows the waiting messages once.
pub(super) async fn run(args: TailArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    let limit = args.count.unwrap_or(u64::MAX);
    let view = TailView {
        output,
        limit_bytes: config.settings.body_limit_bytes,
    };
    let mut peer = connect::peer(config, &format!("tail {name}"), Autostart::Never, output).await?;
    let done = if args.no_ack {
        peek(&mut peer, &name, limit, config, &view).await
    } else {
        stream(&mut peer, &name, limit, config, &view).await
    };
    peer.close().await;
    done
}

/// How messages are shown.
struct TailView<'a> {
    output: &'a Output,
    limit_bytes: usize,
}

async fn stream(
    peer: &mut Peer,
    name: &SessionName,
    limit: u64,
    config: &Config,
    view: &TailView<'_>,
) -> Result<Exit, Error> {
    let is_new = peer.queue_counts(name).await?.is_none();
    let state = peer.ensure_queue(name, config.settings.ttl_ms).await?;
    // From here on there may be a queue to delete.
    let mut interrupt = Interrupt::listen();
    if is_new {
        view.output.notice(about_new_name(name, config).await);
    }
    if state.consumers > 0 {
        view.output.notice(format!(
            "a session is attached to `{name}`; each message goes either to it or to you"
        ));
    }
    // A prefetch of 1, so that no message is taken without being printed.
    let mut messages = peer.consume(name, 1).await?;
    let shown = show_all(&mut messages, &mut interrupt, limit, view).await;
    if is_new {
        forget(peer, name, messages).await;
    }
    shown.map(|()| Exit::Done)
}

/// Deletes the queue that this command made, so that the name does not stay in `list`. It stays
/// where messages wait in it, where a session is attached, and where the broker is gone.
async fn forget(peer: &mut Peer, name: &SessionName, messages: ReplyQueue) {
    // The broker counts as empty a queue whose messages are all with consumers.
    if messages.close().await.is_ok() {
        let _stays = peer.delete_unused(name).await;
    }
}

async fn show_all(
    messages: &mut ReplyQueue,
    interrupt: &mut Interrupt,
    limit: u64,
    view: &TailView<'_>,
) -> Result<(), Error> {
    for _ in 0..limit {
        let delivery = tokio::select! {
            // However many messages come.
            biased;
            () = interrupt.next() => break,
            delivery = messages.next() => delivery?,
        };
        view.show(&delivery.body)?;
        delivery.ack().await;
    }
    Ok(())
}

async fn peek(
    peer: &mut Peer,
    name: &SessionName,
    limit: u64,
    config: &Config,
    view: &TailView<'_>,
) -> Result<Exit, Error> {
    let Some(state) = peer.queue_counts(name).await? else {
        return Err(Error::new(format!("there is no queue `{name}`"))
            .with_hint("`cbroker list` shows the existing ones"));
    };
    let most = usize::try_from(MAX_LENGTH.max(state.messages)).unwrap_or(usize::MAX);
    let count = usize::try_from(limit).unwrap_or(usize::MAX).min(most);
    let client = Client::new(config, API_WITHIN)?;
    let show = |page: Vec<Peeked>| {
        let shown = page
            .iter()
            .try_for_each(|message| view.show(&message.body()));
        shown.map_or_else(ControlFlow::Break, ControlFlow::Continue)
    };
    match client.peek(name.as_str(), count, show).await {
        Ok(None) => Ok(Exit::Done),
        Ok(Some(error)) => Err(error),
        Err(
            error @ (ManagementError::Unreachable { .. }
            | ManagementError::Login(_)
            | ManagementError::Status { .. }),
        ) => {
            if state.consumers > 0 {
                return Err(Error::new(format!(
                    "cannot show the messages of `{name}` without taking them"
                ))
                .caused_by(format!("a session is attached, and {error}"))
                .with_hint("close the session, or name the management API with --mgmt-url"));
            }
            peek_by_returning(peer, name, count, view).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Gets every message, shows it, and requeues all; brokers put each back in its place.
async fn peek_by_returning(
    peer: &Peer,
    name: &SessionName,
    count: usize,
    view: &TailView<'_>,
) -> Result<Exit, Error> {
    let mut taken: Vec<ReceivedMessage> = Vec::new();
    let mut shown = Ok(());
    while taken.len() < count && shown.is_ok() {
        let Some(mut delivery) = peer.get(name).await? else {
            break;
        };
        // It stays with us until the end, and its text does not.
        shown = view.show(&delivery.take_body());
        taken.push(delivery);
    }
    // The last message first, so that a broker that requeues at the head restores the order too.
    for delivery in taken.iter().rev() {
        delivery.requeue().await;
    }
    shown.map(|()| Exit::Done)
}

impl TailView<'_> {
    fn show(&self, body: &[u8]) -> Result<(), Error> {
        match Envelope::parse(body, self.limit_bytes) {
            Ok(envelope) if self.output.is_json() => {
                let whole = Envelope::parse_whole(body, self.limit_bytes);
                self.output.json(&whole.unwrap_or(envelope))
            }
            Ok(envelope) => self.output.line(self.line(&envelope)),
            Err(reason) => {
                let raw = String::from_utf8_lossy(body);
                self.output
                    .json(&json!({ "error": reason.to_string(), "raw": Value::from(&*raw) }))?;
                let line = foreign_part(&format!("not an envelope ({reason}): {raw}"));
                self.output.line(self.output.paint(Style::Bad, &line))
            }
        }
    }

    fn line(&self, envelope: &Envelope) -> String {
        let Envelope {
            ts, from, to, id, ..
        } = envelope;
        let head = foreign_part(&format!("{ts} {from} -> {to} {id}"));
        let mut line = format!(
            "{} {}",
            self.output.paint(Style::Dim, &head),
            foreign_part(&envelope.message)
        );
        if let Some(files) = &envelope.files {
            let _ = write!(line, " (files: {})", foreign_part(&files.join(", ")));
        }
        line
    }
}
