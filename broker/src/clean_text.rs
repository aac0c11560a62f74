//! Makes untrusted text safe for a log line or a reply. Depends on nothing.

/// The maximum length of a cleaned text in characters.
const LONGEST: usize = 255;

/// Replaces most characters that could move the cursor, hide text or begin a new line by `?`, and
/// cuts the text to 255 characters.
///
/// ```text
/// "PLAIN\r\n\x1b[2J"  →  "PLAIN???[2J"
/// ```
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .take(LONGEST)
        .map(
            |character| {
                if is_plain(character) { character } else { '?' }
            },
        )
        .collect()
}

/// Whether the character is visible and is no control character, line separator or bidirectional
/// override.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn escapes_line_breaks_and_overrides_are_replaced_and_words_stay() {
        assert_eq!(clean("my vhost/ä 日本"), "my vhost/ä 日本");
        assert_eq!(clean("a\x1b[2J\r\nb\u{9b}c\x7f"), "a?[2J??b?c?");
        assert_eq!(clean("x\u{202e}y\u{2028}z\u{e0041}"), "x?y?z?");
        assert_eq!(clean(&"n".repeat(400)).len(), 255);
    }
}
