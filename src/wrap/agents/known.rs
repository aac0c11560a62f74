//! The agents and the programs that are known by name. Data; the rules that use it are elsewhere.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use super::line::{Line, More};
use super::{Profile, Prompt, TypingPace, Usual, VimFooter};

/// Measured with a paste and its redraw.
const QUICK: TypingPace = TypingPace {
    before_enter: Duration::from_millis(25),
    quiet_before_enter: Duration::from_millis(50),
    quiet_before_text: Duration::from_millis(50),
    idle_hands: Duration::from_secs(1),
};

/// For programs that show no sign of what they do.
const CAREFUL: TypingPace = TypingPace {
    before_enter: Duration::from_millis(100),
    quiet_before_enter: Duration::from_millis(100),
    quiet_before_text: Duration::from_millis(1500),
    idle_hands: Duration::from_secs(3),
};

/// Codex loses an Enter that follows 64 KB sooner.
const SLOW: TypingPace = TypingPace {
    before_enter: Duration::from_millis(200),
    ..CAREFUL
};

/// Claude Code.
pub static CLAUDE: Profile = Profile {
    name: "claude",
    programs: &["claude"],
    seen: "2.1.197",
    usual: Usual::Typing,
    has_hooks: true,
    prompt: Some(Prompt {
        mark: '❯',
        shell_mark: '!',
        rule: '─',
        placeholder_colours: &[246, 8],
    }),
    line: None,
    busy: &["esc to interrupt", "esc to cancel"],
    busy_titles: &['⠂', '⠐'],
    idle_title: Some('✳'),
    other_views: &[
        "Message @",
        "describe a task for a new session",
        "Esc to close",
        "Esc to go back",
        "Esc to stop waiting",
        "esc to go back",
        "enter to open",
        "Enter to open",
        "space to reply",
    ],
    dialogs: &[
        ("Do you want to ", "permission"),
        ("Would you like to proceed", "plan"),
        ("Do you trust the files", "trust"),
        ("Is this a project you", "trust"),
        ("Esc to cancel", "menu"),
        ("Enter to confirm", "menu"),
        ("ctrl+o to toggle", "transcript"),
        ("Esc to exit", "menu"),
        ("Exit plan mode?", "plan"),
        ("Held message from another session", "held message"),
        ("requests your input", "a question of an MCP server"),
    ],
    command_modes: &["-- NORMAL --", "-- VISUAL --", "-- VISUAL LINE --"],
    vim: Some(VimFooter {
        insert: "-- INSERT --",
        plain: "? for shortcuts",
    }),
    pace: QUICK,
};

static CODEX: Profile = Profile {
    name: "codex",
    programs: &["codex"],
    seen: "0.169.0",
    usual: Usual::Typing,
    has_hooks: false,
    prompt: None,
    line: Some(Line {
        marks: &["› "],
        shell_mark: None,
        placeholders: &["Ask Codex to do anything"],
        more: More::Indented("  "),
        has_cursor: true,
        is_asked_in: false,
    }),
    busy: &["esc to interrupt"],
    busy_titles: &['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'],
    idle_title: None,
    other_views: &[],
    dialogs: &[
        ("Would you like to ", "approval"),
        ("Allow command?", "approval"),
        ("Press enter to confirm", "menu"),
        ("press enter to confirm", "menu"),
        ("Press Enter to continue", "menu"),
        ("Press enter to continue", "menu"),
    ],
    command_modes: &[],
    vim: None,
    pace: SLOW,
};

static OPENCODE: Profile = Profile {
    name: "opencode",
    programs: &["opencode"],
    seen: "1.18.33",
    usual: Usual::Typing,
    has_hooks: false,
    prompt: None,
    line: Some(Line {
        marks: &["┃  "],
        shell_mark: None,
        placeholders: &["Ask anything"],
        more: More::Framed("╹"),
        has_cursor: true,
        is_asked_in: false,
    }),
    busy: &["esc interrupt", "esc to interrupt"],
    busy_titles: &[],
    idle_title: None,
    other_views: &[],
    dialogs: &[
        ("Permission required", "permission"),
        ("Allow once", "permission"),
        ("enter confirm", "permission"),
    ],
    command_modes: &[],
    vim: None,
    pace: CAREFUL,
};

static GEMINI: Profile = Profile {
    name: "gemini",
    programs: &["gemini"],
    seen: "0.61.0",
    usual: Usual::Typing,
    has_hooks: false,
    prompt: None,
    line: Some(Line {
        marks: &[" > ", " * "],
        shell_mark: Some(" ! "),
        placeholders: &["Type your message"],
        more: More::Indented("   "),
        has_cursor: false,
        is_asked_in: false,
    }),
    busy: &["esc to cancel"],
    busy_titles: &['✦'],
    idle_title: None,
    other_views: &[],
    dialogs: &[
        ("Apply this change?", "permission"),
        ("Allow execution", "permission"),
        ("Yes, allow once", "permission"),
        ("Allow once", "permission"),
        ("Do you want to proceed?", "permission"),
        ("How would you like to authenticate", "sign-in"),
        ("Do you trust the files", "trust"),
        ("● 1.", "menu"),
        ("● 2.", "menu"),
        ("● 3.", "menu"),
    ],
    command_modes: &["shell mode enabled", "[NORMAL]"],
    vim: None,
    pace: CAREFUL,
};

static AIDER: Profile = Profile {
    name: "aider",
    programs: &["aider"],
    seen: "0.86.2",
    usual: Usual::Typing,
    has_hooks: false,
    prompt: None,
    // Its name of a mode stands before the mark; in `multi> ` Enter is only a new line.
    line: Some(Line {
        marks: &[
            "> ",
            "ask> ",
            "architect> ",
            "context> ",
            "help> ",
            "diff> ",
            "diff-fenced> ",
            "whole> ",
            "udiff> ",
            "udiff-simple> ",
            "patch> ",
            "editor-diff> ",
            "editor-diff-fenced> ",
            "editor-whole> ",
        ],
        shell_mark: None,
        placeholders: &[],
        more: More::Marked,
        has_cursor: true,
        is_asked_in: true,
    }),
    busy: &["Waiting for "],
    busy_titles: &[],
    idle_title: None,
    other_views: &[],
    dialogs: &[("[Yes]:", "question"), ("[No]:", "question")],
    command_modes: &[],
    vim: None,
    pace: CAREFUL,
};

/// Anything else: announced, and typed into only on request.
pub static UNKNOWN: Profile = Profile {
    name: "unknown",
    programs: &[],
    seen: "",
    usual: Usual::Notice,
    has_hooks: false,
    prompt: None,
    line: None,
    busy: &[],
    busy_titles: &[],
    idle_title: None,
    other_views: &[],
    dialogs: &[],
    command_modes: &[],
    vim: None,
    pace: CAREFUL,
};

static SHELL: Profile = Profile {
    name: "shell",
    programs: &[
        "sh", "bash", "zsh", "fish", "dash", "ash", "ksh", "mksh", "tcsh", "csh", "nu", "xonsh",
        "elvish", "pwsh", "busybox", "rbash",
    ],
    usual: Usual::NoticeOnly,
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
    usual: Usual::NoticeOnly,
    ..UNKNOWN
};

/// What leads to a shell, here or elsewhere: its own input is not the last word on what is typed.
static WAY_TO_A_SHELL: Profile = Profile {
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
    usual: Usual::NoticeOnly,
    ..UNKNOWN
};

/// All profiles that match by name.
pub(super) static ALL: [&Profile; 8] = [
    &CLAUDE,
    &CODEX,
    &OPENCODE,
    &GEMINI,
    &AIDER,
    &SHELL,
    &REPL,
    &WAY_TO_A_SHELL,
];

/// Options of shells and interpreters that take their value from the next argument.
const WITH_VALUE: [&str; 7] = ["--rcfile", "--init-file", "-O", "+O", "-o", "-W", "-X"];
/// Long options that come instead of a script.
const WITH_COMMAND: [&str; 3] = ["--eval", "--command", "--print"];
/// Modules of Python that read commands.
const PROMPTS: [&str; 9] = [
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
/// Interpreters that take a script in place of commands from the keyboard, beside the shells.
const INTERPRETERS: [&str; 11] = [
    "python", "pypy", "node", "nodejs", "deno", "bun", "ruby", "perl", "php", "lua", "luajit",
];

/// Whether a program of this name is a coding agent that messages can be delivered to.
pub fn is_agent(name: &str) -> bool {
    let delivers = |profile: &&&Profile| profile.usual != Usual::NoticeOnly;
    let mut agents = ALL.iter().filter(delivers);
    agents.any(|profile| profile.programs.contains(&name))
}

/// Whether a program of this name runs programs of others, under their names.
pub fn is_interpreter(name: &str) -> bool {
    INTERPRETERS.contains(&unversioned(name))
}

/// A program's name without the version at its end: `python` for `python3.12`.
fn unversioned(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

/// A shell or interpreter that was given its program by its arguments, and does not read it from
/// the keyboard.
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
    let is_prompt_wanted = |word: &&str| matches!(*word, "-i" | "-s" | "--interactive");
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
            return words.next().is_some() && !words.any(|word| is_prompt_wanted(&word));
        } else if !is_shell && letters.is_some_and(|letters| letters.ends_with('m')) {
            return words
                .next()
                .is_some_and(|module| !PROMPTS.contains(&module));
        } else if !word.starts_with(['-', '+']) {
            return word != "repl";
        }
    }
    false
}
