//! Rule about imports: no more than two files may need each other in a circle, so that a file can
//! be read, and changed, with few others in mind.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::Source;

const ROOTS: [&str; 3] = ["src/", "broker/src/", "storage/src/"];

/// A module's path: `["delivery", "outbox"]`.
type Module<'a> = Vec<&'a str>;

/// The modules that a file needs.
type Needs<'a> = BTreeMap<Module<'a>, BTreeSet<Module<'a>>>;

/// Circles of more than two files that no entry of `allowed` covers, one complaint each, and
/// entries of `allowed` without such a circle. An entry is a list of folders or files below one of
/// [`ROOTS`]; a circle inside it is fine.
pub(crate) fn circles(sources: &[Source], allowed: &[(&str, &[&str], &str)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for root in ROOTS {
        let mut used = BTreeSet::new();
        let needs = needs(sources, root);
        for circle in circles_of(&needs) {
            let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            let covers = |folders: &&[&str]| circle.iter().all(|file| folders.contains(&file[0]));
            let entry = allowed
                .iter()
                .position(|(of, folders, _)| *of == root && covers(folders));
            match entry {
                Some(entry) => drop(used.insert(entry)),
                None => complaints.push(format!("{root}: {} need each other", names.join(", "))),
            }
        }
        let unused = allowed
            .iter()
            .enumerate()
            .filter(|(at, (of, ..))| *of == root && !used.contains(at));
        complaints.extend(unused.map(|(_, (_, folders, _))| {
            format!("{root}: no circle in {folders:?}: remove it from the list")
        }));
    }
    complaints
}

/// Which files of a crate need which, by the paths in their code.
fn needs<'a>(sources: &'a [Source], root: &str) -> Needs<'a> {
    let of_crate: Vec<(Module, &Source)> = sources
        .iter()
        .filter(|source| source.is_shipped())
        .filter_map(|source| Some((module(source.path.strip_prefix(root)?), source)))
        .collect();
    let known: BTreeSet<Module> = of_crate.iter().map(|(module, _)| module.clone()).collect();
    let needs = |(module, source): &(Module<'a>, &'a Source)| {
        let paths = source.code_before_tests().flat_map(paths);
        let mut found: BTreeSet<Module> = paths
            .filter_map(|path| resolve(module, &path, &known))
            .collect();
        // A folder is read as one: its files may use what its own `mod` file defines.
        found.retain(|needed| !module.starts_with(needed));
        (module.clone(), found)
    };
    // The root of a crate declares its modules, which need it only for what it exports again.
    of_crate
        .iter()
        .filter(|(module, _)| !module.is_empty())
        .map(needs)
        .collect()
}

/// `queue/mod.rs` is `queue`; `lib.rs` and `main.rs` are the root.
fn module(path: &str) -> Module<'_> {
    let mut parts: Module = path.trim_end_matches(".rs").split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts
}

/// The paths with `::` in a line; those in braces are each a path of their own.
fn paths(line: &str) -> Vec<Vec<&str>> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let mut found = Vec::new();
    let (mut stem, mut rest) = (Vec::new(), line);
    while let Some(start) = rest.find(is_of_path) {
        if rest[..start].contains('}') {
            stem.clear();
        }
        let word = &rest[start..];
        let end = word.find(|c| !is_of_path(c)).unwrap_or(word.len());
        let parts = word[..end].split("::").filter(|part| !part.is_empty());
        let path: Vec<&str> = stem.iter().copied().chain(parts).collect();
        if word[end..].starts_with('{') && word[..end].ends_with("::") {
            stem = path;
        } else if path.len() > 1 {
            found.push(path);
        }
        rest = &word[end..];
    }
    found
}

/// The module that a path in the code of `module` leads to.
fn resolve<'a>(
    module: &Module<'a>,
    path: &[&'a str],
    known: &BTreeSet<Module<'a>>,
) -> Option<Module<'a>> {
    let supers = path.iter().take_while(|part| **part == "super").count();
    let mut target = match path[0] {
        "crate" => path[1..].to_vec(),
        "self" => [module.as_slice(), &path[1..]].concat(),
        "super" => {
            let parent = module.get(..module.len().checked_sub(supers)?)?;
            [parent, &path[supers..]].concat()
        }
        // A child of the module; anything else is a crate or a type.
        _ => {
            let child = [module.as_slice(), &path[..1]].concat();
            known.contains(&child).then_some(())?;
            [module.as_slice(), path].concat()
        }
    };
    while !target.is_empty() && !known.contains(&target) {
        target.pop();
    }
    (!target.is_empty()).then_some(target)
}

/// Groups of more than two files in which each one reaches each other one.
fn circles_of<'a>(needs: &Needs<'a>) -> Vec<Vec<Module<'a>>> {
    let reach: Needs = needs
        .keys()
        .map(|from| (from.clone(), reached(from, needs)))
        .collect();
    let mut circles = BTreeSet::new();
    for (from, reached) in &reach {
        let both = reached
            .iter()
            .filter(|to| reach.get(*to).is_some_and(|back| back.contains(from)));
        circles.insert(both.cloned().collect::<Vec<_>>());
    }
    circles
        .into_iter()
        .filter(|circle| circle.len() > 2)
        .collect()
}

fn reached<'a>(from: &Module<'a>, needs: &Needs<'a>) -> BTreeSet<Module<'a>> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.clone()];
    while let Some(next) = open.pop() {
        for to in needs.get(&next).into_iter().flatten() {
            if reached.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, code: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: code.to_owned(),
        }
    }

    #[test]
    fn a_circle_of_three_files_is_found_and_one_of_two_is_not() {
        let sources = [
            source("src/a.rs", "use crate::{z, b::{self, Two}};\n"),
            source("src/b.rs", "fn f() { super::c::three() }\n"),
            source("src/c/mod.rs", "use inner::Three;\n"),
            source("src/c/inner.rs", "use super::{Whole, super::a::One};\n"),
            source("src/d.rs", "use crate::e::Five;\n"),
            source("src/e.rs", "use crate::d::Four;\n"),
        ];
        assert_eq!(
            circles(&sources, &[]),
            ["src/: a, b, c, c::inner need each other"]
        );
        assert_eq!(
            circles(&sources, &[("src/", &["a", "b", "c"], "")]).len(),
            0
        );
        assert_eq!(
            circles(&sources[4..], &[("src/", &["d", "e"], "")]).len(),
            1
        );
    }
}
