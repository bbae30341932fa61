//! Who may come in: by how many are here, from where, how fast they come, and
//! how this process is.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Level, Limits, Network, Rate, network},
    metrics::process,
    router::Router,
};

/// How often this process is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// For how long it counts as strained after it was.
const STRAINED: Duration = Duration::from_secs(1);

/// Counts who is here.
#[derive(Debug, Default)]
pub struct Admission {
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    arrivals: Mutex<Option<Level>>,
    said: Mutex<HashMap<IpAddr, Level>>,
    memory: AtomicBool,
    lagged: Mutex<Option<Instant>>,
}

/// Somebody who was let in, counted until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    /// As which it is counted, if addresses are.
    address: Option<IpAddr>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut by_address = self.admission.by_address.lock();
        if let Some(n) = by_address.get_mut(&address) {
            *n -= 1;
            if *n == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// Why nobody more is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `limits.connections`.
    Connections,
    /// `limits.connections_per_address`.
    Address,
    /// `limits.connect_rate`.
    Rate,
    /// `limits.memory`.
    Memory,
    /// `limits.lag`.
    Lag,
}

impl Full {
    /// The key of the limit, as the metrics have it.
    pub(super) fn limit(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "connections_per_address",
            Self::Rate => "connect_rate",
            Self::Memory => "memory",
            Self::Lag => "lag",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Connections => "full: limits.connections are open",
            Self::Address => "limits.connections_per_address are open from there",
            Self::Rate => "more come than limits.connect_rate",
            Self::Memory => "full: limits.memory is used",
            Self::Lag => "behind by more than limits.lag",
        }
    }
}

impl IntoResponse for Full {
    fn into_response(self) -> Response<Body> {
        let status =
            if self == Self::Address { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, [(header::RETRY_AFTER, "1")], format!("{}\n", self.text())).into_response()
    }
}

impl Admission {
    /// Lets a client in.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(self: &Arc<Self>, limits: &Limits, address: IpAddr) -> Result<Admitted, Full> {
        if let Some(full) = self.is_full(limits) {
            return Err(full);
        }
        let counted = limits.connections_per_address.map(|max| (network(address), max));
        let mut by_address = self.by_address.lock();
        if counted.is_some_and(|(address, max)| by_address.get(&address).is_some_and(|n| *n >= max)) {
            return Err(Full::Address);
        }
        // Last: who is turned away must not use up what others come by.
        if let Some(rate) = limits.connect_rate {
            let now = Instant::now();
            let mut arrivals = self.arrivals.lock();
            let level = arrivals.get_or_insert_with(|| Level::full(rate, now));
            level.take(rate, now).map_err(|_wait| Full::Rate)?;
        }
        if let Some((address, _)) = counted {
            *by_address.entry(address).or_default() += 1;
        }
        drop(by_address);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted { admission: Arc::clone(self), address: counted.map(|(address, _)| address) })
    }

    /// Why a load balancer should send nobody here, if so.
    #[must_use]
    pub fn trouble(&self, limits: &Limits) -> Option<&'static str> {
        self.is_full(limits).map(Full::text)
    }

    fn is_full(&self, limits: &Limits) -> Option<Full> {
        if self.open.load(Ordering::Relaxed) >= limits.connections {
            Some(Full::Connections)
        } else if self.memory.load(Ordering::Relaxed) {
            Some(Full::Memory)
        } else if self.lagged.lock().is_some_and(|at| at.elapsed() < STRAINED) {
            Some(Full::Lag)
        } else {
            None
        }
    }

    /// Looks at this process until `stop`.
    pub async fn watch(self: Arc<Self>, router: Arc<Router>, stop: CancellationToken) {
        loop {
            let began = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let generation = router.generation();
            let limits = &generation.config.limits;
            // What waits for a thread waits as long as we did.
            if limits.lag.is_some_and(|max| began.elapsed() > LOOK + max) {
                *self.lagged.lock() = Some(Instant::now());
            }
            let used = limits.memory.map(|max| process::resident().is_some_and(|bytes| bytes > max));
            self.memory.store(used.unwrap_or(false), Ordering::Relaxed);
        }
    }
}

/// Requests from one address for clients whose streams are elsewhere, a second
/// and at once: many people may be behind one.
const SAID: Rate = Rate { count: 2_000, per: Duration::from_secs(1) };

/// Addresses that are remembered for that.
const SAID_FROM: usize = 10_000;

impl Admission {
    /// False: more is said from an address than is passed on.
    #[must_use]
    pub fn may_say(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock();
        if said.len() >= SAID_FROM {
            said.retain(|_, level| !level.is_full(SAID, now));
            if said.len() >= SAID_FROM {
                return false;
            }
        }
        said.entry(network(address)).or_insert_with(|| Level::full(SAID, now)).take(SAID, now).is_ok()
    }
}

/// From where a client comes: what the last proxy that is not `trusted` says,
/// else who has connected.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let forwarded = headers.get_all("x-forwarded-for").iter();
    // A line that is no text is nobody's address, and ends the walk.
    let named: Vec<&str> =
        forwarded.map(|line| line.to_str().unwrap_or("?")).flat_map(|line| line.split(',')).collect();
    for name in named.into_iter().rev() {
        if !is_trusted(address) {
            break;
        }
        let Ok(before) = name.trim().parse::<IpAddr>() else { break };
        address = before.to_canonical();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn limits(text: &str) -> Limits {
        let text = format!("[limits]\n{text}");
        Config::parse(&text, std::path::Path::new("."), &Default::default()).unwrap().limits
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_goes_makes_room() {
        let (admission, limits) =
            (Arc::new(Admission::default()), limits("connections = 2\nconnections_per_address = 1"));
        let first = admission.admit(&limits, address("10.0.0.1")).unwrap();
        assert_eq!(admission.admit(&limits, address("10.0.0.1")).unwrap_err(), Full::Address);
        let _second = admission.admit(&limits, address("10.0.0.2")).unwrap();
        assert_eq!(admission.admit(&limits, address("10.0.0.3")).unwrap_err(), Full::Connections);
        assert!(admission.trouble(&limits).is_some());
        drop(first);
        assert!(admission.trouble(&limits).is_none());
        admission.admit(&limits, address("10.0.0.1")).unwrap();
        assert_eq!(admission.by_address.lock().len(), 1, "nobody is remembered who is gone");
    }

    #[test]
    fn a_network_of_the_sixth_version_counts_as_one_address() {
        let (admission, limits) = (Arc::new(Admission::default()), limits("connections_per_address = 1"));
        let _first = admission.admit(&limits, address("2001:db8::1")).unwrap();
        assert_eq!(admission.admit(&limits, address("2001:db8::ffff:1")).unwrap_err(), Full::Address);
        let _other = admission.admit(&limits, address("2001:db8:0:1::1")).unwrap();
        let _mapped = admission.admit(&limits, address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(admission.admit(&limits, address("10.0.0.1")).unwrap_err(), Full::Address);
    }

    #[test]
    fn more_than_the_rate_are_told_to_come_again() {
        let (admission, limits) = (Arc::new(Admission::default()), limits("connect_rate = \"3/1h\""));
        for _ in 0..3 {
            admission.admit(&limits, address("10.0.0.1")).unwrap();
        }
        let full = admission.admit(&limits, address("10.0.0.1")).unwrap_err();
        assert_eq!(full, Full::Rate);
        assert_eq!(full.into_response().headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn only_proxies_that_are_trusted_say_who_comes() {
        let trusted: Vec<Network> = ["127.0.0.0/8", "10.0.0.1"].iter().map(|text| text.parse().unwrap()).collect();
        let check = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            client_address(address(peer), &headers, &trusted).to_string()
        };
        assert_eq!(check("192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(check("127.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        // Whoever comes says what it likes in front.
        assert_eq!(check("127.0.0.1", &["1.1.1.1, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(check("127.0.0.1", &["1.1.1.1, 192.0.2.1", "10.0.0.1"]), "192.0.2.1");
        assert_eq!(check("127.0.0.1", &["nobody"]), "127.0.0.1");
        assert_eq!(check("127.0.0.1", &["6.6.6.6", "\u{e9}, 10.0.0.1"]), "127.0.0.1");
        assert_eq!(check("127.0.0.1", &[]), "127.0.0.1");
    }
}
