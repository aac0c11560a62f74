//! The handshake, from the first byte to `connection.open-ok`: login, limits, vhost. Depends on
//! `users` and `broker_state`.
//!
//! Before the login, only a frame of at most [`GREETING_BYTES`] is read and kept.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ReadBuffer;
use super::start_ok::{SaslCredentials, StartOk};
use crate::admission;
use crate::broker_state::BrokerState;
use crate::channel::ConnectionContext;
use crate::clean_text::clean;
use crate::fault::{Fault, ReplyCode};
use crate::lock::{lock, read};
use crate::login_throttle::ClientEnds;
use crate::registry::{ConnectionHandle, OpenedConnection, SocketEnd};
use crate::users::{Credential, LoginOrigin, ScramExchange};
use crate::wire::frame::{self, ParsedFrame};
use crate::wire::method::{self, Method};
use crate::wire::method_id::MethodId;
use crate::wire::reply::{self, MethodFrame};
use crate::wire::table::{Table, Value};
use crate::wire::{PROTOCOL_HEADER, frame::MIN_LIMIT};

/// The largest frame that is read before a frame size is agreed on. It is the smallest size that
/// may be agreed on, as in RabbitMQ.
const GREETING_BYTES: u32 = MIN_LIMIT;

/// Delay before a connection is closed whose login cannot be parsed.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// Why a handshake ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeEnd {
    #[error("not AMQP 0-9-1")]
    OtherProtocol,
    #[error("the client went away")]
    Gone,
    #[error("the login cannot be read")]
    Unreadable,
    #[error(transparent)]
    Refused(#[from] Fault),
}

/// A user and the password hash that it was authenticated with.
type Proved = (String, Credential);

struct Greeting<'a> {
    broker: &'a Arc<BrokerState>,
    connection: &'a Arc<ConnectionHandle>,
    input: &'a mut ReadBuffer,
    origin: LoginOrigin,
    /// Where the client is; `None` on a Unix socket.
    from: Option<ClientEnds>,
}

/// Runs the handshake. A refused client has been sent the reason, as far as it may know it.
pub(super) async fn run(
    broker: &Arc<BrokerState>,
    connection: &Arc<ConnectionHandle>,
    origin: LoginOrigin,
    input: &mut ReadBuffer,
) -> Result<ConnectionContext, HandshakeEnd> {
    let mut greeting = Greeting {
        broker,
        connection,
        input,
        origin,
        from: client_ends(connection),
    };
    greeting.protocol_header().await?;
    greeting.send(|out| {
        MethodFrame::new(out, 0, MethodId::CONNECTION_START)
            .u8(0)
            .u8(9)
            .raw(&server_properties().to_bytes())
            .long_string(b"PLAIN AMQPLAIN SCRAM-SHA-256")
            .long_string(b"en_US")
            .finish();
    });
    let claim = greeting.read_start_ok().await?;
    let (user, proved_with) = greeting.log_in(&claim).await?;
    let agreed = greeting.tune().await;
    let agreed = greeting
        .report_refusal(agreed, MethodId::CONNECTION_TUNE_OK)
        .await?;
    let opened = greeting.open(&user).await;
    let vhost = greeting
        .report_refusal(opened, MethodId::CONNECTION_OPEN)
        .await?;
    let user: Arc<str> = user.into();
    let context = ConnectionContext {
        broker: Arc::clone(broker),
        connection: Arc::clone(connection),
        user: Arc::clone(&user),
        frame_max: agreed.1,
        wants_cancel: claim.can("consumer_cancel_notify"),
        wants_blocked: claim.can("connection.blocked"),
        vhost: Arc::clone(&vhost),
    };
    let opened = OpenedConnection {
        user,
        vhost: Arc::clone(vhost.name()),
        mechanism: claim.mechanism,
        client_properties: claim.properties,
        channel_max: agreed.0,
        frame_max: agreed.1,
        heartbeat_s: agreed.2,
    };
    let admitted =
        admission::open_connection(broker, connection, opened).map_err(HandshakeEnd::from);
    greeting
        .report_refusal(admitted, MethodId::CONNECTION_OPEN)
        .await?;
    // A change of the user ends the connections that are marked as open. A change before this
    // connection was marked did not end it, so that is checked here.
    let is_welcome = is_still_welcome(&context, &proved_with);
    greeting
        .report_refusal(is_welcome, MethodId::CONNECTION_OPEN)
        .await?;
    greeting.send(reply::connection_open_ok);
    Ok(context)
}

/// The two ends of a connection over TCP.
fn client_ends(connection: &ConnectionHandle) -> Option<ClientEnds> {
    let address = |end: &SocketEnd| Some(SocketAddr::new(end.host.parse().ok()?, end.port));
    Some(ClientEnds {
        peer: address(&connection.peer)?,
        local: address(&connection.local)?,
    })
}

/// Whether the user still has this password and may still enter the vhost.
fn is_still_welcome(
    context: &ConnectionContext,
    proved_with: &Credential,
) -> Result<(), HandshakeEnd> {
    let users = read(&context.broker.users);
    let now = users
        .get(&context.user)
        .and_then(|user| user.password.as_ref());
    if now == Some(proved_with) && users.may_enter(&context.user, context.vhost.name()) {
        return Ok(());
    }
    let reason = format!("user '{}' has changed", clean(&context.user));
    Err(Fault::connection(ReplyCode::ConnectionForced, reason).into())
}

impl Greeting<'_> {
    fn send(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut effects = self.broker.begin_unit();
        self.connection.outbox.write(&mut effects, append);
        self.broker.end_unit(effects);
    }

    async fn read_more(&mut self, needed: usize) -> Result<(), HandshakeEnd> {
        match self.input.fill(needed).await {
            Ok(count) if count > 0 => {
                self.connection.received.add_alone(count as u64);
                Ok(())
            }
            _ => Err(HandshakeEnd::Gone),
        }
    }

    async fn protocol_header(&mut self) -> Result<(), HandshakeEnd> {
        while self.input.unused_bytes().len() < PROTOCOL_HEADER.len() {
            if !PROTOCOL_HEADER
                .starts_with(&self.input.unused_bytes()[..self.input.unused_bytes().len().min(4)])
            {
                break;
            }
            self.read_more(PROTOCOL_HEADER.len()).await?;
        }
        if !self.input.unused_bytes().starts_with(&PROTOCOL_HEADER) {
            self.send(|out| out.extend_from_slice(&PROTOCOL_HEADER));
            return Err(HandshakeEnd::OtherProtocol);
        }
        self.input.consume(PROTOCOL_HEADER.len());
        Ok(())
    }

    /// Passes the next method on channel 0 to `with`; ignores heartbeats.
    async fn method<R>(
        &mut self,
        with: impl FnOnce(Method<'_>) -> Result<R, Fault>,
    ) -> Result<R, HandshakeEnd> {
        loop {
            let front = self
                .input
                .front(GREETING_BYTES)
                .map_err(|error| Fault::connection(ReplyCode::FrameError, error.to_string()))?;
            match front {
                ParsedFrame::Partial { needed } => self.read_more(needed).await?,
                ParsedFrame::Whole(whole) if whole.kind == frame::HEARTBEAT => {
                    let total = whole.total();
                    self.input.consume(total);
                }
                ParsedFrame::Whole(whole) => {
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

    async fn read_start_ok(&mut self) -> Result<StartOk, HandshakeEnd> {
        let claimed = self.method(|method| match method {
            Method::ConnectionStartOk {
                properties,
                mechanism,
                response,
            } => StartOk::parse(properties, mechanism, response),
            _ => Err(out_of_place()),
        });
        let claimed = claimed.await;
        self.report_refusal(claimed, MethodId::CONNECTION_START_OK)
            .await
    }

    /// Returns the authenticated user. A client that understands a refusal is sent one.
    async fn log_in(&mut self, claim: &StartOk) -> Result<Proved, HandshakeEnd> {
        if matches!(claim.credentials, SaslCredentials::Unreadable) {
            self.broker.totals.logins_refused.add(1);
            return Err(self.silent_end().await);
        }
        if let Some(proved) = self.authenticate(&claim.credentials).await? {
            return Ok(proved);
        }
        self.broker.totals.logins_refused.add(1);
        let reason = format!(
            "Login was refused using authentication mechanism {}. For details see the broker \
             logfile.",
            claim.mechanism
        );
        let fault = Fault::connection(ReplyCode::AccessRefused, reason);
        if claim.can("authentication_failure_close") {
            self.send_close(&fault, MethodId::NONE).await;
        }
        Err(fault.into())
    }

    /// Sends nothing for [`SILENCE`], as RabbitMQ does: a client would misunderstand a reply to an
    /// invalid login. Returns early when the client disconnects.
    async fn silent_end(&mut self) -> HandshakeEnd {
        let gone = async {
            while self.read_more(1).await.is_ok() {
                let waiting = self.input.unused_bytes().len();
                self.input.consume(waiting);
            }
        };
        // In both cases the socket is closed next.
        let _ = tokio::time::timeout(SILENCE, gone).await;
        HandshakeEnd::Unreadable
    }

    /// Returns the authenticated user and its password hash. `None` if the credentials are wrong,
    /// or the throttle does not let them be checked now.
    async fn authenticate(
        &mut self,
        credentials: &SaslCredentials,
    ) -> Result<Option<Proved>, HandshakeEnd> {
        let (broker, origin) = (Arc::clone(self.broker), self.origin);
        let Ok(attempt) = broker.throttle.begin_attempt(self.from).await else {
            return Ok(None);
        };
        let proved = match credentials {
            SaslCredentials::Password { user, password } => {
                let users = read(&broker.users);
                let outcome = users.authenticate(user, password, origin);
                let known = users.get(user).and_then(|user| user.password.clone());
                known
                    .filter(|_| outcome.is_ok())
                    .map(|known| (user.clone(), known))
            }
            SaslCredentials::Scram(first) => self.scram(first).await?,
            SaslCredentials::Unreadable => None,
        };
        if proved.is_none() {
            broker.throttle.record_failure(attempt).await;
        }
        Ok(proved)
    }

    /// The rest of a SCRAM exchange. The server's signature is sent as a further challenge, to
    /// which the client sends an empty response: AMQP has no field for it in the outcome.
    async fn scram(&mut self, first: &[u8]) -> Result<Option<Proved>, HandshakeEnd> {
        let nonce = crate::channel::random_name();
        let begun = ScramExchange::begin(&read(&self.broker.users), first, &nonce, self.origin);
        let Ok(exchange) = begun else {
            return Ok(None);
        };
        let response = self.challenge(exchange.challenge()).await?;
        let Ok((proved, signature)) = exchange.finish(&response) else {
            return Ok(None);
        };
        self.challenge(&signature).await?;
        Ok(Some(proved))
    }

    /// Returns the response to a `connection.secure`.
    async fn challenge(&mut self, challenge: &[u8]) -> Result<Vec<u8>, HandshakeEnd> {
        self.send(|out| {
            MethodFrame::new(out, 0, MethodId::CONNECTION_SECURE)
                .long_string(challenge)
                .finish();
        });
        let received = self.method(|method| match method {
            Method::ConnectionSecureOk { response } => Ok(response.to_vec()),
            _ => Err(out_of_place()),
        });
        let received = received.await;
        self.report_refusal(received, MethodId::CONNECTION_SECURE_OK)
            .await
    }

    /// Channels, octets of a frame, seconds between heartbeats.
    async fn tune(&mut self) -> Result<(u16, u32, u16), HandshakeEnd> {
        let limits = self.broker.limits;
        self.send(|out| {
            reply::connection_tune(out, limits.channels, limits.frame_bytes, limits.heartbeat_s);
        });
        self.method(|method| match method {
            Method::ConnectionTuneOk {
                channel_max,
                frame_max,
                heartbeat_s,
            } => {
                if frame_max != 0 && frame_max < MIN_LIMIT {
                    return Err(not_negotiable(format!(
                        "negotiated frame_max = {frame_max} is lower than the minimum allowed \
                         value ({MIN_LIMIT})"
                    )));
                }
                if frame_max > limits.frame_bytes {
                    return Err(not_negotiable(format!(
                        "negotiated frame_max = {frame_max} is higher than the maximum allowed \
                         value ({})",
                        limits.frame_bytes
                    )));
                }
                if channel_max > limits.channels {
                    return Err(not_negotiable(format!(
                        "negotiated channel_max = {channel_max} is higher than the maximum \
                         allowed value ({})",
                        limits.channels
                    )));
                }
                let frame_max = if frame_max == 0 {
                    limits.frame_bytes
                } else {
                    frame_max
                };
                let channel_max = if channel_max == 0 {
                    limits.channels
                } else {
                    channel_max
                };
                Ok((channel_max, frame_max, heartbeat_s))
            }
            _ => Err(out_of_place()),
        })
        .await
    }

    async fn open(&mut self, user: &str) -> Result<Arc<crate::vhost::Vhost>, HandshakeEnd> {
        let broker = Arc::clone(self.broker);
        self.method(|method| match method {
            Method::ConnectionOpen { vhost: name } => {
                let vhost = broker.vhost(name).ok_or_else(|| {
                    Fault::connection(
                        ReplyCode::NotAllowed,
                        format!("vhost {} not found", clean(name)),
                    )
                })?;
                let place = || {
                    let (name, user) = (clean(name), clean(user));
                    format!("access to vhost '{name}' refused for user '{user}'")
                };
                if !read(&broker.users).may_enter(user, name) {
                    return Err(Fault::connection(ReplyCode::NotAllowed, place()));
                }
                let (open, limit) = (lock(&broker.connections).len(), broker.limits.connections);
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

    /// Sends a refusal to the client before it is passed on.
    async fn report_refusal<R>(
        &mut self,
        outcome: Result<R, HandshakeEnd>,
        cause: MethodId,
    ) -> Result<R, HandshakeEnd> {
        if let Err(HandshakeEnd::Refused(fault)) = &outcome {
            self.send_close(fault, cause).await;
        }
        outcome
    }

    /// Sends `connection.close` and waits a moment for `close-ok`, so that the text is not lost
    /// with the socket.
    async fn send_close(&mut self, fault: &Fault, cause: MethodId) {
        self.send(|out| reply::close(out, 0, fault.code.number(), &fault.text(), cause));
        let closing =
            async { while self.read_more(1).await.is_ok_and(|()| !self.saw_close_ok()) {} };
        // In both cases the socket is closed next.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), closing).await;
    }

    fn saw_close_ok(&mut self) -> bool {
        while let Ok(ParsedFrame::Whole(whole)) = self.input.front(GREETING_BYTES) {
            let is_close_ok = whole.kind == frame::METHOD
                && MethodId::of(whole.payload) == MethodId::CONNECTION_CLOSE_OK;
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
