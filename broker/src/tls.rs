//! Builds rustls server configurations from a certificate and a private key in PEM files.
//!
//! TLS 1.2 and 1.3 with the ring provider, without client certificates. Errors name the file and
//! the reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Which application protocols a connection can negotiate with ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPurpose {
    /// AMQP. Clients that do not offer ALPN are accepted too.
    Amqp,
    /// The management API.
    Http,
}

/// Why the files cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing or unreadable.
    #[error("cannot read the {what} {}: {source}", path.display())]
    Unreadable {
        /// `TLS certificate` or `TLS key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not PEM.
    #[error("cannot read the {what} {}: not PEM: {source}", path.display())]
    NotPem {
        /// `TLS certificate` or `TLS key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The PEM reader's error.
        source: pem::Error,
    },
    /// The PEM file has no certificate, or no key.
    #[error("there is no {what} in {}", path.display())]
    Absent {
        /// `TLS certificate` or `TLS key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not match, or rustls cannot use them.
    #[error("the TLS certificate and key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Reads a certificate chain (leaf first) and its private key (PKCS#8, PKCS#1 or SEC1), both in
/// PEM.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    purpose: TlsPurpose,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_certificates(certificate)?;
    let key = read_key(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    if purpose == TlsPurpose::Http {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(Arc::new(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "TLS certificate";
    let unreadable = |error: pem::Error| explain(what, path, error);
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::Absent {
            what,
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| explain("TLS key", path, error))
}

fn explain(what: &'static str, path: &Path, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::NoItemsFound => TlsError::Absent { what, path },
        pem::Error::Io(source) => TlsError::Unreadable { what, path, source },
        source => TlsError::NotPem { what, path, source },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::{TlsPurpose, server_config};

    fn refused(certificate: Option<&str>, key: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (certificate_path, key_path) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        for (path, text) in [(&certificate_path, certificate), (&key_path, key)] {
            if let Some(text) = text {
                std::fs::write(path, text).unwrap();
            }
        }
        let error = server_config(&certificate_path, &key_path, TlsPurpose::Amqp).unwrap_err();
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn each_fault_names_its_file() {
        let certificate = include_str!("tls/test-cert.pem");
        let key = include_str!("tls/test-key.pem");
        assert_eq!(
            refused(None, Some(key)),
            "cannot read the TLS certificate cert.pem: No such file or directory (os error 2)"
        );
        assert_eq!(
            refused(Some("hello"), Some(key)),
            "there is no TLS certificate in cert.pem"
        );
        assert_eq!(
            refused(Some(certificate), Some("hello")),
            "there is no TLS key in key.pem"
        );
        assert!(
            refused(Some(certificate), None)
                .starts_with("cannot read the TLS key key.pem: No such file")
        );
    }

    #[test]
    fn a_pair_that_belongs_together_serves() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&certificate, include_str!("tls/test-cert.pem")).unwrap();
        std::fs::write(&key, include_str!("tls/test-key.pem")).unwrap();
        let config = server_config(&certificate, &key, TlsPurpose::Http).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let other = include_str!("tls/test-other-key.pem");
        let certificate = include_str!("tls/test-cert.pem");
        assert!(
            refused(Some(certificate), Some(other))
                .starts_with("the TLS certificate and key cannot be used together")
        );
    }
}
