//! Paced messages into a site, and what they cost it.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, sleep};

use super::line::{Line, Pen};
use super::site::{Site, Used};
use super::watch::{self, Times, Watch};

/// Connections being made at once.
const IN_FLIGHT: usize = 64;
/// Clients of each instance that publish; they are in no room.
const PUBLISHERS: usize = 4;

pub(crate) struct Load {
    pub(crate) site: Site,
    watch: Rc<Watch>,
    readers: LocalSet,
    /// By instance.
    pens: Vec<Vec<Pen>>,
}

/// One message of a load.
pub(crate) struct Message {
    /// The instance that it is published on.
    pub(crate) place: usize,
    pub(crate) to: To,
    /// How many get it.
    pub(crate) receivers: usize,
}

pub(crate) enum To {
    Room(String),
    User(String),
}

/// A client that only receives.
pub(crate) struct Receiver {
    pub(crate) place: usize,
    pub(crate) as_what: As,
}

pub(crate) enum As {
    Member(String),
    User(String),
}

/// What a load has cost.
pub(crate) struct Run {
    pub(crate) used: Used,
    pub(crate) messages: usize,
    pub(crate) deliveries: usize,
    pub(crate) times: Times,
    /// Messages that left in a second.
    pub(crate) pace: f64,
    /// From the first to when all was counted.
    pub(crate) took: Duration,
}

impl Load {
    /// The site with these receivers and its publishers.
    pub(crate) async fn open(site: Site, receivers: Vec<Receiver>) -> Result<Load> {
        let mut load = Load { site, watch: Rc::default(), readers: LocalSet::new(), pens: Vec::new() };
        let opened = load.connect(receivers).await;
        opened.with_context(|| load.site.log())?;
        Ok(load)
    }

    async fn connect(&mut self, receivers: Vec<Receiver>) -> Result<()> {
        let (site, watch, readers) = (&self.site, &self.watch, &self.readers);
        let open = async |place: usize, as_what: Option<As>| -> Result<Pen> {
            let user = match &as_what {
                Some(As::User(user)) => Some(user.as_str()),
                _ => None,
            };
            let mut line = Line::open(site.servers[place].addr(), site.way.dialect(), user).await?;
            if let Some(As::Member(room)) = &as_what {
                line.join(room).await?;
            }
            let pen = line.pen();
            readers.spawn_local(line.follow(place, Rc::clone(watch)));
            Ok(pen)
        };
        let mut pens = Vec::new();
        let connected = async {
            let lines = stream::iter(receivers).map(|one| open(one.place, Some(one.as_what)));
            lines.buffer_unordered(IN_FLIGHT).try_for_each(async |_| Ok(())).await?;
            for place in 0..site.servers.len() {
                let mut here = Vec::new();
                for _ in 0..PUBLISHERS {
                    here.push(open(place, None).await?);
                }
                pens.push(here);
            }
            // For subscriptions that nobody is told of.
            sleep(Duration::from_secs(1)).await;
            watch.check()
        };
        readers.run_until(connected).await?;
        self.pens = pens;
        Ok(())
    }

    /// So many messages a second for so long, the nth as `of` says.
    pub(crate) async fn run(
        &mut self,
        per_second: u64,
        length: usize,
        lasting: Duration,
        of: impl Fn(usize) -> Message,
    ) -> Result<Run> {
        let (site, watch, pens) = (&mut self.site, &self.watch, &self.pens);
        let period = Duration::from_secs(1) / u32::try_from(per_second)?;
        let messages = usize::try_from(lasting.as_nanos() / period.as_nanos())?;
        let running = async {
            watch.take_times();
            let begun = site.begin().await?;
            let started = Instant::now();
            let mut ticks = interval(period);
            let mut deliveries = 0;
            for n in 0..messages {
                ticks.tick().await;
                let message = of(n);
                deliveries += message.receivers;
                let pen = &pens[message.place][n / 2 % PUBLISHERS];
                let mark = watch::mark(watch.sending(message.place, message.receivers));
                let text = match &message.to {
                    To::Room(room) => pen.dialect.to_room(room, &mark, length),
                    To::User(user) => pen.dialect.to_user(user, &mark, length),
                };
                pen.say(&text).await?;
                watch.check()?;
            }
            let pace = messages as f64 / started.elapsed().as_secs_f64();
            watch.wait().await?;
            // For what follows a server's last write.
            sleep(Duration::from_millis(50)).await;
            let used = site.end(&begun).await?;
            let took = started.elapsed();
            anyhow::Ok(Run { used, messages, deliveries, times: watch.take_times(), pace, took })
        };
        let run = self.readers.run_until(running).await;
        run.with_context(|| self.site.log())
    }

    /// What the site uses with nothing to do.
    pub(crate) async fn idle(&mut self, lasting: Duration) -> Result<Used> {
        let site = &mut self.site;
        let idling = async {
            let begun = site.begin().await?;
            sleep(lasting).await;
            site.end(&begun).await
        };
        self.readers.run_until(idling).await
    }
}
