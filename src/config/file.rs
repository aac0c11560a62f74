//! `config.toml`: the persistent settings of a user. An unknown key is an error, so that typing
//! errors are not ignored.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Deserializer};

use super::{Effective, Home, ValueOrigin};
use crate::envelope::DEFAULT_LIMIT_BYTES;
use crate::error::Error;
use crate::exit::Exit;

/// 24 hours: the TTL of the queues that cbroker declares.
const DEFAULT_TTL_MS: u64 = 86_400_000;

/// The content of the file. All keys are optional.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "`url_file` is the key's name")]
pub(super) struct File {
    pub(super) url: Option<String>,
    pub(super) url_file: Option<PathBuf>,
    pub(super) mgmt_url: Option<String>,
    pub(super) mgmt_user: Option<String>,
    pub(super) mgmt_pass: Option<String>,
    pub(super) ca_cert: Option<PathBuf>,
    pub(super) autostart: Option<bool>,
    pub(super) ttl_ms: Option<u64>,
    pub(super) body_limit_bytes: Option<usize>,
    pub(super) max_hops: Option<u32>,
    pub(super) max_messages_per_minute: Option<u32>,
    pub(super) delivery: Option<DeliveryMode>,
    pub(super) brief: Option<bool>,
    pub(super) multiline: Option<bool>,
    #[serde(deserialize_with = "batch")]
    pub(super) batch: Option<u32>,
}

/// Which ways deliver messages to an agent: the option `--delivery`, whose help has these texts,
/// and the key `delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryMode {
    /// The first way that is open, the keyboard last
    #[default]
    Auto,
    /// cbroker's plugin inside Claude Code: submitted as your own words
    Plugin,
    /// Claude Code's inbox socket: a teammate's request
    Inbox,
    /// Codex's or opencode's own interface for programs: as your own words
    Api,
    /// Claude Code's hooks: a notification
    Hook,
    /// Typed into its prompt: as your own words
    #[serde(rename = "pty")]
    #[value(name = "pty")]
    Keyboard,
    /// Nothing is typed: title and bell; `cbroker inbox` reads
    Notify,
}

impl Display for DeliveryMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Plugin => "plugin",
            Self::Inbox => "inbox",
            Self::Api => "api",
            Self::Hook => "hook",
            Self::Keyboard => "pty",
            Self::Notify => "notify",
        })
    }
}

/// Checks the bounds of `--batch`.
fn batch<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let batch = u32::deserialize(from)?;
    if (1..=100).contains(&batch) {
        return Ok(Some(batch));
    }
    Err(serde::de::Error::custom("`batch` is not between 1 and 100"))
}

/// The settings of the file other than addresses, with defaults. Flags of a command take
/// precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether a wrap, `send` and `ask` start the embedded broker if none answers (`autostart`).
    pub autostart: bool,
    /// The TTL of the queues that cbroker declares (`ttl_ms`).
    pub ttl_ms: u64,
    /// The longest message body that is sent or accepted (`body_limit_bytes`).
    pub body_limit_bytes: usize,
    /// The wrap holds a message with more hops than this (`max_hops`).
    pub max_hops: u32,
    /// How many messages of one peer are delivered in a minute; further ones are held
    /// (`max_messages_per_minute`).
    pub max_messages_per_minute: u32,
    /// How messages are delivered without the option `--delivery` (`delivery`).
    pub delivery: DeliveryMode,
    /// Whether Claude gets a briefing (`brief`).
    pub brief: bool,
    /// Whether line breaks are kept if the agent supports bracketed paste (`multiline`).
    pub multiline: bool,
    /// How many waiting messages can share one submission (`batch`).
    pub batch: u32,
}

impl Settings {
    /// Returns the settings in a text of `config.toml`, except addresses, for display and with
    /// their sources. An error names the line.
    pub fn explain(text: &str, path: &Path) -> Result<Vec<Effective>, Error> {
        Ok(File::parse(text, path)?.explain_settings())
    }
}

impl File {
    pub(super) fn read(home: &Home) -> Result<Self, Error> {
        let path = home.config_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Error::new(format!("cannot read {}", path.display())).caused_by(error));
            }
        };
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            // Some messages have two lines.
            let why = error.message().lines().collect::<Vec<_>>().join(", ");
            Error::new(format!("{} line {line}", path.display()))
                .caused_by(why)
                .with_hint("correct that line; `cbroker doctor` checks the rest without the file")
                .exit_with(Exit::Usage)
        })
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            autostart: self.autostart.unwrap_or(true),
            ttl_ms: self.ttl_ms.unwrap_or(DEFAULT_TTL_MS),
            body_limit_bytes: self.body_limit_bytes.unwrap_or(DEFAULT_LIMIT_BYTES),
            max_hops: self.max_hops.unwrap_or(20),
            max_messages_per_minute: self.max_messages_per_minute.unwrap_or(30),
            delivery: self.delivery.unwrap_or_default(),
            brief: self.brief.unwrap_or(true),
            multiline: self.multiline.unwrap_or(false),
            batch: self.batch.unwrap_or(10),
        }
    }

    /// Returns the settings for display, each with its source.
    pub(super) fn explain_settings(&self) -> Vec<Effective> {
        let settings = self.settings();
        let row = |key, value: &dyn Display, is_set: bool| Effective {
            key,
            value: value.to_string(),
            origin: if is_set {
                ValueOrigin::File
            } else {
                ValueOrigin::Default
            },
        };
        vec![
            row("autostart", &settings.autostart, self.autostart.is_some()),
            row("ttl_ms", &settings.ttl_ms, self.ttl_ms.is_some()),
            row(
                "body_limit_bytes",
                &settings.body_limit_bytes,
                self.body_limit_bytes.is_some(),
            ),
            row("max_hops", &settings.max_hops, self.max_hops.is_some()),
            row(
                "max_messages_per_minute",
                &settings.max_messages_per_minute,
                self.max_messages_per_minute.is_some(),
            ),
            row("delivery", &settings.delivery, self.delivery.is_some()),
            row("brief", &settings.brief, self.brief.is_some()),
            row("multiline", &settings.multiline, self.multiline.is_some()),
            row("batch", &settings.batch, self.batch.is_some()),
        ]
    }

    /// Returns `url`, or the first line of the file named by `url_file`, which keeps a password out
    /// of the configuration.
    pub(super) fn url(&self) -> Result<Option<String>, Error> {
        match (&self.url, &self.url_file) {
            (Some(_), Some(_)) => Err(Error::usage("config.toml has both url and url_file")
                .with_hint("leave out one of them: either may be the broker that is meant")),
            (Some(url), None) => Ok(Some(url.clone())),
            (None, None) => Ok(None),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    Error::new(format!("cannot read url_file {}", path.display())).caused_by(error)
                })?;
                Ok(Some(
                    text.lines().next().unwrap_or_default().trim().to_owned(),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    fn explain(text: &str) -> Result<Vec<Effective>, Error> {
        Settings::explain(text, Path::new("config.toml"))
    }

    /// Formats the rows as a file that sets them all.
    fn written(rows: &[Effective]) -> String {
        rows.iter().fold(String::new(), |mut text, row| {
            let quote = if row.key == "delivery" { "\"" } else { "" };
            let _ = writeln!(text, "{} = {quote}{}{quote}", row.key, row.value);
            text
        })
    }

    fn line() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            Just("ttl_ms".to_owned()),
            Just("batch".to_owned()),
            Just("delivery".to_owned()),
            Just("brief".to_owned()),
            Just("url".to_owned()),
            Just("max_hops".to_owned()),
            "[a-z_.\\[\\]\"]{0,12}",
        ];
        let value = prop_oneof![
            Just("true".to_owned()),
            Just("\"pty\"".to_owned()),
            (-3i64..200).prop_map(|number| number.to_string()),
            any::<i64>().prop_map(|number| number.to_string()),
            "\\PC{0,12}",
        ];
        (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"))
    }

    proptest! {
        #[test]
        fn what_is_understood_is_understood_again_and_what_is_not_is_one_line_and_a_hint(
            lines in proptest::collection::vec(line(), 0..6),
            noise in prop_oneof![Just(String::new()), any::<String>()],
        ) {
            match explain(&(lines.concat() + &noise)) {
                Ok(rows) => {
                    let values = |rows: Vec<Effective>| {
                        rows.into_iter().map(|row| row.value).collect::<Vec<_>>()
                    };
                    let again = explain(&written(&rows)).map(values);
                    prop_assert_eq!(again.ok(), Some(values(rows)));
                }
                Err(error) => {
                    let text = error.to_string();
                    let further: Vec<_> = text.lines().skip(1).collect();
                    let is_hint = |line: &&str| line.starts_with("hint: ");
                    prop_assert!(further.len() < 2 && further.iter().all(is_hint), "{}", text);
                }
            }
        }
    }

    #[test]
    fn a_value_that_no_option_would_take_is_refused() {
        for text in [
            "delivery = \"typed\"",
            "batch = 0",
            "batch = 101",
            "ttl_ms = -1",
        ] {
            assert!(explain(text).is_err(), "{text}");
        }
        assert!(explain("delivery = \"notify\"\nbatch = 100").is_ok());
    }
}
