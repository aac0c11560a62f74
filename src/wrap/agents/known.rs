//! Programs that are known by name and are not agents. The agents are in `data`.

use std::ffi::{OsStr, OsString};
use std::path::Path;
#[cfg(test)]
use std::sync::LazyLock;
use std::time::Duration;

use super::{DefaultDelivery, Profile, TypingPace, data};

/// The pace for programs whose state is not known.
pub(super) const DEFAULT_PACE: TypingPace = TypingPace {
    before_enter: Duration::from_millis(100),
    quiet_before_enter: Duration::from_millis(100),
    quiet_before_text: Duration::from_millis(1500),
    idle_hands: Duration::from_secs(3),
};

/// Claude Code.
#[cfg(test)]
pub static CLAUDE: LazyLock<&'static Profile> = LazyLock::new(|| Profile::named("claude", &[]));

/// Any other program: messages are announced, and typed only on request.
pub static UNKNOWN: Profile = Profile {
    name: "unknown",
    programs: &[],
    seen: &[],
    default_delivery: DefaultDelivery::Notice,
    has_hooks: false,
    prompt: None,
    line: None,
    busy: &[],
    waits: &[],
    busy_titles: &[],
    idle_title: None,
    other_views: &[],
    dialogs: &[],
    command_modes: &[],
    vim: None,
    pace: DEFAULT_PACE,
};

static SHELL: Profile = Profile {
    name: "shell",
    programs: &[
        "sh", "bash", "zsh", "fish", "dash", "ash", "ksh", "mksh", "tcsh", "csh", "nu", "xonsh",
        "elvish", "pwsh", "busybox", "rbash",
    ],
    default_delivery: DefaultDelivery::NoticeOnly,
    ..UNKNOWN
};

static REPL: Profile = Profile {
    name: "repl",
    programs: &[
        "python",
        "python2",
        "python3",
        "ipython",
        "bpython",
        "ptpython",
        "pypy",
        "node",
        "nodejs",
        "deno",
        "bun",
        "irb",
        "pry",
        "ruby",
        "perl",
        "php",
        "lua",
        "luajit",
        "R",
        "julia",
        "ghci",
        "iex",
        "erl",
        "scala",
        "jshell",
        "ocaml",
        "utop",
        "sbcl",
        "guile",
        "racket",
        "clj",
        "clojure",
        "tclsh",
        "psql",
        "mysql",
        "mariadb",
        "sqlite",
        "sqlite3",
        "duckdb",
        "redis-cli",
        "mongosh",
        "mongo",
        "gdb",
        "lldb",
        "bc",
        "dc",
        "octave",
        "gp",
        "awk",
        "ed",
    ],
    default_delivery: DefaultDelivery::NoticeOnly,
    ..UNKNOWN
};

/// Programs that start a shell, here or on another machine, which would execute what is typed.
static SHELL_LAUNCHERS: Profile = Profile {
    name: "remote shell",
    programs: &[
        "ssh",
        "mosh",
        "telnet",
        "socat",
        "nc",
        "ncat",
        "netcat",
        "rlogin",
        "et",
        "tmux",
        "screen",
        "zellij",
        "dtach",
        "abduco",
        "su",
        "sudo",
        "doas",
        "env",
        "nice",
        "runuser",
        "newgrp",
        "sg",
        "nohup",
        "setsid",
        "stdbuf",
        "unshare",
        "chroot",
        "nsenter",
        "docker",
        "podman",
        "kubectl",
        "script",
        "expect",
        "nix-shell",
        "login",
        "machinectl",
        "toolbox",
        "distrobox",
        "time",
        "timeout",
        "xargs",
        "strace",
        "ltrace",
        "rlwrap",
    ],
    default_delivery: DefaultDelivery::NoticeOnly,
    ..UNKNOWN
};

/// The profiles of programs that execute their input. Files of the user do not change them.
const EXECUTING: [&Profile; 3] = [&SHELL, &REPL, &SHELL_LAUNCHERS];

/// All profiles that match by name.
pub(super) fn all() -> impl Iterator<Item = &'static Profile> {
    data::profiles().iter().copied().chain(EXECUTING)
}

/// Whether a program of this name executes what is typed into it.
pub(super) fn executes_its_input(name: &str) -> bool {
    EXECUTING.iter().any(|profile| profile.has_name(name))
}

/// Options of shells and interpreters that take their value from the next argument.
const WITH_VALUE: [&str; 7] = ["--rcfile", "--init-file", "-O", "+O", "-o", "-W", "-X"];
/// Long options that replace a script.
const WITH_COMMAND: [&str; 3] = ["--eval", "--command", "--print"];
/// Python modules that read commands.
const INTERACTIVE_MODULES: [&str; 9] = [
    "code",
    "asyncio",
    "pdb",
    "IPython",
    "ipython",
    "bpython",
    "ptpython",
    "ptipython",
    "xonsh",
];
/// Interpreters, besides the shells, that can run a script instead of commands from the terminal.
const INTERPRETERS: [&str; 11] = [
    "python", "pypy", "node", "nodejs", "deno", "bun", "ruby", "perl", "php", "lua", "luajit",
];

/// The programs of the coding agents that messages can be delivered to.
pub fn agent_programs() -> Vec<&'static str> {
    let programs = data::profiles().iter().map(|profile| profile.programs);
    programs.flatten().copied().collect()
}

/// Whether a program of this name is an interpreter that runs other programs.
pub fn is_interpreter(name: &str) -> bool {
    INTERPRETERS.contains(&unversioned(name))
}

/// A program's name without the version at its end: `python` for `python3.12`.
fn unversioned(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

/// Whether the arguments of a shell or interpreter name a script or command, so that it does not
/// read commands from the terminal.
pub(super) fn runs_a_script(program: &OsStr, arguments: &[OsString]) -> bool {
    let name = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    let bare = unversioned(name.trim_start_matches('-'));
    let is_shell = SHELL.programs.contains(&bare) && bare != "busybox";
    if !is_shell && !INTERPRETERS.contains(&bare) {
        return false;
    }
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let is_interactive = |word: &&str| matches!(*word, "-i" | "-s" | "--interactive");
    let mut words = words.iter().map(AsRef::as_ref);
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        let is_eval = letters
            .is_some_and(|letters| letters.ends_with('c') || (!is_shell && letters.ends_with('e')));
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if word == "--interactive"
            || letters
                .is_some_and(|letters| letters.contains('i') || (is_shell && letters.contains('s')))
        {
            return false;
        } else if is_eval || WITH_COMMAND.contains(&word) {
            return words.next().is_some() && !words.any(|word| is_interactive(&word));
        } else if !is_shell && letters.is_some_and(|letters| letters.ends_with('m')) {
            return words
                .next()
                .is_some_and(|module| !INTERACTIVE_MODULES.contains(&module));
        } else if !word.starts_with(['-', '+']) {
            return word != "repl";
        }
    }
    false
}
