//! From targets to outboxes.

use std::sync::Arc;

use super::{Envelope, Router, is_personal};
use crate::{
    config::{Pattern, Target},
    generation::Generation,
    hub::{Connection, Delivered, Hub, Seen},
    id::ConnectionId,
    plugin::{Delivery, Lookup, Unavailable},
    protocol::{Broadcast, MemberInfo, Payload, Push},
    session::flusher::Batch,
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

type Tags = [(&'static str, String)];

impl Router {
    /// Delivers a message that has passed its hooks.
    pub(super) fn deliver(&self, generation: &Generation, envelope: &Envelope<'_>, tags: &Tags, batch: &mut Batch<'_>) {
        let mut delivered = Delivered::default();
        if envelope.keep {
            let data = envelope.payload.to_json();
            let push = Push::Publication { room: envelope.room, data: &data, sender: Some(envelope.sender), tags };
            delivered += self.hub.deliver_room(envelope.room, &Broadcast::new(push), &mut Seen::default(), batch);
        }
        for delivery in &envelope.deliveries {
            let payload = delivery.payload.as_ref().unwrap_or(&envelope.payload);
            delivered += self.deliver_to(generation, delivery, payload, Some(envelope.sender), tags, batch);
        }
        self.metrics.deliveries.inc_by(delivered.queued as u64);
    }

    /// Delivers a payload to the targets of one delivery, once to each
    /// connection that several of them reach.
    pub(super) fn deliver_to(
        &self,
        generation: &Generation,
        delivery: &Delivery,
        payload: &Payload,
        sender: Option<&MemberInfo>,
        tags: &Tags,
        batch: &mut Batch<'_>,
    ) -> Delivered {
        let data = payload.to_json();
        let several = delivery.to.len() > 1 || matches!(delivery.to.first(), Some(Target::Pattern(_)));
        let mut seen = if several { Seen::tracking() } else { Seen::default() };
        for target in &delivery.except {
            for connection in self.resolve(target) {
                seen.exclude(connection.id);
            }
        }
        let mut delivered = Delivered::default();
        for target in &delivery.to {
            let to_room = |room: &str, seen: &mut Seen, batch: &mut Batch<'_>| {
                let push = Push::Publication { room, data: &data, sender, tags };
                self.hub.deliver_room(room, &Broadcast::new(push), seen, batch)
            };
            delivered += match target {
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
                    let push = Push::Publication { room: &room, data: &data, sender, tags };
                    self.hub.deliver_each(&self.hub.connections_of(user), &Broadcast::new(push), &mut seen, batch)
                }
                target @ (Target::User(_) | Target::Connection(_) | Target::Everyone) => {
                    let broadcast = Broadcast::new(Push::Message(&data));
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
