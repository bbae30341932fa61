//! What each fuzz target does with its bytes, and good inputs to spoil. The
//! ordinary tests call the same functions with inputs of their own
//! (`tests/it/hostile.rs` has this file as a module, so `super` and not `crate`).

mod api;
mod bus;
mod codec;
mod config;
mod here;
mod protobuf;

pub use self::{
    api::{api, good_calls},
    bus::{bus, good_frames},
    codec::{codec, good_texts},
    config::{config, good_configs},
    protobuf::{good_messages, protobuf},
};

/// What parsers have stumbled over before.
const TOKENS: &[&str] = &[
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.1",
    "\"\"",
    "\"\\ud800\"",
    "\\u0000",
    "{}",
    "[]",
    "{\"a\":",
    "[[[[[[[[",
    "\"",
    "\\",
    "\n",
    "\r\n",
    "*",
    ":",
    "=",
    "[[",
    "]]",
    "#",
    "true",
    "\u{202e}",
    "\u{feff}",
    "9999-12-31",
    "1h",
    "%",
    "${X}",
];

/// How a good input is spoilt.
#[derive(Debug)]
pub struct Spoiling<'a> {
    /// Which one; none of them for the last number.
    pub which: u8,
    /// Bytes that are replaced.
    pub bytes: Vec<(u16, u8)>,
    /// Where one of a few tokens is put in.
    pub tokens: Vec<(u16, u8)>,
    /// Where it breaks off.
    pub cut: Option<u16>,
    /// What is put behind the last token, or is all that there is.
    pub raw: &'a [u8],
}

impl Spoiling<'_> {
    /// The spoilt one of `good`.
    #[must_use]
    pub fn of(&self, good: &[Vec<u8>]) -> Vec<u8> {
        if self.which == u8::MAX {
            return self.raw.to_vec();
        }
        let mut bytes = good[usize::from(self.which) % good.len()].clone();
        for &(at, value) in &self.bytes {
            let n = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(usize::from(at) % n) {
                *byte = value;
            }
        }
        let mut end = bytes.len();
        for &(at, token) in &self.tokens {
            let at = usize::from(at) % (bytes.len() + 1);
            let token = TOKENS[usize::from(token) % TOKENS.len()].as_bytes();
            bytes.splice(at..at, token.iter().copied());
            end = at + token.len();
        }
        bytes.splice(end..end, self.raw.iter().copied());
        if let Some(cut) = self.cut {
            bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        }
        bytes
    }
}
