//! What comes from other instances, and what they ask of this one.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use super::Router;
use crate::{
    cluster::{
        BusError, Receiver,
        envelope::{self, Body, Order, Publication, Routed, What},
    },
    config::{JoinLeave, Target},
    hub::{Placed, Seen},
    id::{BootId, ConnectionId, RoomName, UserId},
    plugin::{Delivery, EventView, without_blocking},
    protocol::{Broadcast, Close, MemberInfo, PastPublication, Payload, Publication as Message, Push, Refusal, Tag},
    room::{Position, history::Kept},
    session::flusher::Batch,
};

/// How long after hearing again it is clear what has happened.
const SETTLE: Duration = Duration::from_secs(1);

/// Deliveries that are remembered, for their copies on other channels.
const RECENT: usize = 8_192;

/// The deliveries that came last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    seen: HashSet<(u64, u64)>,
    order: VecDeque<(u64, u64)>,
}

impl Recent {
    /// True if it has not been seen before.
    fn is_new(&mut self, id: (u64, u64)) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

/// Orders that may wait.
const ORDERS: usize = 16_384;

/// What other instances want done, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    orders: VecDeque<Order<'static>>,
    /// A task carries them out.
    is_at_work: bool,
}

/// What became of an order.
#[derive(Debug, PartialEq, Eq)]
enum Noted {
    /// It waits, and the caller must see to it that it is carried out.
    First,
    /// It waits for a task that is at work.
    Waits,
    /// There are too many.
    Full,
}

impl Orders {
    fn put(&self, order: Order<'static>) -> Noted {
        let mut waiting = self.0.lock();
        if waiting.orders.len() >= ORDERS {
            return Noted::Full;
        }
        waiting.orders.push_back(order);
        if std::mem::replace(&mut waiting.is_at_work, true) { Noted::Waits } else { Noted::First }
    }

    /// The next one; None: the task ends.
    fn next(&self) -> Option<Order<'static>> {
        let mut waiting = self.0.lock();
        let next = waiting.orders.pop_front();
        if next.is_none() {
            *waiting = Waiting::default();
        }
        next
    }
}

/// What a client is told when Redis did not do something.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
pub(super) fn refusal(error: BusError) -> Refusal {
    match error {
        BusError::Unknown => Refusal::BUS_UNKNOWN,
        BusError::Down | BusError::Refused(_) => {
            tracing::debug!(%error, "refused for the moment");
            Refusal::BUS_DOWN
        }
    }
}

/// A message as a client reads it in a history. None: not one of ours.
pub(super) fn past_publication(kept: &Kept) -> Option<PastPublication> {
    let (frame, _) = envelope::decode(&kept.frame).ok()?;
    let Body::Publication(publication) = frame.body else { return None };
    let owned = |(name, value): Tag<'_>| (Cow::Owned(name.into_owned()), Cow::Owned(value.into_owned()));
    Some(PastPublication {
        offset: kept.offset,
        sender: publication.sender.as_ref().map(envelope::Member::to_info),
        payload: publication.payload.into_payload(),
        tags: publication.tags.into_iter().map(owned).collect(),
    })
}

/// The gateway, as the cluster calls it.
#[derive(Debug)]
pub struct Remote(pub Weak<Router>);

impl Receiver for Remote {
    fn on_frame(&self, origin: BootId, body: Body<'_>, position: Option<Position>) {
        let Some(router) = self.0.upgrade() else { return };
        let is_own = origin == router.boot;
        match body {
            Body::Publication(publication) => match position {
                Some(position) => router.on_kept(&publication, &position),
                None if is_own => {}
                None => router.on_publication(&publication),
            },
            Body::Delivery(routed) if !is_own => router.on_routed(routed),
            Body::Presence(changes) => router.on_changes(&changes),
            Body::Record(change) => router.on_record(&change),
            Body::Order(order) if !is_own => router.take_order(order),
            Body::Ask(ask) if !is_own => router.on_ask(origin, ask),
            Body::Said(said) if !is_own => router.on_said(origin, said),
            Body::Heard(heard) if !is_own => router.inbound.on_heard(origin, &heard),
            Body::Answers(answers) if !is_own => router.on_answers(origin, answers),
            _ => {}
        }
    }

    fn on_hearing(&self) {
        let Some(router) = self.0.upgrade() else { return };
        let Some(cluster) = router.cluster.clone() else { return };
        let looking = Arc::clone(&router);
        router.tasks.spawn(async move {
            looking.compare_positions(&cluster).await;
            // The heart finds out first whether this is the Redis of before.
            tokio::time::sleep(SETTLE).await;
            looking.compare_all_members();
            looking.compare_records().await;
        });
    }

    fn registered(&self) -> Vec<(RoomName, Vec<MemberInfo>, JoinLeave)> {
        let Some(router) = self.0.upgrade() else { return Vec::new() };
        router.all_registered()
    }

    fn is_member(&self, room: &str, connection: &str) -> bool {
        let Some(router) = self.0.upgrade() else { return false };
        ConnectionId::parse(connection).is_some_and(|id| router.hub.is_registered(room, id))
    }

    fn is_coming(&self, room: &str, connection: &str) -> bool {
        let Some(router) = self.0.upgrade() else { return false };
        ConnectionId::parse(connection).is_some_and(|id| router.hub.is_coming(room, id))
    }

    fn is_connected(&self, connection: &str) -> bool {
        let Some(router) = self.0.upgrade() else { return false };
        ConnectionId::parse(connection).is_some_and(|id| router.hub.connection(id).is_some())
    }

    fn users(&self) -> Vec<(UserId, Vec<String>)> {
        let Some(router) = self.0.upgrade() else { return Vec::new() };
        let ids = |devices: Vec<Arc<crate::hub::Connection>>| {
            devices.iter().map(|device| device.id_text.to_string()).collect()
        };
        router.hub.users().into_iter().map(|(user, devices)| (user, ids(devices))).collect()
    }

    fn on_reaped(&self, room: &str, member: &MemberInfo, _is_last: bool) {
        if let Some(router) = self.0.upgrade() {
            router.on_member(room, member, "left");
        }
    }

    fn on_back(&self, room: &str, member: &MemberInfo) {
        if let Some(router) = self.0.upgrade() {
            router.on_member(room, member, "joined");
        }
    }

    fn on_user_back(&self, user: &str) {
        if let Some(router) = self.0.upgrade() {
            router.on_user(user, "online");
        }
    }

    fn on_user_gone(&self, user: &str) {
        let Some(router) = self.0.upgrade() else { return };
        let user: UserId = user.into();
        // Plugins take their time; the connection to Redis must not wait.
        router.clone().tasks.spawn(async move { router.on_user(&user, "offline") });
    }

    fn info(&self) -> String {
        let Some(router) = self.0.upgrade() else { return "{}".to_owned() };
        router.describe().to_string()
    }
}

impl Router {
    /// What this instance says of itself.
    #[must_use]
    pub fn describe(&self) -> serde_json::Value {
        let generation = self.generation();
        let name = self.cluster.as_ref().map_or_else(|| self.instance.clone(), |cluster| cluster.name().to_owned());
        serde_json::json!({
            "uid": self.instance,
            "name": name,
            "version": env!("CARGO_PKG_VERSION"),
            "num_clients": self.hub.n_connections(),
            "num_users": self.hub.n_users(),
            "num_channels": self.hub.n_rooms(),
            "messages": self.metrics.published.get(),
            "deliveries": self.metrics.deliveries.get(),
            "generation": generation.number,
            "uptime": self.uptime().as_secs(),
            "plugins": generation.hashes(),
        })
    }

    fn on_publication(&self, publication: &Publication<'_>) {
        let sender = publication.sender.as_ref().map(envelope::Member::to_info);
        let push = Push::Publication(Message {
            room: &publication.room,
            payload: publication.payload.borrowed(),
            sender: sender.as_ref(),
            tags: &publication.tags,
            offset: 0,
        });
        let mut batch = Batch::new(&self.flusher);
        let delivered =
            self.hub.deliver_room(&publication.room, &Broadcast::new(push), &mut Seen::default(), &mut batch);
        self.metrics.delivered(delivered.queued, delivered.dropped);
        if self.is_tailed() {
            self.tail_room(&publication.room, sender.as_ref(), &publication.payload.clone().into_payload(), 0);
        }
    }

    fn on_kept(self: &Arc<Self>, publication: &Publication<'_>, position: &Position) {
        let sender = publication.sender.as_ref().map(envelope::Member::to_info);
        let push = Push::Publication(Message {
            room: &publication.room,
            payload: publication.payload.borrowed(),
            sender: sender.as_ref(),
            tags: &publication.tags,
            offset: position.offset,
        });
        let mut batch = Batch::new(&self.flusher);
        let placed = self.hub.deliver_at(&publication.room, position, &Broadcast::new(push), &mut batch);
        // What was there before has been told before.
        if self.is_tailed() && !matches!(placed, Placed::Before) {
            let payload = publication.payload.clone().into_payload();
            self.tail_room(&publication.room, sender.as_ref(), &payload, position.offset);
        }
        match placed {
            Placed::Delivered(delivered) => self.metrics.delivered(delivered.queued, delivered.dropped),
            Placed::Gap => self.repair(&publication.room),
            Placed::Before | Placed::Nobody => {}
        }
    }

    fn on_routed(self: &Arc<Self>, routed: Routed<'_>) {
        if !self.recent.lock().is_new(routed.id) {
            return;
        }
        let targets = |texts: &[Cow<'_, str>]| texts.iter().filter_map(|text| Target::parse(text)).collect();
        let delivery = Delivery { to: targets(&routed.to), except: targets(&routed.except), payload: None };
        let sender = routed.sender.as_ref().map(envelope::Member::to_info);
        let payload: Payload = routed.payload.into_payload();
        let generation = self.generation();
        let mut batch = Batch::new(&self.flusher);
        let delivered = self.deliver_here(&generation, &delivery, &payload, sender.as_ref(), &routed.tags, &mut batch);
        self.metrics.delivered(delivered.queued, delivered.dropped);
    }

    /// Notes what another instance wants done. Plugins are asked about it and
    /// told of it, and may take their time.
    fn take_order(self: &Arc<Self>, order: Order<'_>) {
        match self.orders.put(order.into_owned()) {
            Noted::Waits => {}
            Noted::Full => self.metrics.cluster.dropped("orders"),
            Noted::First => {
                let router = Arc::clone(self);
                self.tasks.spawn(async move {
                    while let Some(order) = router.orders.next() {
                        // The thread may be the one that looks after all sockets.
                        without_blocking(|| router.on_order(&order));
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
    }

    fn on_order(self: &Arc<Self>, order: &Order<'_>) {
        let Some(who) = Target::parse(&order.who) else { return };
        let mut batch = Batch::new(&self.flusher);
        self.carry_out(&self.generation(), &who, &order.what, order.depth, &mut batch);
    }

    /// Does something with the connections here that a target reaches. False if
    /// it could not be done for one of them.
    pub(super) fn carry_out(
        self: &Arc<Self>,
        generation: &Arc<crate::generation::Generation>,
        who: &Target,
        what: &What<'_>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) -> bool {
        let mut all_done = true;
        for connection in self.resolve(who) {
            all_done &= match what {
                What::Join(room) => self.join_by_server(generation, &connection, room, depth),
                What::Leave(room) => self.leave_by_server(generation, &connection, room, depth, batch),
                What::Close(code, reason) => {
                    connection.outbox.close(Close { code: *code, reason: Cow::Owned(reason.as_ref().to_owned()) });
                    true
                }
                What::SetInfo(info) => {
                    connection.set_info(info.as_ref().into());
                    true
                }
                What::Expire(at) => {
                    self.set_end(&connection, *at, batch);
                    true
                }
            };
        }
        all_done
    }

    /// Something happened to a member, which its connection does not tell.
    fn on_member(self: &Arc<Self>, room: &str, member: &MemberInfo, kind: &'static str) {
        let generation = self.generation();
        let Some((_, pipeline)) = generation.room(room) else { return };
        let mut batch = Batch::new(&self.flusher);
        self.observe_member(&generation, &pipeline.observe, member, EventView { kind, room }, &mut batch);
    }

    /// Something happened to a user as a whole.
    pub(super) fn on_user(self: &Arc<Self>, user: &str, kind: &'static str) {
        let generation = self.generation();
        let member = MemberInfo { connection: String::new(), user: user.into(), info: "".into(), room_info: "".into() };
        let mut batch = Batch::new(&self.flusher);
        self.observe_member(&generation, generation.observers(), &member, EventView { kind, room: "" }, &mut batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: usize) -> Order<'static> {
        Order { who: "all".into(), what: What::Join(n.to_string().into()), depth: 0 }
    }

    #[test]
    fn orders_are_carried_out_in_their_order_by_one_task_and_not_without_end() {
        let orders = Orders::default();
        assert_eq!(orders.put(order(0)), Noted::First);
        for n in 1..ORDERS {
            assert_eq!(orders.put(order(n)), Noted::Waits);
        }
        assert_eq!(orders.put(order(0)), Noted::Full);
        for n in 0..ORDERS {
            assert!(matches!(orders.next().map(|order| order.what), Some(What::Join(room)) if *room == *n.to_string()));
        }
        assert_eq!(orders.put(order(1)), Noted::Waits, "the task is at the last one");
        assert!(orders.next().is_some() && orders.next().is_none());
        assert_eq!(orders.put(order(1)), Noted::First, "it has ended");
    }
}
