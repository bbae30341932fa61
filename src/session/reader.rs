//! From bytes to messages: the reading half of a WebSocket.
//!
//! tungstenite decodes and keeps the rules of RFC 6455. It is handed the bytes
//! of each read and gives back whole messages; what it wants sent (pongs, the
//! answer to a close) is collected for the outbox. No buffer is held between
//! reads but for a message that has not come whole.

use std::io::{self, Read, Write};

use tungstenite::{
    Error, Message,
    error::{CapacityError, ProtocolError},
    protocol::{Role, WebSocketConfig, WebSocketContext, frame::coding::CloseCode},
};

use crate::protocol::{Close, Incoming};

/// tungstenite's own buffer. It only ever copies from memory into it, so a
/// small one costs no system calls, and ten thousand idle ones little memory.
const BUFFER: usize = 512;

/// What is a message; all else ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Text frames.
    Texts,
    /// Binary frames.
    Bytes,
    /// Either.
    Both,
}

/// Decodes what one client sends.
#[derive(Debug)]
pub struct Reader {
    context: WebSocketContext,
    takes: Takes,
    /// An error has ended it: the library would go on in the middle of what it
    /// has refused.
    is_broken: bool,
    /// The client's close frame says that it leaves for another page.
    is_going_away: bool,
}

/// What came out of some bytes.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Whole messages.
    pub messages: Vec<Incoming>,
    /// Bytes to be sent as they are.
    pub control: Vec<u8>,
    /// Pings and pongs among them.
    pub n_control: u32,
}

/// A stream over one piece of memory, for a decoder that wants streams.
struct Pipe<'a> {
    input: &'a [u8],
    output: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reader {
    /// `message_size`: bytes of the largest message.
    #[must_use]
    pub fn new(message_size: usize, takes: Takes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(1 << 20)
            .max_message_size(Some(message_size))
            .max_frame_size(Some(message_size));
        Self {
            context: WebSocketContext::new(Role::Server, Some(config)),
            takes,
            is_broken: false,
            is_going_away: false,
        }
    }

    /// Takes in bytes. On an error what came before it is in `out` still.
    ///
    /// # Errors
    /// How the connection must be closed; whatever comes behind that makes no
    /// sense either.
    pub fn feed(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Close> {
        if self.is_broken {
            return Err(Close::PROTOCOL_ERROR);
        }
        let fed = self.decode(input, out);
        self.is_broken = fed.is_err();
        fed
    }

    fn decode(&mut self, input: &[u8], out: &mut Decoded) -> Result<(), Close> {
        let mut pipe = Pipe { input, output: &mut out.control };
        loop {
            match self.context.read(&mut pipe) {
                Ok(Message::Text(text)) if self.takes != Takes::Bytes => out.messages.push(Incoming::Text(text)),
                Ok(Message::Binary(bytes)) if self.takes != Takes::Texts => out.messages.push(Incoming::Binary(bytes)),
                Ok(Message::Ping(_) | Message::Pong(_)) => out.n_control += 1,
                Ok(Message::Text(_) | Message::Binary(_)) => return Err(Close::INAPPROPRIATE_PROTOCOL),
                // Goes on to write the answer, then ends with ConnectionClosed.
                Ok(Message::Close(frame)) => {
                    self.is_going_away = frame.is_some_and(|frame| frame.code == CloseCode::Away);
                }
                Ok(Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(Error::ConnectionClosed) if self.is_going_away => return Err(Close::LOST),
                Err(error) => return Err(close_for(&error)),
            }
        }
    }
}

fn close_for(error: &Error) -> Close {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) => Close::BY_CLIENT,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Close::MESSAGE_TOO_BIG,
        Error::Utf8(_) => Close::INVALID_DATA,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Close::BY_CLIENT,
        _ => Close::PROTOCOL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame: masked with zeros, so the payload stands as it is.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_message_may_come_byte_by_byte_and_many_at_once() {
        let mut reader = Reader::new(1000, Takes::Texts);
        let mut out = Decoded::default();
        for byte in frame(0x81, b"hello") {
            reader.feed(&[byte], &mut out).unwrap();
        }
        let mut many = frame(0x01, b"wor");
        many.extend(frame(0x89, b"ping"));
        many.extend(frame(0x80, b"ld"));
        many.extend(frame(0x81, b""));
        reader.feed(&many, &mut out).unwrap();
        assert_eq!(out.messages, ["hello", "world", ""].map(|text| Incoming::Text(text.into())));
        assert_eq!((out.n_control, out.control.as_slice()), (1, &b"\x8a\x04ping"[..]));
    }

    #[test]
    fn bytes_are_messages_where_they_are_asked_for() {
        let mut out = Decoded::default();
        let mut reader = Reader::new(100, Takes::Bytes);
        reader.feed(&frame(0x82, b"\xff\x00"), &mut out).unwrap();
        assert_eq!(out.messages, [Incoming::Binary(b"\xff\x00"[..].into())]);
        assert_eq!(reader.feed(&frame(0x81, b"x"), &mut out), Err(Close::INAPPROPRIATE_PROTOCOL));
    }

    #[track_caller]
    fn check_closed(bytes: &[u8], expected: &Close) {
        let mut out = Decoded::default();
        assert_eq!(Reader::new(100, Takes::Texts).feed(bytes, &mut out).as_ref(), Err(expected));
    }

    #[test]
    fn what_breaks_the_rules_ends_with_the_right_code() {
        check_closed(&frame(0x81, &[b'x'; 101]), &Close::MESSAGE_TOO_BIG);
        check_closed(&[0x81, 0xff, 0x7f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &Close::MESSAGE_TOO_BIG);
        check_closed(&frame(0x81, &[0xff, 0xfe]), &Close::INVALID_DATA);
        check_closed(&frame(0x82, b"x"), &Close::INAPPROPRIATE_PROTOCOL);
        check_closed(&frame(0xc1, b"x"), &Close::PROTOCOL_ERROR);
        check_closed(&frame(0x83, b"x"), &Close::PROTOCOL_ERROR);
        check_closed(&frame(0x80, b"x"), &Close::PROTOCOL_ERROR);
        check_closed(&[0x81, 0x01, b'x'], &Close::PROTOCOL_ERROR);
        check_closed(&frame(0x09, b"x"), &Close::PROTOCOL_ERROR);
        check_closed(&frame(0x88, &[0]), &Close::PROTOCOL_ERROR);
    }

    #[test]
    fn nothing_makes_sense_behind_what_made_none() {
        let mut reader = Reader::new(100, Takes::Texts);
        let mut out = Decoded::default();
        let long = [0x81, 0xff, 0x7f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(reader.feed(&long, &mut out), Err(Close::MESSAGE_TOO_BIG));
        // The library's buffer has no room for these, which it takes for an end.
        for _ in 0..100 {
            assert_eq!(reader.feed(&frame(0x81, &[b'x'; 60]), &mut out), Err(Close::PROTOCOL_ERROR));
        }
        assert!(out.messages.is_empty());
    }

    #[test]
    fn a_close_is_answered() {
        let mut out = Decoded::default();
        let closed = Reader::new(100, Takes::Texts).feed(&frame(0x88, &[0x03, 0xe8]), &mut out);
        assert_eq!(closed, Err(Close::BY_CLIENT));
        assert_eq!(out.control, [0x88, 2, 0x03, 0xe8]);
    }
}
