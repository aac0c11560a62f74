//! Rules about comments and lines: their length, and the files that they refer to.

use std::fs;
use std::path::Path;

use crate::sources::Source;

/// The longest line, in characters.
const LONGEST: usize = 100;

/// Files that users have in their own projects, which comments may name.
const USERS_FILES: [&str; 2] = ["CLAUDE.md", "AGENTS.md"];

/// The lines of more than [`LONGEST`] characters, one complaint each.
pub(crate) fn long_lines(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .flat_map(|source| {
            let lines = source.text.lines().enumerate();
            lines.filter_map(|(at, line)| {
                let length = line.chars().count();
                (length > LONGEST)
                    .then(|| format!("{} line {}: {length} characters", source.path, at + 1))
            })
        })
        .collect()
}

/// The Rust and Markdown files that comments name but the repository does not contain, one
/// complaint each. A file can be named by its path or by the end of its path.
pub(crate) fn absent_files(sources: &[Source], files: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (at, line) in source.text.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                continue;
            }
            let absent = named_files(line).filter(|name| !is_present(name, files));
            let place = format!("{} line {}", source.path, at + 1);
            complaints.extend(absent.map(|name| format!("{place}: there is no {name}")));
        }
    }
    complaints
}

/// The words of a comment that look like the path of a Rust or Markdown file.
fn named_files(comment: &str) -> impl Iterator<Item = &str> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    comment
        .split(move |c| !is_of_path(c))
        .map(|word| word.trim_start_matches(['.', '/']).trim_end_matches('.'))
        .filter(|word| {
            let extension = Path::new(word).extension();
            extension.is_some_and(|extension| extension == "rs" || extension == "md")
        })
}

fn is_present(name: &str, files: &[String]) -> bool {
    let ends_with_it = |file: &String| {
        file.strip_suffix(name)
            .is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    };
    USERS_FILES.contains(&name) || files.iter().any(ends_with_it)
}

/// The paths of all Rust and Markdown files of the project, relative to its root.
pub(crate) fn files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(root, root, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(root, &path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            let relative = path.strip_prefix(root).unwrap();
            found.push(relative.to_string_lossy().into_owned());
        }
    }
}
