//! A temporary `CBROKER_HOME`, and runs of the binary in it without the user's environment.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A temporary home, removed on drop.
pub(crate) struct Place {
    folder: TempDir,
    url: Option<String>,
    management: Option<String>,
    sees_docker: bool,
    /// The home's folder in the temporary one.
    home: String,
    runtime: Option<PathBuf>,
}

/// The result of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        // The path must be short, because it contains sockets.
        let folder = tempfile::Builder::new()
            .prefix("cb")
            .tempdir_in("/tmp")
            .unwrap();
        Self {
            folder,
            url: None,
            management: None,
            sees_docker: false,
            home: "home".to_owned(),
            runtime: None,
        }
    }

    /// Creates a home whose name is so long that some of its sockets go to this runtime folder.
    pub(crate) fn with_long_path(length: usize, runtime: &Path) -> Self {
        Self {
            home: "h".repeat(length),
            runtime: Some(runtime.to_owned()),
            ..Self::new()
        }
    }

    /// Creates a home whose commands use this broker, by `CBROKER_URL` and `CBROKER_MGMT_URL`.
    pub(crate) fn at(url: &str, management: Option<&str>) -> Self {
        Self {
            url: Some(url.to_owned()),
            management: management.map(str::to_owned),
            ..Self::new()
        }
    }

    /// Creates a home whose commands can use the Docker engine of `DOCKER_HOST`.
    pub(crate) fn with_docker() -> Self {
        Self {
            sees_docker: true,
            ..Self::new()
        }
    }

    /// Returns the parent folder of the home, in which tests can put files.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join(&self.home)
    }

    /// Returns a command that runs the binary with a clean environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("CBROKER_HOME", self.home())
            .env("HOME", self.folder.path());
        command
            .env("TERM", "xterm-256color")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        // The container's name is unique on a machine, so only the Docker test may use the engine.
        let visible: &[&str] = if self.sees_docker {
            &["PATH", "DOCKER_HOST"]
        } else {
            &["PATH"]
        };
        for name in visible {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if !self.sees_docker {
            command.env(
                "DOCKER_HOST",
                format!("unix://{}", self.folder.path().join("no-docker").display()),
            );
        }
        if let Some(runtime) = &self.runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        if let Some(url) = &self.url {
            command.env("CBROKER_URL", url);
        }
        if let Some(url) = &self.management {
            command.env("CBROKER_MGMT_URL", url);
        }
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(&self.command().args(arguments).output().unwrap())
    }

    pub(crate) fn run_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Ran {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// Runs the binary, expects success, and returns the output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    }

    /// Runs the binary with `--json`, expects success, and returns each line of the output.
    pub(crate) fn json<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Vec<Value> {
        let mut all: Vec<_> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        all.push("--json".into());
        self.ok(all)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Returns the row of one session in `list --json`.
    pub(crate) fn listed(&self, name: &str) -> Option<Value> {
        let rows = self.json(["list", "-q"]).remove(0);
        rows.as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == name)
            .cloned()
    }
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Expects a failure with this exit code whose message begins with `beginning`. A failure is
    /// one line and at most one hint.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, beginning: &str) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        let error = lines
            .iter()
            .position(|line| line.starts_with(&format!("cbroker: {beginning}")));
        let error = error.unwrap_or_else(|| panic!("no `cbroker: {beginning}…` in {self:?}"));
        let after = &lines[error + 1..];
        assert!(
            after.len() <= 1 && after.iter().all(|line| line.starts_with("hint: ")),
            "{self:?}"
        );
        self
    }

    #[track_caller]
    pub(crate) fn hints(&self, hint: &str) -> &Self {
        assert!(
            self.err
                .lines()
                .any(|line| line.starts_with("hint: ") && line.contains(hint)),
            "{self:?}"
        );
        self
    }
}

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_cbroker")
}
