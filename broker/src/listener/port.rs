//! A TCP port, taken on one address or on both of loopback. Relies on tokio.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::config::Bind;
use crate::error::StartError;

/// How many free ports are looked at until one is free on both addresses.
const TRIES: usize = 32;

/// What a client of this machine can come to; never empty.
#[derive(Debug)]
pub(crate) struct Port {
    first: TcpListener,
    second: Option<TcpListener>,
    address: SocketAddr,
}

impl Port {
    /// Takes the port, or a free one for 0.
    pub(crate) async fn take(bind: Bind, port: u16) -> std::result::Result<Self, StartError> {
        let taken = match bind {
            Bind::At(address) => listen(address, port).await.map(|first| (first, None)),
            Bind::Loopback if port == 0 => take_free().await,
            Bind::Loopback => take_both(port).await,
        };
        let address = match bind {
            Bind::At(address) => address,
            Bind::Loopback => Ipv4Addr::LOCALHOST.into(),
        };
        let refuse = |reason| StartError::Listen {
            address: SocketAddr::from((address, port)).to_string(),
            reason,
        };
        let (first, second) = taken.map_err(refuse)?;
        let address = first.local_addr().map_err(refuse)?;
        Ok(Self {
            first,
            second,
            address,
        })
    }

    /// Where it is told to be; the only address but on loopback.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every address that it is taken on.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let second = self.second.as_ref().map(|_| at_v6(self.address.port()));
        std::iter::once(self.address).chain(second)
    }

    /// One listener an address.
    pub(crate) fn into_listeners(self) -> impl Iterator<Item = TcpListener> {
        std::iter::once(self.first).chain(self.second)
    }
}

type Taken = (TcpListener, Option<TcpListener>);

/// A given port belongs to us when 127.0.0.1 does; somebody else on `[::1]` is told of and left alone.
async fn take_both(port: u16) -> Result<Taken> {
    let first = listen(Ipv4Addr::LOCALHOST.into(), port).await?;
    let second = listen_v6(port).await;
    Ok((
        first,
        second.unwrap_or_else(|error| without_v6(port, &error)),
    ))
}

/// Ports that are free on 127.0.0.1 alone are kept until one is free on both, so that none comes twice.
async fn take_free() -> Result<Taken> {
    let mut halves = Vec::new();
    loop {
        let first = listen(Ipv4Addr::LOCALHOST.into(), 0).await?;
        match listen_v6(first.local_addr()?.port()).await {
            Ok(second) => return Ok((first, second)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && halves.len() < TRIES => {
                halves.push(first);
            }
            Err(error) => {
                let port = first.local_addr()?.port();
                return Ok((first, without_v6(port, &error)));
            }
        }
    }
}

/// Says in one line that a port is ours on 127.0.0.1 alone.
fn without_v6(port: u16, error: &Error) -> Option<TcpListener> {
    let address = at_v6(port);
    tracing::warn!(%address, %error, "not listening there: localhost may lead clients to another program");
    None
}

/// None where the machine has no IPv6.
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
