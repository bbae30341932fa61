//! Bytes of a hostile client: through the WebSocket decoder, and each message
//! through the protocol. However the bytes are cut into reads, the same must
//! come out.

use wayleave::{
    protocol::{Encoding, Incoming, Said},
    session::reader::{Decoded, Reader, Takes},
};

const MESSAGE_SIZE: usize = 4096;

/// `cut`: bytes of one read.
pub fn codec(cut: u8, bytes: &[u8]) {
    let pieces: Vec<_> = bytes.chunks(usize::from(cut).max(1)).collect();
    for encoding in [Encoding::CentrifugeJson, Encoding::CentrifugeProtobuf] {
        let whole = decode(&[bytes]);
        assert_eq!(decode(&pieces), whole);
        for message in &whole.0 {
            requests(encoding, message);
        }
    }
    // The protocol sees more when it does not have to pass the frames first.
    if let Ok(text) = std::str::from_utf8(bytes) {
        requests(Encoding::CentrifugeJson, &Incoming::Text(text.into()));
    }
    let _either = Said::from_json(bytes);
}

fn decode(pieces: &[&[u8]]) -> (Vec<Incoming>, Option<u16>) {
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

pub(super) fn requests(encoding: Encoding, message: &Incoming) {
    let mut n = 0;
    for request in encoding.decode(message) {
        n += 1;
        if request.is_err() {
            break;
        }
    }
    assert!(n > 0, "silence");
}

/// Messages as texts, and in frames.
#[must_use]
pub fn good_texts() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"id":1,"connect":{"token":"a.b.c","data":{"x":1},"name":"js","subs":{"r":{"recover":true,"epoch":"e","offset":5}}}}"#,
        r#"{"id":2,"subscribe":{"channel":"r","recover":true,"epoch":"e","offset":5,"delta":"fossil","join_leave":true,"tf":{"op":"and","nodes":[{"cmp":"eq","key":"k","val":"v"},{"cmp":"in","key":"k","vals":["a","b"]}]}}}"#,
        "{\"id\":3,\"publish\":{\"channel\":\"r\",\"data\":{\"n\":1.50}}}\n{\"id\":4,\"presence\":{\"channel\":\"r\"}}\n",
        r#"{"id":5,"history":{"channel":"r","limit":-1,"since":{"offset":1,"epoch":"e"},"reverse":true}}"#,
        r#"{"id":6,"rpc":{"method":"m","data":[1,"\u00e9\ud83d\ude00"]}}"#,
        "{\"id\":7,\"sub_refresh\":{\"channel\":\"r\",\"token\":\"t\"}}\n{\"send\":{\"data\":null}}\n{}\n{\"id\":8,\"refresh\":{\"token\":\"t\"}}",
        r#"{"node":"n","session":"s","data":"{\"id\":1,\"publish\":{}}"}"#,
    ];
    let framed = texts.iter().filter(|text| text.len() < 126).map(|text| frame(text.as_bytes()));
    texts.iter().map(|text| text.as_bytes().to_vec()).chain(framed).collect()
}

/// A text frame of a client, masked with zeros so that it can be read.
fn frame(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("it is short");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text].concat()
}
