//! Which messages of a room somebody wants, by their tags.

use std::cmp::Ordering;

use super::Tag;

/// Comparisons, groups and listed values in one filter.
const NODES: usize = 256;

/// Groups within groups.
const DEPTH: usize = 8;

/// A filter as it stands on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `and`, `or`, `not`, or empty for a comparison.
    pub op: String,
    /// The tag that is compared.
    pub key: String,
    /// How.
    pub cmp: String,
    /// With what.
    pub val: String,
    /// With which, for `in` and `nin`.
    pub vals: Vec<String>,
    /// What is joined by `op`.
    pub nodes: Vec<Rule>,
}

/// A filter that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    All(Vec<Filter>),
    /// One of them.
    Any(Vec<Filter>),
    /// Not it.
    Not(Box<Filter>),
    /// A tag by this name compares so.
    Tag(String, Test),
}

/// What a tag must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// There.
    Present,
    /// Not there.
    Absent,
    /// One of these.
    In(Vec<String>),
    /// None of these, or not there.
    NotIn(Vec<String>),
    /// Begins so.
    Starts(String),
    /// Ends so.
    Ends(String),
    /// Has this in it.
    Contains(String),
    /// A number that stands so to this one.
    Number(Relation, String),
}

/// How two numbers stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
}

/// A decimal number, compared exactly: its sign, the digits before the point
/// without leading zeros, and those behind it without trailing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { is_negative: is_negative && !is_zero, whole, fraction })
    }

    fn size(&self) -> (usize, &str, &str) {
        (self.whole.len(), self.whole, self.fraction)
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.is_negative, other.is_negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.size().cmp(&other.size()),
            (true, true) => other.size().cmp(&self.size()),
        }
    }
}

impl Filter {
    /// Err: what is wrong with it.
    ///
    /// # Errors
    /// If it makes no sense, or is larger than 256 comparisons, groups and listed
    /// values in 8 levels.
    pub fn new(rule: Rule) -> Result<Self, &'static str> {
        let mut left = NODES;
        Self::build(rule, DEPTH, &mut left)
    }

    fn build(rule: Rule, depth: usize, left: &mut usize) -> Result<Self, &'static str> {
        let Rule { op, key, cmp, val, vals, nodes } = rule;
        let depth = depth.checked_sub(1).ok_or("a filter with too many levels")?;
        *left = left.checked_sub(1 + vals.len()).ok_or("a filter with too many parts")?;
        if op.is_empty() {
            return if key.is_empty() { Err("a comparison without a key") } else { test(&cmp, val, vals, key) };
        }
        let mut parts = nodes.into_iter().map(|node| Self::build(node, depth, left)).collect::<Result<Vec<_>, _>>()?;
        match (op.as_str(), parts.len()) {
            ("and", 1..) => Ok(Self::All(parts)),
            ("or", 1..) => Ok(Self::Any(parts)),
            ("not", 1) => parts.pop().map(|part| Self::Not(Box::new(part))).ok_or("`not` of nothing"),
            ("and" | "or" | "not", _) => Err("a group with too few or too many parts"),
            _ => Err("a group that is none of `and`, `or` and `not`"),
        }
    }

    /// True if a message with these tags is wanted.
    #[must_use]
    pub fn passes(&self, tags: &[Tag<'_>]) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.passes(tags)),
            Self::Any(parts) => parts.iter().any(|part| part.passes(tags)),
            Self::Not(part) => !part.passes(tags),
            Self::Tag(key, test) => {
                test.passes(tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_ref()))
            }
        }
    }
}

fn test(cmp: &str, val: String, vals: Vec<String>, key: String) -> Result<Filter, &'static str> {
    let number = |relation| {
        Decimal::parse(&val).ok_or("a comparison with what is no number")?;
        Ok::<_, &'static str>(Test::Number(relation, val.clone()))
    };
    let test = match cmp {
        "eq" => Test::In(vec![val]),
        "neq" => Test::NotIn(vec![val]),
        "in" => Test::In(vals),
        "nin" => Test::NotIn(vals),
        "ex" => Test::Present,
        "nex" => Test::Absent,
        "sw" => Test::Starts(val),
        "ew" => Test::Ends(val),
        "ct" => Test::Contains(val),
        "gt" => number(Relation::Greater)?,
        "gte" => number(Relation::AtLeast)?,
        "lt" => number(Relation::Less)?,
        "lte" => number(Relation::AtMost)?,
        _ => return Err("a comparison that is not known"),
    };
    Ok(Filter::Tag(key, test))
}

impl Test {
    fn passes(&self, value: Option<&str>) -> bool {
        let Some(value) = value else { return matches!(self, Self::Absent | Self::NotIn(_)) };
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::In(values) => values.iter().any(|one| one == value),
            Self::NotIn(values) => values.iter().all(|one| one != value),
            Self::Starts(start) => value.starts_with(start),
            Self::Ends(end) => value.ends_with(end),
            Self::Contains(part) => value.contains(part),
            Self::Number(relation, number) => {
                Decimal::parse(value).zip(Decimal::parse(number)).is_some_and(|(value, number)| match relation {
                    Relation::Greater => value > number,
                    Relation::AtLeast => value >= number,
                    Relation::Less => value < number,
                    Relation::AtMost => value <= number,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(key: &str, cmp: &str, val: &str) -> Rule {
        Rule { key: key.into(), cmp: cmp.into(), val: val.into(), ..Rule::default() }
    }

    fn group(op: &str, nodes: Vec<Rule>) -> Rule {
        Rule { op: op.into(), nodes, ..Rule::default() }
    }

    fn passes(rule: Rule, tags: &[(&'static str, &'static str)]) -> bool {
        let tags: Vec<Tag<'_>> = tags.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Filter::new(rule).unwrap().passes(&tags)
    }

    #[test]
    fn each_comparison_does_what_it_says() {
        let tags = [("team", "red"), ("level", "12.50")];
        for (key, cmp, val, expected) in [
            ("team", "eq", "red", true),
            ("team", "eq", "re", false),
            ("team", "neq", "blue", true),
            ("none", "neq", "blue", true),
            ("none", "eq", "", false),
            ("team", "ex", "", true),
            ("none", "ex", "", false),
            ("none", "nex", "", true),
            ("team", "sw", "re", true),
            ("team", "ew", "ed", true),
            ("team", "ct", "e", true),
            ("team", "ct", "x", false),
            ("level", "gt", "9", true),
            ("level", "gt", "12.5", false),
            ("level", "gte", "12.5", true),
            ("level", "lt", "-100", false),
            ("level", "lt", "12.51", true),
            ("level", "lte", "012.5", true),
            ("team", "gt", "1", false),
            ("none", "lt", "1", false),
        ] {
            assert_eq!(passes(leaf(key, cmp, val), &tags), expected, "{key} {cmp} {val}");
        }
        let among = |cmp: &str| Rule { vals: vec!["red".into(), "blue".into()], ..leaf("team", cmp, "") };
        assert!(passes(among("in"), &tags) && !passes(among("nin"), &tags));
    }

    #[test]
    fn numbers_are_compared_exactly() {
        let is_less = |a: &str, b: &str| Decimal::parse(a) < Decimal::parse(b);
        assert!(is_less("9007199254740992", "9007199254740993"));
        assert!(is_less("-2", "-1") && is_less("-1", "0") && !is_less("-0", "0") && is_less("0.09", "0.1"));
        assert!(Decimal::parse("").is_none() && Decimal::parse("1e3").is_none() && Decimal::parse(".").is_none());
    }

    #[test]
    fn groups_join_what_is_in_them() {
        let red = || leaf("team", "eq", "red");
        let high = || leaf("level", "gt", "5");
        let check = |rule: Rule| passes(rule, &[("team", "red"), ("level", "1")]);
        assert!(!check(group("and", vec![red(), high()])));
        assert!(check(group("or", vec![red(), high()])));
        assert!(check(group("and", vec![red(), group("not", vec![high()])])));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let deep = (0..DEPTH).fold(leaf("a", "ex", ""), |rule, _| group("and", vec![rule]));
        let wide = group("or", vec![leaf("a", "ex", ""); NODES]);
        for rule in [
            Rule::default(),
            leaf("", "eq", "x"),
            leaf("a", "like", "x"),
            leaf("a", "gt", "x"),
            group("xor", vec![leaf("a", "ex", "")]),
            group("and", Vec::new()),
            group("not", vec![leaf("a", "ex", ""), leaf("b", "ex", "")]),
            deep,
            wide,
            Rule { vals: vec![String::new(); NODES], ..leaf("a", "in", "") },
        ] {
            assert!(Filter::new(rule.clone()).is_err(), "{rule:?}");
        }
    }
}
