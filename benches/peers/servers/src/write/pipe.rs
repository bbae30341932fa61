//! A socket that is never waited for.

use std::io::{ErrorKind, Read as _, Result, Write as _};
use std::net::Shutdown;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Bytes that may wait for one socket. Who is that far behind has stopped reading.
const LEFT: usize = 64 << 20;

pub(super) struct Pipe {
    stream: TcpStream,
    /// What the socket did not take, in case.
    left: Vec<u8>,
}

impl Pipe {
    /// Registers for both at once: to learn that a socket takes more costs nothing as
    /// long as none is full.
    pub(super) fn open(registry: &Registry, mut stream: TcpStream, token: Token) -> Result<Pipe> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Pipe { stream, left: Vec::new() })
    }

    /// Does what the event is about: writes what is left, and reads once, to the end of
    /// `begun`. True when there may be more; an error when the other side has gone.
    pub(super) fn handle(&mut self, event: &Event, buffer: &mut [u8], begun: &mut Vec<u8>) -> Result<bool> {
        if event.is_writable() {
            self.flush();
        }
        if !event.is_readable() && !event.is_error() {
            return Ok(false);
        }
        match self.stream.read(buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                begun.extend_from_slice(&buffer[..length]);
                // Less than asked for was all, and an event tells of more. None tells of an
                // end that came with it.
                Ok(length == buffer.len() || event.is_read_closed())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes it now, and keeps what does not go.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        // What is left goes first.
        let taken = if self.left.is_empty() { take(&mut self.stream, bytes) } else { 0 };
        let rest = &bytes[taken..];
        if self.left.len() + rest.len() > LEFT {
            // It is read as ended then. If it has ended already, so much the better.
            let _ = self.stream.shutdown(Shutdown::Both);
        } else {
            self.left.extend_from_slice(rest);
        }
    }

    fn flush(&mut self) {
        while !self.left.is_empty() {
            let taken = take(&mut self.stream, &self.left);
            if taken == 0 {
                return;
            }
            self.left.drain(..taken);
        }
    }
}

/// Bytes that the socket takes. A broken one takes all: it shows when it is read.
fn take(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    match stream.write(bytes) {
        Ok(taken) => taken,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => bytes.len(),
    }
}
