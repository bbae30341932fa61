//! One GET: no redirects, no more bytes than a key set has, no proxy.

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::{
    config::JwksUrl,
    dial::{Dialer, Io},
};

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

/// The text of a key set. The caller sees to it that it ends in time.
pub(super) async fn get(place: &JwksUrl) -> Result<String, String> {
    let uri = check_url(&place.url)?;
    let dialer = Dialer::new(&uri, place.authorities.as_deref())?;
    exchange(dialer.open().await?, &uri).await
}

async fn exchange(socket: Box<dyn Io>, uri: &Uri) -> Result<String, String> {
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
