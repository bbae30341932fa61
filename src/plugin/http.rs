//! Requests of plugins to other servers: only to origins that the config
//! names, only to addresses that are public or named.
//!
//! A guest waits for its answer on its own thread; what is asked runs on a
//! runtime with one thread for all of them, which begins with the first.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock, mpsc},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};

use crate::{
    config::{HttpConfig, Network, Origin, OriginRule},
    dial,
    metrics::GuestFigures,
};

/// How long the addresses of a name are taken for granted.
const PINNED_FOR: Duration = Duration::from_secs(30);

/// How long a connection that nobody uses is kept.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Headers that say how a message is carried; those are the gateway's.
const CARRIERS: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
];

/// The most headers of a request and of an answer.
const HEADERS_MAX: usize = 64;

/// What a plugin sends.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) timeout: Duration,
}

/// What becomes of it; see `host.wit`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Response { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    Forbidden(String),
    TooLarge,
    Timeout,
    Failed(String),
}

/// Runs the requests of all plugins.
#[derive(Debug, Default)]
pub(super) struct Requests {
    runtime: OnceLock<Result<Handle, String>>,
}

impl Requests {
    /// For one plugin.
    ///
    /// # Errors
    /// If no thread can be had, or the config's certificates cannot be read.
    pub(super) fn client(&self, config: &HttpConfig, figures: Arc<GuestFigures>) -> Result<HttpClient, String> {
        let handle = self.runtime.get_or_init(start).clone()?;
        let tls = dial::tls_config(config.authorities.as_deref())?;
        let resolver = Resolver { allowed: config.private.clone().into(), pinned: Arc::default() };
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(config.concurrency)
            // Whether the server acted on the first is not known.
            .retry_canceled_requests(false)
            .build(connector.wrap_connector(http));
        Ok(HttpClient { client, handle, config: config.clone(), figures })
    }
}

/// The runtime lives as long as the process: a plugin host does too.
fn start() -> Result<Handle, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("guest-http".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(|error| format!("no thread for requests: {error}"))?;
    Ok(handle)
}

/// Sends the requests of one plugin.
pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    handle: Handle,
    config: HttpConfig,
    figures: Arc<GuestFigures>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("config", &self.config).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// Waits for the answer.
    pub(super) fn send(&self, request: Request) -> Outcome {
        let started = Instant::now();
        let outcome = self.try_send(request);
        self.figures.requested(
            match outcome {
                Outcome::Response { .. } => "response",
                Outcome::Forbidden(_) => "forbidden",
                Outcome::TooLarge => "too_large",
                Outcome::Timeout => "timeout",
                Outcome::Failed(_) => "failed",
            },
            started.elapsed(),
        );
        outcome
    }

    fn try_send(&self, request: Request) -> Outcome {
        let timeout = request.timeout.min(self.config.timeout);
        let request = match self.check(request) {
            Ok(request) => request,
            Err(why) => return Outcome::Forbidden(why),
        };
        let (answer, answered) = mpsc::sync_channel(1);
        let (client, size) = (self.client.clone(), self.config.response_size);
        self.handle.spawn(async move {
            let outcome = tokio::time::timeout(timeout, exchange(&client, request, size)).await;
            // Nobody waits any more: the guest is gone.
            let _gone = answer.send(outcome.unwrap_or(Outcome::Timeout));
        });
        // The runtime keeps the time; this is for a runtime that is gone.
        answered.recv_timeout(timeout + Duration::from_secs(1)).unwrap_or(Outcome::Timeout)
    }

    /// The request as it goes out, if the config allows it.
    fn check(&self, request: Request) -> Result<http::Request<Full<Bytes>>, String> {
        let Request { method, url, headers, body, .. } = request;
        let uri: Uri = url.parse().map_err(|_| format!("`{url}` is not a whole URL"))?;
        self.check_origin(&uri)?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(format!("the method {method} is not for plugins"));
        }
        if headers.len() > HEADERS_MAX {
            return Err(format!("more than {HEADERS_MAX} headers"));
        }
        let mut builder = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            let bad = |_| format!("the header `{name}` is not one");
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
            let value = HeaderValue::from_str(&value).map_err(|_| bad(()))?;
            if CARRIERS.contains(&key) {
                return Err(format!("the header `{name}` is the gateway's"));
            }
            builder = builder.header(key, value);
        }
        let mut request = builder.body(Full::new(body.into())).map_err(|error| error.to_string())?;
        let agent = HeaderValue::from_static(concat!("wayleave/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        Ok(request)
    }
}

impl HttpClient {
    fn check_origin(&self, uri: &Uri) -> Result<(), String> {
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |it| it.as_str()));
        let text = format!("{scheme}://{authority}");
        let origin = Origin::parse(&text).filter(|_| matches!(scheme, "http" | "https"));
        let origin = origin.ok_or_else(|| format!("`{uri}` is no URL of http:// or https:// without a password"))?;
        let rules = self.config.origins.iter().filter_map(|text| OriginRule::parse(text).ok());
        let mut rules = rules.filter(|rule| rule.allows(&origin)).peekable();
        if rules.peek().is_none() {
            return Err(format!("`{text}` is not among the plugin's `http.origins`"));
        }
        // Names are looked at when they are resolved. Who names an address means it.
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_named = rules.any(|rule| matches!(rule, OriginRule::One(_)));
        match host.parse() {
            Ok(address) if !is_named && !is_allowed(&self.config.private, address) => {
                Err(Private { name: host.to_owned(), address }.to_string())
            }
            _ => Ok(()),
        }
    }
}

fn is_allowed(private: &[Network], address: IpAddr) -> bool {
    is_public(address) || private.iter().any(|network| network.contains(address))
}

async fn exchange(
    client: &Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    request: http::Request<Full<Bytes>>,
    size: usize,
) -> Outcome {
    let response = match client.request(request).await {
        Ok(response) => response,
        Err(error) => return failed(&error),
    };
    let status = response.status().as_u16();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter().take(HEADERS_MAX);
    let headers = headers.map(|(name, value)| (name.to_string(), text(value))).collect();
    match Limited::new(response.into_body(), size).collect().await {
        Ok(body) => Outcome::Response { status, headers, body: body.to_bytes().into() },
        Err(error) if error.is::<LengthLimitError>() => Outcome::TooLarge,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// What is forbidden is told apart from what does not work, however deep in
/// the error it lies.
fn failed(error: &(dyn std::error::Error + 'static)) -> Outcome {
    let mut texts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(private) = inner.and_then(|inner| inner.downcast_ref::<Private>()) {
            return Outcome::Forbidden(private.to_string());
        }
        texts.push(error.to_string());
        next = error.source();
    }
    Outcome::Failed(texts.join(": "))
}

/// A name leads to where plugins must not go.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` leads to {address}, which is not public; name it in the plugin's `http.private` to allow it")]
struct Private {
    name: String,
    address: IpAddr,
}

/// Since when, and where to.
type Pinned = (Instant, Vec<SocketAddr>);

/// Addresses of names, each checked before anything connects to it. A name that
/// leads elsewhere a moment later changes nothing: what was checked is what is
/// connected to. Addresses in an origin do not come here; who names one means it.
#[derive(Debug, Clone)]
struct Resolver {
    allowed: Arc<[Network]>,
    pinned: Arc<Mutex<HashMap<String, Pinned>>>,
}

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.resolve(name.as_str()).await?.into_iter()) })
    }
}

impl Resolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        // Whoever connects puts the port in.
        let found = async { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) };
        self.checked(name, found).await
    }

    /// What is pinned, or else what is found, if it may be gone to.
    async fn checked(
        &self,
        name: &str,
        found: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> io::Result<Vec<SocketAddr>> {
        let pinned = self.pinned.lock().get(name).filter(|(since, _)| since.elapsed() < PINNED_FOR).cloned();
        if let Some((_, addresses)) = pinned {
            return Ok(addresses);
        }
        let found = found.await?;
        // One that is not is refused with all: such a name is set up wrongly, or
        // on purpose.
        if let Some(address) = found.iter().map(SocketAddr::ip).find(|ip| !is_allowed(&self.allowed, *ip)) {
            return Err(io::Error::other(Private { name: name.to_owned(), address }));
        }
        self.pinned.lock().insert(name.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

/// True for what the internet routes to anybody (the registries of special
/// addresses of RFC 6890 and its successors).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let is_special = ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19));
            !is_special
        }
        IpAddr::V6(ip) => {
            if let Some(inner) = ip.to_ipv4_mapped() {
                return is_public(inner.into());
            }
            let [a, b, c, d, e, f, g, h] = ip.segments();
            // Those that carry an address of IPv4 lead to it.
            let inner = |high: u16, low: u16| {
                let [one, two] = high.to_be_bytes();
                let [three, four] = low.to_be_bytes();
                is_public(IpAddr::from([one, two, three, four]))
            };
            match a {
                0x2002 => inner(b, c),
                0x0064 if b == 0xff9b => c == 0 && d == 0 && e == 0 && f == 0 && inner(g, h),
                0x2001 => b >= 0x0200 && b != 0x0db8,
                0x3fff => b >= 0x1000,
                _ => (0x2000..0x4000).contains(&a),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What DNS says a moment later, to get behind the check, is not asked for.
    #[tokio::test]
    async fn a_name_leads_where_it_was_checked_to_lead() {
        let resolver = Resolver { allowed: Arc::new([]), pinned: Arc::default() };
        let address = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
        let (public, inside) = (address("1.1.1.1:0"), address("127.0.0.1:0"));
        let found = resolver.checked("a.example", async { Ok(public.clone()) }).await;
        assert_eq!(found.unwrap(), public);
        let found = resolver.checked("a.example", async { Ok(inside.clone()) }).await;
        assert_eq!(found.unwrap(), public);
        let mixed = [public.clone(), inside.clone()].concat();
        for found in [inside.clone(), mixed] {
            let refused = resolver.checked("b.example", async { Ok(found) }).await.unwrap_err();
            assert!(refused.to_string().contains("not public"), "{refused}");
        }
        assert_eq!(resolver.pinned.lock().len(), 1);
    }

    #[test]
    fn public_addresses_are_told_from_others() {
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2001:4860::8888", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
