//! Finds what concerns others in what people write.

use serde_json::Value;

const ANNOUNCE: &str = "/announce ";

/// False only if `json` holds neither a mention nor an announcement. A slash
/// may be written `\/`, and any letter as `\u`, hence not the whole command.
pub(crate) fn may_concern(json: &str) -> bool {
    json.contains('@') || json.contains("announce") || json.contains("\\u")
}

/// The string that `json`, an object, has in `name`.
pub(crate) fn field(json: &str, name: &str) -> Option<String> {
    match serde_json::from_str::<Value>(json).ok()?.get_mut(name)?.take() {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// What is to be announced, if that is what `text` wants.
pub(crate) fn announcement(text: &str) -> Option<&str> {
    text.strip_prefix(ANNOUNCE).map(str::trim).filter(|text| !text.is_empty())
}

/// The names that `text` mentions, each once, in order, at most `max`, without
/// the sender's own.
pub(crate) fn mentions<'a>(text: &'a str, sender: &str, max: usize) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices('@') {
        // Behind a letter it is an e-mail address.
        if text[..at].ends_with(is_name) {
            continue;
        }
        let rest = &text[at + 1..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        // The dot of `ask @ada.` ends the sentence; that of `@ada.l` does not.
        let name = rest[..end].trim_end_matches(['.', '-']);
        if names.len() < max && !name.is_empty() && name != sender && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mentions(text: &str, expected: &[&str]) {
        assert_eq!(mentions(text, "me", 3), expected);
    }

    #[test]
    fn names_are_found_between_other_text() {
        check_mentions("@ada and (@grace): ask @j.doe-2.", &["ada", "grace", "j.doe-2"]);
        check_mentions("@Jürgen, @名前!", &["Jürgen", "名前"]);
    }

    #[test]
    fn each_is_mentioned_once_and_never_the_sender() {
        check_mentions("@ada @me @ada", &["ada"]);
    }

    #[test]
    fn addresses_and_lone_signs_are_no_mentions() {
        check_mentions("ada@example.com @ @. @@", &[]);
    }

    #[test]
    fn there_is_a_limit() {
        check_mentions("@a @b @c @d", &["a", "b", "c"]);
    }

    #[test]
    fn only_the_named_string_field_counts() {
        assert_eq!(field(r#"{"text":"a\n@b"}"#, "text").as_deref(), Some("a\n@b"));
        for json in [r#"{"text":7}"#, r#"{"body":"@b"}"#, r#"["@b"]"#, r#""@b""#] {
            assert_eq!(field(json, "text"), None, "{json}");
        }
    }

    #[test]
    fn an_announcement_begins_with_the_command() {
        assert_eq!(announcement("/announce we are back "), Some("we are back"));
        assert_eq!(announcement("do not /announce it"), None);
        assert_eq!(announcement("/announcement"), None);
        assert_eq!(announcement("/announce  "), None);
    }

    #[test]
    fn escapes_do_not_hide_anything() {
        for json in [r#"{"text":"\/announce x"}"#, r#"{"text":"\u002f\u0061nnounce x"}"#, r#"{"text":"\u0040ada"}"#] {
            assert!(may_concern(json), "{json}");
        }
        assert!(!may_concern(r#"{"text":"hello\nthere"}"#));
    }
}
