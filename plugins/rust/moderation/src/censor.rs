//! Finds listed words in text, without regard to case, and masks them.
//!
//! Two steps, since nearly all messages are clean. `suspects` runs once over
//! the raw JSON, takes a hash of each word and looks that up; it neither parses
//! nor allocates, and its cost hardly depends on how many words are listed.
//! Only what it suspects is looked at exactly, by `mask_json`.

use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

/// The listed texts. A text may be a phrase: it is found by its first word.
pub(crate) struct Censor {
    /// Folded texts with the hash of their first word, in order of that hash.
    listed: Vec<(u64, Vec<char>)>,
}

impl Censor {
    pub(crate) fn new(words: &[String]) -> Result<Self, String> {
        let mut listed = Vec::with_capacity(words.len());
        for text in words {
            let (end, hash) = word(text, 0);
            if end == 0 {
                return Err(format!("words: `{text}` must begin with a letter or a digit"));
            }
            listed.push((hash, text.chars().map(fold).collect()));
        }
        listed.sort();
        Ok(Self { listed })
    }

    /// False only if no string of `json` can hold a listed text.
    pub(crate) fn suspects(&self, json: &str) -> bool {
        let bytes = json.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let (end, hash) = word(json, at);
            if end > at {
                if self.starting_with(hash).next().is_some() {
                    return true;
                }
                at = end;
            } else if bytes[at] == b'\\' {
                // `\u` may stand for a letter, so that only decoding can tell.
                // The letter of other escapes, as in `\n`, is no part of a word.
                if bytes.get(at + 1) == Some(&b'u') {
                    return true;
                }
                at += 2;
            } else {
                at += char_at(json, at).len_utf8();
            }
        }
        false
    }

    /// `json` with its string values masked, or `None` if there was nothing to
    /// mask. Keys, numbers and white space stay as they are, byte for byte:
    /// that is why it does not go through a tree of values.
    pub(crate) fn mask_json(&self, json: &str) -> Result<Option<String>, serde_json::Error> {
        let mut masked = String::new();
        let mut copied = 0;
        let mut at = 0;
        while let Some(found) = json[at..].find('"') {
            let open = at + found;
            let close = end_of_string(json, open);
            at = close;
            let is_key = json[close..].trim_start().starts_with(':');
            if is_key {
                continue;
            }
            let text: String = serde_json::from_str(&json[open..close])?;
            if let Some(text) = self.mask(&text) {
                masked.push_str(&json[copied..open]);
                masked.push_str(&serde_json::to_string(&text)?);
                copied = close;
            }
        }
        if copied == 0 {
            return Ok(None);
        }
        masked.push_str(&json[copied..]);
        Ok(Some(masked))
    }

    fn mask(&self, text: &str) -> Option<String> {
        let mut masked = String::new();
        let mut copied = 0;
        let mut at = 0;
        while at < text.len() {
            let (end, hash) = word(text, at);
            if end == at {
                at += char_at(text, at).len_utf8();
                continue;
            }
            // The longest, so that of `bad` and `bad word` the phrase counts.
            let longest = self.starting_with(hash).filter_map(|listed| prefix(&text[at..], listed)).max();
            if let Some(length) = longest {
                masked.push_str(&text[copied..at]);
                masked.extend(text[at..at + length].chars().map(|_| '*'));
                at += length;
                copied = at;
            } else {
                at = end;
            }
        }
        if copied == 0 {
            return None;
        }
        masked.push_str(&text[copied..]);
        Some(masked)
    }

    fn starting_with(&self, hash: u64) -> impl Iterator<Item = &[char]> {
        let first = self.listed.partition_point(|(other, _)| *other < hash);
        self.listed[first..].iter().take_while(move |(other, _)| *other == hash).map(|(_, text)| &text[..])
    }
}

/// The word that begins at `at`: its end and a hash of its folded letters.
/// The end is `at` if there is none.
fn word(text: &str, at: usize) -> (usize, u64) {
    // FNV-1a, for it is short and goes byte by byte. What it takes for listed
    // is compared afterwards, so nothing depends on its quality but speed.
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = text.as_bytes();
    let mut end = at;
    let mut hash = START;
    while let Some(&byte) = bytes.get(end) {
        let (folded, length) = match ASCII[usize::from(byte)] {
            SEPARATOR => break,
            NOT_ASCII => {
                let c = char_at(text, end);
                let Some(folded) = letter(c) else { break };
                (folded, c.len_utf8())
            }
            folded => (char::from(folded), 1),
        };
        hash = (hash ^ u64::from(u32::from(folded))).wrapping_mul(PRIME);
        end += length;
    }
    (end, hash)
}

/// `c` folded, if it is a letter or a digit. Kept out of the loop over ASCII,
/// which it would slow down by a fifth.
#[inline(never)]
fn letter(c: char) -> Option<char> {
    // To ask the standard library's tables costs ten times what the rest does
    // for a character, so the answers are kept. Atomic for the compiler's sake
    // only: a guest has one thread.
    static KNOWN: [AtomicU16; 0x1_0000] = [const { AtomicU16::new(UNKNOWN) }; 0x1_0000];
    const UNKNOWN: u16 = 0;
    const NEITHER: u16 = 1;
    let ask = || c.is_alphanumeric().then(|| fold(c));
    let Some(known) = KNOWN.get(c as usize) else {
        return ask();
    };
    match known.load(Relaxed) {
        UNKNOWN => {
            let answer = ask();
            if let Ok(folded) = answer.map_or(Ok(NEITHER), |folded| u16::try_from(u32::from(folded))) {
                known.store(folded, Relaxed);
            }
            answer
        }
        NEITHER => None,
        folded => char::from_u32(folded.into()),
    }
}

/// How many bytes of `text` are `listed`, which must end where a word may end.
fn prefix(text: &str, listed: &[char]) -> Option<usize> {
    let mut rest = text.chars();
    for &c in listed {
        if fold(rest.next()?) != c {
            return None;
        }
    }
    let goes_on = rest.clone().next().is_some_and(char::is_alphanumeric);
    (!goes_on).then(|| text.len() - rest.as_str().len())
}

/// Makes upper and lower case one. By way of the upper case, as `ς` and `σ`
/// have the same; a letter that has no single counterpart stays as it is.
fn fold(c: char) -> char {
    let single = |mut chars: std::char::ToUppercase| chars.next().filter(|_| chars.len() == 0);
    let upper = single(c.to_uppercase()).unwrap_or(c);
    let mut lower = upper.to_lowercase();
    lower.next().filter(|_| lower.len() == 0).unwrap_or(upper)
}

fn char_at(text: &str, at: usize) -> char {
    text[at..].chars().next().expect("`at` is before the end")
}

/// The place behind the closing quote of the string literal at `open`.
fn end_of_string(json: &str, open: usize) -> usize {
    let bytes = json.as_bytes();
    let mut at = open + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

const SEPARATOR: u8 = 0;
const NOT_ASCII: u8 = 0x80;

/// For each byte: its lower case if it is a letter or digit of ASCII.
const ASCII: [u8; 256] = {
    let mut table = [SEPARATOR; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b @ (b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9') => b.to_ascii_lowercase(),
            0x80.. => NOT_ASCII,
            _ => SEPARATOR,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn censor(words: &[&str]) -> Censor {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Censor::new(&words).unwrap()
    }

    #[track_caller]
    fn check_masked(words: &[&str], json: &str, expected: &str) {
        let censor = censor(words);
        assert!(censor.suspects(json), "not suspected: {json}");
        assert_eq!(censor.mask_json(json).unwrap().as_deref(), Some(expected));
        serde_json::from_str::<serde_json::Value>(expected).unwrap();
    }

    #[track_caller]
    fn check_clean(words: &[&str], json: &str) {
        let censor = censor(words);
        assert_eq!(censor.mask_json(json).unwrap(), None);
    }

    #[test]
    fn whole_words_are_masked_without_regard_to_case() {
        check_masked(&["darn"], r#"{"text":"Darn it, DARN!"}"#, r#"{"text":"**** it, ****!"}"#);
        check_masked(&["DARN"], r#""darn""#, r#""****""#);
    }

    #[test]
    fn parts_of_words_are_left_alone() {
        check_clean(&["ass"], r#"{"text":"a classic assembly, ass3"}"#);
        assert!(!censor(&["ass"]).suspects(r#"{"text":"a classic assembly"}"#));
    }

    #[test]
    fn keys_and_numbers_stay_as_they_are() {
        check_clean(&["darn", "12"], r#"{"darn":12}"#);
        check_masked(
            &["darn", "1"],
            r#"{ "darn" : 1.0, "n": 12345678901234567890, "a": ["darn", {"b":"1"}] }"#,
            r#"{ "darn" : 1.0, "n": 12345678901234567890, "a": ["****", {"b":"*"}] }"#,
        );
    }

    #[test]
    fn letters_of_escapes_are_no_part_of_a_word() {
        check_masked(&["darn"], r#"{"text":"so\ndarn\\darn\"darn\""}"#, r#"{"text":"so\n****\\****\"****\""}"#);
        assert!(!censor(&["no"]).suspects(r#"{"text":"\no"}"#));
    }

    #[test]
    fn escaped_letters_do_not_hide_a_word() {
        check_masked(&["darn"], r#"{"text":"d\u0061rn"}"#, r#"{"text":"****"}"#);
        check_clean(&["darn"], r#"{"text":"d\u0061re"}"#);
    }

    #[test]
    fn other_scripts_are_folded_and_bounded_too() {
        check_masked(&["käse"], r#""“KÄSE” und Käsekuchen""#, r#""“****” und Käsekuchen""#);
        check_masked(&["κακός"], r#""ΚΑΚΌΣ""#, r#""*****""#);
        check_masked(&["плохо"], r#""Плохо…""#, r#""*****…""#);
    }

    #[test]
    fn of_two_phrases_the_longer_counts() {
        check_masked(&["bad", "bad word"], r#""bad word, bad words, bad""#, r#""********, *** words, ***""#);
        check_masked(&["c++"], r#""C++ and c++17""#, r#""*** and c++17""#);
    }

    #[test]
    fn half_a_surrogate_pair_is_an_error() {
        assert!(censor(&["darn"]).mask_json(r#"{"text":"\ud800 darn"}"#).is_err());
    }

    #[test]
    fn a_text_that_cannot_be_found_is_refused() {
        assert!(Censor::new(&[String::from("!!")]).is_err());
        assert!(Censor::new(&[String::new()]).is_err());
    }
}
