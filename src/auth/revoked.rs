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
    /// As instances tell each other.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (kind, name) = match &self.what {
            Revoked::Token(name) => ('t', name),
            Revoked::User(name) => ('u', name),
        };
        format!("{kind} {} {} {name}", self.before, self.until)
    }

    /// Reads that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        let kind = parts.next()?;
        let before = parts.next()?.parse().ok()?;
        let until = parts.next()?.parse().ok()?;
        let name = parts.next()?.into();
        let what = match kind {
            "t" => Revoked::Token(name),
            "u" => Revoked::User(name),
            _ => return None,
        };
        Some(Self { what, before, until })
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

/// All that is remembered.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Until when, and of users: up to when.
    all: HashMap<Revoked, (u64, u64)>,
}

impl Revocations {
    /// Remembers one. Of two about the same the later moments count. False: too
    /// many are remembered.
    pub fn add(&mut self, revocation: &Revocation) -> bool {
        if self.all.len() >= REVOCATIONS_MAX && !self.all.contains_key(&revocation.what) {
            return false;
        }
        let (until, before) = self.all.entry(revocation.what.clone()).or_default();
        *until = revocation.until.max(*until);
        *before = revocation.before.max(*before);
        true
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
        assert!(all.add(&one) && all.add(&user));
        assert!(all.hit("bob", &token("x", 99), 99) && !all.hit("bob", &token("y", 0), 99));
        assert!(!all.hit("bob", &token("x", 99), 100), "its time is over");
        assert!(all.hit("ada", &token("", 0), 150), "who does not say when it was issued is older");
        assert!(all.hit("ada", &token("", 50), 150) && !all.hit("ada", &token("", 51), 150));
        assert!(
            one.hits("bob", &token("x", 0)) && user.hits("ada", &token("", 50)) && !user.hits("bob", &token("", 0))
        );
        all.add(&Revocation { until: 10, before: 60, ..user });
        assert!(all.hit("ada", &token("", 60), 199), "the later of both counts");
        all.forget(150);
        assert!(!all.hit("bob", &token("x", 0), 1) && all.iter().count() == 1);
    }

    #[test]
    fn what_is_told_is_read() {
        for name in ["", "a", "a b", " ", "ä\u{1F600}\"{}"] {
            for what in [Revoked::Token(name.into()), Revoked::User(name.into())] {
                let revocation = Revocation { what, before: 3, until: u64::MAX };
                assert_eq!(Revocation::parse(&revocation.to_text()), Some(revocation));
            }
        }
        for bad in ["", "t", "t 1 2", "x 1 2 a", "t -1 2 a", "t 1 b a"] {
            assert_eq!(Revocation::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn none_is_forgotten_to_make_room() {
        let mut all = Revocations::default();
        let nth = |n: usize| Revocation { what: Revoked::Token(n.to_string().into()), before: 0, until: 9 };
        assert!((0..REVOCATIONS_MAX).all(|n| all.add(&nth(n))));
        assert!(!all.add(&nth(REVOCATIONS_MAX)) && all.add(&nth(0)));
        all.forget(9);
        assert!(all.add(&nth(REVOCATIONS_MAX)));
    }
}
