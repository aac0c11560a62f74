//! `cbroker ui`: open the management page in the browser, or print its address where none can be opened.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::config::Config;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// Opens the page; prints the address in any case.
pub(super) fn run(config: &Config, output: &Output) -> Result<Exit, Error> {
    let url = &config.management.url;
    let was_opened = !output.is_json() && open(config, url);
    output.json(&json!({ "url": url }))?;
    output.line(url)?;
    if !was_opened && !output.is_json() {
        output.notice("no browser could be opened here; open the address above");
    }
    Ok(Exit::Done)
}

/// Only where there is a screen: a text browser would take the terminal over.
fn open(config: &Config, url: &str) -> bool {
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else if config.environment.get("DISPLAY").is_some()
        || config.environment.get("WAYLAND_DISPLAY").is_some()
    {
        "xdg-open"
    } else {
        return false;
    };
    let opened = Command::new(opener)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    opened.is_ok_and(|status| status.success())
}
