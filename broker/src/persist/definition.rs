//! Durable definitions (topology, users, limits) as keys and values in bytes.
//!
//! A key begins with a letter that says what it is of, then the names that make it unique, each
//! after its length in one octet; a binding's names would not fit, so its key holds their SHA-256.
//! A value begins with a version, then fields: short texts after one octet of length, long ones
//! after four, numbers big-endian, claims as 0 or 1, arguments as AMQP field tables. Whatever does
//! not read to its end is damaged. This file lists every field. Relies on field tables.

use sha2::{Digest, Sha256};

use crate::quotas::{Quota, QuotaScope};
use crate::wire::table::{Table, Value};

mod fields;
#[cfg(test)]
mod tests;

use fields::{DefinitionFields, DefinitionWriter};

/// The layout of every value written today.
const VERSION: u8 = 1;

/// A durable object other than a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A virtual host.
    Vhost(VhostDefinition),
    /// A virtual host that is being deleted. Other records of its name are what is left of it.
    DeletedVhost {
        /// Its name.
        name: String,
    },
    /// A durable exchange that a client declared.
    Exchange(ExchangeDefinition),
    /// A durable queue.
    Queue(QueueDefinition),
    /// A binding whose two ends are durable.
    Binding(BindingDefinition),
    /// A user.
    User(UserDefinition),
    /// The permissions of a user in a vhost.
    Permission(PermissionDefinition),
    /// A sign-in at the management page.
    SignIn(SignInDefinition),
    /// The limits of a vhost or a user.
    Quota(QuotaDefinition),
    /// A named counter, whose numbers must not be assigned twice.
    Counter {
        /// The name of the counter.
        name: String,
        /// The first value that was never assigned.
        next: u64,
    },
}

/// A virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostDefinition {
    /// At most 255 bytes, as all names here.
    pub name: String,
    /// The description.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeDefinition {
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: String,
    /// Whether it is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// As they were sent.
    pub arguments: Table,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDefinition {
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Its number in the store.
    pub id: u64,
    /// Whether it is deleted with its last consumer.
    pub auto_delete: bool,
    /// As they were sent.
    pub arguments: Table,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationKind {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A durable binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingDefinition {
    /// Its vhost.
    pub vhost: String,
    /// The exchange that it leads from.
    pub source: String,
    /// What it leads to.
    pub kind: DestinationKind,
    /// The name of that.
    pub destination: String,
    /// The routing key or pattern.
    pub key: Vec<u8>,
    /// As they were sent.
    pub arguments: Table,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDefinition {
    /// The name.
    pub name: String,
    /// Salt and SHA-256, or nothing for a user without a password.
    pub password: Vec<u8>,
    /// Keys for SCRAM, or nothing for a user who has none.
    pub scram: Vec<u8>,
    /// As they were set.
    pub tags: Vec<String>,
}

/// A sign-in at the management page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInDefinition {
    /// The SHA-256 of its cookie and its key, in base64url.
    pub id: String,
    /// The user.
    pub user: String,
    /// A digest of the user's password hash: another password ends the sign-in.
    pub credential: Vec<u8>,
    /// Milliseconds since 1970.
    pub ends_ms: u64,
    /// By which the page knows the broker's answers; empty in what older versions wrote.
    pub proof_key: String,
}

/// What a user may touch in a vhost, as regular expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionDefinition {
    /// Whose.
    pub user: String,
    /// Where.
    pub vhost: String,
    /// Declare and delete.
    pub configure: String,
    /// Publish, bind to.
    pub write: String,
    /// Consume, bind from.
    pub read: String,
}

/// The limits of a vhost or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaDefinition {
    /// Whether it is a vhost's or a user's.
    pub scope: QuotaScope,
    /// The name of the vhost or user.
    pub name: String,
    /// The limits; none where the definition is to be forgotten.
    pub quota: Quota,
}

/// A stored definition that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// An unknown kind of definition.
    #[error("a stored definition of unknown kind {0:#04x}")]
    UnknownKind(u8),
    /// Written by a newer cbroker.
    #[error("a stored definition of unknown version {0}")]
    UnknownVersion(u8),
    /// The fields are too short or too long, or a text is not UTF-8.
    #[error("a stored definition is damaged")]
    Damaged,
}

impl Definition {
    /// The key under which it is stored, at most 1 KiB; needs the names only.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Vhost(definition) => key(b'v', &[&definition.name]),
            Self::DeletedVhost { name } => key(b'd', &[name]),
            Self::Exchange(definition) => key(b'x', &[&definition.vhost, &definition.name]),
            Self::Queue(definition) => key(b'q', &[&definition.vhost, &definition.name]),
            Self::Binding(definition) => definition.key(),
            Self::User(definition) => key(b'u', &[&definition.name]),
            Self::Permission(definition) => key(b'p', &[&definition.user, &definition.vhost]),
            Self::SignIn(definition) => key(b's', &[&definition.id]),
            Self::Quota(definition) => key(b'l', &[definition.scope.name(), &definition.name]),
            Self::Counter { name, .. } => key(b'n', &[name]),
        }
    }

    /// The value under that key.
    pub fn value(&self) -> Vec<u8> {
        let mut out = DefinitionWriter::new(VERSION);
        match self {
            Self::Vhost(definition) => {
                out.short_string(&definition.name)
                    .long_bytes(definition.description.as_bytes())
                    .texts(&definition.tags);
            }
            Self::DeletedVhost { name } => {
                out.short_string(name);
            }
            Self::Exchange(definition) => {
                out.short_string(&definition.vhost)
                    .short_string(&definition.name)
                    .short_string(&definition.kind);
                out.claim(definition.auto_delete)
                    .claim(definition.internal)
                    .table(&definition.arguments);
            }
            Self::Queue(definition) => {
                out.short_string(&definition.vhost)
                    .short_string(&definition.name)
                    .number(definition.id);
                out.claim(definition.auto_delete)
                    .table(&definition.arguments);
            }
            Self::Binding(definition) => definition.write(&mut out),
            Self::User(definition) => {
                out.short_string(&definition.name)
                    .long_bytes(&definition.password)
                    .texts(&definition.tags);
                out.long_bytes(&definition.scram);
            }
            Self::Permission(definition) => {
                out.short_string(&definition.user)
                    .short_string(&definition.vhost);
                out.long_bytes(definition.configure.as_bytes())
                    .long_bytes(definition.write.as_bytes())
                    .long_bytes(definition.read.as_bytes());
            }
            Self::SignIn(definition) => {
                out.short_string(&definition.id)
                    .short_string(&definition.user);
                out.long_bytes(&definition.credential)
                    .number(definition.ends_ms);
                out.short_string(&definition.proof_key);
            }
            Self::Quota(definition) => definition.write(&mut out),
            Self::Counter { name, next } => {
                out.short_string(name).number(*next);
            }
        }
        out.finish()
    }

    /// Reads a definition back.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, DefinitionError> {
        let kind = *key.first().ok_or(DefinitionError::Damaged)?;
        if !b"vdxqbupsln".contains(&kind) {
            return Err(DefinitionError::UnknownKind(kind));
        }
        let mut fields = DefinitionFields::new(value);
        match fields.octet()? {
            VERSION => {}
            version => return Err(DefinitionError::UnknownVersion(version)),
        }
        let definition = Self::read(kind, &mut fields)?;
        fields.expect_end()?;
        // A value that stands under another's key would shadow it for good.
        if definition.key() == key {
            Ok(definition)
        } else {
            Err(DefinitionError::Damaged)
        }
    }

    fn read(kind: u8, fields: &mut DefinitionFields<'_>) -> Result<Self, DefinitionError> {
        Ok(match kind {
            b'v' => Self::Vhost(VhostDefinition {
                name: fields.short_string()?,
                description: fields.text()?,
                tags: fields.texts()?,
            }),
            b'd' => Self::DeletedVhost {
                name: fields.short_string()?,
            },
            b'x' => Self::Exchange(ExchangeDefinition {
                vhost: fields.short_string()?,
                name: fields.short_string()?,
                kind: fields.short_string()?,
                auto_delete: fields.claim()?,
                internal: fields.claim()?,
                arguments: fields.table()?,
            }),
            b'q' => Self::Queue(QueueDefinition {
                vhost: fields.short_string()?,
                name: fields.short_string()?,
                id: fields.number()?,
                auto_delete: fields.claim()?,
                arguments: fields.table()?,
            }),
            b'b' => Self::Binding(BindingDefinition::read(fields)?),
            b'u' => Self::User(UserDefinition {
                name: fields.short_string()?,
                password: fields.long_bytes()?,
                tags: fields.texts()?,
                scram: fields.long_bytes()?,
            }),
            b's' => Self::SignIn(SignInDefinition {
                id: fields.short_string()?,
                user: fields.short_string()?,
                credential: fields.long_bytes()?,
                ends_ms: fields.number()?,
                proof_key: fields.short_or_none()?,
            }),
            b'l' => Self::Quota(QuotaDefinition::read(fields)?),
            b'p' => Self::Permission(PermissionDefinition {
                user: fields.short_string()?,
                vhost: fields.short_string()?,
                configure: fields.text()?,
                write: fields.text()?,
                read: fields.text()?,
            }),
            _ => Self::Counter {
                name: fields.short_string()?,
                next: fields.number()?,
            },
        })
    }
}

/// Each name after its length, so that no two lists of names run together to the same key.
fn key(kind: u8, names: &[&str]) -> Vec<u8> {
    let mut out = DefinitionWriter::new(kind);
    for name in names {
        out.short_string(name);
    }
    out.finish()
}

impl BindingDefinition {
    fn key(&self) -> Vec<u8> {
        let mut names = DefinitionWriter::new(b'b');
        self.write(&mut names);
        let mut key = vec![b'b'];
        key.extend_from_slice(&Sha256::digest(names.finish()));
        key
    }

    fn write(&self, out: &mut DefinitionWriter) {
        out.short_string(&self.vhost)
            .short_string(&self.source)
            .claim(self.kind == DestinationKind::Exchange);
        out.short_string(&self.destination)
            .long_bytes(&self.key)
            .table(&self.arguments);
    }

    fn read(fields: &mut DefinitionFields<'_>) -> Result<Self, DefinitionError> {
        Ok(Self {
            vhost: fields.short_string()?,
            source: fields.short_string()?,
            kind: if fields.claim()? {
                DestinationKind::Exchange
            } else {
                DestinationKind::Queue
            },
            destination: fields.short_string()?,
            key: fields.long_bytes()?,
            arguments: fields.table()?,
        })
    }
}

impl QuotaDefinition {
    fn write(&self, out: &mut DefinitionWriter) {
        let mut limits = Table::new();
        for (kind, limit) in self.quota.iter() {
            limits.set(kind.name(), Value::Long(limit));
        }
        out.short_string(self.scope.name())
            .short_string(&self.name)
            .table(&limits);
    }

    fn read(fields: &mut DefinitionFields<'_>) -> Result<Self, DefinitionError> {
        let scope = QuotaScope::of_name(&fields.short_string()?).ok_or(DefinitionError::Damaged)?;
        let name = fields.short_string()?;
        let mut quota = Quota::default();
        for (limit, value) in fields.table()?.iter() {
            let kind = scope
                .kind(&limit.to_text())
                .ok_or(DefinitionError::Damaged)?;
            let Value::Long(value) = value else {
                return Err(DefinitionError::Damaged);
            };
            quota.set(kind, *value);
        }
        Ok(Self { scope, name, quota })
    }
}
