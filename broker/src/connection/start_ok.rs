//! What a client says of itself in `connection.start-ok`: its login and its properties.

use crate::clean_text::clean;
use crate::fault::{Fault, ReplyCode};
use crate::wire::table::{Table, Value};

/// The client capabilities that make a difference here.
const CAPABILITIES: [&str; 3] = [
    "authentication_failure_close",
    "connection.blocked",
    "consumer_cancel_notify",
];

/// The content of `connection.start-ok`.
pub(super) struct StartOk {
    pub(super) credentials: SaslCredentials,
    pub(super) mechanism: &'static str,
    /// An encoded field table.
    pub(super) properties: Box<[u8]>,
    capabilities: Vec<&'static str>,
}

/// What the client sent to log in.
pub(super) enum SaslCredentials {
    Password {
        user: String,
        password: Vec<u8>,
    },
    /// The first message of an exchange.
    Scram(Vec<u8>),
    /// Not a valid response of the mechanism.
    Unreadable,
}

impl StartOk {
    /// Reads the arguments of the method.
    pub(super) fn parse(
        properties: &[u8],
        mechanism: &str,
        response: &[u8],
    ) -> Result<Self, Fault> {
        let claimed = Table::decode(properties)
            .map_err(|error| Fault::connection(ReplyCode::SyntaxError, error.to_string()))?;
        let has_claimed = |name: &&str| match claimed.get("capabilities") {
            Some(Value::Table(table)) => table.get(name) == Some(&Value::Bool(true)),
            _ => false,
        };
        let capabilities = CAPABILITIES.into_iter().filter(has_claimed).collect();
        let password = |user: &[u8], password: &[u8]| SaslCredentials::Password {
            user: String::from_utf8_lossy(user).into_owned(),
            password: password.to_vec(),
        };
        let (mechanism, credentials) = match mechanism {
            "PLAIN" => {
                let mut parts = response.splitn(3, |byte| *byte == 0).skip(1);
                let credentials = match (parts.next(), parts.next()) {
                    (Some(user), Some(secret)) => password(user, secret),
                    _ => SaslCredentials::Unreadable,
                };
                ("PLAIN", credentials)
            }
            "AMQPLAIN" => {
                let mut table = u32::try_from(response.len())
                    .unwrap_or(u32::MAX)
                    .to_be_bytes()
                    .to_vec();
                table.extend_from_slice(response);
                let table = Table::decode(&table).map_err(|error| {
                    Fault::connection(ReplyCode::SyntaxError, error.to_string())
                })?;
                let field = |name| {
                    table
                        .get(name)
                        .and_then(Value::as_bytes)
                        .unwrap_or_default()
                };
                ("AMQPLAIN", password(field("LOGIN"), field("PASSWORD")))
            }
            "SCRAM-SHA-256" => ("SCRAM-SHA-256", SaslCredentials::Scram(response.to_vec())),
            other => {
                return Err(Fault::connection(
                    ReplyCode::CommandInvalid,
                    format!("unknown authentication mechanism '{}'", clean(other)),
                ));
            }
        };
        Ok(Self {
            credentials,
            mechanism,
            properties: properties.into(),
            capabilities,
        })
    }

    /// Whether the client says that it has a capability, one of [`CAPABILITIES`].
    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }
}
