//! Files of cases, as `wayleave plugin test` runs them: what a plugin is asked,
//! and what it is to answer.
//!
//! A case asks once, or in steps that share the plugin's store. What a step does
//! not say holds as its case says it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value};
use toml::de::DeTable;

use super::{
    ConfigError, Mistake, PluginConfig,
    plugins::read_plugin,
    read::{Document, Table, nearest},
};
use crate::{
    plugin::{Hook, Policy},
    protocol::{MemberInfo, Payload},
};

mod expect;

pub(crate) use self::expect::Expect;

/// Where a case's clock stands if it does not say: 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600_000;

/// A file of cases.
#[derive(Debug, Clone)]
pub(crate) struct CaseFile {
    /// The file itself.
    pub(crate) path: PathBuf,
    /// Its `[plugin]`; name and path are those of whatever plugin is asked.
    pub(crate) plugin: PluginConfig,
    pub(crate) cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// In place of those of the file.
    pub(crate) settings: Option<Value>,
    /// What the plugin has kept before.
    pub(crate) kv: Vec<(String, Payload)>,
    /// At least one.
    pub(crate) steps: Vec<Step>,
    /// False: the case itself is the one step.
    pub(crate) has_steps: bool,
}

/// One question and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Where it stands in the file.
    pub(crate) line: usize,
    /// None: `init`.
    pub(crate) hook: Option<Hook>,
    pub(crate) connection: String,
    pub(crate) user: String,
    /// JSON, or empty.
    pub(crate) info: String,
    pub(crate) room: String,
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) library: String,
    pub(crate) version: String,
    pub(crate) method: String,
    pub(crate) payload: Option<Payload>,
    pub(crate) event: &'static str,
    pub(crate) now: u64,
    /// Who is in which room.
    pub(crate) lookup: BTreeMap<String, Vec<MemberInfo>>,
    /// What cannot be reached.
    pub(crate) away: Away,
    /// None: to be written by `--update`.
    pub(crate) expect: Option<Expect>,
}

/// Which of the imports that may be unavailable are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Away {
    pub(crate) kv: bool,
    pub(crate) lookup: bool,
}

impl CaseFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every mistake in it, or that it cannot be read.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let fail = |mistakes| ConfigError { file: Some(path.to_owned()), mistakes };
        let text = std::fs::read_to_string(path).map_err(|error| {
            fail(vec![Mistake { line: 0, key: String::new(), text: format!("cannot be read: {error}") }])
        })?;
        Self::parse(path, &text).map_err(fail)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Vec<Mistake>> {
        // For `[plugin.secrets]`.
        let variables = std::env::vars_os();
        let variables =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let variables = variables.collect();
        let document = Document::new(text, &variables);
        let (table, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            document.mistake(error.span(), "", error.message().trim());
        }
        if !syntax.is_empty() {
            return Err(document.finish_syntax());
        }
        let file = Self::read(&Table::root(&document, table.get_ref()).without_variables(), path);
        let mut mistakes = document.finish_syntax();
        mistakes.sort();
        if mistakes.is_empty() { Ok(file) } else { Err(mistakes) }
    }

    fn read(root: &Table<'_>, path: &Path) -> Self {
        let folder = path.parent().unwrap_or(Path::new(""));
        let plugin = read_plugin(root.section("plugin"), String::new(), PathBuf::new(), folder);
        let tables = root.list("cases");
        if tables.is_empty() && !root.has("cases") {
            root.wrong("cases", "there are none; a case begins with [[cases]]");
        }
        let mut cases: Vec<Case> = Vec::new();
        for table in tables {
            let case = Case::read(&table);
            if cases.iter().any(|other| other.name == case.name) {
                table.wrong("name", format!("there are two cases named `{}`", case.name));
            }
            table.finish();
            cases.push(case);
        }
        root.report_unknown();
        Self { path: path.to_owned(), plugin, cases }
    }
}

impl Case {
    fn read(table: &Table<'_>) -> Self {
        let name = table.required("name").unwrap_or_default();
        let settings = table.has("settings").then(|| table.json("settings"));
        if settings.as_ref().is_some_and(|settings| !settings.is_object()) {
            table.wrong("settings", "expected a table, as in [cases.settings]");
        }
        let kept = table.json("kv");
        if !kept.is_object() {
            table.wrong("kv", "expected a table of keys with their values");
        }
        let mut kv = Vec::new();
        for (key, value) in kept.as_object().into_iter().flatten() {
            match kept_payload(value) {
                Ok(value) => kv.push((key.clone(), value)),
                Err(expected) => table.wrong("kv", format!("`{key}`: {expected}")),
            }
        }
        let own = Step::read(table, None);
        let mut steps = Vec::new();
        for each in table.list("steps") {
            let before = steps.last().map_or(own.now, |step: &Step| step.now);
            let step = Step::read(&each, Some((&own, before)));
            step.check(&each, table.has("hook") || each.has("hook"));
            each.finish();
            steps.push(step);
        }
        let has_steps = table.has("steps");
        if has_steps {
            if table.has("expect") {
                table.wrong("expect", "belongs into each of the `steps`");
            }
            if steps.is_empty() {
                table.wrong("steps", "there are none");
            }
        } else {
            own.check(table, table.has("hook"));
            steps.push(own);
        }
        Self { name, settings, kv, steps, has_steps }
    }
}

/// What happened, for `observe`.
const EVENTS: &[(&str, &str)] =
    &[("connected", "connected"), ("disconnected", "disconnected"), ("joined", "joined"), ("left", "left")];

impl Step {
    /// `of`: the case that it belongs to, and when the step before it was.
    fn read(table: &Table<'_>, of: Option<(&Self, u64)>) -> Self {
        let case = of.map(|(case, _)| case);
        let text = |key, pick: fn(&Self) -> &String, default: &str| {
            table.optional(key).unwrap_or_else(|| case.map_or_else(|| default.to_owned(), |case| pick(case).clone()))
        };
        let client = read_client(table, case);
        let event =
            if table.has("event") { table.choice("event", EVENTS) } else { case.map_or("joined", |case| case.event) };
        Self {
            line: table.line(),
            hook: read_hook(table).unwrap_or_else(|| case.and_then(|case| case.hook)),
            connection: client.0,
            user: client.1,
            info: client.2,
            room: text("room", |case| &case.room, "room:1"),
            id: text("id", |case| &case.id, "message-1"),
            token: text("token", |case| &case.token, ""),
            library: text("library", |case| &case.library, "test"),
            version: text("version", |case| &case.version, "1.0.0"),
            method: text("method", |case| &case.method, ""),
            payload: read_payload(table).or_else(|| case?.payload.clone()),
            event,
            now: read_now(table, of),
            lookup: read_lookup(table).or_else(|| Some(case?.lookup.clone())).unwrap_or_default(),
            away: read_away(table).or_else(|| Some(case?.away)).unwrap_or_default(),
            expect: Expect::read(table),
        }
    }

    /// What its hook needs.
    fn check(&self, table: &Table<'_>, says_hook: bool) {
        if !says_hook {
            let text = format!("this key is required: which hook is asked, one of {}", hook_names().join(", "));
            return table.wrong("hook", text);
        }
        let needs_payload = matches!(self.hook, Some(Hook::AuthorizePublish | Hook::Transform | Hook::Route));
        let says_payload = PAYLOAD_KEYS.iter().any(|key| table.has(key));
        if needs_payload && self.payload.is_none() && !says_payload {
            table.wrong("data", "a message has `data`, `text`, `json` or `binary`");
        }
        if let Some(expect) = &self.expect {
            expect.check(self.hook, table);
        }
    }
}

/// None: it is not said. Some(None): `init`.
#[expect(clippy::option_option, reason = "a step without a word of it has its case's")]
fn read_hook(table: &Table<'_>) -> Option<Option<Hook>> {
    let word = table.optional::<String>("hook")?;
    if word == "init" {
        return Some(None);
    }
    let hook = Hook::ALL.iter().find(|hook| hook.key() == word);
    if hook.is_none() {
        let near = nearest(&word, hook_names().into_iter());
        table.wrong("hook", format!("`{word}` is no hook; expected one of {}{near}", hook_names().join(", ")));
    }
    Some(hook.copied())
}

fn hook_names() -> Vec<&'static str> {
    std::iter::once("init").chain(Hook::ALL.iter().map(|hook| hook.key())).collect()
}

/// Connection, user and info.
fn read_client(table: &Table<'_>, case: Option<&Step>) -> (String, String, String) {
    let client = table.section("client");
    if !client.is_present() {
        // A step that says nothing is its case's client, which may be the server: without a connection.
        let nobody = || ("connection-1".to_owned(), String::new(), String::new());
        return case.map_or_else(nobody, |case| (case.connection.clone(), case.user.clone(), case.info.clone()));
    }
    let connection = client.or("connection", "connection-1".to_owned());
    let user = client.or("user", String::new());
    // Not all JSON can be written in TOML: there is no null.
    let info = match client.optional::<String>("info_json") {
        Some(text) => {
            if let Err(error) = serde_json::from_str::<Value>(&text) {
                client.wrong("info_json", format!("is no JSON: {error}"));
            }
            text
        }
        None if client.has("info") => client.json("info").to_string(),
        None => String::new(),
    };
    client.finish();
    (connection, user, info)
}

fn read_now(table: &Table<'_>, of: Option<(&Step, u64)>) -> u64 {
    let before = of.map_or(NOW, |(_, before)| before);
    let after = table.optional_duration("after", Duration::ZERO..=Duration::from_secs(10 * 365 * 24 * 3600));
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let moved = before.saturating_add(after.map_or(0, millis));
    if !table.has("now") {
        return moved;
    }
    match table.json("now") {
        Value::Number(number) if number.as_u64().is_some() => number.as_u64().unwrap_or_default(),
        Value::String(text) => humantime::parse_rfc3339_weak(&text)
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or_else(
                || {
                    table.wrong("now", "expected a moment, as in 2026-01-01T00:00:00Z, or milliseconds since 1970");
                    moved
                },
                millis,
            ),
        _ => {
            table.wrong("now", "expected a moment, as in 2026-01-01T00:00:00Z, or milliseconds since 1970");
            moved
        }
    }
}

/// Rooms with their members: users, or tables of `user`, `connection` and `info`.
fn read_lookup(table: &Table<'_>) -> Option<BTreeMap<String, Vec<MemberInfo>>> {
    if !table.has("lookup") {
        return None;
    }
    let rooms = table.json("lookup");
    let wrong = || {
        let expected = r#"expected rooms with their members, as in { "chat:1" = ["ada", { user = "bob" }] }"#;
        table.wrong("lookup", expected);
    };
    let Some(rooms) = rooms.as_object() else {
        wrong();
        return None;
    };
    let mut found = BTreeMap::new();
    let mut n = 0;
    for (room, members) in rooms {
        let mut list = Vec::new();
        for member in members.as_array().into_iter().flatten() {
            n += 1;
            let field = |key: &str| member[key].as_str();
            let Some(user) = member.as_str().or_else(|| field("user")) else {
                wrong();
                continue;
            };
            list.push(MemberInfo {
                connection: field("connection").map_or_else(|| format!("member-{n}"), str::to_owned),
                user: user.into(),
                info: member.get("info").map(Value::to_string).unwrap_or_default().into(),
                room_info: "".into(),
            });
        }
        if !members.is_array() {
            wrong();
        }
        found.insert(room.clone(), list);
    }
    Some(found)
}

fn read_away(table: &Table<'_>) -> Option<Away> {
    let words = table.optional::<Vec<String>>("unavailable")?;
    if words.iter().any(|word| word != "kv" && word != "lookup") {
        table.wrong("unavailable", r#"expected some of "kv", "lookup""#);
    }
    let has = |name: &str| words.iter().any(|word| word == name);
    Some(Away { kv: has("kv"), lookup: has("lookup") })
}

/// The keys of which one holds a payload.
pub(crate) const PAYLOAD_KEYS: [&str; 4] = ["data", "text", "json", "binary"];

fn read_payload(table: &Table<'_>) -> Option<Payload> {
    let mut found = Map::new();
    for key in PAYLOAD_KEYS {
        // Asked for in any case, so that it counts as known.
        let value = table.json(key);
        if table.has(key) {
            found.insert(key.to_owned(), value);
        }
    }
    let (key, value) = found.iter().next()?;
    if found.len() > 1 {
        table.wrong(key, "a payload is one of `data`, `text`, `json` and `binary`");
    }
    payload(key, value).map_err(|expected| table.wrong(key, expected)).ok()
}

/// Reads one of the four forms of a payload.
fn payload(key: &str, value: &Value) -> Result<Payload, String> {
    let text = || value.as_str().ok_or_else(|| "expected a text in quotes".to_owned());
    match key {
        "data" => Ok(Payload::Text(value.to_string())),
        "binary" => data_encoding::BASE64
            .decode(text()?.as_bytes())
            .map(Payload::Binary)
            .map_err(|error| format!("is no base64: {error}")),
        _ => match serde_json::from_str::<serde::de::IgnoredAny>(text()?) {
            Ok(_) => Ok(Payload::Text(text()?.to_owned())),
            Err(error) => Err(format!("is no JSON, and a text of a client is: {error}")),
        },
    }
}

/// What is kept under a key: a text stands for itself, `{ binary = "…" }` for
/// bytes, anything else for its JSON.
pub(crate) fn kept_payload(value: &Value) -> Result<Payload, String> {
    match value {
        Value::String(text) => Ok(Payload::Text(text.clone())),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("binary") => {
            payload("binary", &fields["binary"])
        }
        other => Ok(Payload::Text(other.to_string())),
    }
}

/// Policies mean nothing here: a failure is shown as one.
#[must_use]
pub(crate) fn named(template: &PluginConfig, name: &str, path: &Path, settings: Option<&Value>) -> PluginConfig {
    let mut plugin = PluginConfig { name: name.to_owned(), path: path.to_owned(), ..template.clone() };
    plugin.on_failure = Hook::ALL.iter().map(|hook| (*hook, Policy::Closed)).collect();
    if let Some(settings) = settings {
        plugin.settings.clone_from(settings);
    }
    plugin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CaseFile, Vec<Mistake>> {
        CaseFile::parse(Path::new("cases.toml"), text)
    }

    #[test]
    fn a_step_has_what_its_case_says_unless_it_says_more() {
        let file = parse(
            "[[cases]]\nname = \"a\"\nhook = \"transform\"\nroom = \"r\"\nclient = { user = \"ada\" }\ndata = 1\n\
             steps = [{ data = 2 }, { after = \"2s\", room = \"s\" }, { after = \"1s\", now = 1970-01-01T00:00:07Z }]\n",
        );
        let steps = file.unwrap().cases.remove(0).steps;
        let of = |pick: fn(&Step) -> String| steps.iter().map(pick).collect::<Vec<_>>();
        assert_eq!(of(|step| step.room.clone()), ["r", "s", "r"]);
        assert_eq!(of(|step| step.payload.as_ref().unwrap().to_json().into_owned()), ["2", "1", "1"]);
        assert_eq!(of(|step| step.user.clone()), ["ada"; 3]);
        assert_eq!(of(|step| step.now.to_string()), [NOW, NOW + 2_000, 7_000].map(|now| now.to_string()));
    }

    #[test]
    fn json_of_an_answer_is_the_data_that_it_stands_for() {
        let expect = |text: &str| {
            let text = format!("[[cases]]\nname = \"a\"\nhook = \"transform\"\ndata = 1\nexpect = {text}\n");
            parse(&text).unwrap().cases.remove(0).steps.remove(0).expect.unwrap()
        };
        let answer = serde_json::json!({ "replace": { "data": [null] } });
        assert_eq!(expect("{ replace = { json = '[null]' } }").answer, answer);
        let with_kv = expect("{ verdict = \"pass\", kv = { n = 1 } }");
        assert_eq!((with_kv.answer, with_kv.kv.unwrap()["n"].clone()), ("pass".into(), 1.into()));
    }

    #[test]
    fn what_is_kept_is_text_unless_it_is_written_as_bytes() {
        let kept = |json: Value| kept_payload(&json).unwrap();
        assert_eq!(kept("a".into()), Payload::Text("a".into()));
        assert_eq!(kept(3.into()), Payload::Text("3".into()));
        assert_eq!(kept(serde_json::json!({ "binary": "AQI=" })), Payload::Binary(vec![1, 2]));
    }

    #[test]
    fn each_step_must_be_asked_something() {
        let lines = |text: &str| parse(text).err().unwrap().iter().map(|mistake| mistake.line).collect::<Vec<_>>();
        assert_eq!(lines("[[cases]]\nname = \"a\"\n"), [1]);
        assert_eq!(lines("[[cases]]\nname = \"a\"\nsteps = [\n{ hook = \"tick\" },\n{ token = \"\" }]\n"), [5]);
        assert_eq!(lines("[[cases]]\nname = \"a\"\nhook = \"route\"\n"), [1]);
        assert_eq!(lines("[[cases]]\nname = \"a\"\nhook = \"route\"\ndata = 1\ntext = '1'\n"), [4]);
    }
}
