//! From a client's bytes to its command.

use std::hint::black_box;

use anyhow::{Result, ensure};
use wayleave::{
    protocol::{Command, Encoding},
    session::reader::{Decoded, Reader, Takes},
};

use super::DATA;
use crate::support::{plugins::ROOM, wire};

/// Bytes of the largest message, as in a config that does not say.
const MESSAGE_MAX: usize = 64 << 10;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

pub(super) fn json(count: u32) -> Result<()> {
    // The data is a JSON string: its quotes are part of it.
    let data = wire::payload(DATA - 2);
    let command = format!(r#"{{"id":3,"publish":{{"channel":"{ROOM}","data":"{data}"}}}}"#);
    decode(&masked(TEXT, command.as_bytes()), Takes::Texts, Encoding::CentrifugeJson, count)
}

pub(super) fn protobuf(count: u32) -> Result<()> {
    let publish = [field(1, ROOM.as_bytes()), field(2, wire::payload(DATA).as_bytes())].concat();
    // The number 3 as field 1, then the publish.
    let command = [vec![0x08, 3], field(7, &publish)].concat();
    let message = [varint(command.len()), command].concat();
    decode(&masked(BINARY, &message), Takes::Bytes, Encoding::CentrifugeProtobuf, count)
}

fn decode(frame: &[u8], takes: Takes, encoding: Encoding, count: u32) -> Result<()> {
    let mut reader = Reader::new(MESSAGE_MAX, takes);
    let mut understood = 0;
    for _ in 0..count {
        let mut decoded = Decoded::default();
        let fed = reader.feed(black_box(frame), &mut decoded);
        ensure!(fed.is_ok(), "a frame was not taken: {fed:?}");
        for message in &decoded.messages {
            for request in encoding.decode(message) {
                understood += u32::from(matches!(black_box(request?).command, Command::Publish { .. }));
            }
        }
    }
    ensure!(understood == count, "{understood} publishes of {count} frames");
    Ok(())
}

/// A frame as a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x8e];
    let mut frame = wire::client_frame(payload);
    let start = frame.len() - payload.len();
    frame[0] = first;
    frame[start - MASK.len()..start].copy_from_slice(&MASK);
    frame[start..].iter_mut().zip(MASK.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    frame
}

/// A field of bytes in Protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![number << 3 | 2], varint(bytes.len()), bytes.to_vec()].concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
