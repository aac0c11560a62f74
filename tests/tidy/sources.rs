//! The project's Rust files as text. Depends on the folder that cargo built the tests from.

use std::fs;
use std::path::Path;

const FOLDERS: [&str; 6] = ["src", "broker", "storage", "tests", "benches", "fuzz"];

/// One Rust file: its path relative to the project's root, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Whether it is part of the product: not a test, benchmark or fuzz target.
    pub(crate) fn is_shipped(&self) -> bool {
        ["src/", "broker/src/", "storage/src/"]
            .iter()
            .any(|folder| self.path.starts_with(folder))
            && !self.path.contains("tests")
    }

    /// Returns its lines without comments.
    pub(crate) fn code(&self) -> impl Iterator<Item = &str> {
        self.text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
    }

    /// Returns its lines before the first test module.
    pub(crate) fn code_before_tests(&self) -> impl Iterator<Item = &str> {
        const BEGINNINGS: [&str; 2] = ["#[cfg(test)]", "#[cfg(all(test,"];
        self.code().take_while(|line| {
            let line = line.trim_start();
            !BEGINNINGS.iter().any(|begins| line.starts_with(begins))
        })
    }
}

/// Reads every Rust file of the project, ordered by path.
pub(crate) fn all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in FOLDERS {
        collect(root, &root.join(folder), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no sources under {}", root.display());
    found
}

/// Returns a complaint for each file for which `offends` is true.
pub(crate) fn complain(offends: impl Fn(&Source) -> bool, what: &str) -> Vec<String> {
    all()
        .iter()
        .filter(|source| offends(source))
        .map(|source| format!("{} {what}", source.path))
        .collect()
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(root, &path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/");
            found.push(Source {
                path: name,
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
}
