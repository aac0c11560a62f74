//! Formats bytes as Erlang terms, as RabbitMQ does in reply texts; client test suites compare them.
//! Depends on nothing.

use std::fmt::Write as _;

/// Returns `<<"abc">>` if every byte is printable, else `<<1,2,3>>`.
pub(crate) fn binary(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 + 6);
    let printable = !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| (0x20..0x7f).contains(b) || matches!(b, b'\n' | b'\r' | b'\t'));
    text.push_str("<<");
    if printable {
        text.push('"');
        text.push_str(
            &String::from_utf8_lossy(bytes)
                .replace('\\', "\\\\")
                .replace('"', "\\\""),
        );
        text.push('"');
    } else {
        for (at, byte) in bytes.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            let _ = write!(text, "{byte}");
        }
    }
    text.push_str(">>");
    text
}

#[cfg(test)]
mod tests {
    use super::binary;

    #[test]
    fn printable_bytes_are_quoted_and_others_listed() {
        assert_eq!(binary(b"abc"), "<<\"abc\">>");
        assert_eq!(binary(b""), "<<>>");
        assert_eq!(binary(&[0, 0, 32, 97]), "<<0,0,32,97>>");
    }
}
