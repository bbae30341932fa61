//! What clients say that have no socket of their own: each request may reach
//! any instance, and is passed to the one that holds the client's stream. That
//! one says what became of it, so that nothing is lost without a word.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{
    mpsc::{Sender, error::TrySendError},
    oneshot,
};

use super::Router;
use crate::{
    cluster::envelope::{Body, Heard, Said},
    id::{self, BootId},
    protocol::{Close, Incoming},
    session::outbox::Outbox,
};

/// How long the instance that holds the stream may take to say that it has
/// heard: it has only to note it.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Requests whose answer is awaited at once.
const AWAITED_MAX: usize = 8_192;

/// Where to pass what comes for the clients of this instance, by the names
/// that only they know; and what was passed on and not answered yet.
#[derive(Debug, Default)]
pub struct Inbound {
    clients: Mutex<HashMap<String, Client>>,
    /// By number, and only the instance that was told may answer.
    awaited: Mutex<HashMap<u64, (BootId, oneshot::Sender<PassedIn>)>>,
    n_passed: AtomicU64,
}

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
        self.inbound.clients.lock().remove(&self.name);
    }
}

/// Something that was passed on; its answer is awaited as long as this lives.
struct Passing<'a> {
    inbound: &'a Inbound,
    id: u64,
    answer: oneshot::Receiver<PassedIn>,
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.inbound.awaited.lock().remove(&self.id);
    }
}

/// What became of something that was passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedIn {
    /// The client's session has it. Where the client is gone, its stream has
    /// ended too.
    Yes,
    /// There is no such instance.
    NoInstance,
    /// The client has said more than is heard out.
    TooMuch,
    /// The instance, or the way to it or back, is away: it may have been heard.
    Unanswered,
}

impl Inbound {
    /// Lets a client be spoken for.
    pub fn open(&self, to: Sender<Incoming>, outbox: Arc<Outbox>) -> Entry<'_> {
        let name = format!("{:032x}", u128::from_le_bytes(id::random_bytes()));
        self.clients.lock().insert(name.clone(), (to, outbox));
        Entry { inbound: self, name }
    }

    fn pass(&self, session: &str, said: Incoming) -> PassedIn {
        let to = self.clients.lock().get(session).cloned();
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

    /// Awaits the answer of an instance; None: too many are awaited.
    fn expect(&self, boot: BootId) -> Option<Passing<'_>> {
        let (sender, answer) = oneshot::channel();
        // From 1: 0 asks for no answer.
        let id = self.n_passed.fetch_add(1, Ordering::Relaxed) + 1;
        let mut awaited = self.awaited.lock();
        if awaited.len() >= AWAITED_MAX {
            return None;
        }
        awaited.insert(id, (boot, sender));
        Some(Passing { inbound: self, id, answer })
    }

    /// An instance says what became of what it was told.
    pub(super) fn on_heard(&self, origin: BootId, heard: &Heard) {
        let mut awaited = self.awaited.lock();
        if awaited.get(&heard.id).is_some_and(|(boot, _)| *boot == origin)
            && let Some((_, answer)) = awaited.remove(&heard.id)
        {
            let _gone = answer.send(if heard.is_too_much { PassedIn::TooMuch } else { PassedIn::Yes });
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
        match cluster.finds(boot).await {
            Ok(true) => {}
            Ok(false) => return PassedIn::NoInstance,
            Err(_) => return PassedIn::Unanswered,
        }
        // Nobody has looked yet whether there is such a client.
        if !cluster.is_at_ease() {
            return PassedIn::TooMuch;
        }
        let Some(mut passing) = self.inbound.expect(boot) else { return PassedIn::TooMuch };
        let (is_binary, bytes): (bool, &[u8]) = match &said {
            Incoming::Text(text) => (false, text.as_bytes()),
            Incoming::Binary(bytes) => (true, bytes),
        };
        let bytes = Cow::Borrowed(bytes);
        cluster.to_instance(boot, Body::Said(Said { session: session.into(), is_binary, bytes, id: passing.id }));
        match tokio::time::timeout(ANSWER_WITHIN, &mut passing.answer).await {
            Ok(Ok(passed)) => passed,
            Ok(Err(_)) | Err(_) => PassedIn::Unanswered,
        }
    }

    /// Another instance was told this for a client of this one.
    pub(super) fn on_said(&self, origin: BootId, said: Said<'_>) {
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
        if let (Some(passed), Some(cluster), 1..) = (passed, &self.cluster, said.id) {
            let heard = Heard { id: said.id, is_too_much: passed == PassedIn::TooMuch };
            cluster.to_instance(origin, Body::Heard(heard));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_was_told_answers_and_who_gave_up_is_forgotten() {
        let inbound = Inbound::default();
        let mut passing = inbound.expect(BootId(1)).unwrap();
        let heard = Heard { id: passing.id, is_too_much: false };
        inbound.on_heard(BootId(2), &heard);
        assert!(passing.answer.try_recv().is_err());
        inbound.on_heard(BootId(1), &heard);
        assert_eq!(passing.answer.try_recv(), Ok(PassedIn::Yes));
        inbound.on_heard(BootId(1), &heard);

        let full = inbound.expect(BootId(1)).unwrap();
        inbound.on_heard(BootId(1), &Heard { id: full.id + 1, is_too_much: true });
        assert_eq!(inbound.awaited.lock().len(), 1);
        drop(full);
        assert!(inbound.awaited.lock().is_empty());
    }

    #[test]
    fn not_more_is_awaited_than_can_be_kept() {
        let inbound = Inbound::default();
        let all: Vec<_> = (0..AWAITED_MAX).map(|_| inbound.expect(BootId(1)).unwrap()).collect();
        assert!(inbound.expect(BootId(1)).is_none());
        drop(all);
        assert!(inbound.expect(BootId(1)).is_some());
    }
}
