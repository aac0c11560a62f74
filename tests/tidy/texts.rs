//! Rules about comments and lines: their length, and the files that they refer to. Every Rust file
//! is checked, and other files that people edit.

use std::fs;
use std::path::Path;

use crate::sources::Source;

/// The longest line, in characters.
const LONGEST: usize = 100;

/// The extensions of files beside Rust whose lines are measured. Data (JSON, HTML, recordings) is
/// not.
const EDITED: [&str; 6] = ["md", "js", "ts", "py", "toml", "yml"];

/// Folders whose files all are measured.
const EDITED_FOLDERS: [&str; 1] = [".ci"];

/// The AMQP kit, which is run as it was when it passed on RabbitMQ.
const KIT: &str = "tests/interop/kit/";

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
                (length > LONGEST && !is_unbreakable(&source.path, line))
                    .then(|| format!("{} line {}: {length} characters", source.path, at + 1))
            })
        })
        .collect()
}

/// Whether a line outside Rust cannot be broken: a row of a table, or one with a URL.
fn is_unbreakable(path: &str, line: &str) -> bool {
    let is_rust = Path::new(path).extension().is_some_and(|end| end == "rs");
    !is_rust && (line.starts_with('|') || line.contains("://"))
}

/// The files beside Rust whose lines are measured.
pub(crate) fn edited() -> Vec<Source> {
    let is_edited = |path: &String| {
        let extension = Path::new(path).extension().unwrap_or_default();
        let is_in = |folder: &&str| Path::new(path).starts_with(folder);
        !path.starts_with(KIT)
            && (EDITED.iter().any(|edited| extension == *edited)
                || EDITED_FOLDERS.iter().any(is_in)
                || path == "justfile")
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = files().into_iter().filter(is_edited);
    let source = |path: String| Source {
        text: fs::read_to_string(root.join(&path)).unwrap(),
        path,
    };
    paths.map(source).collect()
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

/// The paths of all files of the project, relative to its root.
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
            let is_ours = !name.starts_with('.') || EDITED_FOLDERS.contains(&&*name);
            if is_ours && name != "target" && name != "node_modules" {
                collect(root, &path, found);
            }
        } else {
            let relative = path.strip_prefix(root).unwrap();
            found.push(relative.to_string_lossy().into_owned());
        }
    }
}
