//! Which web pages may connect.
//!
//! A browser names the page that connects; a page of elsewhere must not use its
//! visitor's reach (RFC 6455, section 10.2). Others than browsers send no
//! origin, and gain nothing by that: who somebody is says its token alone.

use axum::http::{HeaderMap, header};

use crate::config::{Origin, OriginRule};

/// True if a request may be upgraded. Without rules that is so for our own
/// pages: what the browser took them from is what it connects to.
pub(super) fn is_allowed(headers: &HeaderMap, rules: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (first, more) = (origins.next(), origins.next());
    let Some(origin) = first else { return true };
    if rules.iter().any(|rule| rule == "*") {
        return true;
    }
    // Two, or one that is none: `null` is the origin of sandboxed pages and of
    // files, which anybody can make.
    let Some(origin) = origin.to_str().ok().filter(|_| more.is_none()).and_then(Origin::parse) else { return false };
    if !rules.is_empty() {
        return rules.iter().filter_map(|rule| OriginRule::parse(rule).ok()).any(|rule| rule.allows(&origin));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| origin.is_of_host(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(origins: &[&str], host: &str, rules: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for origin in origins {
            headers.append(header::ORIGIN, origin.parse().unwrap());
        }
        is_allowed(&headers, &rules.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_named_origins_and_our_own_pages_connect() {
        assert!(check(&[], "x", &[]));
        assert!(check(&["http://127.0.0.1:8000"], "127.0.0.1:8000", &[]));
        assert!(!check(&["http://127.0.0.1:8001"], "127.0.0.1:8000", &[]));
        assert!(check(&["https://a.example"], "A.example", &[]), "behind TLS");
        assert!(check(&["https://a.example"], "a.example:443", &[]));
        assert!(!check(&["https://a.example"], "a.example:80", &[]));
        assert!(!check(&["ftp://a.example"], "a.example", &[]));
        assert!(check(&["http://[::1]:8000"], "[::1]:8000", &[]));
        assert!(!check(&["https://evil.example"], "good.example", &["https://good.example"]));
        assert!(!check(&["https://own.example"], "own.example", &["https://good.example"]), "a list is the whole list");
        assert!(check(&["https://any.example"], "x", &["*"]));
        assert!(!check(&["null"], "x", &[]) && !check(&["null"], "null", &["https://good.example"]));
        let good = "https://good.example";
        assert!(!check(&[good, "https://evil.example"], "x", &[good]) && check(&[good], "x", &[good]));
    }

    #[test]
    fn a_star_stands_for_exactly_one_label() {
        let below = |origin: &str| check(&[origin], "x", &["https://*.good.example"]);
        assert!(
            below("https://a.good.example") && below("https://A.GOOD.example") && below("https://a.good.example:443")
        );
        for not in [
            "https://good.example",
            "https://a.b.good.example",
            "https://.good.example",
            "https://evilgood.example",
            "https://a.good.example.evil",
            "https://a.good.example.",
            "http://a.good.example",
            "https://a.good.example:8443",
            "https://a@good.example",
            "https://a/.good.example",
            "https://*.good.example",
        ] {
            assert!(!below(not), "{not}");
        }
        for rule in
            ["https://*.example", "https://*.*.example.com", "https://a.*.com", "*.example.com", "https://*", "null"]
        {
            assert!(OriginRule::parse(rule).is_err(), "{rule}");
        }
    }
}
