//! From targets to outboxes.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use super::{Envelope, OnKept, Published, Router, api::too_many_keys, as_user, is_personal, remote::refusal};
use crate::{
    cluster::{
        Cluster,
        envelope::{Body, Frame, Publication, Routed, borrowed},
    },
    config::{HistoryConfig, Pattern, Target},
    generation::Generation,
    hub::{Connection, Delivered, Hub, Placed, Seen},
    id::ConnectionId,
    plugin::{Delivery, Lookup, Unavailable},
    protocol::{Broadcast, MemberInfo, Payload, Publication as Message, Push, Refusal, Tag},
    room::{history::Appended, keys::Full},
    session::flusher::Batch,
    traces,
};

/// What a plugin's `lookup` reads: this instance's hub.
#[derive(Debug)]
pub struct HubLookup(pub Arc<Hub>);

impl Lookup for HubLookup {
    fn count(&self, room: &str) -> Result<(usize, usize), Unavailable> {
        Ok(self.0.count(room))
    }

    fn members(&self, room: &str, limit: usize) -> Result<Vec<MemberInfo>, Unavailable> {
        Ok(self.0.members(room, limit))
    }

    fn connections(&self, user: &str) -> Result<Vec<String>, Unavailable> {
        Ok(self.0.connections_of(user).iter().map(|connection| connection.id_text.to_string()).collect())
    }
}

/// Channels to which copies of one delivery are sent. One for more targets goes
/// to every instance at once.
const COPIES: usize = 16;

impl Router {
    /// Delivers a message that has passed its hooks.
    pub(super) fn deliver(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        envelope: Envelope<'_>,
        tags: &[Tag<'_>],
        on_kept: impl FnOnce(Result<Appended, Refusal>) + Send + 'static,
        batch: &mut Batch<'_>,
    ) -> Result<Published, Refusal> {
        let _span = traces::child("deliver");
        let Envelope { room, payload, sender, keep, deliveries, .. } = envelope;
        let keeps = generation.room(room).and_then(|(entry, _)| entry.history).filter(|_| keep);
        let Some(keeps) = keeps else {
            if keep {
                self.deliver_live(room, &payload, Some(sender), tags, batch);
            }
            self.deliver_each(generation, &deliveries, &payload, sender, tags, batch);
            return Ok(Published::Now);
        };
        if self.cluster.is_none() || deliveries.is_empty() {
            let on_kept = Box::new(on_kept);
            let published = self.append(room, keeps, &payload, Some(sender), tags, None, on_kept, batch);
            self.deliver_each(generation, &deliveries, &payload, sender, tags, batch);
            return Ok(published);
        }
        // Whoever is told that its message was not delivered must be able to
        // believe it: nobody gets a copy before it is kept.
        let (router, generation) = (Arc::clone(self), Arc::clone(generation));
        let (copied, told, stamp) = (payload.clone(), sender.clone(), owned(tags));
        let on_kept = Box::new(move |kept: Result<Appended, Refusal>| {
            if kept.is_ok() {
                let mut batch = Batch::new(&router.flusher);
                router.deliver_each(&generation, &deliveries, &copied, &told, &stamp, &mut batch);
            }
            on_kept(kept);
        });
        Ok(self.append(room, keeps, &payload, Some(sender), tags, None, on_kept, batch))
    }

    /// Delivers the copies of a message.
    fn deliver_each(
        self: &Arc<Self>,
        generation: &Generation,
        deliveries: &[Delivery],
        payload: &Payload,
        sender: &MemberInfo,
        tags: &[Tag<'_>],
        batch: &mut Batch<'_>,
    ) {
        for delivery in deliveries {
            let payload = delivery.payload.as_ref().unwrap_or(payload);
            let delivered = self.deliver_to(generation, delivery, payload, Some(sender), tags, batch);
            self.metrics.delivered(delivered.queued, delivered.dropped);
        }
    }

    /// To a room that keeps nothing, here and elsewhere.
    pub(super) fn deliver_live(
        &self,
        room: &str,
        payload: &Payload,
        sender: Option<&MemberInfo>,
        tags: &[Tag<'_>],
        batch: &mut Batch<'_>,
    ) {
        let push = Push::Publication(Message { room, payload: payload.borrowed(), sender, tags, offset: 0 });
        let delivered = self.hub.deliver_room(room, &Broadcast::new(push), &mut Seen::default(), batch);
        self.metrics.delivered(delivered.queued, delivered.dropped);
        if self.is_tailed() {
            self.tail_room(room, sender, payload, 0);
        }
        if let Some(cluster) = &self.cluster {
            cluster.to_room_counted(room, |stream, n| publication(room, stream, n, payload, sender, tags));
        }
    }

    /// Keeps a message in its room's history and delivers it from there, so
    /// that all members everywhere see one order.
    #[expect(clippy::too_many_arguments, reason = "each is of another kind")]
    pub(super) fn append(
        self: &Arc<Self>,
        room: &str,
        keep: HistoryConfig,
        payload: &Payload,
        sender: Option<&MemberInfo>,
        tags: &[Tag<'_>],
        key: Option<&str>,
        on_kept: OnKept,
        batch: &mut Batch<'_>,
    ) -> Published {
        let body = publication(room, 0, 0, payload, sender, tags);
        let Some(cluster) = &self.cluster else {
            let frame = Bytes::from(Frame { origin: self.boot, body }.encode());
            let appended = self.memory.append(room, frame, keep, key, Instant::now(), |position| {
                let offset = position.offset;
                let push = Push::Publication(Message { room, payload: payload.borrowed(), sender, tags, offset });
                let placed = self.hub.deliver_at(room, position, &Broadcast::new(push), batch);
                if self.is_tailed() {
                    self.tail_room(room, sender, payload, position.offset);
                }
                match placed {
                    Placed::Delivered(delivered) => self.metrics.delivered(delivered.queued, delivered.dropped),
                    Placed::Gap => self.repair(room),
                    Placed::Before | Placed::Nobody => {}
                }
            });
            on_kept(appended.map_err(|Full| too_many_keys()));
            return Published::Now;
        };
        cluster.append(room, body, keep, key, |kept| on_kept(kept.map_err(refusal)));
        Published::Later
    }

    /// Delivers a payload to the targets of one delivery, here and elsewhere.
    pub(super) fn deliver_to(
        self: &Arc<Self>,
        generation: &Generation,
        delivery: &Delivery,
        payload: &Payload,
        sender: Option<&MemberInfo>,
        tags: &[Tag<'_>],
        batch: &mut Batch<'_>,
    ) -> Delivered {
        if delivery.to.iter().any(|target| as_user(generation, target).is_some()) {
            let to = delivery.to.iter().map(|target| as_user(generation, target).unwrap_or_else(|| target.clone()));
            let delivery = &Delivery { to: to.collect(), ..delivery.clone() };
            return self.deliver_to(generation, delivery, payload, sender, tags, batch);
        }
        // Rooms that keep messages keep these too; each has an order of its own.
        let keeps = |room: &str| generation.room(room).and_then(|(entry, _)| entry.history);
        for target in &delivery.to {
            if let Target::Room(room) = target
                && delivery.except.is_empty()
                && let Some(keep) = keeps(room)
            {
                let on_kept = self.on_copy_kept(room);
                self.append(room, keep, payload, sender, tags, None, on_kept, batch);
            }
        }
        if let Some(cluster) = &self.cluster {
            self.send_on(cluster, generation, delivery, payload, sender, tags);
        }
        self.deliver_here(generation, delivery, payload, sender, tags, batch)
    }

    /// Nobody waits for what becomes of a copy, so those who look after the
    /// gateway are told.
    fn on_copy_kept(&self, room: &str) -> OnKept {
        let (lost, room) = (self.metrics.copies_lost.clone(), room.to_owned());
        Box::new(move |kept| {
            let Err(refusal) = kept else { return };
            // Once a power of two: a Redis that is full must not fill the log.
            let n = lost.inc() + 1;
            if n.is_power_of_two() {
                tracing::warn!(room, lost = n, "a copy could not be kept and is not delivered: {}", refusal.reason);
            }
        })
    }

    /// Sends a delivery to the instances that may have to do with it.
    fn send_on(
        &self,
        cluster: &Cluster,
        generation: &Generation,
        delivery: &Delivery,
        payload: &Payload,
        sender: Option<&MemberInfo>,
        tags: &[Tag<'_>],
    ) {
        let is_kept = |room: &str| {
            delivery.except.is_empty() && generation.room(room).is_some_and(|(entry, _)| entry.history.is_some())
        };
        let far: Vec<&Target> = delivery
            .to
            .iter()
            .filter(|target| match target {
                Target::Connection(id) => ConnectionId::parse(id).is_some_and(|id| id.instance() != self.boot),
                Target::Room(room) => !is_kept(room),
                Target::User(_) | Target::Pattern(_) | Target::Everyone => true,
            })
            .collect();
        if let ([Target::Room(room)], true) = (far.as_slice(), delivery.except.is_empty() && delivery.to.len() == 1) {
            return cluster.to_room_counted(room, |stream, n| publication(room, stream, n, payload, sender, tags));
        }
        if far.is_empty() {
            return;
        }
        let id = cluster.delivery_id();
        let body = || Body::Delivery(Routed::new(id, delivery, payload, sender, tags));
        let to_all =
            far.len() > COPIES || far.iter().any(|target| matches!(target, Target::Pattern(_) | Target::Everyone));
        if to_all {
            return cluster.to_all(body());
        }
        for target in far {
            match target {
                Target::Room(room) => cluster.to_room(room, body()),
                Target::User(user) => cluster.to_user(user, body()),
                Target::Connection(id) => {
                    if let Some(id) = ConnectionId::parse(id) {
                        cluster.to_instance(id.instance(), body());
                    }
                }
                Target::Pattern(_) | Target::Everyone => {}
            }
        }
    }

    /// Delivers a payload to those of its targets that are here, once to each
    /// connection that several of them reach.
    pub(super) fn deliver_here(
        &self,
        generation: &Generation,
        delivery: &Delivery,
        payload: &Payload,
        sender: Option<&MemberInfo>,
        tags: &[Tag<'_>],
        batch: &mut Batch<'_>,
    ) -> Delivered {
        let body = payload.borrowed();
        let several = delivery.to.len() > 1 || matches!(delivery.to.first(), Some(Target::Pattern(_)));
        let mut seen = if several { Seen::tracking() } else { Seen::default() };
        for target in &delivery.except {
            for connection in self.resolve(target) {
                seen.exclude(connection.id);
            }
        }
        let is_kept = |room: &str| {
            delivery.except.is_empty() && generation.room(room).is_some_and(|(entry, _)| entry.history.is_some())
        };
        if self.is_tailed() {
            self.tail_delivery(generation, &delivery.to, sender, payload, is_kept);
        }
        let mut delivered = Delivered::default();
        for target in &delivery.to {
            let to_room = |room: &str, seen: &mut Seen, batch: &mut Batch<'_>| {
                let push = Push::Publication(Message { room, payload: body, sender, tags, offset: 0 });
                self.hub.deliver_room(room, &Broadcast::new(push), seen, batch)
            };
            delivered += match target {
                Target::Room(room) if is_kept(room) => Delivered::default(),
                Target::Room(room) => to_room(room, &mut seen, batch),
                Target::Pattern(pattern) => match Pattern::parse(pattern) {
                    Ok(pattern) => {
                        let mut delivered = Delivered::default();
                        // Users' own rooms are reached as users, or as everyone.
                        let rooms = self.hub.rooms_matching(&pattern);
                        for room in rooms.into_iter().filter(|room| !is_personal(generation, room)) {
                            delivered += to_room(&room, &mut seen, batch);
                        }
                        delivered
                    }
                    Err(_) => Delivered::default(),
                },
                Target::User(user) if generation.config.server.personal_rooms => {
                    let room = format!("user:{user}");
                    let push = Push::Publication(Message { room: &room, payload: body, sender, tags, offset: 0 });
                    self.hub.deliver_each(&self.hub.connections_of(user), &Broadcast::new(push), &mut seen, batch)
                }
                target @ (Target::User(_) | Target::Connection(_) | Target::Everyone) => {
                    let broadcast = Broadcast::new(Push::Message(body));
                    self.hub.deliver_each(&self.resolve(target), &broadcast, &mut seen, batch)
                }
            };
        }
        delivered
    }

    /// The connections that a target reaches now.
    pub(super) fn resolve(&self, target: &Target) -> Vec<Arc<Connection>> {
        match target {
            Target::Room(room) => self.hub.connections_in(room),
            Target::User(user) => self.hub.connections_of(user),
            Target::Connection(id) => {
                ConnectionId::parse(id).and_then(|id| self.hub.connection(id)).into_iter().collect()
            }
            Target::Pattern(pattern) => Pattern::parse(pattern).map_or_else(
                |_| Vec::new(),
                |pattern| {
                    let rooms = self.hub.rooms_matching(&pattern);
                    rooms.iter().flat_map(|room| self.hub.connections_in(room)).collect()
                },
            ),
            Target::Everyone => self.hub.all_connections(),
        }
    }
}

pub(super) fn publication<'a>(
    room: &'a str,
    stream: u32,
    n: u64,
    payload: &'a Payload,
    sender: Option<&'a MemberInfo>,
    tags: &'a [Tag<'_>],
) -> Body<'a> {
    Body::Publication(Publication {
        room: room.into(),
        n,
        stream,
        sender: sender.map(Into::into),
        payload: payload.into(),
        tags: borrowed(tags),
    })
}

fn owned(tags: &[Tag<'_>]) -> Vec<Tag<'static>> {
    tags.iter().map(|(name, value)| (name.to_string().into(), value.to_string().into())).collect()
}
