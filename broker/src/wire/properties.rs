//! The fourteen basic properties: read from raw bytes by their flags, or encoded again if the
//! server must change one. Depends on `cursor`.
//!
//! # Cost
//! [`Properties::scan`] borrows and does not allocate. Unchanged properties are never encoded
//! again.

use super::cursor::{ByteCursor, MalformedField};

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const KIND: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;

/// Malformed properties: truncated, too long, or with flags that AMQP 0-9-1 does not define.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content header's properties cannot be decoded")]
pub struct PropertiesError;

impl From<MalformedField> for PropertiesError {
    fn from(_: MalformedField) -> Self {
        Self
    }
}

/// All properties of a message, borrowed. Strings are bytes, because the protocol does not require
/// UTF-8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    /// MIME type.
    pub content_type: Option<&'a [u8]>,
    /// MIME encoding.
    pub content_encoding: Option<&'a [u8]>,
    /// The encoded header table, including its length prefix.
    pub headers: Option<&'a [u8]>,
    /// 1 for transient, 2 for persistent.
    pub delivery_mode: Option<u8>,
    /// 0 to 255.
    pub priority: Option<u8>,
    /// For the application.
    pub correlation_id: Option<&'a [u8]>,
    /// The address for replies.
    pub reply_to: Option<&'a [u8]>,
    /// Time to live in milliseconds, as decimal digits.
    pub expiration: Option<&'a [u8]>,
    /// For the application.
    pub message_id: Option<&'a [u8]>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// For the application.
    pub kind: Option<&'a [u8]>,
    /// Must equal the connection's user.
    pub user_id: Option<&'a [u8]>,
    /// For the application.
    pub app_id: Option<&'a [u8]>,
    /// Deprecated by the protocol, but passed on.
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> Properties<'a> {
    /// Reads flags and values. Truncated or left-over bytes are an error.
    pub fn scan(raw: &'a [u8]) -> Result<Self, PropertiesError> {
        let mut found = Self::default();
        if raw.len() == 2 && raw == [0, 0] {
            return Ok(found);
        }
        let mut c = ByteCursor::new(raw);
        let flags = c.u16()?;
        // Bit 0 announces further flag words, bit 1 is reserved. No property uses either.
        if flags & 0b11 != 0 {
            return Err(PropertiesError);
        }
        if flags & CONTENT_TYPE != 0 {
            found.content_type = Some(c.short_string_bytes()?);
        }
        if flags & CONTENT_ENCODING != 0 {
            found.content_encoding = Some(c.short_string_bytes()?);
        }
        if flags & HEADERS != 0 {
            found.headers = Some(c.table()?);
        }
        if flags & DELIVERY_MODE != 0 {
            found.delivery_mode = Some(c.u8()?);
        }
        if flags & PRIORITY != 0 {
            found.priority = Some(c.u8()?);
        }
        for (flag, slot) in [
            (CORRELATION_ID, &mut found.correlation_id),
            (REPLY_TO, &mut found.reply_to),
            (EXPIRATION, &mut found.expiration),
            (MESSAGE_ID, &mut found.message_id),
        ] {
            if flags & flag != 0 {
                *slot = Some(c.short_string_bytes()?);
            }
        }
        if flags & TIMESTAMP != 0 {
            found.timestamp = Some(c.u64()?);
        }
        for (flag, slot) in [
            (KIND, &mut found.kind),
            (USER_ID, &mut found.user_id),
            (APP_ID, &mut found.app_id),
            (CLUSTER_ID, &mut found.cluster_id),
        ] {
            if flags & flag != 0 {
                *slot = Some(c.short_string_bytes()?);
            }
        }
        c.expect_end()?;
        Ok(found)
    }

    /// Appends flags and values. Short strings are cut at 255 bytes.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "short strings are cut to 255 bytes"
    )]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut flags = 0u16;
        out.extend_from_slice(&[0, 0]);
        let short = |flags: &mut u16, out: &mut Vec<u8>, flag: u16, value: Option<&[u8]>| {
            if let Some(value) = value {
                let value = &value[..value.len().min(255)];
                *flags |= flag;
                out.push(value.len() as u8);
                out.extend_from_slice(value);
            }
        };
        short(&mut flags, out, CONTENT_TYPE, self.content_type);
        short(&mut flags, out, CONTENT_ENCODING, self.content_encoding);
        if let Some(table) = self.headers {
            flags |= HEADERS;
            out.extend_from_slice(table);
        }
        if let Some(mode) = self.delivery_mode {
            flags |= DELIVERY_MODE;
            out.push(mode);
        }
        if let Some(priority) = self.priority {
            flags |= PRIORITY;
            out.push(priority);
        }
        short(&mut flags, out, CORRELATION_ID, self.correlation_id);
        short(&mut flags, out, REPLY_TO, self.reply_to);
        short(&mut flags, out, EXPIRATION, self.expiration);
        short(&mut flags, out, MESSAGE_ID, self.message_id);
        if let Some(seconds) = self.timestamp {
            flags |= TIMESTAMP;
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        short(&mut flags, out, KIND, self.kind);
        short(&mut flags, out, USER_ID, self.user_id);
        short(&mut flags, out, APP_ID, self.app_id);
        short(&mut flags, out, CLUSTER_ID, self.cluster_id);
        out[start..start + 2].copy_from_slice(&flags.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_encoded_is_found_again() {
        let all = Properties {
            content_type: Some(b"a/b"),
            content_encoding: Some(b"gzip"),
            headers: Some(b"\0\0\0\x07\x01ki\0\0\0\x01"),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some(b"c"),
            reply_to: Some(b"r"),
            expiration: Some(b"60000"),
            message_id: Some(b"m"),
            timestamp: Some(1_700_000_000),
            kind: Some(b"t"),
            user_id: Some(b"u"),
            app_id: Some(b"a"),
            cluster_id: Some(b""),
        };
        for some in [
            all,
            Properties::default(),
            Properties {
                reply_to: None,
                headers: None,
                ..all
            },
        ] {
            let mut raw = Vec::new();
            some.encode(&mut raw);
            assert_eq!(Properties::scan(&raw).unwrap(), some);
        }
    }

    #[test]
    fn cut_or_overlong_properties_are_refused() {
        for raw in [
            &b""[..],
            b"\0",
            b"\x80\0",
            b"\x80\0\x05abc",
            b"\0\0x",
            b"\0\x01\0\0",
            b"\x10\0",
        ] {
            assert_eq!(Properties::scan(raw), Err(PropertiesError), "{raw:?}");
        }
    }
}
