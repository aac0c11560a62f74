//! Resolves `--delivery`, from the options, the configuration and the program's profile.

use crate::config::{Config, DeliveryWay};
use crate::error::Error;
use crate::wrap::agents::{DefaultDelivery, Profile};
use crate::wrap::delivery::Mode;
use crate::wrap::options::WrapOptions;

/// Resolves `--delivery` for this program.
pub(super) fn resolve(
    options: &WrapOptions,
    profile: &Profile,
    config: &Config,
) -> Result<Mode, Error> {
    let program = options.program.to_string_lossy();
    let configured = match config.settings.delivery {
        DeliveryWay::Plugin => Some(Mode::Plugin),
        DeliveryWay::Inbox => Some(Mode::Inbox),
        DeliveryWay::Api => Some(Mode::Api),
        DeliveryWay::Pty => Some(Mode::Keyboard),
        DeliveryWay::Hook => Some(Mode::Hook),
        DeliveryWay::Notify => Some(Mode::Notify),
        DeliveryWay::Auto => None,
    };
    let has_way = |mode: Mode| match mode {
        Mode::Plugin | Mode::Inbox | Mode::Hook => profile.has_hooks,
        Mode::Api => matches!(profile.name, "codex" | "opencode"),
        Mode::Auto | Mode::Keyboard | Mode::Notify => true,
    };
    let asked = options.delivery.filter(|&mode| mode != Mode::Auto);
    match (asked, profile.default_delivery) {
        (Some(Mode::Keyboard), DefaultDelivery::NoticeOnly) => Err(Error::usage(format!(
            "nothing is typed into {program}"
        ))
        .because("it executes what is typed into it")
        .hint("leave `--delivery` out: messages are announced, and `cbroker inbox` reads them")),
        (Some(mode), _) if !has_way(mode) => Err(Error::usage(format!(
            "`--delivery {}` does not work with {program}",
            mode.word()
        ))
        .because("it has no such way in that cbroker knows")),
        (Some(mode), _) => Ok(mode),
        (None, DefaultDelivery::NoticeOnly | DefaultDelivery::Notice) => Ok(Mode::Notify),
        (None, DefaultDelivery::Typing) => Ok(configured
            .filter(|&mode| has_way(mode))
            .unwrap_or(Mode::Auto)),
    }
}
