//! `config.toml`: what a user may set for good. An unknown key is an error, so that a slip is not ignored.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Effective, Home, Login, Origin};
use crate::envelope::DEFAULT_LIMIT_BYTES;
use crate::error::Error;
use crate::exit::Exit;

/// 24 hours: the TTL of a queue that we declare (SPEC §2).
const DEFAULT_TTL_MS: u64 = 86_400_000;

/// The file as it is written. Every key may be absent.
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
    pub(super) delivery: Option<String>,
    pub(super) brief: Option<bool>,
    pub(super) multiline: Option<bool>,
    pub(super) batch: Option<u32>,
}

/// What the file sets beside the addresses, with defaults filled in. Flags of a single command still come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether wrap, `send` and `ask` start the embedded broker when nothing answers (`autostart`).
    pub autostart: bool,
    /// The TTL of a queue that we declare (`ttl_ms`).
    pub ttl_ms: u64,
    /// The longest body that is sent or taken (`body_limit_bytes`).
    pub body_limit_bytes: usize,
    /// From this many hops on the wrap holds a message (`max_hops`, SPEC §7.4).
    pub max_hops: u32,
    /// So many messages a minute from one peer are injected; more are held (`max_messages_per_minute`).
    pub max_messages_per_minute: u32,
    /// `auto`, `pty`, `hook` or `notify` (`delivery`).
    pub delivery: String,
    /// Whether Claude is briefed (`brief`).
    pub brief: bool,
    /// Whether line breaks are kept where the agent takes bracketed paste (`multiline`).
    pub multiline: bool,
    /// How many waiting messages may share one submission (`batch`).
    pub batch: u32,
}

impl File {
    pub(super) fn read(home: &Home) -> Result<Self, Error> {
        let path = home.config_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Error::new(format!("cannot read {}", path.display())).because(error));
            }
        };
        toml::from_str(&text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Error::new(format!("{} line {line}", path.display()))
                .because(error.message())
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
            delivery: self.delivery.clone().unwrap_or_else(|| "auto".into()),
            brief: self.brief.unwrap_or(true),
            multiline: self.multiline.unwrap_or(false),
            batch: self.batch.unwrap_or(10),
        }
    }

    /// The settings, readable, each with its origin.
    pub(super) fn explain_settings(&self) -> Vec<Effective> {
        let settings = self.settings();
        let row = |key, value: &dyn Display, is_set: bool| Effective {
            key,
            value: value.to_string(),
            origin: if is_set {
                Origin::File
            } else {
                Origin::Default
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

    /// The URL of `url`, or the first line of the file that `url_file` names: there a password is out of sight.
    pub(super) fn url(&self) -> Result<Option<String>, Error> {
        match (&self.url, &self.url_file) {
            (Some(url), _) => Ok(Some(url.clone())),
            (None, None) => Ok(None),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    Error::new(format!("cannot read url_file {}", path.display())).because(error)
                })?;
                Ok(Some(
                    text.lines().next().unwrap_or_default().trim().to_owned(),
                ))
            }
        }
    }

    pub(super) fn management_login(&self) -> Option<Login> {
        let (user, password) = (self.mgmt_user.clone()?, self.mgmt_pass.clone()?);
        Some(Login { user, password })
    }
}
