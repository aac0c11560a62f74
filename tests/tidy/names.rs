//! Rules about names: a type's name stands for one thing in the whole repository, so that a search
//! finds one definition; and a function's name says what the function does.

use std::collections::BTreeMap;

use crate::sources::Source;

/// Names that several files define, and why that is so. Remove a name when it is defined once.
const SHARED: &[(&str, &str)] = &[("InFlight", WAYS), ("Progress", WAYS), ("Work", WAYS)];
/// Each way in is a task of its own with the same private types.
const WAYS: &str = "one for each way into an agent, private to its file";

/// Names of functions that tell nothing without their object (`look` at what?), or that stood for
/// different things in different modules.
const VAGUE: [&str; 9] = [
    "advance",
    "give",
    "give_back",
    "go_on",
    "look",
    "rest",
    "room",
    "tell",
    "told",
];
/// Where such a name is meant, and why.
const MEANT: [(&str, &str, &str); 3] = [
    (
        "advance",
        "broker/src/delivery/outbox/frames.rs",
        "the trait `bytes::Buf` names it",
    ),
    (
        "advance",
        "broker/src/broker_state/dead_lettering.rs",
        "routes the next steps of a cascade",
    ),
    (
        "give_back",
        "broker/src/delivery/cascade.rs",
        "ends what `take_next` of the same type began",
    ),
];

/// Shipped functions with a name in [`VAGUE`], or with one that begins with `go_on` or `tell`, that
/// are not in [`MEANT`], and the entries of [`MEANT`] whose file defines no such function, one
/// complaint each.
pub(crate) fn vague(sources: &[Source]) -> Vec<String> {
    let is_vague = |name: &str| {
        VAGUE.contains(&name) || name.starts_with("go_on_") || name.starts_with("tell_")
    };
    let mut defined = Vec::new();
    for source in sources.iter().filter(|source| source.is_shipped()) {
        let names = source.code_before_tests().filter_map(defined_function);
        let names = names.filter(|name| is_vague(name));
        defined.extend(names.map(|name| (name, source.path.as_str())));
    }
    let is_meant = |function| {
        let mut meant = MEANT.iter();
        meant.any(|(name, path, _)| (*name, *path) == function)
    };
    let unexplained = defined
        .iter()
        .filter(|function| !is_meant(**function))
        .map(|(name, path)| format!("`{name}` in {path} does not say what it does"));
    let outdated = MEANT
        .iter()
        .filter(|(name, path, _)| !defined.contains(&(*name, *path)))
        .map(|(name, path, _)| format!("`{name}` is not in {path}: remove it from the list"));
    unexplained.chain(outdated).collect()
}

/// The function that a line defines or declares.
fn defined_function(line: &str) -> Option<&str> {
    let (before, name) = line.trim_start().split_once("fn ")?;
    let mut before = before.split_whitespace();
    let is_qualifier = |word: &str| {
        ["const", "async", "unsafe"].contains(&word)
            || word.starts_with("pub")
            || word.ends_with(')')
    };
    before.all(is_qualifier).then(|| name_at(name))
}

/// The identifier at the beginning of a text.
fn name_at(text: &str) -> &str {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    &text[..end]
}

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
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = ["struct ", "enum ", "trait ", "type ", "union "]
        .iter()
        .find_map(|kind| line.strip_prefix(kind))?;
    Some(name_at(name))
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

    /// The complaints but those about the lists, of which these sources have nothing.
    fn without_outdated(mut complaints: Vec<String>) -> Vec<String> {
        complaints.retain(|complaint| !complaint.ends_with("from the list"));
        complaints
    }

    #[test]
    fn a_name_that_two_files_define_is_found() {
        let sources = [
            source("src/a.rs", "pub(crate) struct Twice<'a>(&'a str);\n"),
            source("broker/src/b.rs", "    struct Inner;\npub enum Twice {\n"),
            source("storage/src/c.rs", "type Once = u8;\n"),
        ];
        assert_eq!(
            without_outdated(shared(&sources)),
            ["Twice is defined in src/a.rs and broker/src/b.rs"]
        );
    }

    #[test]
    fn a_function_whose_name_tells_nothing_is_found() {
        let sources = [
            source(
                "src/a.rs",
                "    pub(in crate::wrap) async fn look(&self) {\n",
            ),
            source("src/b.rs", "fn look_up() {}\nlet look = 1; // fn look\n"),
            source(
                "storage/src/c.rs",
                "    fn tell_of_it();\n#[cfg(test)]\nfn room() {}\n",
            ),
            source("tests/d.rs", "fn look() {}\n"),
        ];
        assert_eq!(
            without_outdated(vague(&sources)),
            [
                "`look` in src/a.rs does not say what it does",
                "`tell_of_it` in storage/src/c.rs does not say what it does",
            ]
        );
    }

    #[test]
    fn a_vague_name_that_is_not_in_its_file_any_more_is_found() {
        let [(name, path, _), rest @ ..] = MEANT;
        let sources = rest.map(|(name, path, _)| source(path, &format!("fn {name}() {{}}\n")));
        assert_eq!(
            vague(&sources),
            [format!(
                "`{name}` is not in {path}: remove it from the list"
            )]
        );
    }
}
