//! Rule about names: a type's name stands for one thing in the whole repository, so that a search
//! finds one definition.

use std::collections::BTreeMap;

use crate::sources::Source;

/// Names that several files define, and why that is so. Remove a name when it is defined once.
const SHARED: &[(&str, &str)] = &[("InFlight", WAYS), ("Progress", WAYS), ("Work", WAYS)];
/// Each way in is a task of its own with the same private types.
const WAYS: &str = "one for each way into an agent, private to its file";

/// The names of types that several shipped files define and [`SHARED`] does not explain, and the
/// names in [`SHARED`] that are defined once, one complaint each.
pub(crate) fn shared(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_shipped()) {
        for name in source.code().filter_map(defined_type) {
            let places = places.entry(name).or_default();
            if places.last() != Some(&source.path.as_str()) {
                places.push(&source.path);
            }
        }
    }
    places.retain(|_, places| places.len() > 1);
    let is_explained = |name: &str| SHARED.iter().any(|(explained, _)| *explained == name);
    let unexplained = places
        .iter()
        .filter(|(name, _)| !is_explained(name))
        .map(|(name, places)| format!("{name} is defined in {}", places.join(" and ")));
    let outdated = SHARED
        .iter()
        .filter(|(name, _)| !places.contains_key(name))
        .map(|(name, _)| format!("{name} is defined once: remove it from the list"));
    unexplained.chain(outdated).collect()
}

/// The type that a line at the top level of a file defines.
fn defined_type(line: &str) -> Option<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = ["struct ", "enum ", "trait ", "type ", "union "]
        .iter()
        .find_map(|kind| line.strip_prefix(kind))?;
    let end = name.find(|c| !is_of_name(c)).unwrap_or(name.len());
    Some(&name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_name_that_two_files_define_is_found() {
        let sources = [
            source("src/a.rs", "pub(crate) struct Twice<'a>(&'a str);\n"),
            source("broker/src/b.rs", "    struct Inner;\npub enum Twice {\n"),
            source("storage/src/c.rs", "type Once = u8;\n"),
        ];
        let complaints = shared(&sources);
        let about_twice: Vec<_> = complaints
            .iter()
            .filter(|complaint| !complaint.ends_with("from the list"))
            .collect();
        assert_eq!(
            about_twice,
            ["Twice is defined in src/a.rs and broker/src/b.rs"]
        );
    }
}
