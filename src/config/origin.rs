//! Origins of web pages (RFC 6454), and rules for which may connect.

/// Where a page comes from: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin<'a> {
    scheme: &'a str,
    /// As browsers send it, in whatever case; IPv6 in brackets.
    host: &'a str,
    port: u16,
}

impl<'a> Origin<'a> {
    /// Reads an origin as browsers send it. None: it is none, as `null` is.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let default = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => 443,
            _ if scheme.eq_ignore_ascii_case("http") => 80,
            _ => 0,
        };
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(is_scheme) {
            return None;
        }
        let (host, port) = split_port(authority, default)?;
        is_host(host).then_some(Self { scheme, host, port })
    }

    /// True if it is what a client calls the server that it connects to: the
    /// page was taken from there.
    #[must_use]
    pub fn is_of_host(&self, host: &str) -> bool {
        let default = if self.scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        let is_web = self.scheme.eq_ignore_ascii_case("https") || self.scheme.eq_ignore_ascii_case("http");
        is_web
            && split_port(host, default)
                .is_some_and(|(host, port)| port == self.port && host.eq_ignore_ascii_case(self.host))
    }
}

/// A host and its port, which is not written where it is the scheme's own.
fn split_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let colon = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    let Some(at) = colon else { return Some((authority, default)) };
    let digits = &authority[at + 1..];
    // `parse` would take a sign.
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = is_number.then(|| digits.parse().ok()).flatten().filter(|port| *port > 0)?;
    Some((&authority[..at], port))
}

/// Names without a dot at the end, and addresses: what browsers send.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    !host.is_empty() && host.len() <= 253 && host.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// One of `server.allowed_origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule<'a> {
    /// Every page.
    Any,
    /// This one.
    One(Origin<'a>),
    /// Those whose host is one label before this one.
    Below(Origin<'a>),
}

impl<'a> OriginRule<'a> {
    /// Reads a rule: an origin, one whose host begins with `*.`, or `*`.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        const EXPECTED: &str = r#"expected one such as "https://example.com", "https://*.example.com" or "*""#;
        if text == "*" {
            return Ok(Self::Any);
        }
        let Some((scheme, host)) = text.split_once("://*.") else {
            return Origin::parse(text).map(Self::One).ok_or(EXPECTED);
        };
        let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        let (name, port) = split_port(host, default).ok_or(EXPECTED)?;
        if !matches!(scheme, "https" | "http") || !is_host(name) || name.starts_with('[') {
            return Err(EXPECTED);
        }
        if !name.contains('.') || name.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err("a star stands before a name of at least two labels: \"https://*.example.com\"");
        }
        Ok(Self::Below(Origin { scheme, host: name, port }))
    }

    /// True if it allows an origin.
    #[must_use]
    pub fn allows(&self, origin: &Origin<'_>) -> bool {
        let same = |rule: &Origin<'_>| rule.scheme.eq_ignore_ascii_case(origin.scheme) && rule.port == origin.port;
        match self {
            Self::Any => true,
            Self::One(rule) => same(rule) && rule.host.eq_ignore_ascii_case(origin.host),
            Self::Below(rule) => {
                let label = origin.host.split_once('.');
                same(rule) && label.is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(rule.host))
            }
        }
    }
}
