//! Keys that an issuer publishes: fetched when they are needed, kept, fetched
//! anew when a token names one that is not there.
//!
//! Each issuer has a set of its own, so that a key of one is never looked up
//! for another. What decides is [`Cache`], which has no clock and no socket;
//! [`Remote`] waits for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    fetch,
    keys::{self, Key},
};
use crate::config::JwksUrl;

/// How long keys are used that cannot be fetched again.
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long after a failure it is tried again while there are no keys at all.
const RETRY: Duration = Duration::from_secs(5);

/// Names of keys that were not in the set are remembered for this long, and so
/// many of them.
const MISSING_FOR: Duration = Duration::from_secs(60);
const MISSING_MAX: usize = 1_024;

/// What became of looking for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Looked {
    Found(Arc<Key>),
    /// The issuer has no such key.
    Missing,
    /// Nobody can say for the moment.
    Unknown,
}

/// What is to be done about a key.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Done(Looked),
    /// Use this one, and fetch the set anew beside it.
    Renew(Arc<Key>),
    /// Fetch the set, and look again then.
    Fetch,
    /// Somebody is at it.
    Wait,
}

/// The set as it is known.
#[derive(Debug, Default)]
struct Cache {
    keys: Vec<Arc<Key>>,
    /// When the set was fetched.
    loaded: Option<Instant>,
    /// When that was tried last.
    asked: Option<Instant>,
    is_fetching: bool,
    missing: HashMap<String, Instant>,
}

/// How often a set is fetched.
#[derive(Debug, Clone, Copy)]
struct Pace {
    refresh: Duration,
    min_interval: Duration,
}

impl Cache {
    fn is_usable(&self, now: Instant) -> bool {
        self.loaded.is_some_and(|loaded| now.duration_since(loaded) < STALE_MAX)
    }

    fn may_fetch(&self, now: Instant, pace: Pace) -> bool {
        let pause = if self.is_usable(now) { pace.min_interval } else { pace.min_interval.min(RETRY) };
        !self.is_fetching && self.asked.is_none_or(|asked| now.duration_since(asked) >= pause)
    }

    /// The key of this name; without a name, the only one there is.
    fn get(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Arc<Key>> {
        let mut fitting = self.keys.iter().filter(|key| key.is_for(algorithm));
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }

    /// Looks for a key before anything is fetched.
    fn look(&mut self, id: Option<&str>, algorithm: Algorithm, now: Instant, pace: Pace) -> Next {
        let may_fetch = self.may_fetch(now, pace);
        if self.is_usable(now) {
            let age = self.loaded.map(|loaded| now.duration_since(loaded)).unwrap_or_default();
            match self.get(id, algorithm).map(Arc::clone) {
                // Nobody has come for long: it may have been withdrawn long ago.
                Some(_) if age >= 2 * pace.refresh && (may_fetch || self.is_fetching) => {}
                Some(key) if age >= pace.refresh && may_fetch => {
                    self.begin(now);
                    return Next::Renew(key);
                }
                Some(key) => return Next::Done(Looked::Found(key)),
                // Without a name there is nothing that a later set could have.
                None if id.is_none() => return Next::Done(Looked::Missing),
                // It is not asked for again so soon, but it may be there by now.
                None if id.is_some_and(|id| self.is_missing(id, now)) => return Next::Done(Looked::Unknown),
                None => {}
            }
        }
        if self.is_fetching {
            return Next::Wait;
        }
        if may_fetch {
            self.begin(now);
            return Next::Fetch;
        }
        Next::Done(Looked::Unknown)
    }

    /// The only key there is has not made a token that names none: another one
    /// may be the only one by now.
    fn look_for_newer(&mut self, now: Instant, pace: Pace) -> Next {
        if self.is_fetching {
            return Next::Wait;
        }
        if !self.may_fetch(now, pace) {
            return Next::Done(Looked::Missing);
        }
        self.begin(now);
        Next::Fetch
    }

    /// The same after waiting for a fetch. Only one that `began` after the token
    /// came proves that the issuer has no such key.
    fn look_again(&mut self, id: Option<&str>, algorithm: Algorithm, now: Instant, began: bool) -> Looked {
        if !self.is_usable(now) {
            return Looked::Unknown;
        }
        if let Some(key) = self.get(id, algorithm) {
            return Looked::Found(Arc::clone(key));
        }
        let is_fresh = !self.is_fetching && self.loaded >= self.asked;
        match id {
            None => Looked::Missing,
            Some(id) if began && is_fresh => {
                self.note_missing(id, now);
                Looked::Missing
            }
            Some(id) if self.is_missing(id, now) => Looked::Missing,
            Some(_) => Looked::Unknown,
        }
    }

    fn begin(&mut self, now: Instant) {
        self.is_fetching = true;
        self.asked = Some(now);
    }

    /// None: it failed, and what is known stays.
    fn end(&mut self, keys: Option<Vec<Key>>, now: Instant) {
        self.is_fetching = false;
        if let Some(keys) = keys {
            self.keys = keys.into_iter().map(Arc::new).collect();
            self.loaded = Some(now);
        }
    }

    fn is_missing(&self, id: &str, now: Instant) -> bool {
        self.missing.get(id).is_some_and(|noted| now.duration_since(*noted) < MISSING_FOR)
    }

    fn note_missing(&mut self, id: &str, now: Instant) {
        if self.missing.len() >= MISSING_MAX {
            self.missing.retain(|_, noted| now.duration_since(*noted) < MISSING_FOR);
        }
        if self.missing.len() < MISSING_MAX {
            self.missing.insert(id.to_owned(), now);
        }
    }
}

/// The set of one issuer at one place.
#[derive(Debug)]
pub(super) struct Remote {
    place: JwksUrl,
    algorithms: Vec<Algorithm>,
    cache: Mutex<Cache>,
    /// Changes when a fetch has ended.
    ended: watch::Sender<u64>,
}

impl Remote {
    pub(super) fn new(place: JwksUrl, algorithms: Vec<Algorithm>) -> Self {
        Self { place, algorithms, cache: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// Looks for a key, and waits for it no longer than a fetch may take.
    pub(super) async fn find(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm, tasks: &TaskTracker) -> Looked {
        self.wait_for(id, algorithm, tasks, |cache, now, pace| cache.look(id, algorithm, now, pace)).await
    }

    /// Looks for a newer key than the one that was found without a name, and
    /// has not made the token.
    pub(super) async fn find_newer(self: &Arc<Self>, algorithm: Algorithm, tasks: &TaskTracker) -> Looked {
        self.wait_for(None, algorithm, tasks, Cache::look_for_newer).await
    }

    async fn wait_for(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
        tasks: &TaskTracker,
        look: impl FnOnce(&mut Cache, Instant, Pace) -> Next,
    ) -> Looked {
        let pace = Pace { refresh: self.place.refresh, min_interval: self.place.min_interval };
        // Before looking, so that no end is missed.
        let mut ended = self.ended.subscribe();
        let next = look(&mut self.cache.lock(), Instant::now(), pace);
        let began = next == Next::Fetch;
        match next {
            Next::Done(looked) => return looked,
            Next::Renew(key) => {
                tasks.spawn(Arc::clone(self).fetch());
                return Looked::Found(key);
            }
            Next::Fetch => drop(tasks.spawn(Arc::clone(self).fetch())),
            Next::Wait => {}
        }
        let _in_time = timeout(self.place.timeout, ended.changed()).await;
        self.cache.lock().look_again(id, algorithm, Instant::now(), began)
    }

    async fn fetch(self: Arc<Self>) {
        // Also if it panics: nobody would ever fetch again.
        let mut ending = Ending { remote: &self, keys: None };
        let fetched = match timeout(self.place.timeout, fetch::get(&self.place)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("no answer within {:?}", self.place.timeout)),
        };
        let keys = fetched.and_then(|text| keys::from_jwks(&text, &self.algorithms));
        // What stands behind the question mark may be a secret.
        let url = self.place.url.split('?').next().unwrap_or_default();
        match keys {
            Ok((keys, unusable)) => {
                unusable.iter().for_each(|reason| tracing::warn!(url, "{reason}"));
                tracing::debug!(url, keys = keys.len(), "key set fetched");
                if keys.is_empty() {
                    tracing::warn!(url, "the key set has no key that `algorithms` allow; its tokens are refused");
                }
                ending.keys = Some(keys);
            }
            Err(error) => {
                tracing::warn!(url, error, "the key set cannot be fetched; known keys are used for up to a day");
            }
        }
    }
}

/// Ends a fetch, whatever becomes of it.
struct Ending<'a> {
    remote: &'a Remote,
    keys: Option<Vec<Key>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.remote.cache.lock().end(self.keys.take(), Instant::now());
        self.remote.ended.send_modify(|ended| *ended += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { refresh: Duration::from_secs(900), min_interval: Duration::from_secs(30) };
    const RS: Algorithm = Algorithm::RS256;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A key by that name; of what kind makes no difference here.
    fn key(id: &str) -> Key {
        Key::secret(id.as_bytes(), vec![RS]).named(Some(id.to_owned()))
    }

    fn loaded(names: &[&str], now: Instant) -> Cache {
        let mut cache = Cache::default();
        assert_eq!(cache.look(Some("a"), RS, now, PACE), Next::Fetch);
        cache.end(Some(names.iter().map(|name| key(name)).collect()), now);
        cache
    }

    fn found(id: &str) -> Looked {
        Looked::Found(Arc::new(key(id)))
    }

    /// Row T3.
    #[test]
    fn ten_thousand_unknown_names_cost_two_fetches() {
        let start = Instant::now();
        let mut cache = loaded(&["a"], start);
        let mut fetches = 1;
        for n in 0..10_000_u64 {
            let now = start + secs(30) + Duration::from_millis(n);
            let name = n.to_string();
            match cache.look(Some(&name), RS, now, PACE) {
                Next::Fetch => {
                    fetches += 1;
                    cache.end(Some(vec![key("a")]), now);
                    assert_eq!(cache.look_again(Some(&name), RS, now, true), Looked::Missing);
                }
                next => assert_eq!(next, Next::Done(Looked::Unknown)),
            }
            assert_eq!(cache.look(Some("a"), RS, now, PACE), Next::Done(found("a")), "others are not held up");
        }
        assert_eq!(fetches, 2);
    }

    #[test]
    fn a_name_that_is_not_in_the_set_is_not_fetched_for_again_soon() {
        let start = Instant::now();
        let mut cache = loaded(&["a"], start);
        let at = |n| start + secs(n);
        assert_eq!(cache.look(Some("b"), RS, at(30), PACE), Next::Fetch);
        cache.end(Some(vec![key("a")]), at(30));
        assert_eq!(cache.look_again(Some("b"), RS, at(30), true), Looked::Missing);
        assert_eq!(cache.look(Some("b"), RS, at(61), PACE), Next::Done(Looked::Unknown), "though it may be fetched");
        assert_eq!(cache.look(Some("b"), RS, at(91), PACE), Next::Fetch, "it may be there by now");
        cache.end(Some(vec![key("b")]), at(91));
        assert_eq!(cache.look_again(Some("b"), RS, at(91), true), found("b"));
        assert_eq!(cache.look(Some("a"), RS, at(92), PACE), Next::Done(Looked::Unknown), "rotated out");
    }

    #[test]
    fn one_fetch_at_a_time_and_the_others_wait() {
        let start = Instant::now();
        let mut cache = Cache::default();
        assert_eq!(cache.look(Some("a"), RS, start, PACE), Next::Fetch);
        assert_eq!(cache.look(Some("a"), RS, start, PACE), Next::Wait);
        assert_eq!(cache.look(Some("b"), RS, start, PACE), Next::Wait);
        cache.end(Some(vec![key("a")]), start);
        assert_eq!(cache.look_again(Some("a"), RS, start, false), found("a"));
        assert_eq!(cache.look_again(Some("b"), RS, start, false), Looked::Unknown, "it may have come since");
    }

    #[test]
    fn old_keys_are_used_while_new_ones_are_fetched_and_for_a_day_if_that_fails() {
        let start = Instant::now();
        let mut cache = loaded(&["a"], start);
        assert_eq!(cache.look(Some("a"), RS, start + secs(899), PACE), Next::Done(found("a")));
        let mut now = start + secs(900);
        assert_eq!(cache.look(Some("a"), RS, now, PACE), Next::Renew(Arc::new(key("a"))));
        assert_eq!(cache.look(Some("a"), RS, now, PACE), Next::Done(found("a")), "one at a time");
        cache.end(None, now);
        // After a silence a token waits for new ones first.
        now = start + secs(1800);
        while now < start + STALE_MAX {
            assert_eq!(cache.look(Some("a"), RS, now, PACE), Next::Fetch);
            assert_eq!(cache.look(Some("a"), RS, now, PACE), Next::Wait);
            cache.end(None, now);
            assert_eq!(cache.look_again(Some("a"), RS, now, true), found("a"));
            assert_eq!(cache.look(Some("a"), RS, now + secs(1), PACE), Next::Done(found("a")), "not twice in a row");
            now += secs(600);
        }
        assert_eq!(cache.look(Some("a"), RS, start + STALE_MAX + secs(40), PACE), Next::Fetch, "they are too old");
        cache.end(None, now);
        assert_eq!(cache.look_again(Some("a"), RS, start + STALE_MAX + secs(40), true), Looked::Unknown);
    }

    #[test]
    fn a_token_without_a_name_is_tried_with_the_key_that_came_after() {
        let start = Instant::now();
        let mut cache = loaded(&["a"], start);
        assert_eq!(cache.look_for_newer(start + secs(29), PACE), Next::Done(Looked::Missing), "not so soon");
        assert_eq!(cache.look_for_newer(start + secs(30), PACE), Next::Fetch);
        assert_eq!(cache.look_for_newer(start + secs(30), PACE), Next::Wait);
        cache.end(Some(vec![key("b")]), start + secs(30));
        assert_eq!(cache.look_again(None, RS, start + secs(30), true), found("b"));
    }

    #[test]
    fn without_a_name_only_an_only_key_is_meant() {
        let start = Instant::now();
        assert_eq!(loaded(&["a"], start).look(None, RS, start, PACE), Next::Done(found("a")));
        assert_eq!(loaded(&["a", "b"], start).look(None, RS, start, PACE), Next::Done(Looked::Missing));
        let other = Algorithm::ES256;
        assert_eq!(loaded(&["a"], start).look(Some("a"), other, start + secs(1), PACE), Next::Done(Looked::Unknown));
    }

    #[test]
    fn unknown_names_take_up_no_more_room_than_they_may() {
        let start = Instant::now();
        let mut cache = loaded(&["a"], start);
        for n in 0..3 * MISSING_MAX {
            cache.note_missing(&n.to_string(), start);
        }
        assert_eq!(cache.missing.len(), MISSING_MAX);
        cache.note_missing("later", start + MISSING_FOR);
        assert_eq!(cache.missing.len(), 1);
    }
}
