//! As much of WebSocket as a load client needs.

use bytes::Bytes;

/// The upgrade; the key is the one of RFC 6455's example.
pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The answer to an upgrade request, for the servers without an HTTP library.
pub(crate) fn upgrade_response(request: &[u8]) -> String {
    let request = String::from_utf8_lossy(request);
    let key = request.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
    let accept = tungstenite::handshake::derive_accept_key(key.unwrap_or_default().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    )
}

/// Bytes of the head, with the empty line, once it is there.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

pub(crate) fn ends_head(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\r\n\r\n")
}

/// The payload of the stand-ins: text of that length.
pub(crate) fn payload(length: usize) -> String {
    "0123456789abcdef".chars().cycle().take(length).collect()
}

/// A text frame as a server sends it.
pub(crate) fn server_frame(payload: &[u8]) -> Bytes {
    [&head(payload.len(), 0)[..], payload].concat().into()
}

/// A text frame as a client sends it, under the mask of all zeroes.
pub(crate) fn client_frame(payload: &[u8]) -> Vec<u8> {
    [&head(payload.len(), 0x80)[..], &[0; 4], payload].concat()
}

/// The answer to a ping.
pub(crate) fn client_pong(payload: &[u8]) -> Vec<u8> {
    let mut pong = client_frame(payload);
    pong[0] = 0x8a;
    pong
}

fn head(length: usize, masked: u8) -> Vec<u8> {
    match length {
        0..126 => vec![0x81, masked | length as u8],
        126..0x1_0000 => [&[0x81, masked | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[0x81, masked | 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}

/// The first frame of `bytes`, when all of it is there: opcode, payload, rest.
pub(crate) fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (start, length) = match *bytes.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(start..start + length)?;
    Some((bytes[0] & 0x0f, payload, &bytes[start + length..]))
}

/// Bytes of the payload in a server's frame of that length.
pub(crate) fn payload_of(frame: usize) -> usize {
    frame - if frame < 128 { 2 } else { 4 }
}
