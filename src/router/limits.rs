//! How much one user may ask, on all its connections and all instances.
//!
//! The bucket of tokens is in Redis. Each instance takes a few at a time and
//! spends them without asking; it asks for more before they are used up, so
//! that a command seldom waits. Nothing is spent that was not taken, so the
//! instances together never go over the limit.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Router;
use crate::{
    cluster::Cluster,
    config::{Level, OnLimitDown, Rate, RateConfig, RateOf, network},
    hub::Connection,
    id::UserId,
    protocol::Refusal,
};

/// Addresses that are remembered, times the rates that are counted for each,
/// before those that asked nothing lately are forgotten.
const ADDRESSES: usize = 10_000;

/// How often clients of an address have asked for what.
#[derive(Debug)]
pub(super) struct AddressLevels {
    levels: HashMap<(IpAddr, usize), (Rate, Level)>,
    /// With so many, those that asked nothing lately are looked for.
    sweep_at: usize,
}

impl Default for AddressLevels {
    fn default() -> Self {
        Self { levels: HashMap::new(), sweep_at: ADDRESSES }
    }
}

/// The part of a full bucket that is taken at once.
const SHARE: u64 = 20;

/// How long Redis may take; then the config says what holds.
const PATIENCE: Duration = Duration::from_millis(500);

/// After Redis did not answer, nobody asks it for so long.
const PAUSE: Duration = Duration::from_millis(500);

/// Users that are remembered before those who asked nothing lately are
/// forgotten. Each takes some 200 bytes.
const USERS: usize = 1_000;

/// What this instance has taken for each user.
#[derive(Debug, Default)]
pub(super) struct UserLimits {
    shares: Mutex<Shares>,
    down_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Shares {
    by_user: HashMap<UserId, Share>,
    /// With so many, those who asked nothing lately are looked for.
    sweep_at: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self { by_user: HashMap::new(), sweep_at: USERS }
    }
}

#[derive(Debug, Clone, Copy)]
struct Share {
    tokens: u64,
    is_asking: bool,
    /// There is nothing to be had before.
    not_before: Instant,
    used: Instant,
    /// In which time all of it is there again.
    per: Duration,
    /// A bucket of this instance alone, for when there is no other.
    level: f64,
    level_at: Instant,
}

/// What one look at a share says.
enum Looked {
    Yes,
    /// Yes, and it is time to take more.
    YesAndMore,
    No(Duration),
    /// Redis must be asked.
    Ask,
}

impl UserLimits {
    fn look(&self, user: &UserId, rate: Rate, now: Instant) -> Looked {
        let mut shares = self.shares.lock();
        let Shares { by_user: shares, sweep_at } = &mut *shares;
        if shares.len() >= *sweep_at {
            shares.retain(|_, share| share.used + share.per > now);
            // All may be active: then looking pays only once they are twice as
            // many.
            *sweep_at = USERS.max(2 * shares.len());
        }
        let fresh = Share {
            tokens: 0,
            is_asking: false,
            not_before: now,
            used: now,
            per: rate.per,
            level: rate.count as f64,
            level_at: now,
        };
        let share = shares.entry(Arc::clone(user)).or_insert(fresh);
        share.used = now;
        if share.tokens > 0 {
            share.tokens -= 1;
            if share.tokens <= wanted(rate) / 4 && !share.is_asking && share.not_before <= now {
                share.is_asking = true;
                return Looked::YesAndMore;
            }
            return Looked::Yes;
        }
        if share.not_before > now { Looked::No(share.not_before - now) } else { Looked::Ask }
    }

    fn add(&self, user: &UserId, tokens: u64, retry_after: Duration) {
        if let Some(share) = self.shares.lock().by_user.get_mut(user) {
            share.tokens += tokens;
            share.is_asking = false;
            if tokens == 0 {
                share.not_before = Instant::now() + retry_after.max(Duration::from_millis(1));
            }
        }
    }

    /// Takes from this instance's own bucket.
    fn take_here(&self, user: &UserId, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut shares = self.shares.lock();
        let Some(share) = shares.by_user.get_mut(user) else { return Ok(()) };
        share.is_asking = false;
        let refill = now.duration_since(share.level_at).as_secs_f64() * rate.per_second();
        share.level = (share.level + refill).min(rate.count as f64);
        share.level_at = now;
        if share.level >= 1.0 {
            share.level -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - share.level) / rate.per_second()))
    }
}

fn wanted(rate: Rate) -> u64 {
    (rate.count / SHARE).max(1)
}

/// Refuses what comes too often.
pub fn too_often(wait: Duration) -> Refusal {
    let reason = format!("too many requests; try again in {} ms", wait.as_millis().max(1));
    Refusal { reason: reason.into(), ..Refusal::TOO_MANY_REQUESTS }
}

fn too_many(wait: Duration) -> Refusal {
    let reason = format!("too many requests of this user; try again in {} ms", wait.as_millis().max(1));
    Refusal { reason: reason.into(), ..Refusal::TOO_MANY_REQUESTS }
}

impl Router {
    /// True if commands are counted beside what a connection counts of its own.
    #[must_use]
    pub fn counts(&self) -> bool {
        let generation = self.generation.load();
        let limits = &generation.config.limits;
        limits.user_commands.is_some() || !limits.rates.is_empty()
    }

    /// Counts a command of a user against its limit.
    ///
    /// # Errors
    /// If it has asked too much, with the time after which it may again; or if
    /// Redis does not answer and the config wants that to be a refusal.
    pub async fn limit_user(self: &Arc<Self>, connection: &Connection) -> Result<(), Refusal> {
        let (rate, when_down) = {
            let generation = self.generation.load();
            let limits = &generation.config.limits;
            (limits.user_commands, limits.user_commands_down)
        };
        let Some(rate) = rate.filter(|_| !connection.user.is_empty()) else { return Ok(()) };
        self.limit_shared(&connection.user, rate, when_down).await
    }

    /// Counts a command against the `n`th of `[[limits.rates]]`, which is one of
    /// users or addresses.
    ///
    /// # Errors
    /// As for all commands of a user.
    pub async fn limit_kind(
        self: &Arc<Self>,
        n: usize,
        limit: &RateConfig,
        connection: &Connection,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        match limit.of {
            RateOf::User if !connection.user.is_empty() => {
                let when_down = self.generation.load().config.limits.user_commands_down;
                // No user's name begins so: it has a control character in it.
                let key = UserId::from(format!("{n}\n{}", connection.user));
                self.limit_shared(&key, limit.rate, when_down).await
            }
            // Nobody in particular has only its address.
            RateOf::User | RateOf::Address => {
                let now = Instant::now();
                let mut addresses = self.by_address.lock();
                let AddressLevels { levels, sweep_at } = &mut *addresses;
                if levels.len() >= *sweep_at {
                    levels.retain(|_, (rate, level)| !level.is_full(*rate, now));
                    // All may be active: then looking pays only once they are
                    // twice as many.
                    *sweep_at = ADDRESSES.max(2 * levels.len());
                }
                let fresh = || (limit.rate, Level::full(limit.rate, now));
                let (rate, level) = levels.entry((network(address), n)).or_insert_with(fresh);
                *rate = limit.rate;
                level.take(limit.rate, now).map_err(too_often)
            }
            RateOf::Connection => Ok(()),
        }
    }

    async fn limit_shared(self: &Arc<Self>, user: &UserId, rate: Rate, when_down: OnLimitDown) -> Result<(), Refusal> {
        let now = Instant::now();
        match self.limits.look(user, rate, now) {
            Looked::Yes => return Ok(()),
            Looked::No(wait) => return Err(too_many(wait)),
            Looked::YesAndMore => {
                if let Some(cluster) = self.cluster.clone() {
                    let (router, user) = (Arc::clone(self), Arc::clone(user));
                    self.tasks.spawn(async move { router.take_share(&cluster, &user, rate).await });
                }
                return Ok(());
            }
            Looked::Ask => {}
        }
        let Some(cluster) = &self.cluster else { return self.limits.take_here(user, rate, now).map_err(too_many) };
        let is_down = self.limits.down_until.lock().is_some_and(|until| until > now);
        // Boxed, since each idle connection would have room for it.
        if !is_down && Box::pin(self.take_share(cluster, user, rate)).await {
            return match self.limits.look(user, rate, Instant::now()) {
                Looked::Yes | Looked::YesAndMore => Ok(()),
                Looked::No(wait) => Err(too_many(wait)),
                Looked::Ask => Err(too_many(Duration::from_millis(1))),
            };
        }
        match when_down {
            OnLimitDown::Open => self.limits.take_here(user, rate, now).map_err(too_many),
            OnLimitDown::Closed => Err(Refusal::BUS_DOWN),
        }
    }

    /// False: Redis did not answer.
    async fn take_share(&self, cluster: &Cluster, user: &UserId, rate: Rate) -> bool {
        let taking = cluster.take("user", user, rate.per_second(), rate.count, wanted(rate));
        match tokio::time::timeout(PATIENCE, taking).await {
            Ok(Ok(granted)) => {
                *self.limits.down_until.lock() = None;
                self.limits.add(user, granted.tokens, granted.retry_after);
                true
            }
            _ => {
                *self.limits.down_until.lock() = Some(Instant::now() + PAUSE);
                self.limits.add(user, 0, Duration::ZERO);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_users_are_not_looked_through_at_each_command() {
        let (limits, start) = (UserLimits::default(), Instant::now());
        let rate = Rate { count: 10, per: Duration::from_secs(10) };
        let user = |n: usize| UserId::from(n.to_string());
        for n in 0..3 * USERS {
            limits.look(&user(n), rate, start);
        }
        let shares = limits.shares.lock();
        assert_eq!((shares.by_user.len(), shares.sweep_at), (3 * USERS, 4 * USERS), "two looks for 3,000 users");
        drop(shares);
        for n in 3 * USERS..=4 * USERS {
            limits.look(&user(n), rate, start + rate.per);
        }
        let shares = limits.shares.lock();
        assert_eq!((shares.by_user.len(), shares.sweep_at), (USERS + 1, 2 * USERS), "who asked nothing is forgotten");
    }
}
