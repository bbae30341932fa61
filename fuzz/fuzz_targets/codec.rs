//! Bytes of a hostile client: through the WebSocket decoder, and each text
//! through the protocol. Nothing may panic, and however the bytes are cut into
//! reads, the same messages must come out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave::{
    protocol::centrifuge,
    session::reader::{Decoded, Reader},
};

const MESSAGE_SIZE: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = decode(&[bytes]);
    let pieces: Vec<_> = bytes.chunks(usize::from(cut).max(1)).collect();
    assert_eq!(decode(&pieces), whole);
    for text in &whole.0 {
        requests(text);
    }
    // The protocol sees more when it does not have to pass the frames first.
    if let Ok(text) = std::str::from_utf8(bytes) {
        requests(text);
    }
});

fn decode(pieces: &[&[u8]]) -> (Vec<String>, Option<u16>) {
    let (mut reader, mut decoded) = (Reader::new(MESSAGE_SIZE), Decoded::default());
    let mut end = None;
    for piece in pieces {
        if let Err(close) = reader.feed(piece, &mut decoded) {
            end = Some(close.code);
            break;
        }
    }
    (decoded.texts.iter().map(|text| text.to_string()).collect(), end)
}

fn requests(text: &str) {
    let mut n = 0;
    for request in centrifuge::decode(text) {
        n += 1;
        if request.is_err() {
            break;
        }
    }
    assert!(n > 0, "silence");
}
