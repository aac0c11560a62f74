//! Who may enter, and what they may touch: users, their tags, and their permissions in each vhost.
//!
//! Passwords are kept as RabbitMQ keeps them, a salted SHA-256 ([`PasswordHash`]). Permissions are regular expressions
//! matched anywhere in a name, as RabbitMQ's; the empty one matches nothing but the empty name, and the default exchange
//! is called `amq.default`. `guest` enters only from the machine itself and only where the broker was told to allow it.
//! Plain data: nothing here locks, stores or logs.

use std::collections::BTreeMap;

mod password;
mod permissions;
mod scram;
#[cfg(test)]
mod tests;

pub use password::{Credential, PasswordHash};
pub(crate) use permissions::bounded_regex;
pub use permissions::{BadPattern, Operation, Permissions};
pub(crate) use scram::ScramExchange;
pub use scram::ScramKeys;

/// The name that every AMQP client tries first.
pub const GUEST: &str = "guest";

/// Where a client sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On this machine: the loopback interface or the Unix socket.
    Loopback,
    /// Anywhere else.
    Elsewhere,
}

/// Whether `guest` may enter at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestPolicy {
    /// Never.
    #[default]
    Refused,
    /// From this machine.
    LoopbackOnly,
}

/// A user's tag. They matter to the management API alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub String);

/// How much of the management API a user may see and do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// No tag: AMQP only.
    None,
    /// What AMQP would let the user do, and own connections.
    Management,
    /// Everybody's connections, and the figures of the node.
    Monitoring,
    /// Vhosts, users and permissions too.
    Administrator,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `None`: nobody can log in with a password.
    pub password: Option<Credential>,
    /// In the order in which they were set.
    pub tags: Vec<Tag>,
    permissions: BTreeMap<String, Permissions>,
}

impl User {
    /// The highest rank that a tag gives. `policymaker` is taken as `management`: there are no policies here.
    pub fn rank(&self) -> Rank {
        let of = |tag: &Tag| match tag.0.as_str() {
            "administrator" => Rank::Administrator,
            "monitoring" => Rank::Monitoring,
            "management" | "policymaker" => Rank::Management,
            _ => Rank::None,
        };
        self.tags.iter().map(of).max().unwrap_or(Rank::None)
    }

    /// Vhosts that the user may enter, with the permissions there.
    pub fn permissions(&self) -> impl Iterator<Item = (&str, &Permissions)> {
        self.permissions
            .iter()
            .map(|(vhost, permissions)| (vhost.as_str(), permissions))
    }

    /// The permissions in one vhost; `None` where the user may not enter it.
    pub fn permissions_in(&self, vhost: &str) -> Option<&Permissions> {
        self.permissions.get(vhost)
    }
}

/// Nobody is told whether the name, the password or the place was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid credentials")]
pub struct LoginRefused;

/// There is no user of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such user")]
pub struct NoSuchUser;

/// All users of a broker.
#[derive(Clone, Debug, Default)]
pub struct Users {
    by_name: BTreeMap<String, User>,
    guest: GuestPolicy,
    /// Makes SCRAM challenges for names that nobody has.
    decoy: [u8; 32],
}

impl Users {
    /// Nobody yet.
    pub fn new(guest: GuestPolicy) -> Self {
        let mut decoy = [0; 32];
        if getrandom::fill(&mut decoy).is_err() {
            // Then strangers can tell who exists, and nothing else.
            decoy = [0x5a; 32];
        }
        Self {
            by_name: BTreeMap::new(),
            guest,
            decoy,
        }
    }

    /// Whether this name and password may enter from there. Takes as long for an unknown name as for a wrong password.
    pub fn authenticate(
        &self,
        name: &str,
        password: &[u8],
        origin: Origin,
    ) -> Result<(), LoginRefused> {
        let user = self.by_name.get(name);
        let known = user.and_then(|user| user.password.as_ref());
        let hash = known.map_or(&PasswordHash::NOBODY, |known| &known.hash);
        let fits = hash.is_of(password) && known.is_some();
        if fits && self.is_welcome(name, origin) {
            Ok(())
        } else {
            Err(LoginRefused)
        }
    }

    /// Whether the name may enter from there at all.
    fn is_welcome(&self, name: &str, origin: Origin) -> bool {
        name != GUEST || (self.guest == GuestPolicy::LoopbackOnly && origin == Origin::Loopback)
    }

    /// Whether the user may enter the vhost.
    pub fn may_enter(&self, name: &str, vhost: &str) -> bool {
        self.permissions(name, vhost).is_some()
    }

    /// Whether the user may do this to the queue or exchange of that name; the default exchange's is empty.
    pub fn may(&self, name: &str, vhost: &str, operation: Operation, resource: &str) -> bool {
        self.permissions(name, vhost)
            .is_some_and(|permissions| permissions.allow(operation, resource))
    }

    /// The user's permissions in a vhost; a connection may keep them as long as [`Users`] is not changed.
    pub fn permissions(&self, name: &str, vhost: &str) -> Option<&Permissions> {
        self.by_name.get(name)?.permissions.get(vhost)
    }

    /// One user.
    pub fn get(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// Everybody, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.by_name
            .iter()
            .map(|(name, user)| (name.as_str(), user))
    }

    /// Adds a user, or changes password and tags of one that exists; permissions stay.
    pub fn put(&mut self, name: &str, password: Option<Credential>, tags: Vec<Tag>) {
        let permissions = self
            .by_name
            .remove(name)
            .map(|user| user.permissions)
            .unwrap_or_default();
        self.by_name.insert(
            name.to_owned(),
            User {
                password,
                tags,
                permissions,
            },
        );
    }

    /// Forgets a user and every permission; false when there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// Lets a user enter a vhost.
    pub fn permit(
        &mut self,
        name: &str,
        vhost: &str,
        permissions: Permissions,
    ) -> Result<(), NoSuchUser> {
        let user = self.by_name.get_mut(name).ok_or(NoSuchUser)?;
        user.permissions.insert(vhost.to_owned(), permissions);
        Ok(())
    }

    /// Shuts a user out of a vhost; false when it was not allowed in.
    pub fn forbid(&mut self, name: &str, vhost: &str) -> bool {
        self.by_name
            .get_mut(name)
            .is_some_and(|user| user.permissions.remove(vhost).is_some())
    }

    /// A vhost is gone, and with it everybody's permissions there; gives the names of those who had some.
    pub fn forget_vhost(&mut self, vhost: &str) -> Vec<String> {
        let lost = |(name, user): (&String, &mut User)| {
            user.permissions.remove(vhost).map(|_| name.clone())
        };
        self.by_name.iter_mut().filter_map(lost).collect()
    }
}
