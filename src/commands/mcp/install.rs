//! `cbroker mcp install AGENT`: prints the configuration with which an agent starts the server, or
//! writes it into the agent's file.

use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Map, Value, json};

use crate::cli::{McpAgent, McpInstallArgs};
use crate::config::{Config, NewFileMode, replace_file};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

/// The server's name in every configuration.
const NAME: &str = "cbroker";
/// The environment variables that the server reads. Codex passes on only those that are listed.
const VARIABLES: [&str; 4] = [
    "CBROKER_HOME",
    "CBROKER_NAME",
    "CBROKER_SESSION",
    "CBROKER_URL",
];

/// Prints the piece of configuration, or writes it.
pub(super) fn run(args: &McpInstallArgs, config: &Config, output: &Output) -> Result<Exit, Error> {
    let program = std::env::current_exe()
        .map_err(|error| Error::new("the path of this program is not known").caused_by(error))?;
    let file = file(args.agent, config)?;
    let piece = ConfigPiece::of(args.agent, &program.to_string_lossy());
    let shown = file.display().to_string();
    if args.write {
        let is_new = piece.write(&file)?;
        output.line(if is_new {
            format!("wrote {shown}")
        } else {
            format!("{shown} has it already")
        })?;
    } else {
        for line in piece.text().lines() {
            output.line(line)?;
        }
        output.notice(format!("this goes into {shown}; --write puts it there"));
    }
    output.json(&json!({ "file": shown, "text": piece.text() }))?;
    Ok(Exit::Done)
}

/// The file of an agent's configuration: for Claude Code that of the project in this folder.
fn file(agent: McpAgent, config: &Config) -> Result<PathBuf, Error> {
    let folder = |variable: &str, otherwise: &str| -> Result<PathBuf, Error> {
        match config.environment.get(variable) {
            Some(folder) => Ok(PathBuf::from(folder)),
            None => Ok(home(config)?.join(otherwise)),
        }
    };
    Ok(match agent {
        McpAgent::Claude => std::env::current_dir()
            .map_err(|error| Error::new("the current folder is not known").caused_by(error))?
            .join(".mcp.json"),
        McpAgent::Codex => folder("CODEX_HOME", ".codex")?.join("config.toml"),
        McpAgent::Gemini => home(config)?.join(".gemini").join("settings.json"),
        McpAgent::Opencode => folder("XDG_CONFIG_HOME", ".config")?.join("opencode/opencode.json"),
    })
}

fn home(config: &Config) -> Result<PathBuf, Error> {
    let home = config.environment.get("HOME").map(PathBuf::from);
    home.ok_or_else(|| Error::new("the home directory is not known").caused_by("HOME is not set"))
}

/// Why nothing can be added to a configuration.
#[derive(Debug, thiserror::Error)]
enum AddError {
    #[error("it cannot be read: {}", .0.message())]
    Toml(#[from] toml::de::Error),
    #[error("it is not plain JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`{0}` in it is not an object")]
    NotAnObject(&'static str),
    #[error("it has another server `{NAME}`")]
    OtherServer,
    /// What it leads to was, or may have been, chosen by somebody else.
    #[error("it is a link that another user has made or may replace")]
    ForeignLink,
}

/// What is added to a configuration.
enum ConfigPiece {
    /// A table at the end of a TOML file.
    Toml(String),
    /// A server under a key of a JSON file.
    Json { key: &'static str, server: Value },
}

impl ConfigPiece {
    fn of(agent: McpAgent, program: &str) -> Self {
        let command = json!({ "command": program, "args": ["mcp"] });
        match agent {
            McpAgent::Claude | McpAgent::Gemini => Self::Json {
                key: "mcpServers",
                server: command,
            },
            McpAgent::Opencode => Self::Json {
                key: "mcp",
                server: json!({ "type": "local", "command": [program, "mcp"], "enabled": true }),
            },
            // A JSON string is a TOML string too.
            McpAgent::Codex => Self::Toml(format!(
                "[mcp_servers.{NAME}]\ncommand = {}\nargs = [\"mcp\"]\nenv_vars = {}\n",
                Value::from(program),
                json!(VARIABLES),
            )),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Toml(text) => text.clone(),
            Self::Json { key, server } => pretty(&json!({ *key: { NAME: server } })),
        }
    }

    /// Adds it to a file, which keeps everything else. Returns whether that was needed.
    fn write(&self, file: &Path) -> Result<bool, Error> {
        let shown = file.display();
        let unchanged = |why: AddError| {
            Error::new(format!("{shown} is not changed"))
                .caused_by(why)
                .with_hint("without --write the piece is printed, to be added by hand")
        };
        let cannot_read = |error| Error::new(format!("cannot read {shown}")).caused_by(error);
        let before = match LinkTarget::of(file).map_err(cannot_read)? {
            LinkTarget::ChosenByOthers => return Err(unchanged(AddError::ForeignLink)),
            LinkTarget::Missing => None,
            LinkTarget::At(path) => Some(OldFile::read(path).map_err(cannot_read)?),
        };
        let text = before.as_ref().map_or("", |before| before.text.as_str());
        let Some(after) = self.added_to(text).map_err(unchanged)? else {
            return Ok(false);
        };
        replace(file, before, &after)
            .map_err(|error| Error::new(format!("cannot write {shown}")).caused_by(error))?;
        Ok(true)
    }

    /// The text with the piece; `None` if it already has it.
    fn added_to(&self, before: &str) -> Result<Option<String>, AddError> {
        match self {
            Self::Toml(piece) => {
                let table: toml::Table = before.parse()?;
                let wanted: toml::Table = piece.parse()?;
                let server = |table: &toml::Table| -> Option<toml::Value> {
                    table.get("mcp_servers")?.get(NAME).cloned()
                };
                match server(&table) {
                    Some(found) if Some(&found) == server(&wanted).as_ref() => Ok(None),
                    Some(_) => Err(AddError::OtherServer),
                    None if before.is_empty() => Ok(Some(piece.clone())),
                    None => Ok(Some(format!("{}\n\n{piece}", before.trim_end()))),
                }
            }
            Self::Json { key, server } => {
                let mut root: Map<String, Value> = if before.trim().is_empty() {
                    Map::new()
                } else {
                    serde_json::from_str(before)?
                };
                let servers = root.entry(*key).or_insert_with(|| json!({}));
                let servers = servers.as_object_mut().ok_or(AddError::NotAnObject(key))?;
                match servers.get(NAME) {
                    Some(found) if found == server => return Ok(None),
                    Some(_) => return Err(AddError::OtherServer),
                    None => servers.insert(NAME.to_owned(), server.clone()),
                };
                Ok(Some(pretty(&Value::Object(root))))
            }
        }
    }
}

fn pretty(value: &Value) -> String {
    // Serialising a JSON value cannot fail.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// The file that is meant by a path, which may be a link.
enum LinkTarget {
    /// There is none.
    Missing,
    /// Somebody else made the link, or may put another one in its place.
    ChosenByOthers,
    /// The file is at this path. If others may write to its folder, it may be a link by now.
    At(PathBuf),
}

impl LinkTarget {
    fn of(file: &Path) -> io::Result<Self> {
        let found = match file.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Missing),
            found => found?,
        };
        if !found.is_symlink() {
            return Ok(Self::At(file.to_owned()));
        }
        if !is_ours(&found) || others_may_rename_in(file.parent().unwrap_or(Path::new("/")))? {
            return Ok(Self::ChosenByOthers);
        }
        match file.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing),
            path => Ok(Self::At(path?)),
        }
    }
}

/// A configuration as it was found.
struct OldFile {
    path: PathBuf,
    text: String,
    /// With which rights it may be written anew.
    permissions: Permissions,
}

impl OldFile {
    /// Reads the file itself, and never what a link at its path leads to.
    fn read(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut open = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path)?;
        let found = open.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        // The new file is this user's: what another user allowed on an own file is not taken over.
        let allowed = if is_ours(&found) { 0o777 } else { 0o755 };
        let permissions = Permissions::from_mode(found.mode() & allowed);
        let mut text = String::new();
        open.read_to_string(&mut text)?;
        Ok(Self {
            path,
            text,
            permissions,
        })
    }
}

/// Whether a file or a link is this user's or root's.
fn is_ours(found: &Metadata) -> bool {
    [0, rustix::process::geteuid().as_raw()].contains(&found.uid())
}

/// Whether users other than this one and root may rename and remove a link of this user's there.
fn others_may_rename_in(folder: &Path) -> io::Result<bool> {
    let found = folder.metadata()?;
    let is_sticky = found.mode() & 0o1000 != 0;
    Ok(!is_ours(&found) || found.mode() & 0o022 != 0 && !is_sticky)
}

/// Puts a new text in the place of a file; a reader sees the old or the new one. What was there
/// before is kept beside it. Others may write to the folder, as to that of a shared project, so
/// nothing is written to a name that they can know before it is there.
fn replace(file: &Path, before: Option<OldFile>, text: &str) -> io::Result<()> {
    let Some(before) = before else {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        return replace_file(file, text.as_bytes(), &NewFileMode::Default);
    };
    let mut backup = before.path.file_name().unwrap_or_default().to_owned();
    backup.push(".before-cbroker");
    let backup = before.path.with_file_name(backup);
    let mode = NewFileMode::Of(before.permissions);
    replace_file(&backup, before.text.as_bytes(), &mode)?;
    replace_file(&before.path, text.as_bytes(), &mode)
}
