//! Resolves `--delivery`, from the options, the configuration and the program's profile.

use crate::config::Config;
use crate::error::Error;
use crate::wrap::agents::{DefaultDelivery, Profile};
use crate::wrap::delivery::DeliveryMode;
use crate::wrap::options::WrapOptions;

/// Resolves `--delivery` for this program.
pub(super) fn resolve(
    options: &WrapOptions,
    profile: &Profile,
    config: &Config,
) -> Result<DeliveryMode, Error> {
    let program = options.program.to_string_lossy();
    let has_way = |mode: DeliveryMode| match mode {
        DeliveryMode::Plugin | DeliveryMode::Inbox | DeliveryMode::Hook => profile.has_hooks,
        DeliveryMode::Api => matches!(profile.name, "codex" | "opencode"),
        DeliveryMode::Auto | DeliveryMode::Keyboard | DeliveryMode::Notify => true,
    };
    let asked = options.delivery.filter(|&mode| mode != DeliveryMode::Auto);
    match (asked, profile.default_delivery) {
        (Some(DeliveryMode::Keyboard), DefaultDelivery::NoticeOnly) => Err(Error::usage(format!(
            "nothing is typed into {program}"
        ))
        .caused_by("it executes what is typed into it")
        .with_hint(
            "leave `--delivery` out: messages are announced, and `cbroker inbox` reads them",
        )),
        (Some(mode), _) if !has_way(mode) => Err(Error::usage(format!(
            "`--delivery {mode}` does not work with {program}"
        ))
        .caused_by("cbroker has no such way in for this program")),
        (Some(mode), _) => Ok(mode),
        (None, DefaultDelivery::NoticeOnly | DefaultDelivery::Notice) => Ok(DeliveryMode::Notify),
        (None, DefaultDelivery::Typing) => {
            let configured = config.settings.delivery;
            Ok(if has_way(configured) {
                configured
            } else {
                DeliveryMode::Auto
            })
        }
    }
}
