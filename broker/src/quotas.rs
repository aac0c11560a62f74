//! The limits that administrators set: connections and queues of a vhost, connections and channels
//! of a user. They have RabbitMQ's names. Depends on nothing.
//!
//! A limit holds for what is opened or declared later: nothing that is there ends when it is
//! lowered. A negative number limits nothing.

use std::collections::BTreeMap;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Open connections, of a vhost or a user.
    Connections,
    /// Queues of a vhost.
    Queues,
    /// Open channels of a user.
    Channels,
}

/// What has limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaScope {
    /// A vhost.
    Vhost,
    /// A user.
    User,
}

impl QuotaKind {
    /// The name in the API, in definitions and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "max-connections",
            Self::Queues => "max-queues",
            Self::Channels => "max-channels",
        }
    }
}

impl QuotaScope {
    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vhost => "vhost",
            Self::User => "user",
        }
    }

    /// The scope of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Vhost, Self::User]
            .into_iter()
            .find(|scope| scope.name() == name)
    }

    /// The limit of this name that such a thing can have.
    pub fn kind(self, name: &str) -> Option<QuotaKind> {
        let kinds = match self {
            Self::Vhost => [QuotaKind::Connections, QuotaKind::Queues],
            Self::User => [QuotaKind::Channels, QuotaKind::Connections],
        };
        kinds.into_iter().find(|kind| kind.name() == name)
    }
}

/// The limits of one vhost or user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota(BTreeMap<QuotaKind, i64>);

impl Quota {
    /// Sets a limit, in place of the one before.
    pub fn set(&mut self, kind: QuotaKind, limit: i64) {
        self.0.insert(kind, limit);
    }

    /// Removes a limit.
    pub fn remove(&mut self, kind: QuotaKind) {
        self.0.remove(&kind);
    }

    /// Takes over the limits that `other` has.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    /// Iterates over all limits as they were set, the negative ones too.
    pub fn iter(&self) -> impl Iterator<Item = (QuotaKind, i64)> {
        self.0.iter().map(|(kind, limit)| (*kind, *limit))
    }

    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest allowed number, `None` for any.
    pub fn limit(&self, kind: QuotaKind) -> Option<usize> {
        let limit = *self.0.get(&kind)?;
        // What does not fit is no limit for anything that can be counted.
        (limit >= 0).then(|| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

/// The limits of all vhosts and users.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    by_name: BTreeMap<(QuotaScope, String), Quota>,
}

impl Quotas {
    /// Returns the limits of a vhost or user.
    pub(crate) fn get(&self, scope: QuotaScope, name: &str) -> Option<&Quota> {
        self.by_name.get(&(scope, name.to_owned()))
    }

    /// Sets all limits of a vhost or user.
    pub(crate) fn put(&mut self, scope: QuotaScope, name: &str, quota: Quota) {
        let place = (scope, name.to_owned());
        if quota.is_empty() {
            self.by_name.remove(&place);
        } else {
            self.by_name.insert(place, quota);
        }
    }

    /// Iterates over the vhosts or users that have limits, sorted by name.
    pub(crate) fn iter(&self, of: QuotaScope) -> impl Iterator<Item = (&str, &Quota)> {
        let all = self
            .by_name
            .iter()
            .filter(move |((scope, _), _)| *scope == of);
        all.map(|((_, name), quota)| (name.as_str(), quota))
    }

    /// The largest allowed number for a vhost or user, `None` for any.
    pub(crate) fn limit(&self, scope: QuotaScope, name: &str, kind: QuotaKind) -> Option<usize> {
        self.get(scope, name)?.limit(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::{Quota, QuotaKind, QuotaScope, Quotas};

    #[test]
    fn a_negative_limit_is_kept_and_limits_nothing() {
        let mut quota = Quota::default();
        quota.set(QuotaKind::Queues, -1);
        assert_eq!(quota.limit(QuotaKind::Queues), None);
        assert_eq!(quota.iter().collect::<Vec<_>>(), [(QuotaKind::Queues, -1)]);
        quota.set(QuotaKind::Queues, 0);
        assert_eq!(quota.limit(QuotaKind::Queues), Some(0));
    }

    #[test]
    fn who_has_no_limit_left_is_not_listed_and_a_user_is_no_vhost_of_its_name() {
        let (mut quotas, mut quota) = (Quotas::default(), Quota::default());
        quota.set(QuotaKind::Connections, 2);
        quotas.put(QuotaScope::User, "a", quota.clone());
        let limit = |quotas: &Quotas, scope| quotas.limit(scope, "a", QuotaKind::Connections);
        assert_eq!(limit(&quotas, QuotaScope::User), Some(2));
        assert_eq!(limit(&quotas, QuotaScope::Vhost), None);
        quota.remove(QuotaKind::Connections);
        quotas.put(QuotaScope::User, "a", quota);
        assert_eq!(quotas.iter(QuotaScope::User).count(), 0);
    }

    #[test]
    fn a_vhost_and_a_user_have_limits_of_their_own_kinds() {
        let kind = |scope: QuotaScope, name| scope.kind(name);
        assert_eq!(
            kind(QuotaScope::Vhost, "max-queues"),
            Some(QuotaKind::Queues)
        );
        assert_eq!(kind(QuotaScope::User, "max-queues"), None);
        assert_eq!(kind(QuotaScope::Vhost, "max-channels"), None);
        assert_eq!(
            kind(QuotaScope::User, "max-channels"),
            Some(QuotaKind::Channels)
        );
    }
}
