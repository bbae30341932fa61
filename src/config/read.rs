//! Reads a TOML document key by key and keeps every mistake with its line.
//!
//! serde would stop at the first mistake; an operator wants them all at once.
//! Each getter takes a key, remembers that it is known, and on a wrong value
//! notes what was expected and goes on with the default.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use super::value::{Size, Value, to_json};

/// One thing wrong with the config: where, what, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Line in the file, from 1; 0 when it is not about a line.
    pub line: usize,
    /// The key, as `section.key`, or the environment variable.
    pub key: String,
    /// What is wrong and what would be right.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.key.as_str()) {
            (0, "") => write!(f, "{}", self.text),
            (0, key) => write!(f, "{key}: {}", self.text),
            (line, "") => write!(f, "line {line}: {}", self.text),
            (line, key) => write!(f, "line {line}: {key}: {}", self.text),
        }
    }
}

/// The document being read, with its mistakes so far.
pub(super) struct Document<'a> {
    text: &'a str,
    environment: &'a BTreeMap<String, String>,
    used: RefCell<BTreeSet<String>>,
    known: RefCell<BTreeSet<String>>,
    mistakes: RefCell<Vec<Mistake>>,
}

/// Prefix of environment variables that stand over the file.
const PREFIX: &str = "WAYLEAVE_";

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, environment: &'a BTreeMap<String, String>) -> Self {
        Self { text, environment, used: RefCell::default(), known: RefCell::default(), mistakes: RefCell::default() }
    }

    pub(super) fn mistake(&self, span: Option<Range<usize>>, key: impl Into<String>, text: impl Into<String>) {
        let line = span.map_or(0, |span| self.line(&span));
        self.mistakes.borrow_mut().push(Mistake { line, key: key.into(), text: text.into() });
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let end = span.start.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Ends a reading that did not come to the keys.
    pub(super) fn finish_syntax(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }

    /// Ends the reading: variables that no key used are mistakes as well.
    pub(super) fn finish(self) -> Vec<Mistake> {
        for name in self.environment.keys().filter(|name| name.starts_with(PREFIX)) {
            if !self.used.borrow().contains(name) {
                let known = self.known.borrow();
                let near = nearest(name, known.iter().map(String::as_str));
                self.mistakes.borrow_mut().push(Mistake {
                    line: 0,
                    key: name.clone(),
                    text: format!("this environment variable stands for no key{near}"),
                });
            }
        }
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort();
        mistakes
    }
}

/// ", did you mean `x`?" for the known name nearest to `name`, or nothing.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// A table of the document and the keys that were asked of it.
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    span: Option<Range<usize>>,
    asked: RefCell<Vec<&'static str>>,
    /// Tables in lists have no stable name, so no variable stands for them.
    in_list: bool,
}

impl<'a> Table<'a> {
    pub(super) fn root(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            document,
            path: String::new(),
            table: Some(table),
            span: None,
            asked: RefCell::default(),
            in_list: false,
        }
    }

    /// The same where no variables stand over the file.
    pub(super) fn without_variables(self) -> Self {
        Self { in_list: true, ..self }
    }

    /// The line where it begins, from 1.
    pub(super) fn line(&self) -> usize {
        self.span.as_ref().map_or(1, |span| self.document.line(span))
    }

    fn find(&self, key: &'static str) -> Option<&'a toml::Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        let table = self.table?;
        table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key`, if it is there and right.
    pub(super) fn optional<V: Value>(&self, key: &'static str) -> Option<V> {
        let found = self.find(key);
        if !self.in_list {
            let variable = format!("{PREFIX}{}", self.name(key).replace('.', "_").to_uppercase());
            self.document.known.borrow_mut().insert(variable.clone());
            if let Some(text) = self.document.environment.get(&variable) {
                self.document.used.borrow_mut().insert(variable.clone());
                return V::from_text(text)
                    .map_err(|expected| self.document.mistake(None, variable, format!("expected {expected}")))
                    .ok();
            }
        }
        let value = found?;
        V::from_toml(value.get_ref()).map_err(|expected| self.wrong(key, format!("expected {expected}"))).ok()
    }

    pub(super) fn or<V: Value>(&self, key: &'static str, default: V) -> V {
        self.optional(key).unwrap_or(default)
    }

    /// A whole number within `range`.
    pub(super) fn number(&self, key: &'static str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let value = self.or(key, default);
        if range.contains(&value) {
            return value;
        }
        self.wrong(key, format!("{value} is out of range; expected {} to {}", range.start(), range.end()));
        default
    }

    /// A number within `range`, if there is one.
    pub(super) fn optional_number(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.optional(key)?;
        if range.contains(&value) {
            return Some(value);
        }
        self.wrong(key, format!("{value} is out of range; expected {} to {}", range.start(), range.end()));
        None
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        self.optional_duration(key, range).unwrap_or(default)
    }

    /// The same where there need not be one.
    pub(super) fn optional_duration(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = self.optional(key)?;
        if range.contains(&value) {
            return Some(value);
        }
        let (low, high) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        self.wrong(key, format!("{} is out of range; expected {low} to {high}", humantime::format_duration(value)));
        None
    }

    /// A size in bytes within `range`, if there is one.
    pub(super) fn optional_size(&self, key: &'static str, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        self.optional::<Size>(key).map(|Size(default)| self.size(key, default, range))
    }

    /// A size in bytes within `range`.
    pub(super) fn size(&self, key: &'static str, default: usize, range: std::ops::RangeInclusive<usize>) -> usize {
        let Size(value) = self.or(key, Size(default));
        if range.contains(&value) {
            return value;
        }
        self.wrong(key, format!("{value} bytes is out of range; expected {} to {} bytes", range.start(), range.end()));
        default
    }

    /// One word out of a few; the first is the default.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> T {
        let Some(word) = self.optional::<String>(key) else { return choices[0].1 };
        choices.iter().find(|(name, _)| *name == word).map_or_else(
            || {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!(r#""{name}""#)).collect();
                let near = nearest(&word, choices.iter().map(|(name, _)| *name));
                self.wrong(key, format!(r#""{word}" is not known; expected {}{near}"#, names.join(", ")));
                choices[0].1
            },
            |(_, value)| *value,
        )
    }

    /// A value that must be there.
    pub(super) fn required<V: Value>(&self, key: &'static str) -> Option<V> {
        let value = self.optional(key);
        let present = self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key));
        if value.is_none() && !present {
            self.document.mistake(self.span.clone(), self.name(key), "this key is required");
        }
        value
    }

    /// A variable of the environment that the config names.
    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        self.document.used.borrow_mut().insert(name.to_owned());
        self.document.environment.get(name).map(String::as_str)
    }

    /// True if the key stands there, whatever it holds.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// Notes a mistake at `key`'s line, or at the table's when it is absent.
    pub(super) fn wrong(&self, key: &str, text: impl Into<String>) {
        let span = self
            .table
            .and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key))
            .map(|(name, _)| name.span())
            .or_else(|| self.span.clone());
        self.document.mistake(span, self.name(key), text);
    }

    /// The table under `key`; an absent one reads as empty.
    pub(super) fn section(&self, key: &'static str) -> Table<'a> {
        let found = self.find(key);
        let table = found.and_then(|value| value.get_ref().as_table());
        if found.is_some() && table.is_none() {
            self.wrong(key, format!("expected a table, as in [{}]", self.name(key)));
        }
        Table {
            document: self.document,
            path: self.name(key),
            table,
            span: found.map(toml::Spanned::span),
            asked: RefCell::default(),
            in_list: self.in_list,
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The tables of a `[[key]]` list.
    pub(super) fn list(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let Some(array) = found.get_ref().as_array() else {
            self.wrong(key, format!("expected a list of tables, as in [[{key}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let path = format!("{}[{index}]", self.name(key));
            let table = item.get_ref().as_table();
            if table.is_none() {
                self.document.mistake(Some(item.span()), path.clone(), format!("expected a table, as in [[{key}]]"));
                continue;
            }
            tables.push(Table {
                document: self.document,
                path,
                table,
                span: Some(item.span()),
                asked: RefCell::default(),
                in_list: true,
            });
        }
        tables
    }

    /// The table under `key` as JSON, whatever it holds.
    pub(super) fn json(&self, key: &'static str) -> serde_json::Value {
        self.find(key).map_or_else(|| serde_json::json!({}), |value| to_json(value.get_ref()))
    }

    /// Refers to `key` without reading it: true if it holds a table.
    pub(super) fn holds_table(&self, key: &str) -> bool {
        self.table
            .and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key))
            .is_some_and(|(_, value)| value.get_ref().is_table())
    }

    /// The same: true if it holds a list.
    pub(super) fn holds_list(&self, key: &str) -> bool {
        self.table
            .and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key))
            .is_some_and(|(_, value)| value.get_ref().is_array())
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        self.report_unknown();
    }

    /// The same for a table that others still hold.
    pub(super) fn report_unknown(&self) {
        let Some(table) = self.table else { return };
        let asked = self.asked.borrow();
        for name in table.keys().filter(|name| !asked.contains(&name.get_ref().as_ref())) {
            let near = nearest(name.get_ref(), asked.iter().copied());
            self.document.mistake(Some(name.span()), self.name(name.get_ref()), format!("this key is not known{near}"));
        }
    }
}
