//! Publishing: method, header, body, then routing. Relies on `routes`, `vhost` and `queue`.
//!
//! # Cost
//! A message is assembled in a buffer that is reused, and copied once into its final place; a large
//! one is assembled in its final place. Nothing is formatted or logged, and the route of an
//! exchange and key that were published to before is not looked up again.

use std::sync::Arc;

use super::fan_out::{FanOut, PublishReply};
use super::routes::TargetQueues;
use super::{Channel, ChannelMode, FrameResult, access, message_properties};
use crate::delivery::effects::Effects;
use crate::fault::{Fault, ReplyCode};
use crate::memory::{self, ConnectionHoldings, Holding, HoldingKind, MemoryLevel};
use crate::queue::dead_letter::Spread;
use crate::queue::message::{Message, MessageBuilder, MessageFacts};
use crate::tap::{QUEUES, TapEvent, TapEventKind};
use crate::wire::content;
use crate::wire::method;
use crate::wire::table::Table;
use crate::wire::{BASIC, erlang};

/// A publish as it arrives: method, then header, then as many body frames as it takes.
#[derive(Debug)]
pub(super) struct Publishing {
    phase: PublishState,
    draft: MessageBuilder,
    is_mandatory: bool,
    holding: Holding,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum PublishState {
    #[default]
    Idle,
    AwaitingHeader,
    AwaitingBody {
        missing: u64,
    },
}

/// Up to this, a draft's buffer is kept for the channel's next publish whatever others keep.
const KEPT_BY_EACH_BYTES: usize = 1024;

fn unexpected(reason: impl Into<String>) -> Fault {
    Fault::connection(ReplyCode::UnexpectedFrame, reason)
}

impl PublishState {
    /// The fault of a client that sends another kind of frame than this state expects.
    fn unexpected(self) -> Fault {
        unexpected(match self {
            Self::Idle => "expected method frame, got non method frame instead",
            Self::AwaitingHeader => {
                "expected content header for class 60, got non content header frame instead"
            }
            Self::AwaitingBody { .. } => {
                "expected content body, got non content body frame instead"
            }
        })
    }
}

impl Publishing {
    pub(super) fn new(holdings: &Arc<ConnectionHoldings>) -> Self {
        Self {
            phase: PublishState::default(),
            draft: MessageBuilder::default(),
            is_mandatory: false,
            holding: Holding::new(holdings, HoldingKind::Unfinished),
        }
    }

    /// A method is expected.
    pub(super) fn check_idle(&self) -> Result<(), Fault> {
        match self.phase {
            PublishState::Idle => Ok(()),
            phase => Err(phase.unexpected()),
        }
    }

    pub(super) fn begin(&mut self, publish: method::Publish<'_>) {
        self.draft.begin(publish.exchange, publish.routing_key);
        self.is_mandatory = publish.mandatory;
        self.phase = PublishState::AwaitingHeader;
        self.charge_draft();
    }

    /// Charges what the draft takes. Costs two comparisons where that has not changed.
    fn charge_draft(&mut self) {
        let (bytes, charged) = self.draft.held_bytes();
        self.holding.set(bytes, charged);
    }

    /// The message is made. Keeps the draft's buffer for the next one if it is small, or if all
    /// those of the connection are.
    fn end_draft(&mut self) {
        let (bytes, _) = self.draft.held_bytes();
        let is_too_much =
            || bytes > KEPT_BY_EACH_BYTES && self.holding.of_connection() > memory::kept_drafts();
        if memory::level() > MemoryLevel::Calm || is_too_much() {
            self.draft.free_buffer();
        }
        self.charge_draft();
    }

    /// The channel ends. Its client may leave it without `close-ok` for as long as it likes.
    pub(super) fn discard(&mut self) {
        self.phase = PublishState::Idle;
        self.draft = MessageBuilder::default();
        self.charge_draft();
    }
}

impl Channel {
    pub(super) fn receive_header(
        &mut self,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if self.publishing.phase != PublishState::AwaitingHeader {
            return Err(self.publishing.phase.unexpected());
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
        let limit = self.context.broker.limits.body_bytes;
        if header.body_size > limit {
            self.publishing.phase = PublishState::Idle;
            let reason = format!(
                "message size {} is larger than configured max size {limit}",
                header.body_size
            );
            return Err(Fault::precondition(reason));
        }
        if let Err(fault) = message_properties::check_size(header.properties) {
            self.publishing.phase = PublishState::Idle;
            return Err(fault);
        }
        self.publishing.draft.properties(header.properties);
        if header.body_size == 0 {
            self.hold_draft()?;
            return self.publish(effects);
        }
        let body_size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        self.publishing.draft.expect(body_size);
        self.publishing.phase = PublishState::AwaitingBody {
            missing: header.body_size,
        };
        // The body need not come.
        self.hold_draft()
    }

    pub(super) fn receive_body(
        &mut self,
        payload: &[u8],
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let PublishState::AwaitingBody { missing } = self.publishing.phase else {
            return Err(self.publishing.phase.unexpected());
        };
        let Some(left) = missing.checked_sub(payload.len() as u64) else {
            return Err(Fault::connection(
                ReplyCode::FrameError,
                "content body is longer than its header said",
            ));
        };
        self.publishing.draft.body(payload);
        if left > 0 {
            self.publishing.phase = PublishState::AwaitingBody { missing: left };
            return self.hold_draft();
        }
        self.publish(effects)
    }

    /// Charges the received part of the draft to the account, and refuses more than the connection
    /// may hold. Without the limit, unfinished publishes could fill the memory limit: publishers
    /// would be paused, and no publish could be finished to free it.
    fn hold_draft(&mut self) -> Result<FrameResult, Fault> {
        let publishing = &mut self.publishing;
        let before = publishing.holding.bytes();
        publishing.charge_draft();
        let holding = &publishing.holding;
        if holding.bytes() <= before || holding.is_within_limit() {
            return Ok(FrameResult::Done);
        }
        let reason = format!(
            "unfinished publishes of more than {} bytes on one connection",
            memory::connection_limit()
        );
        Err(Fault::connection(ReplyCode::ResourceError, reason))
    }

    /// Makes the message of the draft; its buffer is kept for the next one.
    fn finish_draft(&mut self, facts: MessageFacts) -> Message {
        let message = self.publishing.draft.finish(facts);
        self.publishing.end_draft();
        message
    }

    /// The message is complete.
    fn publish(&mut self, effects: &mut Effects) -> Result<FrameResult, Fault> {
        self.publishing.phase = PublishState::Idle;
        self.view.counters.published.add_alone(1);
        let place = self.publishing.draft.route_key();
        let known = self.routes.find(place, self.context.vhost.generation());
        if known.is_none() {
            self.check_exchange()?;
        }
        let view = self.publishing.draft.view();
        let properties = message_properties::properties(view.properties)?;
        message_properties::check_texts(view.properties, &properties)?;
        message_properties::check_text("the routing key", view.routing_key)?;
        message_properties::check_text("the exchange's name", view.exchange)?;
        if let Some(user) = properties.user_id {
            access::check_user_id(&self.context, user, Some(view.exchange))?;
        }
        let facts = MessageFacts {
            persistent: properties.delivery_mode == Some(2),
            priority: properties.priority.unwrap_or(0),
            published_ms: effects.now_ms,
            ttl_ms: properties
                .expiration
                .map(message_properties::ttl_ms)
                .transpose()?,
            spread: Spread::NONE,
        };
        let is_plain = message_properties::is_nothing(&properties)?;
        match known {
            Some(targets) if is_plain => {
                self.routes.count(effects);
                let message = self.finish_draft(facts);
                self.route_out(message, targets, effects)
            }
            known => self.publish_slowly(known, facts, effects),
        }
    }

    /// Publishes with headers, with a reply address or without a cached route: everything that may
    /// change the message or its route.
    fn publish_slowly(
        &mut self,
        known: Option<TargetQueues>,
        facts: MessageFacts,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let view = self.publishing.draft.view();
        let properties = message_properties::properties(view.properties)?;
        let mut headers = properties
            .headers
            .map(message_properties::table)
            .transpose()?;
        let keys = match &headers {
            Some(table) => message_properties::keys(view.routing_key, table)?,
            None => vec![view.routing_key.to_vec()],
        };
        let reply_to = self.reply_address(properties.reply_to)?;
        let has_bcc = headers
            .as_mut()
            .is_some_and(|table| table.remove("BCC").is_some());
        let rewritten = (has_bcc || reply_to.is_some()).then(|| {
            message_properties::rewritten(&properties, headers.as_ref(), reply_to.as_deref())
        });
        let targets = match known.filter(|_| keys.len() == 1) {
            Some(targets) => {
                self.routes.count(effects);
                targets
            }
            None => self.find_targets(&keys, headers.as_ref(), effects)?,
        };
        let message = match rewritten {
            Some(raw) => {
                let view = self.publishing.draft.view();
                let message = Message::assemble(
                    content::MessageContent {
                        properties: &raw,
                        ..view
                    },
                    facts,
                );
                self.publishing.draft.clear();
                self.publishing.end_draft();
                message
            }
            None => self.finish_draft(facts),
        };
        self.route_out(message, targets, effects)
    }

    /// Forgets cached routes from before the vhost's last change: they keep deleted queues.
    pub(crate) fn forget_old_routes(&mut self) {
        self.routes.forget_older(self.context.vhost.generation());
    }

    /// Looks the route up in the tables, counts the message, and caches the route where it lasts.
    fn find_targets(
        &mut self,
        keys: &[Vec<u8>],
        headers: Option<&Table>,
        effects: &mut Effects,
    ) -> Result<TargetQueues, Fault> {
        let (view, vhost) = (self.publishing.draft.view(), &self.context.vhost);
        let exchange = std::str::from_utf8(view.exchange).unwrap_or_default();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        // The generation from before the permission was checked, so that a later change is not
        // missed.
        let generation = self.routes.generation();
        let route = vhost
            .route(exchange, &keys, headers)
            .ok_or_else(|| Fault::no_exchange(exchange, vhost.name()))?;
        effects.spend(route.steps);
        route.check_whole()?;
        let targets: TargetQueues = route.queues.into();
        effects.count(&route.counters, targets.len());
        if route.is_lasting && generation == vhost.generation() {
            self.routes
                .remember(self.publishing.draft.route_key(), &targets, &route.counters);
        }
        Ok(targets)
    }

    /// Checks the permission to write and the kind of exchange, once for each cached route.
    fn check_exchange(&mut self) -> Result<(), Fault> {
        let view = self.publishing.draft.view();
        let name = std::str::from_utf8(view.exchange).unwrap_or_default();
        access::check_write_exchange(&self.context, name)?;
        let vhost = &self.context.vhost;
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
        targets: TargetQueues,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let is_mandatory = self.publishing.is_mandatory;
        let reply = match &mut self.mode {
            ChannelMode::Transactional(transaction) => {
                effects.spend(1);
                let accepted = (message, self.routes.generation());
                transaction.publish(accepted, targets, is_mandatory)?;
                return Ok(FrameResult::Done);
            }
            ChannelMode::Confirming(confirms) => {
                PublishReply::ByConfirm(Arc::clone(confirms), confirms.open(effects))
            }
            ChannelMode::Plain => PublishReply::Never,
        };
        self.fan_out(FanOut::new(message, targets, is_mandatory, reply), effects)
    }

    /// Notes a publish in the tap.
    pub(super) fn note_in_tap(&self, message: &Message, targets: &TargetQueues, effects: &Effects) {
        let (broker, vhost) = (&self.context.broker, self.context.vhost.name());
        let what = TapEventKind::Published;
        let queues = targets.iter().take(QUEUES);
        broker.tap.note(TapEvent {
            routed: queues.map(|queue| broker.tap_queue(queue)).collect(),
            ..TapEvent::new(what, effects.now_ms, vhost, message.content())
        });
    }
}

#[cfg(test)]
mod tests;
