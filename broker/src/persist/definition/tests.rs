//! Every definition there and back, and every damage noticed.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use proptest::prelude::*;

use super::{
    BindingDefinition, Definition, DefinitionError, DestinationKind, ExchangeDefinition,
    PermissionDefinition, QueueDefinition, QuotaDefinition, SignInDefinition, UserDefinition,
    VhostDefinition,
};
use crate::quotas::{Quota, QuotaKind, QuotaScope};
use crate::wire::table::{Table, Value};

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c/.]{0,6}", "\\PC{0,20}"]
}

fn arguments() -> impl Strategy<Value = Table> {
    proptest::collection::vec((name(), any::<i32>()), 0..4).prop_map(|entries| {
        let mut table = Table::new();
        for (name, number) in entries {
            table.set(&name, Value::Int(number));
        }
        table
    })
}

fn octets(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

fn any_topology() -> impl Strategy<Value = Definition> {
    let exchange = (name(), name(), name(), any::<(bool, bool)>(), arguments());
    let queue = (name(), name(), any::<u64>(), any::<bool>(), arguments());
    let binding = (
        name(),
        name(),
        name(),
        any::<bool>(),
        octets(10),
        arguments(),
    );
    prop_oneof![
        exchange.prop_map(|(vhost, name, kind, (auto_delete, internal), arguments)| {
            Definition::Exchange(ExchangeDefinition {
                vhost,
                name,
                kind,
                auto_delete,
                internal,
                arguments,
            })
        }),
        queue.prop_map(|(vhost, name, id, auto_delete, arguments)| {
            Definition::Queue(QueueDefinition {
                vhost,
                name,
                id,
                auto_delete,
                arguments,
            })
        }),
        binding.prop_map(|(vhost, source, destination, is_queue, key, arguments)| {
            let kind = if is_queue {
                DestinationKind::Queue
            } else {
                DestinationKind::Exchange
            };
            Definition::Binding(BindingDefinition {
                vhost,
                source,
                kind,
                destination,
                key,
                arguments,
            })
        }),
    ]
}

fn any_quota() -> impl Strategy<Value = QuotaDefinition> {
    let scope = prop_oneof![Just(QuotaScope::Vhost), Just(QuotaScope::User)];
    (scope, name(), any::<(i64, bool)>()).prop_map(|(scope, name, (limit, is_single))| {
        let mut quota = Quota::default();
        quota.set(QuotaKind::Connections, limit);
        if !is_single {
            let other = match scope {
                QuotaScope::Vhost => QuotaKind::Queues,
                QuotaScope::User => QuotaKind::Channels,
            };
            quota.set(other, limit.wrapping_add(1));
        }
        QuotaDefinition { scope, name, quota }
    })
}

fn any_definition() -> impl Strategy<Value = Definition> {
    let tags = || proptest::collection::vec(name(), 0..3);
    let vhost = (name(), name(), tags());
    let permission = (name(), name(), name(), name(), name());
    prop_oneof![
        3 => any_topology(),
        1 => vhost.prop_map(|(name, description, tags)| {
            Definition::Vhost(VhostDefinition { name, description, tags })
        }),
        1 => name().prop_map(|name| Definition::DeletedVhost { name }),
        1 => (name(), octets(40), octets(90), tags())
            .prop_map(|(name, password, scram, tags)| {
                Definition::User(UserDefinition { name, password, scram, tags })
            }),
        1 => (name(), name(), octets(32), any::<u64>(), name()).prop_map(
            |(id, user, credential, ends_ms, proof_key)| {
                Definition::SignIn(SignInDefinition { id, user, credential, ends_ms, proof_key })
            }
        ),
        1 => permission.prop_map(|(user, vhost, configure, write, read)| {
            Definition::Permission(PermissionDefinition { user, vhost, configure, write, read })
        }),
        1 => (name(), any::<u64>()).prop_map(|(name, next)| Definition::Counter { name, next }),
        1 => any_quota().prop_map(Definition::Quota),
    ]
}

proptest! {
    #[test]
    fn every_fact_survives_the_way_there_and_back(definition in any_definition()) {
        prop_assert!(definition.key().len() <= 1024);
        prop_assert_eq!(Definition::decode(&definition.key(), &definition.value()), Ok(definition));
    }

    #[test]
    fn a_cut_value_is_damaged(definition in any_definition(), at in any::<prop::sample::Index>()) {
        let value = definition.value();
        let cut = &value[..at.index(value.len())];
        let decoded = Definition::decode(&definition.key(), cut);
        // Older versions wrote sessions without their last field.
        let is_old = matches!(&decoded, Ok(Definition::SignIn(one)) if one.proof_key.is_empty());
        prop_assert!(is_old || decoded == Err(DefinitionError::Damaged), "{:?}", decoded);
    }

    #[test]
    fn no_bytes_make_it_panic(key in octets(20), value in octets(80)) {
        let _ = Definition::decode(&key, &value);
    }
}

#[test]
fn names_never_run_together_to_the_same_key() {
    let permission = |user: &str, vhost: &str| {
        let (user, vhost) = (user.to_owned(), vhost.to_owned());
        let (configure, write, read) = (String::new(), String::new(), String::new());
        Definition::Permission(PermissionDefinition {
            user,
            vhost,
            configure,
            write,
            read,
        })
        .key()
    };
    assert_ne!(permission("ab", "c"), permission("a", "bc"));
    assert_ne!(permission("", "a"), permission("a", ""));
}

#[test]
fn a_value_from_the_future_or_under_anothers_key_is_told_apart() {
    let definition = Definition::Counter {
        name: "queue".into(),
        next: 7,
    };
    let mut newer = definition.value();
    newer[0] = 2;
    assert_eq!(
        Definition::decode(&definition.key(), &newer),
        Err(DefinitionError::UnknownVersion(2))
    );
    assert_eq!(
        Definition::decode(b"?", &definition.value()),
        Err(DefinitionError::UnknownKind(b'?'))
    );
    let other = Definition::Counter {
        name: "other".into(),
        next: 7,
    };
    assert_eq!(
        Definition::decode(&other.key(), &definition.value()),
        Err(DefinitionError::Damaged)
    );
}
