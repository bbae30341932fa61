#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_fuzz::{Spoiling, good_messages, protobuf};

fuzz_target!(|input: (u8, Vec<(u16, u8)>, Vec<(u16, u8)>, Option<u16>, &[u8])| {
    let (which, bytes, tokens, cut, raw) = input;
    protobuf(&Spoiling { which, bytes, tokens, cut, raw }.of(&good_messages()));
});
