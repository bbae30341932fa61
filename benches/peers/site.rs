//! All servers of one contestant, their Redis and what they ask.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::contestant::{Contestant, Kind, With};
use super::redis::{Redis, Traffic};
use super::server::{Others, Server};
use crate::support::gateway::free_addr;
use crate::support::process::{Cpu, Process};

pub(crate) struct Site {
    pub(crate) contestant: Contestant,
    pub(crate) servers: Vec<Server>,
    hook: Option<Server>,
    redis: Option<Redis>,
    routes: Vec<SocketAddr>,
}

/// CPU time of each process, Redis last.
pub(crate) struct Clock(Vec<Cpu>);

/// What a site has used in a while.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) servers: Vec<Duration>,
    pub(crate) redis: Duration,
    pub(crate) traffic: Traffic,
}

impl Used {
    pub(crate) fn cpu(&self) -> Duration {
        self.servers.iter().sum::<Duration>() + self.redis
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
        let mut servers: Vec<_> = now.0.iter().zip(&begun.0).map(|(now, begun)| now.since(begun)).collect();
        let (redis, traffic) = match &mut self.redis {
            Some(redis) => (servers.pop().unwrap_or_default(), redis.traffic().await?),
            None => (Duration::ZERO, Traffic::default()),
        };
        Ok(Used { servers, redis, traffic })
    }

    fn clock(&self) -> Result<Clock> {
        let servers = self.servers.iter().chain(&self.hook).map(|server| &server.process);
        let processes = servers.chain(self.redis.as_ref().map(|redis| &redis.process));
        Ok(Clock(processes.map(Process::cpu).collect::<Result<_>>()?))
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
