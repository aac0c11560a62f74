//! Profiles of agents in TOML: the built-in ones, and the user's in the folder `agents/` of
//! cbroker's home.
//!
//! A user's file `NAME.toml` replaces fields of the profile of that name; a new name describes a
//! new agent. An invalid file is reported and ignored. Profiles are read once and live as long as
//! the process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;

use super::input_line::{InputLine, LongTextRows};
use super::known::executes_its_input;
use super::{DefaultDelivery, Profile, Prompt, TypingPace, VimFooter};

const BUILT_IN: [(&str, &str); 5] = [
    ("claude", include_str!("profiles/claude.toml")),
    ("codex", include_str!("profiles/codex.toml")),
    ("opencode", include_str!("profiles/opencode.toml")),
    ("gemini", include_str!("profiles/gemini.toml")),
    ("aider", include_str!("profiles/aider.toml")),
];

/// The folder of the user's profiles; set before the first use of a profile.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();
static AGENTS: OnceLock<Agents> = OnceLock::new();

/// All profiles of agents.
struct Agents {
    profiles: Vec<&'static Profile>,
    complaints: Vec<String>,
}

/// Sets the folder of the user's profiles. Must be called before the first use of a profile.
pub fn use_folder(folder: PathBuf) {
    // A second call has no effect: profiles do not change while the program runs.
    let _first = FOLDER.set(folder);
}

/// Why files of the user are not used, one line for each.
pub fn complaints() -> &'static [String] {
    &agents().complaints
}

/// The profiles of all agents.
pub(super) fn profiles() -> &'static [&'static Profile] {
    &agents().profiles
}

fn agents() -> &'static Agents {
    AGENTS.get_or_init(|| Agents::read(FOLDER.get().map(PathBuf::as_path)))
}

impl Agents {
    fn read(folder: Option<&Path>) -> Self {
        let mut agents = Self {
            profiles: Vec::new(),
            complaints: Vec::new(),
        };
        for (name, text) in BUILT_IN {
            agents.add(name, text, "the program");
        }
        for file in folder.map(files).unwrap_or_default() {
            let Some(name) = file.file_stem().and_then(|name| name.to_str()) else {
                continue;
            };
            match fs::read_to_string(&file) {
                Ok(text) => agents.add(name, &text, &file.display().to_string()),
                Err(error) => agents.complain(&file.display().to_string(), &error.to_string()),
            }
        }
        agents
    }

    fn add(&mut self, name: &str, text: &str, origin: &str) {
        let base = BUILT_IN.iter().find(|(known, _)| *known == name);
        match profile(name, base.map_or("", |(_, text)| text), text) {
            Ok(profile) => {
                let profile: &'static Profile = Box::leak(Box::new(profile));
                self.profiles.retain(|known| known.name != name);
                self.profiles.push(profile);
            }
            Err(error) => self.complain(origin, &error.to_string()),
        }
    }

    fn complain(&mut self, origin: &str, why: &str) {
        self.complaints.push(format!("{origin} is not used: {why}"));
    }
}

/// The user's files, sorted by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_profile = |path: &PathBuf| path.extension().is_some_and(|end| end == "toml");
    let mut files: Vec<PathBuf> = paths.filter(is_profile).collect();
    files.sort();
    files
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
enum ProfileError {
    /// It is not TOML, or has unknown or missing fields. The quoted lines of the error are omitted.
    #[error("{}", .0.message())]
    Toml(#[from] toml::de::Error),
    #[error("`programs` names no program")]
    NoProgram,
    #[error("`{0}` executes what is typed into it")]
    Shell(String),
}

/// Parses a profile from `text`, with defaults from `base`.
fn profile(name: &str, base: &str, text: &str) -> Result<Profile, ProfileError> {
    let mut table: toml::Table = base.parse()?;
    table.extend(text.parse::<toml::Table>()?);
    let read: ProfileData = table.try_into()?;
    if read.programs.is_empty() {
        return Err(ProfileError::NoProgram);
    }
    let shell = read.programs.iter().find(|name| executes_its_input(name));
    if let Some(program) = shell {
        return Err(ProfileError::Shell(program.clone()));
    }
    Ok(read.into_profile(name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileData {
    programs: Vec<String>,
    #[serde(default)]
    seen: Vec<String>,
    #[serde(default)]
    delivery: DeliveryData,
    prompt: Option<PromptData>,
    line: Option<LineData>,
    #[serde(default)]
    busy: Vec<String>,
    #[serde(default)]
    waits: Vec<String>,
    #[serde(default)]
    busy_titles: String,
    idle_title: Option<char>,
    #[serde(default)]
    other_views: Vec<String>,
    #[serde(default)]
    dialogs: Vec<(String, String)>,
    #[serde(default)]
    command_modes: Vec<String>,
    vim: Option<VimData>,
    #[serde(default)]
    pace_ms: PaceData,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum DeliveryData {
    #[default]
    Typing,
    Notice,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptData {
    mark: char,
    shell_mark: char,
    rule: char,
    #[serde(default)]
    placeholder_colours: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineData {
    marks: Vec<String>,
    shell_mark: Option<String>,
    #[serde(default)]
    shell_modes: Vec<String>,
    #[serde(default)]
    placeholders: Vec<String>,
    more: LongTextRowsData,
    #[serde(default)]
    has_cursor: bool,
    #[serde(default)]
    is_asked_in: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LongTextRowsData {
    Marked,
    Indented(String),
    Framed(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VimData {
    insert: String,
    plain: String,
}

/// The defaults are for programs whose state is not known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PaceData {
    before_enter: u64,
    quiet_before_enter: u64,
    quiet_before_text: u64,
    idle_hands: u64,
}

impl Default for PaceData {
    fn default() -> Self {
        let milliseconds = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let default = super::known::DEFAULT_PACE;
        Self {
            before_enter: milliseconds(default.before_enter),
            quiet_before_enter: milliseconds(default.quiet_before_enter),
            quiet_before_text: milliseconds(default.quiet_before_text),
            idle_hands: milliseconds(default.idle_hands),
        }
    }
}

impl ProfileData {
    fn into_profile(self, name: &str) -> Profile {
        let dialogs = self.dialogs.into_iter();
        Profile {
            name: kept(name.to_owned()),
            programs: all_kept(self.programs),
            seen: all_kept(self.seen),
            default_delivery: match self.delivery {
                DeliveryData::Typing => DefaultDelivery::Typing,
                DeliveryData::Notice => DefaultDelivery::Notice,
            },
            // Hooks are registered in Claude Code's settings.
            has_hooks: name == "claude",
            prompt: self.prompt.map(|prompt| Prompt {
                mark: prompt.mark,
                shell_mark: prompt.shell_mark,
                rule: prompt.rule,
                placeholder_colours: prompt.placeholder_colours.leak(),
            }),
            line: self.line.map(LineData::into_line),
            busy: all_kept(self.busy),
            waits: all_kept(self.waits),
            busy_titles: self.busy_titles.chars().collect::<Vec<_>>().leak(),
            idle_title: self.idle_title,
            other_views: all_kept(self.other_views),
            dialogs: dialogs
                .map(|(text, name)| (kept(text), kept(name)))
                .collect::<Vec<_>>()
                .leak(),
            command_modes: all_kept(self.command_modes),
            vim: self.vim.map(|vim| VimFooter {
                insert: kept(vim.insert),
                plain: kept(vim.plain),
            }),
            pace: TypingPace {
                before_enter: Duration::from_millis(self.pace_ms.before_enter),
                quiet_before_enter: Duration::from_millis(self.pace_ms.quiet_before_enter),
                quiet_before_text: Duration::from_millis(self.pace_ms.quiet_before_text),
                idle_hands: Duration::from_millis(self.pace_ms.idle_hands),
            },
        }
    }
}

impl LineData {
    fn into_line(self) -> InputLine {
        InputLine {
            marks: all_kept(self.marks),
            shell_mark: self.shell_mark.map(kept),
            shell_modes: all_kept(self.shell_modes),
            placeholders: all_kept(self.placeholders),
            long_text: match self.more {
                LongTextRowsData::Marked => LongTextRows::Marked,
                LongTextRowsData::Indented(blank) => LongTextRows::Indented(kept(blank)),
                LongTextRowsData::Framed(foot) => LongTextRows::Framed(kept(foot)),
            },
            has_cursor: self.has_cursor,
            is_asked_in: self.is_asked_in,
        }
    }
}

fn kept(text: String) -> &'static str {
    text.leak()
}

fn all_kept(texts: Vec<String>) -> &'static [&'static str] {
    texts.into_iter().map(kept).collect::<Vec<_>>().leak()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Agents {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Agents::read(Some(folder.path()))
    }

    fn named<'a>(agents: &'a Agents, name: &str) -> &'a Profile {
        let found = agents.profiles.iter().find(|profile| profile.name == name);
        found.unwrap()
    }

    #[test]
    fn every_built_in_profile_can_be_read_and_names_its_version() {
        let agents = Agents::read(None);
        assert_eq!(agents.complaints, [] as [&str; 0]);
        assert_eq!(agents.profiles.len(), BUILT_IN.len());
        for profile in agents.profiles {
            assert!(
                !profile.seen.is_empty() && profile.has_looks(),
                "{profile:?}"
            );
            assert_eq!(profile.has_hooks, profile.name == "claude");
        }
    }

    #[test]
    fn a_users_file_replaces_only_the_fields_that_it_names() {
        let agents = read(&[(
            "claude.toml",
            "busy = [\"working\"]\n[pace_ms]\nbefore_enter = 900\n",
        )]);
        assert_eq!(agents.complaints, [] as [&str; 0]);
        let claude = named(&agents, "claude");
        assert_eq!(claude.busy, ["working"]);
        assert_eq!(claude.pace.before_enter, Duration::from_millis(900));
        assert_eq!(claude.prompt.map(|prompt| prompt.mark), Some('❯'));
        assert!(claude.has_hooks);
    }

    #[test]
    fn an_invalid_file_is_reported_and_the_others_are_used() {
        let agents = read(&[
            ("broken.toml", "programs = ["),
            ("codex.toml", "programs = [\"codex\"]\nbusi = []\n"),
            ("mine.toml", "programs = [\"mine\"]\n"),
            ("none.toml", "seen = [\"1\"]\nprograms = []\n"),
            ("shell.toml", "programs = [\"bash\"]\n"),
            ("notes.txt", "not a profile"),
        ]);
        let about = |file: &str| {
            let found = agents.complaints.iter().find(|line| line.contains(file));
            found.unwrap_or_else(|| panic!("{file}: {:?}", agents.complaints))
        };
        assert_eq!(agents.complaints.len(), 4);
        assert!(about("codex.toml").contains("unknown field `busi`"));
        assert!(about("none.toml").contains("names no program"));
        assert!(about("shell.toml").contains("`bash` executes what is typed into it"));
        about("broken.toml");
        assert_eq!(named(&agents, "codex").busy, ["esc to interrupt"]);
        assert_eq!(
            named(&agents, "mine").default_delivery,
            DefaultDelivery::Typing
        );
    }
}
