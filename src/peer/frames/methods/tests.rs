//! lapin's own parser reads every method that passes.

use amq_protocol::frame::parse_frame;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::peer::frames::attempts;
use crate::peer::frames::frames_for_tests::{long, method, name, nested};

/// The numbers of all methods that brokers send.
fn all() -> Vec<(u16, u16)> {
    let numbers = |class| (0..=255).map(move |number| (class, number));
    let all = (0..=255).flat_map(numbers);
    all.filter(|(class, number)| fields(*class, *number).is_some())
        .collect()
}

/// A table with a value of each type of which lapin's parser makes something, in so many others.
fn table(depth: usize) -> Vec<u8> {
    let zeros = |kind: u8, count: usize| [&[1, b'k', kind][..], &vec![0; count]].concat();
    let kinds = b"VtbBsUuIifDLldTSxFA";
    let counts = [0, 1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 8, 8, 8, 8, 4, 4, 4, 4];
    let each = kinds.iter().zip(counts);
    let inside: Vec<u8> = each.flat_map(|(kind, count)| zeros(*kind, count)).collect();
    long(&nested(depth, &inside))
}

/// Fields of the right form, with names and tables of any content.
fn well_formed(fields: &'static [Field]) -> impl Strategy<Value = Vec<u8>> {
    let bytes = |field: &Field| match field {
        Field::Fixed(length) => vec(any::<u8>(), *length).boxed(),
        Field::Name => vec(any::<u8>(), 0..=255)
            .prop_map(|bytes| name(&bytes))
            .boxed(),
        Field::Long => vec(any::<u8>(), 0..40)
            .prop_map(|bytes| long(&bytes))
            .boxed(),
        Field::Table => (0..30_usize).prop_map(table).boxed(),
    };
    let parts: Vec<_> = fields.iter().map(bytes).collect();
    parts.prop_map(|parts| parts.concat())
}

fn any_method() -> impl Strategy<Value = (u16, u16, Vec<u8>)> {
    proptest::sample::select(all()).prop_flat_map(|(class, number)| {
        let fields = well_formed(fields(class, number).unwrap_or_default());
        (Just(class), Just(number), fields)
    })
}

proptest! {
    #[test]
    fn lapin_reads_each_method_of_a_broker((class, number, fields) in any_method()) {
        let (mended, refused) = attempts::mended(&method(1, class, number, &fields));
        prop_assert_eq!(refused, None, "{}.{}", class, number);
        let read = parse_frame(&mended[..]).map(|(rest, _)| rest.len());
        prop_assert_eq!(read, Ok(0), "{}.{} {:?}", class, number, mended);
    }

    #[test]
    fn lapin_reads_what_passes_of_any_bytes(
        (class, number, mut fields) in any_method(), changed in any::<prop::sample::Index>(),
        byte: u8, cut: bool,
    ) {
        if let Some(at) = (!fields.is_empty()).then(|| changed.index(fields.len())) {
            fields[at] = byte;
            if cut {
                fields.truncate(at);
            }
        }
        let (mended, refused) = attempts::mended(&method(1, class, number, &fields));
        let read = parse_frame(&mended[..]).map(|(rest, _)| rest.len());
        prop_assert_eq!(refused.is_none(), read == Ok(0), "{}.{} {:?}", class, number, mended);
    }
}

#[test]
fn a_method_that_only_clients_send_is_none_of_a_broker() {
    // All that have a table but the greeting: start-ok, declare, bind and unbind of exchanges and
    // queues, consume.
    for client in [
        (10, 11),
        (40, 10),
        (40, 30),
        (40, 40),
        (50, 10),
        (50, 20),
        (50, 50),
        (60, 20),
    ] {
        assert!(!all().contains(&client), "{client:?}");
    }
}
