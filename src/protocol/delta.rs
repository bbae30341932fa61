//! Differences between messages, in the format of Fossil, which the clients'
//! libraries read.

use super::PayloadRef;

/// What makes `after` out of `before`. None: it would not be shorter, or the
/// two are of different kinds: a text and bytes look alike to some clients and
/// not to others.
pub(super) fn patch(before: PayloadRef<'_>, after: PayloadRef<'_>) -> Option<Vec<u8>> {
    let (PayloadRef::Text(before), PayloadRef::Text(after)) = (before, after) else { return None };
    let patch = fossil_delta::delta(after.as_bytes(), before.as_bytes());
    (patch.len() < after.len()).then_some(patch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(before: &str, after: &str) {
        if let Some(patch) = patch(PayloadRef::Text(before), PayloadRef::Text(after)) {
            assert!(patch.len() < after.len());
            let made = fossil_delta::apply(before.as_bytes(), &patch).unwrap();
            assert_eq!(String::from_utf8(made).unwrap(), after);
        }
    }

    #[test]
    fn a_small_change_of_a_large_message_is_short() {
        let before = format!(r#"{{"list":[{}],"n":1}}"#, "\"entry\",".repeat(100));
        let after = before.replace("\"n\":1", "\"n\":2");
        let patch = patch(PayloadRef::Text(&before), PayloadRef::Text(&after)).unwrap();
        assert!(patch.len() < 60, "{}", patch.len());
        check(&before, &after);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_patch_makes_the_one_out_of_the_other(
            parts in prop::collection::vec("[a-c]{0,40}|\\PC{0,8}", 0..12),
            cut in prop::collection::vec(any::<(u8, u8)>(), 0..6),
        ) {
            let before: String = parts.concat();
            let mut chars: Vec<char> = before.chars().collect();
            for (at, with) in cut {
                let at = usize::from(at).min(chars.len());
                if with % 2 == 0 { chars.insert(at, char::from(with)); } else if at < chars.len() { chars.remove(at); }
            }
            let after: String = chars.into_iter().collect();
            check(&before, &after);
            check(&after, &before);
        }
    }
}
