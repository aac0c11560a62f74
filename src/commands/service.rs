//! `cbroker service`: runs the broker as a service of this user, with systemd or launchd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::cli::ServiceVerb;
use crate::config::{Config, write_private};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::platform::{self, Services};

const UNIT: &str = "cbroker.service";
const LABEL: &str = "dev.cbroker.broker";

/// The file of a service manager, and its commands.
struct Service {
    file: PathBuf,
    text: String,
    /// Commands after the file is written and before `load`. They may fail, because nothing may be
    /// loaded.
    renew: Vec<Vec<String>>,
    /// Once the file is there.
    load: Vec<Vec<String>>,
    /// While the file is still there.
    unload: Vec<Vec<String>>,
    /// Once the file is gone.
    forget: Vec<Vec<String>>,
    /// Succeeds while the service runs, and prints `sign_of_life` then.
    is_active: Vec<String>,
    sign_of_life: &'static str,
}

/// What `service status` prints.
#[derive(Debug, Serialize)]
struct ServiceStatus {
    file: String,
    /// Whether the file is there.
    installed: bool,
    /// Whether the file is the one that `install` would write now.
    current: bool,
    /// Whether the service manager says that it runs.
    active: bool,
}

/// Writes or removes the service's file and notifies the service manager.
pub(super) fn run(verb: &ServiceVerb, config: &Config, output: &Output) -> Result<Exit, Error> {
    let service = match platform::SERVICES {
        Services::Launchd => launchd(config)?,
        Services::Systemd => systemd(config)?,
    };
    let file = service.file.display().to_string();
    match verb {
        ServiceVerb::Install => {
            write(&service.file, &service.text)?;
            output.line(format!("wrote {file}"))?;
            for command in &service.renew {
                let _not_loaded = printed(command);
            }
            run_all(&service.load)?;
            output.line("the broker starts with your session from now on")?;
        }
        ServiceVerb::Uninstall => {
            if !service.file.exists() {
                output.json(&serde_json::json!({ "file": file }))?;
                output.line("no service is installed")?;
                return Ok(Exit::Done);
            }
            let unloaded = run_all(&service.unload);
            fs::remove_file(&service.file)
                .map_err(|error| Error::new(format!("cannot remove {file}")).caused_by(error))?;
            let forgotten = run_all(&service.forget);
            output.line(format!("removed {file}; the broker's data stays"))?;
            // The service manager may be out of reach for good, as in a container.
            if let Err(error) = unloaded.and(forgotten) {
                output.notice(format!("{}; the broker may still run", error.summary()));
            }
        }
        ServiceVerb::Status => return status(&service, output),
    }
    output.json(&serde_json::json!({ "file": file }))?;
    Ok(Exit::Done)
}

/// Exits with 1 unless the service is installed and runs.
fn status(service: &Service, output: &Output) -> Result<Exit, Error> {
    let written = fs::read_to_string(&service.file).ok();
    let status = ServiceStatus {
        file: service.file.display().to_string(),
        installed: written.is_some(),
        current: written.as_deref() == Some(&*service.text),
        active: written.is_some() && service.is_active(),
    };
    output.json(&status)?;
    let installed = if !status.installed {
        "not installed; `cbroker service install` does that"
    } else if status.current {
        &*status.file
    } else {
        "installed by another version or for another home; `cbroker service install` renews it"
    };
    output.line(format!("service  {installed}"))?;
    let runs = if status.active { "yes" } else { "no" };
    output.line(format!("runs     {runs}"))?;
    Ok(if status.active {
        Exit::Done
    } else {
        Exit::Failed
    })
}

impl Service {
    fn is_active(&self) -> bool {
        printed(&self.is_active).is_some_and(|text| text.contains(self.sign_of_life))
    }
}

/// What a command prints; `None` where it fails.
fn printed(command: &[String]) -> Option<String> {
    let [program, arguments @ ..] = command else {
        return None;
    };
    let output = Command::new(program).args(arguments).output().ok()?;
    let succeeds = output.status.success();
    succeeds.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn systemd(config: &Config) -> Result<Service, Error> {
    let program = program()?;
    let folder = match config.environment.get("XDG_CONFIG_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => user_home(config)?.join(".config"),
    };
    let text = format!(
        "[Unit]\nDescription=cbroker: messages between terminal coding agents\n\n\
         [Service]\nExecStart=\"{}\" serve\nEnvironment=\"CBROKER_HOME={}\"\nRestart=on-failure\n\n\
         [Install]\nWantedBy=default.target\n",
        program.display(),
        config.home.folder().display()
    );
    Ok(Service {
        file: folder.join("systemd/user").join(UNIT),
        text,
        renew: Vec::new(),
        load: vec![
            words("systemctl --user daemon-reload"),
            words(&format!("systemctl --user enable --now {UNIT}")),
        ],
        unload: vec![words(&format!("systemctl --user disable --now {UNIT}"))],
        forget: vec![words("systemctl --user daemon-reload")],
        is_active: words(&format!("systemctl --user is-active --quiet {UNIT}")),
        sign_of_life: "",
    })
}

fn launchd(config: &Config) -> Result<Service, Error> {
    let file = user_home(config)?
        .join("Library/LaunchAgents")
        .join(format!("{LABEL}.plist"));
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\"><dict>\n  <key>Label</key><string>{LABEL}</string>\n  \
         <key>ProgramArguments</key><array><string>{}</string><string>serve</string></array>\n  \
         <key>EnvironmentVariables</key><dict><key>CBROKER_HOME</key><string>{}</string></dict>\n  \
         <key>RunAtLoad</key><true/>\
         <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>\n\
         </dict></plist>\n",
        xml(&program()?.display().to_string()),
        xml(&config.home.folder().display().to_string())
    );
    let path = file.display().to_string();
    let call = |verb: &str| vec!["launchctl".to_owned(), verb.to_owned(), path.clone()];
    Ok(Service {
        // It takes no file of a service that it has.
        renew: vec![call("unload")],
        load: vec![call("load")],
        unload: vec![call("unload")],
        forget: Vec::new(),
        // It lists what is loaded, and the process of what runs.
        is_active: words(&format!("launchctl list {LABEL}")),
        sign_of_life: "\"PID\" =",
        file,
        text,
    })
}

fn run_all(commands: &[Vec<String>]) -> Result<(), Error> {
    for command in commands {
        let line = command.join(" ");
        let failed = |why: String| {
            Error::new("the service manager refused a command")
                .caused_by(why)
                .with_hint(format!(
                    "run `{line}` where your session's service manager is reachable"
                ))
        };
        let [program, arguments @ ..] = command.as_slice() else {
            continue;
        };
        let ran = Command::new(program)
            .args(arguments)
            .output()
            .map_err(|error| failed(format!("{line}: {error}")))?;
        if !ran.status.success() {
            return Err(failed(format!(
                "{line}: {}",
                String::from_utf8_lossy(&ran.stderr).trim()
            )));
        }
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    let cannot = |error: std::io::Error| {
        Error::new(format!("cannot write {}", file.display())).caused_by(error)
    };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(cannot)?;
    }
    write_private(file, text.as_bytes()).map_err(cannot)
}

fn program() -> Result<PathBuf, Error> {
    std::env::current_exe()
        .map_err(|error| Error::new("cannot find this program's own file").caused_by(error))
}

fn user_home(config: &Config) -> Result<PathBuf, Error> {
    config
        .environment
        .get("HOME")
        .map(PathBuf::from)
        .ok_or_else(|| Error::new("no home directory").caused_by("HOME is not set"))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(is_active: &str, sign_of_life: &'static str) -> Service {
        Service {
            file: PathBuf::new(),
            text: String::new(),
            renew: Vec::new(),
            load: Vec::new(),
            unload: Vec::new(),
            forget: Vec::new(),
            is_active: words(is_active),
            sign_of_life,
        }
    }

    #[test]
    fn a_service_that_is_only_loaded_does_not_run() {
        let pid = "\"PID\" =";
        assert!(service("echo { \"Label\" = \"x\"; \"PID\" = 7; };", pid).is_active());
        assert!(!service("echo { \"Label\" = \"x\"; \"LastExitStatus\" = 0; };", pid).is_active());
        assert!(!service("false", "").is_active());
        assert!(service("true", "").is_active());
    }
}
