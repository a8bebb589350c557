//! TLS settings read into a client configuration, and TLS failures in words.
//!
//! The crypto provider is named here and nowhere else; the process-wide default is not relied on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};

use crate::broker::error::{BrokerError, ErrorKind};

/// Whom to trust and how to show who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file of the authorities to trust; without it, the machine's own.
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate and its chain.
    pub cert: Option<PathBuf>,
    /// PEM file of our certificate's key.
    pub key: Option<PathBuf>,
    /// The name to ask for and to expect in the certificate of the broker and of its management API,
    /// instead of the URL's host.
    pub server_name: Option<String>,
    /// Log in by the certificate (SASL EXTERNAL) instead of user and password. The broker needs the
    /// plugin `rabbitmq_auth_mechanism_ssl` for it.
    pub external_login: bool,
}

fn invalid(attempted: &str, cause: impl Into<String>) -> BrokerError {
    BrokerError::new(ErrorKind::Invalid, attempted, cause)
}

/// The configuration that `options` describe.
pub(super) fn client_config(
    attempted: &str,
    options: &TlsOptions,
) -> Result<Arc<ClientConfig>, BrokerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(attempted, error.to_string()))?
        .with_root_certificates(authorities(attempted, options.ca.as_deref())?);
    let config = match (&options.cert, &options.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(attempted, "client certificate", cert)?;
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable(attempted, "key", key, &error))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| {
                let (cert, key) = (cert.display(), key.display());
                invalid(attempted, format!("certificate {cert} and key {key}: {error}"))
                    .hint("the key has to belong to the first certificate of the file")
            })?
        }
        (Some(_), None) => {
            return Err(invalid(attempted, "a client certificate is set, its key is not")
                .hint("set tls.key, too"));
        }
        (None, Some(_)) => {
            return Err(invalid(attempted, "a client key is set, its certificate is not")
                .hint("set tls.cert, too"));
        }
    };
    Ok(Arc::new(config))
}

/// A configuration for a client that has to have one but will not use it.
pub(super) fn trusting_nobody(attempted: &str) -> Result<Arc<ClientConfig>, BrokerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(attempted, error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

fn authorities(attempted: &str, ca: Option<&Path>) -> Result<RootCertStore, BrokerError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(invalid(attempted, "this machine has no certificates of authorities")
                .hint("install the package ca-certificates, or set tls.ca to a PEM file"));
        }
        return Ok(roots);
    };
    for certificate in certificates(attempted, "CA file", path)? {
        roots
            .add(certificate)
            .map_err(|error| invalid(attempted, format!("CA file {}: {error}", path.display())))?;
    }
    Ok(roots)
}

fn certificates(
    attempted: &str,
    what: &str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(attempted, what, path, &error))?;
    if found.is_empty() {
        return Err(invalid(attempted, format!("{what} {} has no certificate", path.display()))
            .hint("it has to be PEM: -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

fn unreadable(attempted: &str, what: &str, path: &Path, error: &PemError) -> BrokerError {
    let path = path.display();
    match error {
        PemError::Io(io) => invalid(attempted, format!("{what} {path} cannot be read: {io}")),
        other => invalid(attempted, format!("{what} {path} is no PEM file: {other}"))
            .hint("it has to hold base64 between -----BEGIN …----- and -----END …-----"),
    }
}

/// The name to ask for and to verify.
pub(super) fn server_name(
    attempted: &str,
    options: &TlsOptions,
    host: &str,
) -> Result<ServerName<'static>, BrokerError> {
    let name = options.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned())
        .map_err(|_| invalid(attempted, format!("`{name}` is no name that a certificate can have")))
}

/// A failed handshake: cause and hint.
pub(super) fn explain(error: &std::io::Error, name: &str) -> (String, Option<String>) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(error) = inner else {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return (
                "the broker closed the connection during the TLS handshake".to_owned(),
                Some("the port may speak plain AMQP: then the URL begins with amqp://".to_owned()),
            );
        }
        return (format!("TLS handshake: {error}"), None);
    };
    match error {
        rustls::Error::InvalidCertificate(reason) => certificate(reason, name),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
            "the port does not speak TLS".to_owned(),
            Some("use amqp:// for a plain port, or the TLS port (5671)".to_owned()),
        ),
        rustls::Error::AlertReceived(alert) => (
            format!("the broker refused the TLS handshake: {alert:?}"),
            Some(
                "it may ask for a client certificate (tls.cert, tls.key), or not trust ours"
                    .to_owned(),
            ),
        ),
        other => (format!("TLS handshake: {other}"), None),
    }
}

fn certificate(reason: &CertificateError, name: &str) -> (String, Option<String>) {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "the broker's certificate has expired".to_owned(),
            Some("renew it on the broker, or check this machine's clock".to_owned()),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "the broker's certificate is not valid yet".to_owned(),
            Some("check the clocks of both machines".to_owned()),
        ),
        CertificateError::UnknownIssuer => (
            "the broker's certificate was signed by an authority that is not trusted".to_owned(),
            Some("set tls.ca to the PEM file of the authority that signed it".to_owned()),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            match reason {
                CertificateError::NotValidForNameContext { presented, .. } => format!(
                    "the broker's certificate is not for `{name}` but for {}",
                    presented.join(", ")
                ),
                _ => format!("the broker's certificate is not for `{name}`"),
            },
            Some("use a host that it names, or set tls.server_name to one".to_owned()),
        ),
        CertificateError::Revoked => ("the broker's certificate is revoked".to_owned(), None),
        other => (format!("the broker's certificate is not valid: {other}"), None),
    }
}
