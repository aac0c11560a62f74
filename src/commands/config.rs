//! `cbroker config`: prints every effective setting and its source.

use crate::config::{Config, ValueOrigin};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Output, TableRow};

/// Prints the settings. Passwords are not included.
pub(super) fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    output.json(&config.effective)?;
    let rows: Vec<_> = config
        .effective
        .iter()
        .map(|row| TableRow {
            cells: vec![
                row.key.to_owned(),
                row.value.clone(),
                word(row.origin).to_owned(),
            ],
            ..TableRow::default()
        })
        .collect();
    output.table(&["KEY", "VALUE", "FROM"], &rows)?;
    Ok(Exit::Done)
}

/// Prints the settings that apply without a broken `config.toml`, and fails with `error`, which
/// says what is wrong with it.
pub(super) fn run_without_file(config: &Config, error: Error) -> Result<Exit, Error> {
    let output = Output::new(config);
    output.notice("config.toml cannot be used; these settings apply without it");
    run(config, &output)?;
    Err(error)
}

fn word(origin: ValueOrigin) -> &'static str {
    match origin {
        ValueOrigin::Flag => "flag",
        ValueOrigin::Environment => "environment",
        ValueOrigin::File => "config.toml",
        ValueOrigin::Local => "broker.json",
        ValueOrigin::Derived => "derived",
        ValueOrigin::Default => "default",
    }
}
