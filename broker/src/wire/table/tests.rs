//! Field tables: every type round-trips, wrong lengths are refused, and nesting is bounded.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use proptest::prelude::*;

use super::{DEPTH_LIMIT, ShortString, Table, TableError, Value};

fn name(text: &str) -> ShortString {
    ShortString::new(text).unwrap()
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::Byte),
        any::<u8>().prop_map(Value::UnsignedByte),
        any::<i16>().prop_map(Value::Short),
        any::<u16>().prop_map(Value::UnsignedShort),
        any::<i32>().prop_map(Value::Int),
        any::<u32>().prop_map(Value::UnsignedInt),
        any::<i64>().prop_map(Value::Long),
        any::<i64>().prop_map(Value::SignedLong),
        any::<u32>().prop_map(Value::Float),
        any::<u64>().prop_map(Value::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, unscaled)| Value::Decimal { scale, unscaled }),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| Value::LongString(bytes.into())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Binary(bytes.into())),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            any_entries(inner).prop_map(Value::Table),
        ]
    })
}

fn any_entries(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Table> {
    let key = proptest::collection::vec(any::<u8>(), 0..20)
        .prop_map(|bytes| ShortString::new(bytes).unwrap());
    proptest::collection::vec((key, value), 0..6).prop_map(Table::from_iter)
}

proptest! {
    #[test]
    fn every_table_survives_the_way_there_and_back(table in any_entries(any_value())) {
        let bytes = table.to_bytes();
        prop_assert_eq!(Table::measure(&bytes), Ok(bytes.len()));
        prop_assert_eq!(Table::decode(&bytes), Ok(table));
    }

    #[test]
    fn no_bytes_make_it_panic_and_both_walks_agree(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let decoded = Table::split_from(&bytes).map(|(_, rest)| bytes.len() - rest.len());
        prop_assert_eq!(decoded, Table::measure(&bytes));
    }

    #[test]
    fn a_table_cut_anywhere_is_refused(
        table in any_entries(any_value()),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = table.to_bytes();
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert_eq!(Table::decode(cut), Err(TableError::Truncated));
    }

    #[test]
    fn one_flipped_byte_gives_a_table_or_an_error(
        table in any_entries(any_value()),
        at in any::<prop::sample::Index>(),
        octet: u8,
    ) {
        let mut bytes = table.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = octet;
        if let Ok(table) = Table::decode(&bytes) {
            prop_assert_eq!(Table::decode(&table.to_bytes()), Ok(table));
        }
    }
}

#[test]
fn order_and_duplicates_are_kept() {
    let table: Table = [
        (name("b"), Value::Int(1)),
        (name("a"), Value::Int(2)),
        (name("b"), Value::Int(3)),
    ]
    .into_iter()
    .collect();
    let again = Table::decode(&table.to_bytes()).unwrap();
    assert_eq!(
        again
            .iter()
            .map(|(key, _)| key.to_text().into_owned())
            .collect::<Vec<_>>(),
        ["b", "a", "b"]
    );
    assert_eq!(again.get("b"), Some(&Value::Int(1)), "the first one counts");
}

#[test]
fn set_replaces_in_place_and_remove_takes_all() {
    let mut table: Table = [
        (name("b"), Value::Int(1)),
        (name("a"), Value::Int(2)),
        (name("b"), Value::Int(3)),
    ]
    .into_iter()
    .collect();
    table.set("b", Value::Void);
    table.set("c", Value::Bool(true));
    assert_eq!(table.len(), 4);
    assert_eq!(table.remove("b"), Some(Value::Void));
    assert_eq!(table.get("b"), None);
    assert_eq!(table.len(), 2);
}

/// Encodes tables nested this many levels deep; the innermost is empty.
fn nested(levels: usize) -> Vec<u8> {
    let mut table = Table::new();
    for _ in 1..levels {
        table = [(name("n"), Value::Table(table))].into_iter().collect();
    }
    table.to_bytes()
}

#[test]
fn nesting_ends_at_the_limit() {
    assert!(Table::decode(&nested(DEPTH_LIMIT)).is_ok());
    assert_eq!(
        Table::decode(&nested(DEPTH_LIMIT + 1)),
        Err(TableError::TooDeep)
    );
    assert_eq!(
        Table::measure(&nested(DEPTH_LIMIT + 1)),
        Err(TableError::TooDeep)
    );
}

#[test]
fn four_thousand_tables_in_one_another_do_not_overflow_the_stack() {
    let mut bytes = Vec::new();
    for level in (0..4000_u32).rev() {
        let inside = bytes;
        bytes = (3 + u32::try_from(inside.len()).unwrap())
            .to_be_bytes()
            .to_vec();
        bytes.extend_from_slice(if level.is_multiple_of(2) {
            b"\x01aF"
        } else {
            b"\x01bF"
        });
        bytes.extend(inside);
    }
    assert_eq!(Table::decode(&bytes), Err(TableError::TooDeep));
}

#[test]
fn arrays_count_as_levels_too() {
    let mut value = Value::Void;
    for _ in 0..DEPTH_LIMIT {
        value = Value::Array(vec![value]);
    }
    let table: Table = [(name("n"), value)].into_iter().collect();
    assert_eq!(Table::decode(&table.to_bytes()), Err(TableError::TooDeep));
}

#[test]
fn an_unknown_letter_and_trailing_bytes_are_named() {
    assert_eq!(
        Table::decode(b"\0\0\0\x03\x01aq"),
        Err(TableError::UnknownType(b'q'))
    );
    assert_eq!(Table::decode(b"\0\0\0\0zz"), Err(TableError::Trailing(2)));
    assert_eq!(
        Table::decode(b"\xff\xff\xff\xff\x01aV"),
        Err(TableError::Truncated)
    );
}

#[test]
fn whole_numbers_of_any_width_are_equivalent() {
    assert!(Value::Byte(7).is_equivalent(&Value::SignedLong(7)));
    assert!(Value::Float(1.5_f32.to_bits()).is_equivalent(&Value::Double(1.5_f64.to_bits())));
    assert!(!Value::Int(1).is_equivalent(&Value::Double(1.0_f64.to_bits())));
    assert!(!Value::text("1").is_equivalent(&Value::Int(1)));
    assert!(!Value::text("a").is_equivalent(&Value::Binary(b"a"[..].into())));
}
