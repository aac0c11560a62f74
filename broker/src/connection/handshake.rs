//! From the first byte to `connection.open-ok`: who, how large, where. Relies on `users` and `realm`.
//!
//! Before a client has said who it is, a frame of at most [`GREETING_BYTES`] is read from it and nothing else is kept.

use std::sync::Arc;

use super::Input;
use crate::channel::Surroundings;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read};
use crate::realm::Realm;
use crate::registry::{Link, Session};
use crate::users::Origin;
use crate::wire::frame::{self, Parsed};
use crate::wire::method::{self, Method};
use crate::wire::reply::{self, MethodFrame};
use crate::wire::table::{Table, Value};
use crate::wire::{PROTOCOL_HEADER, frame::MIN_LIMIT};

/// The largest frame that is read before a size was agreed on: the least that may be agreed on, as in RabbitMQ.
const GREETING_BYTES: u32 = MIN_LIMIT;

/// Why a handshake ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("not AMQP 0-9-1")]
    OtherProtocol,
    #[error("the client went away")]
    Gone,
    #[error("{0}")]
    Refused(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

/// What `connection.start-ok` brought.
struct Claim {
    user: String,
    password: Vec<u8>,
    mechanism: &'static str,
    properties: Table,
}

impl Claim {
    fn can(&self, capability: &str) -> bool {
        match self.properties.get("capabilities") {
            Some(Value::Table(table)) => table.get(capability) == Some(&Value::Bool(true)),
            _ => false,
        }
    }
}

struct Greeting<'a> {
    realm: &'a Arc<Realm>,
    link: &'a Arc<Link>,
    input: &'a mut Input,
}

/// Runs the handshake; on refusal the client has been told what may be told.
pub(super) async fn run(
    realm: &Arc<Realm>,
    link: &Arc<Link>,
    origin: Origin,
    input: &mut Input,
) -> Result<Surroundings, End> {
    let mut greeting = Greeting { realm, link, input };
    greeting.protocol_header().await?;
    greeting.send(|out| {
        MethodFrame::new(out, 0, 10, 10)
            .u8(0)
            .u8(9)
            .raw(&server_properties().to_bytes())
            .long(b"PLAIN AMQPLAIN")
            .long(b"en_US")
            .end();
    });
    let claim = greeting.claim().await?;
    if read(&realm.users)
        .authenticate(&claim.user, &claim.password, origin)
        .is_err()
    {
        realm.totals.logins_refused.add(1);
        let reason = format!(
            "Login was refused using authentication mechanism {}. For details see the broker logfile.",
            claim.mechanism
        );
        let fault = Fault::connection(ReplyCode::AccessRefused, reason);
        if claim.can("authentication_failure_close") {
            greeting.tell(&fault, (0, 0)).await;
        }
        return Err(fault.into());
    }
    let agreed = greeting.tune().await;
    let agreed = greeting.told(agreed, (10, 31)).await?;
    let opened = greeting.open(&claim.user).await;
    let vhost = greeting.told(opened, (10, 40)).await?;
    let user: Arc<str> = claim.user.as_str().into();
    let around = Surroundings {
        realm: Arc::clone(realm),
        link: Arc::clone(link),
        user: Arc::clone(&user),
        frame_max: agreed.1,
        wants_cancel: claim.can("consumer_cancel_notify"),
        wants_blocked: claim.can("connection.blocked"),
        vhost: Arc::clone(&vhost),
    };
    let session = Session {
        user,
        vhost: Arc::clone(vhost.name()),
        mechanism: claim.mechanism,
        client_properties: claim.properties,
        channel_max: agreed.0,
        frame_max: agreed.1,
        heartbeat_s: agreed.2,
    };
    // Set once, here: nobody else knows the link's session.
    let _ = link.session.set(session);
    greeting.send(reply::connection_open_ok);
    Ok(around)
}

impl Greeting<'_> {
    fn send(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut turn = self.realm.turn();
        self.link.outbox.write(&mut turn, append);
        self.realm.end(turn);
    }

    async fn more(&mut self, needed: usize) -> Result<(), End> {
        match self.input.fill(needed).await {
            Ok(count) if count > 0 => {
                self.link.received.add_alone(count as u64);
                Ok(())
            }
            _ => Err(End::Gone),
        }
    }

    async fn protocol_header(&mut self) -> Result<(), End> {
        while self.input.waiting().len() < PROTOCOL_HEADER.len() {
            if !PROTOCOL_HEADER
                .starts_with(&self.input.waiting()[..self.input.waiting().len().min(4)])
            {
                break;
            }
            self.more(PROTOCOL_HEADER.len()).await?;
        }
        if !self.input.waiting().starts_with(&PROTOCOL_HEADER) {
            self.send(|out| out.extend_from_slice(&PROTOCOL_HEADER));
            return Err(End::OtherProtocol);
        }
        self.input.consume(PROTOCOL_HEADER.len());
        Ok(())
    }

    /// The next method on channel 0, given to `with`; heartbeats are passed over.
    async fn method<R>(
        &mut self,
        with: impl FnOnce(Method<'_>) -> Result<R, Fault>,
    ) -> Result<R, End> {
        loop {
            let front = self
                .input
                .front(GREETING_BYTES)
                .map_err(|error| Fault::connection(ReplyCode::FrameError, error.0))?;
            match front {
                Parsed::Partial { needed } => self.more(needed).await?,
                Parsed::Whole(whole) if whole.kind == frame::HEARTBEAT => {
                    let total = whole.total();
                    self.input.consume(total);
                }
                Parsed::Whole(whole) => {
                    if whole.channel != 0 || whole.kind != frame::METHOD {
                        return Err(
                            Fault::connection(ReplyCode::UnexpectedFrame, whole.quote()).into()
                        );
                    }
                    let method = method::decode(whole.payload).map_err(|_| {
                        Fault::connection(
                            ReplyCode::FrameError,
                            "cannot decode a method of the handshake",
                        )
                    })?;
                    let result = with(method);
                    let total = whole.total();
                    self.input.consume(total);
                    return Ok(result?);
                }
            }
        }
    }

    async fn claim(&mut self) -> Result<Claim, End> {
        let claimed = self.method(|method| match method {
            Method::ConnectionStartOk {
                properties,
                mechanism,
                response,
            } => claim(properties, mechanism, response),
            _ => Err(out_of_place()),
        });
        let claimed = claimed.await;
        self.told(claimed, (10, 11)).await
    }

    /// Channels, octets of a frame, seconds between heartbeats.
    async fn tune(&mut self) -> Result<(u16, u32, u16), End> {
        let limits = self.realm.limits;
        self.send(|out| {
            reply::connection_tune(out, limits.channels, limits.frame_bytes, limits.heartbeat_s);
        });
        self.method(|method| match method {
            Method::ConnectionTuneOk { channel_max, frame_max, heartbeat_s } => {
                if frame_max != 0 && frame_max < MIN_LIMIT {
                    return Err(not_negotiable(format!("negotiated frame_max = {frame_max} is lower than the minimum allowed value ({MIN_LIMIT})")));
                }
                if frame_max > limits.frame_bytes {
                    return Err(not_negotiable(format!("negotiated frame_max = {frame_max} is higher than the maximum allowed value ({})", limits.frame_bytes)));
                }
                if channel_max > limits.channels {
                    return Err(not_negotiable(format!("negotiated channel_max = {channel_max} is higher than the maximum allowed value ({})", limits.channels)));
                }
                let frame_max = if frame_max == 0 { limits.frame_bytes } else { frame_max };
                let channel_max = if channel_max == 0 { limits.channels } else { channel_max };
                Ok((channel_max, frame_max, heartbeat_s))
            }
            _ => Err(out_of_place()),
        })
        .await
    }

    async fn open(&mut self, user: &str) -> Result<Arc<crate::vhost::Vhost>, End> {
        let realm = Arc::clone(self.realm);
        self.method(|method| match method {
            Method::ConnectionOpen { vhost: name } => {
                let vhost = realm.vhost(name).ok_or_else(|| {
                    Fault::connection(ReplyCode::NotAllowed, format!("vhost {name} not found"))
                })?;
                let place = || format!("access to vhost '{name}' refused for user '{user}'");
                if !read(&realm.users).may_enter(user, name) {
                    return Err(Fault::connection(ReplyCode::NotAllowed, place()));
                }
                let (open, limit) = (lock(&realm.links).len(), realm.limits.connections);
                if open > limit {
                    let reason = format!("{}: connection limit ({limit}) is reached", place());
                    return Err(Fault::connection(ReplyCode::NotAllowed, reason));
                }
                Ok(vhost)
            }
            _ => Err(out_of_place()),
        })
        .await
    }

    /// Tells the client of a refusal before it is passed on.
    async fn told<R>(&mut self, outcome: Result<R, End>, cause: (u16, u16)) -> Result<R, End> {
        if let Err(End::Refused(fault)) = &outcome {
            self.tell(fault, cause).await;
        }
        outcome
    }

    /// Sends `connection.close` and waits a moment for its answer, so that the text is not lost with the socket.
    async fn tell(&mut self, fault: &Fault, cause: (u16, u16)) {
        self.send(|out| reply::close(out, 0, fault.code.number(), &fault.text(), cause));
        let answered = async { while self.more(1).await.is_ok_and(|()| !self.saw_close_ok()) {} };
        // Whether it came or not, the socket is closed next.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), answered).await;
    }

    fn saw_close_ok(&mut self) -> bool {
        while let Ok(Parsed::Whole(whole)) = self.input.front(GREETING_BYTES) {
            let is_close_ok = whole.kind == frame::METHOD && method::ids(whole.payload) == (10, 51);
            let total = whole.total();
            self.input.consume(total);
            if is_close_ok {
                return true;
            }
        }
        false
    }
}

fn out_of_place() -> Fault {
    Fault::connection(
        ReplyCode::CommandInvalid,
        "unexpected method during the handshake",
    )
}

fn not_negotiable(reason: String) -> Fault {
    Fault::connection(ReplyCode::NotAllowed, reason)
}

fn claim(properties: &[u8], mechanism: &str, response: &[u8]) -> Result<Claim, Fault> {
    let properties = Table::decode(properties)
        .map_err(|error| Fault::connection(ReplyCode::SyntaxError, error.to_string()))?;
    let (mechanism, user, password) = match mechanism {
        "PLAIN" => {
            let mut parts = response.splitn(3, |byte| *byte == 0).skip(1);
            (
                "PLAIN",
                parts.next().unwrap_or_default().to_vec(),
                parts.next().unwrap_or_default().to_vec(),
            )
        }
        "AMQPLAIN" => {
            let mut table = u32::try_from(response.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes()
                .to_vec();
            table.extend_from_slice(response);
            let table = Table::decode(&table)
                .map_err(|error| Fault::connection(ReplyCode::SyntaxError, error.to_string()))?;
            let field = |name| {
                table
                    .get(name)
                    .and_then(Value::as_bytes)
                    .unwrap_or_default()
                    .to_vec()
            };
            ("AMQPLAIN", field("LOGIN"), field("PASSWORD"))
        }
        other => {
            return Err(Fault::connection(
                ReplyCode::CommandInvalid,
                format!("unknown authentication mechanism '{other}'"),
            ));
        }
    };
    Ok(Claim {
        user: String::from_utf8_lossy(&user).into_owned(),
        password,
        mechanism,
        properties,
    })
}

fn server_properties() -> Table {
    let mut capabilities = Table::new();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.set(name, Value::Bool(true));
    }
    let mut properties = Table::new();
    properties.set("capabilities", Value::Table(capabilities));
    for (name, value) in [
        ("cluster_name", "cbroker"),
        ("copyright", "The cbroker authors"),
        ("information", "Licensed under the MIT license"),
        ("platform", "Rust"),
        ("product", "cbroker"),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        properties.set(name, Value::text(value));
    }
    properties
}
