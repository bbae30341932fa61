//! Row T17, for a moment: good inputs, spoilt by chance, through the functions
//! that `make fuzz` drives for longer. Nothing may panic or hang, and what each
//! function asserts must hold.

use proptest::prelude::*;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::{
    Spoiling, api, bus, codec, config, good_calls, good_configs, good_frames, good_messages, good_texts, protobuf,
};

#[derive(Debug, Clone)]
struct Spoilt {
    which: u8,
    bytes: Vec<(u16, u8)>,
    tokens: Vec<(u16, u8)>,
    cut: Option<u16>,
    raw: Vec<u8>,
}

impl Spoilt {
    fn of(&self, good: &[Vec<u8>]) -> Vec<u8> {
        let Self { which, bytes, tokens, cut, raw } = self.clone();
        Spoiling { which, bytes, tokens, cut, raw: &raw }.of(good)
    }
}

/// Mostly by little, so that most of it is still read.
fn spoilt() -> impl Strategy<Value = Spoilt> {
    let places = || prop::collection::vec(any::<(u16, u8)>(), 0..3);
    let raw = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..30)];
    let cut = prop::option::weighted(0.2, any::<u16>());
    (any::<u8>(), places(), places(), cut, raw).prop_map(|(which, bytes, tokens, cut, raw)| Spoilt {
        which,
        bytes,
        tokens,
        cut,
        raw,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn bytes_of_a_hostile_client_are_read_or_refused(read in any::<u8>(), spoilt in spoilt()) {
        codec(read, &spoilt.of(&good_texts()));
    }

    #[test]
    fn protobuf_of_a_hostile_client_is_read_or_refused(spoilt in spoilt()) {
        protobuf(&spoilt.of(&good_messages()));
    }

    #[test]
    fn every_call_of_the_api_is_answered(method in any::<u8>(), spoilt in spoilt()) {
        let good: Vec<_> = good_calls().into_iter().map(|(_, body)| body).collect();
        // Its own method in half of all cases.
        api(if method % 2 == 0 { spoilt.which } else { method }, &spoilt.of(&good));
    }

    #[test]
    fn what_comes_over_redis_is_read_or_dropped(spoilt in spoilt()) {
        bus(&spoilt.of(&good_frames()));
    }

    #[test]
    fn a_config_is_good_or_its_mistakes_are_said(spoilt in spoilt()) {
        config(&spoilt.of(&good_configs()));
    }
}

/// What is spoilt would have been taken, and no method is left out.
#[test]
fn what_is_spoilt_was_good() {
    let described: serde_json::Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let paths = described["paths"].as_object().unwrap().keys();
    let methods = paths.filter_map(|path| path.strip_prefix("/api/")).filter(|method| *method != "tail");
    let mut good: Vec<_> = good_calls().into_iter().map(|(method, _)| method).collect();
    good.sort_unstable();
    assert_eq!(good, methods.collect::<Vec<_>>());
    for frame in good_frames() {
        assert!(wayleave::cluster::envelope::decode(&frame).is_ok(), "{frame:?}");
    }
    let read = |message: &[u8]| {
        let message = wayleave::protocol::Incoming::Binary(message.to_vec().into());
        wayleave::protocol::Encoding::CentrifugeProtobuf.decode(&message).all(|request| request.is_ok())
    };
    let messages = good_messages();
    assert!(messages[..messages.len() - 1].iter().all(|message| read(message)));
}
