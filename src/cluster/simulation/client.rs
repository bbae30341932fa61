//! A client, as the official ones behave: it comes back by itself, says up to
//! where it has heard each room, and drops nothing.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{
    ROOMS, World,
    instance::{Instance, Note, Request, Session, keeps},
    runtime::Runtime,
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) struct Client {
    world: Rc<World>,
    n: usize,
    user: &'static str,
    session: Option<(Rc<Session>, Rc<Instance>)>,
    /// Nothing has come since then and something should.
    waits: Option<Duration>,
    seats: BTreeMap<&'static str, Seat>,
    /// Messages of which it is not known whether they are kept: room and key.
    unsure: Vec<(&'static str, String)>,
    keys: BTreeMap<String, (&'static str, String)>,
}

#[derive(Debug, Default)]
struct Seat {
    place: Place,
    /// It wants to be in there.
    is_wanted: bool,
    /// Up to where it has heard it, as it would say.
    at: Option<(Arc<str>, u64)>,
    /// The last message it has; for the checks.
    last: Option<String>,
    /// What it has heard since it last began anew.
    keys: BTreeSet<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Out,
    Joining,
    In,
    Leaving,
}

/// A client's life.
pub(super) async fn live(client: Rc<RefCell<Client>>, runtime: Runtime) {
    loop {
        let pause = runtime.ms(20, 700);
        runtime.sleep(pause).await;
        client.borrow_mut().act();
    }
}

impl Client {
    pub(super) fn new(world: &Rc<World>, n: usize, user: &'static str) -> Self {
        let seats = ROOMS.iter().map(|room| (*room, Seat::default())).collect();
        let (session, waits, unsure, keys) = (None, None, Vec::new(), BTreeMap::new());
        Self { world: Rc::clone(world), n, user, session, waits, seats, unsure, keys }
    }

    fn wrong(&self, what: &str) {
        let id = self.session.as_ref().map(|(session, _)| session.connection.id.to_string());
        self.world.wrong(format!("client {} ({id:?}): {what}", self.n));
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        self.world.runtime.trace(|| format!("client {}: {}", self.n, what()));
    }

    fn act(&mut self) {
        let runtime = self.world.runtime.clone();
        let Some((session, instance)) = self.session.clone() else {
            let instance = runtime.pick(&self.world.instances.borrow()).cloned();
            if let Some(instance) = instance.filter(|_| runtime.chance(60)) {
                let session = instance.open(self.user, self.world.outbox());
                self.trace(|| format!("comes to {} as {}", instance.name(), session.connection.id));
                self.session = Some((session, instance));
                self.waits = Some(runtime.now());
            }
            return;
        };
        if !self.world.is_alive(&instance) || session.is_over.get() {
            // What it was sent last may have arrived, or not.
            if runtime.chance(50) {
                self.hear(&session);
            }
            self.trace(|| "is cut off".to_owned());
            return self.leave();
        }
        if !session.is_in.get() {
            if self.waits.is_some_and(|since| runtime.now() > since + PATIENCE) {
                self.hang_up(&session);
            }
            return;
        }
        self.hear(&session);
        let must_answer = runtime.is_paused(instance.host)
            || self.seats.values().any(|seat| matches!(seat.place, Place::Joining | Place::Leaving));
        if !must_answer {
            self.waits = None;
        } else if runtime.now() > *self.waits.get_or_insert(runtime.now()) + PATIENCE {
            return self.hang_up(&session);
        }
        let is_resting = self.world.is_resting.get();
        // Back to where it was, first of all.
        let back = self.seats.iter().find(|(_, seat)| seat.is_wanted && seat.place == Place::Out);
        if let Some((room, _)) = back {
            let room = *room;
            return self.join(&session, room);
        }
        if is_resting {
            return;
        }
        let room = *runtime.pick(&ROOMS).unwrap();
        let seat = self.seats.get_mut(room).unwrap();
        match runtime.below(100) {
            0..30 if seat.place == Place::Out => {
                seat.is_wanted = true;
                self.join(&session, room);
            }
            30..38 if seat.place == Place::In => {
                seat.is_wanted = false;
                seat.place = Place::Leaving;
                session.ask(Request::Leave(room.to_owned()));
            }
            38..42 => {
                self.hang_up(&session);
            }
            42..75 if keeps(room) => {
                // One whose fate is not known is sent once more.
                let (room, key) = self.unsure.pop().unwrap_or_else(|| (room, format!("k{}", runtime.fresh())));
                let data = runtime.fresh().to_string();
                self.trace(|| format!("publishes {data} ({key}) in {room}"));
                self.world.keys.borrow_mut().insert(data.clone(), key.clone());
                self.keys.insert(data.clone(), (room, key.clone()));
                session.ask(Request::Publish(room.to_owned(), data, key));
            }
            _ => {}
        }
    }

    fn join(&mut self, session: &Session, room: &'static str) {
        let is_forgetful = self.world.runtime.chance(5);
        let seat = self.seats.get_mut(room).unwrap();
        seat.place = Place::Joining;
        if is_forgetful {
            seat.at = None;
        }
        let seen = seat.at.clone();
        session.ask(Request::Join(room.to_owned(), seen));
    }

    fn hang_up(&mut self, session: &Session) {
        self.trace(|| format!("hangs up {}", session.connection.id));
        session.ask(Request::Close);
        self.leave();
    }

    fn leave(&mut self) {
        self.session = None;
        self.waits = None;
        for seat in self.seats.values_mut() {
            seat.place = Place::Out;
        }
    }

    /// Reads what has come.
    fn hear(&mut self, session: &Session) {
        for frame in session.connection.outbox.take() {
            if let Some(note) = frame.strip_prefix(b"!") {
                let n: usize = std::str::from_utf8(note).unwrap().parse().unwrap();
                let note = session.notes.borrow()[n].clone();
                self.on_note(note);
                continue;
            }
            let header = match frame[1] {
                126 => 4,
                127 => 10,
                _ => 2,
            };
            let push: serde_json::Value = serde_json::from_slice(&frame[header..]).unwrap();
            let (room, publication) = (&push["push"]["channel"], &push["push"]["pub"]);
            let offset = publication["offset"].as_u64().unwrap();
            self.on_message(room.as_str().unwrap(), offset, &publication["data"].to_string());
        }
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::Joined { room, position, head, recovered } => {
                self.trace(|| format!("is in {room} at {position:?} {head:?}, recovered {recovered:?}"));
                let seat = self.seats.get_mut(room.as_str()).unwrap();
                seat.place = Place::In;
                let Some(position) = position else { return };
                match recovered {
                    Some(missed) => {
                        for kept in missed {
                            self.on_message(&room, kept.offset, std::str::from_utf8(&kept.frame).unwrap());
                        }
                        let last = &self.seats[room.as_str()].last;
                        if *last != head {
                            self.wrong(&format!(
                                "in {room} it was said to have recovered; it has {last:?} and not {head:?}"
                            ));
                        }
                    }
                    None => {
                        seat.last = head;
                        seat.keys.clear();
                    }
                }
                self.seats.get_mut(room.as_str()).unwrap().at = Some((position.epoch, position.offset));
            }
            Note::Refused(room) => {
                self.trace(|| format!("is refused in {room}"));
                self.seats.get_mut(room.as_str()).unwrap().place = Place::Out;
            }
            Note::Left(room) => {
                let seat = self.seats.get_mut(room.as_str()).unwrap();
                seat.place = Place::Out;
            }
            Note::Lost(room) => {
                self.trace(|| format!("is told that something in {room} is lost to it"));
                let seat = self.seats.get_mut(room.as_str()).unwrap();
                // If it has asked to leave, that is answered as well.
                if seat.place == Place::In {
                    seat.place = Place::Out;
                }
            }
            Note::Published(data, is_kept) => {
                if !is_kept && let Some(unsure) = self.keys.get(&data) {
                    self.unsure.push(unsure.clone());
                }
            }
        }
    }

    /// Each message follows the one before it.
    fn on_message(&mut self, room: &str, offset: u64, data: &str) {
        self.trace(|| format!("hears {offset} in {room}: {data}"));
        let seat = self.seats.get_mut(room).unwrap();
        if !matches!(seat.place, Place::In | Place::Leaving) {
            return self.wrong(&format!("it heard {data} in {room} and is not in there"));
        }
        let before = self.world.before.borrow().get(data).cloned();
        let Some((_, at)) = &mut seat.at else { return self.wrong("it has no position") };
        if before.as_ref() != Some(&seat.last) || offset != *at + 1 {
            let what = format!("in {room} it heard {offset}: {data} (behind {before:?}) after {at}: {:?}", seat.last);
            return self.wrong(&what);
        }
        *at = offset;
        seat.last = Some(data.to_owned());
        if !seat.keys.insert(self.world.keys.borrow()[data].clone()) {
            self.wrong(&format!("in {room} it heard {data}, sent twice under one key"));
        }
    }

    /// When all is quiet, it is where it wants to be and has heard all.
    pub(super) fn check_end(&mut self) {
        let Some((session, instance)) = self.session.clone() else { return self.wrong("it could not come back") };
        self.hear(&session);
        for (room, seat) in &self.seats {
            if seat.is_wanted != (seat.place == Place::In) {
                self.wrong(&format!("it wants to be in {room} or not, and is {:?} there", seat.place));
            }
            if !keeps(room) || seat.place != Place::In {
                continue;
            }
            let head = self.world.network.look(|state| state.logs.get(*room).and_then(|log| log.head.clone()));
            if seat.last != head {
                let at = instance.hub.position(room);
                self.wrong(&format!(
                    "in {room} it has heard up to {:?} and not {head:?}; the room is at {at:?}",
                    seat.last
                ));
            }
        }
    }
}
