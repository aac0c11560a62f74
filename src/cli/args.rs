//! The shape and the help of each verb's arguments. Units and limits stand in the help texts.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::envelope::Priority;

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
    #[command(
        after_help = "Examples:\n  cbroker list\n  cbroker list --json | jq '.[] | select(.pending > 0)'"
    )]
    List,
    /// Show the messages that a session holds and why
    #[command(
        after_help = "Examples:\n  cbroker inbox            inside a session: what it holds\n  cbroker inbox backend --take   read them here; they will not be typed"
    )]
    Inbox(InboxArgs),
    /// Tell the story of one message: sent, confirmed, held, injected
    #[command(after_help = "Example:\n  cbroker why 01JD3ZQ8V4K2M6N8P0R2T4V6X8")]
    Why(WhyArgs),
    /// Stream the messages of a queue (takes them; --no-ack only looks)
    #[command(
        after_help = "Examples:\n  cbroker tail backend --no-ack    what waits, left in its place\n  cbroker tail backend --json      take each message as it comes"
    )]
    Tail(TailArgs),
    /// Drop all waiting messages of a queue
    #[command(after_help = "Example:\n  cbroker purge backend --yes")]
    Purge(ConfirmedArgs),
    /// Delete a queue and what waits in it
    #[command(after_help = "Example:\n  cbroker delete backend --yes")]
    Delete(ConfirmedArgs),
    /// Hold back messages in a session until `resume`
    #[command(after_help = "Examples:\n  cbroker pause backend\n  cbroker pause --all")]
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
    /// Say whether the broker is there and what it is
    #[command(
        after_help = "Examples:\n  cbroker status\n  cbroker status --show-url    the full URL with its password, for other clients"
    )]
    Status(StatusArgs),
    /// Show the log of the local broker
    #[command(after_help = "Examples:\n  cbroker logs\n  cbroker logs -f")]
    Logs(LogsArgs),
    /// Open the broker's management page in the browser
    #[command(after_help = "Example:\n  cbroker ui")]
    Ui,
    /// Stop the local broker and delete all its data
    #[command(after_help = "Example:\n  cbroker nuke --yes")]
    Nuke(YesArgs),
    /// Run the broker in the foreground
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Carry queues and waiting messages from one broker to another
    #[command(name = "move", after_help = MOVE_EXAMPLES)]
    Move(MoveArgs),
    /// Run the broker as a service of this user
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Look at everything that has to work, and say how to mend what does not
    #[command(
        after_help = "Examples:\n  cbroker doctor\n  cbroker doctor --probe claude    also try to send from inside the agent's sandbox"
    )]
    Doctor(DoctorArgs),
    /// Print the effective settings and where each came from
    #[command(after_help = "Example:\n  cbroker config")]
    Config,
    /// Print the briefing for CLAUDE.md or AGENTS.md
    #[command(after_help = "Example:\n  cbroker brief --name backend >> CLAUDE.md")]
    Brief(BriefArgs),
    /// Show it all at work: a broker, two sessions, messages both ways
    #[command(after_help = "Example:\n  cbroker demo")]
    Demo,
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  cbroker completions bash > ~/.local/share/bash-completion/completions/cbroker\n  cbroker completions zsh > ~/.zfunc/_cbroker"
    )]
    Completions(CompletionsArgs),
    /// Print the manual page
    #[command(after_help = "Example:\n  cbroker man | man -l -")]
    Man,
}

const SEND_EXAMPLES: &str = "\
Examples:
  cbroker send --to backend -m \"GET /users is live\" -f api/openapi.yaml
  cbroker send --to backend --to frontend --message-file notes.md
  git diff | cbroker send --to reviewer --reply-to backend
  cbroker send --to backend -m \"stop the migration\" --wait --timeout 30

Exit code 4: the broker did not confirm, the queue is full, or no receipt came.";

const ASK_EXAMPLES: &str = "\
Examples:
  cbroker ask --to backend -m \"Which port does the API use?\"
  port=$(cbroker ask --to backend -m \"Only the port number, please\" --timeout 60)";

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
  cbroker move --to amqps://user:password@host/vhost      from the local broker to the cloud
  cbroker move --from amqp://guest:guest@localhost:5673   from another broker to the local one

A message is confirmed there before it is acked here. Sessions that are attached must be closed first.";

/// Options of a wrap, before `claude` or `run`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Options of a wrap (before `claude` or `run`)")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub struct WrapArgs {
    /// The session's name; `my-backend`, `my_backend` and `My Backend` are all `myBackend`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How long a message waits for the session, in milliseconds [default: 86400000, a day]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub ttl: Option<u64>,
    /// Exit with 3 when the broker cannot be reached, instead of running without it
    #[arg(long)]
    pub no_fallback: bool,
    /// Refuse when another session of this name is attached
    #[arg(long)]
    pub exclusive: bool,
    /// Do not tell Claude what peer messages are
    #[arg(long)]
    pub no_brief: bool,
    /// Do not start the local broker when none answers
    #[arg(long)]
    pub no_start: bool,
    /// How messages get in [default: auto]
    #[arg(long, value_name = "WAY")]
    pub delivery: Option<Delivery>,
    /// Keep line breaks where the agent takes bracketed paste
    #[arg(long)]
    pub multiline: bool,
    /// How many waiting messages may share one submission [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub batch: Option<u32>,
    /// Let Claude run `cbroker send` without asking each time
    #[arg(long)]
    pub allow_send: bool,
}

/// How messages reach an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    /// The best way that the agent is known to take
    Auto,
    /// Typed into its prompt
    Pty,
    /// Through its hooks, without the keyboard
    Hook,
    /// Nothing is typed: title and bell; `cbroker inbox` reads
    Notify,
}

impl WrapArgs {
    /// The first option that was typed, for the error where a wrap option stands before another verb.
    pub(super) fn first_typed(&self) -> Option<&'static str> {
        [
            (self.name.is_some(), "--name"),
            (self.ttl.is_some(), "--ttl"),
            (self.no_fallback, "--no-fallback"),
            (self.exclusive, "--exclusive"),
            (self.no_brief, "--no-brief"),
            (self.no_start, "--no-start"),
            (self.delivery.is_some(), "--delivery"),
            (self.multiline, "--multiline"),
            (self.batch.is_some(), "--batch"),
            (self.allow_send, "--allow-send"),
        ]
        .into_iter()
        .find_map(|(is_typed, option)| is_typed.then_some(option))
    }
}

/// What `send` and `ask` have in common.
#[derive(Args, Debug)]
pub struct LetterArgs {
    /// The text; without it and --message-file, standard input
    #[arg(short, long, value_name = "TEXT", conflicts_with = "message_file")]
    pub message: Option<String>,
    /// A file that holds the text
    #[arg(long, value_name = "PATH")]
    pub message_file: Option<PathBuf>,
    /// A file to point the recipient to; repeats
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Who sends [default: the session around us, else `cli`]
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// How urgent; information only
    #[arg(long, value_name = "LEVEL", value_parser = priority)]
    pub priority: Option<Priority>,
    /// Further information; repeats
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub meta: Vec<(String, String)>,
    /// Give up on a message that waited so long, in milliseconds
    #[arg(long, value_name = "MS")]
    pub ttl: Option<u64>,
    /// Do not start the local broker when none answers
    #[arg(long)]
    pub no_start: bool,
}

/// Arguments of `send`.
#[derive(Args, Debug)]
pub struct SendArgs {
    /// The recipient; repeats
    #[arg(long, value_name = "NAME", required = true)]
    pub to: Vec<String>,
    /// What is said, and by whom.
    #[command(flatten)]
    pub letter: LetterArgs,
    /// The session to answer
    #[arg(long, value_name = "NAME")]
    pub reply_to: Option<String>,
    /// The id of the message that this one answers
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    /// Refuse a name that no session has used
    #[arg(long)]
    pub must_exist: bool,
    /// Send even when 1000 messages wait: the broker drops the oldest
    #[arg(long)]
    pub drop_oldest: bool,
    /// Wait until the recipient's session says what became of it
    #[arg(long)]
    pub wait: bool,
    /// How long --wait waits, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    pub timeout: u64,
}

/// Arguments of `ask`.
#[derive(Args, Debug)]
pub struct AskArgs {
    /// The recipient
    #[arg(long, value_name = "NAME")]
    pub to: String,
    /// What is said, and by whom.
    #[command(flatten)]
    pub letter: LetterArgs,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
}

/// Arguments of `inbox`.
#[derive(Args, Debug)]
pub struct InboxArgs {
    /// The session [default: the one around us]
    pub name: Option<String>,
    /// Count them as read: they are acked and will not be typed
    #[arg(long)]
    pub take: bool,
}

/// Arguments of `why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// The message's id, as `send` printed it
    pub id: String,
}

/// Arguments of `tail`.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// The queue
    pub name: String,
    /// Only look: every message stays in its place
    #[arg(long)]
    pub no_ack: bool,
    /// End after so many messages
    #[arg(long, short = 'n', value_name = "N")]
    pub count: Option<u64>,
}

/// A queue and the word that it is meant.
#[derive(Args, Debug)]
pub struct ConfirmedArgs {
    /// The queue
    pub name: String,
    /// Really
    #[arg(long)]
    pub yes: bool,
}

/// The word that it is meant.
#[derive(Args, Debug)]
pub struct YesArgs {
    /// Really
    #[arg(long)]
    pub yes: bool,
}

/// One session or all.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct ScopeArgs {
    /// The session
    pub name: Option<String>,
    /// Every attached session
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `start`.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// AMQP port [default: 5672]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Management port [default: 15672]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub mgmt_port: Option<u16>,
    /// Run LavinMQ in a container instead
    #[arg(long)]
    pub docker: bool,
    /// The image to run
    #[arg(
        long,
        value_name = "IMAGE",
        requires = "docker",
        default_value = "cloudamqp/lavinmq:latest"
    )]
    pub image: String,
    /// Keep the container's user guest, for peers of the TypeScript tool
    #[arg(long, requires = "docker")]
    pub guest: bool,
    /// Options of `serve` that `restart` found in `broker.json`; never typed.
    #[arg(skip)]
    pub serve_arguments: Vec<String>,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Print the full URL with its password
    #[arg(long)]
    pub show_url: bool,
}

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Go on as the log grows
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 200)]
    pub lines: usize,
}

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// AMQP port; 0 for a free one
    #[arg(long, value_name = "PORT", default_value_t = 5672)]
    pub port: u16,
    /// Management port; 0 for a free one
    #[arg(long, value_name = "PORT", default_value_t = 15672)]
    pub mgmt_port: u16,
    /// The address to listen on; beyond loopback it needs TLS or --insecure [default: 127.0.0.1 and `::1`]
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Where the store lies [default: ~/.cbroker/data]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// The server's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// AMQPS port; 0 for a free one
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 5671,
        requires = "tls_cert"
    )]
    pub tls_port: u16,
    /// Let the user guest in
    #[arg(long)]
    pub allow_guest: bool,
    /// Listen beyond loopback without TLS
    #[arg(long)]
    pub insecure: bool,
    /// Block publishers above so much memory, in MiB
    #[arg(long, value_name = "MIB")]
    pub memory_limit: Option<u64>,
    /// Runs in the background: leaves the terminal and logs to a file that is rotated; `start` sets it
    #[arg(long, hide = true)]
    pub background: bool,
}

/// Arguments of `move`.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct MoveArgs {
    /// The broker to carry to [default: the local one]
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// The broker to carry from [default: the local one]
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
}

/// What to do with the service.
#[derive(Subcommand)]
pub enum ServiceVerb {
    /// Start the broker with this user's session (systemd or launchd)
    #[command(after_help = "Example:\n  cbroker service install")]
    Install,
    /// Undo `install`
    #[command(after_help = "Example:\n  cbroker service uninstall")]
    Uninstall,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Also try to send from inside this agent's sandbox
    #[arg(long, value_name = "AGENT")]
    pub probe: Option<String>,
}

/// Arguments of `brief`.
#[derive(Args, Debug)]
pub struct BriefArgs {
    /// The session that is briefed [default: the one around us]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

fn priority(text: &str) -> Result<Priority, String> {
    match text {
        "low" => Ok(Priority::Low),
        "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        _ => Err("it is one of low, normal, high".into()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it looks like KEY=VALUE".into()),
    }
}
