//! As much of WebSocket as the servers need that have no library for it, and what
//! the clients say.

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Of a frame, that a broken length is not waited for.
const LONGEST: usize = 16 << 20;

pub(crate) struct Upgrade {
    /// That the connection is to be a member of, if any.
    pub(crate) room: Option<String>,
    pub(crate) answer: String,
}

/// What is asked for, when all of the request is there. A client says no more before
/// its answer.
pub(crate) fn upgrade(request: &[u8]) -> Result<Option<Upgrade>> {
    if !request.ends_with(b"\r\n\r\n") {
        ensure!(request.len() < 16384, "a head without an end");
        return Ok(None);
    }
    let request = str::from_utf8(request)?;
    let path = request.split(' ').nth(1).and_then(|path| path.strip_prefix('/')).context("a request without a path")?;
    let key = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value.trim())
    });
    let key = key.context("a request for something else than WebSocket")?;
    let hash = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    Ok(Some(Upgrade {
        room: (!path.is_empty()).then(|| path.to_owned()),
        answer: format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            BASE64.encode(&hash)
        ),
    }))
}

/// A client's frame, unmasked.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Of all of it, in bytes.
    pub(crate) length: usize,
}

/// The first frame of `bytes`, when all of it is there. It is unmasked where it is.
pub(crate) fn frame(bytes: &mut [u8]) -> Result<Option<Frame<'_>>> {
    let Some((start, length)) = head(bytes) else { return Ok(None) };
    ensure!(bytes[1] & 0x80 != 0, "a client's frame without a mask");
    ensure!(length <= LONGEST, "a frame of {length} bytes");
    let opcode = bytes[0] & 0x0f;
    let end = start + 4 + length;
    let Some(rest) = bytes.get_mut(start..end) else { return Ok(None) };
    let (mask, payload) = rest.split_at_mut(4);
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at & 3];
    }
    Ok(Some(Frame { opcode, payload, length: end }))
}

/// Where the mask begins, and the payload's length.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    Some(match *bytes.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    })
}

pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    put(&mut frame, opcode, payload);
    frame
}

/// Puts a frame as a server sends it behind what is there.
pub(crate) fn put(frames: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let first = 0x80 | opcode;
    match payload.len() {
        length @ 0..126 => frames.extend([first, length as u8]),
        length @ 126..0x1_0000 => {
            frames.extend([first, 126]);
            frames.extend((length as u16).to_be_bytes());
        }
        length => {
            frames.extend([first, 127]);
            frames.extend((length as u64).to_be_bytes());
        }
    }
    frames.extend_from_slice(payload);
}

/// Whether a server's frame is a close.
pub(crate) fn is_close(frame: &[u8]) -> bool {
    frame.first() == Some(&(0x80 | CLOSE))
}

/// The room that a client's message is for, and the data.
pub(crate) fn message(text: &[u8]) -> Result<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b' ').context("a message without a room")?;
    Ok((&text[..at], &text[at + 1..]))
}
