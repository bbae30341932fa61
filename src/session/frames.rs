//! Frames that wait for one connection, in order.

use std::{cell::RefCell, collections::VecDeque};

use bytes::{Buf, Bytes};

use super::outbox::Spare;

/// Frames that wait are joined into one write of up to this many bytes. A
/// loopback socket takes about this much at once before it is full.
const WRITE_MAX: usize = 64 << 10;

/// Room for frames that an empty queue keeps; an idle connection is small.
const KEPT: usize = 4;

thread_local! {
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(WRITE_MAX));
}

/// A frame that waits.
#[derive(Debug)]
struct Waiting {
    /// What is left to write of it.
    frame: Bytes,
    /// Frames that are alike: one may be left out for a newer one. 0: must go.
    mark: u64,
}

/// A queue whose first frame lies in itself, since nearly always it is the only
/// one: a delivery to a thousand members would else fetch a thousand buffers
/// more.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// None: nothing waits.
    first: Option<Waiting>,
    rest: VecDeque<Waiting>,
    /// All that waits.
    bytes: usize,
    /// A part of the first is written, and the rest must follow.
    is_begun: bool,
}

/// Whether there is room for a frame.
pub(super) enum Room {
    /// It goes to the end, with this mark; so many others were left out.
    Made(u64, usize),
    /// It stands where another has stood.
    Taken,
    None,
}

impl Frames {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds one at the end.
    pub(super) fn push(&mut self, frame: Bytes, mark: u64) {
        self.bytes += frame.len();
        let waiting = Waiting { frame, mark };
        if self.first.is_none() {
            self.first = Some(waiting);
        } else {
            self.rest.push_back(waiting);
        }
    }

    /// Adds one that goes out as the next.
    pub(super) fn push_first(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        let waiting = Waiting { frame, mark: 0 };
        if self.is_begun {
            self.rest.push_front(waiting);
        } else if let Some(second) = self.first.replace(waiting) {
            self.rest.push_front(second);
        }
    }

    /// Forgets all but what is half written.
    pub(super) fn forget(&mut self) {
        self.rest.clear();
        self.first.take_if(|_| !self.is_begun);
        self.bytes = self.first.as_ref().map_or(0, |first| first.frame.len());
    }

    /// Sees to it that there is room for a frame, by what may be left out.
    pub(super) fn make_room(&mut self, frame: &Bytes, spare: Spare) -> Room {
        let fits = |bytes: usize, at: usize| bytes == 0 || bytes + frame.len() <= at;
        match spare {
            Spare::Never => Room::Made(0, 0),
            Spare::Newest { at } => {
                if fits(self.bytes, at) {
                    Room::Made(0, 0)
                } else {
                    Room::None
                }
            }
            Spare::Oldest { mark, at } => {
                let mut dropped = 0;
                while !fits(self.bytes, at) {
                    // What else waits is not this room's, and the bound of all holds.
                    let Some(oldest) = self.position(mark) else { break };
                    self.remove(oldest);
                    dropped += 1;
                }
                Room::Made(mark, dropped)
            }
            Spare::Latest { mark, at } => {
                let Some(like) = self.position(mark) else {
                    return if fits(self.bytes, at) { Room::Made(mark, 0) } else { Room::None };
                };
                let old = self.get_mut(like).map_or(0, |old| old.frame.len());
                let without = self.bytes - old;
                if without + frame.len() <= at || frame.len() <= old {
                    self.bytes = without + frame.len();
                    if let Some(old) = self.get_mut(like) {
                        old.frame = frame.clone();
                    }
                    return Room::Taken;
                }
                // It is old news, and the new is too large to wait.
                self.remove(like);
                Room::None
            }
        }
    }

    /// What goes out at once. Copying small frames together costs less than a
    /// vectored write.
    pub(super) fn joined<T>(&self, to: impl FnOnce(&[u8]) -> T) -> T {
        let first = self.first.as_ref().map_or(&[][..], |first| &first.frame);
        if self.rest.is_empty() {
            return to(first);
        }
        JOINED.with_borrow_mut(|joined| {
            joined.clear();
            joined.extend_from_slice(first);
            for Waiting { frame, .. } in &self.rest {
                if joined.len() + frame.len() > WRITE_MAX {
                    break;
                }
                joined.extend_from_slice(frame);
            }
            to(joined)
        })
    }

    /// So many bytes of it went out.
    pub(super) fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(first) = &mut self.first {
            if n < first.frame.len() {
                first.frame.advance(n);
                self.is_begun |= n > 0;
                return;
            }
            n -= first.frame.len();
            self.is_begun = false;
            self.first = self.rest.pop_front();
        }
    }

    /// Gives back the memory of a time when many waited.
    pub(super) fn shrink(&mut self) {
        self.rest.shrink_to(KEPT);
    }

    /// Where the first of a mark waits that may be left out: what is half written
    /// must be finished.
    fn position(&self, mark: u64) -> Option<usize> {
        let first = usize::from(self.is_begun);
        let mut all = self.first.iter().chain(&self.rest).skip(first);
        all.position(|waiting| waiting.mark == mark).map(|n| first + n)
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut Waiting> {
        if at == 0 { self.first.as_mut() } else { self.rest.get_mut(at - 1) }
    }

    fn remove(&mut self, at: usize) {
        let gone =
            if at == 0 { std::mem::replace(&mut self.first, self.rest.pop_front()) } else { self.rest.remove(at - 1) };
        self.bytes -= gone.map_or(0, |gone| gone.frame.len());
    }

    #[cfg(test)]
    pub(super) fn each(&self) -> impl Iterator<Item = &Bytes> {
        let all = self.first.iter().chain(&self.rest).map(|waiting| &waiting.frame);
        assert_eq!(self.bytes, all.clone().map(Bytes::len).sum::<usize>());
        all
    }

    /// Takes all out.
    #[cfg(test)]
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        let Self { first, rest, .. } = std::mem::take(self);
        first.into_iter().chain(rest).map(|waiting| waiting.frame).collect()
    }
}
