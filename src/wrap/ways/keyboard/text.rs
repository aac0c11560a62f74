//! Converts a text to the bytes that type it, as a bracketed paste if the program supports that.
//!
//! This is the last step before the terminal, so it trusts no input: no control character reaches
//! the program, except the line breaks of a batch within a paste.
//!
//! Relies on nothing.

const BEGIN: &[u8] = b"\x1b[200~";
const END: &[u8] = b"\x1b[201~";

/// How a text is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputMethod {
    /// As a bracketed paste.
    Pasted,
    /// Letter by letter.
    Typed,
}

/// Returns the bytes that type `text`.
pub(super) fn typed(text: &str, method: InputMethod) -> Vec<u8> {
    let is_pasted = method == InputMethod::Pasted;
    let safe = text.chars().filter_map(|c| match c {
        '\n' if is_pasted => Some('\n'),
        '\n' | '\t' | '\r' => Some(' '),
        c if c.is_control() => None,
        c => Some(c),
    });
    let mut bytes = Vec::with_capacity(text.len() + BEGIN.len() + END.len());
    if is_pasted {
        bytes.extend_from_slice(BEGIN);
    }
    let mut buffer = [0; 4];
    for c in safe {
        bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    }
    if is_pasted {
        bytes.extend_from_slice(END);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `any::<String>()` never holds a control character.
    fn any_characters() -> impl Strategy<Value = String> {
        let kinds = prop_oneof![any::<char>(), proptest::char::range('\0', '\u{a0}')];
        proptest::collection::vec(kinds, 0..80).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn no_text_presses_a_key(text in any_characters(), is_pasted in any::<bool>()) {
            let method = if is_pasted { InputMethod::Pasted } else { InputMethod::Typed };
            let bytes = typed(&text, method);
            let ends = if is_pasted { (BEGIN.len(), END.len()) } else { (0, 0) };
            let inner = &bytes[ends.0..bytes.len() - ends.1];
            let failed = |error: std::str::Utf8Error| TestCaseError::fail(error.to_string());
            let inner = std::str::from_utf8(inner).map_err(failed)?;
            prop_assert!(inner.chars().all(|c| !c.is_control() || (is_pasted && c == '\n')));
        }
    }
}
