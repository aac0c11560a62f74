//! Topology and users as the bytes of facts.
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

use fields::{RecordFields, RecordWriter};

/// The layout of every value written today.
const VERSION: u8 = 1;

/// Something durable that is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A virtual host.
    Vhost(VhostFact),
    /// A durable exchange that a client declared.
    Exchange(ExchangeFact),
    /// A durable queue.
    Queue(QueueFact),
    /// A binding whose two ends are durable.
    Binding(BindingFact),
    /// A user.
    User(UserFact),
    /// What a user may touch in a vhost.
    Permission(PermissionFact),
    /// Somebody who is signed in at the management page.
    Session(SessionFact),
    /// The limits of a vhost or a user.
    Quota(QuotaFact),
    /// A number by name: what was counted must not be given out twice.
    Counter {
        /// Which.
        name: String,
        /// The first value that was never given out.
        next: u64,
    },
}

/// A virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostFact {
    /// At most 255 bytes, as all names here.
    pub name: String,
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeFact {
    /// Where it lives.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: String,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Takes no publishes from clients.
    pub internal: bool,
    /// As they were sent.
    pub arguments: Table,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueFact {
    /// Where it lives.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Its number in the store.
    pub id: u64,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// As they were sent.
    pub arguments: Table,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A durable binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingFact {
    /// Where it lives.
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
pub struct UserFact {
    /// The name.
    pub name: String,
    /// Salt and SHA-256, or nothing for a user without a password.
    pub password: Vec<u8>,
    /// Keys for SCRAM, or nothing for a user who has none.
    pub scram: Vec<u8>,
    /// As they were set.
    pub tags: Vec<String>,
}

/// Somebody who is signed in at the management page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFact {
    /// The SHA-256 of the cookie's secret, in base64url.
    pub id: String,
    /// Who.
    pub user: String,
    /// A digest of the user's password hash: another password ends the session.
    pub credential: Vec<u8>,
    /// Milliseconds since 1970.
    pub ends_ms: u64,
}

/// What a user may touch in a vhost, as regular expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionFact {
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
pub struct QuotaFact {
    /// Whether it is a vhost's or a user's.
    pub scope: QuotaScope,
    /// Of which.
    pub name: String,
    /// The limits; none where the fact is to be forgotten.
    pub quota: Quota,
}

/// A stored fact that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// A letter that names nothing.
    #[error("a stored fact of unknown kind {0:#04x}")]
    UnknownKind(u8),
    /// Written by a newer cbroker.
    #[error("a stored fact of unknown version {0}")]
    UnknownVersion(u8),
    /// Fields that end too early, too late, or are no text.
    #[error("a stored fact is damaged")]
    Damaged,
}

impl Definition {
    /// The key under which it is stored, at most 1 KiB; needs the names only.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Vhost(fact) => key(b'v', &[&fact.name]),
            Self::Exchange(fact) => key(b'x', &[&fact.vhost, &fact.name]),
            Self::Queue(fact) => key(b'q', &[&fact.vhost, &fact.name]),
            Self::Binding(fact) => fact.key(),
            Self::User(fact) => key(b'u', &[&fact.name]),
            Self::Permission(fact) => key(b'p', &[&fact.user, &fact.vhost]),
            Self::Session(fact) => key(b's', &[&fact.id]),
            Self::Quota(fact) => key(b'l', &[fact.scope.name(), &fact.name]),
            Self::Counter { name, .. } => key(b'n', &[name]),
        }
    }

    /// The value under that key.
    pub fn value(&self) -> Vec<u8> {
        let mut out = RecordWriter::new(VERSION);
        match self {
            Self::Vhost(fact) => {
                out.short(&fact.name)
                    .long(fact.description.as_bytes())
                    .texts(&fact.tags);
            }
            Self::Exchange(fact) => {
                out.short(&fact.vhost).short(&fact.name).short(&fact.kind);
                out.claim(fact.auto_delete)
                    .claim(fact.internal)
                    .table(&fact.arguments);
            }
            Self::Queue(fact) => {
                out.short(&fact.vhost).short(&fact.name).number(fact.id);
                out.claim(fact.auto_delete).table(&fact.arguments);
            }
            Self::Binding(fact) => fact.write(&mut out),
            Self::User(fact) => {
                out.short(&fact.name).long(&fact.password).texts(&fact.tags);
                out.long(&fact.scram);
            }
            Self::Permission(fact) => {
                out.short(&fact.user).short(&fact.vhost);
                out.long(fact.configure.as_bytes())
                    .long(fact.write.as_bytes())
                    .long(fact.read.as_bytes());
            }
            Self::Session(fact) => {
                out.short(&fact.id).short(&fact.user);
                out.long(&fact.credential).number(fact.ends_ms);
            }
            Self::Quota(fact) => fact.write(&mut out),
            Self::Counter { name, next } => {
                out.short(name).number(*next);
            }
        }
        out.finish()
    }

    /// Reads a fact back.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, FactError> {
        let kind = *key.first().ok_or(FactError::Damaged)?;
        if !b"vxqbupsln".contains(&kind) {
            return Err(FactError::UnknownKind(kind));
        }
        let mut fields = RecordFields::new(value);
        match fields.octet()? {
            VERSION => {}
            version => return Err(FactError::UnknownVersion(version)),
        }
        let fact = Self::read(kind, &mut fields)?;
        fields.end()?;
        // A value that stands under another's key would shadow it for good.
        if fact.key() == key {
            Ok(fact)
        } else {
            Err(FactError::Damaged)
        }
    }

    fn read(kind: u8, fields: &mut RecordFields<'_>) -> Result<Self, FactError> {
        Ok(match kind {
            b'v' => Self::Vhost(VhostFact {
                name: fields.short()?,
                description: fields.text()?,
                tags: fields.texts()?,
            }),
            b'x' => Self::Exchange(ExchangeFact {
                vhost: fields.short()?,
                name: fields.short()?,
                kind: fields.short()?,
                auto_delete: fields.claim()?,
                internal: fields.claim()?,
                arguments: fields.table()?,
            }),
            b'q' => Self::Queue(QueueFact {
                vhost: fields.short()?,
                name: fields.short()?,
                id: fields.number()?,
                auto_delete: fields.claim()?,
                arguments: fields.table()?,
            }),
            b'b' => Self::Binding(BindingFact::read(fields)?),
            b'u' => Self::User(UserFact {
                name: fields.short()?,
                password: fields.long()?,
                tags: fields.texts()?,
                scram: fields.long()?,
            }),
            b's' => Self::Session(SessionFact {
                id: fields.short()?,
                user: fields.short()?,
                credential: fields.long()?,
                ends_ms: fields.number()?,
            }),
            b'l' => Self::Quota(QuotaFact::read(fields)?),
            b'p' => Self::Permission(PermissionFact {
                user: fields.short()?,
                vhost: fields.short()?,
                configure: fields.text()?,
                write: fields.text()?,
                read: fields.text()?,
            }),
            _ => Self::Counter {
                name: fields.short()?,
                next: fields.number()?,
            },
        })
    }
}

/// Each name after its length, so that no two lists of names run together to the same key.
fn key(kind: u8, names: &[&str]) -> Vec<u8> {
    let mut out = RecordWriter::new(kind);
    for name in names {
        out.short(name);
    }
    out.finish()
}

impl BindingFact {
    fn key(&self) -> Vec<u8> {
        let mut names = RecordWriter::new(b'b');
        self.write(&mut names);
        let mut key = vec![b'b'];
        key.extend_from_slice(&Sha256::digest(names.finish()));
        key
    }

    fn write(&self, out: &mut RecordWriter) {
        out.short(&self.vhost)
            .short(&self.source)
            .claim(self.kind == DestinationKind::Exchange);
        out.short(&self.destination)
            .long(&self.key)
            .table(&self.arguments);
    }

    fn read(fields: &mut RecordFields<'_>) -> Result<Self, FactError> {
        Ok(Self {
            vhost: fields.short()?,
            source: fields.short()?,
            kind: if fields.claim()? {
                DestinationKind::Exchange
            } else {
                DestinationKind::Queue
            },
            destination: fields.short()?,
            key: fields.long()?,
            arguments: fields.table()?,
        })
    }
}

impl QuotaFact {
    fn write(&self, out: &mut RecordWriter) {
        let mut limits = Table::new();
        for (kind, limit) in self.quota.iter() {
            limits.set(kind.name(), Value::Long(limit));
        }
        out.short(self.scope.name())
            .short(&self.name)
            .table(&limits);
    }

    fn read(fields: &mut RecordFields<'_>) -> Result<Self, FactError> {
        let scope = QuotaScope::of_name(&fields.short()?).ok_or(FactError::Damaged)?;
        let name = fields.short()?;
        let mut quota = Quota::default();
        for (limit, value) in fields.table()?.iter() {
            let kind = scope.kind(&limit.to_text()).ok_or(FactError::Damaged)?;
            let Value::Long(value) = value else {
                return Err(FactError::Damaged);
            };
            quota.set(kind, *value);
        }
        Ok(Self { scope, name, quota })
    }
}
