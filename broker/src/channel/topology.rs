//! Exchanges, queues and bindings as a client declares and deletes them. Relies on `vhost`.

use std::sync::Arc;

use super::consume::decode;
use super::fan_out::Continuation;
use super::{Channel, FrameResult, access};
use crate::admission;
use crate::delivery::effects::Effects;
use crate::exchange::{Declaration, ExchangeType};
use crate::fault::{Fault, ReplyCode};
use crate::persist::Ticket;
use crate::queue::Queue;
use crate::queue::arguments::QueueArguments;
use crate::queue::closing::CancelledConsumers;
use crate::queue::removed::RemovedMessages;
use crate::vhost::{
    BindRequest, Declare, DeclareOrigin, DeleteCondition, Destination, REPLY_TO, REPLY_TO_PREFIX,
    strip_breaks,
};
use crate::wire::method::{BindMethod, ExchangeDeclare, QueueDeclare};
use crate::wire::method_id::MethodId;
use crate::wire::reply;

/// A purge whose messages have left the queue and are not all gone.
#[derive(Debug)]
pub(super) struct Purge {
    removed: RemovedMessages,
    no_wait: bool,
}

/// The deletion of a queue whose consumers are not all cancelled.
#[derive(Debug)]
pub(super) struct QueueDeletion {
    left: CancelledConsumers,
    /// `basic.cancel` frames for consumers of this connection.
    own_cancels: Vec<u8>,
    /// How many messages it had.
    count: u64,
    ticket: Ticket,
    no_wait: bool,
}

/// Twenty-two random characters.
pub(crate) fn random_name() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0; 22];
    if getrandom::fill(&mut random).is_err() {
        tracing::error!("the system gives no random bytes");
    }
    random
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte & 63)]))
        .collect()
}

fn check_not_default(names: &[&str]) -> Result<(), Fault> {
    if names.contains(&"") {
        return Err(Fault::refused(
            "operation not permitted on the default exchange",
        ));
    }
    Ok(())
}

impl Channel {
    /// Resolves a queue name: an empty one means the last queue declared on this channel.
    pub(super) fn queue_name(&self, name: &str) -> Result<String, Fault> {
        let name = strip_breaks(name);
        if !name.is_empty() {
            return Ok(name);
        }
        if self.last_queue.is_empty() {
            return Err(Fault::channel(
                ReplyCode::NotFound,
                "no previously declared queue",
            ));
        }
        Ok(self.last_queue.clone())
    }

    /// Resolves a queue that this connection may read from.
    pub(super) fn readable_queue(&self, name: &str) -> Result<Arc<Queue>, Fault> {
        let name = self.queue_name(name)?;
        access::check_read_queue(&self.context, &name)?;
        let queue = self.context.vhost.queue_or_fault(&name)?;
        queue.check_access(self.context.connection.id)?;
        Ok(queue)
    }

    /// A reply that the client may have declined and that may wait for the store.
    fn reply_if_wanted(
        &self,
        ticket: Ticket,
        no_wait: bool,
        effects: &mut Effects,
        append: impl FnOnce(&mut Vec<u8>, u16),
    ) -> FrameResult {
        if no_wait {
            return FrameResult::Done;
        }
        self.reply_after(ticket, effects, append)
    }

    pub(super) fn exchange_declare(
        &mut self,
        declare: ExchangeDeclare<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let name = strip_breaks(declare.exchange);
        check_not_default(&[&name])?;
        if declare.passive {
            let vhost = &self.context.vhost;
            if vhost.with_exchange(&name, |_| ()).is_none() {
                return Err(Fault::no_exchange(&name, vhost.name()));
            }
            return Ok(self.reply_if_wanted(
                Ticket::NONE,
                declare.no_wait,
                effects,
                |out, channel| {
                    reply::empty_method(out, channel, MethodId::EXCHANGE_DECLARE_OK);
                },
            ));
        }
        let kind = ExchangeType::parse(declare.kind).ok_or_else(|| {
            Fault::connection(
                ReplyCode::CommandInvalid,
                format!("unknown exchange type '{}'", declare.kind),
            )
        })?;
        access::check_configure_exchange(&self.context, &name)?;
        let declaration = Declaration {
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: decode(declare.arguments)?,
        };
        if let Some(alternate) = declaration.alternate() {
            access::check_read_exchange(&self.context, &name)?;
            access::check_write_exchange(&self.context, alternate)?;
        }
        let declared = self.context.vhost.declare_exchange(&name, declaration)?;
        let Some(ticket) = declared else {
            return Ok(FrameResult::Retry);
        };
        Ok(
            self.reply_if_wanted(ticket, declare.no_wait, effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::EXCHANGE_DECLARE_OK);
            }),
        )
    }

    pub(super) fn exchange_delete(
        &mut self,
        name: &str,
        (if_unused, no_wait): (bool, bool),
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let name = strip_breaks(name);
        check_not_default(&[&name])?;
        access::check_configure_exchange(&self.context, &name)?;
        let condition = DeleteCondition {
            unused: if_unused,
            ..DeleteCondition::default()
        };
        let vhost = &self.context.vhost;
        let Some(ticket) = vhost.delete_exchange(&name, condition, effects)? else {
            return Ok(FrameResult::Retry);
        };
        Ok(
            self.reply_if_wanted(ticket, no_wait, effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::EXCHANGE_DELETE_OK);
            }),
        )
    }

    fn exchange_binding<'a>(&self, binding: &BindMethod<'a>) -> Result<BindRequest<'a>, Fault> {
        access::check_write_exchange(&self.context, binding.destination)?;
        access::check_read_exchange(&self.context, binding.source)?;
        check_not_default(&[binding.destination, binding.source])?;
        Ok(self.binding(
            binding,
            Destination::Exchange(binding.destination.into()),
            decode(binding.arguments)?,
        ))
    }

    fn queue_binding<'a>(&mut self, binding: &BindMethod<'a>) -> Result<BindRequest<'a>, Fault> {
        let name = self.queue_name(binding.destination)?;
        access::check_write_queue(&self.context, &name)?;
        access::check_read_exchange(&self.context, binding.source)?;
        check_not_default(&[binding.source])?;
        let mut bind = self.binding(
            binding,
            Destination::Queue(name.as_str().into()),
            decode(binding.arguments)?,
        );
        // AMQP 0-9-1, queue.bind: where both are empty, the key is the queue's name too.
        if binding.destination.is_empty() && binding.routing_key.is_empty() {
            bind.key = name.into_bytes().into();
        }
        Ok(bind)
    }

    fn binding<'a>(
        &self,
        binding: &BindMethod<'a>,
        destination: Destination,
        arguments: crate::wire::table::Table,
    ) -> BindRequest<'a> {
        let connection = self.context.connection.id;
        BindRequest {
            source: binding.source,
            destination,
            key: binding.routing_key.into(),
            arguments,
            connection,
        }
    }

    pub(super) fn bind_exchange(
        &mut self,
        binding: BindMethod<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let bind = self.exchange_binding(&binding)?;
        let ticket = self.context.vhost.bind(bind)?;
        Ok(
            self.reply_if_wanted(ticket, binding.no_wait, effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::EXCHANGE_BIND_OK);
            }),
        )
    }

    pub(super) fn unbind_exchange(
        &mut self,
        binding: BindMethod<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let bind = self.exchange_binding(&binding)?;
        let ticket = self.context.vhost.unbind(&bind, effects)?;
        Ok(
            self.reply_if_wanted(ticket, binding.no_wait, effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::EXCHANGE_UNBIND_OK);
            }),
        )
    }

    pub(super) fn bind_queue(
        &mut self,
        binding: BindMethod<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let bind = self.queue_binding(&binding)?;
        let ticket = self.context.vhost.bind(bind)?;
        Ok(
            self.reply_if_wanted(ticket, binding.no_wait, effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::QUEUE_BIND_OK);
            }),
        )
    }

    pub(super) fn unbind_queue(
        &mut self,
        binding: BindMethod<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let bind = self.queue_binding(&binding)?;
        let ticket = self.context.vhost.unbind(&bind, effects)?;
        Ok(
            self.reply_if_wanted(ticket, binding.no_wait, effects, |out, channel| {
                reply::empty_method(out, channel, MethodId::QUEUE_UNBIND_OK);
            }),
        )
    }

    pub(super) fn queue_declare(
        &mut self,
        declare: QueueDeclare<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let asked = strip_breaks(declare.queue);
        // No queue, but clients ask for it by this method to learn whether there are direct
        // replies.
        if declare.passive || asked == REPLY_TO || asked.starts_with(REPLY_TO_PREFIX) {
            return self.queue_declare_passive(declare, effects);
        }
        let is_server_named = asked.is_empty();
        let name = if is_server_named {
            format!("amq.gen-{}", random_name())
        } else {
            asked
        };
        access::check_configure_queue(&self.context, &name)?;
        let arguments = decode(declare.arguments)?;
        if let Some(letters) = QueueArguments::parse_stored(&arguments)
            .ok()
            .and_then(|arguments| arguments.dead_letters)
        {
            access::check_read_queue(&self.context, &name)?;
            access::check_write_exchange(&self.context, &letters.exchange)?;
        }
        let declared = self.context.vhost.declare_queue(
            Declare {
                name: &name,
                durable: declare.durable,
                exclusive: declare.exclusive,
                auto_delete: declare.auto_delete,
                is_server_named,
                origin: DeclareOrigin::Client,
                arguments,
                connection: self.context.connection.id,
                limit: admission::queue_limit(&self.context.broker, self.context.vhost.name()),
            },
            effects,
        )?;
        let Some(declared) = declared else {
            return Ok(FrameResult::Retry);
        };
        self.context.broker.totals.queues_declared.add(1);
        let (ready, consumers) = declared.queue.counts();
        self.last_queue.clone_from(&name);
        Ok(
            self.reply_if_wanted(declared.ticket, declare.no_wait, effects, |out, channel| {
                reply::queue_declare_ok(out, channel, &name, clamp(ready), clamp(consumers as u64));
            }),
        )
    }

    fn queue_declare_passive(
        &mut self,
        declare: QueueDeclare<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let name = self.queue_name(declare.queue)?;
        let vhost = &self.context.vhost;
        let (ready, consumers) = if name == REPLY_TO || vhost.has_reply_consumer(&name) {
            (0, 1)
        } else {
            let queue = vhost.queue_or_fault(&name)?;
            queue.check_access(self.context.connection.id)?;
            if !queue.touch(effects) {
                return Err(Fault::no_queue(&name, vhost.name()));
            }
            queue.counts()
        };
        self.last_queue.clone_from(&name);
        Ok(
            self.reply_if_wanted(Ticket::NONE, declare.no_wait, effects, |out, channel| {
                reply::queue_declare_ok(out, channel, &name, clamp(ready), clamp(consumers as u64));
            }),
        )
    }

    pub(super) fn queue_purge(
        &mut self,
        queue: &str,
        no_wait: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let queue = self.readable_queue(queue)?;
        let removed = queue.purge(effects)?;
        self.continue_purge(Purge { removed, no_wait }, effects)
    }

    /// Ends purged messages as far as the budget allows, and then replies.
    pub(super) fn continue_purge(
        &mut self,
        mut purge: Purge,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if purge.removed.end_some(effects)? {
            self.continuation = Some(Continuation::Purge(purge));
            return Ok(FrameResult::Unfinished);
        }
        let (count, ticket) = (purge.removed.count(), purge.removed.ticket());
        Ok(
            self.reply_if_wanted(ticket, purge.no_wait, effects, |out, channel| {
                reply::queue_count_ok(out, channel, MethodId::QUEUE_PURGE_OK, clamp(count));
            }),
        )
    }

    pub(super) fn queue_delete(
        &mut self,
        queue: &str,
        (unused, empty): (bool, bool),
        no_wait: bool,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        let name = self.queue_name(queue)?;
        access::check_configure_queue(&self.context, &name)?;
        let condition = DeleteCondition {
            unused,
            empty,
            connection: Some(self.context.connection.id),
            ..DeleteCondition::default()
        };
        let others = effects.cancelled.len();
        let (count, ticket) = self.context.vhost.delete_queue(&name, condition, effects)?;
        self.context.broker.totals.queues_deleted.add(1);
        let left = effects.cancelled.drain(others..).next();
        let deletion = QueueDeletion {
            left: left.unwrap_or_default(),
            own_cancels: Vec::new(),
            count,
            ticket,
            no_wait,
        };
        Ok(self.continue_queue_deletion(deletion, effects))
    }

    /// Cancels consumers of a deleted queue as far as the budget allows, and then replies.
    pub(super) fn continue_queue_deletion(
        &mut self,
        mut deletion: QueueDeletion,
        effects: &mut Effects,
    ) -> FrameResult {
        let is_more = deletion.left.cancel_some(effects);
        let own = &mut effects.cancels_after_delete;
        deletion.own_cancels.append(own);
        if is_more {
            self.continuation = Some(Continuation::QueueDeletion(deletion));
            return FrameResult::Unfinished;
        }
        let QueueDeletion {
            own_cancels,
            count,
            ticket,
            no_wait,
            ..
        } = deletion;
        if no_wait {
            self.send(effects, |out, _| out.extend_from_slice(&own_cancels));
        }
        self.reply_if_wanted(ticket, no_wait, effects, |out, channel| {
            reply::queue_count_ok(out, channel, MethodId::QUEUE_DELETE_OK, clamp(count));
            out.extend_from_slice(&own_cancels);
        })
    }
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
