//! Several servers of one kind and their Redis.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::dialect::{Dialect, SECRET};
use super::node::{self, Node};
use super::redis::{Redis, Traffic};
use crate::support::gateway::Gateway;
use crate::support::process::{Cpu, Process};

/// What is measured, a row each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Wayleave,
    /// One instance, which needs no Redis.
    Alone,
    /// With the adapter that is called so without more words.
    SocketIo,
    /// With the adapter that its documentation recommends for Redis 7.
    Sharded,
}

impl Way {
    pub(crate) const ALL: [Way; 4] = [Way::SocketIo, Way::Sharded, Way::Alone, Way::Wayleave];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Wayleave => "wayleave",
            Way::Alone => "wayleave, no Redis",
            Way::SocketIo => "Socket.IO",
            Way::Sharded => "Socket.IO, sharded",
        }
    }

    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Way::Wayleave | Way::Alone => Dialect::Centrifuge,
            Way::SocketIo | Way::Sharded => Dialect::SocketIo,
        }
    }

    pub(crate) fn missing(self) -> Option<String> {
        match self.dialect() {
            Dialect::Centrifuge => None,
            Dialect::SocketIo => node::missing(),
        }
    }
}

/// The whole config of a gateway that shares a Redis with others, or not.
fn config(addr: SocketAddr, redis: Option<&Redis>) -> String {
    let bus = match redis {
        Some(redis) => format!("[bus]\nkind = \"redis\"\nurl = \"{}\"\n\n[cluster]\nheartbeat = \"2s\"", redis.url()),
        None => "[bus]\nkind = \"memory\"".to_owned(),
    };
    format!(
        r#"
[server]
listen = "{addr}"
personal_rooms = true

[auth]
anonymous = true
[auth.jwt]
hmac_secret = "{SECRET}"

{bus}

[metrics]
enabled = true

[limits]
commands_per_second = 1_000_000_000
commands_burst = 1_000_000_000

[[rooms]]
match = "bench:*"
publish = "anyone"

[[rooms]]
match = "to:*"
publish = "anyone"

[[routes]]
room = "to:*"
to = ["user:{{data.user}}"]
keep = false
"#
    )
}

pub(crate) enum Server {
    Gateway(Gateway),
    Node(Node),
}

impl Server {
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Server::Gateway(gateway) => gateway.addr,
            Server::Node(node) => node.addr,
        }
    }

    fn process(&self) -> &Process {
        match self {
            Server::Gateway(gateway) => &gateway.process,
            Server::Node(node) => &node.process,
        }
    }

    fn log(&self) -> String {
        match self {
            Server::Gateway(gateway) => gateway.log(),
            Server::Node(node) => node.log(),
        }
    }
}

pub(crate) struct Site {
    pub(crate) way: Way,
    pub(crate) servers: Vec<Server>,
    redis: Option<Redis>,
}

/// CPU time of each server, then of Redis.
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
    /// Starts so many, on a Redis that nobody has used before.
    pub(crate) async fn start(way: Way, instances: usize) -> Result<Site> {
        let redis = if way == Way::Alone { None } else { Some(Redis::start().await?) };
        let mut site = Site { way, servers: Vec::new(), redis };
        for _ in 0..instances {
            site.add().await?;
        }
        Ok(site)
    }

    pub(crate) async fn add(&mut self) -> Result<()> {
        let redis = self.redis.as_ref();
        let node = async |adapter| Node::start(redis.context("Socket.IO without Redis")?.addr, adapter).await;
        self.servers.push(match self.way {
            Way::Wayleave | Way::Alone => Server::Gateway(Gateway::start_with(|addr| config(addr, redis)).await?),
            Way::SocketIo => Server::Node(node("classic").await?),
            Way::Sharded => Server::Node(node("sharded").await?),
        });
        Ok(())
    }

    /// The metrics of one instance; none of Socket.IO.
    pub(crate) async fn metrics(&self, instance: usize) -> Result<BTreeMap<String, f64>> {
        match &self.servers[instance] {
            Server::Gateway(gateway) => gateway.metrics().await,
            Server::Node(_) => Ok(BTreeMap::new()),
        }
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
        let processes = self.servers.iter().map(Server::process).chain(self.redis.as_ref().map(|redis| &redis.process));
        Ok(Clock(processes.map(Process::cpu).collect::<Result<_>>()?))
    }

    /// What the servers have said, for a report of trouble.
    pub(crate) fn log(&self) -> String {
        let logs = self
            .servers
            .iter()
            .map(|server| format!("{} at {} said:\n{}", self.way.name(), server.addr(), server.log()));
        logs.collect::<Vec<_>>().join("\n")
    }
}
