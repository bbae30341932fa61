//! All servers of one contestant, their Redis and what they ask.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::contestant::{Contestant, Kind, With};
use super::redis::{Redis, Traffic};
use super::server::{Others, Server};
use crate::support::gateway::free_addr;
use crate::support::process::{self, Cpu, Process};

pub(crate) struct Site {
    pub(crate) contestant: Contestant,
    pub(crate) servers: Vec<Server>,
    hook: Option<Server>,
    redis: Option<Redis>,
    routes: Vec<SocketAddr>,
}

/// The least time of which it is told what others have used.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// CPU time of each process, what was asked and Redis last.
pub(crate) struct Clock {
    at: Instant,
    processes: Vec<Cpu>,
    /// This process, which is the load.
    own: Cpu,
    /// As [`process::machine_idle`] says.
    idle: (u32, Duration),
}

/// What a site has used in a while.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) servers: Vec<Duration>,
    /// What the servers ask of others.
    pub(crate) hook: Duration,
    pub(crate) redis: Duration,
    pub(crate) traffic: Traffic,
    /// What none of our processes has used, as a share of one processor: of a
    /// machine that does nothing else some hundredths, the kernel's own. 0 for
    /// less than a second, since the kernel tells hundredths of one.
    pub(crate) others: f64,
}

impl Used {
    pub(crate) fn cpu(&self) -> Duration {
        self.servers.iter().sum::<Duration>() + self.hook + self.redis
    }
}

impl Site {
    /// Starts so many; with `bus` they share a Redis that nobody has used
    /// before, or what they have in its place.
    pub(crate) async fn start(contestant: &Contestant, instances: usize, bus: bool) -> Result<Site> {
        let redis = if bus && contestant.shares_redis() { Some(Redis::start().await?) } else { None };
        let asks = contestant.kind == Kind::Centrifugo && contestant.with == With::Hooks;
        let hook = if asks { Some(Server::hook().await?) } else { None };
        let mut site = Site { contestant: *contestant, servers: Vec::new(), hook, redis, routes: Vec::new() };
        for _ in 0..instances {
            site.add().await?;
        }
        Ok(site)
    }

    pub(crate) async fn add(&mut self) -> Result<()> {
        self.routes.push(free_addr()?);
        let others = Others {
            redis: self.redis.as_ref().map(|redis| redis.addr),
            hook: self.hook.as_ref().map(|hook| hook.addr),
            routes: &self.routes,
        };
        self.servers.push(Server::start(&self.contestant, others).await?);
        Ok(())
    }

    /// Begins to count what is used.
    pub(crate) async fn begin(&mut self) -> Result<Clock> {
        if let Some(redis) = &mut self.redis {
            redis.traffic().await?;
        }
        self.clock()
    }

    pub(crate) async fn end(&mut self, begun: &Clock) -> Result<Used> {
        let now = self.clock()?;
        let used = now.processes.iter().zip(&begun.processes).map(|(now, begun)| now.since(begun));
        let mut servers: Vec<_> = used.collect();
        let known = servers.iter().sum::<Duration>() + now.own.since(&begun.own);
        let took = now.at.duration_since(begun.at);
        let busy = (took * now.idle.0).saturating_sub(now.idle.1.saturating_sub(begun.idle.1));
        let others = if took < LONG_ENOUGH { 0.0 } else { busy.saturating_sub(known).div_duration_f64(took) };
        let (redis, traffic) = match &mut self.redis {
            Some(redis) => (servers.pop().unwrap_or_default(), redis.traffic().await?),
            None => (Duration::ZERO, Traffic::default()),
        };
        let hook = self.hook.as_ref().and_then(|_| servers.pop()).unwrap_or_default();
        Ok(Used { servers, hook, redis, traffic, others })
    }

    fn clock(&self) -> Result<Clock> {
        let servers = self.servers.iter().chain(&self.hook).map(|server| &server.process);
        let processes = servers.chain(self.redis.as_ref().map(|redis| &redis.process));
        Ok(Clock {
            at: Instant::now(),
            processes: processes.map(Process::cpu).collect::<Result<_>>()?,
            own: process::own_cpu()?,
            idle: process::machine_idle()?,
        })
    }

    /// Resident memory of all servers, bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.servers.iter().map(|server| server.process.resident()).sum()
    }

    /// What the servers have said, for a report of trouble.
    pub(crate) fn log(&self) -> String {
        let log = |server: &Server| format!("{} said:\n{}", self.contestant.id, server.log());
        self.servers.iter().map(log).collect::<Vec<_>>().join("\n")
    }
}
