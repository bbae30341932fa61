//! What plugins want done, and who tells them what happened.

use std::{borrow::Cow, sync::Arc};

use super::{Router, as_user};
use crate::{
    cluster::envelope::{Body, Order, What},
    config::Target,
    generation::Generation,
    hub::Connection,
    id::ConnectionId,
    plugin::{Action, Caller, EventView, Plugin},
    protocol::{MemberInfo, Payload},
    room::records::Edit,
    session::flusher::Batch,
};

/// How far an action may cause others: what a plugin observes of the actions
/// of a plugin that observed something leads to nothing more, on whichever
/// instance. Two plugins could otherwise keep each other busy for ever.
const DEPTH_MAX: u8 = 2;

impl Router {
    /// Performs actions in order.
    pub(super) fn perform(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        actions: Vec<Action>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        for action in actions {
            let done = match action {
                Action::Send(delivery) => {
                    let nothing = Payload::Text("null".into());
                    let payload = delivery.payload.as_ref().unwrap_or(&nothing);
                    let delivered = self.deliver_to(generation, &delivery, payload, None, &[], batch);
                    self.metrics.published.inc();
                    self.metrics.delivered(delivered.queued, delivered.dropped);
                    true
                }
                Action::Join { who, room } => self.order(generation, &who, &What::Join(room.into()), depth, batch),
                Action::Leave { who, room } => self.order(generation, &who, &What::Leave(room.into()), depth, batch),
                Action::SetInfo { connection, info } => {
                    self.order(generation, &Target::Connection(connection), &What::SetInfo(info.into()), depth, batch)
                }
                Action::Disconnect { who, close } => {
                    let what = What::Close(close.code, close.reason);
                    self.order(generation, &who, &what, depth, batch)
                }
                Action::Record { room, name, edit, version } => {
                    self.record_later(room, name, edit, version);
                    true
                }
            };
            if !done {
                self.metrics.actions_failed.inc();
            }
        }
    }

    /// Writes a document beside what is in hand: Redis may have to be asked, and
    /// nobody waits for the answer.
    fn record_later(self: &Arc<Self>, room: String, name: String, edit: Edit, version: Option<u64>) {
        let router = Arc::clone(self);
        self.tasks.spawn(async move {
            // A conflict is what the plugin asked for by naming a version.
            if let Err(refusal) = router.edit_record(&room, &name, &edit, version).await {
                router.metrics.actions_failed.inc();
                tracing::debug!(room, record = name, ?refusal, "a plugin's document was not written");
            }
        });
    }

    /// Does something with all connections that a target reaches, here and on
    /// the other instances. False if it could not be done here for one of them,
    /// or names none that there can be.
    pub fn order(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        who: &Target,
        what: &What<'_>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) -> bool {
        let as_user = as_user(generation, who);
        let who = as_user.as_ref().unwrap_or(who);
        let id = if let Target::Connection(id) = who { ConnectionId::parse(id) } else { None };
        if let Some(cluster) = &self.cluster {
            let body = || Body::Order(Order { who: Cow::Owned(who.to_string()), what: what.clone(), depth });
            match who {
                Target::Connection(_) => match id.map(ConnectionId::instance) {
                    Some(boot) if boot != self.boot => {
                        cluster.to_instance(boot, body());
                        return true;
                    }
                    _ => {}
                },
                Target::Room(room) => cluster.to_room(room, body()),
                Target::User(user) => cluster.to_user(user, body()),
                Target::Pattern(_) | Target::Everyone => cluster.to_all(body()),
            }
        }
        let is_there = id.is_none_or(|id| self.hub.connection(id).is_some());
        let is_told = !matches!(who, Target::Connection(_)) || (id.is_some() && is_there);
        self.carry_out(generation, who, what, depth, batch) && is_told
    }

    /// Tells plugins what happened and performs what they want done.
    pub(super) fn observe<'p>(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        plugins: impl IntoIterator<Item = &'p Arc<Plugin>>,
        who: &Connection,
        event: EventView<'_>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        let info = who.info();
        let caller = Caller { connection: &who.id_text, user: &who.user, info: &info };
        self.observe_as(generation, plugins, caller, event, depth, batch);
    }

    /// The same about somebody who is not, or no longer, here.
    pub(super) fn observe_member<'p>(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        plugins: impl IntoIterator<Item = &'p Arc<Plugin>>,
        who: &MemberInfo,
        event: EventView<'_>,
        batch: &mut Batch<'_>,
    ) {
        let caller = Caller { connection: &who.connection, user: &who.user, info: &who.info };
        self.observe_as(generation, plugins, caller, event, 0, batch);
    }

    fn observe_as<'p>(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        plugins: impl IntoIterator<Item = &'p Arc<Plugin>>,
        caller: Caller<'_>,
        event: EventView<'_>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        if self.is_tailed() {
            self.tail_event(caller, event);
        }
        for plugin in plugins {
            // A failure is logged and counted by the plugin; there is nothing
            // to refuse any more.
            let Ok(actions) = plugin.observe(caller, event) else { continue };
            if depth < DEPTH_MAX {
                self.perform(generation, actions, depth + 1, batch);
            } else {
                self.metrics.actions_failed.inc_by(actions.len() as u64);
            }
        }
    }
}
