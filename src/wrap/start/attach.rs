//! Attaches a session to its queue, and prints warnings if it cannot.
//!
//! The program does not wait long for the broker: after two seconds it runs without messages, and
//! the inbox keeps trying. Relies on the peer and on the configuration.

use std::time::Duration;

use super::super::child_env::{BrokerReach, Identity};
use super::super::options::{BrokerStart, Fallback, WrapOptions};
use crate::clean::line;
use crate::config::{Config, Volume, read_session_address, write_session_address};
use crate::error::Error;
use crate::exit::Exit;
use crate::peer::{
    AttachedQueue, EndpointFinder, Inbox, InboxEvent, InboxOptions, PeerError, QueueDifference,
    SESSION_PREFETCH,
};

/// How long the start waits for the broker.
const ATTACH_WITHIN: Duration = Duration::from_secs(2);

/// How a session starts at its broker.
pub(super) struct Attachment {
    /// The consumer; `None` if it will never attach.
    pub(super) inbox: Option<Inbox>,
    /// Whether it is attached.
    pub(super) reach: BrokerReach,
    /// The number of messages that waited in the queue when it attached.
    pub(super) waiting: u32,
}

impl Attachment {
    fn away(inbox: Option<Inbox>, reach: BrokerReach) -> Self {
        Self {
            inbox,
            reach,
            waiting: 0,
        }
    }
}

/// Attaches to the queue, or continues without messages while the inbox keeps trying.
pub(super) async fn attach(
    options: &WrapOptions,
    config: &Config,
    identity: &Identity,
) -> Result<Attachment, Error> {
    let mut inbox = Inbox::open(InboxOptions {
        endpoint: config.endpoint.clone(),
        name: options.name.clone(),
        groups: options.groups.clone(),
        ttl_ms: options.ttl_ms,
        prefetch: prefetch(options.batch),
        sharing: options.sharing,
        endpoint_finder: endpoint_finder(config, &identity.session),
    });
    match tokio::time::timeout(attach_within(options), inbox.next()).await {
        Ok(Some(InboxEvent::Attached(attached))) => {
            warn_about_queue(options, &attached);
            Ok(Attachment {
                inbox: Some(inbox),
                reach: BrokerReach::Attached,
                waiting: attached.waiting,
            })
        }
        Ok(Some(InboxEvent::Lost(error))) => {
            let reach = without_broker(options, config, error.into())?;
            Ok(Attachment::away(Some(inbox), reach))
        }
        Ok(Some(InboxEvent::Refused(error @ PeerError::InUse(_)))) => Err(error.into()),
        Ok(Some(InboxEvent::Refused(error))) => {
            let reach = without_broker(options, config, error.into())?;
            Ok(Attachment::away(None, reach))
        }
        Ok(
            Some(InboxEvent::Delivery(_) | InboxEvent::Request(..) | InboxEvent::Ignored(_)) | None,
        )
        | Err(_) => {
            let reach = without_broker(options, config, no_answer(options, config))?;
            Ok(Attachment::away(Some(inbox), reach))
        }
    }
}

/// Finds the address of a local broker, which may restart on another port, in `broker.json`, and
/// updates the address that the session's own commands use.
fn endpoint_finder(config: &Config, session: &str) -> Option<EndpointFinder> {
    if config.names_a_broker() {
        return None;
    }
    let (config, session) = (config.clone(), session.to_owned());
    Some(EndpointFinder::new(move || {
        let now = config.again().ok().filter(|now| now.local.is_some())?;
        let recorded = read_session_address(&now.home, &session);
        if recorded.is_some_and(|recorded| !recorded.is_same_place(&now.endpoint.address)) {
            let _next_attempt_tries_again = write_session_address(&now, &session);
        }
        Some(now.endpoint)
    }))
}

/// How long the start waits for the broker; not at all while the broker itself is starting.
pub(super) fn attach_within(options: &WrapOptions) -> Duration {
    match options.broker_start {
        BrokerStart::Over => ATTACH_WITHIN,
        BrokerStart::GoesOn => Duration::ZERO,
    }
}

/// The error for a broker that does not answer.
pub(super) fn no_answer(options: &WrapOptions, config: &Config) -> Error {
    let address = &config.endpoint.address;
    let error = match options.broker_start {
        BrokerStart::Over => Error::new(format!("no broker answers at {address}"))
            .caused_by(format!("no answer within {} s", ATTACH_WITHIN.as_secs())),
        BrokerStart::GoesOn => Error::new("the local broker takes long to start"),
    };
    error.exit_with(Exit::Unreachable)
}

/// Prints a warning, or fails with exit code 3 if the program must not run without messages.
pub(super) fn without_broker(
    options: &WrapOptions,
    config: &Config,
    error: Error,
) -> Result<BrokerReach, Error> {
    if options.fallback == Fallback::Fail {
        return Err(error.exit_with(Exit::Unreachable));
    }
    if config.volume != Volume::Quiet {
        eprintln!(
            "cbroker: {} (the program runs without messages until the session attaches)",
            error.summary()
        );
    }
    Ok(BrokerReach::Away)
}

fn warn_about_queue(options: &WrapOptions, attached: &AttachedQueue) {
    if attached.others > 0 {
        eprintln!(
            "cbroker: another session named {} is attached: each message goes to one of them",
            options.name
        );
    }
    let name = &options.name;
    let Some(difference) = &attached.difference else {
        return;
    };
    eprintln!(
        "cbroker: the queue {name} exists already: {}; going on with that",
        line(&difference.to_string())
    );
    if let QueueDifference::Unusual(_) = difference {
        eprintln!(
            "hint: if you do not know why, close the session and run `cbroker delete {name} \
             --yes`: the next one makes an ordinary queue"
        );
    }
}

/// The prefetch: at least the number of messages in one submission.
fn prefetch(batch: usize) -> u16 {
    u16::try_from(batch)
        .unwrap_or(u16::MAX)
        .max(SESSION_PREFETCH)
}
