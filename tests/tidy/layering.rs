//! The layers of each crate as tables of ranks. A module may only use modules of its own rank or
//! below.

use crate::sources::Source;

/// A crate's folder and its modules with their ranks.
struct Layers {
    folder: &'static str,
    ranks: &'static [(&'static str, u8)],
}

const CRATES: [Layers; 3] = [
    Layers {
        folder: "storage/src/",
        ranks: &[
            // The options name the disk and the engine that they choose, and those the errors.
            ("terms", 0),
            ("disk", 0),
            ("engine", 0),
            ("frame", 1),
            ("extent", 2),
            ("pending", 3),
            ("read_plan", 3),
            ("handover", 3),
            ("index", 3),
            ("log", 4),
            ("checkpoint", 4),
            ("tidying", 5),
            ("recovery", 5),
            ("committer", 6),
            ("store", 7),
        ],
    },
    Layers {
        folder: "broker/src/",
        ranks: &[
            ("wire", 0),
            ("archive", 0),
            ("observer", 0),
            ("config", 0),
            ("stats", 0),
            ("time", 0),
            ("lock", 0),
            ("log_limit", 0),
            ("clean_text", 0),
            ("wakeup", 0),
            ("memory", 1),
            ("memory_watch", 2),
            ("publisher_grants", 2),
            ("block", 1),
            ("fault", 1),
            ("tap", 1),
            ("tls", 1),
            ("users", 1),
            ("quotas", 1),
            ("platform", 0),
            ("login_places", 1),
            ("login_throttle", 1),
            ("error", 2),
            ("persist", 2),
            ("alarms", 3),
            // These use each other: a queue's consumers refer to their outbox and ledger, and
            // those refer to the queues that wait for room or credit. Their side effects are
            // collected in `delivery/effects.rs`.
            ("delivery", 3),
            ("queue", 3),
            ("clock", 4),
            ("registry", 4),
            ("exchange", 4),
            ("vhost", 5),
            ("recovery", 6),
            ("broker_state", 6),
            ("inspect", 7),
            ("revocation", 7),
            ("admission", 7),
            ("channel", 7),
            ("connection", 8),
            ("management", 9),
            ("bench", 9),
            ("listener", 9),
        ],
    },
    Layers {
        folder: "src/",
        ranks: &[
            ("clean", 0),
            ("exit", 0),
            ("name", 0),
            ("nearest", 0),
            ("platform", 0),
            ("error", 1),
            ("envelope", 1),
            ("transport", 1),
            ("panics", 2),
            ("config", 2),
            ("cli", 3),
            ("message_history", 3),
            ("output", 3),
            ("peer", 3),
            ("management", 4),
            ("container", 4),
            ("daemon", 4),
            ("wrap", 5),
            ("commands", 6),
            ("main", 7),
        ],
    },
];

/// A crate from outside and the only paths that may name it.
const OWNED: [(&str, &str, &[&str]); 10] = [
    ("lapin", "src/", &["src/peer"]),
    ("async_rs", "src/", &["src/peer"]),
    ("hyper", "src/", &["src/management", "src/wrap/ways"]),
    ("tokio_tungstenite", "src/", &["src/wrap/ways/codex"]),
    ("rmcp", "src/", &["src/commands/mcp"]),
    ("bollard", "src/", &["src/container"]),
    ("portable_pty", "src/", &["src/wrap/pty"]),
    ("storage", "broker/src/", &["broker/src/persist"]),
    ("amq_protocol", "broker/src/", &["broker/src/wire"]),
    ("sled", "storage/src/", &["storage/src/engine"]),
];

/// Where the management API reads: other files of it see queues and exchanges through
/// `broker/src/inspect.rs` alone. Files below `routes/` also change them, as a channel does.
const READERS: &str = "broker/src/management/";
const CHANGERS: [&str; 5] = [
    "broker/src/management/routes/deletions.rs",
    "broker/src/management/routes/exchanges.rs",
    "broker/src/management/routes/import",
    "broker/src/management/routes/messages.rs",
    "broker/src/management/routes/queues.rs",
];
/// What a reader does not see.
const INSIDES: [&str; 5] = ["queue", "exchange", "delivery", "channel", "connection"];

/// Files of the management API that reach past `inspect`.
pub(crate) fn reads_past_inspect(sources: &[Source]) -> Vec<String> {
    let is_changer = |path: &str| CHANGERS.iter().any(|file| path.starts_with(file));
    let readers = sources
        .iter()
        .filter(|source| source.path.starts_with(READERS) && !is_changer(&source.path));
    readers
        .flat_map(|source| {
            let used = source.code_before_tests().flat_map(used_modules);
            let inside = used.filter(|used| INSIDES.contains(used));
            inside.map(|used| format!("{} uses `{used}`, not `inspect`", source.path))
        })
        .collect()
}

/// Uses of a module that lies above the user, and modules that have no place in the table.
pub(crate) fn upward_uses(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for layers in &CRATES {
        for source in sources {
            let Some(inside) = source.path.strip_prefix(layers.folder) else {
                continue;
            };
            let module = inside.split(['/', '.']).next().unwrap_or_default();
            if module == "lib" || (module == "main" && inside != "main.rs") {
                continue;
            }
            let Some(own) = layers.rank(module) else {
                complaints.push(format!(
                    "{}: `{module}` has no rank in tests/tidy/layering.rs",
                    source.path
                ));
                continue;
            };
            for used in source.code_before_tests().flat_map(used_modules) {
                if layers.rank(used).is_some_and(|rank| rank > own) {
                    complaints.push(format!(
                        "{} uses `{used}`, which lies above it",
                        source.path
                    ));
                }
            }
        }
    }
    complaints
}

/// Files that name a crate which another file owns.
pub(crate) fn escaped_crates(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, folder, owners) in OWNED {
        for source in sources
            .iter()
            .filter(|source| source.path.starts_with(folder))
        {
            let owned = owners.iter().any(|owner| source.path.starts_with(owner));
            if !owned
                && source
                    .code_before_tests()
                    .any(|line| names_crate(line, name))
            {
                complaints.push(format!(
                    "{} names `{name}`, which only {owners:?} may",
                    source.path
                ));
            }
        }
    }
    complaints
}

impl Layers {
    fn rank(&self, module: &str) -> Option<u8> {
        self.ranks
            .iter()
            .find(|(name, _)| *name == module)
            .map(|(_, rank)| *rank)
    }
}

/// The modules that a line reaches by `crate::`, those inside braces too.
fn used_modules(line: &str) -> Vec<&str> {
    let mut used = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let inside = group.split('}').next().unwrap_or_default();
            used.extend(inside.split(',').map(first_word));
        } else {
            used.push(first_word(rest));
        }
    }
    used
}

fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default()
}

/// Whether a line reaches into the crate `name`, as `use name::…` or `name::…`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}
