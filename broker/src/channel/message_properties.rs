//! What a message's properties ask of the server: more keys, a reply address, a time to live.
//! Relies on `wire`.

use crate::fault::{Fault, ReplyCode};
use crate::vhost::{REPLY_TO, routing_keys};
use crate::wire::content::PROPERTIES_BYTES;
use crate::wire::properties::Properties;
use crate::wire::table::{Table, Value};

/// The most that a time to live may be, as in RabbitMQ.
const MAX_TTL_MS: u64 = 315_360_000_000;
/// The names under which a header table may ask for more keys, with their lengths.
const KEY_HEADERS: [&[u8]; 2] = [b"\x02CC", b"\x03BCC"];

fn undecodable(error: impl std::fmt::Display) -> Fault {
    Fault::connection(ReplyCode::SyntaxError, format!("{error}"))
}

pub(super) fn properties(raw: &[u8]) -> Result<Properties<'_>, Fault> {
    Properties::scan(raw).map_err(undecodable)
}

pub(super) fn table(raw: &[u8]) -> Result<Table, Fault> {
    Table::decode(raw).map_err(undecodable)
}

/// Refuses properties that are longer than clients read: see [`check_texts`].
pub(super) fn check_size(raw: &[u8]) -> Result<(), Fault> {
    if raw.len() <= PROPERTIES_BYTES {
        return Ok(());
    }
    Err(Fault::precondition(format!(
        "properties of {} bytes are larger than the maximum of {PROPERTIES_BYTES}",
        raw.len()
    )))
}

/// Refuses what clients cannot read: they end their connection at such a delivery, get it again
/// when they come back, and hear nothing behind it. Raw properties of ASCII alone cost one look.
pub(super) fn check_texts(raw: &[u8], properties: &Properties<'_>) -> Result<(), Fault> {
    let values = raw.get(2..).unwrap_or_default();
    if values.is_ascii() {
        return Ok(());
    }
    for (name, value) in [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ] {
        check_text(name, value.unwrap_or_default())?;
    }
    match properties.headers.map(table).transpose()? {
        Some(headers) if !headers.has_text_names() => Err(not_text("the name of a header")),
        _ => Ok(()),
    }
}

/// Refuses a short string that is not UTF-8, as AMQP 0-9-1, 4.2.5.3, wants it to be.
pub(super) fn check_text(what: &str, text: &[u8]) -> Result<(), Fault> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(not_text(what)),
    }
}

fn not_text(what: &str) -> Fault {
    Fault::precondition(format!("invalid message: {what} is not UTF-8"))
}

/// True when the message goes as it came: its headers are well formed but ask for nothing.
/// Allocates nothing.
pub(super) fn is_nothing(properties: &Properties<'_>) -> Result<bool, Fault> {
    if properties.reply_to == Some(REPLY_TO.as_bytes()) {
        return Ok(false);
    }
    let Some(raw) = properties.headers else {
        return Ok(true);
    };
    Table::measure(raw).map_err(undecodable)?;
    let mentions = |name: &[u8]| raw.windows(name.len()).any(|window| window == name);
    Ok(!KEY_HEADERS.into_iter().any(mentions))
}

/// The properties with other headers or another reply address.
pub(super) fn rewritten(
    properties: &Properties<'_>,
    headers: Option<&Table>,
    reply_to: Option<&str>,
) -> Vec<u8> {
    let table = headers.map(Table::to_bytes);
    let new = Properties {
        headers: table.as_deref(),
        reply_to: reply_to.map(str::as_bytes).or(properties.reply_to),
        ..*properties
    };
    let mut raw = Vec::new();
    new.encode(&mut raw);
    raw
}

/// The routing keys of a message with its CC and BCC headers, which must be lists of strings.
pub(super) fn keys(own: &[u8], headers: &Table) -> Result<Vec<Vec<u8>>, Fault> {
    for name in ["CC", "BCC"] {
        match headers.get(name) {
            None => {}
            Some(Value::Array(keys)) => {
                if let Some(wrong) = keys.iter().find(|key| key.as_bytes().is_none()) {
                    let reason = format!(
                        "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
                        wrong.type_name()
                    );
                    return Err(Fault::precondition(reason));
                }
            }
            Some(wrong) => {
                let reason = format!(
                    "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
                    wrong.type_name()
                );
                return Err(Fault::precondition(reason));
            }
        }
    }
    let mut keys = routing_keys(own, headers);
    if let Some(Value::Array(further)) = headers.get("BCC") {
        keys.extend(
            further
                .iter()
                .filter_map(Value::as_bytes)
                .map(<[u8]>::to_vec),
        );
    }
    Ok(keys)
}

/// The `expiration` property: digits, as Erlang's `string:to_integer` takes them.
pub(super) fn ttl_ms(text: &[u8]) -> Result<u64, Fault> {
    let refuse = |reason: String| {
        let text = String::from_utf8_lossy(text);
        Fault::precondition(format!("invalid expiration '{text}': {reason}"))
    };
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let digits = text[sign..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (number, rest) = text.split_at(if digits == 0 { 0 } else { sign + digits });
    let Some(number) = std::str::from_utf8(number)
        .ok()
        .filter(|number| !number.is_empty())
    else {
        return Err(refuse("no_integer".into()));
    };
    if !rest.is_empty() {
        return Err(refuse(format!(
            "{{leftover_string,{:?}}}",
            String::from_utf8_lossy(rest)
        )));
    }
    if number.starts_with('-') && !number.trim_start_matches(['-', '0']).is_empty() {
        return Err(refuse(format!("{{value_negative,{number}}}")));
    }
    match number.trim_start_matches(['-', '+']).parse::<u64>() {
        Ok(ms) if ms <= MAX_TTL_MS => Ok(ms),
        _ => Err(refuse(format!("{{value_too_big,{number}}}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::ttl_ms;

    #[test]
    fn expirations_are_read_as_rabbitmq_reads_them() {
        assert_eq!(ttl_ms(b"60000").unwrap(), 60000);
        assert_eq!(ttl_ms(b"0").unwrap(), 0);
        for (text, reason) in [
            ("abc", "no_integer"),
            ("", "no_integer"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("-1", "{value_negative,-1}"),
            ("100foobar", "{leftover_string,\"foobar\"}"),
        ] {
            assert_eq!(
                ttl_ms(text.as_bytes()).unwrap_err().reason,
                format!("invalid expiration '{text}': {reason}")
            );
        }
    }
}
