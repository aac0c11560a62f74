//! `cbroker man`: prints the manual page, with a section for each verb.

use std::io;

use clap_mangen::Man;

use crate::cli;
use crate::error::Error;
use crate::exit::Exit;
use crate::output;

/// Prints the page as roff.
pub(super) fn run() -> Result<Exit, Error> {
    let page = render().map_err(|error| Error::new("cannot write the manual").because(error))?;
    output::raw(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Done)
}

fn render() -> io::Result<Vec<u8>> {
    let mut command = cli::command();
    command.build();
    let verbs: Vec<_> = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .cloned()
        .collect();
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    for verb in verbs {
        let verb = verb.disable_version_flag(true);
        page.extend_from_slice(
            format!(".SH \"CBROKER {}\"\n", verb.get_name().to_uppercase()).as_bytes(),
        );
        let man = Man::new(verb);
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_extra_section(&mut page)?;
    }
    Ok(page)
}
