//! Arguments with which Codex or opencode does not run a session of its own at the terminal.
//! Nothing may be added to them.

use std::ffi::OsString;

const CODEX: [&str; 31] = [
    "agents",
    "exec",
    "e",
    "review",
    "login",
    "logout",
    "mcp",
    "mcp-server",
    "plugin",
    "app-server",
    "remote-control",
    "completion",
    "update",
    "doctor",
    "sandbox",
    "debug",
    "apply",
    "a",
    "queue",
    "archive",
    "delete",
    "migrate-rollouts",
    "migrate-nfs-db",
    "unarchive",
    "cloud",
    "exec-server",
    "features",
    "help",
    "--help",
    "--version",
    "--remote",
];
const OPENCODE: [&str; 29] = [
    "completion",
    "acp",
    "mcp",
    "attach",
    "run",
    "debug",
    "providers",
    "auth",
    "agent",
    "upgrade",
    "uninstall",
    "serve",
    "web",
    "models",
    "stats",
    "export",
    "import",
    "github",
    "pr",
    "session",
    "plugin",
    "plug",
    "db",
    "--help",
    "--version",
    "--port",
    "--hostname",
    "--mdns",
    "--mini",
];

/// Whether one of the arguments is such a subcommand or option. A prompt that consists of such a
/// word counts too; the API is not used then, only the keyboard.
pub fn other_sessions(agent: &str, arguments: &[OsString]) -> bool {
    let words: &[&str] = match agent {
        "codex" => &CODEX,
        "opencode" => &OPENCODE,
        _ => return false,
    };
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let name = argument.split('=').next().unwrap_or_default();
        words.contains(&name) || matches!(name, "-h" | "-v" | "-V")
    })
}

/// Whether opencode is started with a session or a prompt, so that it leaves its first screen by
/// itself.
pub fn shows_a_session(agent: &str, arguments: &[OsString]) -> bool {
    let words = ["-c", "--continue", "-s", "--session", "--fork", "--prompt"];
    agent == "opencode"
        && arguments.iter().any(|argument| {
            let argument = argument.to_string_lossy();
            words.contains(&argument.split('=').next().unwrap_or_default())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_tell_whether_a_session_is_shown() {
        for (line, expected) in [
            ("-c", true),
            ("--session=ses_1", true),
            ("--prompt hello", true),
            (".", false),
            ("-m fake/m1", false),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(shows_a_session("opencode", &words), expected, "{line}");
            assert!(!shows_a_session("codex", &words));
        }
    }

    #[test]
    fn only_sessions_at_the_terminal_get_our_arguments() {
        for (agent, line, is_other) in [
            ("codex", "exec hello", true),
            ("codex", "-m gpt --remote=unix:// hello", true),
            ("codex", "resume --last", false),
            ("codex", "fix the tests", false),
            ("opencode", "serve", true),
            ("opencode", "--port 4096", true),
            ("opencode", "-c", false),
            ("aider", "exec", false),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(other_sessions(agent, &words), is_other, "{agent} {line}");
        }
    }
}
