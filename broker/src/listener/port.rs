//! A TCP port, bound to one address or to both loopback addresses. Depends on tokio.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::config::BindAddresses;
use crate::error::StartError;

/// How many free ports are tried to find one that is free on both loopback addresses.
const TRIES: usize = 32;

/// A bound port, with one or two listeners.
#[derive(Debug)]
pub(crate) struct Port {
    first: TcpListener,
    second: Option<TcpListener>,
    address: SocketAddr,
}

impl Port {
    /// Binds the port; 0 selects a free one.
    pub(crate) async fn bind(
        bind: BindAddresses,
        port: u16,
    ) -> std::result::Result<Self, StartError> {
        let taken = match bind {
            BindAddresses::At(address) => listen(address, port).await.map(|first| (first, None)),
            BindAddresses::Loopback if port == 0 => bind_free().await,
            BindAddresses::Loopback => bind_both(port).await,
        };
        let address = match bind {
            BindAddresses::At(address) => address,
            BindAddresses::Loopback => Ipv4Addr::LOCALHOST.into(),
        };
        let refuse = |source| StartError::Listen {
            address: SocketAddr::from((address, port)).to_string(),
            source,
        };
        let (first, second) = taken.map_err(refuse)?;
        let address = first.local_addr().map_err(refuse)?;
        Ok(Self {
            first,
            second,
            address,
        })
    }

    /// Returns the address; on loopback the IPv4 one.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns every address that the port is bound to.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let second = self.second.as_ref().map(|_| at_v6(self.address.port()));
        std::iter::once(self.address).chain(second)
    }

    /// Returns the listeners, one for each address.
    pub(crate) fn into_listeners(self) -> impl Iterator<Item = TcpListener> {
        std::iter::once(self.first).chain(self.second)
    }
}

type TakenPort = (TcpListener, Option<TcpListener>);

/// Binds a given port on 127.0.0.1 and, if the machine has it, on `[::1]`. Fails if another program
/// has it on one of them: clients that use localhost could reach that program.
async fn bind_both(port: u16) -> Result<TakenPort> {
    let first = listen(Ipv4Addr::LOCALHOST.into(), port).await?;
    match listen_v6(port).await {
        Ok(second) => Ok((first, second)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(error),
        Err(error) => Ok((first, without_v6(port, &error))),
    }
}

/// Binds a port that is free on both addresses. A port that is free only on 127.0.0.1 stays bound
/// until the search ends, so that the system does not offer it again.
async fn bind_free() -> Result<TakenPort> {
    let mut halves = Vec::new();
    loop {
        let first = listen(Ipv4Addr::LOCALHOST.into(), 0).await?;
        match listen_v6(first.local_addr()?.port()).await {
            Ok(second) => return Ok((first, second)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && halves.len() < TRIES => {
                halves.push(first);
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
            Err(error) => {
                let port = first.local_addr()?.port();
                return Ok((first, without_v6(port, &error)));
            }
        }
    }
}

/// Logs that the port is bound to 127.0.0.1 only.
fn without_v6(port: u16, error: &Error) -> Option<TcpListener> {
    let address = at_v6(port);
    tracing::warn!(
        %address, %error,
        "cannot listen on this address: clients that use localhost may reach another program"
    );
    None
}

/// Binds the port on `[::1]`. Returns `None` if the machine has no IPv6.
async fn listen_v6(port: u16) -> Result<Option<TcpListener>> {
    match listen(Ipv6Addr::LOCALHOST.into(), port).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if is_without_v6(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_without_v6(error: &Error) -> bool {
    const NO_FAMILY: [i32; 2] = [
        rustix::io::Errno::AFNOSUPPORT.raw_os_error(),
        rustix::io::Errno::PFNOSUPPORT.raw_os_error(),
    ];
    error.kind() == ErrorKind::AddrNotAvailable
        || error
            .raw_os_error()
            .is_some_and(|code| NO_FAMILY.contains(&code))
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).await
}

fn at_v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[tokio::test]
    async fn a_port_that_somebody_has_on_either_loopback_address_is_refused() {
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let Ok(other) = TcpListener::bind((address, 0)).await else {
                continue;
            };
            let port = other.local_addr().unwrap().port();
            let refused = bind_both(port).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AddrInUse, "{address}");
        }
    }
}
