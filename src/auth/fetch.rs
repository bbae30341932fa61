//! One GET: no redirects, no more bytes than a key set has, no proxy.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::config::JwksUrl;

/// Bytes of a key set.
const BODY_MAX: usize = 64 << 10;

/// Where from, if it is a place that keys may be got from.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(crate) fn check_url(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|_| r#"is not a URL; expected one such as "https://example.com/keys""#)?;
    let host = uri.host().unwrap_or_default();
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match uri.scheme_str() {
        _ if host.is_empty() || uri.authority().is_some_and(|it| it.as_str().contains('@')) => {
            Err("expected a URL with a host and without a password".to_owned())
        }
        Some("https") => Ok(uri),
        Some("http") if is_loopback => Ok(uri),
        Some("http") => Err("whoever is on the way could put in keys of its own; expected https://".to_owned()),
        _ => Err("expected https://".to_owned()),
    }
}

/// The certificates of a PEM text.
///
/// # Errors
/// If there is none that can be read.
pub(crate) fn check_authorities(pem: &str) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("is not a certificate: {error}"))?;
    }
    if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(roots) }
}

/// The text of a key set. The caller sees to it that it ends in time.
pub(super) async fn get(place: &JwksUrl) -> Result<String, String> {
    let uri = check_url(&place.url)?;
    let is_tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default();
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let socket = TcpStream::connect((name.as_str(), port)).await.map_err(|error| format!("no connection: {error}"))?;
    if !is_tls {
        return exchange(socket, &uri).await;
    }
    let roots = match &place.authorities {
        Some(pem) => check_authorities(pem)?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    exchange(tls.map_err(|error| format!("no TLS: {error}"))?, &uri).await
}

async fn exchange(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, uri: &Uri) -> Result<String, String> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("wayleave/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| format!("no HTTP: {error}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(format!("the answer is {status}; redirects are not followed, give the last URL"));
            }
            status => return Err(format!("the answer is {status}")),
        }
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|error| format!("the body cannot be read, or has more than {BODY_MAX} bytes: {error}"));
        String::from_utf8(body?.to_bytes().into()).map_err(|_| "the body is not UTF-8".to_owned())
    };
    // The connection is driven here and ends with the answer: no task of its own.
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // It may have ended because all has been read.
            Ok(()) => answer.await,
            Err(error) => Err(format!("the connection broke: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_where_nobody_can_change_them_on_the_way() {
        for good in ["https://a.example/keys?x=1", "http://127.0.0.1:1/", "http://[::1]:9/k", "http://localhost/"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "keys.json",
            "http://a.example/keys",
            "http://127.0.0.1.a.example/",
            "http://localhost.a.example/",
            "https://user:secret@a.example/",
            "http://a.example@127.0.0.1/",
            "ftp://a.example/",
            "https:///keys",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
