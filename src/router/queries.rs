//! What a server wants to know: who is where, on all instances.
//!
//! It is answered from what the instances have registered in Redis, so that
//! none that hangs is waited for. What is registered nowhere is asked of the
//! instances, for a moment. While Redis is away the answers are what this
//! instance knows, and say that they are stale.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Router, is_personal, is_registered,
    join::check_name,
    requests::{Gathered, Report},
};
use crate::{
    cluster::{BusError, Cluster, InstanceInfo, envelope::Question},
    config::{Pattern, Target},
    generation::Generation,
    hub::Connection,
    id::{BootId, ConnectionId, InstanceId},
    protocol::{MemberInfo, Refusal},
};

/// How long the instances may take to say what is not registered.
const MOMENT: Duration = Duration::from_millis(50);

/// The most members that one answer to a server lists.
const PRESENCE_MAX: usize = 10_000;

/// The most rooms that one answer lists.
const ROOMS_MAX: usize = 10_000;

/// The most rooms of one connection that are named.
const ROOMS_NAMED: usize = 100;

/// An answer, and whether it is of this instance alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// The answer.
    pub value: T,
    /// It is not confirmed: Redis is away, or an instance did not report.
    pub is_stale: bool,
}

/// A page of a room's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersList {
    /// In a steady order.
    pub members: Vec<MemberInfo>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<String>,
}

/// A page of connections.
#[derive(Debug, Default)]
pub struct ConnectionsPage {
    /// JSON objects, in the order of their ids.
    pub connections: Vec<(String, String)>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<String>,
    /// Instances that did not say what they have.
    pub missing: BTreeSet<BootId>,
}

/// An instance.
#[derive(Debug, Clone)]
pub struct InstanceReport {
    /// Its run.
    pub boot: BootId,
    /// What it says of itself, at its last beat.
    pub info: serde_json::Value,
    /// How long its beat had not changed when it was last looked at.
    pub silent: Duration,
}

/// A connection as the API shows it.
#[derive(Serialize)]
struct Shown<'a> {
    client: &'a str,
    user: &'a str,
    instance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    /// None: its instance has not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_channels: Option<usize>,
}

impl Shown<'_> {
    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn to_report(InstanceInfo { id, info, silent }: InstanceInfo) -> Option<InstanceReport> {
    let boot = InstanceId::parse(&id)?.boot;
    let info = serde_json::from_str(&info).ok()?;
    Some(InstanceReport { boot, info, silent: silent.unwrap_or_default() })
}

fn boot_of(instance: &str) -> Option<BootId> {
    InstanceId::parse(instance).map(|id| id.boot)
}

impl Router {
    /// The cluster, if it can be asked now.
    fn reachable(&self) -> Result<Option<&Arc<Cluster>>, BusError> {
        match &self.cluster {
            None => Ok(None),
            Some(cluster) if cluster.trouble().is_none() => Ok(Some(cluster)),
            Some(_) => Err(BusError::Down),
        }
    }

    /// Asks Redis, or takes what this instance knows.
    async fn known<T>(
        &self,
        asked: impl AsyncFnOnce(&Cluster) -> Result<T, BusError>,
        here: impl FnOnce() -> T,
    ) -> Known<T> {
        let answer = match self.reachable() {
            Ok(None) => return Known { value: here(), is_stale: false },
            Ok(Some(cluster)) => asked(cluster).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(value) => Known { value, is_stale: false },
            Err(error) => {
                tracing::debug!(%error, "an answer is of this instance alone");
                Known { value: here(), is_stale: true }
            }
        }
    }

    /// A room of which it is known who is in there.
    fn check_registered(&self, generation: &Generation, room: &str) -> Result<(), Refusal> {
        check_name(room, generation.config.limits.name_length)?;
        let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        if is_registered(entry) && !is_personal(generation, room) { Ok(()) } else { Err(Refusal::NOT_AVAILABLE) }
    }

    /// Who is in a room.
    ///
    /// # Errors
    /// If there is no such room, it does not keep who is there, or too many are.
    pub async fn presence_for_server(&self, room: &str) -> Result<Known<Vec<MemberInfo>>, Refusal> {
        let (connections, _) = self.count_for_server(room).await?.value;
        if connections > PRESENCE_MAX {
            let reason = format!("limit exceeded: {connections} are there; ask for pages with `members`");
            return Err(Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED });
        }
        let asked = async |cluster: &Cluster| Ok(cluster.members(room, None, PRESENCE_MAX).await?.members);
        Ok(self.known(asked, || self.hub.members(room, PRESENCE_MAX)).await)
    }

    /// How many connections and users are in a room.
    ///
    /// # Errors
    /// If there is no such room, or it does not keep who is there.
    pub async fn count_for_server(&self, room: &str) -> Result<Known<(usize, usize)>, Refusal> {
        self.check_registered(&self.generation(), room)?;
        Ok(self.known(async |cluster: &Cluster| cluster.count(room).await, || self.hub.count(room)).await)
    }

    /// A page of who is in a room, behind where another one ended.
    ///
    /// # Errors
    /// If there is no such room, it does not keep who is there, or `behind` is
    /// no end of a page.
    pub async fn members(&self, room: &str, behind: Option<&str>, limit: usize) -> Result<Known<MembersList>, Refusal> {
        self.check_registered(&self.generation(), room)?;
        // Redis counts places in its list; alone, the last one's id is the place.
        let is_alone = self.cluster.is_none();
        let here = || {
            let mut members = self.hub.members(room, usize::MAX);
            members.retain(|member| behind.is_none_or(|behind| is_alone && *member.connection > *behind));
            members.sort_by(|a, b| a.connection.cmp(&b.connection));
            let has_more = is_alone && members.len() > limit;
            members.truncate(limit);
            let next = members.last().filter(|_| has_more).map(|last| last.connection.clone());
            MembersList { members, next }
        };
        if !is_alone && behind.is_some_and(|behind| behind.parse::<u64>().is_err()) {
            return Err(Refusal { reason: "bad request: not a cursor of this list".into(), ..Refusal::BAD_REQUEST });
        }
        let asked = async |cluster: &Cluster| {
            let page = cluster.members(room, behind, limit).await?;
            Ok(MembersList { members: page.members, next: page.next })
        };
        Ok(self.known(asked, here).await)
    }

    /// The rooms with members that match a pattern, with their numbers of
    /// connections.
    ///
    /// # Errors
    /// If it is no pattern, or too many match.
    pub async fn rooms(self: &Arc<Self>, pattern: &str) -> Result<Known<BTreeMap<String, usize>>, Refusal> {
        let bad = |error: String| Refusal { reason: format!("bad request: {error}").into(), ..Refusal::BAD_REQUEST };
        let matching = Pattern::parse(if pattern.is_empty() { "*" } else { pattern }).map_err(bad)?;
        let generation = self.generation();
        let is_kept = |room: &str| self.check_registered(&generation, room).is_ok();
        let here = || -> BTreeMap<String, usize> {
            let rooms = self.hub.rooms_matching(&matching).into_iter();
            rooms.map(|room| (room.to_string(), self.hub.count(&room).0)).collect()
        };
        let asked = async |cluster: &Cluster| {
            let mut rooms = cluster.rooms().await?;
            rooms.retain(|room| matching.matches(room));
            let kept: Vec<&str> = rooms.iter().map(String::as_str).filter(|room| is_kept(room)).collect();
            let counts = cluster.counts(&kept).await?;
            let counted = kept.iter().zip(counts).map(|(room, n)| ((*room).to_owned(), n));
            let counts: BTreeMap<String, usize> = counted.filter(|(_, n)| *n > 0).collect();
            Ok(counts)
        };
        let mut known = self.known(asked, here).await;
        if self.cluster.is_some() && !known.is_stale {
            let reach = self.reach(&[Target::Everyone]).await;
            let Gathered { answers, missing, is_cut, is_stale, .. } =
                self.ask(reach, Question::Rooms(matching.as_str().into()), MOMENT).await?;
            for given in answers {
                *known.value.entry(given.about).or_default() += given.text.parse().unwrap_or(0);
            }
            known.is_stale = is_stale || is_cut || !missing.is_empty();
        }
        if known.value.len() > ROOMS_MAX {
            let reason = format!("limit exceeded: {} match; give a narrower pattern", known.value.len());
            return Err(Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED });
        }
        Ok(known)
    }

    /// The rooms here that are registered nowhere, with their members' number.
    pub(super) fn unregistered_rooms(&self, pattern: &str) -> Report {
        let Ok(pattern) = Pattern::parse(pattern) else { return Report::default() };
        let generation = self.generation();
        let mut rooms = self.hub.rooms_matching(&pattern);
        rooms.retain(|room| self.check_registered(&generation, room).is_err());
        let is_cut = rooms.len() > ROOMS_MAX;
        rooms.truncate(ROOMS_MAX);
        let count = |room: &crate::id::RoomName| (room.to_string(), self.hub.count(room).0.to_string());
        Report { answers: rooms.iter().map(count).collect(), is_cut }
    }

    /// How many connections a user has.
    pub async fn connections_of(&self, user: &str) -> Known<usize> {
        let asked = async |cluster: &Cluster| Ok(cluster.connections_of(user).await?.len());
        self.known(asked, || self.hub.connections_of(user).len()).await
    }

    /// A page of connections in the order of their ids: those of a user, of an
    /// instance, or all. Those of a user are known from Redis; what else there
    /// is to say of them, their instances say if they answer at once.
    ///
    /// # Errors
    /// If too much is being asked at once.
    pub async fn connections(
        self: &Arc<Self>,
        user: Option<&str>,
        instance: Option<BootId>,
        behind: &str,
        limit: usize,
    ) -> Result<Known<ConnectionsPage>, Refusal> {
        let mut page = BTreeMap::new();
        let mut is_stale = false;
        let reach = match (user, instance) {
            (Some(user), _) => {
                let here = || {
                    let devices = self.hub.connections_of(user);
                    devices.iter().map(|device| (device.id_text.to_string(), self.boot)).collect()
                };
                let asked = async |cluster: &Cluster| {
                    let all = cluster.connections_of(user).await?.into_iter();
                    Ok(all.filter_map(|(id, instance)| Some((id, boot_of(&instance)?))).collect::<Vec<_>>())
                };
                let known = self.known(asked, here).await;
                is_stale = known.is_stale;
                let devices = known
                    .value
                    .into_iter()
                    .filter(|(id, boot)| **id > *behind && instance.is_none_or(|instance| instance == *boot));
                let mut boots = BTreeSet::new();
                for (client, boot) in devices {
                    let instance = boot.to_string();
                    let shown =
                        Shown { client: &client, user, instance, info: None, channels: None, num_channels: None };
                    let json = shown.to_json();
                    page.insert(client, json);
                    boots.insert(boot);
                }
                self.only(boots)
            }
            (None, Some(instance)) => self.only([instance]),
            (None, None) => self.reach(&[Target::Everyone]).await,
        };
        let question = Question::Connections {
            user: user.unwrap_or_default().into(),
            behind: behind.into(),
            // One more shows whether there are more.
            limit: u32::try_from(limit + 1).unwrap_or(u32::MAX),
        };
        let gathered = self.ask(reach, question, MOMENT).await?;
        for given in gathered.answers {
            // One that has signed out meanwhile is not brought back.
            if user.is_none() || is_stale || page.contains_key(&given.about) {
                page.insert(given.about, given.text);
            }
        }
        let has_more = page.len() > limit;
        let connections: Vec<_> = page.into_iter().take(limit).collect();
        let next = connections.last().filter(|_| has_more).map(|(id, _)| id.clone());
        let is_stale = is_stale || gathered.is_stale || !gathered.missing.is_empty();
        Ok(Known { value: ConnectionsPage { connections, next, missing: gathered.missing }, is_stale })
    }

    /// The connections here, as the API shows them.
    pub(super) fn list_connections(&self, user: &str, behind: &str, limit: usize) -> Report {
        let mut all = if user.is_empty() { self.hub.all_connections() } else { self.hub.connections_of(user) };
        let behind = ConnectionId::parse(behind);
        all.retain(|connection| behind.is_none_or(|behind| connection.id > behind));
        if all.len() > limit {
            all.select_nth_unstable_by_key(limit, |connection| connection.id);
            all.truncate(limit);
        }
        let show = |connection: &Arc<Connection>| {
            let mut channels: Vec<String> = connection.rooms().iter().map(ToString::to_string).collect();
            channels.sort();
            let num_channels = Some(channels.len());
            channels.truncate(ROOMS_NAMED);
            let info = connection.info();
            let shown = Shown {
                client: &connection.id_text,
                user: &connection.user,
                instance: self.instance.clone(),
                info: serde_json::from_str(&info).ok(),
                channels: Some(channels),
                num_channels,
            };
            (connection.id_text.to_string(), shown.to_json())
        };
        Report { answers: all.iter().map(show).collect(), is_cut: false }
    }

    /// All instances, as they describe themselves.
    pub async fn instances(&self) -> Known<Vec<InstanceReport>> {
        let own = InstanceReport { boot: self.boot, info: self.describe(), silent: Duration::ZERO };
        let asked =
            async |cluster: &Cluster| Ok(cluster.instances().await?.into_iter().filter_map(to_report).collect());
        let mut known: Known<Vec<InstanceReport>> = self.known(asked, Vec::new).await;
        known.value.retain(|instance| instance.boot != self.boot);
        known.value.push(own);
        known.value.sort_by_key(|instance| instance.boot);
        known
    }

    /// The names by which people call instances.
    pub async fn names(&self, boots: &BTreeSet<BootId>) -> BTreeMap<BootId, String> {
        if boots.is_empty() {
            return BTreeMap::new();
        }
        let known = self.instances().await.value;
        let name = |boot: &BootId| {
            let instance = known.iter().find(|instance| instance.boot == *boot);
            instance.and_then(|instance| instance.info["name"].as_str()).map_or_else(|| boot.to_string(), str::to_owned)
        };
        boots.iter().map(|boot| (*boot, name(boot))).collect()
    }

    /// The instance of a name, or of a run's id.
    pub async fn instance_named(&self, name: &str) -> Option<BootId> {
        let known = self.instances().await.value;
        let is_it = |instance: &&InstanceReport| instance.boot.to_string() == name || instance.info["name"] == name;
        known.iter().find(is_it).map(|instance| instance.boot)
    }
}
