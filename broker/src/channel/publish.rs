//! Publishing: method, header, body, then routing. Relies on `routes`, `vhost` and `queue`.
//!
//! # Cost
//! The message is put together in a buffer that is used again and copied once into its final place; a large one stays where
//! it was put together. No formatting, no log line, no table look-up for a place that was published to before.

use std::sync::Arc;

use super::routes::Targets;
use super::{Channel, Mode, Step, access, asked};
use crate::confirms::Waiting;
use crate::fault::{Fault, ReplyCode};
use crate::persist::Ticket;
use crate::queue::message::{Draft, Facts, Message};
use crate::queue::{Asking, Outcome};
use crate::tap::{EXCERPT_BYTES, QUEUES, Seen, What};
use crate::turn::Turn;
use crate::vhost::REPLY_TO_PREFIX;
use crate::wire::content;
use crate::wire::method;
use crate::wire::table::Table;
use crate::wire::{BASIC, erlang};

/// A publish as it arrives: method, then header, then as many body frames as it takes.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    phase: Phase,
    draft: Draft,
    is_mandatory: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    AwaitingHeader,
    AwaitingBody {
        missing: u64,
    },
}

fn unexpected(reason: impl Into<String>) -> Fault {
    Fault::connection(ReplyCode::UnexpectedFrame, reason)
}

impl Publishing {
    /// A method may come now.
    pub(super) fn check_idle(&self) -> Result<(), Fault> {
        match self.phase {
            Phase::Idle => Ok(()),
            Phase::AwaitingHeader => Err(unexpected(
                "expected content header for class 60, got non content header frame instead",
            )),
            Phase::AwaitingBody { .. } => Err(unexpected(
                "expected content body, got non content body frame instead",
            )),
        }
    }

    pub(super) fn begin(&mut self, publish: method::Publish<'_>) {
        self.draft.begin(publish.exchange, publish.routing_key);
        self.is_mandatory = publish.mandatory;
        self.phase = Phase::AwaitingHeader;
    }
}

impl Channel {
    pub(super) fn receive_header(
        &mut self,
        payload: &[u8],
        turn: &mut Turn,
    ) -> Result<Step, Fault> {
        match self.publishing.phase {
            Phase::Idle => {
                return Err(unexpected(
                    "expected method frame, got non method frame instead",
                ));
            }
            Phase::AwaitingBody { .. } => {
                return Err(unexpected(
                    "expected content body, got non content body frame instead",
                ));
            }
            Phase::AwaitingHeader => {}
        }
        let header = content::header(payload).map_err(|_| {
            Fault::connection(
                ReplyCode::FrameError,
                format!("cannot decode {}", erlang::binary(payload)),
            )
        })?;
        if header.class != BASIC {
            let reason = format!(
                "expected content header for class 60, got one for class {} instead",
                header.class
            );
            return Err(unexpected(reason));
        }
        let limit = self.around.realm.limits.body_bytes;
        if header.body_size > limit {
            self.publishing.phase = Phase::Idle;
            let reason = format!(
                "message size {} is larger than configured max size {limit}",
                header.body_size
            );
            return Err(Fault::precondition(reason));
        }
        self.publishing.draft.properties(header.properties);
        if header.body_size == 0 {
            return self.publish(turn);
        }
        let body_size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        self.publishing.draft.expect(body_size);
        self.publishing.phase = Phase::AwaitingBody {
            missing: header.body_size,
        };
        Ok(Step::On)
    }

    pub(super) fn receive_body(&mut self, payload: &[u8], turn: &mut Turn) -> Result<Step, Fault> {
        let missing = match self.publishing.phase {
            Phase::AwaitingBody { missing } => missing,
            Phase::Idle => {
                return Err(unexpected(
                    "expected method frame, got non method frame instead",
                ));
            }
            Phase::AwaitingHeader => {
                return Err(unexpected(
                    "expected content header for class 60, got non content header frame instead",
                ));
            }
        };
        let Some(left) = missing.checked_sub(payload.len() as u64) else {
            return Err(Fault::connection(
                ReplyCode::FrameError,
                "content body is longer than its header said",
            ));
        };
        self.publishing.draft.body(payload);
        if left > 0 {
            self.publishing.phase = Phase::AwaitingBody { missing: left };
            return Ok(Step::On);
        }
        self.publish(turn)
    }

    /// The message is whole.
    fn publish(&mut self, turn: &mut Turn) -> Result<Step, Fault> {
        self.publishing.phase = Phase::Idle;
        self.view.counters.published.add_alone(1);
        let place = self.publishing.draft.place();
        let known = self.routes.find(place, self.around.vhost.generation());
        if known.is_none() {
            self.check_exchange()?;
        }
        let view = self.publishing.draft.view();
        let properties = asked::properties(view.properties)?;
        if let Some(user) = properties.user_id {
            access::check_user_id(&self.around, user)?;
        }
        let facts = Facts {
            persistent: properties.delivery_mode == Some(2),
            priority: properties.priority.unwrap_or(0),
            published_ms: turn.now_ms,
            ttl_ms: properties.expiration.map(asked::ttl_ms).transpose()?,
        };
        let is_plain = asked::is_nothing(&properties)?;
        if let (Some(targets), true) = (&known, is_plain) {
            let message = self.publishing.draft.finish(facts);
            return self.route_out(message, targets, turn);
        }
        self.publish_slowly(known, facts, turn)
    }

    /// Headers, reply addresses and places that are not known: everything that may change the message or its way.
    fn publish_slowly(
        &mut self,
        known: Option<Targets>,
        facts: Facts,
        turn: &mut Turn,
    ) -> Result<Step, Fault> {
        let view = self.publishing.draft.view();
        let properties = asked::properties(view.properties)?;
        let mut headers = properties.headers.map(asked::table).transpose()?;
        let keys = match &headers {
            Some(table) => asked::keys(view.routing_key, table)?,
            None => vec![view.routing_key.to_vec()],
        };
        let reply_to = self.reply_address(properties.reply_to)?;
        let has_bcc = headers
            .as_mut()
            .is_some_and(|table| table.remove("BCC").is_some());
        let rewritten = (has_bcc || reply_to.is_some())
            .then(|| asked::rewritten(&properties, headers.as_ref(), reply_to.as_deref()));
        let targets = match known.filter(|_| keys.len() == 1) {
            Some(targets) => targets,
            None => self.find_targets(&keys, headers.as_ref())?,
        };
        let message = match rewritten {
            Some(raw) => {
                let view = self.publishing.draft.view();
                Message::assemble(
                    content::Content {
                        properties: &raw,
                        ..view
                    },
                    facts,
                )
            }
            None => self.publishing.draft.finish(facts),
        };
        self.route_out(message, &targets, turn)
    }

    /// Asks the tables, and remembers the answer where it lasts.
    fn find_targets(
        &mut self,
        keys: &[Vec<u8>],
        headers: Option<&Table>,
    ) -> Result<Targets, Fault> {
        let (view, vhost) = (self.publishing.draft.view(), &self.around.vhost);
        let exchange = std::str::from_utf8(view.exchange).unwrap_or_default();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        // As of before the permission was checked: a change since then must not be remembered over.
        let generation = self.routes.generation();
        let route = vhost
            .route(exchange, &keys, headers)
            .ok_or_else(|| Fault::no_exchange(exchange, vhost.name()))?;
        let targets: Targets = route.queues.into();
        if route.is_lasting && generation == vhost.generation() {
            self.routes
                .remember(self.publishing.draft.place(), &targets);
        }
        Ok(targets)
    }

    /// Permission to write, and what kind of exchange it is. Asked once for each remembered place.
    fn check_exchange(&mut self) -> Result<(), Fault> {
        let view = self.publishing.draft.view();
        let name = std::str::from_utf8(view.exchange).unwrap_or_default();
        access::check_write_exchange(&self.around, name)?;
        let vhost = &self.around.vhost;
        match vhost.with_exchange(name, |exchange| exchange.declaration().internal) {
            None => Err(Fault::no_exchange(name, vhost.name())),
            Some(true) => Err(Fault::refused(format!(
                "cannot publish to internal exchange '{name}' in vhost '{}'",
                vhost.name()
            ))),
            Some(false) => Ok(()),
        }
    }

    fn route_out(
        &mut self,
        message: Message,
        targets: &Targets,
        turn: &mut Turn,
    ) -> Result<Step, Fault> {
        if let Mode::Transactional(transaction) = &mut self.mode {
            transaction.publish(message, Arc::clone(targets), self.publishing.is_mandatory);
            return Ok(Step::On);
        }
        let confirm = match &self.mode {
            Mode::Confirming(confirms) => Some((Arc::clone(confirms), confirms.open(turn))),
            _ => None,
        };
        let asking = match &confirm {
            Some((confirms, tag)) if targets.len() == 1 => Asking::Confirm(confirms, *tag),
            Some(_) => Asking::Ticket,
            None => Asking::Nothing,
        };
        let waiting = self.hand_out(
            &message,
            targets,
            (self.publishing.is_mandatory, asking),
            turn,
        )?;
        if let Some((confirms, tag)) = &confirm {
            confirms.set(*tag, waiting);
        }
        Ok(Step::On)
    }

    /// Puts a message into its queues, or sends it back when it is mandatory and has none.
    pub(super) fn hand_out(
        &mut self,
        message: &Message,
        targets: &Targets,
        (is_mandatory, asking): (bool, Asking<'_>),
        turn: &mut Turn,
    ) -> Result<Waiting, Fault> {
        if self.around.realm.tap.is_open() {
            self.show(message, targets, turn);
        }
        let mut waiting = Waiting::Ticket(Ticket::NONE);
        let mut was_routed = false;
        for queue in targets.iter() {
            was_routed = true;
            match (queue.publish(message, asking, turn)?, waiting) {
                (Outcome::Kept(ticket), Waiting::Ticket(before)) => {
                    waiting = Waiting::Ticket(before.max(ticket));
                }
                (Outcome::Refused, _) => waiting = Waiting::Refused,
                (Outcome::Gone, _) => was_routed = false,
                _ => {}
            }
        }
        if !was_routed {
            was_routed = self.hand_to_replier(message, turn);
        }
        if !was_routed && is_mandatory {
            self.view.counters.returned.add_alone(1);
            self.outbox.write(turn, |out| {
                content::no_route(out, self.lane, message.content());
            });
        }
        Ok(waiting)
    }

    /// An answer to a direct reply address, which is no queue.
    fn hand_to_replier(&self, message: &Message, turn: &mut Turn) -> bool {
        let content = message.content();
        if !content.exchange.is_empty()
            || !content.routing_key.starts_with(REPLY_TO_PREFIX.as_bytes())
        {
            return false;
        }
        let address = std::str::from_utf8(content.routing_key).unwrap_or_default();
        self.around.vhost.reply(address, message, turn)
    }

    fn show(&self, message: &Message, targets: &Targets, turn: &Turn) {
        let content = message.content();
        self.around.realm.tap.note(Seen {
            what: What::Published,
            at_ms: turn.now_ms,
            vhost: (&**self.around.vhost.name()).into(),
            exchange: content.exchange.into(),
            routing_key: content.routing_key.into(),
            queue: None,
            routed: targets
                .iter()
                .take(QUEUES)
                .map(|queue| Arc::clone(queue.name()))
                .collect(),
            properties: content.properties.into(),
            excerpt: content.body[..content.body.len().min(EXCERPT_BYTES)].into(),
            body_bytes: content.body.len() as u64,
        });
    }
}
