//! Properties of the codec that hold for any input, used by the fuzz targets and by property tests.
//!
//! Each function panics if the codec is wrong. Compiled for tests and fuzzing only.

use super::properties::Properties;
use super::table::Table;
use super::{frame, method};

/// A stream of frames under several limits: no frame exceeds the limit, every frame matches the
/// input, and a partial frame needs more bytes than there are.
pub fn frames(bytes: &[u8]) {
    for limit in [0, frame::MIN_LIMIT, 131_072] {
        let mut rest = bytes;
        loop {
            match frame::parse(rest, limit) {
                Ok(frame::ParsedFrame::Whole(found)) => {
                    assert!(limit == 0 || found.total() <= limit as usize);
                    assert_eq!(rest[found.total() - 1], frame::END);
                    assert_eq!(&rest[7..found.total() - 1], found.payload);
                    if found.kind == frame::METHOD {
                        method_payload(found.payload);
                    }
                    rest = &rest[found.total()..];
                }
                Ok(frame::ParsedFrame::Partial { needed }) => {
                    assert!(needed > rest.len());
                    break;
                }
                Err(_) => break,
            }
        }
    }
}

/// The payload of a method frame is decoded or refused, and its undecoded tables lie within it.
pub fn method_payload(bytes: &[u8]) {
    match method::decode(bytes) {
        Ok(decoded) => assert!(bytes.len() >= 4, "{decoded:?}"),
        Err(refused) => assert!(!format!("{refused:?}").is_empty()),
    }
}

/// A field table: measuring and reading agree. Encoding what was read gives the same length and,
/// when read again, the same table. (Bytes can differ in one way: any non-zero boolean is written
/// as 1.)
pub fn table(bytes: &[u8]) {
    let measured = Table::measure(bytes);
    let read = Table::split_from(bytes);
    assert_eq!(
        measured.is_ok(),
        read.is_ok(),
        "measuring and reading differ"
    );
    if let (Ok(length), Ok((found, rest))) = (measured, read) {
        assert_eq!(length + rest.len(), bytes.len());
        let again = found.to_bytes();
        assert_eq!(again.len(), length);
        assert_eq!(Table::decode(&again), Ok(found));
    }
}

/// The properties of a content header are the same after encoding and reading them again.
pub fn properties(bytes: &[u8]) {
    let Ok(found) = Properties::scan(bytes) else {
        return;
    };
    let mut again = Vec::new();
    found.encode(&mut again);
    assert_eq!(Properties::scan(&again), Ok(found));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Generates bytes that are often nearly valid.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let octet = || {
            prop_oneof![
                Just(0),
                Just(1),
                Just(0xCE),
                Just(b'F'),
                Just(b'S'),
                any::<u8>()
            ]
        };
        let whole = (1_u8..9, 0_u16..3, proptest::collection::vec(octet(), 0..80)).prop_map(
            |(kind, channel, payload)| {
                let mut frame = vec![kind];
                frame.extend_from_slice(&channel.to_be_bytes());
                frame.extend_from_slice(
                    &u32::try_from(payload.len())
                        .unwrap_or(u32::MAX)
                        .to_be_bytes(),
                );
                frame.extend_from_slice(&payload);
                frame.push(0xCE);
                frame
            },
        );
        prop_oneof![proptest::collection::vec(octet(), 0..200), whole]
    }

    fn method() -> impl Strategy<Value = Vec<u8>> {
        let class = prop_oneof![
            Just(10_u16),
            Just(20),
            Just(40),
            Just(50),
            Just(60),
            Just(85),
            Just(90)
        ];
        (class, 0_u16..130, nearly()).prop_map(|(class, method, rest)| {
            [&class.to_be_bytes()[..], &method.to_be_bytes(), &rest].concat()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in nearly()) {
            super::frames(&bytes);
        }

        #[test]
        fn any_bytes_are_a_method_or_refused(bytes in method()) {
            super::method_payload(&bytes);
        }

        #[test]
        fn any_bytes_are_a_table_or_refused(bytes in nearly()) {
            super::table(&bytes);
        }

        #[test]
        fn any_bytes_are_properties_or_refused(bytes in nearly()) {
            super::properties(&bytes);
        }
    }
}
