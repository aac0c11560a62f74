//! `cbroker config`: prints every effective setting and its source.

use crate::config::{Config, Origin};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Prints the settings. Passwords are not included.
pub(super) fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    output.json(&config.effective)?;
    let rows: Vec<Vec<String>> = config
        .effective
        .iter()
        .map(|row| {
            vec![
                row.key.to_owned(),
                row.value.clone(),
                word(row.origin).to_owned(),
            ]
        })
        .collect();
    output.table(&["KEY", "VALUE", "FROM"], &rows)?;
    Ok(Exit::Done)
}

fn word(origin: Origin) -> &'static str {
    match origin {
        Origin::Flag => "flag",
        Origin::Environment => "environment",
        Origin::File => "config.toml",
        Origin::LocalBroker => "broker.json",
        Origin::Derived => "derived",
        Origin::Default => "default",
    }
}
