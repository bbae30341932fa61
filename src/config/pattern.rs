//! Patterns over names of rooms, and templates for targets of routes.

use std::fmt;

/// A name in which each `*` stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// # Errors
    /// If the text is empty or has more stars than a name should need.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(r#"a pattern must not be empty; "*" matches every room"#.into());
        }
        if text.matches('*').count() > 8 {
            return Err(format!("`{text}` has more than 8 stars"));
        }
        Ok(Self { text: text.to_owned() })
    }

    /// The pattern `*`.
    #[must_use]
    pub fn everything() -> Self {
        Self { text: "*".to_owned() }
    }

    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the whole of `name` fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((head, rest)) = self.text.split_once('*') else { return self.text == name };
        let Some(mut left) = name.strip_prefix(head) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return left.ends_with(part);
            }
            let Some(at) = left.find(part) else { return false };
            left = &left[at + part.len()..];
        }
        true
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whom a delivery or an action is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// All members of a room.
    Room(String),
    /// All connections of a user.
    User(String),
    /// One connection, by its id.
    Connection(String),
    /// All members of all rooms that match.
    Pattern(String),
    /// Every connection.
    Everyone,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(name) => write!(f, "room:{name}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Connection(id) => write!(f, "connection:{id}"),
            Self::Pattern(pattern) => write!(f, "pattern:{pattern}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

impl Target {
    /// Reads back what `to_string` wrote; None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("room", name)) => Some(Self::Room(name.to_owned())),
            Some(("user", name)) => Some(Self::User(name.to_owned())),
            Some(("connection", id)) => Some(Self::Connection(id.to_owned())),
            Some(("pattern", pattern)) => Some(Self::Pattern(pattern.to_owned())),
            None if text == "everyone" => Some(Self::Everyone),
            _ => None,
        }
    }
}

/// A target whose name is filled in from a message: `user:{data.customer}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    kind: Kind,
    parts: Vec<Part>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Room,
    User,
    Pattern,
    Everyone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// A path into the message's JSON, from `data`.
    Data(Vec<String>),
    Room,
    User,
}

impl Template {
    /// # Errors
    /// What is wrong with the text and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape =
            r#"expected "room:…", "user:…", "pattern:…" or "everyone", with {data.…}, {room} or {user} filled in"#;
        let (kind, name) = match text.split_once(':') {
            Some(("room", name)) => (Kind::Room, name),
            Some(("user", name)) => (Kind::User, name),
            Some(("pattern", name)) => (Kind::Pattern, name),
            None if text == "everyone" => (Kind::Everyone, ""),
            _ => return Err(format!("`{text}` is not a target; {shape}")),
        };
        if name.is_empty() && kind != Kind::Everyone {
            return Err(format!("`{text}` names nothing; {shape}"));
        }
        let mut parts = Vec::new();
        let mut left = name;
        while let Some((literal, rest)) = left.split_once('{') {
            let Some((hole, after)) = rest.split_once('}') else {
                return Err(format!("`{text}` has a {{ without its }}"));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match hole.split('.').collect::<Vec<_>>().as_slice() {
                ["room"] => Part::Room,
                ["user"] => Part::User,
                ["data", path @ ..] if !path.is_empty() && path.iter().all(|key| !key.is_empty()) => {
                    Part::Data(path.iter().map(|key| (*key).to_owned()).collect())
                }
                _ => return Err(format!("`{{{hole}}}` in `{text}` is not known; {shape}")),
            });
            left = after;
        }
        if !left.is_empty() {
            parts.push(Part::Literal(left.to_owned()));
        }
        Ok(Self { kind, parts, text: text.to_owned() })
    }

    /// True if the message's JSON must be parsed to fill it in.
    #[must_use]
    pub fn needs_data(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Data(_)))
    }

    /// Fills it in; None when the message lacks what it needs. Numbers are
    /// written as they are, other values than texts and numbers do not count.
    #[must_use]
    pub fn fill(&self, room: &str, user: &str, data: &serde_json::Value) -> Option<Target> {
        let mut name = String::new();
        // What comes from a client must not widen a pattern.
        let plain = |text: &str| self.kind != Kind::Pattern || !text.contains('*');
        for part in &self.parts {
            match part {
                Part::Literal(literal) => name.push_str(literal),
                Part::Room if plain(room) => name.push_str(room),
                Part::User if !user.is_empty() && plain(user) => name.push_str(user),
                Part::Room | Part::User => return None,
                Part::Data(path) => {
                    let value = path.iter().try_fold(data, |value, key| value.get(key))?;
                    match value {
                        serde_json::Value::String(text) if !text.is_empty() && plain(text) => name.push_str(text),
                        serde_json::Value::Number(number) => name.push_str(&number.to_string()),
                        _ => return None,
                    }
                }
            }
        }
        Some(match self.kind {
            Kind::Room => Target::Room(name),
            Kind::User => Target::User(name),
            Kind::Pattern => Target::Pattern(name),
            Kind::Everyone => Target::Everyone,
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        let pattern = Pattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(name), expected, "{pattern} on {name}");
    }

    #[test]
    fn stars_stand_for_any_run() {
        check("chat:*", "chat:1", true);
        check("chat:*", "chat:", true);
        check("chat:*", "chats:1", false);
        check("*", "", true);
        check("a*b*c", "a1b2c", true);
        check("a*b*c", "abc", true);
        check("a*b*c", "acb", false);
        check("*:x", "y:x", true);
        check("a*a", "a", false);
        check("exact", "exact", true);
        check("exact", "exactly", false);
        check("*ab", "aab", true);
    }

    #[test]
    fn templates_are_filled_from_the_message() {
        let data = serde_json::json!({ "customer": "ada", "n": 7, "nested": { "x": "y" }, "list": [], "star": "*" });
        let fill = |text: &str| Template::parse(text).unwrap().fill("orders:1", "bob", &data);
        assert_eq!(fill("user:{data.customer}"), Some(Target::User("ada".into())));
        assert_eq!(fill("room:n-{data.n}-{data.nested.x}"), Some(Target::Room("n-7-y".into())));
        assert_eq!(fill("room:{room}/{user}"), Some(Target::Room("orders:1/bob".into())));
        assert_eq!(fill("everyone"), Some(Target::Everyone));
        assert_eq!(fill("user:{data.missing}"), None);
        assert_eq!(fill("room:{data.star}"), Some(Target::Room("*".into())));
        assert_eq!(fill("pattern:{data.customer}:*"), Some(Target::Pattern("ada:*".into())));
        assert_eq!(fill("pattern:{data.star}:*"), None, "a client must not widen a pattern");
        assert_eq!(fill("user:{data.list}"), None);
    }

    #[test]
    fn a_bad_template_says_what_is_wrong() {
        for text in ["", "usr:x", "user:", "user:{data.x", "user:{dta.x}", "user:{data.}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
