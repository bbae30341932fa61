//! Messages into a site, and what they cost it.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::dialect::{As, Users};
use super::line::{Line, Pen};
use super::site::{Site, Used};
use super::watch::{self, Times, Watch, Wrong};

/// Connections being made at once.
const IN_FLIGHT: usize = 64;
/// Clients of each instance that publish; they hear nothing.
const PUBLISHERS: usize = 4;
/// Timers of the runtime are no more exact than this.
const TIMER: Duration = Duration::from_millis(2);

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
    /// How many get it, and their places in the list of receivers, added up.
    pub(crate) receivers: usize,
    pub(crate) sum: usize,
}

pub(crate) enum To {
    Room(String),
    User(String),
}

/// A client that only receives.
pub(crate) struct Receiver {
    pub(crate) place: usize,
    pub(crate) heard: As,
}

/// What a load has cost.
pub(crate) struct Run {
    pub(crate) used: Used,
    pub(crate) messages: usize,
    pub(crate) deliveries: usize,
    pub(crate) times: Times,
    pub(crate) wrong: Wrong,
    /// The share of the messages that were asked for that left in time.
    pub(crate) pace: f64,
    /// From the first to when all was counted.
    pub(crate) took: Duration,
}

/// What connections have cost, each.
pub(crate) struct Opened {
    /// Accepting and upgrading one, and with its hello; server CPU.
    pub(crate) upgrade: Duration,
    pub(crate) connect: Duration,
    pub(crate) upgrades_per_second: f64,
    pub(crate) connects_per_second: f64,
    /// Growth of resident memory, bytes.
    pub(crate) resident: f64,
    /// As in [`Used`], while they were upgraded and while they said hello.
    pub(crate) others: [f64; 2],
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
        let users_have_rooms = site.contestant.users() == Users::Rooms;
        let open = async |place: usize, number: usize, heard: As| -> Result<Pen> {
            let mut line = Line::upgrade(site.servers[place].addr, site.contestant.dialect(), &heard).await?;
            line.hello(&heard, users_have_rooms).await?;
            let pen = line.pen();
            readers.spawn_local(line.follow(place, number, Rc::clone(watch)));
            Ok(pen)
        };
        let mut pens = Vec::new();
        let connected = async {
            let lines = stream::iter(receivers).enumerate().map(|(number, one)| open(one.place, number, one.heard));
            lines.buffer_unordered(IN_FLIGHT).try_for_each(async |_| Ok(())).await?;
            for place in 0..site.servers.len() {
                let mut here = Vec::new();
                for _ in 0..PUBLISHERS {
                    here.push(open(place, usize::MAX >> 32, As::Nobody).await?);
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

    /// The frame of the next message, which leaves at that time.
    fn next(&self, at: Instant, message: &Message, length: usize) -> Vec<u8> {
        let contestant = self.site.contestant;
        let mark = watch::mark(self.watch.sending(at.into_std(), message.place, message.receivers, message.sum));
        match &message.to {
            To::Room(room) => contestant.dialect().to_room(room, &mark, length),
            To::User(user) => contestant.dialect().to_user(contestant.users(), user, &mark, length),
        }
    }

    /// So many messages a second for so long, the nth as `of` says.
    pub(crate) async fn paced(
        &mut self,
        per_second: u64,
        length: usize,
        lasting: Duration,
        of: impl Fn(usize) -> Message,
    ) -> Result<Run> {
        let period = Duration::from_secs(1) / u32::try_from(per_second)?;
        let messages = usize::try_from(lasting.as_nanos() / period.as_nanos())?.max(1);
        let send = async |load: &Load| {
            let started = Instant::now();
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut deliveries = 0;
            for n in 0..messages {
                // If the generator is late, it counts from when it was to leave.
                let due = ticks.tick().await;
                let at = if due.elapsed() > TIMER { due } else { Instant::now() };
                let message = of(n);
                deliveries += message.receivers;
                let frame = load.next(at, &message, length);
                load.pens[message.place][n / 2 % PUBLISHERS].say(&frame).await?;
                load.watch.check()?;
            }
            let pace = messages as f64 / per_second as f64 / started.elapsed().max(lasting).as_secs_f64();
            Ok((messages, deliveries, pace))
        };
        self.measured(send).await
    }

    /// As many as go, in bursts, so many of them under way: one or two.
    pub(crate) async fn saturated(
        &mut self,
        (burst, under_way): (usize, usize),
        length: usize,
        lasting: Duration,
        of: impl Fn(usize) -> Message,
    ) -> Result<Run> {
        let send = async |load: &Load| {
            let started = Instant::now();
            let (mut messages, mut deliveries) = (0, 0);
            while started.elapsed() < lasting {
                let mut frames = [const { Vec::new() }; PUBLISHERS];
                let mut receivers = 0;
                for n in 0..burst {
                    let message = of(messages);
                    receivers += message.receivers;
                    frames[n % PUBLISHERS].extend(load.next(Instant::now(), &message, length));
                    messages += 1;
                }
                for (pen, frames) in load.pens[0].iter().zip(&frames).filter(|(_, frames)| !frames.is_empty()) {
                    pen.say(frames).await?;
                }
                deliveries += receivers;
                // With two, this burst's may be missing; those of the one before have come then.
                let missing = receivers * (under_way - 1);
                ensure!(load.watch.wait(missing).await?, "what is sent does not arrive any more");
            }
            Ok((messages, deliveries, 1.0))
        };
        self.measured(send).await
    }

    async fn measured(&mut self, send: impl AsyncFnOnce(&Load) -> Result<(usize, usize, f64)>) -> Result<Run> {
        let readers = std::mem::take(&mut self.readers);
        let running = async {
            self.watch.take_times();
            let first = self.watch.next();
            let begun = self.site.begin().await?;
            let started = Instant::now();
            let (messages, deliveries, pace) = send(self).await?;
            self.watch.wait(0).await?;
            let took = started.elapsed();
            // For what follows a server's last write.
            sleep(Duration::from_millis(50)).await;
            let used = self.site.end(&begun).await?;
            let wrong = self.watch.settle(first);
            anyhow::Ok(Run { used, messages, deliveries, times: self.watch.take_times(), wrong, pace, took })
        };
        let run = readers.run_until(running).await;
        self.readers = readers;
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

/// So many connections that do nothing, each with its upgrade and then its hello,
/// behind the first ones, which are not measured.
pub(crate) async fn storm(site: &mut Site, first: usize, count: usize) -> Result<Opened> {
    let dialect = site.contestant.dialect();
    let addr = site.servers[0].addr;
    let upgrades = async |count: usize| -> Result<Vec<Line>> {
        let upgrade = |_| Line::upgrade(addr, dialect, &As::Nobody);
        stream::iter(0..count).map(upgrade).buffer_unordered(IN_FLIGHT).try_collect().await
    };
    let hellos = async |lines: Vec<Line>| -> Result<Vec<Line>> {
        let hello = async |mut line: Line| {
            line.hello(&As::Nobody, false).await?;
            anyhow::Ok(line)
        };
        stream::iter(lines).map(hello).buffer_unordered(IN_FLIGHT).try_collect().await
    };
    let _first = hellos(upgrades(first).await?).await?;
    sleep(Duration::from_millis(500)).await;
    let each = |used: &Used| used.cpu() / count as u32;
    let resident = site.resident()?;
    let begun = site.begin().await?;
    let started = Instant::now();
    let lines = upgrades(count).await?;
    let upgraded = started.elapsed();
    // For what follows a server's last write.
    sleep(Duration::from_millis(50)).await;
    let upgrade = site.end(&begun).await?;
    let begun = site.begin().await?;
    let started = Instant::now();
    let _lines = hellos(lines).await?;
    let greeted = started.elapsed();
    sleep(Duration::from_millis(50)).await;
    let hello = site.end(&begun).await?;
    sleep(Duration::from_secs(2)).await;
    Ok(Opened {
        upgrade: each(&upgrade),
        connect: each(&upgrade) + each(&hello),
        upgrades_per_second: count as f64 / upgraded.as_secs_f64(),
        connects_per_second: count as f64 / (upgraded + greeted).as_secs_f64(),
        resident: (site.resident()? as f64 - resident as f64) / count as f64,
        others: [upgrade.others, hello.others],
    })
}
