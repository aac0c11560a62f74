//! The host name that `cbroker ui` opens the page under: `<random>.localhost`, which browsers take
//! for this machine.
//!
//! Browsers send the cookies of an address to every port of it, and what was loaded from an address
//! once may last there. This name is given to nobody else: servers at other ports neither see nor
//! plant its cookies, and a page that another program showed at `127.0.0.1` while the broker was
//! down is of another origin. It is kept in the home, because the page's settings belong to it.
//! `cbroker rotate` makes another one, and so does `cbroker ui` after it found another user's
//! program at the port, which learns the name from the requests of an open page.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::sync::oneshot;
use ulid::Ulid;

use crate::config::{Home, write_private};
use crate::management::{Client, SignInLink};

const LOOK_UP_WITHIN: Duration = Duration::from_secs(1);

/// Returns the origin of the page under its own name; `None` where it cannot be opened under that,
/// as at a broker of another machine.
pub(super) async fn origin(home: &Home, api: &Client, link: &SignInLink) -> Option<String> {
    let port = api.loopback_port().filter(|_| link.serves_localhost)?;
    let host = format!("{}.localhost", label(home)?);
    let (answer, found) = oneshot::channel();
    let asked = (host.clone(), port);
    // Not a thread of the runtime: the command would not end before it, and a name server that
    // does not answer is waited for much longer.
    std::thread::spawn(move || {
        let _given_up = answer.send(asked.to_socket_addrs());
    });
    let found = tokio::time::timeout(LOOK_UP_WITHIN, found).await.ok()?;
    // Some browsers ask the system, and some systems know only `localhost` itself.
    is_this_machine(found.ok()?.ok()?).then(|| format!("http://{host}:{port}"))
}

/// Forgets the name: the page is opened under another one from now on.
pub(super) fn forget(home: &Home) {
    let _none_yet = fs::remove_file(home.page_host_file());
}

fn is_this_machine(addresses: impl Iterator<Item = SocketAddr>) -> bool {
    let addresses: Vec<_> = addresses.collect();
    !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback())
}

/// The random part of the name, which is made at its first use.
fn label(home: &Home) -> Option<String> {
    let file = home.page_host_file();
    let read = || {
        let label = fs::read_to_string(&file).ok()?;
        Ulid::from_string(&label).is_ok().then_some(label)
    };
    read().or_else(|| {
        let label = Ulid::generate().to_string().to_lowercase();
        write_private(&file, label.as_bytes()).ok()?;
        read()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Environment;

    #[test]
    fn the_name_is_kept_for_its_owner_alone_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let variables = [("CBROKER_HOME", folder.path())];
        let home = Home::of(&Environment::from_iter(variables)).unwrap();
        let first = label(&home).unwrap();
        assert_eq!(label(&home).as_ref(), Some(&first));
        let mode = fs::metadata(home.page_host_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(first.bytes().all(|octet| octet.is_ascii_alphanumeric()));
        forget(&home);
        let second = label(&home).unwrap();
        assert_ne!(second, first);
        fs::write(home.page_host_file(), "evil.example/").unwrap();
        let third = label(&home).unwrap();
        assert!(third != second && third.len() == 26, "{third}");
    }

    #[test]
    fn a_name_that_the_system_does_not_know_is_not_used() {
        let is_here = |addresses: &[&str]| {
            is_this_machine(addresses.iter().map(|address| address.parse().unwrap()))
        };
        assert!(is_here(&["127.0.0.1:1", "[::1]:1"]));
        assert!(!is_here(&["127.0.0.1:1", "10.1.2.3:1"]));
        assert!(!is_here(&[]));
    }
}
