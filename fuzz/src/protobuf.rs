//! Messages of a hostile client that speaks Protobuf.

use wayleave::protocol::{Encoding, Incoming, Said};

use super::codec::requests;

/// A message as it comes in a frame, as a body, and in one that is passed on.
pub fn protobuf(bytes: &[u8]) {
    for encoding in [Encoding::CentrifugeProtobuf, Encoding::CentrifugeProtobufStream] {
        requests(encoding, &Incoming::Binary(bytes.to_vec().into()));
    }
    if let Ok(Said { message, .. }) = Said::from_protobuf(bytes.to_vec().into()) {
        requests(Encoding::CentrifugeProtobuf, &message);
    }
}

/// One of each command, each behind its length.
#[must_use]
pub fn good_messages() -> Vec<Vec<u8>> {
    let room = text(1, "r");
    let filter =
        [text(1, "and"), bytes(6, &[text(2, "k"), text(3, "in"), text(5, "a"), text(5, "b")].concat())].concat();
    let seen = [number(1, 300), text(2, "e")].concat();
    let join =
        [room.clone(), number(3, 1), text(6, "e"), number(7, 5), number(11, 1), text(12, "fossil"), bytes(13, &filter)]
            .concat();
    let sub = [text(1, "r"), bytes(2, &join)].concat();
    let all = [
        (4, [text(1, "a.b.c"), text(2, "{}"), bytes(3, &sub), text(4, "js")].concat()),
        (5, join),
        (6, room.clone()),
        (7, [room.clone(), text(2, "{\"n\":1}")].concat()),
        (8, room.clone()),
        (9, room.clone()),
        (10, [room.clone(), number(7, u64::MAX), bytes(8, &seen), number(9, 1)].concat()),
        (11, Vec::new()),
        (12, text(1, "\u{0}\u{1}")),
        (13, [text(1, "[]"), text(2, "method")].concat()),
        (14, text(1, "token")),
        (15, [room, text(2, "token")].concat()),
    ];
    let command = |(field, body): &(u32, Vec<u8>)| {
        let command = [number(1, u64::from(*field)), bytes(*field, body)].concat();
        [varint(command.len() as u64), command].concat()
    };
    let mut messages: Vec<_> = all.iter().map(command).collect();
    messages.push(messages.concat());
    messages.push([text(1, "node"), text(2, "session"), bytes(3, &messages[3])].concat());
    messages
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn number(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field << 3)), varint(value)].concat()
}

fn bytes(field: u32, value: &[u8]) -> Vec<u8> {
    [&varint(u64::from(field << 3 | 2)), &varint(value.len() as u64), value].concat()
}

fn text(field: u32, value: &str) -> Vec<u8> {
    bytes(field, value.as_bytes())
}
