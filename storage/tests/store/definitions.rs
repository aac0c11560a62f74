//! Definitions as a file that people could read, for stores in tests.

type Definition = (Vec<u8>, Vec<u8>);

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| {
        [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]
    });
    digits.map(char::from).collect()
}

/// One member a definition, in hexadecimal: enough for a test.
pub(crate) fn render(all: &[Definition]) -> Vec<u8> {
    let lines: Vec<String> = all
        .iter()
        .map(|(key, value)| format!("\"{}\":\"{}\"", hex(key), hex(value)))
        .collect();
    format!("{{\"all\":0,{}}}", lines.join(",")).into_bytes()
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let hex = hex.trim_matches('"');
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Definition>, storage::ParseFailure> {
    let wrong = || "no definitions";
    let text = std::str::from_utf8(bytes)?;
    let inside = text
        .strip_prefix("{\"all\":0,")
        .and_then(|text| text.strip_suffix('}'));
    let lines = inside.ok_or_else(wrong)?.split(',');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (key, value) = line.split_once(':').ok_or_else(wrong)?;
            Ok((
                unhex(key).ok_or_else(wrong)?,
                unhex(value).ok_or_else(wrong)?,
            ))
        })
        .collect()
}
