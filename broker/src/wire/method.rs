//! Methods that a client can send, borrowed from their frame. Depends on `cursor` and `erlang`.
//!
//! Decoding fails if a field is truncated, a name is not UTF-8, or bytes are left over, as in
//! RabbitMQ. Tables stay encoded; the code that needs one decodes it with [`super::table`].

use super::cursor::{ByteCursor, MalformedField};
use super::erlang;

/// Why a method frame cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MethodError<'a> {
    /// A malformed method (501), and as much of it as is shown.
    #[error("cannot decode {}", erlang::binary(.0))]
    Undecodable(&'a [u8]),
    /// AMQP 0-9-1 has no method with these numbers, or only a server sends it.
    #[error("unknown method {class}.{method}")]
    Unknown { class: u16, method: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own bits")]
pub(crate) struct ExchangeDeclare<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) passive: bool,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) no_wait: bool,
    pub(crate) arguments: &'a [u8],
}

/// The arguments of `exchange.bind`, `exchange.unbind`, `queue.bind` and `queue.unbind`, which
/// differ only in the type of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BindMethod<'a> {
    pub(crate) destination: &'a str,
    pub(crate) source: &'a str,
    pub(crate) routing_key: &'a [u8],
    pub(crate) no_wait: bool,
    pub(crate) arguments: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own bits")]
pub(crate) struct QueueDeclare<'a> {
    pub(crate) queue: &'a str,
    pub(crate) passive: bool,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) no_wait: bool,
    pub(crate) arguments: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the protocol's own bits")]
pub(crate) struct Consume<'a> {
    pub(crate) queue: &'a str,
    pub(crate) consumer_tag: &'a str,
    pub(crate) no_local: bool,
    pub(crate) no_ack: bool,
    pub(crate) exclusive: bool,
    pub(crate) no_wait: bool,
    pub(crate) arguments: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) exchange: &'a [u8],
    pub(crate) routing_key: &'a [u8],
    pub(crate) mandatory: bool,
    pub(crate) immediate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method<'a> {
    ConnectionStartOk {
        properties: &'a [u8],
        mechanism: &'a str,
        response: &'a [u8],
    },
    ConnectionSecureOk {
        response: &'a [u8],
    },
    ConnectionTuneOk {
        channel_max: u16,
        frame_max: u32,
        heartbeat_s: u16,
    },
    ConnectionOpen {
        vhost: &'a str,
    },
    ConnectionClose {
        code: u16,
        text: &'a str,
    },
    ConnectionCloseOk,
    ConnectionUpdateSecret {
        secret: &'a [u8],
    },
    ChannelOpen,
    ChannelFlow {
        active: bool,
    },
    ChannelFlowOk,
    ChannelClose {
        code: u16,
        text: &'a str,
    },
    ChannelCloseOk,
    AccessRequest,
    ExchangeDeclare(ExchangeDeclare<'a>),
    ExchangeDelete {
        exchange: &'a str,
        if_unused: bool,
        no_wait: bool,
    },
    ExchangeBind(BindMethod<'a>),
    ExchangeUnbind(BindMethod<'a>),
    QueueDeclare(QueueDeclare<'a>),
    QueueBind(BindMethod<'a>),
    QueueUnbind(BindMethod<'a>),
    QueuePurge {
        queue: &'a str,
        no_wait: bool,
    },
    QueueDelete {
        queue: &'a str,
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    },
    BasicQos {
        size: u32,
        count: u16,
        global: bool,
    },
    BasicConsume(Consume<'a>),
    BasicCancel {
        consumer_tag: &'a str,
        no_wait: bool,
    },
    BasicCancelOk,
    BasicPublish(Publish<'a>),
    BasicGet {
        queue: &'a str,
        no_ack: bool,
    },
    BasicAck {
        tag: u64,
        multiple: bool,
    },
    BasicNack {
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    BasicReject {
        tag: u64,
        requeue: bool,
    },
    BasicRecover {
        requeue: bool,
    },
    BasicRecoverAsync {
        requeue: bool,
    },
    ConfirmSelect {
        no_wait: bool,
    },
    TxSelect,
    TxCommit,
    TxRollback,
}

/// Decodes the payload of a method frame.
pub(crate) fn decode(payload: &[u8]) -> Result<Method<'_>, MethodError<'_>> {
    let mut cursor = ByteCursor::new(payload);
    let (Ok(class), Ok(method)) = (cursor.u16(), cursor.u16()) else {
        return Err(MethodError::Undecodable(payload));
    };
    let arguments = cursor.remaining();
    let decoded = match class {
        10 => connection(method, &mut cursor),
        20 => channel(method, &mut cursor),
        30 if method == 10 => access(&mut cursor),
        40 => exchange(method, &mut cursor),
        50 => queue(method, &mut cursor),
        60 => basic(method, &mut cursor),
        85 if method == 10 => cursor.u8().map(|bits| {
            Some(Method::ConfirmSelect {
                no_wait: bits & 1 != 0,
            })
        }),
        90 => Ok(transaction(method)),
        _ => Ok(None),
    };
    let known = match decoded {
        Ok(Some(known)) if cursor.expect_end().is_ok() => known,
        Ok(None) => return Err(MethodError::Unknown { class, method }),
        Ok(Some(_)) | Err(MalformedField) => {
            let shown = &arguments[..arguments.len().min(64)];
            return Err(MethodError::Undecodable(shown));
        }
    };
    Ok(known)
}

type Decoded<'a> = Result<Option<Method<'a>>, MalformedField>;

fn connection<'a>(method: u16, c: &mut ByteCursor<'a>) -> Decoded<'a> {
    Ok(Some(match method {
        11 => {
            let (properties, mechanism, response) =
                (c.table()?, c.short_string()?, c.long_string()?);
            c.short_string_bytes()?;
            Method::ConnectionStartOk {
                properties,
                mechanism,
                response,
            }
        }
        21 => Method::ConnectionSecureOk {
            response: c.long_string()?,
        },
        31 => Method::ConnectionTuneOk {
            channel_max: c.u16()?,
            frame_max: c.u32()?,
            heartbeat_s: c.u16()?,
        },
        40 => {
            let vhost = c.short_string()?;
            c.short_string_bytes()?;
            c.u8()?;
            Method::ConnectionOpen { vhost }
        }
        50 => {
            let (code, text) = close(c)?;
            Method::ConnectionClose { code, text }
        }
        51 => Method::ConnectionCloseOk,
        70 => {
            let secret = c.long_string()?;
            c.short_string_bytes()?;
            Method::ConnectionUpdateSecret { secret }
        }
        _ => return Ok(None),
    }))
}

fn close<'a>(c: &mut ByteCursor<'a>) -> Result<(u16, &'a str), MalformedField> {
    let (code, text) = (c.u16()?, c.short_string_bytes()?);
    c.u32()?;
    Ok((code, std::str::from_utf8(text).unwrap_or("")))
}

fn channel<'a>(method: u16, c: &mut ByteCursor<'a>) -> Decoded<'a> {
    Ok(Some(match method {
        10 => {
            c.short_string_bytes()?;
            Method::ChannelOpen
        }
        20 => Method::ChannelFlow {
            active: c.u8()? & 1 != 0,
        },
        21 => {
            c.u8()?;
            Method::ChannelFlowOk
        }
        40 => {
            let (code, text) = close(c)?;
            Method::ChannelClose { code, text }
        }
        41 => Method::ChannelCloseOk,
        _ => return Ok(None),
    }))
}

fn access<'a>(c: &mut ByteCursor<'a>) -> Decoded<'a> {
    c.short_string_bytes()?;
    c.u8()?;
    Ok(Some(Method::AccessRequest))
}

fn exchange<'a>(method: u16, c: &mut ByteCursor<'a>) -> Decoded<'a> {
    if !matches!(method, 10 | 20 | 30 | 40) {
        return Ok(None);
    }
    c.u16()?;
    Ok(Some(match method {
        10 => {
            let (exchange, kind, bits, arguments) =
                (c.short_string()?, c.short_string()?, c.u8()?, c.table()?);
            Method::ExchangeDeclare(ExchangeDeclare {
                exchange,
                kind,
                passive: bits & 1 != 0,
                durable: bits & 2 != 0,
                auto_delete: bits & 4 != 0,
                internal: bits & 8 != 0,
                no_wait: bits & 16 != 0,
                arguments,
            })
        }
        20 => {
            let (exchange, bits) = (c.short_string()?, c.u8()?);
            Method::ExchangeDelete {
                exchange,
                if_unused: bits & 1 != 0,
                no_wait: bits & 2 != 0,
            }
        }
        _ => {
            let (destination, source, routing_key, bits, arguments) = (
                c.short_string()?,
                c.short_string()?,
                c.short_string_bytes()?,
                c.u8()?,
                c.table()?,
            );
            let binding = BindMethod {
                destination,
                source,
                routing_key,
                no_wait: bits & 1 != 0,
                arguments,
            };
            if method == 30 {
                Method::ExchangeBind(binding)
            } else {
                Method::ExchangeUnbind(binding)
            }
        }
    }))
}

fn queue<'a>(method: u16, c: &mut ByteCursor<'a>) -> Decoded<'a> {
    if !matches!(method, 10 | 20 | 30 | 40 | 50) {
        return Ok(None);
    }
    c.u16()?;
    let queue = c.short_string()?;
    Ok(Some(match method {
        10 => {
            let (bits, arguments) = (c.u8()?, c.table()?);
            Method::QueueDeclare(QueueDeclare {
                queue,
                passive: bits & 1 != 0,
                durable: bits & 2 != 0,
                exclusive: bits & 4 != 0,
                auto_delete: bits & 8 != 0,
                no_wait: bits & 16 != 0,
                arguments,
            })
        }
        20 => {
            let (source, routing_key, bits, arguments) = (
                c.short_string()?,
                c.short_string_bytes()?,
                c.u8()?,
                c.table()?,
            );
            Method::QueueBind(BindMethod {
                destination: queue,
                source,
                routing_key,
                no_wait: bits & 1 != 0,
                arguments,
            })
        }
        30 => Method::QueuePurge {
            queue,
            no_wait: c.u8()? & 1 != 0,
        },
        40 => {
            let bits = c.u8()?;
            Method::QueueDelete {
                queue,
                if_unused: bits & 1 != 0,
                if_empty: bits & 2 != 0,
                no_wait: bits & 4 != 0,
            }
        }
        _ => {
            let (source, routing_key, arguments) =
                (c.short_string()?, c.short_string_bytes()?, c.table()?);
            Method::QueueUnbind(BindMethod {
                destination: queue,
                source,
                routing_key,
                no_wait: false,
                arguments,
            })
        }
    }))
}

fn basic<'a>(method: u16, c: &mut ByteCursor<'a>) -> Decoded<'a> {
    Ok(Some(match method {
        40 => {
            c.u16()?;
            let (exchange, routing_key, bits) =
                (c.short_string_bytes()?, c.short_string_bytes()?, c.u8()?);
            Method::BasicPublish(Publish {
                exchange,
                routing_key,
                mandatory: bits & 1 != 0,
                immediate: bits & 2 != 0,
            })
        }
        80 => {
            let (tag, bits) = (c.u64()?, c.u8()?);
            Method::BasicAck {
                tag,
                multiple: bits & 1 != 0,
            }
        }
        120 => {
            let (tag, bits) = (c.u64()?, c.u8()?);
            Method::BasicNack {
                tag,
                multiple: bits & 1 != 0,
                requeue: bits & 2 != 0,
            }
        }
        90 => Method::BasicReject {
            tag: c.u64()?,
            requeue: c.u8()? & 1 != 0,
        },
        _ => return basic_other(method, c),
    }))
}

/// Decodes the methods of class `basic` that are not needed for each message.
fn basic_other<'a>(method: u16, c: &mut ByteCursor<'a>) -> Decoded<'a> {
    Ok(Some(match method {
        10 => Method::BasicQos {
            size: c.u32()?,
            count: c.u16()?,
            global: c.u8()? & 1 != 0,
        },
        20 => {
            c.u16()?;
            let (queue, consumer_tag, bits, arguments) =
                (c.short_string()?, c.short_string()?, c.u8()?, c.table()?);
            Method::BasicConsume(Consume {
                queue,
                consumer_tag,
                no_local: bits & 1 != 0,
                no_ack: bits & 2 != 0,
                exclusive: bits & 4 != 0,
                no_wait: bits & 8 != 0,
                arguments,
            })
        }
        30 => Method::BasicCancel {
            consumer_tag: c.short_string()?,
            no_wait: c.u8()? & 1 != 0,
        },
        31 => {
            c.short_string_bytes()?;
            Method::BasicCancelOk
        }
        70 => {
            c.u16()?;
            Method::BasicGet {
                queue: c.short_string()?,
                no_ack: c.u8()? & 1 != 0,
            }
        }
        100 => Method::BasicRecoverAsync {
            requeue: c.u8()? & 1 != 0,
        },
        110 => Method::BasicRecover {
            requeue: c.u8()? & 1 != 0,
        },
        _ => return Ok(None),
    }))
}

fn transaction<'a>(method: u16) -> Option<Method<'a>> {
    match method {
        10 => Some(Method::TxSelect),
        20 => Some(Method::TxCommit),
        30 => Some(Method::TxRollback),
        _ => None,
    }
}
