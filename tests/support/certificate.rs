//! Certificates made on the spot, and a TLS server to show them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM file of the certificate.
    pub cert: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
}

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {output:?}");
}

/// An authority of one's own, whose files are in `dir`.
#[derive(Debug)]
pub struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    /// A new one.
    pub fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let rest = ["-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
        openssl(dir.path(), &[&["req", "-x509", "-days", "30"][..], &key, &rest].concat());
        Authority { dir }
    }

    /// PEM file of its certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a server called `name`; an expired one was valid until yesterday.
    pub fn issue(&self, name: &str, expired: bool) -> Certificate {
        let dir = self.dir.path();
        let file = |end: &str| format!("{name}-{expired}.{end}");
        let (key, request, cert, extensions) = (file("key"), file("csr"), file("pem"), file("ext"));
        let made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let subject = format!("/CN={name}");
        let rest = ["-subj", &subject, "-keyout", &key, "-out", &request];
        openssl(dir, &[&["req"][..], &made, &rest].concat());
        std::fs::write(
            dir.join(&extensions),
            format!("basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:{name}\n"),
        )
        .unwrap();
        let days = if expired { "-1" } else { "30" };
        let from = ["x509", "-req", "-in", &request, "-days", days, "-extfile", &extensions];
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", &cert];
        openssl(dir, &[&from[..], &by].concat());
        Certificate { cert: dir.join(cert), key: dir.join(key) }
    }
}

/// Speaks TLS on a port of its own and hands on what is said to `target`, which is `host:port`. Ends
/// with its runtime.
pub async fn tls_before(target: &str, certificate: &Certificate) -> u16 {
    let chain = CertificateDer::pem_file_iter(&certificate.cert)
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = target.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                // A client that does not like the certificate hangs up here.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(&target).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}
