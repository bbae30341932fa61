//! How the tools reach a running gateway: its server API and its sockets.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::TaskTracker;

use crate::{config::Config, dial};

/// The variable that a key of the server API is taken from.
const KEY: &str = "WAYLEAVE_API_KEY";

/// An answer of the server API has at most so many bytes.
const ANSWER_MAX: usize = 64 << 20;

/// What can be read and written, with TLS or without.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Where a gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    is_secure: bool,
    /// As a name or an address, the latter in brackets if it has colons.
    host: String,
    port: u16,
    /// Without a slash at the end.
    path: String,
    /// PEM: whom to trust instead of public authorities.
    authorities: Option<String>,
}

impl Place {
    /// Of a URL that begins with `http` or `ws`, with an `s` for TLS.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let wrong = || format!("`{url}` is no address; expected one such as http://localhost:8000");
        let uri: http::Uri = url.parse().with_context(wrong)?;
        let is_secure = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => bail!(wrong()),
        };
        let host = uri.host().with_context(wrong)?.to_owned();
        let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self { is_secure, host, port, path: uri.path().trim_end_matches('/').to_owned(), authorities: None })
    }

    /// Where a config says that it listens.
    fn of(config: &Config) -> Self {
        let listen = config.server.listen;
        let host = match listen.ip() {
            all if all.is_unspecified() => "127.0.0.1".to_owned(),
            ip if ip.is_ipv6() => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        Self { is_secure: config.tls.is_some(), host, port: listen.port(), path: String::new(), authorities: None }
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Its WebSocket endpoint; one that is named stays as it is.
    pub(super) fn websocket(&self) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        let path = if self.path.is_empty() { "/connection/websocket" } else { &self.path };
        format!("{scheme}://{}{path}", self.authority())
    }

    /// A connection to it.
    pub(super) async fn connect(&self) -> anyhow::Result<Box<dyn Wire>> {
        let authority = self.authority();
        let stream = TcpStream::connect(&authority).await.with_context(|| format!("cannot connect to {authority}"))?;
        stream.set_nodelay(true)?;
        if !self.is_secure {
            return Ok(Box::new(stream));
        }
        let roots = match &self.authorities {
            Some(pem) => dial::check_authorities(pem).map_err(anyhow::Error::msg).context("--ca")?,
            None => rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = self.host.trim_matches(['[', ']']).to_owned().try_into()?;
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        Ok(Box::new(connector.connect(name, stream).await.with_context(|| format!("no TLS with {authority}"))?))
    }
}

/// Which gateway a tool is for.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Gateway {
    /// Its address, such as `http://localhost:8000`; without it, what the config
    /// says.
    #[arg(long)]
    url: Option<String>,
    /// A PEM file: whom to trust with TLS instead of public authorities.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The config file, for the address and a key.
    #[arg(long, short, default_value = "config.toml")]
    config: PathBuf,
}

impl Gateway {
    /// Where it is.
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let place = match &self.url {
            Some(url) => Place::parse(url)?,
            None => Place::of(&load(&self.config).context("give --url, or a config")?),
        };
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file).with_context(|| format!("cannot read --ca {}", file.display()))
        };
        Ok(Place { authorities: self.ca.as_ref().map(read).transpose()?, ..place })
    }

    /// Its server API, with a key of the environment or the config.
    pub(super) fn api(&self) -> anyhow::Result<Api> {
        let key = match std::env::var(KEY) {
            Ok(key) => key,
            Err(_) => {
                let config = load(&self.config).with_context(|| format!("set {KEY}, or give a config with a key"))?;
                let keys = &config.api.keys;
                // One for everything, if there is one.
                let best = keys.iter().find(|key| key.methods.is_none() && key.rooms.is_none()).or(keys.first());
                let key = best.with_context(|| format!("the config has no `api.keys`; set {KEY}"))?;
                key.key.expose().to_owned()
            }
        };
        Ok(Api { place: self.place()?, key, tasks: TaskTracker::new() })
    }
}

fn load(file: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(file)?)
}

/// The server API of a gateway.
pub(super) struct Api {
    place: Place,
    key: String,
    tasks: TaskTracker,
}

impl Api {
    /// Sends a request; `to` is the method, with its query. What it answers
    /// with a good status is read by the caller.
    pub(super) async fn ask(&self, to: &str, body: &Value) -> anyhow::Result<Response<Incoming>> {
        let stream = TokioIo::new(self.place.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        // It ends with the answer, or with the program.
        self.tasks.spawn(async move { drop(connection.await) });
        let request = Request::post(format!("{}/api/{to}", self.place.path))
            .header(http::header::HOST, self.place.authority())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("x-api-key", &self.key)
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (status, text) = (response.status(), read(response).await?);
        let message = serde_json::from_str::<Value>(&text).ok();
        let message = message.as_ref().and_then(|answer| answer["error"]["message"].as_str()).unwrap_or(text.trim());
        bail!("refused with {status}: {message}");
    }

    /// Calls a method and gives its result.
    pub(super) async fn call(&self, method: &str, parameters: &Value) -> anyhow::Result<Value> {
        let mut answer: Value = serde_json::from_str(&read(self.ask(method, parameters).await?).await?)?;
        refused(&answer)?;
        Ok(answer["result"].take())
    }
}

/// How long to wait before the next attempt: anything up to a bound that
/// doubles, so that many clients come back spread out.
#[derive(Debug)]
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Patience {
    /// Waits.
    pub(super) async fn wait(&mut self) {
        let random = f64::from(u32::from_le_bytes(crate::id::random_bytes())) / f64::from(u32::MAX);
        tokio::time::sleep(self.0.mul_f64(random)).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}

/// An error that an answer carries.
pub(super) fn refused(answer: &Value) -> anyhow::Result<()> {
    let Some(error) = answer.get("error") else { return Ok(()) };
    bail!("refused with {}: {}", error["code"], error["message"].as_str().unwrap_or_default());
}

async fn read(response: Response<Incoming>) -> anyhow::Result<String> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let bytes = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?.to_bytes();
    ensure!(std::str::from_utf8(&bytes).is_ok(), "the answer is not a text");
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_the_sockets_are() {
        let websocket = |url: &str| Place::parse(url).unwrap().websocket();
        assert_eq!(websocket("http://localhost:8000"), "ws://localhost:8000/connection/websocket");
        assert_eq!(websocket("https://example.com/"), "wss://example.com:443/connection/websocket");
        assert_eq!(websocket("ws://[::1]:9/other"), "ws://[::1]:9/other");
        for wrong in ["localhost:8000", "ftp://x", "http://", "x y"] {
            assert!(Place::parse(wrong).unwrap_err().to_string().contains("is no address"), "{wrong}");
        }
    }

    #[test]
    fn a_config_says_where_it_is_reached() {
        let place = |listen: &str| {
            let text = format!("[server]\nlisten = \"{listen}\"");
            Place::of(&Config::parse(&text, Path::new("/"), &Default::default()).unwrap()).authority()
        };
        assert_eq!(place("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(place("[::1]:80"), "[::1]:80");
    }
}
