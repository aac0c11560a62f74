//! Compares the arguments of two declares and formats the difference as RabbitMQ does. Depends on
//! the table only.

use super::{Table, Value};

impl Value {
    /// Formats the value as RabbitMQ does: text unquoted, integers in digits, all else as Erlang
    /// terms.
    pub fn to_erlang(&self) -> String {
        match self {
            Self::Bool(claim) => claim.to_string(),
            Self::LongString(bytes) | Self::Binary(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            Self::Void => "undefined".to_owned(),
            Self::Timestamp(seconds) => seconds.to_string(),
            Self::Decimal { scale, unscaled } => format!("{{{scale},{unscaled}}}"),
            Self::Float(_) | Self::Double(_) => self
                .as_float()
                .map_or_else(String::new, |number| format!("{number:?}")),
            Self::Array(values) => {
                let terms: Vec<_> = values
                    .iter()
                    .map(|value| format!("{{{},{}}}", value.type_name(), value.quoted()))
                    .collect();
                format!("[{}]", terms.join(","))
            }
            Self::Table(table) => {
                let terms: Vec<_> = table
                    .iter()
                    .map(|(name, value)| {
                        format!(
                            "{{<<{:?}>>,{},{}}}",
                            name.to_text(),
                            value.type_name(),
                            value.quoted()
                        )
                    })
                    .collect();
                format!("[{}]", terms.join(","))
            }
            _ => self
                .as_integer()
                .map_or_else(String::new, |number| number.to_string()),
        }
    }

    /// Formats the value inside a term, where text is a quoted binary.
    fn quoted(&self) -> String {
        match self {
            Self::LongString(_) | Self::Binary(_) => format!("<<{:?}>>", self.to_erlang()),
            _ => self.to_erlang(),
        }
    }
}

impl Table {
    /// Returns `received '1' but current is '2'` if the argument `name` differs, else `None`.
    pub fn difference(&self, current: &Self, name: &str) -> Option<String> {
        let (received, current) = match (self.get(name), current.get(name)) {
            (None, None) => return None,
            (Some(received), Some(current)) if received.is_equivalent(current) => return None,
            (Some(received), Some(current)) => (
                format!("'{}'", received.to_erlang()),
                format!("'{}'", current.to_erlang()),
            ),
            (received, current) => (typed(received), typed(current)),
        };
        Some(format!("received {received} but current is {current}"))
    }
}

fn typed(value: Option<&Value>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| {
            format!(
                "the value '{}' of type '{}'",
                value.to_erlang(),
                value.type_name()
            )
        },
    )
}
