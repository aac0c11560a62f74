//! The private files of one session, which are removed when it ends.
//!
//! Relies on the home for their names.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Home;

/// The files of a session. Removed when dropped.
#[derive(Debug)]
pub(super) struct SessionFiles {
    files: Vec<PathBuf>,
    settings: PathBuf,
    settings_users: SettingsUsers,
}

impl SessionFiles {
    pub(super) fn of(home: &Home, session: &str) -> Self {
        Self {
            files: vec![
                home.session_credentials(session),
                home.session_hops(session),
                home.session_token(session),
            ],
            settings: home.session_settings(session),
            settings_users: SettingsUsers::default(),
        }
    }

    /// Who uses the agent's settings.
    pub(super) fn settings_users(&self) -> SettingsUsers {
        self.settings_users.clone()
    }
}

impl Drop for SessionFiles {
    fn drop(&mut self) {
        let settings = (!self.settings_users.has_others()).then_some(&self.settings);
        for file in self.files.iter().chain(settings) {
            let _was_never_made = std::fs::remove_file(file);
        }
    }
}

/// Whether processes beside the one in the terminal use the agent's settings. Claude Code's
/// background sessions go on when this session has ended, and cannot be started again without the
/// file, which stays for them until it is swept.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingsUsers(Arc<AtomicBool>);

impl SettingsUsers {
    pub(super) fn add_other(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_others(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Environment;

    #[test]
    fn settings_stay_if_other_processes_use_them() {
        for has_others in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let environment = Environment::from_iter([("CBROKER_HOME", folder.path())]);
            let home = Home::of(&environment).unwrap();
            home.prepare().unwrap();
            let files = SessionFiles::of(&home, "01");
            let paths = [home.session_token("01"), home.session_settings("01")];
            for path in &paths {
                std::fs::write(path, "").unwrap();
            }
            if has_others {
                files.settings_users().add_other();
            }
            drop(files);
            assert_eq!(paths.map(|path| path.exists()), [false, has_others]);
        }
    }
}
