//! Error types: none is a `String`.

use super::sources::Source;

/// The implementation of an interface whose errors are strings.
const FOREIGN: [&str; 1] = ["src/peer/scram.rs"];

/// Returns a complaint for each `Result<_, String>` outside of tests.
pub(crate) fn strings(sources: &[Source]) -> Vec<String> {
    let is_checked = |source: &&Source| {
        let is_test = source.path.split('/').any(|part| part.starts_with("tests"));
        !is_test && !FOREIGN.contains(&&*source.path)
    };
    let count = |source: &Source| {
        let code = source.code_before_tests().collect::<String>();
        let code: String = code.split_whitespace().collect();
        let results = code
            .match_indices("Result<")
            .map(|(at, word)| &code[at + word.len()..]);
        results.filter(|rest| is_string(error_type(rest))).count()
    };
    sources
        .iter()
        .filter(is_checked)
        .filter(|source| count(source) > 0)
        .map(|source| format!("{} has a Result<_, String>", source.path))
        .collect()
}

fn is_string(error: &str) -> bool {
    matches!(
        error.trim_end_matches(','),
        "String" | "std::string::String"
    )
}

/// Returns the second argument of a `Result<`, which `rest` follows; empty without one.
fn error_type(rest: &str) -> &str {
    let (mut depth, mut begin) = (0_i32, rest.len());
    for (at, letter) in rest.char_indices() {
        match letter {
            '<' | '(' | '[' => depth += 1,
            '>' if rest[..at].ends_with('-') => {}
            '>' | ')' | ']' if depth == 0 => return rest.get(begin..at).unwrap_or_default(),
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 && begin == rest.len() => begin = at + 1,
            _ => {}
        }
    }
    ""
}
