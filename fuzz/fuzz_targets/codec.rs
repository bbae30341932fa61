//! Bytes of a hostile client: through the WebSocket decoder, and each text
//! through the protocol. Nothing may panic, and however the bytes are cut into
//! reads, the same messages must come out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::{
    protocol::{Encoding, Incoming},
    session::reader::{Decoded, Reader, Takes},
};

const MESSAGE_SIZE: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let pieces: Vec<_> = bytes.chunks(usize::from(cut).max(1)).collect();
    for encoding in [Encoding::CentrifugeJson, Encoding::CentrifugeProtobuf] {
        let whole = decode(encoding, &[bytes]);
        assert_eq!(decode(encoding, &pieces), whole);
        for message in &whole.0 {
            requests(encoding, message);
        }
    }
    // The protocol sees more when it does not have to pass the frames first.
    if let Ok(text) = std::str::from_utf8(bytes) {
        requests(Encoding::CentrifugeJson, &Incoming::Text(text.into()));
    }
    requests(Encoding::CentrifugeProtobuf, &Incoming::Binary(bytes.to_vec().into()));
});

fn decode(encoding: Encoding, pieces: &[&[u8]]) -> (Vec<Incoming>, Option<u16>) {
    let (mut reader, mut decoded) = (Reader::new(MESSAGE_SIZE, Takes::Both), Decoded::default());
    let mut end = None;
    for piece in pieces {
        if let Err(close) = reader.feed(piece, &mut decoded) {
            end = Some(close.code);
            break;
        }
    }
    (decoded.messages, end)
}

fn requests(encoding: Encoding, message: &Incoming) {
    let mut n = 0;
    for request in encoding.decode(message) {
        n += 1;
        if request.is_err() {
            break;
        }
    }
    assert!(n > 0, "silence");
}
