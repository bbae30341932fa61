#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_fuzz::{Spoiling, codec, good_texts};

fuzz_target!(|input: (u8, u8, Vec<(u16, u8)>, Vec<(u16, u8)>, Option<u16>, &[u8])| {
    let (read, which, bytes, tokens, cut, raw) = input;
    codec(read, &Spoiling { which, bytes, tokens, cut, raw }.of(&good_texts()));
});
