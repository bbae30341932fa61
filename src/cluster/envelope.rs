//! What instances send each other: compact, binary, with a version.
//!
//! A frame is a version byte, the body in postcard's format, and nothing else,
//! or `P<offset> <epoch> ` before the version byte where the script that keeps
//! a room's history has put the message's position in front. Later versions
//! may append fields to the end of a body; bytes that are left over are not
//! looked at. What cannot be read is counted and dropped.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    id::{BootId, RoomName},
    plugin::Delivery,
    protocol::{MemberInfo, Payload, PayloadRef, Tag},
    room::Position,
};

/// The version that this build writes and reads.
const VERSION: u8 = 1;

/// One message between instances.
#[derive(Debug, Serialize, Deserialize)]
pub struct Frame<'a> {
    /// Who sends it.
    pub origin: BootId,
    /// What it is.
    #[serde(borrow)]
    pub body: Body<'a>,
}

/// What a frame says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Body<'a> {
    /// A message in a room.
    Publication(#[serde(borrow)] Publication<'a>),
    /// A delivery that may reach further than one room.
    Delivery(#[serde(borrow)] Routed<'a>),
    /// Who came to a room and who went.
    Presence(#[serde(borrow)] Changes<'a>),
    /// Something to be done with connections.
    Order(#[serde(borrow)] Order<'a>),
    /// A question to clients, or to instances.
    Ask(#[serde(borrow)] Ask<'a>),
    /// Answers to it.
    Answers(#[serde(borrow)] Answers<'a>),
    /// A named document of a room changed.
    Record(#[serde(borrow)] Change<'a>),
    /// The path there and back works.
    Probe(u64),
    /// A client that has no socket of its own has said something elsewhere.
    Said(#[serde(borrow)] Said<'a>),
    /// What became of that.
    Heard(Heard),
}

/// What a client has said on another instance than holds its stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said<'a> {
    /// The client, by the name that only it knows.
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    /// Bytes, else a text.
    pub is_binary: bool,
    /// The message.
    #[serde(borrow)]
    pub bytes: Cow<'a, [u8]>,
    /// Repeated in the answer; 0: none is waited for.
    #[serde(deserialize_with = "or_nothing")]
    pub id: u64,
}

/// What became of something that a client has said elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heard {
    /// As in [`Said`].
    pub id: u64,
    /// It was more than the client may have waiting.
    pub is_too_much: bool,
}

/// A message in a room. Its name stands once more in each frame, since a
/// channel may be shared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publication<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// How many this instance has sent to this room since `stream` began, from
    /// 1; 0 where an offset counts instead.
    pub n: u64,
    /// Another number begins another count.
    pub stream: u32,
    /// The client that sent it.
    #[serde(borrow)]
    pub sender: Option<Member<'a>>,
    /// The message.
    #[serde(borrow)]
    pub payload: Data<'a>,
    /// What handled it.
    #[serde(borrow)]
    pub tags: Vec<Tag<'a>>,
}

/// A body of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Data<'a> {
    /// One valid JSON value.
    Text(#[serde(borrow)] Cow<'a, str>),
    /// Anything.
    Binary(#[serde(borrow)] Cow<'a, [u8]>),
}

/// Somebody in a room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member<'a> {
    /// The connection.
    #[serde(borrow)]
    pub connection: Cow<'a, str>,
    /// Its user.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// JSON from authentication, or empty.
    #[serde(borrow)]
    pub info: Cow<'a, str>,
    /// JSON from the admission, or empty.
    #[serde(borrow)]
    pub room_info: Cow<'a, str>,
}

/// A delivery to several targets. It may come on several channels; the first
/// copy counts.
#[derive(Debug, Serialize, Deserialize)]
pub struct Routed<'a> {
    /// Tells copies of one delivery.
    pub id: (u64, u64),
    /// Targets as they are written in the config.
    #[serde(borrow)]
    pub to: Vec<Cow<'a, str>>,
    /// Who does not get it.
    #[serde(borrow)]
    pub except: Vec<Cow<'a, str>>,
    /// The client that sent it.
    #[serde(borrow)]
    pub sender: Option<Member<'a>>,
    /// The message.
    #[serde(borrow)]
    pub payload: Data<'a>,
    /// What handled it.
    #[serde(borrow)]
    pub tags: Vec<Tag<'a>>,
}

/// Who came and went, in one room.
#[derive(Debug, Serialize, Deserialize)]
pub struct Changes<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// Who is there now and was not.
    #[serde(borrow)]
    pub joined: Vec<Member<'a>>,
    /// Who was there and is not.
    #[serde(borrow)]
    pub left: Vec<Member<'a>>,
}

/// Something to be done with the connections that a target reaches.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order<'a> {
    /// As targets are written in the config.
    #[serde(borrow)]
    pub who: Cow<'a, str>,
    /// What.
    #[serde(borrow)]
    pub what: What<'a>,
    /// How many actions of plugins have led to it.
    #[serde(deserialize_with = "or_nothing")]
    pub depth: u8,
}

impl Order<'_> {
    /// One that outlives its frame.
    #[must_use]
    pub fn into_owned(self) -> Order<'static> {
        Order { who: Cow::Owned(self.who.into_owned()), what: self.what.into_owned(), depth: self.depth }
    }
}

/// A last field that instances of before do not send.
fn or_nothing<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(T::deserialize(deserializer).unwrap_or_default())
}

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum What<'a> {
    /// Join this room.
    Join(#[serde(borrow)] Cow<'a, str>),
    /// Leave this room.
    Leave(#[serde(borrow)] Cow<'a, str>),
    /// End with this code and reason.
    Close(u16, #[serde(borrow)] Cow<'a, str>),
    /// Replace what others see of it.
    SetInfo(#[serde(borrow)] Cow<'a, str>),
    /// End at this time, in milliseconds since 1970; 0: never.
    Expire(u64),
}

impl What<'_> {
    /// One that outlives its frame.
    #[must_use]
    pub fn into_owned(self) -> What<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            What::Join(room) => What::Join(own(room)),
            What::Leave(room) => What::Leave(own(room)),
            What::Close(code, reason) => What::Close(code, own(reason)),
            What::SetInfo(info) => What::SetInfo(own(info)),
            What::Expire(at) => What::Expire(at),
        }
    }
}

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask<'a> {
    /// Repeated in answers.
    pub id: u64,
    /// What is asked.
    #[serde(borrow)]
    pub question: Question<'a>,
    /// Milliseconds that the answers are waited for.
    pub within: u32,
}

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question<'a> {
    /// Each client of these targets is sent a JSON text and answers for itself.
    Clients {
        /// Targets as they are written in the config.
        #[serde(borrow)]
        to: Vec<Cow<'a, str>>,
        /// Who is not asked.
        #[serde(borrow)]
        except: Vec<Cow<'a, str>>,
        /// A JSON text.
        #[serde(borrow)]
        data: Cow<'a, str>,
    },
    /// Something is to be done; the answer says what became of it.
    Do(#[serde(borrow)] Deed<'a>),
    /// The members here of rooms that are not registered and match a pattern.
    Rooms(#[serde(borrow)] Cow<'a, str>),
    /// The connections here.
    Connections {
        /// Only those of this user; empty: all.
        #[serde(borrow)]
        user: Cow<'a, str>,
        /// Only those with greater ids.
        #[serde(borrow)]
        behind: Cow<'a, str>,
        /// At most this many.
        limit: u32,
    },
    /// What the instance's plugins say to this method with this JSON text.
    Call(#[serde(borrow)] Cow<'a, str>, #[serde(borrow)] Cow<'a, str>),
    /// Config and plugins are to be loaded anew.
    Reload,
    /// The generation before is to be put in force again.
    Rollback,
    /// The instance is to end in order.
    Drain,
    /// As [`Self::Do`], for a join on terms of its own.
    Place(#[serde(borrow)] Deed<'a>, Terms),
}

/// What a server grants somebody in a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// When it ends, in milliseconds since 1970; None: as the connection does.
    pub until: Option<u64>,
    /// Whether it may ask who is there; None: as the room says.
    pub presence: Option<bool>,
}

/// Something to be done with connections of which somebody waits to hear that
/// it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deed<'a> {
    /// Targets as they are written in the config.
    #[serde(borrow)]
    pub to: Vec<Cow<'a, str>>,
    /// With whom it is not done.
    #[serde(borrow)]
    pub except: Vec<Cow<'a, str>>,
    /// Only with connections of this user; empty: of any.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// What.
    #[serde(borrow)]
    pub what: What<'a>,
    /// JSON beside the member in the room that it joins, or empty.
    #[serde(borrow)]
    pub info: Cow<'a, str>,
    /// JSON that it is told as it joins, or empty.
    #[serde(borrow)]
    pub data: Cow<'a, str>,
    /// What it has seen of the room that it joins: an offset and its epoch.
    #[serde(borrow)]
    pub since: Option<(u64, Cow<'a, str>)>,
}

impl Deed<'_> {
    /// One that outlives its frame.
    #[must_use]
    pub fn into_owned(self) -> Deed<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let all = |texts: Vec<Cow<'_, str>>| texts.into_iter().map(own).collect();
        Deed {
            to: all(self.to),
            except: all(self.except),
            user: own(self.user),
            what: self.what.into_owned(),
            info: own(self.info),
            data: own(self.data),
            since: self.since.map(|(offset, epoch)| (offset, own(epoch))),
        }
    }
}

/// Answers to a question.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answers<'a> {
    /// The question's.
    pub id: u64,
    /// JSON texts, each with the connection, room or thing that it is about.
    #[serde(borrow)]
    pub answers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Those of whom an answer is still awaited. The first frame of an
    /// instance names all whom it has asked.
    #[serde(borrow)]
    pub awaited: Vec<Cow<'a, str>>,
    /// Nothing more comes from this instance.
    pub is_last: bool,
    /// There would have been more than may be asked or answered.
    pub is_cut: bool,
}

/// A document of a room changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Change<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// The document.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Its version now.
    pub version: u64,
    /// A JSON merge patch (RFC 7396) from the version before, or the whole
    /// document.
    #[serde(borrow)]
    pub patch: Cow<'a, str>,
    /// True: `patch` is the whole document.
    pub is_whole: bool,
}

/// A frame that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// Of another version.
    Version,
    /// Not a frame.
    Garbled,
}

impl Frame<'_> {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let buffer = vec![VERSION];
        // Plain values into memory: there is nothing to fail.
        postcard::to_extend(self, buffer).expect("plain values become bytes")
    }
}

/// Reads what came, with its position if it has one.
///
/// # Errors
/// Why it cannot be read.
pub fn decode(mut bytes: &[u8]) -> Result<(Frame<'_>, Option<Position>), Unread> {
    let mut position = None;
    if let Some(rest) = bytes.strip_prefix(b"P") {
        let (text, rest) = split(rest).ok_or(Unread::Garbled)?;
        let offset = text.parse().map_err(|_| Unread::Garbled)?;
        let (epoch, rest) = split(rest).ok_or(Unread::Garbled)?;
        position = Some(Position { epoch: epoch.into(), offset });
        bytes = rest;
    }
    match bytes.split_first() {
        Some((&VERSION, body)) => {
            postcard::from_bytes(body).map(|frame| (frame, position)).map_err(|_| Unread::Garbled)
        }
        Some(_) => Err(Unread::Version),
        None => Err(Unread::Garbled),
    }
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.iter().take(64).position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(&bytes[..at]).ok()?, &bytes[at + 1..]))
}

impl<'a> From<&'a MemberInfo> for Member<'a> {
    fn from(member: &'a MemberInfo) -> Self {
        Self {
            connection: Cow::Borrowed(&member.connection),
            user: Cow::Borrowed(&member.user),
            info: Cow::Borrowed(&member.info),
            room_info: Cow::Borrowed(&member.room_info),
        }
    }
}

impl Member<'_> {
    /// As the rest of the gateway has it.
    #[must_use]
    pub fn to_info(&self) -> MemberInfo {
        MemberInfo {
            connection: self.connection.as_ref().to_owned(),
            user: RoomName::from(self.user.as_ref()),
            info: self.info.as_ref().into(),
            room_info: self.room_info.as_ref().into(),
        }
    }
}

impl<'a> From<&'a Payload> for Data<'a> {
    fn from(payload: &'a Payload) -> Self {
        match payload {
            Payload::Text(text) => Self::Text(Cow::Borrowed(text)),
            Payload::Binary(bytes) => Self::Binary(Cow::Borrowed(bytes)),
        }
    }
}

impl Data<'_> {
    /// The same, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> PayloadRef<'_> {
        match self {
            Self::Text(text) => PayloadRef::Text(text),
            Self::Binary(bytes) => PayloadRef::Binary(bytes),
        }
    }

    /// As the rest of the gateway has it.
    #[must_use]
    pub fn into_payload(self) -> Payload {
        match self {
            Self::Text(text) => Payload::Text(text.into_owned()),
            Self::Binary(bytes) => Payload::Binary(bytes.into_owned()),
        }
    }
}

impl<'a> Routed<'a> {
    /// The frame of a delivery.
    #[must_use]
    pub fn new(
        id: (u64, u64),
        delivery: &'a Delivery,
        payload: &'a Payload,
        sender: Option<&'a MemberInfo>,
        tags: &'a [Tag<'a>],
    ) -> Self {
        Self {
            id,
            to: delivery.to.iter().map(|target| target.to_string().into()).collect(),
            except: delivery.except.iter().map(|target| target.to_string().into()).collect(),
            sender: sender.map(Member::from),
            payload: payload.into(),
            tags: borrowed(tags),
        }
    }
}

/// Tags for a frame.
#[must_use]
pub fn borrowed<'a>(tags: &'a [Tag<'_>]) -> Vec<Tag<'a>> {
    tags.iter().map(|(name, value)| (Cow::Borrowed(name.as_ref()), Cow::Borrowed(value.as_ref()))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publication(room: &str) -> Frame<'_> {
        let body = Body::Publication(Publication {
            room: room.into(),
            n: 3,
            stream: 4,
            sender: None,
            payload: Data::Text("{}".into()),
            tags: Vec::new(),
        });
        Frame { origin: BootId(7), body }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = publication("a b").encode();
        let (frame, position) = decode(&bytes).unwrap();
        let Body::Publication(publication) = frame.body else { panic!("{frame:?}") };
        assert_eq!((frame.origin, publication.room.as_ref(), publication.n, position), (BootId(7), "a b", 3, None));

        let positioned = [b"P12 e1 ".as_slice(), &bytes].concat();
        let (_, position) = decode(&positioned).unwrap();
        assert_eq!(position, Some(Position { epoch: "e1".into(), offset: 12 }));
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let mut bytes = publication("r").encode();
        bytes.extend_from_slice(b"more");
        assert!(decode(&bytes).is_ok());
    }

    #[test]
    fn an_order_of_before_has_no_depth() {
        let order = |depth| {
            let order = Order { who: "user:a".into(), what: What::Join("r".into()), depth };
            Frame { origin: BootId(7), body: Body::Order(order) }.encode()
        };
        let read = |bytes: &[u8]| match decode(bytes).unwrap().0.body {
            Body::Order(order) => (order.who.into_owned(), order.depth),
            other => panic!("{other:?}"),
        };
        let bytes = order(2);
        assert_eq!(read(&bytes), ("user:a".to_owned(), 2));
        assert_eq!(read(&bytes[..bytes.len() - 1]), ("user:a".to_owned(), 0));
    }

    #[test]
    fn what_was_said_before_waits_for_no_answer() {
        let said = Said { session: "s".into(), is_binary: false, bytes: b"{}".as_slice().into(), id: 5 };
        let bytes = Frame { origin: BootId(7), body: Body::Said(said) }.encode();
        let read = |bytes: &[u8]| match decode(bytes).unwrap().0.body {
            Body::Said(said) => (said.bytes.into_owned(), said.id),
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&bytes), (b"{}".to_vec(), 5));
        assert_eq!(read(&bytes[..bytes.len() - 1]), (b"{}".to_vec(), 0));
    }

    #[test]
    fn garbage_is_told_from_other_versions() {
        let unread = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert_eq!(unread(b""), Unread::Garbled);
        assert_eq!(unread(b"\x02abc"), Unread::Version);
        assert_eq!(unread(b"\x01"), Unread::Garbled);
        assert_eq!(unread(b"P1"), Unread::Garbled);
        assert_eq!(unread(b"P1 e "), Unread::Garbled);
        assert_eq!(unread(b"Px e \x01"), Unread::Garbled);
        let whole = publication("room").encode();
        for n in 0..whole.len() {
            let _no_panic = decode(&whole[..n]);
        }
    }

    fn body() -> impl Strategy<Value = Body<'static>> {
        let text = || ".{0,12}".prop_map(Cow::<str>::Owned);
        let data = prop_oneof![
            text().prop_map(Data::Text),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Data::Binary(bytes.into()))
        ];
        let member = (text(), text(), text(), text()).prop_map(|(connection, user, info, room_info)| Member {
            connection,
            user,
            info,
            room_info,
        });
        let members = || prop::collection::vec(member.clone(), 0..3);
        let tags = || prop::collection::vec((text(), text()), 0..3);
        let publication = (text(), any::<u64>(), any::<u32>(), prop::option::of(member.clone()), data.clone(), tags())
            .prop_map(|(room, n, stream, sender, payload, tags)| {
                Body::Publication(Publication { room, n, stream, sender, payload, tags })
            });
        let names = || prop::collection::vec(text(), 0..3);
        let delivery = (any::<(u64, u64)>(), names(), names(), prop::option::of(member.clone()), data, tags())
            .prop_map(|(id, to, except, sender, payload, tags)| {
                Body::Delivery(Routed { id, to, except, sender, payload, tags })
            });
        let presence = (text(), members(), members())
            .prop_map(|(room, joined, left)| Body::Presence(Changes { room, joined, left }));
        prop_oneof![publication, delivery, presence, any::<u64>().prop_map(Body::Probe)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn whatever_is_written_is_read(
            origin in any::<u64>(),
            body in body(),
            position in prop::option::of(("[0-9a-f]{1,10}", any::<u64>())),
        ) {
            let written = Frame { origin: BootId(origin), body };
            let position = position.map(|(epoch, offset)| Position { epoch: epoch.into(), offset });
            let prefix = position.as_ref().map_or_else(String::new, |at| format!("P{} {} ", at.offset, at.epoch));
            let bytes = [prefix.as_bytes(), &written.encode()].concat();
            let (read, found) = decode(&bytes).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{written:?}"));
            prop_assert_eq!(found, position);
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            body in body(),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let _garbage = decode(&bytes);
            let _versioned = decode(&[&[VERSION], bytes.as_slice()].concat());
            let _placed = decode(&[b"P1 e \x01", bytes.as_slice()].concat());
            let mut frame = Frame { origin: BootId(1), body }.encode();
            let at = at.index(frame.len());
            frame[at] = with;
            let _changed = decode(&frame);
            let _cut_off = decode(&frame[..at]);
        }
    }
}
