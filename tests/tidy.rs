//! Rules of the source tree that no lint can check: dependencies between modules, the form of
//! files, forbidden words. A rule that reads text has a test with a text that breaks it.
//!
//! The files are read as text. The table in [`layering`] matches ARCHITECTURE.md; a new module must
//! be added to it.

#![allow(clippy::unwrap_used)]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/errors.rs"]
mod errors;
#[path = "tidy/layering.rs"]
mod layering;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/texts.rs"]
mod texts;

use sources::Source;

const MOST_LINES: usize = 500;
const VAGUE_NAMES: [&str; 5] = ["util", "common", "helper", "manager", "handler"];

/// Circles of more than two files, each of which is read as one module, and why.
const CIRCLES: [(&str, &[&str], &str); 3] = [
    (
        "broker/src/",
        &["delivery", "queue"],
        "queues, ledgers, outboxes, confirms and effects: ARCHITECTURE.md names them as one",
    ),
    (
        "broker/src/",
        &["channel"],
        "what a channel goes on with: a fan-out, a settle or a commit, which is made of both",
    ),
    (
        "storage/src/",
        &["disk", "engine", "terms"],
        "the options name the disk and the engine, and those the errors",
    ),
];

/// Fails with all complaints, so that one run shows them all.
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_begins_with_a_module_comment() {
    let silent = |source: &Source| !source.text.starts_with("//! ");
    assert_none(&sources::complain(silent, "does not begin with `//! `"));
}

#[test]
fn no_file_is_too_long() {
    let long = |source: &Source| source.text.lines().count() > MOST_LINES;
    assert_none(&sources::complain(long, "has more than 500 lines"));
}

#[test]
fn no_file_of_the_page_is_too_long() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/broker/src/management/page");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(files.len() > 10, "{folder} has moved");
    let long = files.into_iter().filter_map(|file| {
        let path = file.unwrap().path();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        (lines > MOST_LINES).then(|| format!("{} has {lines} lines", path.display()))
    });
    assert_none(&long.collect::<Vec<_>>());
}

#[test]
fn no_file_or_type_has_a_vague_name() {
    let vague = |source: &Source| {
        let in_path = source
            .path
            .split(['/', '.', '_'])
            .any(|part| VAGUE_NAMES.contains(&part.trim_end_matches('s')));
        let in_type = source.code().any(|line| {
            let line = line
                .trim_start()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub ");
            let named = line
                .strip_prefix("struct ")
                .or_else(|| line.strip_prefix("enum "))
                .or_else(|| line.strip_prefix("trait "));
            named.is_some_and(|name| {
                ["Manager", "Handler", "Helper", "Util"]
                    .iter()
                    .any(|word| name.contains(word))
            })
        });
        in_path || in_type
    };
    assert_none(&sources::complain(
        vague,
        "is called util, common, helper, manager or handler",
    ));
}

#[test]
fn a_type_s_name_stands_for_one_thing() {
    assert_none(&names::shared(&sources::all()));
}

#[test]
fn a_function_s_name_says_what_it_does() {
    assert_none(&names::vague(&sources::all()));
}

#[test]
fn no_work_is_left_for_later() {
    // Split so that this file does not match.
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("TO", "DO"),
        concat!("#[ig", "nore"),
        concat!("for", " now"),
        concat!("db", "g!("),
    ];
    let open = |source: &Source| marks.iter().any(|mark| source.text.contains(mark));
    assert_none(&sources::complain(open, "leaves something for later"));
}

#[test]
fn unwrap_stays_in_tests() {
    let panicky = |source: &Source| {
        source.is_shipped()
            && source
                .code_before_tests()
                // A constant is evaluated by the compiler, so a panic there is a compile error.
                .any(|line| line.contains(".unwrap()") && !line.trim_start().starts_with("const "))
    };
    assert_none(&sources::complain(panicky, "unwraps outside its tests"));
}

/// An error is a type, so that a caller can match it and ask for its cause.
#[test]
fn no_error_is_a_string() {
    assert_none(&errors::strings(&sources::all()));
}

#[test]
fn an_error_that_is_a_string_is_found() {
    let source = |text: &str| Source {
        path: "src/new.rs".into(),
        text: format!("//! New.\n{text}\n"),
    };
    for text in [
        "fn read() -> Result<u8, String> {",
        "fn read() -> Result<Option<Vec<(u8, u8)>>, String> {",
        "type Answer = Result<\n    (u8, u8),\n    String,\n>;",
        "fn read() -> std::result::Result<u8,String>;",
    ] {
        assert_eq!(errors::strings(&[source(text)]).len(), 1, "{text}");
    }
    for text in [
        "fn read() -> Result<String, ReadError> {",
        "fn read() -> Result<(u8, String), ReadError> {",
        "fn read() -> io::Result<Vec<(u8, String)>> {",
        "// Result<u8, String>",
        "#[cfg(test)]\nfn read() -> Result<u8, String> {",
    ] {
        assert_eq!(errors::strings(&[source(text)]).len(), 0, "{text}");
    }
}

#[test]
fn unsafe_code_carries_its_proof() {
    let unproved = |source: &Source| {
        let blocks = source
            .code()
            .filter(|line| line.contains("unsafe {") || line.contains("unsafe impl"))
            .count();
        blocks > source.text.matches("SAFETY:").count()
    };
    assert_none(&sources::complain(
        unproved,
        "has more unsafe blocks than SAFETY notes",
    ));
}

/// The files that may print: they own the terminal, or run before there is an `Output`.
const WRITERS: [&str; 13] = [
    "src/output.rs",
    "src/main.rs",
    "src/panics.rs",
    "src/commands/start.rs",
    "src/commands/toy_agent.rs",
    "src/commands/serve.rs",
    "src/commands.rs",
    "src/wrap/hook.rs",
    "src/wrap/monitor.rs",
    "src/wrap/start.rs",
    "src/wrap/start/attach.rs",
    "src/wrap/terminal.rs",
    "src/wrap/ways/claude_plugin/stream.rs",
];

/// Text of a peer is made safe in `src/output.rs`, so no other file may print.
#[test]
fn only_the_output_prints() {
    let prints = |source: &Source| {
        let is_ours = source.path.starts_with("src/") && !WRITERS.contains(&&*source.path);
        let words = ["print!(", "println!(", "io::stdout()", "io::stderr()"];
        is_ours
            && source
                .code_before_tests()
                .any(|line| words.iter().any(|word| line.contains(word)))
    };
    assert_none(&sources::complain(
        prints,
        "writes to stdout or stderr without src/output.rs",
    ));
}

#[test]
fn nothing_depends_upwards() {
    assert_none(&layering::upward_uses(&sources::all()));
}

#[test]
fn no_circle_of_imports_has_more_than_two_files() {
    assert_none(&circles::circles(&sources::all(), &CIRCLES));
}

#[test]
fn outside_crates_stay_behind_the_file_that_owns_them() {
    assert_none(&layering::escaped_crates(&sources::all()));
}

#[test]
fn the_management_api_reads_through_one_interface() {
    assert_none(&layering::reads_past_inspect(&sources::all()));
    let curious = Source {
        path: "broker/src/management/views/topology.rs".into(),
        text: "//! Views.\nuse crate::queue::Queue;\n".into(),
    };
    assert_eq!(layering::reads_past_inspect(&[curious]).len(), 1);
}

#[test]
fn the_layering_would_notice_an_upward_use() {
    let upward = Source {
        path: "broker/src/queue/mod.rs".into(),
        text: "//! A queue.\nuse crate::channel::Channel;\n".into(),
    };
    assert_eq!(layering::upward_uses(&[upward]).len(), 1);
    let escaped = Source {
        path: "src/commands/send.rs".into(),
        text: "//! Send.\nuse lapin::Channel;\n".into(),
    };
    assert_eq!(layering::escaped_crates(&[escaped]).len(), 1);
}

#[test]
fn every_path_in_the_architecture_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted.filter(|quoted| quoted.contains('/')).collect();
    assert!(paths.len() > 20, "only {paths:?}");
    let missing = paths.iter().filter(|path| !root.join(path).exists());
    assert_none(
        &missing
            .map(|path| format!("{path} does not exist"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let marks = [
        concat!("\"/wo", "rk/"),
        concat!("`/wo", "rk/"),
        concat!(" /wo", "rk/"),
        concat!("far", "m-"),
    ];
    let leaked = |source: &Source| marks.iter().any(|mark| source.text.contains(mark));
    assert_none(&sources::complain(
        leaked,
        "names a path or tool of one machine",
    ));
}

#[test]
fn the_top_level_holds_only_the_expected_files() {
    const KNOWN: [&str; 26] = [
        ".ci",
        ".dockerignore",
        ".github",
        ".gitignore",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CODE_OF_CONDUCT.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "benches",
        "broker",
        "clippy.toml",
        "compose",
        "deny.toml",
        "docs",
        "fuzz",
        "justfile",
        "packaging",
        "rust-toolchain.toml",
        "src",
        "storage",
        "tests",
    ];
    let listing = std::process::Command::new("git")
        .args(["ls-tree", "--name-only", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    // A source archive has no git repository, so nothing can be checked.
    let Ok(listing) = listing else { return };
    let strangers: Vec<String> = String::from_utf8_lossy(&listing.stdout)
        .lines()
        .filter(|name| !KNOWN.contains(name))
        .map(|name| format!("{name} is not expected at the top level"))
        .collect();
    assert_none(&strangers);
}

#[test]
fn no_line_is_longer_than_100_characters() {
    assert_none(&texts::long_lines(&sources::all()));
    let edited = texts::edited();
    for known in [".ci/run", "justfile", "README.md", "tests/interop/asked.py"] {
        assert!(edited.iter().any(|source| source.path == known), "{known}");
    }
    assert_none(&texts::long_lines(&edited));
}

#[test]
fn no_comment_names_a_file_that_does_not_exist() {
    assert_none(&texts::absent_files(&sources::all(), &texts::files()));
}

#[test]
fn a_long_line_and_an_absent_file_are_found() {
    let source = Source {
        path: "src/new.rs".into(),
        // Split so that the comments of this file are not checked.
        text: format!(
            "{} See docs/absent.md and new.rs.\n{}\n",
            "//!",
            "x".repeat(101)
        ),
    };
    let files = ["src/new.rs".to_owned()];
    assert_eq!(
        texts::absent_files(std::slice::from_ref(&source), &files),
        ["src/new.rs line 1: there is no docs/absent.md"]
    );
    assert_eq!(
        texts::long_lines(&[source]),
        ["src/new.rs line 2: 101 characters"]
    );
    let page = |text: String| Source {
        path: "docs/new.md".into(),
        text,
    };
    let words = "x".repeat(101);
    let table = page(format!("|{words}|\n[a](https://{words})\n"));
    assert_eq!(texts::long_lines(&[table]).len(), 0);
    assert_eq!(texts::long_lines(&[page(words)]).len(), 1);
}
