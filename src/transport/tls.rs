//! TLS for clients: trusts the system's certificates and those that the user adds, with the ring
//! provider.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{TlsSetupError, TransportError};

/// Performs the TLS handshake with `host`.
pub(super) async fn handshake(
    stream: TcpStream,
    host: &str,
    ca_cert: Option<&Path>,
) -> Result<TlsStream<TcpStream>, TransportError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| TlsSetupError::ServerName(host.to_owned()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Protocol)?
        .with_root_certificates(roots(ca_cert)?)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(name, stream)
        .await
        .map_err(|error| match error.get_ref() {
            Some(inner) if inner.to_string().contains("certificate") => {
                TransportError::NotTrusted(error)
            }
            _ => error.into(),
        })
}

fn roots(ca_cert: Option<&Path>) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = ca_cert else {
        return Ok(roots);
    };
    match add_from(path, &mut roots) {
        Ok(()) => Ok(roots),
        Err(source) => Err(TlsSetupError::Certificates {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Adds the certificates of a PEM file.
fn add_from(path: &Path, roots: &mut RootCertStore) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let pem = std::fs::read(path)?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    Ok(())
}
