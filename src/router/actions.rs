//! What plugins want done, and who tells them what happened.

use std::sync::Arc;

use super::Router;
use crate::{
    config::Target,
    generation::Generation,
    hub::Connection,
    id::ConnectionId,
    plugin::{Action, Caller, EventView, Plugin},
    protocol::Payload,
    session::flusher::Batch,
};

/// How far an action may cause others: what a plugin observes of the actions
/// of a plugin that observed something leads to nothing more. Two plugins
/// could otherwise keep each other busy for ever.
const DEPTH_MAX: u8 = 2;

impl Router {
    /// Performs actions in order.
    pub(super) fn perform(&self, generation: &Generation, actions: Vec<Action>, depth: u8, batch: &mut Batch<'_>) {
        for action in actions {
            let done = match action {
                Action::Send(delivery) => {
                    let nothing = Payload::Text("null".into());
                    let payload = delivery.payload.as_ref().unwrap_or(&nothing);
                    let delivered = self.deliver_to(generation, &delivery, payload, None, &[], batch);
                    self.metrics.published.inc();
                    self.metrics.deliveries.inc_by(delivered.queued as u64);
                    true
                }
                Action::Join { who, room } => {
                    self.each(&who, |connection| self.join_by_server(generation, connection, &room, depth, batch))
                }
                Action::Leave { who, room } => {
                    self.each(&who, |connection| self.leave_by_server(generation, connection, &room, depth, batch))
                }
                Action::SetInfo { connection, info } => {
                    let found = ConnectionId::parse(&connection).and_then(|id| self.hub.connection(id));
                    found.is_some_and(|connection| {
                        connection.set_info(info.into());
                        true
                    })
                }
                Action::Disconnect { who, close } => self.each(&who, |connection| {
                    connection.outbox.close(close.clone());
                    true
                }),
            };
            if !done {
                self.metrics.actions_failed.inc();
            }
        }
    }

    /// False if it could not be done for one of them.
    fn each(&self, who: &Target, mut act: impl FnMut(&Arc<Connection>) -> bool) -> bool {
        let mut all_done = true;
        for connection in self.resolve(who) {
            all_done &= act(&connection);
        }
        all_done
    }

    /// Tells plugins what happened and performs what they want done.
    pub(super) fn observe<'p>(
        &self,
        generation: &Generation,
        plugins: impl IntoIterator<Item = &'p Arc<Plugin>>,
        who: &Connection,
        event: EventView<'_>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        let info = who.info();
        let caller = Caller { connection: &who.id_text, user: &who.user, info: &info };
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
