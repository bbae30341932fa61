//! The world of a case: a clock that stands still, a store of its own, and
//! members that are only said to be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    config::cases::{Case, Step},
    plugin::{KvStore, Lookup, MemoryStore, NotStored, Time, Unavailable},
    protocol::{MemberInfo, Payload},
};

/// What plugins see of it. One for all cases, which come one after the other.
#[derive(Debug)]
pub(super) struct Stage {
    clock: Arc<CaseClock>,
    /// Held for the choice of what is asked.
    scene: Mutex<Scene>,
}

#[derive(Debug)]
struct Scene {
    store: Arc<MemoryStore>,
    step: Option<Step>,
}

/// Moves only when it is told to.
#[derive(Debug)]
struct CaseClock(Mutex<(u64, Instant)>);

impl Time for CaseClock {
    fn wall(&self) -> u64 {
        self.0.lock().0
    }

    fn monotonic(&self) -> Instant {
        self.0.lock().1
    }
}

impl CaseClock {
    fn put(&self, wall: u64) {
        let mut time = self.0.lock();
        // The wall's clock may go back; the other one never does.
        let passed = Duration::from_millis(wall.saturating_sub(time.0));
        *time = (wall, time.1.checked_add(passed).unwrap_or(time.1));
    }
}

impl Stage {
    pub(super) fn new() -> Arc<Self> {
        let clock = Arc::new(CaseClock(Mutex::new((0, Instant::now()))));
        let store = Arc::new(MemoryStore::on(clock.clone()));
        Arc::new(Self { clock, scene: Mutex::new(Scene { store, step: None }) })
    }

    pub(super) fn time(&self) -> Arc<dyn Time> {
        self.clock.clone()
    }

    /// Sets the scene for a case of a plugin: nothing is left of the one before.
    pub(super) fn begin(&self, plugin: &str, case: &Case) {
        let store = Arc::new(MemoryStore::on(self.clock.clone()));
        for (key, value) in &case.kv {
            // What the quota is about is what the plugin adds.
            let _kept = store.set(plugin, key, value.clone(), None, usize::MAX);
        }
        *self.scene.lock() = Scene { store, step: None };
    }

    /// What holds for a step.
    pub(super) fn turn_to(&self, step: &Step) {
        self.clock.put(step.now);
        self.scene.lock().step = Some(step.clone());
    }

    /// What the plugin has kept by now.
    pub(super) fn kept(&self, plugin: &str) -> BTreeMap<String, Payload> {
        self.scene.lock().store.entries(plugin)
    }

    fn store(&self) -> Result<Arc<MemoryStore>, Unavailable> {
        let scene = self.scene.lock();
        if scene.step.as_ref().is_some_and(|step| step.away.kv) { Err(Unavailable) } else { Ok(scene.store.clone()) }
    }

    fn ask<A>(&self, question: impl FnOnce(&BTreeMap<String, Vec<MemberInfo>>) -> A) -> Result<A, Unavailable> {
        let scene = self.scene.lock();
        match &scene.step {
            Some(step) if step.away.lookup => Err(Unavailable),
            Some(step) => Ok(question(&step.lookup)),
            None => Ok(question(&BTreeMap::new())),
        }
    }
}

impl KvStore for Stage {
    fn get(&self, plugin: &str, key: &str) -> Result<Option<Payload>, Unavailable> {
        self.store()?.get(plugin, key)
    }

    fn set(
        &self,
        plugin: &str,
        key: &str,
        value: Payload,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<(), NotStored> {
        self.store()?.set(plugin, key, value, ttl, quota)
    }

    fn delete(&self, plugin: &str, key: &str) -> Result<bool, Unavailable> {
        self.store()?.delete(plugin, key)
    }

    fn increment(
        &self,
        plugin: &str,
        key: &str,
        by: i64,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<i64, NotStored> {
        self.store()?.increment(plugin, key, by, ttl, quota)
    }
}

impl Lookup for Stage {
    fn count(&self, room: &str) -> Result<(usize, usize), Unavailable> {
        self.ask(|rooms| {
            let members = rooms.get(room).map_or(&[][..], Vec::as_slice);
            (members.len(), members.iter().map(|member| &member.user).collect::<BTreeSet<_>>().len())
        })
    }

    fn members(&self, room: &str, limit: usize) -> Result<Vec<MemberInfo>, Unavailable> {
        self.ask(|rooms| rooms.get(room).into_iter().flatten().take(limit).cloned().collect())
    }

    fn connections(&self, user: &str) -> Result<Vec<String>, Unavailable> {
        self.ask(|rooms| {
            let theirs = rooms.values().flatten().filter(|member| &*member.user == user);
            let ids: BTreeSet<_> = theirs.map(|member| member.connection.clone()).collect();
            ids.into_iter().collect()
        })
    }
}
