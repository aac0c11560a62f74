//! The arguments of each verb and their help texts, with units and limits.

mod broker;
mod messages;
mod wrap;

use clap::{Args, Subcommand, ValueEnum};

pub use broker::*;
pub use messages::*;
pub use wrap::*;

/// The verbs.
#[derive(Subcommand)]
pub enum Verb {
    /// Send a message to one session or several
    #[command(after_help = SEND_EXAMPLES)]
    Send(SendArgs),
    /// Send a message, wait for the answer and print it
    #[command(after_help = ASK_EXAMPLES)]
    Ask(AskArgs),
    /// List the sessions: who is attached, what waits, what they do
    #[command(after_help = "\
Examples:
  cbroker list
  cbroker list --watch
  cbroker list --json | jq '.[] | select(.pending > 0)'")]
    List(ListArgs),
    /// Show the groups, or change who belongs to them
    #[command(subcommand, after_help = GROUP_EXAMPLES)]
    Group(GroupVerb),
    /// Wait until a session is idle, needs you, is attached or is closed
    #[command(after_help = WAIT_EXAMPLES)]
    Wait(WaitArgs),
    /// Show what a session's terminal shows, on this machine
    #[command(after_help = "Example:\n  cbroker screen backend")]
    Screen(ScreenArgs),
    /// Show the messages that a session holds and why
    #[command(after_help = "\
Examples:
  cbroker inbox                  inside a session: what it holds
  cbroker inbox backend --take   read them here, in place of the agent

Exit code 4, with --take: the session did not confirm, and may deliver them again.")]
    Inbox(InboxArgs),
    /// Show the messages that a session refused, send one again, or delete it
    #[command(after_help = "\
Examples:
  cbroker dead
  cbroker dead backend --resend 3fa85f64
  cbroker dead --drop 3fa85f64")]
    Dead(DeadArgs),
    /// Show the history of one message: sent, confirmed, held, delivered
    #[command(after_help = "\
Examples:
  cbroker why 01JD3ZQ8V4K2M6N8P0R2T4V6X8
  cbroker why T4V6X8    its last characters, as the page shows them")]
    Why(WhyArgs),
    /// Show what the sessions on this machine said to each other
    #[command(after_help = "\
Examples:
  cbroker history
  cbroker history backend --since 2h
  cbroker history --grep migration --json")]
    History(HistoryArgs),
    /// Stream the messages of a queue (takes them; --no-ack only looks)
    #[command(after_help = "\
Examples:
  cbroker tail backend --no-ack    what waits, left in its place
  cbroker tail backend --json      take each message as it comes")]
    Tail(TailArgs),
    /// Delete the messages that wait in a queue; the queue stays
    #[command(after_help = "\
Examples:
  cbroker purge backend --yes
  cbroker purge backend --yes --force   also what its open session holds

The session stays in its groups, and the history keeps what the messages said.
Exit code 4, with --force: a session has not answered, and may still deliver what it holds.")]
    Purge(ConfirmedArgs),
    /// Delete a queue and the messages that wait in it
    #[command(after_help = "\
Example:
  cbroker delete backend --yes

The session leaves its groups, and makes the queue again when it opens. The history keeps
what the messages said.
Exit code 4, with --force: a session has not answered, and may still deliver what it holds.")]
    Delete(ConfirmedArgs),
    /// Hold back messages in a session until `resume`
    #[command(after_help = "\
Examples:
  cbroker pause backend
  cbroker pause @tests
  cbroker pause --all")]
    Pause(ScopeArgs),
    /// Let a paused session take its messages again
    #[command(after_help = "Example:\n  cbroker resume --all")]
    Resume(ScopeArgs),
    /// Start the local broker in the background
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Stop the local broker; all data stays
    #[command(after_help = "Example:\n  cbroker stop")]
    Stop,
    /// Stop and start the local broker
    #[command(after_help = "Example:\n  cbroker restart")]
    Restart,
    /// Show whether the broker runs, and which one it is
    #[command(after_help = "\
Examples:
  cbroker status
  cbroker status --show-url    the full URL with its password, for other clients")]
    Status(StatusArgs),
    /// Give the local broker a new password
    #[command(after_help = "\
Example:
  cbroker rotate

Sessions and commands of this user go on with the new one. For other clients,
`cbroker status --show-url` prints it.")]
    Rotate,
    /// Show the log of the local broker or of a session
    #[command(after_help = "\
Examples:
  cbroker logs -f
  cbroker logs --session backend")]
    Logs(LogsArgs),
    /// Open the broker's management page in the browser
    #[command(after_help = "Example:\n  cbroker ui")]
    Ui,
    /// Stop the local broker and delete its queues with all messages that wait
    #[command(after_help = NUKE_EXAMPLE)]
    Nuke(YesArgs),
    /// Run the broker in the foreground
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Move queues and waiting messages from one broker to another
    #[command(name = "move", after_help = MOVE_EXAMPLES)]
    Move(MoveArgs),
    /// Run the broker as a service of this user
    #[command(
        subcommand,
        after_help = "\
Examples:
  cbroker service install
  cbroker service status"
    )]
    Service(ServiceVerb),
    /// Check everything that must work, and show how to repair what does not
    #[command(after_help = "\
Examples:
  cbroker doctor
  cbroker doctor --probe claude    also whether cbroker understands the installed agent")]
    Doctor(DoctorArgs),
    /// Print the effective settings and the source of each
    #[command(after_help = "Example:\n  cbroker config")]
    Config,
    /// Print the briefing for CLAUDE.md or AGENTS.md
    #[command(after_help = "Example:\n  cbroker brief --name backend >> CLAUDE.md")]
    Brief(BriefArgs),
    /// Show cbroker at work: a broker, two sessions, messages both ways
    #[command(after_help = "Example:\n  cbroker demo")]
    Demo,
    /// Serve the commands to an agent as MCP tools, over stdio
    #[command(after_help = MCP_EXAMPLES)]
    Mcp(McpArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  cbroker completions bash > ~/.local/share/bash-completion/completions/cbroker
  cbroker completions zsh > ~/.zfunc/_cbroker
  cbroker completions fish > ~/.config/fish/completions/cbroker.fish")]
    Completions(CompletionsArgs),
    /// Print the manual page
    #[command(after_help = "Example:\n  cbroker man | man -l -")]
    Man,
    /// Print the version
    #[command(after_help = "Example:\n  cbroker version")]
    Version,
}

const SEND_EXAMPLES: &str = "\
Examples:
  cbroker send backend \"GET /users is live\"
  cbroker send --to backend -m \"GET /users is live\" -f api/openapi.yaml
  cbroker send --to backend,frontend --message-file notes.md
  cbroker send @reviewers \"Please look at PR 12\"
  git diff | cbroker send --to reviewer --reply-to backend
  cbroker send --to backend -m \"stop the migration\" --wait --timeout 10m

Exit code 4: the broker did not confirm, the queue is full, or no receipt came.";

const NUKE_EXAMPLE: &str = "\
Example:
  cbroker nuke --yes

Deleted: the store of the embedded broker (~/.cbroker/data, or the folder of --data-dir) or
the container and its volume, with everything in it: queues, waiting messages, group
memberships, and users and vhosts that were added.
Kept in ~/.cbroker: the login (credentials), config.toml, agents, the logs with the history
of messages (logs), dead letters (dlq), texts in files (spill). A service stays installed.";

const GROUP_EXAMPLES: &str = "\
Examples:
  cbroker group list
  cbroker group join backend api tests    later also: cbroker --group backend …
  cbroker send @backend \"The schema changed, please rebase\"

A closed session stays a member as long as its queue lives.";

const WAIT_EXAMPLES: &str = "\
Examples:
  cbroker wait backend --until idle && cbroker send backend \"Now the tests, please\"
  cbroker wait backend --until closed --timeout 2h

Exit code 4: the time is over.";

const ASK_EXAMPLES: &str = "\
Examples:
  cbroker ask backend \"Which port does the API use?\"
  port=$(cbroker ask --to backend -m \"Only the port number, please\" --timeout 60)

Exit code 4: the broker did not confirm, the queue is full, or no answer came.";

const MCP_EXAMPLES: &str = "\
Examples:
  cbroker mcp install claude            prints what goes into .mcp.json
  cbroker mcp install codex --write     adds it to ~/.codex/config.toml
  cbroker mcp                           what the agent runs

Tools: send_message, ask, list_sessions, read_inbox.";

const START_EXAMPLES: &str = "\
Examples:
  cbroker start                       the embedded broker on 5672 and 15672
  cbroker start --port 5673           beside another broker
  cbroker start --docker              LavinMQ in a container";

const SERVE_EXAMPLES: &str = "\
Examples:
  cbroker serve
  cbroker serve --port 0 --data-dir /tmp/broker
  cbroker serve --bind 0.0.0.0 --tls-cert cert.pem --tls-key key.pem";

const MOVE_EXAMPLES: &str = "\
Examples:
  cbroker move --to amqp://guest:guest@localhost:5673    to another broker
  cbroker move --from amqp://guest:guest@localhost:5673  and back
  cbroker move --to docker                               into the container, and use that

To the cloud, with the password out of sight:
  CBROKER_URL=amqps://user:password@host/vhost \\
    cbroker move --from amqp://localhost

A message is confirmed there before it is acked here. A queue goes with its
own arguments, and is deleted here once it is empty. Sessions that are attached
must be closed first.";

/// Arguments of `mcp`.
#[derive(Args, Debug)]
pub struct McpArgs {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub verb: Option<McpVerb>,
}

/// What `mcp` can do beside serving.
#[derive(Subcommand, Debug)]
pub enum McpVerb {
    /// Print an agent's configuration for the server, or write it
    #[command(after_help = "\
Examples:
  cbroker mcp install claude
  cbroker mcp install gemini --write

Any other agent: add a server that runs `cbroker mcp` to its settings by hand.")]
    Install(McpInstallArgs),
}

/// Arguments of `mcp install`.
#[derive(Args, Debug)]
pub struct McpInstallArgs {
    /// The agent; for claude the file is that of the project in the current folder
    pub agent: McpAgent,
    /// Write it into the agent's file; what was there is kept beside it
    #[arg(long)]
    pub write: bool,
}

/// An agent whose configuration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum McpAgent {
    /// Claude Code
    Claude,
    /// Codex
    Codex,
    /// Gemini CLI
    Gemini,
    /// opencode
    Opencode,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Also start this agent in a hidden terminal, look for the signs that a wrap relies on, and
    /// send a message as its own shell would
    #[arg(long, value_name = "AGENT")]
    pub probe: Option<String>,
}

/// Arguments of `brief`.
#[derive(Args, Debug)]
pub struct BriefArgs {
    /// The session to write the briefing for [default: the current session]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
