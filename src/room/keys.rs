//! Idempotency keys: what was done once within a time is not done again.

use std::{
    borrow::Borrow,
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

/// Keys with what was done for them, by age: a look costs no more for many.
#[derive(Debug)]
pub struct Keys<K: ?Sized, V> {
    known: HashMap<Arc<K>, V>,
    order: VecDeque<(Instant, Arc<K>)>,
    ttl: Duration,
    max: usize,
}

/// As many keys are remembered as may be. None is forgotten for another: what
/// was done for it would be done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many idempotency keys are remembered")]
pub struct Full;

impl<K: Eq + Hash + ?Sized, V> Keys<K, V> {
    /// At most `max` keys, each for `ttl`.
    #[must_use]
    pub fn new(ttl: Duration, max: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), ttl, max }
    }

    /// What was done for a key; None: nothing yet, and there is room for it.
    ///
    /// # Errors
    /// [`Full`].
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: Instant) -> Result<Option<&V>, Full>
    where
        Arc<K>: Borrow<Q>,
    {
        self.forget(now);
        match self.known.get(key) {
            Some(value) => Ok(Some(value)),
            None if self.known.len() >= self.max => Err(Full),
            None => Ok(None),
        }
    }

    /// Notes what was done for a key that was not known.
    pub fn insert(&mut self, key: Arc<K>, value: V, now: Instant) {
        if self.known.insert(Arc::clone(&key), value).is_none() {
            self.order.push_back((now, key));
        }
    }

    /// Forgets those whose time is over, and gives back their space.
    pub fn forget(&mut self, now: Instant) {
        while let Some((since, key)) = self.order.front()
            && now.duration_since(*since) >= self.ttl
        {
            self.known.remove(key);
            self.order.pop_front();
        }
        if self.known.len() < self.known.capacity() / 4 {
            self.known.shrink_to(self.known.len() * 2);
            self.order.shrink_to(self.known.len() * 2);
        }
    }

    /// True if none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_by_age_and_none_goes_for_another() {
        let (mut keys, start) = (Keys::<str, u64>::new(Duration::from_secs(10), 3), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(keys.get(key, at(n as u64)), Ok(None));
            keys.insert(key.into(), n as u64, at(n as u64));
        }
        assert_eq!(keys.get("a", at(9)), Ok(Some(&0)), "known while it lasts, also if it is full");
        assert_eq!(keys.get("d", at(9)), Err(Full));
        assert_eq!(keys.get("a", at(10)), Ok(None));
        assert_eq!(keys.known.len(), 2);
        keys.forget(at(20));
        assert!(keys.is_empty() && keys.order.is_empty());
    }
}
