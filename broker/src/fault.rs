//! Protocol errors sent to a client: the reply code, what it closes, and the text, in RabbitMQ's
//! words. Depends on nothing.
//!
//! Only `connection` and `channel` turn a `Fault` into frames.

use std::fmt;

/// The reply codes of AMQP 0-9-1, section 1.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub enum ReplyCode {
    ContentTooLarge = 311,
    ConnectionForced = 320,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl ReplyCode {
    /// Returns the number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    fn word(self) -> &'static str {
        match self {
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// What a fault closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultScope {
    /// The channel of the method.
    Channel,
    /// The whole connection.
    Connection,
}

/// One protocol error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it closes.
    pub scope: FaultScope,
    /// The reply code.
    pub code: ReplyCode,
    /// The text after the code's name.
    pub reason: String,
}

impl Fault {
    /// Creates a fault that closes the channel.
    pub fn channel(code: ReplyCode, reason: impl Into<String>) -> Self {
        Self {
            scope: FaultScope::Channel,
            code,
            reason: reason.into(),
        }
    }

    /// Creates a fault that closes the connection.
    pub fn connection(code: ReplyCode, reason: impl Into<String>) -> Self {
        Self {
            scope: FaultScope::Connection,
            code,
            reason: reason.into(),
        }
    }

    /// 404 for a queue that does not exist.
    pub fn no_queue(queue: &str, vhost: &str) -> Self {
        Self::channel(
            ReplyCode::NotFound,
            format!("no queue '{queue}' in vhost '{vhost}'"),
        )
    }

    /// 404 for an exchange that does not exist.
    pub fn no_exchange(exchange: &str, vhost: &str) -> Self {
        Self::channel(
            ReplyCode::NotFound,
            format!("no exchange '{exchange}' in vhost '{vhost}'"),
        )
    }

    /// 406.
    pub fn precondition(reason: impl Into<String>) -> Self {
        Self::channel(ReplyCode::PreconditionFailed, reason)
    }

    /// 406: `kind` hold all the memory that they may, `limit` bytes.
    pub fn no_room(what: &str, kind: &str, limit: usize) -> Self {
        let mib = limit >> 20;
        Self::precondition(format!(
            "cannot {what}: {kind} hold all the memory that they may ({mib} MiB)"
        ))
    }

    /// 403.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::channel(ReplyCode::AccessRefused, reason)
    }

    /// 405: the queue belongs to another connection.
    pub fn locked(queue: &str, vhost: &str) -> Self {
        let reason = format!(
            "cannot obtain exclusive access to locked queue '{queue}' in vhost '{vhost}'. \
             It could be originally declared on another connection or the exclusive property \
             value does not match that of the original declaration."
        );
        Self::channel(ReplyCode::ResourceLocked, reason)
    }

    /// 320: the vhost is being deleted.
    pub fn vhost_deleted(vhost: &str) -> Self {
        Self::connection(
            ReplyCode::ConnectionForced,
            format!("vhost '{vhost}' is deleted"),
        )
    }

    /// 541: the store has stopped, so nothing can become durable any more.
    pub fn store_stopped() -> Self {
        Self::connection(ReplyCode::InternalError, "the message store has stopped")
    }

    /// Formats the reply text, cut to 255 bytes as RabbitMQ does.
    pub fn text(&self) -> String {
        let mut text = format!("{} - {}", self.code.word(), self.reason);
        if text.len() > 255 {
            let end = (0..=252)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            text.truncate(end);
            text.push_str("...");
        }
        text
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.number(), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_to_a_short_string() {
        let fault = Fault::locked(&"ä".repeat(100), "/");
        assert!(fault.text().len() <= 255);
        assert!(fault.text().ends_with("..."));
        assert_eq!(
            Fault::no_queue("x", "/").text(),
            "NOT_FOUND - no queue 'x' in vhost '/'"
        );
    }
}
