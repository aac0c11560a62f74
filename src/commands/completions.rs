//! `cbroker completions`: prints the completion script for a shell, and prints candidates when the
//! shell asks for them.
//!
//! The script of a shell runs this program with a variable of the environment set; the candidates
//! come from the same description of the command line that parses it, and names from the broker
//! (`names`).

mod names;

use std::env;
use std::ffi::OsString;

use clap::Command;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::{CompleteEnv, Shells};

use crate::cli::{self, CompletionsArgs};
use crate::error::Error;
use crate::exit::Exit;
use crate::output;
use names::WantedNames;

/// The variable that the script sets to the shell's name.
const VARIABLE: &str = "CBROKER_COMPLETE";
/// bash would treat the text after an `@` as a separate word, the name of a host.
const BASH_KEEPS_GROUPS: &str = "shopt -u hostcomplete\n";
/// As a file of `$fpath` the script is the body of a function, and runs at the first Tab.
const ZSH_AUTOLOADS: &str = "\
if [ \"$funcstack[1]\" = _cbroker ]; then
    _clap_dynamic_completer_cbroker \"$@\"
fi
";

/// Which names an argument takes: verb, argument, names.
const NAMES: [(&str, &str, WantedNames); 26] = [
    ("send", "name", WantedNames::SessionsAndGroups),
    ("send", "to", WantedNames::SessionsAndGroups),
    ("send", "from", WantedNames::Sessions),
    ("send", "reply_to", WantedNames::Sessions),
    ("ask", "name", WantedNames::SessionsAndGroups),
    ("ask", "to", WantedNames::SessionsAndGroups),
    ("ask", "from", WantedNames::Sessions),
    ("pause", "name", WantedNames::SessionsAndGroups),
    ("resume", "name", WantedNames::SessionsAndGroups),
    ("wait", "name", WantedNames::Sessions),
    ("screen", "name", WantedNames::Sessions),
    ("inbox", "name", WantedNames::Sessions),
    ("history", "name", WantedNames::Sessions),
    ("dead", "name", WantedNames::Sessions),
    ("tail", "name", WantedNames::Sessions),
    ("purge", "name", WantedNames::Sessions),
    ("delete", "name", WantedNames::Sessions),
    ("brief", "name", WantedNames::Sessions),
    ("logs", "session", WantedNames::Sessions),
    ("group list", "group", WantedNames::Groups),
    ("group join", "group", WantedNames::Groups),
    ("group join", "names", WantedNames::Sessions),
    ("group leave", "group", WantedNames::Groups),
    ("group leave", "names", WantedNames::Sessions),
    ("", "name", WantedNames::Sessions),
    ("", "groups", WantedNames::Groups),
];

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<Exit, Error> {
    let cannot = |error: std::io::Error| Error::new("cannot make the script").because(error);
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(&shell) else {
        return Err(Error::usage(format!("there is no script for `{shell}`")));
    };
    let mut script = Vec::new();
    // Called by its name, because a package's script is made where the program is not installed.
    let name = "cbroker";
    completer
        .write_registration(VARIABLE, name, name, name, &mut script)
        .map_err(cannot)?;
    let more = match shell.as_str() {
        "bash" => BASH_KEEPS_GROUPS,
        "zsh" => ZSH_AUTOLOADS,
        _ => "",
    };
    script.extend_from_slice(more.as_bytes());
    output::raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Prints candidates if a shell asks for them. Returns `false` otherwise, and the program runs as
/// usual.
pub fn complete(arguments: &[OsString]) -> bool {
    if env::var_os(VARIABLE).is_none() {
        return false;
    }
    let folder = env::current_dir().ok();
    let completing = CompleteEnv::with_factory(command).var(VARIABLE);
    // A shell cannot use an error, so there are no candidates then.
    completing
        .try_complete(arguments.to_vec(), folder.as_deref())
        .unwrap_or(true)
}

/// The command line with the names that its arguments take.
fn command() -> Command {
    let mut command = cli::command();
    for (verb, argument, wanted) in NAMES {
        let words: Vec<&str> = verb.split_whitespace().collect();
        command = with_names(command, &words, argument, wanted);
    }
    command
}

fn with_names(command: Command, verb: &[&str], argument: &str, wanted: WantedNames) -> Command {
    match verb {
        [] => command.mut_arg(argument, |argument| {
            argument.add(ArgValueCompleter::new(move |typed: &std::ffi::OsStr| {
                names::candidates(wanted, typed)
            }))
        }),
        [first, rest @ ..] => {
            command.mut_subcommand(first, |command| with_names(command, rest, argument, wanted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_in_the_table_exists() {
        // `mut_arg` makes an argument that does not exist, and that has no help text.
        let mut command = command();
        command.build();
        for (verb, argument, _) in NAMES {
            let mut at = &command;
            for word in verb.split_whitespace() {
                at = at.find_subcommand(word).unwrap_or_else(|| panic!("{verb}"));
            }
            let found = at.get_arguments().find(|found| found.get_id() == argument);
            assert!(
                found.is_some_and(|found| found.get_help().is_some()),
                "{verb} {argument}"
            );
        }
    }
}
