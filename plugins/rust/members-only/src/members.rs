//! Who may be in which room. Nothing here knows of the gateway.

use std::cmp::Reverse;
use std::collections::HashSet;

use serde_json::{Map, Value};

const GROUP: &str = "group:";

pub(crate) struct Members {
    /// The most exact first.
    rules: Vec<Rule>,
    /// What holds for rooms that no pattern matches.
    otherwise: bool,
}

struct Rule {
    pattern: String,
    users: HashSet<String>,
    groups: HashSet<String>,
}

impl Members {
    /// `settings` is the plugin's table of the config, as JSON.
    pub(crate) fn from_settings(settings: &str) -> Result<Self, String> {
        let mut settings: Map<String, Value> =
            serde_json::from_str(settings).map_err(|error| format!("settings: {error}"))?;
        let otherwise = match settings.remove("otherwise").as_ref().map(Value::as_str) {
            None | Some(Some("refuse")) => false,
            Some(Some("allow")) => true,
            Some(_) => return Err("settings: `otherwise` must be `allow` or `refuse`".to_owned()),
        };
        let rooms = match settings.remove("rooms") {
            None => Map::new(),
            Some(Value::Object(rooms)) => rooms,
            Some(_) => return Err("settings: `rooms` must be a table of patterns".to_owned()),
        };
        if let Some(key) = settings.keys().next() {
            return Err(format!("settings: unknown key `{key}`"));
        }
        let mut rules = rooms.into_iter().map(Rule::new).collect::<Result<Vec<_>, _>>()?;
        // The order of a TOML table is not kept, so it cannot decide between two
        // patterns that match. The one that fixes more of the name does; a tie is
        // broken by the alphabet, only so that all guests decide alike.
        rules.sort_by_cached_key(|rule| (Reverse(rule.fixed()), units(&rule.pattern)));
        Ok(Self { rules, otherwise })
    }

    /// Whether `user` may join; `info` is the JSON of the connection, or empty.
    pub(crate) fn admits(&self, room: &str, user: &str, info: &str) -> bool {
        if user.is_empty() {
            return false;
        }
        let Some(rule) = self.rules.iter().find(|rule| matches(&rule.pattern, room)) else {
            return self.otherwise;
        };
        rule.users.contains(user)
            || (!rule.groups.is_empty() && groups_of(info).iter().any(|group| rule.groups.contains(group)))
    }
}

impl Rule {
    fn new((pattern, entries): (String, Value)) -> Result<Self, String> {
        let wrong = || format!("settings: `rooms.{pattern}` must be a list of users and groups");
        let (mut users, mut groups) = (HashSet::new(), HashSet::new());
        for entry in entries.as_array().ok_or_else(wrong)? {
            let entry = entry.as_str().ok_or_else(wrong)?;
            // An entry is a user or a group, never both: a user whose id happens
            // to be `group:staff` does not become one of the staff.
            match entry.strip_prefix(GROUP) {
                Some(group) => groups.insert(group.to_owned()),
                None => users.insert(entry.to_owned()),
            };
        }
        Ok(Self { pattern, users, groups })
    }

    /// How many characters of a name it fixes.
    fn fixed(&self) -> usize {
        units(&self.pattern.replace('*', "")).len()
    }
}

/// As this plugin's other languages count and order texts.
fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// Whether `room` is what stands between the `*` of the pattern, in this order,
/// with any run of characters between. The earliest place of each is as good as
/// any, so nothing is tried twice: names are made up by clients.
fn matches(pattern: &str, room: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return room == pattern;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut room) = room.strip_prefix(first).and_then(|room| room.strip_suffix(last)) else {
        return false;
    };
    for part in middle.split('*') {
        match room.find(part) {
            Some(at) => room = &room[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The `groups` of the info; whatever is not as expected gives none.
fn groups_of(info: &str) -> Vec<String> {
    let Ok(info) = serde_json::from_str::<Value>(info) else {
        return Vec::new();
    };
    let groups = info["groups"].as_array().into_iter().flatten();
    groups.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str =
        r#"{"rooms":{"team:*":["ada","group:staff"],"team:board":["grace"],"*:log:*":["group:ops"]}}"#;
    const STAFF: &str = r#"{"groups":["staff","tea"]}"#;
    const OPS: &str = r#"{"groups":["ops"]}"#;

    #[track_caller]
    fn check(settings: &str, (room, user, info): (&str, &str, &str), expected: bool) {
        let members = Members::from_settings(settings).unwrap();
        assert_eq!(members.admits(room, user, info), expected, "{room} {user} {info}");
    }

    #[test]
    fn listed_users_may_join() {
        check(SETTINGS, ("team:red", "ada", ""), true);
        check(SETTINGS, ("team:red", "eve", ""), false);
    }

    #[test]
    fn members_of_a_listed_group_may_join() {
        check(SETTINGS, ("team:red", "eve", STAFF), true);
        check(SETTINGS, ("team:red", "eve", r#"{"groups":["guests"]}"#), false);
    }

    #[test]
    fn a_user_is_never_taken_for_a_group() {
        check(SETTINGS, ("team:red", "group:staff", ""), false);
    }

    #[test]
    fn anonymous_users_may_not_whatever_their_groups_and_the_settings() {
        check(SETTINGS, ("team:red", "", STAFF), false);
        check(r#"{"otherwise":"allow"}"#, ("lobby", "", ""), false);
    }

    #[test]
    fn the_pattern_that_fixes_more_of_the_name_counts() {
        check(SETTINGS, ("team:board", "grace", ""), true);
        check(SETTINGS, ("team:board", "ada", STAFF), false);
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        check(SETTINGS, ("eu:log:disk:full", "eve", OPS), true);
        check(SETTINGS, (":log:", "eve", OPS), true);
        check(SETTINGS, ("eu:log", "eve", OPS), false);
        check(SETTINGS, ("Team:red", "ada", ""), false);
        check(r#"{"rooms":{"ab*ba":["ada"]}}"#, ("aba", "ada", ""), false);
        check(r#"{"rooms":{"ab*ba":["ada"]}}"#, ("abba", "ada", ""), true);
        check(r#"{"rooms":{"*a*b*":["ada"]}}"#, ("ba", "ada", ""), false);
        check(r#"{"rooms":{"*a*b*":["ada"]}}"#, ("bab", "ada", ""), true);
        check(r#"{"rooms":{"**":["ada"]}}"#, ("", "ada", ""), true);
    }

    #[test]
    fn rooms_that_no_pattern_matches_are_refused_unless_the_settings_allow_them() {
        check(SETTINGS, ("lobby", "ada", ""), false);
        let open = r#"{"otherwise":"allow","rooms":{"team:*":["ada"]}}"#;
        check(open, ("lobby", "eve", ""), true);
        check(open, ("team:red", "eve", ""), false);
    }

    #[test]
    fn an_info_without_groups_gives_none() {
        for info in ["", "{}", "null", "7", r#"{"groups":"staff"}"#, r#"{"groups":[["staff"]]}"#] {
            check(SETTINGS, ("team:red", "eve", info), false);
        }
    }

    #[test]
    fn mistakes_in_the_settings_are_named() {
        let error = |settings| Members::from_settings(settings).err().unwrap();
        assert!(error(r#"{"otherwise":"deny"}"#).contains("`otherwise`"));
        assert!(error(r#"{"room":{}}"#).contains("unknown key `room`"));
        assert!(error(r#"{"rooms":{"a":"ada"}}"#).contains("`rooms.a`"));
        assert!(error(r#"{"rooms":[]}"#).contains("`rooms`"));
    }
}
