//! Command-line arguments and help texts. No behaviour: a command line becomes an [`Invocation`].
//!
//! The command line is split at the first `claude` or `run` before clap parses it (`split_args`),
//! because what follows belongs to the wrapped program, byte for byte. `clap_errors` puts clap's
//! errors into our words.

mod args;
mod clap_errors;
mod duration;
mod split_args;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};

pub use args::*;
pub use duration::{Since, TimeToLive};
pub use split_args::ProgramArgs;

use crate::config::{ApiChoice, Flags, Format, Volume};
use crate::error::Error;
use crate::exit::Exit;

/// A parsed command line.
pub struct Invocation {
    /// The global options.
    pub flags: Flags,
    /// What to do.
    pub action: Action,
}

impl Invocation {
    /// Whether details are wanted, also of errors.
    pub fn is_verbose(&self) -> bool {
        matches!(self.flags.volume, Volume::Verbose(_))
    }
}

/// What to do.
pub enum Action {
    /// Wrap a program.
    Wrap(WrapArgs, ProgramArgs),
    /// Run a verb.
    Verb(Verb),
    /// Run the toy agent of `demo`, and record each submission in this file. Internal, so clap does
    /// not know it.
    Toy(Option<PathBuf>),
}

/// The result of parsing a command line.
pub enum ParsedArgs {
    /// A command to run.
    Invocation(Box<Invocation>),
    /// A help or version text to print.
    Text(String),
}

/// Returns the names of the agents' programs, which may stand in the place of `run -- AGENT`.
pub type AgentNames = fn() -> Vec<&'static str>;

const EXAMPLES: &str = "\
Examples:
  cbroker --name backend claude               wrap Claude Code as the session `backend`
  cbroker --name tests codex                  wrap another agent
  cbroker --name build run -- make watch      wrap any other terminal program
  cbroker send --to backend -m \"API is live\"  send a message to the session `backend`
  cbroker list                                who is there, what waits
  cbroker demo                                see it work, without an agent
";

const ENVIRONMENT: &str = "\
Files: ~/.cbroker (CBROKER_HOME moves it).
Environment: CBROKER_URL, CBROKER_MGMT_URL, CBROKER_MGMT_USER, CBROKER_MGMT_PASS, NO_COLOR.";

const CLAUDE_USAGE: &str = "cbroker --name NAME [OPTIONS] claude [ARGS]";

const CLAUDE_EXAMPLES: &str = "\
Examples:
  cbroker --name backend claude
  cbroker --name backend --allow-send claude --resume   ARGS are Claude Code's own
  cbroker --name backend claude --help                  the help of Claude Code

`cbroker --help` names the agents that can stand in the place of `claude`.";

const RUN_USAGE: &str = "cbroker --name NAME [OPTIONS] run -- PROGRAM [ARGS]";

const RUN_EXAMPLES: &str = "\
Examples:
  cbroker --name build run -- make watch
  cbroker --name tests codex                            an agent needs no `run --`
  cbroker --name notes --delivery pty run -- my-agent   type messages into it

Exit code: that of the program; 128 + n if signal n ended it, 127 if there is no such
program, 126 if it is not executable.";

const USAGE: &str = "\
cbroker [OPTIONS] COMMAND [ARGS]
       cbroker --name NAME [OPTIONS] AGENT [ARGS]
       cbroker --name NAME [OPTIONS] run -- PROGRAM [ARGS]";

const BROKER_HELP: &str = "The broker: amqp://user:password@host:5672/vhost, or amqps:// with TLS";
const API_HELP: &str = "The broker's management API: http://host:15672 [default: from --url]";

/// Terminal coding agents that talk to each other.
///
/// cbroker gives each agent session a name. `cbroker --name NAME claude` runs Claude Code exactly
/// as if it had been started directly. Messages that others send to NAME are delivered into its
/// conversation, once and completely, at a moment when that is safe.
#[derive(Parser)]
#[command(
    name = "cbroker",
    version,
    override_usage = USAGE,
    max_term_width = 110,
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    wrap: WrapArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Options that every command accepts, before or after its name.
#[derive(clap::Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    #[arg(long, global = true, value_name = "URL", help = BROKER_HELP)]
    url: Option<String>,
    #[arg(long, global = true, value_name = "URL", help = API_HELP)]
    mgmt_url: Option<String>,
    /// The user for the management API [default: the broker's]
    #[arg(long, global = true, value_name = "USER")]
    mgmt_user: Option<String>,
    /// Its password (`CBROKER_MGMT_PASS` keeps it out of the process list)
    #[arg(long, global = true, value_name = "PASSWORD")]
    mgmt_pass: Option<String>,
    /// A file of PEM certificates to trust in addition to the system's
    #[arg(long, global = true, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print only results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more; twice: the libraries' own logs too
    #[arg(long, short, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Globals {
    fn into_flags(self, api: ApiChoice) -> Flags {
        Flags {
            url: self.url,
            mgmt_url: self.mgmt_url,
            mgmt_user: self.mgmt_user,
            mgmt_pass: self.mgmt_pass,
            api,
            ca_cert: self.ca_cert,
            format: if self.json {
                Format::Json
            } else {
                Format::Text
            },
            volume: match (self.quiet, self.verbose) {
                (true, _) => Volume::Quiet,
                (false, 0) => Volume::Normal,
                (false, level) => Volume::Verbose(level),
            },
        }
    }
}

/// Parses a command line; its first argument is the program's own name.
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    agents: AgentNames,
) -> Result<ParsedArgs, Error> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    if argv.get(1).is_some_and(|verb| verb == "toy") {
        let record = argv
            .get(2)
            .filter(|option| *option == "--record")
            .and(argv.get(3))
            .map(PathBuf::from);
        return Ok(ParsedArgs::Invocation(Box::new(Invocation {
            flags: Flags::default(),
            action: Action::Toy(record),
        })));
    }
    let command = command();
    let is_agent = |word: &str| agents().contains(&word);
    let (ours, program) = split_args::cut(argv, &command, is_agent);
    let typed = clap_errors::TypedLine::of(&ours, &command);
    let ends_options = ours.iter().any(|argument| argument == "--");
    let cli = match command
        .clone()
        .try_get_matches_from(&ours)
        .and_then(|mut seen| Cli::from_arg_matches_mut(&mut seen))
    {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => return Ok(help(&ours, agents)),
        Err(error) => return Err(clap_errors::in_our_words(&error, &typed, agents)),
    };
    if !ends_options {
        refuse_mistyped_option(cli.verb.as_ref())?;
    }
    if let Some(asked) = program.as_ref().and_then(|program| {
        // With a name, an agent gets its own `--help`.
        let is_ours = cli.wrap.name.is_none() || matches!(program, ProgramArgs::Other(_));
        program.help_option().filter(|_| is_ours)
    }) {
        let of_claude = matches!(program, Some(ProgramArgs::Claude(_)));
        let verb = if of_claude { "claude" } else { "run" };
        return Ok(help(&["cbroker".into(), verb.into(), asked.into()], agents));
    }
    let typed_wrap_option = cli.wrap.first_typed();
    let action = match (program, cli.verb, typed_wrap_option) {
        (Some(program), None, _) => Action::Wrap(checked(cli.wrap, &program)?, program),
        (_, Some(_), Some(option)) => {
            return Err(Error::usage(format!("{option} is an option of a wrap"))
                .caused_by("it is only valid before an agent or `run`")
                .with_hint(typed.place_of(option, &command)));
        }
        (_, Some(verb), None) => Action::Verb(verb),
        (None, None, Some(_)) => {
            return Err(Error::usage("nothing to wrap")
                .caused_by("an agent or `run` is missing")
                .with_hint("cbroker --name NAME claude, or cbroker --name NAME run -- PROGRAM"));
        }
        (None, None, None) => {
            return Ok(help(&["cbroker".into()], agents));
        }
    };
    Ok(ParsedArgs::Invocation(Box::new(Invocation {
        flags: cli.globals.into_flags(api_choice(&action)),
        action,
    })))
}

/// With `move --from`, the options for the management API are those of the broker that is moved
/// from, and not of the one that other commands use.
fn api_choice(action: &Action) -> ApiChoice {
    match action {
        Action::Verb(Verb::Move(args)) if args.from.is_some() => ApiChoice::WithoutFlags,
        _ => ApiChoice::WithFlags,
    }
}

/// Returns the whole command, for completions. `claude` and `run` are split off before clap parses
/// a line; they are included here so that the texts list them.
pub fn command() -> clap::Command {
    let claude = clap::Command::new("claude")
        .about("Wrap Claude Code: cbroker --name NAME claude [ARGS]")
        .long_about("Run Claude Code as a session with a name, to which others can send messages")
        .override_usage(CLAUDE_USAGE)
        .after_help(CLAUDE_EXAMPLES);
    let run = clap::Command::new("run")
        .about("Wrap another program: cbroker --name NAME run -- PROGRAM [ARGS]")
        .long_about("Run a program as a session with a name, to which others can send messages")
        .override_usage(RUN_USAGE)
        .after_help(RUN_EXAMPLES);
    Cli::command().subcommands([claude, run])
}

/// Like [`command`], with all texts, for the manual. `agents` are the programs of the known agents.
pub fn described_command(agents: &[&str]) -> clap::Command {
    command().after_help(format!(
        "{EXAMPLES}\n{}\n\n{}\n{ENVIRONMENT}",
        about_agents(agents),
        about_exit_codes()
    ))
}

fn about_agents(agents: &[&str]) -> String {
    format!(
        "Agents: {}.\nFiles in ~/.cbroker/agents make others known; any other program goes behind \
         `run --`.",
        agents.join(", ")
    )
}

fn about_exit_codes() -> String {
    let codes = Exit::OWN.map(|exit| format!("{} {}", exit.code(), exit.words()));
    let (first, last) = codes.split_at(4);
    format!(
        "Exit codes: {},\n{}; a wrap exits with the code of its program,\n127 if there is no such \
         program.",
        first.join(", "),
        last.join(", ")
    )
}

/// Returns the text that a command line asks for: help or the version. A wrap has its options in
/// its help; on a command line they go before its command.
fn help(argv: &[OsString], agents: AgentNames) -> ParsedArgs {
    let mut command = described_command(&agents());
    for verb in ["claude", "run"] {
        command = command.mut_subcommand(verb, |verb| {
            // The options would bring the description of their group along.
            let (short, long) = (verb.get_about().cloned(), verb.get_long_about().cloned());
            <WrapArgs as clap::Args>::augment_args(verb)
                .about(short.unwrap_or_default())
                .long_about(long.unwrap_or_default())
        });
    }
    let text = match command.try_get_matches_from_mut(argv) {
        Err(asked) => asked.render(),
        Ok(_) => command.render_help(),
    };
    ParsedArgs::Text(text.to_string())
}

/// A text may begin with `-`, but a mistyped option would be sent as one.
fn refuse_mistyped_option(verb: Option<&Verb>) -> Result<(), Error> {
    let text = match verb {
        Some(Verb::Send(args)) => args.message.option_like_text(),
        Some(Verb::Ask(args)) => args.message.option_like_text(),
        _ => None,
    };
    match text {
        None => Ok(()),
        Some(text) => Err(Error::usage(format!("invalid value '{text}' for '[TEXT]'"))
            .caused_by("no such option")
            .with_hint(format!(
                "as a text it goes behind `--`: cbroker send NAME -- {text}"
            ))),
    }
}

fn checked(wrap: WrapArgs, program: &ProgramArgs) -> Result<WrapArgs, Error> {
    if let Some(option) = program.misplaced_option() {
        return Err(Error::usage(format!("`{option}` is not a program"))
            .caused_by("the options of a wrap go before `run`")
            .with_hint("cbroker --name NAME run -- PROGRAM [ARGS]"));
    }
    if wrap.name.is_none() {
        let verb = program.verb();
        return Err(Error::usage("a wrap needs a name")
            .caused_by(format!("--name NAME is missing before `{verb}`"))
            .with_hint(program.line_with("NAME")));
    }
    if matches!(program, ProgramArgs::Other(args) if args.is_empty()) {
        return Err(
            Error::usage("nothing to run").with_hint("cbroker --name NAME run -- PROGRAM [ARGS]")
        );
    }
    Ok(wrap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<ParsedArgs, Error> {
        parse(line.split_whitespace().map(OsString::from), Vec::new)
    }

    fn failure(line: &str) -> Error {
        match read(line) {
            Err(error) => error,
            Ok(_) => panic!("`{line}` was taken"),
        }
    }

    #[test]
    fn the_shape_of_every_argument_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn global_options_go_before_or_after_the_verb() {
        for line in [
            "cbroker --url amqp://h --json list",
            "cbroker list --json --url amqp://h",
        ] {
            let Ok(ParsedArgs::Invocation(invocation)) = read(line) else {
                panic!("{line}")
            };
            assert_eq!(invocation.flags.url.as_deref(), Some("amqp://h"));
            assert_eq!(invocation.flags.format, Format::Json);
        }
    }

    #[test]
    fn a_wrap_takes_its_options_before_the_program() {
        let Ok(ParsedArgs::Invocation(invocation)) =
            read("cbroker --name my-api --ttl 5 --no-brief claude --name x -- --help")
        else {
            panic!("not taken");
        };
        let Action::Wrap(args, ProgramArgs::Claude(rest)) = invocation.action else {
            panic!("no wrap")
        };
        assert_eq!(
            (args.name.as_deref(), args.no_brief),
            (Some("my-api"), true)
        );
        assert_eq!(args.ttl.map(|ttl| ttl.milliseconds), Some(5));
        assert_eq!(rest, ["--name", "x", "--", "--help"]);
    }

    #[test]
    fn what_makes_no_sense_is_told_in_our_words_with_exit_2() {
        for (line, what) in [
            ("cbroker --name x list", "--name is an option of a wrap"),
            ("cbroker --name x", "nothing to wrap"),
            ("cbroker claude", "a wrap needs a name"),
            ("cbroker --name x run", "nothing to run"),
            ("cbroker --name x run --", "nothing to run"),
            ("cbroker frobnicate", "unrecognized subcommand 'frobnicate'"),
            ("cbroker send --too x", "unexpected argument '--too' found"),
            (
                "cbroker why",
                "the following required arguments were not provided: <ID>",
            ),
            (
                "cbroker --quiet -v list",
                "the argument '--quiet' cannot be used with '--verbose...'",
            ),
        ] {
            let error = failure(line);
            assert!(error.summary().starts_with(what), "{line}: {error}");
            assert_eq!(error.exit().code(), 2, "{line}");
        }
        assert_eq!(
            failure("cbroker send --too x").hint(),
            Some("a similar argument exists: '--to'")
        );
        assert_eq!(failure("cbroker why").hint(), Some("cbroker why --help"));
    }
}
