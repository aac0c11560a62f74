//! Tests each exchange type against a plain statement of its rule, by example and at random.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{BindResult, Declaration, Exchange, ExchangeType, PLACES, RoutingSteps, UnbindResult};
use crate::wire::table::{ShortString, Table, Value};

const KINDS: [ExchangeType; 4] = [
    ExchangeType::Direct,
    ExchangeType::Fanout,
    ExchangeType::Topic,
    ExchangeType::Headers,
];

fn declaration(kind: ExchangeType) -> Declaration {
    Declaration {
        kind,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    }
}

fn exchange(kind: ExchangeType) -> Exchange<u32> {
    Exchange::new("x", declaration(kind))
}

fn table(entries: &[(&str, Value)]) -> Table {
    entries
        .iter()
        .map(|(name, value)| (ShortString::new(name).unwrap(), value.clone()))
        .collect()
}

/// Returns the destinations of a message, sorted and without duplicates.
fn routed(exchange: &Exchange<u32>, key: &str, headers: &Table) -> Vec<u32> {
    let mut hits = Vec::new();
    let mut steps = RoutingSteps::default();
    exchange.route(&[key.as_bytes()], Some(headers), &mut steps, &mut |hit| {
        hits.push(*hit);
        true
    });
    hits.sort_unstable();
    hits.dedup();
    hits
}

fn by_key(exchange: &Exchange<u32>, key: &str) -> Vec<u32> {
    routed(exchange, key, &Table::new())
}

#[test]
fn direct_needs_the_same_key_and_fanout_needs_none() {
    let (mut direct, mut fanout) = (
        exchange(ExchangeType::Direct),
        exchange(ExchangeType::Fanout),
    );
    for exchange in [&mut direct, &mut fanout] {
        exchange.bind(&1, "a", Table::new()).unwrap();
        exchange.bind(&2, "b", Table::new()).unwrap();
    }
    assert_eq!(by_key(&direct, "a"), [1]);
    assert_eq!(by_key(&direct, "A"), [] as [u32; 0]);
    assert_eq!(by_key(&fanout, "whatever"), [1, 2]);
}

#[test]
fn a_binding_is_one_triple_and_unbinding_needs_all_three() {
    let mut direct = exchange(ExchangeType::Direct);
    let arguments = table(&[("m", Value::Int(1)), ("n", Value::Int(2))]);
    let turned = table(&[("n", Value::Int(2)), ("m", Value::Int(1))]);
    assert_eq!(direct.bind(&1, "k", Table::new()), Ok(BindResult::New));
    assert_eq!(
        direct.bind(&1, "k", Table::new()),
        Ok(BindResult::AlreadyThere)
    );
    assert_eq!(direct.bind(&1, "k", arguments), Ok(BindResult::New));
    assert_eq!(
        direct.bind(&1, "k", turned.clone()),
        Ok(BindResult::AlreadyThere),
        "the order does not count"
    );
    assert_eq!(direct.bindings().count(), 2);

    assert_eq!(
        direct.unbind(&1, "k", &table(&[("other", Value::Int(1))])),
        UnbindResult::NotThere
    );
    assert_eq!(direct.unbind(&1, "k", &Table::new()), UnbindResult::Removed);
    assert_eq!(
        by_key(&direct, "k"),
        [1],
        "the other triple still leads there"
    );
    assert_eq!(direct.unbind(&1, "k", &turned), UnbindResult::Removed);
    assert_eq!(by_key(&direct, "k"), [] as [u32; 0]);
    assert!(direct.is_unused());
}

#[test]
fn a_destination_goes_with_all_its_bindings() {
    for kind in KINDS {
        let mut exchange = exchange(kind);
        for key in ["a", "a.b", "#"] {
            exchange.bind(&1, key, Table::new()).unwrap();
        }
        exchange.bind(&2, "a", Table::new()).unwrap();
        assert_eq!(exchange.remove_destination(&1, usize::MAX).len(), 3);
        assert_eq!(by_key(&exchange, "a"), [2], "{kind}");
        assert_eq!(exchange.bindings_to(&1).count(), 0);
        exchange.remove_destination(&2, usize::MAX);
        assert!(exchange.is_unused());
    }
}

#[test]
fn topic_patterns_mean_what_they_should() {
    for (pattern, hits, misses) in [
        ("", &[""][..], &["a", "."][..]),
        ("#", &["", "a", "a.b.c", "."], &[]),
        ("*", &["a", "#", "*"], &["", "a.b"]),
        ("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a"]),
        ("a.#", &["a", "a.b", "a.b.c"], &["b", "", "b.a"]),
        ("#.a", &["a", "b.a", "a.b.a"], &["a.b"]),
        (
            "a.#.b",
            &["a.b", "a.x.b", "a.x.y.b", "a.b.b"],
            &["a", "b", "a.b.c"],
        ),
        ("#.a.#", &["a", "x.a", "a.x", "x.a.y"], &["x", ""]),
        ("*.#", &["a", "a.b"], &[""]),
        ("#.*", &["a", "a.b"], &[""]),
        ("#.#", &["", "a", "a.b"], &[]),
        ("a..b", &["a..b"], &["a.b"]),
    ] {
        let mut topic = exchange(ExchangeType::Topic);
        topic.bind(&1, pattern, Table::new()).unwrap();
        for key in hits {
            assert_eq!(by_key(&topic, key), [1], "{pattern} should match {key:?}");
        }
        for key in misses {
            assert_eq!(
                by_key(&topic, key),
                [] as [u32; 0],
                "{pattern} should not match {key:?}"
            );
        }
    }
}

/// The topic rule stated directly, with backtracking.
fn matches(pattern: &[&str], words: &[&str]) -> bool {
    match (pattern.split_first(), words.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((&"#", pattern_rest)), rest) => {
            matches(pattern_rest, words)
                || rest.is_some_and(|(_, words_rest)| matches(pattern, words_rest))
        }
        (Some((&word, pattern_rest)), Some((found, words_rest))) => {
            (word == "*" || word == *found) && matches(pattern_rest, words_rest)
        }
        (Some(_), None) => false,
    }
}

fn split(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

fn any_key(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(words), 0..7)
        .prop_map(|words| words.join("."))
}

proptest! {
    #[test]
    fn the_trie_agrees_with_the_plain_rule_while_bindings_come_and_go(
        patterns in proptest::collection::vec(any_key(&["a", "b", "*", "#", "#"]), 1..20),
        gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        keys in proptest::collection::vec(any_key(&["a", "b", ""]), 1..10),
    ) {
        let mut topic = exchange(ExchangeType::Topic);
        let mut held: Vec<Option<&String>> = patterns.iter().map(Some).collect();
        for (destination, pattern) in (0..).zip(&patterns) {
            topic.bind(&destination, pattern, Table::new()).unwrap();
        }
        for index in gone {
            let place = index.index(held.len());
            if let Some(pattern) = held[place].take() {
                topic.unbind(&u32::try_from(place).unwrap(), pattern, &Table::new());
            }
        }
        for key in keys {
            let expected: Vec<u32> = (0..)
                .zip(&held)
                .filter(|(_, pattern)| {
                    pattern.is_some_and(|pattern| matches(&split(pattern), &split(&key)))
                })
                .map(|(destination, _)| destination)
                .collect();
            let mut hits = Vec::new();
            topic.route(&[key.as_bytes()], None, &mut RoutingSteps::default(), &mut |hit| {
                hits.push(*hit);
                true
            });
            hits.sort_unstable();
            prop_assert_eq!(hits, expected, "of {:?} for {:?}", held, key);
        }
    }

    #[test]
    fn any_number_of_fanout_targets_come_and_go(
        steps in proptest::collection::vec((any::<bool>(), 0..80_u32), 0..400),
    ) {
        let mut fanout = exchange(ExchangeType::Fanout);
        let mut expected = BTreeSet::new();
        for (is_bind, destination) in steps {
            if is_bind {
                fanout.bind(&destination, "", Table::new()).unwrap();
                expected.insert(destination);
            } else {
                fanout.unbind(&destination, "", &Table::new());
                expected.remove(&destination);
            }
        }
        prop_assert_eq!(by_key(&fanout, ""), expected.into_iter().collect::<Vec<_>>());
    }
}

/// With backtracking, this would not end in any useful time.
#[test]
fn a_pattern_of_many_hashes_is_walked_once() {
    let mut topic = exchange(ExchangeType::Topic);
    topic
        .bind(&1, "#.a.".repeat(60) + "z", Table::new())
        .unwrap();
    topic
        .bind(&2, "#.a.".repeat(60) + "#", Table::new())
        .unwrap();
    let key = vec!["a"; 120].join(".");
    assert_eq!(by_key(&topic, &key), [2]);
}

fn headers_hit(arguments: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
    let mut exchange = exchange(ExchangeType::Headers);
    exchange.bind(&1, "", table(arguments)).unwrap();
    let hit = routed(&exchange, "", &table(headers)) == [1];
    exchange.unbind(&1, "", &table(arguments));
    assert_eq!(routed(&exchange, "", &table(headers)), [] as [u32; 0]);
    hit
}

#[test]
fn all_headers_or_any_of_them() {
    let how = |word| ("x-match", Value::text(word));
    let one = |number| ("a", Value::Int(number));
    let text = || ("b", Value::text("x"));
    assert!(headers_hit(
        &[how("all"), one(1), text()],
        &[text(), one(1), ("c", Value::Void)]
    ));
    assert!(!headers_hit(&[how("all"), one(1), text()], &[one(1)]));
    assert!(!headers_hit(&[one(1)], &[one(2)]), "all is the default");
    assert!(headers_hit(
        &[how("any"), one(1), text()],
        &[one(9), text()]
    ));
    assert!(!headers_hit(&[how("any"), one(1), text()], &[one(9)]));
    assert!(headers_hit(&[how("all")], &[]));
    assert!(!headers_hit(&[how("any")], &[one(1)]));
    assert!(
        headers_hit(&[("a", Value::Void)], &[one(5)]),
        "presence is enough"
    );
    assert!(!headers_hit(&[("a", Value::Void)], &[text()]));
    assert!(
        headers_hit(&[("a", Value::Long(1))], &[one(1)]),
        "the width does not count"
    );
    assert!(!headers_hit(&[one(1)], &[("a", Value::text("1"))]));
}

#[test]
fn names_that_begin_with_x_count_only_where_asked() {
    let how = |word| ("x-match", Value::text(word));
    let x = |word| ("x-k", Value::text(word));
    assert!(headers_hit(&[how("any-with-x"), x("v")], &[x("v")]));
    assert!(!headers_hit(&[how("any-with-x"), x("v")], &[x("w")]));
    assert!(!headers_hit(&[how("all-with-x"), x("v")], &[]));
    assert!(headers_hit(
        &[how("all"), x("ignored"), ("a", Value::Int(1))],
        &[("a", Value::Int(1))]
    ));
    assert!(!headers_hit(&[how("any"), x("v")], &[x("v")]));
}

#[test]
fn a_bad_match_is_refused_in_rabbitmqs_words() {
    let mut exchange = exchange(ExchangeType::Headers);
    let mut refused = |value| {
        exchange
            .bind(&1, "", table(&[("x-match", value)]))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(Value::text("some")),
        "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x"
    );
    assert_eq!(
        refused(Value::Int(5)),
        "Invalid x-match field type signedint (value 5); expected longstr"
    );
    assert_eq!(
        refused(Value::Void),
        "Invalid x-match field type void (value undefined); expected longstr"
    );
    assert!(exchange.is_unused());
}

#[test]
fn declaring_again_must_agree() {
    let held = declaration(ExchangeType::Direct);
    let refused =
        |received: Declaration| held.check_equivalent(&received).unwrap_err().text("x", "/");
    assert_eq!(held.check_equivalent(&held), Ok(()));
    let unlike = "inequivalent arg";
    let place = "for exchange 'x' in vhost '/': received";
    assert_eq!(
        refused(declaration(ExchangeType::Fanout)),
        format!("{unlike} 'type' {place} 'fanout' but current is 'direct'")
    );
    assert_eq!(
        refused(Declaration {
            durable: true,
            ..held.clone()
        }),
        format!("{unlike} 'durable' {place} 'true' but current is 'false'")
    );
    let arguments = table(&[("alternate-exchange", Value::text("b"))]);
    assert_eq!(
        refused(Declaration {
            arguments,
            ..held.clone()
        }),
        format!(
            "{unlike} 'alternate-exchange' {place} the value 'b' of type 'longstr' \
             but current is none"
        )
    );
    let odd = Declaration {
        arguments: table(&[("alternate-exchange", Value::Int(7))]),
        ..held.clone()
    };
    assert_eq!(
        odd.check().unwrap_err().text("x", "/"),
        "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"
    );
}

#[test]
fn ten_thousand_bindings_come_and_go() {
    for kind in KINDS {
        let mut exchange = exchange(kind);
        for destination in 0..10_000_u32 {
            let arguments = table(&[
                ("kind", Value::text("same")),
                ("id", Value::Long(destination.into())),
            ]);
            exchange
                .bind(&destination, format!("a.{destination}.*"), arguments)
                .unwrap();
        }
        let headers = table(&[("id", Value::Int(77)), ("kind", Value::text("same"))]);
        let expected = match kind {
            ExchangeType::Direct => Vec::new(),
            ExchangeType::Fanout => (0..10_000).collect(),
            ExchangeType::Topic | ExchangeType::Headers => vec![77],
        };
        assert_eq!(routed(&exchange, "a.77.z", &headers), expected, "{kind}");
        for destination in 0..10_000 {
            exchange.remove_destination(&destination, usize::MAX);
        }
        assert!(exchange.is_unused());
    }
}

#[test]
fn patterns_that_all_match_each_word_end_with_too_many_steps() {
    const WORDS: u32 = 12;
    let mut topic = exchange(ExchangeType::Topic);
    // Each word of the key may be the next one of nearly every pattern.
    for number in 0..1_u32 << WORDS {
        let words = (0..WORDS).map(|word| {
            if number & (1 << word) == 0 {
                "a"
            } else {
                "#.a"
            }
        });
        let pattern = words.collect::<Vec<_>>().join(".");
        topic.bind(&number, pattern, Table::new()).unwrap();
    }
    let key = ["a"; 127].join(".");
    let mut steps = RoutingSteps::default();
    topic.route(&[key.as_bytes()], None, &mut steps, &mut |_| true);
    assert!(steps.are_too_many());
    assert!(steps.taken() < RoutingSteps::MOST + 1000);
}

#[test]
fn bindings_of_one_destination_go_in_any_order() {
    for kind in KINDS {
        let mut exchange = exchange(kind);
        let number = |number: i64| table(&[("number", Value::Long(number))]);
        let mut left: BTreeSet<i64> = (0..1_000).collect();
        for &at in &left {
            exchange.bind(&1, "k", number(at)).unwrap();
        }
        for step in 0..900 {
            let gone = step * 7 % 1_000;
            assert!(left.remove(&gone));
            assert_eq!(
                exchange.unbind(&1, "k", &number(gone)),
                UnbindResult::Removed
            );
        }
        let known = exchange.bindings_to(&1).map(|binding| {
            let number = binding.arguments.get("number");
            number.and_then(Value::as_integer).unwrap()
        });
        assert_eq!(known.collect::<BTreeSet<_>>(), left, "{kind}");
        assert_eq!(
            exchange.remove_destination(&1, usize::MAX).len(),
            left.len()
        );
        assert!(exchange.is_unused());
    }
}

/// A client that bound and unbound very often, always leaving one, held memory that nobody counted.
#[test]
fn the_places_of_removed_bindings_stay_on_the_account_until_none_is_left() {
    const COUNT: usize = 1_000;
    for kind in KINDS {
        let mut exchange = exchange(kind);
        let key = |number: usize| format!("key.{number:04}");
        let one = exchange.binding_footprint(key(0).as_bytes(), &Table::new()) / PLACES;
        for _ in 0..2 {
            for number in 0..=COUNT {
                exchange.bind(&1, key(number), Table::new()).unwrap();
            }
            assert_eq!(exchange.room.bytes(), 0, "{kind}: all are used");
            for number in 1..=COUNT {
                exchange.unbind(&1, key(number), &Table::new());
                assert_eq!(exchange.room.bytes(), number * one, "{kind}");
            }
        }
        exchange.unbind(&1, key(0), &Table::new());
        assert_eq!(exchange.room.bytes(), 0, "{kind}: none is left");
        assert_eq!(by_key(&exchange, "key.0001"), [] as [u32; 0]);
    }
}
