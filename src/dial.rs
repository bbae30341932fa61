//! Connections that this program begins itself to servers of HTTP: key sets,
//! collectors. TCP, or TLS over it, and certificates are always looked at.

use std::sync::Arc;

use http::Uri;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// What HTTP is spoken over.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One place, and how to get there.
pub(crate) struct Dialer {
    name: String,
    port: u16,
    /// None: it is http.
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// For the host of an `https://` or `http://` URL. `authorities`: PEM, whom
    /// to trust instead of public authorities.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(crate) fn new(uri: &Uri, authorities: Option<&str>) -> Result<Self, String> {
        let host = uri.host().ok_or("there is no host in it")?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls { Some(connector(authorities)?) } else { None };
        Ok(Self { name, port, tls })
    }

    /// A new connection. The caller sees to it that it ends in time.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn open(&self) -> Result<Box<dyn Io>, String> {
        let socket = TcpStream::connect((self.name.as_str(), self.port)).await;
        let socket = socket.map_err(|error| format!("no connection: {error}"))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(socket)) };
        let name = ServerName::try_from(self.name.clone()).map_err(|error| error.to_string())?;
        match tls.connect(name, socket).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(format!("no TLS: {error}")),
        }
    }
}

fn connector(authorities: Option<&str>) -> Result<TlsConnector, String> {
    Ok(TlsConnector::from(Arc::new(tls_config(authorities)?)))
}

/// Trusts `authorities`, PEM, or without any the public ones.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn tls_config(authorities: Option<&str>) -> Result<ClientConfig, String> {
    let roots = match authorities {
        Some(pem) => check_authorities(pem)?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a PEM text.
///
/// # Errors
/// If there is none that can be read.
pub(crate) fn check_authorities(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("is not a certificate: {error}"))?;
    }
    if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(roots) }
}
