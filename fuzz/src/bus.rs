//! Whatever comes over Redis: it is decoded, and what can be read is passed on
//! as if another instance had sent it.

use std::{borrow::Cow, sync::Arc};

use wayleave::{
    cluster::{
        Receiver,
        envelope::{
            Answers, Ask, Body, Change, Changes, Data, Deed, Frame, Heard, Member, Order, Publication, Question,
            Routed, Said, Terms, What, decode,
        },
    },
    id::BootId,
    router::Remote,
};

use super::here::HERE;

/// What can be read is written again as it was read.
pub fn bus(bytes: &[u8]) {
    let Ok((frame, position)) = decode(bytes) else { return };
    let again = frame.encode();
    let (read, _) = decode(&again).expect("what was written can be read");
    assert_eq!(format!("{read:?}"), format!("{frame:?}"));
    let _runtime = HERE.runtime.enter();
    Remote(Arc::downgrade(HERE.gateway.router())).on_frame(frame.origin, frame.body, position);
}

/// One of each, and some with a position before them.
#[must_use]
pub fn good_frames() -> Vec<Vec<u8>> {
    let member = || Member { connection: "c".into(), user: "ada".into(), info: "{}".into(), room_info: "".into() };
    let tags = || vec![(Cow::from("k"), Cow::from("v"))];
    let text = || Data::Text("{\"n\":1}".into());
    let who = || vec![Cow::from("everyone"), "room:kept:1".into(), "user:ada".into(), "pattern:live:*".into()];
    let message = |room: &'static str| Publication {
        room: room.into(),
        n: 1,
        stream: 7,
        sender: Some(member()),
        payload: text(),
        tags: tags(),
    };
    let deed = |what| Deed {
        to: who(),
        except: who(),
        user: "ada".into(),
        what,
        info: "{}".into(),
        data: "1".into(),
        since: Some((5, "e".into())),
    };
    let ask = |question| Body::Ask(Ask { id: 5, question, within: 1 });
    let order = |what| Body::Order(Order { who: "everyone".into(), what, depth: 1 });
    let terms = Terms { until: Some(4_000_000_000_000), presence: Some(true) };
    let bodies = vec![
        Body::Publication(message("live:1")),
        Body::Delivery(Routed {
            id: (1, 2),
            to: who(),
            except: Vec::new(),
            sender: Some(member()),
            payload: Data::Binary(b"\x00\xff".as_slice().into()),
            tags: tags(),
        }),
        Body::Presence(Changes { room: "kept:1".into(), joined: vec![member()], left: vec![member()] }),
        order(What::Join("live:1".into())),
        order(What::Leave("live:1".into())),
        order(What::Close(4000, "r".into())),
        order(What::SetInfo("{}".into())),
        order(What::Expire(1)),
        ask(Question::Clients { to: who(), except: who(), data: "{}".into() }),
        ask(Question::Do(deed(What::Join("kept:1".into())))),
        ask(Question::Place(deed(What::Join("kept:1".into())), terms)),
        ask(Question::Rooms("kept:*".into())),
        ask(Question::Connections { user: "ada".into(), behind: "".into(), limit: 5 }),
        ask(Question::Call("m".into(), "{}".into())),
        ask(Question::Rollback),
        Body::Answers(Answers {
            id: 5,
            answers: vec![("c".into(), "{}".into())],
            awaited: vec!["d".into()],
            is_last: true,
            is_cut: false,
        }),
        Body::Record(Change {
            room: "kept:1".into(),
            name: "a".into(),
            version: 3,
            patch: "{\"b\":null}".into(),
            is_whole: false,
        }),
        Body::Probe(7),
        Body::Said(Said { session: "s".into(), is_binary: false, bytes: b"{}".as_slice().into(), id: 3 }),
        Body::Heard(Heard { id: 3, is_too_much: true }),
    ];
    let mut frames: Vec<_> = bodies.into_iter().map(|body| Frame { origin: BootId(7), body }.encode()).collect();
    let kept = Frame { origin: BootId(7), body: Body::Publication(message("kept:1")) }.encode();
    frames.push([b"P1 e1 ".as_slice(), &kept].concat());
    frames.push([b"P18446744073709551615 e1 ".as_slice(), &kept].concat());
    frames
}
