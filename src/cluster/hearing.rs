//! Messages of channels, taken off a connection before the library for Redis
//! sees them.
//!
//! The library makes values of all that comes, on the way through several of
//! its layers, which is dear for a message that is only looked at and passed
//! on. So it is lent a socket that reads ahead: messages go to whoever hears
//! them, from where they lie in the buffer, and everything else, answers and
//! confirmations, passes as it came. The order stays: what is behind a part
//! that passes is looked at once the library has asked for more.
//!
//! The format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wiring::OnMessage;

/// How a message begins. Its channel and its body follow, a text each.
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n";

/// What values of the protocol begin with.
const KINDS: &[u8] = b"+-:_,#($!=*~>%|";

/// Bytes of the buffer, at first and when nothing waits.
const BUFFER: usize = 16 << 10;

/// Bytes that are read at once, at least.
const ROOM: usize = 4 << 10;

/// What the library gets.
pub(super) struct Lent<S> {
    stream: S,
    on_message: OnMessage,
    /// What has come and has not been passed on lies between the two.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes at the start that are the library's.
    passing: usize,
}

impl<S: fmt::Debug> fmt::Debug for Lent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// A stream whose messages go to `on_message`.
pub(super) fn lend<S>(stream: S, on_message: OnMessage) -> Lent<S> {
    Lent { stream, on_message, buffer: vec![0; BUFFER], start: 0, end: 0, passing: 0 }
}

impl<S> Lent<S> {
    /// Hears the messages in front, and finds out how much of what is behind
    /// them is the library's: nothing as long as it is not whole.
    fn hear(&mut self) {
        while self.passing == 0 {
            let waiting = &self.buffer[self.start..self.end];
            match next(waiting) {
                Some(Next::Message { topic, body, length }) => {
                    (self.on_message)(topic, body);
                    self.start += length;
                }
                Some(Next::Other { length }) => self.passing = length,
                None => return,
            }
        }
    }

    /// Makes room behind what waits.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // A large message is rare.
            if self.buffer.len() > 4 * BUFFER {
                self.buffer = vec![0; BUFFER];
            }
        }
        if self.buffer.len() - self.end >= ROOM {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() - self.end < ROOM {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.hear();
            if this.passing > 0 {
                let count = this.passing.min(out.remaining());
                out.put_slice(&this.buffer[this.start..this.start + count]);
                this.start += count;
                this.passing -= count;
                return Poll::Ready(Ok(()));
            }
            this.make_room();
            let mut room = ReadBuf::new(&mut this.buffer[this.end..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room))?;
            let count = room.filled().len();
            if count == 0 {
                return Poll::Ready(Ok(()));
            }
            this.end += count;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What comes next, and how many bytes it is.
#[derive(Debug, PartialEq, Eq)]
enum Next<'a> {
    Message {
        topic: &'a [u8],
        body: &'a [u8],
        length: usize,
    },
    /// Anything else; what cannot be read is the library's to complain of.
    Other {
        length: usize,
    },
}

/// Why something could not be read.
#[derive(Debug)]
enum Unread {
    /// It is not whole yet.
    Partial,
    /// It is something else.
    Other,
}

/// What was read, and what is behind it.
type Read<'a, T> = Result<(T, &'a [u8]), Unread>;

/// None: it is not whole yet, or there is nothing.
fn next(bytes: &[u8]) -> Option<Next<'_>> {
    match message(bytes) {
        Ok(message) => Some(message),
        Err(Unread::Partial) => None,
        Err(Unread::Other) => match length(bytes) {
            Ok(length) => Some(Next::Other { length }),
            Err(Unread::Partial) => None,
            Err(Unread::Other) => Some(Next::Other { length: bytes.len() }),
        },
    }
}

fn message(bytes: &[u8]) -> Result<Next<'_>, Unread> {
    let Some(rest) = bytes.strip_prefix(MESSAGE) else {
        return Err(if MESSAGE.starts_with(bytes) { Unread::Partial } else { Unread::Other });
    };
    let (topic, rest) = text(rest)?;
    let (body, rest) = text(rest)?;
    Ok(Next::Message { topic, body, length: bytes.len() - rest.len() })
}

/// A text, behind its length.
fn text(bytes: &[u8]) -> Read<'_, &[u8]> {
    let ((kind, digits), rest) = line(bytes)?;
    let length = number(digits)?.filter(|_| kind == b'$').ok_or(Unread::Other)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(Unread::Partial)?;
    Ok((text, rest.get(2..).ok_or(Unread::Partial)?))
}

/// The bytes of the value in front, with all that is in it.
fn length(bytes: &[u8]) -> Result<usize, Unread> {
    // What is not Redis may never end a line.
    if bytes.first().is_some_and(|kind| !KINDS.contains(kind)) {
        return Err(Unread::Other);
    }
    let (mut rest, mut values) = (bytes, 1_usize);
    while values > 0 {
        let ((kind, digits), behind) = line(rest)?;
        rest = behind;
        values -= 1;
        let inside = |each: usize| Ok(number(digits)?.unwrap_or(0).saturating_mul(each));
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'!' | b'=' => {
                // A null of the older protocol has no text.
                let Some(length) = number(digits)? else { continue };
                rest = length.checked_add(2).and_then(|length| rest.get(length..)).ok_or(Unread::Partial)?;
            }
            b'*' | b'~' | b'>' => values = values.saturating_add(inside(1)?),
            b'%' => values = values.saturating_add(inside(2)?),
            // Attributes stand before what they are of.
            b'|' => values = values.saturating_add(inside(2)?).saturating_add(1),
            _ => return Err(Unread::Other),
        }
    }
    Ok(bytes.len() - rest.len())
}

/// The kind of the value that begins here, and the rest of its line.
fn line(bytes: &[u8]) -> Read<'_, (u8, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\r').ok_or(Unread::Partial)?;
    let feed = bytes.get(end + 1).ok_or(Unread::Partial)?;
    match bytes[..end].split_first() {
        Some((kind, line)) if *feed == b'\n' => Ok(((*kind, line), &bytes[end + 2..])),
        _ => Err(Unread::Other),
    }
}

/// None: the null of the older protocol, -1.
fn number(digits: &[u8]) -> Result<Option<usize>, Unread> {
    if digits == b"-1" {
        return Ok(None);
    }
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).map(Some).ok_or(Unread::Other)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What has come out, in its order.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Out {
        Heard(Vec<u8>, Vec<u8>),
        Passed(Vec<u8>),
    }

    fn text_of(bytes: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
    }

    /// As it stands on the wire.
    fn wire(out: &Out) -> Vec<u8> {
        match out {
            Out::Heard(topic, body) => [MESSAGE, &text_of(topic), &text_of(body)].concat(),
            Out::Passed(bytes) => bytes.clone(),
        }
    }

    /// Passed parts that follow one another are one.
    fn joined(outs: impl IntoIterator<Item = Out>) -> Vec<Out> {
        outs.into_iter().fold(Vec::new(), |mut all, out| {
            match (all.last_mut(), out) {
                (Some(Out::Passed(before)), Out::Passed(bytes)) => before.extend(bytes),
                (_, out) => all.push(out),
            }
            all
        })
    }

    /// Sends in pieces of so many bytes, and reads at most so many at once.
    async fn pass(bytes: &[u8], pieces: &[usize], at_once: usize) -> Vec<Out> {
        let outs = Arc::new(Mutex::new(Vec::new()));
        let on_message: OnMessage = {
            let outs = Arc::clone(&outs);
            Arc::new(move |topic, body| outs.lock().push(Out::Heard(topic.to_vec(), body.to_vec())))
        };
        let (mut far, near) = tokio::io::duplex(1 << 16);
        let mut lent = lend(near, on_message);
        let sending = async {
            let mut rest = bytes;
            for piece in pieces.iter().cycle() {
                let (piece, behind) = rest.split_at((*piece).min(rest.len()));
                far.write_all(piece).await.unwrap();
                rest = behind;
                if rest.is_empty() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(far);
        };
        let reading = async {
            let mut buffer = vec![0; at_once];
            loop {
                let count = lent.read(&mut buffer).await.unwrap();
                if count == 0 {
                    return;
                }
                outs.lock().push(Out::Passed(buffer[..count].to_vec()));
            }
        };
        tokio::join!(sending, reading);
        let outs = std::mem::take(&mut *outs.lock());
        joined(outs)
    }

    fn passed(text: &str) -> Out {
        Out::Passed(text.as_bytes().to_vec())
    }

    fn any_out() -> impl Strategy<Value = Out> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        let others = prop::sample::select(vec![
            "+OK\r\n",
            "-ERR no\r\n",
            ":12\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(123\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "=7\r\ntxt:abc\r\n",
            "!3\r\nERR\r\n",
            "$16\r\n>3\r\n$7\r\nmessage\r\r\n",
            ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
            ">4\r\n$8\r\npmessage\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
            "%2\r\n+a\r\n*2\r\n:1\r\n~1\r\n$1\r\nx\r\n$1\r\nb\r\n%0\r\n",
            "|1\r\n+ttl\r\n:3\r\n*1\r\n:7\r\n",
        ]);
        prop_oneof![
            (bytes(40), bytes(300)).prop_map(|(topic, body)| Out::Heard(topic, body)),
            (bytes(4), bytes(1 << 16)).prop_map(|(topic, body)| Out::Heard(topic, body)),
            others.prop_map(passed),
            bytes(300).prop_map(|bytes| Out::Passed(text_of(&bytes))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn messages_are_heard_and_all_else_passes_in_order(
            outs in prop::collection::vec(any_out(), 0..30),
            pieces in prop::collection::vec(1_usize..3000, 1..20),
            at_once in 1_usize..9000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bytes: Vec<u8> = outs.iter().flat_map(wire).collect();
            prop_assert_eq!(runtime.block_on(pass(&bytes, &pieces, at_once)), joined(outs));
        }
    }

    #[tokio::test]
    async fn a_byte_at_a_time_is_enough() {
        let outs = [
            passed(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
            Out::Heard(b"a".to_vec(), b"\r\n$-1\r\n".to_vec()),
            passed("%1\r\n$1\r\na\r\n$0\r\n\r\n"),
        ];
        let bytes: Vec<u8> = outs.iter().flat_map(wire).collect();
        assert_eq!(pass(&bytes, &[1], 1).await, outs);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_the_librarys_to_complain_of() {
        for bytes in [
            "nonsense\r\n",
            "without an end",
            ">3\r\n$7\r\nmessage\r\n:5\r\n+x\r\n",
            ">3\r\n$7\r\nmessage\r\n$-1\r\n$0\r\n\r\n",
            "*x\r\n",
            "$5\rhello",
        ] {
            assert_eq!(pass(bytes.as_bytes(), &[100], 100).await, [passed(bytes)], "{bytes:?}");
        }
    }
}
