//! Users, their tags, their passwords, and their permissions in each vhost.
//!
//! Passwords are stored as RabbitMQ stores them, as a salted SHA-256 ([`PasswordHash`]).
//! Permissions are regular expressions, searched for anywhere in a name, as in RabbitMQ. The empty
//! expression matches only the empty name. The default exchange is matched as `amq.default`.
//! `guest` can log in only from the same machine, and only if the configuration allows it. This
//! module is plain data: it locks, stores and logs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::memory::{ACCESS, KindCharge};

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

/// The user name that AMQP clients use by default.
pub const GUEST: &str = "guest";

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOrigin {
    /// The same machine: the loopback interface or the Unix socket.
    Loopback,
    /// Any other machine.
    Elsewhere,
}

/// Whether `guest` can log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestPolicy {
    /// Never.
    #[default]
    Refused,
    /// From this machine only.
    LoopbackOnly,
}

/// A user's tag. Tags give rights in the management API only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub String);

/// How much of the management API a user can see and do. Each rank includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// No tag: AMQP only.
    None,
    /// What AMQP lets the user do, and the user's own connections.
    Management,
    /// All connections, and the metrics of the node.
    Monitoring,
    /// Vhosts, users and permissions as well.
    Administrator,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The password. `None` disables password logins.
    pub password: Option<Credential>,
    /// The tags, in the order in which they were set.
    pub tags: Vec<Tag>,
    permissions: BTreeMap<String, Permissions>,
}

impl User {
    /// Returns the highest rank that a tag gives. `policymaker` counts as `management`, because
    /// there are no policies here.
    pub fn rank(&self) -> Rank {
        let of = |tag: &Tag| match tag.0.as_str() {
            "administrator" => Rank::Administrator,
            "monitoring" => Rank::Monitoring,
            "management" | "policymaker" => Rank::Management,
            _ => Rank::None,
        };
        self.tags.iter().map(of).max().unwrap_or(Rank::None)
    }

    /// Iterates over the vhosts that the user can enter, with the permissions there.
    pub fn permissions(&self) -> impl Iterator<Item = (&str, &Permissions)> {
        self.permissions
            .iter()
            .map(|(vhost, permissions)| (vhost.as_str(), permissions))
    }

    /// Returns the permissions in one vhost, or `None` if the user cannot enter it.
    pub fn permissions_in(&self, vhost: &str) -> Option<&Permissions> {
        self.permissions.get(vhost)
    }
}

/// A refused login. It does not say whether the name, the password or the origin was wrong, so that
/// an attacker learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid credentials")]
pub struct LoginRefused;

/// No user has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such user")]
pub struct NoSuchUser;

/// What a user takes beside its texts: its password and keys, its places in tables.
const USER_BYTES: usize = 1024;

/// Returns about how much memory a user without permissions uses, in bytes.
pub(crate) fn footprint(name: &str, tags: &[Tag]) -> usize {
    let tags = tags.iter().map(|tag| 64 + tag.0.len());
    USER_BYTES + 2 * name.len() + tags.sum::<usize>()
}

/// All users of a broker.
#[derive(Debug)]
pub struct Users {
    by_name: BTreeMap<Arc<str>, Arc<User>>,
    guest: GuestPolicy,
    /// The key from which SCRAM challenges for unknown names are derived.
    decoy: [u8; 32],
    /// For all of them.
    charge: KindCharge,
}

impl Default for Users {
    fn default() -> Self {
        Self::new(GuestPolicy::default())
    }
}

impl Users {
    /// Creates an empty set of users.
    pub fn new(guest: GuestPolicy) -> Self {
        let mut decoy = [0; 32];
        if getrandom::fill(&mut decoy).is_err() {
            // Without randomness, a client can find out which users exist, but nothing else.
            decoy = [0x5a; 32];
        }
        Self {
            by_name: BTreeMap::new(),
            guest,
            decoy,
            charge: ACCESS.charge(0),
        }
    }

    /// Checks a name and password. Takes as long for an unknown name as for a wrong password.
    pub fn authenticate(
        &self,
        name: &str,
        password: &[u8],
        origin: LoginOrigin,
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

    /// Whether a user of this name can log in from `origin`.
    fn is_welcome(&self, name: &str, origin: LoginOrigin) -> bool {
        name != GUEST
            || (self.guest == GuestPolicy::LoopbackOnly && origin == LoginOrigin::Loopback)
    }

    /// Whether the user can enter the vhost.
    pub fn may_enter(&self, name: &str, vhost: &str) -> bool {
        self.permissions(name, vhost).is_some()
    }

    /// Whether the user can do this to the queue or exchange `resource`. The default exchange has
    /// the empty name.
    pub fn may(&self, name: &str, vhost: &str, operation: Operation, resource: &str) -> bool {
        self.permissions(name, vhost)
            .is_some_and(|permissions| permissions.allow(operation, resource))
    }

    /// Returns the user's permissions in a vhost. A connection may cache them until [`Users`]
    /// changes.
    pub fn permissions(&self, name: &str, vhost: &str) -> Option<&Permissions> {
        self.by_name.get(name)?.permissions.get(vhost)
    }

    /// Returns one user.
    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// Returns all users as they are now, sorted by name. Long listings use it so that they do not
    /// hold the lock.
    pub(crate) fn snapshot(&self) -> Vec<(Arc<str>, Arc<User>)> {
        let all = self.by_name.iter();
        all.map(|(name, user)| (Arc::clone(name), Arc::clone(user)))
            .collect()
    }

    /// Adds a user, or replaces the password and tags of an existing one. Permissions stay.
    pub fn put(&mut self, name: &str, password: Option<Credential>, tags: Vec<Tag>) {
        let before = self.by_name.remove(name);
        let held = before
            .as_ref()
            .map_or(0, |user| footprint(name, &user.tags));
        self.recharge(held, footprint(name, &tags));
        let permissions = before.map(|user| Arc::unwrap_or_clone(user).permissions);
        let user = User {
            password,
            tags,
            permissions: permissions.unwrap_or_default(),
        };
        self.by_name.insert(name.into(), user.into());
    }

    /// Removes a user and all its permissions. Returns false if there was none.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(user) = self.by_name.remove(name) else {
            return false;
        };
        let permissions = user.permissions();
        let permissions = permissions.map(|(vhost, allowed)| allowed.footprint(vhost));
        let held = footprint(name, &user.tags) + permissions.sum::<usize>();
        self.recharge(held, 0);
        true
    }

    /// Something that held `before` bytes holds `after` now.
    fn recharge(&mut self, before: usize, after: usize) {
        let others = self.charge.bytes().saturating_sub(before);
        self.charge.set(others + after);
    }

    /// Sets a user's permissions in a vhost, which lets the user enter it.
    pub fn permit(
        &mut self,
        name: &str,
        vhost: &str,
        permissions: Permissions,
    ) -> Result<(), NoSuchUser> {
        let user = Arc::make_mut(self.by_name.get_mut(name).ok_or(NoSuchUser)?);
        let after = permissions.footprint(vhost);
        let before = user.permissions.insert(vhost.to_owned(), permissions);
        self.recharge(before.map_or(0, |before| before.footprint(vhost)), after);
        Ok(())
    }

    /// Removes a user's permissions in a vhost. Returns false if there were none.
    pub fn forbid(&mut self, name: &str, vhost: &str) -> bool {
        let user = self.by_name.get_mut(name);
        let gone = user.and_then(|user| Arc::make_mut(user).permissions.remove(vhost));
        let Some(before) = gone else {
            return false;
        };
        self.recharge(before.footprint(vhost), 0);
        true
    }

    /// Removes all permissions in a deleted vhost. Returns the names of the users who had some.
    pub fn forget_vhost(&mut self, vhost: &str) -> Vec<String> {
        let mut held = 0;
        let lost = |(name, user): (&Arc<str>, &mut Arc<User>)| {
            let allowed = user.permissions.get(vhost)?;
            held += allowed.footprint(vhost);
            Arc::make_mut(user).permissions.remove(vhost);
            Some(name.to_string())
        };
        let names = self.by_name.iter_mut().filter_map(lost).collect();
        self.recharge(held, 0);
        names
    }
}
