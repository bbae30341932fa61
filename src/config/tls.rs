//! `[tls]`: the certificate, read and checked whole.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::read::Table;

/// A certificate with its key. Two are equal if their files said the same, so
/// that a renewed one is a change of the config.
#[derive(Clone)]
pub struct TlsConfig {
    /// Where the certificate is, with those that it hangs on.
    pub cert: PathBuf,
    /// Where its key is.
    pub key: PathBuf,
    content: blake3::Hash,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

impl PartialEq for TlsConfig {
    fn eq(&self, other: &Self) -> bool {
        (&self.cert, &self.key, self.content) == (&other.cert, &other.key, other.content)
    }
}

impl Eq for TlsConfig {}

impl TlsConfig {
    /// What handshakes are made with.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// None: there is no `[tls]`, or it has mistakes.
    pub(super) fn read(table: Table<'_>, folder: &Path) -> Option<Self> {
        let file = |key: &'static str| {
            let path = table.optional::<String>(key);
            if path.is_none() && table.is_present() {
                table.wrong(key, "this key is required: the path of a PEM file");
            }
            let path = folder.join(path?);
            match std::fs::read(&path) {
                Ok(text) => Some((path, text)),
                Err(error) => {
                    table.wrong(key, format!("`{}` cannot be read: {error}", path.display()));
                    None
                }
            }
        };
        let (cert, key) = (file("cert"), file("key"));
        let made = match (cert, key) {
            (Some(cert), Some(key)) => Self::make(&table, cert, key),
            _ => None,
        };
        table.finish();
        made
    }

    fn make(table: &Table<'_>, cert: (PathBuf, Vec<u8>), key: (PathBuf, Vec<u8>)) -> Option<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(cert.1.len() as u64).to_le_bytes()).update(&cert.1).update(&key.1);
        let chain = CertificateDer::pem_slice_iter(&cert.1).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        if chain.is_none() {
            table.wrong("cert", "holds no certificate; expected a PEM file with `-----BEGIN CERTIFICATE-----`");
        }
        let private = PrivateKeyDer::from_pem_slice(&key.1);
        if private.is_err() {
            table.wrong("key", "holds no private key; expected a PEM file with `-----BEGIN PRIVATE KEY-----`");
        }
        let (chain, private) = (chain?, private.ok()?);
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let server = builder
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
        match server {
            Ok(mut server) => {
                // WebSockets over HTTP/2 are not spoken here, and must not be promised.
                server.alpn_protocols = vec![b"http/1.1".to_vec()];
                Some(Self { cert: cert.0, key: key.0, content: hasher.finalize(), server: Arc::new(server) })
            }
            Err(error) => {
                table.wrong("key", format!("does not serve with `cert`: {error}"));
                None
            }
        }
    }
}
