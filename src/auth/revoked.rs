//! Tokens that were taken back: one by its name, or all of a user up to a
//! moment. Each is remembered until it would have ended anyway.

use std::collections::HashMap;

use super::TokenId;

/// How many may be remembered. More are refused: none may be forgotten.
pub const REVOCATIONS_MAX: usize = 100_000;

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Revoked {
    /// The token with this `jti`.
    Token(Box<str>),
    /// Every token of a user.
    User(Box<str>),
}

/// One taking back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub what: Revoked,
    /// Of a user: those issued up to then, in seconds since 1970.
    pub before: u64,
    /// Seconds since 1970 after which it need not be remembered.
    pub until: u64,
}

impl Revocation {
    /// What, as instances tell each other.
    #[must_use]
    pub fn what_text(&self) -> String {
        match &self.what {
            Revoked::Token(name) => format!("t {name}"),
            Revoked::User(name) => format!("u {name}"),
        }
    }

    /// Reads that, with `before` and `until` behind each other in `times`.
    #[must_use]
    pub fn parse(what: &str, times: &str) -> Option<Self> {
        let what = match what.split_once(' ')? {
            ("t", name) => Revoked::Token(name.into()),
            ("u", name) => Revoked::User(name.into()),
            _ => return None,
        };
        let (before, until) = times.split_once(' ')?;
        Some(Self { what, before: before.parse().ok()?, until: until.parse().ok()? })
    }

    /// True if it concerns a token of this user.
    #[must_use]
    pub fn hits(&self, user: &str, token: &TokenId) -> bool {
        match &self.what {
            Revoked::Token(name) => token.jti.as_ref() == Some(name),
            Revoked::User(name) => **name == *user && token.issued_at <= self.before,
        }
    }
}

/// What became of adding one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It says something new.
    New,
    /// All of it was known.
    Known,
    /// Too many are remembered; it is not.
    Full,
}

/// All that is remembered.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Until when, and of users: up to when.
    all: HashMap<Revoked, (u64, u64)>,
}

impl Revocations {
    /// Remembers one. Of two about the same the later moments count.
    pub fn add(&mut self, revocation: &Revocation) -> Added {
        if self.all.len() >= REVOCATIONS_MAX && !self.all.contains_key(&revocation.what) {
            return Added::Full;
        }
        let known = self.all.entry(revocation.what.clone()).or_default();
        let both = (revocation.until.max(known.0), revocation.before.max(known.1));
        if both == *known {
            return Added::Known;
        }
        *known = both;
        Added::New
    }

    /// True if a token of this user was taken back. `now`: seconds since 1970.
    #[must_use]
    pub fn hit(&self, user: &str, token: &TokenId, now: u64) -> bool {
        if self.all.is_empty() {
            return false;
        }
        let by_name = token.jti.as_ref().and_then(|name| self.all.get(&Revoked::Token(name.clone())));
        let by_user = self.all.get(&Revoked::User(user.into())).filter(|(_, before)| token.issued_at <= *before);
        by_name.into_iter().chain(by_user).any(|(until, _)| *until > now)
    }

    /// True if none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        self.all.iter().map(|(what, (until, before))| Revocation { what: what.clone(), before: *before, until: *until })
    }

    /// Forgets what is over.
    pub fn forget(&mut self, now: u64) {
        self.all.retain(|_, (until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(jti: &str, issued_at: u64) -> TokenId {
        TokenId { jti: (!jti.is_empty()).then(|| jti.into()), issued_at }
    }

    #[test]
    fn a_token_is_hit_by_its_name_and_all_of_a_user_by_their_time() {
        let mut all = Revocations::default();
        let one = Revocation { what: Revoked::Token("x".into()), before: 0, until: 100 };
        let user = Revocation { what: Revoked::User("ada".into()), before: 50, until: 200 };
        assert_eq!((all.add(&one), all.add(&user), all.add(&user)), (Added::New, Added::New, Added::Known));
        assert!(all.hit("bob", &token("x", 99), 99) && !all.hit("bob", &token("y", 0), 99));
        assert!(!all.hit("bob", &token("x", 99), 100), "its time is over");
        assert!(all.hit("ada", &token("", 0), 150), "who does not say when it was issued is older");
        assert!(all.hit("ada", &token("", 50), 150) && !all.hit("ada", &token("", 51), 150));
        assert!(
            one.hits("bob", &token("x", 0)) && user.hits("ada", &token("", 50)) && !user.hits("bob", &token("", 0))
        );
        assert_eq!(all.add(&Revocation { until: 10, before: 60, ..user }), Added::New);
        assert!(all.hit("ada", &token("", 60), 199), "the later of both counts");
        all.forget(150);
        assert!(!all.hit("bob", &token("x", 0), 1) && all.iter().count() == 1);
    }

    #[test]
    fn what_is_told_is_read() {
        for name in ["", "a", "a b", " ", "ä\u{1F600}\"{}"] {
            for what in [Revoked::Token(name.into()), Revoked::User(name.into())] {
                let revocation = Revocation { what, before: 3, until: u64::MAX };
                let times = format!("{} {}", revocation.before, revocation.until);
                assert_eq!(Revocation::parse(&revocation.what_text(), &times), Some(revocation));
            }
        }
        for (what, times) in [("", "1 2"), ("t", "1 2"), ("x a", "1 2"), ("t a", "-1 2"), ("t a", "1 b"), ("t a", "")] {
            assert_eq!(Revocation::parse(what, times), None, "{what} {times}");
        }
    }

    #[test]
    fn none_is_forgotten_to_make_room() {
        let mut all = Revocations::default();
        let nth = |n: usize| Revocation { what: Revoked::Token(n.to_string().into()), before: 0, until: 9 };
        assert!((0..REVOCATIONS_MAX).all(|n| all.add(&nth(n)) == Added::New));
        assert_eq!((all.add(&nth(REVOCATIONS_MAX)), all.add(&nth(0))), (Added::Full, Added::Known));
        all.forget(9);
        assert_eq!(all.add(&nth(REVOCATIONS_MAX)), Added::New);
    }
}
