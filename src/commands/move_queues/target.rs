//! The target broker of a move: which messages its queues would keep, and how many fit.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::commands::send::CONFIRM_WITHIN;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::management::Client;
use crate::name::SessionName;
use crate::output::counted;
use crate::peer::{DeclareArguments, Peer, PeerError, PublishOutcome, QueueBounds};

const API_WITHIN: Duration = Duration::from_secs(3);

/// Time limit for the API to report the policy of a new queue. RabbitMQ reports it with the queue's
/// statistics, which come every five seconds.
const POLICY_WITHIN: Duration = Duration::from_secs(12);
/// Interval between the requests for it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// The number of messages that are moved before the length of the queue is read again: others
/// publish to it too, and above its limit the broker drops the oldest.
const AFTER_ONE_LOOK: u32 = 50;

/// The broker that is moved to.
pub(super) struct TargetBroker {
    pub(super) peer: Peer,
    /// Its management API, until a request to it fails.
    api: Option<Client>,
    /// Whether it may have policies; `None` before that was asked.
    may_have_policies: Option<bool>,
}

/// The queue at the target that takes the messages of the queue with the same name.
pub(super) struct TargetQueue<'a> {
    name: &'a SessionName,
    /// The number of messages that it keeps.
    limit: u32,
}

impl TargetBroker {
    pub(super) async fn connect(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            peer: Peer::connect(&config.endpoint, "move").await?,
            api: Client::new(config, API_WITHIN).ok(),
            may_have_policies: None,
        })
    }

    /// Declares the queue with these arguments, or uses one that exists with bounds that are not
    /// stricter.
    ///
    /// # Errors
    /// If the broker would drop or dead-letter messages that it has confirmed.
    pub(super) async fn queue<'a>(
        &mut self,
        name: &'a SessionName,
        arguments: &DeclareArguments,
    ) -> Result<TargetQueue<'a>, Error> {
        let live = match self.peer.ensure_queue_like(name, arguments).await {
            Err(PeerError::OtherArguments { argument, .. }) => {
                let differs = match argument {
                    Some(argument) => format!("its {argument} differs"),
                    None => "its arguments differ".to_owned(),
                };
                return Err(keeps_less(&format!("{differs} from every session's")));
            }
            live => live?,
        };
        let (wanted, live) = (arguments.bounds(), live.bounds());
        let live = live.and(self.policy(name).await);
        if is_less(live.ttl_ms, wanted.ttl_ms) {
            let ttl = live.ttl_ms.unwrap_or_default();
            return Err(keeps_less(&format!("its message-ttl is {ttl} ms")));
        }
        if let Some(bytes) = live.bytes {
            // A queue with the same limit takes all messages of the source, unless it has others.
            let there = self.peer.queue_counts(name).await?;
            let has_messages = there.is_some_and(|queue| queue.messages > 0);
            if is_less(live.bytes, wanted.bytes) {
                return Err(keeps_less(&format!("its max-length-bytes is {bytes}")));
            }
            if has_messages {
                return Err(would_lose_error(
                    "it limits the bytes that wait, and messages wait there",
                )
                .with_hint("let a session read these messages, and run the same command again"));
            }
        }
        let limit = live.messages.unwrap_or(u64::MAX);
        Ok(TargetQueue {
            name,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        })
    }

    /// The bounds that a policy sets, as far as the API reports them. It may report them late for a
    /// new queue.
    async fn policy(&mut self, name: &SessionName) -> QueueBounds {
        let until = Instant::now() + POLICY_WITHIN;
        let mut definition = self.reported_policy(name).await;
        while definition.is_none() && Instant::now() < until && self.may_have_policies().await {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            definition = self.reported_policy(name).await;
        }
        let none = Map::new();
        let definition = definition.as_ref().and_then(Value::as_object);
        QueueBounds::of_policy(definition.unwrap_or(&none))
    }

    /// What the API reports now.
    async fn reported_policy(&mut self, name: &SessionName) -> Option<Value> {
        let told = self.api.as_ref()?.queue(name.as_str()).await;
        if told.is_err() {
            // Otherwise each queue would wait for it again.
            self.api = None;
        }
        told.ok().flatten()?.effective_policy_definition
    }

    async fn may_have_policies(&mut self) -> bool {
        let Some(api) = &self.api else { return false };
        match self.may_have_policies {
            Some(may) => may,
            None => *self.may_have_policies.insert(api.may_have_policies().await),
        }
    }
}

impl TargetQueue<'_> {
    /// Moves the messages that wait in the queue at the source one by one, and counts them.
    /// Messages that come meanwhile stay: otherwise a busy publisher would keep the other queues
    /// from being moved.
    pub(super) async fn fill(
        &self,
        (source, target): (&mut Peer, &mut Peer),
        (waiting, moved): (u32, &mut u32),
    ) -> Result<(), Error> {
        let name = self.name;
        let mut room = 0;
        while *moved < waiting {
            if room == 0 {
                room = self.free_places(target).await?.min(AFTER_ONE_LOOK);
            }
            if room == 0 {
                return Err(stopped(
                    format!("the queue `{name}` at the target is full"),
                    format!("{}; one more would drop the oldest", moved_in_words(*moved)),
                ));
            }
            let Some(delivery) = source.get(name).await? else {
                return Ok(());
            };
            match target.forward(name, &delivery, CONFIRM_WITHIN).await {
                Ok(PublishOutcome::Confirmed) => delivery.ack().await,
                Ok(PublishOutcome::Unroutable) | Err(PeerError::NotAccepted) => {
                    delivery.requeue().await;
                    return Err(stopped(
                        format!("the target broker did not accept a message for `{name}`"),
                        format!("{}; no message was lost", moved_in_words(*moved)),
                    ));
                }
                Err(error) => return Err(error.into()),
            };
            *moved += 1;
            room -= 1;
        }
        Ok(())
    }

    /// The number of messages that fit now.
    async fn free_places(&self, target: &mut Peer) -> Result<u32, Error> {
        let Some(there) = target.queue_counts(self.name).await? else {
            return Err(Error::new("the queue at the target was deleted meanwhile"));
        };
        Ok(there.free_places(self.limit))
    }
}

/// Whether a bound is stricter than the one that is wanted.
fn is_less(bound: Option<u64>, wanted: Option<u64>) -> bool {
    bound.is_some_and(|bound| wanted.is_none_or(|wanted| bound < wanted))
}

fn would_lose_error(why: &str) -> Error {
    Error::new("the queue with this name at the target could lose messages").caused_by(why)
}

fn keeps_less(why: &str) -> Error {
    would_lose_error(why)
        .with_hint("delete that queue, or the policy, and run the same command again")
}

fn stopped(what: String, why: String) -> Error {
    Error::new(what).caused_by(why).exit_with(Exit::Unconfirmed)
}

fn moved_in_words(moved: u32) -> String {
    format!("moved {}", counted(moved, "message"))
}
