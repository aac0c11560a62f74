//! Every key and value: written and read back, and damage is seen.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use storage::key::{self, Key};
use storage::record::{self, Marks, Row, RowBuilder, Summary};
use storage::{QueueId, Sequence};

proptest! {
    #[test]
    fn keys_are_read_back_and_keep_their_order(queue: u64, low: u64, high: u64, part: u32, name in vec(any::<u8>(), 0..40), number: u16) {
        let (queue, low, high) = (QueueId(queue), Sequence(low.min(high)), Sequence(low.max(high)));
        prop_assert_eq!(Key::parse(&key::row(queue, low)), Some(Key::Row(queue, low)));
        prop_assert_eq!(Key::parse(&key::marks(queue, low)), Some(Key::Marks(queue, low)));
        prop_assert_eq!(Key::parse(&key::part(queue, low, part)), Some(Key::Part(queue, low, part)));
        prop_assert_eq!(Key::parse(&key::summary(queue)), Some(Key::Summary(queue)));
        prop_assert_eq!(Key::parse(&key::dropped(queue)), Some(Key::Dropped(queue)));
        prop_assert_eq!(Key::parse(&key::fact(&name, number)), Some(Key::Fact { name, part: number }));
        prop_assert_eq!(key::row(queue, low).cmp(&key::row(queue, high)), low.cmp(&high));
        prop_assert!(key::row(queue, high) < key::rows_end(queue));
        let (from, until) = key::parts_of(queue);
        prop_assert!(from < key::part(queue, low, part) && key::part(queue, high, part) < until);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..200), queue: u64, sequence: u64) {
        let (queue, sequence) = (QueueId(queue), Sequence(sequence));
        let _ = Key::parse(&bytes);
        let _ = Row::parse(queue, sequence, &bytes);
        let _ = Marks::parse(queue, sequence, &bytes);
        let _ = Summary::parse(queue, &bytes);
        let _ = record::parse_fact(b"fact", 0, &bytes);
        let _ = record::parse_format(&bytes);
        let _ = record::parse_serial(&bytes);
        let _ = record::parse_part(queue, sequence, 0, &bytes);
    }

    #[test]
    fn rows_give_every_message_back(queue: u64, messages in btree_map(any::<u64>(), vec(any::<u8>(), 0..2_000), 1..40)) {
        let queue = QueueId(queue);
        let mut builder = RowBuilder::new(queue);
        let mut rows: Vec<_> = messages.iter().filter_map(|(number, body)| builder.push(Sequence(*number), body)).collect();
        rows.extend(builder.take());
        let mut found = Vec::new();
        for (last, row) in &rows {
            prop_assert!(row.len() <= record::ROW_BYTES);
            let Ok(Row::Messages(entries)) = Row::parse(queue, *last, row) else { panic!("not a row") };
            for entry in entries {
                found.push((entry.sequence.0, entry.body(queue, row).unwrap().to_vec()));
                prop_assert!(entry.body(QueueId(queue.0 ^ 1), row).is_err(), "a row of another queue");
            }
        }
        prop_assert_eq!(found, messages.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_flipped_bit_in_a_row_is_never_a_message(numbers in vec(vec(any::<u8>(), 0..60), 1..12), bit: prop::sample::Index) {
        let queue = QueueId(1);
        let mut builder = RowBuilder::new(queue);
        for (number, body) in (0..).zip(&numbers) {
            assert!(builder.push(Sequence(number), body).is_none());
        }
        let (last, mut row) = builder.take().unwrap();
        let bit = bit.index(row.len() * 8);
        row[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Row::Messages(entries)) = Row::parse(queue, last, &row) {
            let sound = |entry: &record::Entry| entry.body(queue, &row).is_ok_and(|body| Some(body) == numbers.get(entry.sequence.0 as usize).map(Vec::as_slice));
            prop_assert!(entries.iter().all(|entry| sound(entry) || entry.body(queue, &row).is_err()));
        }
    }

    #[test]
    fn summaries_and_marks_are_read_back(queue: u64, numbers: [u64; 6], marked: u32, indexes in vec(0_usize..1_500, 0..40), last: u64) {
        let queue = QueueId(queue);
        let [floor, next, ready, bytes, delivered_below, swept] = numbers;
        let summary = Summary { floor, next, ready, bytes, delivered_below, swept, marked };
        prop_assert_eq!(Summary::parse(queue, &summary.encode(queue)), Ok(summary));
        prop_assert!(Summary::parse(QueueId(queue.0 ^ 1), &summary.encode(queue)).is_err());
        let mut marks = Marks::default();
        for index in &indexes {
            marks.set(*index);
        }
        let parsed = Marks::parse(queue, Sequence(last), &marks.encode(queue, Sequence(last))).unwrap();
        prop_assert!((0..1_500).all(|index| parsed.has(index) == indexes.contains(&index)));
    }

    #[test]
    fn facts_parts_and_serials_are_read_back(name in vec(any::<u8>(), 0..100), part: u16, parts: u16, bytes in vec(any::<u8>(), 0..300), serial: u64) {
        let row = record::fact_row(&name, part, parts, &bytes);
        prop_assert_eq!(record::parse_fact(&name, part, &row), Ok((parts, bytes.as_slice())));
        prop_assert!(record::parse_fact(&name, part ^ 1, &row).is_err());
        let row = record::part_row(QueueId(1), Sequence(serial), u32::from(part), &bytes);
        prop_assert_eq!(record::parse_part(QueueId(1), Sequence(serial), u32::from(part), &row), Ok(bytes.as_slice()));
        prop_assert!(record::parse_part(QueueId(1), Sequence(serial), u32::from(part) + 1, &row).is_err());
        prop_assert_eq!(record::parse_serial(&record::serial_row(serial)), Ok(serial));
        prop_assert_eq!(record::parse_format(&record::format_row()), Ok(record::FORMAT_VERSION));
    }
}
