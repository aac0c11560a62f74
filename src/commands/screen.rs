//! `cbroker screen`: prints what the terminal of a session on this machine shows.

use super::compose::session_name;
use crate::cli::ScreenArgs;
use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, Style, foreign_part};
use crate::wrap::screens_of;

/// Prints the screen of each session of the name.
pub(super) async fn run(args: ScreenArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let name = session_name(&args.name, "NAME")?;
    let screens = screens_of(&name, &config.home).await;
    if screens.is_empty() {
        return Err(
            Error::new(format!("no session `{name}` runs on this machine"))
                .caused_by("a terminal is only shown to its own user, and never through the broker")
                .with_hint("`cbroker list` shows the sessions"),
        );
    }
    for screen in &screens {
        output.json(screen)?;
        if screens.len() > 1 {
            let which = format!("{} {}", screen.name, screen.session);
            output.line(output.paint(Style::Bold, &which))?;
        }
        for line in &screen.lines {
            // The reader may be an agent, and the screen may show a message to another one.
            output.line(foreign_part(line))?;
        }
    }
    Ok(Exit::Done)
}
