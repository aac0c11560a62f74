//! What a document of definitions would take as a tree, found out before it is one.
//!
//! A line, such as a queue, and each text of a document are bounded: a line is copied a few times
//! while it is checked, and a refusal may quote what is in it.

use crate::management::refusal::ApiError;

/// The longest line of a section and the longest text, as they are written. What a frame or a
/// request can declare is shorter, also where each character is escaped.
const LINE_BYTES: usize = 1024 * 1024;
/// How deep a line lies: in the list of a section, in the document.
const LINE_DEPTH: usize = 3;
/// What a value costs in the tree, with its key and the room for more.
const VALUE_BYTES: usize = 64;
/// What an object costs beside its values: a map has room for eleven, however few it holds.
const OBJECT_BYTES: usize = 700;
/// The largest tree.
const TREE_BYTES: usize = 256 * 1024 * 1024;

/// How far a document was read.
#[derive(Default)]
struct WeightScan {
    /// The weight of what was read.
    bytes: usize,
    depth: usize,
    /// Where the line began, inside of one.
    line: usize,
    /// Where the text began, inside of one.
    text: Option<usize>,
    is_escaped: bool,
}

/// Returns the weight of a document in bytes. Refuses one that is too large, or has a part that is.
pub(super) fn weigh(document: &[u8]) -> Result<usize, ApiError> {
    let mut scan = WeightScan::default();
    for (at, byte) in document.iter().enumerate() {
        scan.pass(at, *byte)?;
    }
    // The last text or line may have no end.
    scan.check(document.len())?;
    if scan.bytes > TREE_BYTES {
        return Err(ApiError::bad("the document is too large"));
    }
    Ok(scan.bytes)
}

impl WeightScan {
    fn pass(&mut self, at: usize, byte: u8) -> Result<(), ApiError> {
        self.bytes += 1;
        if self.text.is_some() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.check(at)?;
                    self.text = None;
                }
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b'"' => self.text = Some(at),
            b'{' | b'[' => {
                self.bytes += VALUE_BYTES;
                if byte == b'{' {
                    self.bytes += OBJECT_BYTES;
                }
                self.depth += 1;
                if self.depth == LINE_DEPTH {
                    self.line = at;
                }
            }
            b'}' | b']' => {
                self.check(at)?;
                self.depth = self.depth.saturating_sub(1);
            }
            b',' | b':' => self.bytes += VALUE_BYTES,
            _ => {}
        }
        Ok(())
    }

    /// Refuses the text and the line that this place is in, where they are too long.
    fn check(&self, at: usize) -> Result<(), ApiError> {
        if self.text.is_some_and(|begin| at - begin > LINE_BYTES) {
            return Err(ApiError::bad("a text of a document has at most 1 MiB"));
        }
        if self.depth >= LINE_DEPTH && at - self.line > LINE_BYTES {
            return Err(ApiError::bad("a line of a document has at most 1 MiB"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES, weigh};

    #[test]
    fn a_line_and_a_text_have_a_limit_and_a_document_of_many_has_none() {
        let text = |bytes: usize| format!("\"{}\"", "a".repeat(bytes));
        let line = |bytes: usize| format!(r#"{{"name":{}}}"#, text(bytes));
        let queues = |lines: &str| format!(r#"{{"queues":[{lines}]}}"#);
        let fits = line(LINE_BYTES - 20);
        let many = [fits.as_str(); 5].join(",");
        let escaped = r#"{"name":"\"[{","b":"\\"}"#;
        for right in [queues(&fits), queues(&many), queues(escaped)] {
            assert!(weigh(right.as_bytes()).is_ok(), "{right:.80}");
        }
        let nested = |inner: &str| queues(&format!(r#"{{"arguments":{{"x":[{inner}]}}}}"#));
        let halves = [text(LINE_BYTES / 2), text(LINE_BYTES / 2)].join(",");
        for wrong in [
            queues(&line(LINE_BYTES)),
            queues(&text(LINE_BYTES + 1)),
            nested(&halves),
            format!("{{{}:0}}", text(LINE_BYTES + 1)),
            format!("{{\"a\":\"{}", "\\\"".repeat(LINE_BYTES)),
            format!("{{\"a\":[{{\"b\":{}", "0".repeat(LINE_BYTES)),
        ] {
            assert!(weigh(wrong.as_bytes()).is_err(), "{wrong:.80}");
        }
    }
}
