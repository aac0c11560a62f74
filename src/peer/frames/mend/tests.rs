//! Each kind of frame that lapin cannot read, and those that must stay as they are.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::*;
use crate::peer::frames::attempts;
use crate::peer::frames::frames_for_tests::{frame, long, method, name, nested};

/// A header frame of a body of seven bytes.
fn content(properties: &[u8]) -> Vec<u8> {
    let head = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    frame(CONTENT, &[&head, properties].concat())
}

fn bare() -> Vec<u8> {
    content(&[0, 0])
}

/// Properties with this table alone.
fn headers(entries: &[u8]) -> Vec<u8> {
    [&[0b0010_0000, 0], &long(entries)[..]].concat()
}

/// The mended bytes of frames of which none is refused.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let (mended, refused) = attempts::mended(bytes);
    assert_eq!(refused, None);
    mended
}

/// Why the last of these frames is refused, of which the first is not.
fn refusal(last: &[u8]) -> Option<UnreadableFrame> {
    let first = frame(3, b"a body\xff");
    let (mended, refused) = attempts::mended(&[&first[..], last].concat());
    assert_eq!(mended, first);
    refused
}

/// What comes in place of a frame, between two others that stay.
#[track_caller]
fn becomes(before: &[u8], after: &[u8]) {
    let body = frame(3, b"a body\xff");
    let around = |middle: &[u8]| [&frame(8, b"")[..], middle, &body[..]].concat();
    assert_eq!(mended(&around(before)), around(after));
}

/// A table with a value of each type.
fn every_type() -> Vec<u8> {
    [
        &name("a\u{e4}".as_bytes())[..],
        b"t\x01",
        &name(b"b"),
        b"b\x01",
        &name(b"B"),
        b"B\x01",
        &name(b"s"),
        b"s\x01\x02",
        &name(b"u"),
        b"u\x01\x02",
        &name(b"I"),
        b"I\x01\x02\x03\x04",
        &name(b"i"),
        b"i\x01\x02\x03\x04",
        &name(b"l"),
        b"l\x01\x02\x03\x04\x05\x06\x07\x08",
        &name(b"D"),
        b"D\x01\x02\x03\x04\x05",
        &name(b"V"),
        b"V",
        &name(b"S"),
        b"S",
        &long(b"no UTF-8: \xff"),
        &name(b"A"),
        b"A",
        &long(b"t\x01V"),
        &name(b"F"),
        b"F",
        &long(&[&name(b"in")[..], b"t\x01"].concat()),
    ]
    .concat()
}

#[test]
fn what_can_be_read_stays_as_it_is() {
    let all = [
        &[0b1111_1111, 0b1111_1100][..],
        &name(b"text/plain"),
        &name(b""),
        &long(&every_type()),
        &[2, 9],
        &name(b"correlation"),
        &name(b"reply"),
        &name(b"1000"),
        &name(b"id"),
        &[0; 8],
        &name(b"type"),
        &name(b"user"),
        &name(b"app"),
        &name(b"cluster"),
    ]
    .concat();
    for kept in [
        content(&all),
        bare(),
        frame(METHOD, b"\0\x14\0\x0b\0\0\0\0"),
        frame(CONTENT, b"short"),
        frame(3, &vec![0xCE; 100_000]),
    ] {
        becomes(&kept, &kept);
    }
    let other_version = b"AMQP\0\0\x09\x01 and whatever follows \x02\0\0\0\0\0\x01";
    assert_eq!(mended(other_version), other_version);
}

#[test]
fn properties_that_cannot_be_read_are_left_out_and_the_size_of_the_body_stays() {
    let array = (0..5000).fold(Vec::new(), |inside, _| [b"A", &long(&inside)[..]].concat());
    for properties in [
        // The type of the content, and a user.
        [&[0b1000_0000, 0][..], &name(b"\xff")].concat(),
        [&[0, 0b0001_0000][..], &name(b"us\xc3r")].concat(),
        // The name of a header, also further in.
        headers(&[&name(b"\xff")[..], b"V"].concat()),
        headers(
            &[
                &name(b"a")[..],
                b"F",
                &long(&[&name(b"\xff")[..], b"V"].concat()),
            ]
            .concat(),
        ),
        // An unknown type, wrong lengths, bytes behind the end, unknown flags.
        headers(&[&name(b"a")[..], b"?"].concat()),
        headers(&[&name(b"a")[..], b"S\xff\xff\xff\xff"].concat()),
        vec![0b0010_0000, 0, 0xff, 0xff, 0xff, 0xff],
        vec![0b1000_0000, 0, 9],
        vec![0, 0, 0],
        vec![0, 1, 0, 0],
        vec![0, 2],
        headers(&nested(5000, b"")),
        headers(&[&name(b"a")[..], &array].concat()),
    ] {
        becomes(&content(&properties), &bare());
    }
}

#[test]
fn a_header_frame_that_is_larger_than_agreed_loses_its_properties() {
    let note = |length| headers(&[&name(b"note")[..], b"S", &long(&vec![b'x'; length])].concat());
    let most = PAYLOAD_BYTES - content(&note(0)).len() + HEAD + 1;
    let whole = content(&note(most));
    assert_eq!(whole.len(), FRAME_BYTES as usize);
    becomes(&whole, &whole);
    for length in [most + 1, 1 << 20] {
        becomes(&content(&note(length)), &bare());
    }
}

#[test]
fn names_in_a_delivery_that_are_no_utf8_become_names_of_nobody() {
    let deliver = |exchange: &[u8], key: &[u8]| {
        let head = [&name(b"tag")[..], &[7; 9]].concat();
        method(1, 60, 60, &[head, name(exchange), name(key)].concat())
    };
    let got = |exchange: &[u8], key: &[u8]| {
        let fields = [&[7; 9][..], &name(exchange), &name(key), &[0xff; 4]];
        method(1, 60, 71, &fields.concat())
    };
    let returned = |text: &[u8], key: &[u8]| {
        let fields = [&[0xff; 2][..], &name(text), &name(b""), &name(key)];
        method(1, 60, 50, &fields.concat())
    };
    becomes(&deliver(b"a\xff", b"peer\xc3"), &deliver(b"a?", b"peer?"));
    becomes(
        &deliver(b"", "p\u{e4}er".as_bytes()),
        &deliver(b"", "p\u{e4}er".as_bytes()),
    );
    becomes(&got(b"\xffb", b"k"), &got(b"?b", b"k"));
    becomes(&returned(b"NO\xff", b"\xfe"), &returned(b"NO?", b"?"));
}

#[test]
fn texts_and_names_that_are_cut_inside_a_character_are_readable_in_every_method() {
    let (cut, whole) = (name(b"unknown value \xc3"), name(b"unknown value ?"));
    let cases: [(u16, u16, &[u8], &[u8]); 9] = [
        // connection.close and channel.close: a code, the text, a class and a method.
        (10, 50, &[1, 150], &[0, 50, 0, 10]),
        (20, 40, &[1, 150], &[0, 50, 0, 10]),
        // connection.open-ok and connection.blocked.
        (10, 41, &[], &[]),
        (10, 60, &[], &[]),
        // queue.declare-ok.
        (50, 11, &[], &[0; 8]),
        // basic.consume-ok, basic.cancel, basic.cancel-ok and basic.get-empty.
        (60, 21, &[], &[]),
        (60, 30, &[], &[1]),
        (60, 31, &[], &[]),
        (60, 72, &[], &[]),
    ];
    for (class, number, before, after) in cases {
        let with = |text: &[u8]| method(1, class, number, &[before, text, after].concat());
        becomes(&with(&cut), &with(&whole));
    }
}

#[test]
fn what_nothing_can_stand_in_for_ends_the_connection() {
    let start = |table: &[u8]| {
        let texts = [long(b"PLAIN"), long(b"en_US")].concat();
        method(1, 10, 10, &[&[0, 9], &long(table)[..], &texts].concat())
    };
    let readable = start(&nested(31, b""));
    becomes(&readable, &readable);
    becomes(&start(&every_type()), &start(&every_type()));
    let malformed = |class, number| Some(UnreadableFrame::Malformed { class, number });
    for refused in [
        start(&nested(32, b"")),
        start(&nested(5000, b"")),
        start(&[&name(b"\xff")[..], b"V"].concat()),
        start(&[&name(b"a")[..], b"?"].concat()),
        method(1, 10, 10, &[0, 9]),
    ] {
        assert_eq!(refusal(&refused), malformed(10, 10));
    }
    assert_eq!(refusal(&method(1, 60, 60, &[200, 1])), malformed(60, 60));
    assert_eq!(refusal(&method(1, 20, 41, &[0])), malformed(20, 41));
    assert_eq!(
        refusal(&frame(METHOD, b"\0\x0a\0")),
        Some(UnreadableFrame::NoMethod)
    );
    // queue.declare, basic.consume, and what does not exist.
    for (class, number) in [(50, 10), (60, 20), (60, 61), (70, 10)] {
        let other = Some(UnreadableFrame::NotOfBrokers { class, number });
        assert_eq!(refusal(&method(1, class, number, &[])), other);
    }
    for kind in [METHOD, BODY, HEARTBEAT] {
        let large = frame(kind, &vec![0; PAYLOAD_BYTES + 1]);
        let other = UnreadableFrame::TooLarge(FRAME_BYTES as usize + 1);
        assert_eq!(refusal(&large), Some(other));
    }
}
