//! Tells two tables of arguments apart in RabbitMQ's words, as redeclaring needs it. Relies on the table alone.

use super::{Table, Value};

impl Value {
    /// The value as RabbitMQ prints it: text as it is, whole numbers in digits, the rest as Erlang terms.
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

    /// The same inside a term, where text is a quoted binary.
    fn quoted(&self) -> String {
        match self {
            Self::LongString(_) | Self::Binary(_) => format!("<<{:?}>>", self.to_erlang()),
            _ => self.to_erlang(),
        }
    }
}

impl Table {
    /// `received '1' but current is '2'` where the argument `name` differs from that of `current`, else `None`.
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
