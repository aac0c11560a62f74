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
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use crate::cli::{self, CompletionsArgs};
use crate::error::Error;
use crate::exit::Exit;
use crate::output;
use crate::wrap::agent_programs;
use names::WantedNames;

/// The variable that the script sets to the shell's name.
const VARIABLE: &str = "CBROKER_COMPLETE";
/// The function of clap's script for bash.
const OF_CLAP: &str = "-F _clap_complete_cbroker ";
/// The function that calls it with whole words.
const OF_OURS: &str = "-F _cbroker ";
/// bash splits words at a `=`: `--option=value` comes as three words, and only what follows the `=`
/// is replaced. And it would treat the text after an `@` as a separate word, the name of a host.
const BASH_KEEPS_WORDS: &str = r#"
_cbroker() {
    local typed=("${COMP_WORDS[@]}") cursor=$COMP_CWORD value=$2 before=$3
    local COMP_WORDS=() COMP_CWORD=0
    local at word last=-1 is_value
    for at in "${!typed[@]}"; do
        word=${typed[at]}
        [[ $at -eq $cursor && $word != "=" ]] && word=$value
        is_value=false
        if [[ $last -ge 0 && ${COMP_WORDS[last]} == --* ]]; then
            [[ $word == "=" || ${COMP_WORDS[last]} == *= ]] && is_value=true
        fi
        if $is_value; then
            COMP_WORDS[last]+=$word
        else
            last=$((last + 1))
            COMP_WORDS[last]=$word
        fi
        if [[ $at -eq $cursor ]]; then
            COMP_CWORD=$last
            break
        fi
    done
    _clap_complete_cbroker cbroker "${COMP_WORDS[COMP_CWORD]}" "$before"
    if $is_value; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
}
shopt -u hostcomplete
"#;
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

/// Returns the values that an argument takes.
type ValueList = fn() -> Vec<&'static str>;

/// The values of an argument that clap does not know.
const VALUES: [(&str, &str, ValueList); 3] = [
    ("send", "priority", priorities),
    ("ask", "priority", priorities),
    ("doctor", "probe", agent_programs),
];

fn priorities() -> Vec<&'static str> {
    vec!["low", "normal", "high"]
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<Exit, Error> {
    let cannot = |error: std::io::Error| Error::new("cannot make the script").caused_by(error);
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
    let script = String::from_utf8_lossy(&script);
    let script = match shell.as_str() {
        "bash" => script.replace(OF_CLAP, OF_OURS) + BASH_KEEPS_WORDS,
        "zsh" => script.into_owned() + ZSH_AUTOLOADS,
        _ => script.into_owned(),
    };
    output::raw(&script)?;
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

/// The command line with the names and values that its arguments take, and the agents that may
/// stand in the place of `run -- AGENT`.
fn command() -> Command {
    let mut command = cli::command();
    for agent in agent_programs() {
        if command.find_subcommand(agent).is_none() {
            let about = format!("Wrap it: cbroker --name NAME {agent} [ARGS]");
            command = command.subcommand(Command::new(agent).about(about));
        }
    }
    for (verb, argument, values) in VALUES {
        command = command.mut_subcommand(verb, |verb| {
            verb.mut_arg(argument, |argument| {
                argument.add(ArgValueCandidates::new(move || {
                    values().iter().map(CompletionCandidate::new).collect()
                }))
            })
        });
    }
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
        let names = NAMES.map(|(verb, argument, _)| (verb, argument));
        let values = VALUES.map(|(verb, argument, _)| (verb, argument));
        for (verb, argument) in names.into_iter().chain(values) {
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
