//! WebSocket frames as the server sends them (RFC 6455, section 5.2): one
//! unmasked frame, header and payload in one shared piece of memory.

use bytes::{BufMut, Bytes, BytesMut};

use super::Close;

const FINAL_TEXT: u8 = 0x81;
const FINAL_BINARY: u8 = 0x82;
const FINAL_CLOSE: u8 = 0x88;

/// The longest header of an unmasked frame.
const HEADER_MAX: usize = 10;

/// Builds a text frame; `write` appends the text to the buffer.
pub fn text(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    build(FINAL_TEXT, write)
}

/// Builds a binary frame; `write` appends the bytes to the buffer.
pub fn binary(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    build(FINAL_BINARY, write)
}

fn build(first: u8, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    // The length stands before the payload, so that is written behind room
    // for the longest header and the header then put right before it.
    let mut buffer = Vec::with_capacity(HEADER_MAX + 246);
    buffer.resize(HEADER_MAX, 0);
    write(&mut buffer);
    // It may wait in an outbox, which counts its bytes.
    buffer.shrink_to_fit();
    let length = buffer.len() - HEADER_MAX;
    let mut header = BytesMut::with_capacity(HEADER_MAX);
    put_header(&mut header, first, length);
    let start = HEADER_MAX - header.len();
    buffer[start..HEADER_MAX].copy_from_slice(&header);
    Bytes::from(buffer).slice(start..)
}

/// The close frame for an ending.
#[must_use]
pub fn close(close: &Close) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + close.reason.len());
    put_header(&mut frame, FINAL_CLOSE, 2 + close.reason.len());
    frame.put_u16(close.code);
    frame.put_slice(close.reason.as_bytes());
    frame.freeze()
}

fn put_header(buffer: &mut BytesMut, first: u8, length: usize) {
    buffer.put_u8(first);
    match length {
        0..=125 => buffer.put_u8(length as u8),
        126..=0xffff => {
            buffer.put_u8(126);
            buffer.put_u16(length as u16);
        }
        _ => {
            buffer.put_u8(127);
            buffer.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_has_its_header() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = text(|buffer| buffer.resize(buffer.len() + length, b'x'));
            assert_eq!(frame.len(), header + length);
            assert_eq!(frame[0], 0x81);
            let said = match frame[1] {
                126 => u64::from(u16::from_be_bytes([frame[2], frame[3]])),
                127 => u64::from_be_bytes(frame[2..10].try_into().unwrap()),
                short => u64::from(short),
            };
            assert_eq!(said, length as u64);
        }
    }
}
