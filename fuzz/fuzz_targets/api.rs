#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_fuzz::{Spoiling, api, good_calls};

fuzz_target!(|input: (u8, u8, Vec<(u16, u8)>, Vec<(u16, u8)>, Option<u16>, &[u8])| {
    let (method, which, bytes, tokens, cut, raw) = input;
    let good: Vec<_> = good_calls().into_iter().map(|(_, body)| body).collect();
    api(method, &Spoiling { which, bytes, tokens, cut, raw }.of(&good));
});
