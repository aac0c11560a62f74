//! `cbroker man`: prints the manual page. One page has every verb; the options that all take stand
//! in it once.

use std::fmt::Write;
use std::io;

use clap::{Arg, ArgAction, Command};
use clap_mangen::Man;

use crate::cli;
use crate::error::Error;
use crate::exit::Exit;
use crate::output;
use crate::wrap;

/// The date of the page's last revision.
const DATE: &str = "2026-11-29";

/// Prints the page as roff.
pub(super) fn run() -> Result<Exit, Error> {
    let page = render().map_err(|error| Error::new("cannot write the manual").caused_by(error))?;
    output::raw(&page)?;
    Ok(Exit::Done)
}

fn render() -> io::Result<String> {
    let mut command = cli::described_command(&wrap::agent_programs());
    command.build();
    let mut sections = Vec::new();
    let mut more = Vec::new();
    let man = Man::new(command.clone()).date(DATE);
    man.render_title(&mut sections)?;
    man.render_name_section(&mut sections)?;
    man.render_synopsis_section(&mut sections)?;
    man.render_description_section(&mut sections)?;
    man.render_options_section(&mut sections)?;
    man.render_extra_section(&mut more)?;
    man.render_version_section(&mut more)?;
    let mut page = String::from_utf8_lossy(&sections).into_owned();
    page.push_str(".SH COMMANDS\n");
    for verb in visible(&command) {
        add_verb(&mut page, verb)?;
    }
    let more = String::from_utf8_lossy(&more);
    page.extend(lines(&more).map(|line| match line {
        ".SH EXTRA" => ".SH EXAMPLES\n".to_owned(),
        line => format!("{line}\n"),
    }));
    Ok(without_double_breaks(&page))
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    let verbs = command.get_subcommands();
    // The page has everything that `help` prints.
    verbs.filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}

/// Adds a verb with the options of its own, and the verbs below it.
fn add_verb(page: &mut String, verb: &Command) -> io::Result<()> {
    let own = verb.clone().disable_version_flag(true).mut_args(|arg| {
        let is_everybodys = arg.is_global_set() || arg.get_id() == "help";
        arg.hide(is_everybodys)
    });
    let name = own.get_bin_name().unwrap_or(own.get_name()).to_owned();
    let man = Man::new(own);
    let mut sections = Vec::new();
    man.render_description_section(&mut sections)?;
    man.render_options_section(&mut sections)?;
    man.render_extra_section(&mut sections)?;
    let _infallible = writeln!(page, ".SS \"{name}\"\n{}", synopsis(verb, &name));
    for line in lines(&String::from_utf8_lossy(&sections)) {
        let shown = match line {
            ".SH OPTIONS" => continue,
            ".SH DESCRIPTION" | ".SH EXTRA" => ".PP".to_owned(),
            line => match line.strip_prefix(".SH ") {
                Some(heading) => format!(".PP\n\\fB{}\\fR", heading.trim_matches('"')),
                None => line.to_owned(),
            },
        };
        page.push_str(&shown);
        page.push('\n');
    }
    visible(verb).try_for_each(|below| add_verb(page, below))
}

/// The usage of a verb with its own options. Those that every command takes are in the page's
/// section on options.
fn synopsis(verb: &Command, name: &str) -> String {
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let Some(arguments) = usage.strip_prefix(name) else {
        // A wrap: the options before it are not its own.
        return usage.replace('-', "\\-");
    };
    let is_grouped = |arg: &Arg| {
        let mut groups = verb.get_groups().filter(|group| group.is_required_set());
        groups.any(|group| group.get_args().any(|member| member == arg.get_id()))
    };
    let options = verb.get_arguments().filter(|arg| {
        let is_own = !arg.is_positional() && !arg.is_global_set() && !arg.is_hide_set();
        is_own && !arg.is_required_set() && !is_grouped(arg) && arg.get_id() != "help"
    });
    let options = options.map(|arg| {
        let repeats = matches!(arg.get_action(), ArgAction::Append);
        format!("[{arg}]{}", if repeats { "..." } else { "" })
    });
    let options: Vec<String> = options.collect();
    let arguments = arguments.replacen("[OPTIONS]", &options.join(" "), 1);
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let line = format!("\\fB{name}\\fR {}", arguments.join(" "));
    line.trim_end().replace('-', "\\-")
}

/// The lines of some sections without the definitions before them, which the page has once.
fn lines(sections: &str) -> impl Iterator<Item = &str> {
    let is_definition = |line: &str| line.starts_with(".ie ") || line.starts_with(".el ");
    sections.lines().filter(move |line| !is_definition(line))
}

/// Removes line breaks beside empty space and paragraphs without text: they have no effect, and
/// checkers warn of them.
fn without_double_breaks(page: &str) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let starts_anew = |line: &str| line == ".PP" || line.starts_with(".S");
    let at = |at: Option<usize>| at.and_then(|at| lines.get(at)).copied();
    let is_space = |line: Option<&str>| {
        line.is_some_and(|line| line.is_empty() || line == ".sp" || starts_anew(line))
    };
    let mut out = String::with_capacity(page.len());
    for (place, line) in lines.iter().enumerate() {
        let (before, after) = (at(place.checked_sub(1)), at(Some(place + 1)));
        let is_needless = match *line {
            ".br" => is_space(before) || is_space(after),
            ".PP" => after.is_none_or(starts_anew),
            _ => false,
        };
        if !is_needless {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
