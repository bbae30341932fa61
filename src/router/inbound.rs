//! What clients say that have no socket of their own: each request may reach
//! any instance, and is passed to the one that holds the client's stream.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::Router;
use crate::{
    cluster::envelope::{Body, Said},
    id::{self, BootId},
    protocol::{Close, Incoming},
    session::outbox::Outbox,
};

/// Where to pass what comes for the clients of this instance, by the names
/// that only they know.
#[derive(Debug, Default)]
pub struct Inbound(Mutex<HashMap<String, Client>>);

/// Where what it says goes, and what it hears by.
type Client = (Sender<Incoming>, Arc<Outbox>);

/// A client can be spoken for as long as this lives.
#[derive(Debug)]
pub struct Entry<'a> {
    inbound: &'a Inbound,
    name: String,
}

impl Entry<'_> {
    /// The name that the client gives in its requests: 32 hexadecimal digits
    /// that nobody can guess.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.inbound.0.lock().remove(&self.name);
    }
}

/// What became of something that was passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedIn {
    /// It is on its way. Where the client is gone, its stream has ended too.
    Yes,
    /// There is no such instance.
    NoInstance,
    /// The client has said more than is heard out.
    TooMuch,
}

impl Inbound {
    /// Lets a client be spoken for.
    pub fn open(&self, to: Sender<Incoming>, outbox: Arc<Outbox>) -> Entry<'_> {
        let name = format!("{:032x}", u128::from_le_bytes(id::random_bytes()));
        self.0.lock().insert(name.clone(), (to, outbox));
        Entry { inbound: self, name }
    }

    fn pass(&self, session: &str, said: Incoming) -> PassedIn {
        let to = self.0.lock().get(session).cloned();
        let Some((to, outbox)) = to else { return PassedIn::Yes };
        match to.try_send(said) {
            Ok(()) | Err(TrySendError::Closed(_)) => PassedIn::Yes,
            Err(TrySendError::Full(_)) => {
                // It would wait in vain for what is left out here.
                outbox.close(Close::TOO_MANY_REQUESTS);
                PassedIn::TooMuch
            }
        }
    }
}

impl Router {
    /// Passes on what a client says, by the names that its welcome gave: the
    /// instance that holds its stream, and its session there.
    pub async fn pass_in(&self, node: &str, session: &str, said: Incoming) -> PassedIn {
        if node == self.instance {
            return self.inbound.pass(session, said);
        }
        let Some((cluster, boot)) = self.cluster.as_ref().zip(BootId::parse(node)) else {
            return PassedIn::NoInstance;
        };
        if !cluster.finds(boot).await {
            return PassedIn::NoInstance;
        }
        // Nobody has looked yet whether there is such a client.
        if !cluster.is_at_ease() {
            return PassedIn::TooMuch;
        }
        let (is_binary, bytes): (bool, &[u8]) = match &said {
            Incoming::Text(text) => (false, text.as_bytes()),
            Incoming::Binary(bytes) => (true, bytes),
        };
        cluster.to_instance(boot, Body::Said(Said { session: session.into(), is_binary, bytes: Cow::Borrowed(bytes) }));
        PassedIn::Yes
    }

    /// Another instance was told this for a client of this one.
    pub(super) fn on_said(&self, said: Said<'_>) {
        let bytes = Bytes::from(said.bytes.into_owned());
        let incoming = if said.is_binary {
            Some(Incoming::Binary(bytes))
        } else {
            // It came as a text, so it is one.
            bytes.try_into().ok().map(Incoming::Text)
        };
        let passed = incoming.map(|incoming| self.inbound.pass(&said.session, incoming));
        if passed != Some(PassedIn::Yes) {
            self.metrics.cluster.dropped("said");
        }
    }
}
