//! What RFC 6455 forbids and allows, byte by byte, without any library on our
//! side. Rows G12, T5, T6 and T7; the handshake's own ends are below.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{PATIENCE, TestGateway, instance::Instance};

const CONFIG: &str = "[limits]\nmessage_size = \"1KiB\"\ncommands_per_second = 100000\ncommands_burst = 100000\n\
                      [[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";

const HANDSHAKE: &str = "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const HELLO: &[u8] = br#"{"id":1,"connect":{}}"#;
const ASK: &[u8] = br#"{"id":2,"ping":{}}"#;
const ANSWER: &str = r#"{"id":2"#;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const TEXT: u8 = 0x81;
const FIRST: u8 = 0x01;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// What measures memory or times and what makes the machine busy do so one
/// after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How an exchange ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// By a close frame with this code.
    Code(u16),
    /// By a close frame without one.
    Empty,
    /// It does not: the question in it is answered.
    Answered,
    /// A ping is answered with its own bytes, and so is the question.
    Ponged,
}

use End::{Answered, Code, Empty, Ponged};

fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// A client's frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match payload.len() {
        n @ ..126 => vec![first, 0x80 | u8::try_from(n).unwrap()],
        n @ ..0x1_0000 => [&[first, 0xfe][..], &u16::try_from(n).unwrap().to_be_bytes()].concat(),
        n => [&[first, 0xff][..], &(n as u64).to_be_bytes()].concat(),
    };
    bytes.extend(MASK);
    bytes.extend(masked(payload));
    bytes
}

/// A head that announces `length` in eight bytes, and then this.
fn long(first: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    [&[first, 0xff][..], &length.to_be_bytes(), &MASK, &masked(payload)].concat()
}

/// The same in two.
fn medium(first: u8, length: u16, payload: &[u8]) -> Vec<u8> {
    [&[first, 0xfe][..], &length.to_be_bytes(), &MASK, &masked(payload)].concat()
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(payload.len()).unwrap()][..], payload].concat()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// A question in fragments of this many bytes, with `between` after each.
fn fragments(text: &[u8], size: usize, between: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, piece) in text.chunks(size).enumerate() {
        bytes.extend(frame(if n == 0 { FIRST } else { MORE }, piece));
        bytes.extend(between);
    }
    bytes.extend(frame(LAST, b""));
    bytes
}

/// THE table: what is sent once the hello has been answered, and what comes of
/// it. What ends by a code of the WebSocket protocol ends so before the hello
/// as well.
fn cases() -> Vec<(&'static str, Vec<u8>, End)> {
    let ask = || frame(TEXT, ASK);
    let then_ask = |bytes: Vec<u8>| [bytes, ask()].concat();
    let mut cases = vec![
        // Masks, section 5.1.
        ("a text that is not masked", unmasked(TEXT, ASK), Code(1002)),
        ("an empty text that is not masked", unmasked(TEXT, b""), Code(1002)),
        ("a ping that is not masked", unmasked(PING, b"x"), Code(1002)),
        ("a close that is not masked", unmasked(CLOSE, &[3, 232]), Code(1002)),
        ("a mask of zeros", [&[TEXT, 0x80 | 18, 0, 0, 0, 0], ASK].concat(), Answered),
        // Reserved bits, section 5.2.
        ("the first reserved bit", frame(TEXT | 0x40, ASK), Code(1002)),
        ("the second reserved bit", frame(TEXT | 0x20, ASK), Code(1002)),
        ("the third reserved bit", frame(TEXT | 0x10, ASK), Code(1002)),
        ("all reserved bits", frame(TEXT | 0x70, ASK), Code(1002)),
        ("a reserved bit on a ping", frame(PING | 0x40, b""), Code(1002)),
        ("a reserved bit on a close", frame(CLOSE | 0x20, &[3, 232]), Code(1002)),
        ("a reserved bit on a continuation", [frame(FIRST, b"{"), frame(LAST | 0x40, b"}")].concat(), Code(1002)),
        // Control frames, section 5.5.
        ("a ping of 125 bytes", then_ask(frame(PING, &[b'x'; 125])), Ponged),
        ("an empty ping", then_ask(frame(PING, b"")), Ponged),
        ("a ping that is not text", then_ask(frame(PING, &[0xff, 0, 0xfe])), Ponged),
        ("a ping of 126 bytes", frame(PING, &[b'x'; 126]), Code(1002)),
        ("a ping that says it is short, in two bytes", then_ask(medium(PING, 1, b"x")), Ponged),
        ("a pong of 126 bytes", frame(PONG, &[b'x'; 126]), Code(1002)),
        ("a close of 126 bytes", close(1000, &[b'x'; 124]), Code(1002)),
        ("a ping in fragments", frame(PING & 0x7f, b"x"), Code(1002)),
        ("a pong in fragments", frame(PONG & 0x7f, b"x"), Code(1002)),
        ("a close in fragments", frame(CLOSE & 0x7f, &[3, 232]), Code(1002)),
        ("a pong that nobody asked for", then_ask(frame(PONG, b"hello")), Answered),
        ("ten pings at once", then_ask(frame(PING, b"x").repeat(10)), Ponged),
        // Fragments, section 5.4.
        ("a continuation of nothing", frame(LAST, ASK), Code(1002)),
        ("an open continuation of nothing", frame(MORE, ASK), Code(1002)),
        ("a continuation after a ping", [frame(PING, b""), frame(LAST, b"x")].concat(), Code(1002)),
        ("a text within a text", [frame(FIRST, b"{"), frame(TEXT, ASK)].concat(), Code(1002)),
        ("a binary within a text", [frame(FIRST, b"{"), frame(BINARY, ASK)].concat(), Code(1002)),
        ("a first fragment twice", frame(FIRST, b"{").repeat(2), Code(1002)),
        ("fragments of one byte", fragments(ASK, 1, b""), Answered),
        ("fragments with empty ones between", fragments(ASK, 3, &frame(MORE, b"")), Answered),
        ("pings between fragments", fragments(ASK, 9, &frame(PING, b"")), Ponged),
        ("an empty first fragment", [frame(FIRST, b""), frame(LAST, ASK)].concat(), Answered),
        ("a close within a text", [frame(FIRST, b"{"), close(1000, b"")].concat(), Code(1000)),
        // Lengths.
        ("a length of 2^63", long(TEXT, 1 << 63, ASK), Code(1009)),
        ("the longest length", long(TEXT, u64::MAX, ASK), Code(1009)),
        ("15 MiB announced and never sent", long(TEXT, 15 << 20, b"{"), Code(1009)),
        ("a ping that announces 2^40 bytes", long(PING, 1 << 40, b""), Code(1009)),
        ("one byte more than may be", frame(TEXT, &[b' '; 1025]), Code(1009)),
        ("as much as may be", frame(TEXT, format!("{:1024}", String::from_utf8_lossy(ASK)).as_bytes()), Answered),
        ("more than may be, in fragments", fragments(&[b' '; 1025], 100, b""), Code(1009)),
        (
            "as much as may be, and a fragment more",
            [frame(FIRST, &[b' '; 1024]), frame(LAST, b" ")].concat(),
            Code(1009),
        ),
        // The RFC wants the shortest form; the library takes any, which harms
        // nobody.
        ("a short length in two bytes", medium(TEXT, 18, ASK), Answered),
        ("a short length in eight bytes", long(TEXT, 18, ASK), Answered),
        // Text, section 8.1.
        ("a byte that is never UTF-8", frame(TEXT, b"\xff"), Code(1007)),
        ("a continuation byte alone", frame(TEXT, b"{\x80}"), Code(1007)),
        ("an overlong slash", frame(TEXT, b"\xc0\xaf"), Code(1007)),
        ("an overlong NUL", frame(TEXT, b"\xe0\x80\x80"), Code(1007)),
        ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), Code(1007)),
        ("beyond the last code point", frame(TEXT, b"\xf4\x90\x80\x80"), Code(1007)),
        ("a letter cut off at the end", frame(TEXT, b"\"\xc3"), Code(1007)),
        ("bad UTF-8 in the second fragment", [frame(FIRST, b"{"), frame(LAST, b"\xff")].concat(), Code(1007)),
        ("bad UTF-8 before the end", [frame(FIRST, b"\xff"), frame(MORE, b"x")].concat(), Code(1007)),
        ("a letter cut off by the last fragment", [frame(FIRST, b"\xe2\x82"), frame(LAST, b"")].concat(), Code(1007)),
        (
            "a letter over two fragments",
            [frame(FIRST, b"{\"id\":2,\"ping\":{},\"x\":\"\xe2\x82"), frame(LAST, b"\xac\"}")].concat(),
            Answered,
        ),
        ("bad UTF-8 in a close's reason", close(1000, b"\xff"), Code(1007)),
        // Closes, section 7.4.
        ("a close", close(1000, b"bye"), Code(1000)),
        ("a close without a code", frame(CLOSE, b""), Empty),
        ("a close of one byte", frame(CLOSE, &[3]), Code(1002)),
        ("a close with a reason of 123 bytes", close(1000, &[b'x'; 123]), Code(1000)),
        ("a text behind a close", [close(1001, b""), ask()].concat(), Code(1001)),
        // Ours: what is no text, and what is no command.
        ("a binary", frame(BINARY, ASK), Code(3506)),
        ("an empty binary", frame(BINARY, b""), Code(3506)),
        ("an empty text", frame(TEXT, b""), Code(3501)),
        ("what is not JSON", frame(TEXT, b"GET / HTTP/1.1\r\n\r\n"), Code(3501)),
        ("HTTP instead of frames", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Code(1002)),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(("an opcode that means nothing", frame(0x80 | opcode, b"x"), Code(1002)));
        cases.push(("the same, open and empty", frame(opcode, b""), Code(1002)));
    }
    for code in [1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999] {
        cases.push(("a close with a code that may be", close(code, b""), Code(code)));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        cases.push(("a close with a code that may not be", close(code, b""), Code(1002)));
    }
    cases
}

/// A socket behind its handshake.
pub async fn upgraded(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    socket
}

/// The next frame of a server: its first byte and payload; None at the end.
pub async fn next_frame(socket: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = socket.read_u8().await.ok()?;
    let length = match socket.read_u8().await.unwrap() {
        126 => u64::from(socket.read_u16().await.unwrap()),
        127 => socket.read_u64().await.unwrap(),
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    socket.read_exact(&mut payload).await.unwrap();
    Some((first, payload))
}

/// What comes of it: reads until the answer, or until the server has closed.
async fn end(socket: &mut TcpStream) -> Result<End, String> {
    let (mut ended, mut n_pongs) = (None, 0);
    loop {
        if ended.is_some() {
            // Else the server waits for our close frame for a while.
            let _gone = socket.shutdown().await;
        }
        match next_frame(socket).await {
            None => return ended.ok_or_else(|| "it was cut off without a close frame".to_owned()),
            Some(_) if ended.is_some() => return Err("something came behind the close frame".to_owned()),
            Some((0x81, text)) if text.starts_with(ANSWER.as_bytes()) => {
                return Ok(if n_pongs > 0 { Ponged } else { Answered });
            }
            Some((0x81, _hello)) => {}
            Some((0x8a, _)) => n_pongs += 1,
            Some((0x88, payload)) if payload.is_empty() => ended = Some(Empty),
            Some((0x88, payload)) => {
                std::str::from_utf8(&payload[2..]).map_err(|error| error.to_string())?;
                ended = Some(Code(u16::from_be_bytes([payload[0], payload[1]])));
            }
            Some(other) => return Err(format!("a frame that no server sends: {other:?}")),
        }
    }
}

/// Sends a case in pieces of this size and checks its end.
async fn check(address: SocketAddr, case: &(&str, Vec<u8>, End), greets: bool, piece: usize) {
    let (name, bytes, expected) = case;
    let mut socket = upgraded(address).await;
    if greets {
        socket.write_all(&frame(TEXT, HELLO)).await.unwrap();
    }
    for piece in bytes.chunks(piece) {
        // It may have been closed in the middle of what is too much.
        let Ok(()) = socket.write_all(piece).await else { break };
        tokio::task::yield_now().await;
    }
    let found = timeout(PATIENCE, end(&mut socket)).await.unwrap_or_else(|_| Err("nothing".to_owned()));
    assert_eq!(found, Ok(*expected), "{name}, in pieces of {piece}, {bytes:02x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_violation_is_closed_with_its_code_and_what_is_right_is_answered() {
    let gateway = TestGateway::start(CONFIG).await;
    let mut bystander = gateway.client().await;
    bystander.join("r").await;
    let address = gateway.gateway.address();
    let cases = cases();
    assert!(cases.len() >= 60);
    for case in &cases {
        check(address, case, true, usize::MAX).await;
        check(address, case, true, 1).await;
        if matches!(case.2, Code(1000..3000)) {
            check(address, case, false, usize::MAX).await;
        }
    }
    bystander.publish("r", json!("still here")).await;
    assert_eq!(bystander.heard("r").await, "still here");
}

/// The answer to a head, and that the connection then ends or serves on.
async fn answered(address: SocketAddr, head: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let _closed_early = socket.write_all(head).await;
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(_ended) => break,
            }
        }
    };
    timeout(PATIENCE, read).await.expect("no answer and no end");
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_none_is_refused_with_its_reason() {
    let gateway = TestGateway::start(CONFIG).await;
    let address = gateway.gateway.address();
    let without =
        |line: &str| HANDSHAKE.lines().filter(|it| !it.starts_with(line)).collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    let with = |from: &str, to: &str| HANDSHAKE.replace(from, to);
    let large = |n: usize| with("Host: x", &format!("Host: x\r\nX-Large: {}", "x".repeat(n)));
    let many = |n: usize| with("Host: x", &format!("Host: x{}", "\r\nX-A: 1".repeat(n)));
    for (name, head, status) in [
        ("as it should be", HANDSHAKE.to_owned(), "101"),
        ("in other letters", with("Upgrade: websocket", "UPGRADE: WebSocket"), "101"),
        ("among other tokens", with("Connection: Upgrade", "Connection: keep-alive, Upgrade"), "101"),
        ("without Upgrade", without("Upgrade"), "426"),
        ("to something else", with("Upgrade: websocket", "Upgrade: h2c"), "426"),
        ("without Connection", without("Connection"), "426"),
        ("without a version", without("Sec-WebSocket-Version"), "426"),
        ("of version 8", with("Version: 13", "Version: 8"), "426"),
        ("of version 013", with("Version: 13", "Version: 013"), "426"),
        ("without a key", without("Sec-WebSocket-Key"), "426"),
        ("with a short key", with("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), "426"),
        ("with a key that is no base64", with("dGhlIHNhbXBsZSBub25jZQ==", "!!!!!!!!!!!!!!!!!!!!!!!!"), "426"),
        ("by POST", with("GET", "POST"), "405"),
        ("of HTTP 1.0", with("HTTP/1.1", "HTTP/1.0"), "426"),
        ("elsewhere", with("/connection/websocket", "/connection/x"), "404"),
        ("with 15 KiB of head", large(15 << 10), "101"),
        ("with 64 KiB of head", large(64 << 10), "431"),
        ("with 60 headers", many(50), "101"),
        ("with 200 headers", many(200), "431"),
        ("with a header without a name", with("Host: x", "Host: x\r\n: x"), "400"),
        ("with a space in a name", with("Host: x", "Host: x\r\nA B: x"), "400"),
        ("with a NUL in a header", with("Host: x", "Host: \0"), "400"),
        ("with two lengths", with("Host: x", "Host: x\r\nContent-Length: 1\r\nContent-Length: 2"), "400"),
        ("with a length that is none", with("Host: x", "Host: x\r\nContent-Length: -1"), "400"),
        ("of HTTP 2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), ""),
        ("that is TLS", "\x16\x03\x01\x02\0\x01\0".to_owned(), "400"),
        ("that is nothing", "\r\n\r\nhello\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = answered(address, head.as_bytes()).await;
        let found = answer.split(' ').nth(1).unwrap_or_default();
        assert!(found == status || status.is_empty() && !answer.contains("101"), "{name}: {answer}");
        if status == "426" {
            assert!(answer.to_ascii_lowercase().contains("sec-websocket-version: 13"), "{name}: {answer}");
        }
    }
}

/// Row G12: a hundred thousand malformed frames, each on a connection of its
/// own, since each ends one; the process lives and others do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_malformed_frames_harm_nobody() {
    let _alone = ALONE.lock().await;
    const FRAMES: usize = 100_000;
    const ATTACKERS: u8 = 8;
    let mut instance = Instance::start(CONFIG, None, "a").await;
    let mut bystander = instance.client().await;
    bystander.join("r").await;
    let address = instance.addr();
    let bad: Vec<_> = cases().into_iter().filter(|case| matches!(case.2, Code(1002 | 1007 | 1009))).collect();
    let bad: &'static [_] = bad.leak();
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|n| {
            tokio::spawn(async move {
                // Addresses of their own: one has too few ports for all.
                let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, n + 1), 0));
                loop {
                    let i = SENT.fetch_add(1, Ordering::Relaxed);
                    if i >= FRAMES {
                        return;
                    }
                    let (name, bytes, expected) = &bad[i % bad.len()];
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.bind(from).unwrap();
                    let mut socket = socket.connect(address).await.unwrap();
                    socket.set_zero_linger().unwrap();
                    // Nobody waits for the handshake's answer, as attackers do not.
                    socket.write_all(&[HANDSHAKE.as_bytes(), bytes].concat()).await.unwrap();
                    let mut answer = [0; 1024];
                    let mut n = 0;
                    let end = loop {
                        let read =
                            timeout(PATIENCE, socket.read(&mut answer[n..])).await.expect("no close").unwrap_or(0);
                        n += read;
                        let head = answer[..n].windows(4).position(|end| end == b"\r\n\r\n");
                        let rest = head.map(|head| &answer[head + 4..n]);
                        // An answer to a ping stands before it in one case.
                        let rest = rest.map(|rest| rest.strip_prefix(&[0x8a, 0]).unwrap_or(rest));
                        if let Some([0x88, _, high, low, ..]) = rest {
                            break Code(u16::from_be_bytes([*high, *low]));
                        }
                        assert!(read > 0, "{name}: cut off after {:?}", String::from_utf8_lossy(&answer[..n]));
                    };
                    assert_eq!(end, *expected, "{name}");
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    while SENT.load(Ordering::Relaxed) < FRAMES {
        let started = Instant::now();
        bystander.publish("r", json!("still here")).await;
        assert_eq!(bystander.heard("r").await, "still here");
        times.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(attackers.iter().all(|attacker| !attacker.is_finished() || SENT.load(Ordering::Relaxed) >= FRAMES));
    }
    for attacker in attackers {
        attacker.await.unwrap();
    }
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    println!("others' p99 of {} messages: {p99:?}", times.len());
    assert!(p99 < Duration::from_millis(500), "{p99:?}");
    assert!(instance.metric(r#"wayleave_closes_total{code="1002"}"#).await > 50_000.0);
    assert_eq!(instance.metric("wayleave_sockets").await, 1.0);
    let resident = instance.resident_bytes();
    assert!(resident < 256 << 20, "{resident} bytes");
}

/// How much the process has grown when this is done; of Linux.
async fn grown(instance: &mut Instance, work: impl AsyncFnOnce(SocketAddr)) -> u64 {
    let before = instance.resident_bytes();
    work(instance.addr()).await;
    instance.resident_bytes().saturating_sub(before)
}

/// Sends the same bytes again and again until it is closed; how many times.
async fn flood(socket: &mut TcpStream, bytes: &[u8], max: usize) -> usize {
    let mut n = 0;
    while timeout(PATIENCE, socket.write_all(bytes)).await.expect("it was never closed").is_ok() {
        n += 1;
        assert!(n < max, "{n} times and nobody minds");
    }
    n
}

/// Row T6: a flood of pings by one who reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_costs_two_mebibytes_at_most() {
    let _alone = ALONE.lock().await;
    let mut instance = Instance::start(CONFIG, None, "a").await;
    let mut bystander = instance.client().await;
    bystander.join("r").await;
    let pings = frame(PING, &[b'x'; 125]).repeat(500);
    let started = Instant::now();
    let grown = grown(&mut instance, async |address| {
        let mut socket = upgraded(address).await;
        socket.write_all(&frame(TEXT, HELLO)).await.unwrap();
        flood(&mut socket, &pings, 4_000).await;
    })
    .await;
    println!("{grown} bytes, closed after {:?}", started.elapsed());
    assert!(grown <= 2 << 20, "{grown} bytes");
    assert_eq!(instance.metric(r#"wayleave_closes_total{code="1008"}"#).await, 1.0);
    bystander.publish("r", json!(1)).await;
    assert_eq!(bystander.heard("r").await, 1);
}

/// Row T7: empty fragments without end, which RFC 6455 allows, and lengths
/// that lie. Neither costs memory; the first ends long before twenty million.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_without_end_and_lengths_that_lie_cost_nothing() {
    let _alone = ALONE.lock().await;
    let mut instance = Instance::start("[limits]\nclose_timeout = \"100ms\"\n", None, "a").await;
    let mut bystander = instance.client().await;
    for between in [Vec::new(), frame(PING, b"")] {
        let piece = [frame(MORE, b"").repeat(1_000), between].concat();
        let grown = grown(&mut instance, async |address| {
            let mut socket = upgraded(address).await;
            socket.write_all(&[frame(TEXT, HELLO), frame(FIRST, b"{")].concat()).await.unwrap();
            // 16 times the largest message, what fits the kernel's buffers,
            // and what is read after the close, to be polite.
            let n = flood(&mut socket, &piece, 5_000).await;
            println!("closed after {n} thousand");
        })
        .await;
        assert!(grown <= 2 << 20, "{grown} bytes");
    }
    let closed = |code: u16| format!("wayleave_closes_total{{code=\"{code}\"}}");
    assert_eq!(instance.metric(&closed(1008)).await, 2.0);

    // As long as a message may be, and ten bytes of it: 500 times at once.
    let mut sockets = Vec::new();
    let cost = grown(&mut instance, async |address| {
        for _ in 0..500 {
            let mut socket = upgraded(address).await;
            socket.write_all(&frame(TEXT, HELLO)).await.unwrap();
            socket.write_all(&long(TEXT, 64 << 10, b"{\"id\":2,\"p")).await.unwrap();
            assert!(matches!(next_frame(&mut socket).await, Some((0x81, _))));
            sockets.push(socket);
        }
        bystander.ask("ping", json!({})).await;
    })
    .await;
    println!("{} bytes a lie", cost / 500);
    assert!(cost < 500 * (32 << 10), "{} bytes each", cost / 500);
}

/// Row T5, in its short form: idle sockets and half handshakes. Those who mean
/// it connect meanwhile, and the others are freed in five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn idle_sockets_and_half_handshakes_keep_nobody_out() {
    let _alone = ALONE.lock().await;
    const IDLE: usize = 2_000;
    const HALF: usize = 500;
    let mut instance = Instance::start("", None, "a").await;
    let address = instance.addr();
    let before = instance.open_files();
    let mut sockets = Vec::new();
    for n in 0..IDLE + HALF {
        let mut socket = TcpStream::connect(address).await.unwrap();
        if n >= IDLE {
            socket.write_all(&HANDSHAKE.as_bytes()[..HANDSHAKE.len() - 2 - n % 60]).await.unwrap();
        }
        sockets.push(socket);
    }
    let opened = Instant::now();
    let mut times = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        let client = instance.client().await;
        times.push(started.elapsed());
        client.abort();
    }
    times.sort();
    let n_open = instance.open_files();
    println!("honest connects beside {n_open} sockets: p50 {:?}, p99 {:?}", times[50], times[98]);
    // A busy machine may free the first before it has opened the last.
    assert!(n_open > IDLE / 4, "only {n_open} were open meanwhile");
    assert!(times[98] <= Duration::from_secs(1), "{times:?}");
    for mut socket in sockets {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "one is never freed");
        assert!(!rest.starts_with(b"HTTP/1.1 101"));
    }
    let took = opened.elapsed();
    assert!(took < Duration::from_secs(9), "the last was freed only after {took:?}");
    crate::support::until("all are closed", async || instance.open_files() <= before + 1).await;
}
