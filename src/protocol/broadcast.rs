//! What many receive: encoded once for each form in which somebody takes it.

use std::{array, cell::OnceCell};

use bytes::Bytes;

use super::{Encoding, Form, Payload, PayloadRef, Publication, Push, delta};

/// One for each encoding.
type Frames = [OnceCell<Bytes>; Encoding::N];

/// A push that many receive.
#[derive(Debug)]
pub struct Broadcast<'a> {
    push: Push<'a>,
    frames: Frames,
    /// For those who have asked for differences; most rooms have none.
    whole: OnceCell<Box<Frames>>,
    patches: OnceCell<Box<Patches>>,
}

#[derive(Debug)]
struct Patches {
    /// The difference to what the room heard before; None: it helps nobody.
    patch: Option<Vec<u8>>,
    frames: Frames,
}

fn frames() -> Frames {
    array::from_fn(|_| OnceCell::new())
}

impl<'a> Broadcast<'a> {
    /// Nothing is encoded before somebody needs it.
    #[must_use]
    pub fn new(push: Push<'a>) -> Self {
        Self { push, frames: frames(), whole: OnceCell::new(), patches: OnceCell::new() }
    }

    /// The message, if it is one.
    #[must_use]
    pub fn publication(&self) -> Option<&Publication<'a>> {
        if let Push::Publication(publication) = &self.push { Some(publication) } else { None }
    }

    /// True if it says who came or went.
    #[must_use]
    pub fn is_about_members(&self) -> bool {
        matches!(self.push, Push::Joined { .. } | Push::Left { .. })
    }

    /// As it goes out to those who have chosen `encoding`, shared.
    pub fn frame(&self, encoding: Encoding) -> &Bytes {
        self.frames[encoding as usize].get_or_init(|| encoding.push(&self.push))
    }

    /// A message for somebody who takes differences: to `before`, which it and
    /// all others who are asked for here have heard last; None: it has nothing
    /// that a difference could begin from.
    pub fn delta_frame(&self, encoding: Encoding, before: Option<&Payload>) -> &Bytes {
        let Some(publication) = self.publication() else { return self.frame(encoding) };
        if let Some(before) = before {
            let Patches { patch, frames } = &**self.patches.get_or_init(|| {
                let patch = delta::patch(before.borrowed(), publication.payload);
                Box::new(Patches { patch, frames: frames() })
            });
            // A text difference may have to be cut where that is no text.
            let fits = |patch: &&Vec<u8>| encoding.is_protobuf() || std::str::from_utf8(patch).is_ok();
            if let Some(patch) = patch.as_ref().filter(fits) {
                let encoded = || encoding.publication(publication, Form::Delta(patch));
                return frames[encoding as usize].get_or_init(encoded);
            }
        }
        let whole = self.whole.get_or_init(|| Box::new(frames()));
        whole[encoding as usize].get_or_init(|| encoding.publication(publication, Form::Whole))
    }

    /// The message's body.
    #[must_use]
    pub fn payload(&self) -> Option<PayloadRef<'a>> {
        self.publication().map(|publication| publication.payload)
    }
}
