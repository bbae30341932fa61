//! `wayleave plugin record`: what passes in a room, as cases for plugins.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::{
    client::Gateway,
    server::{follow, tail_of},
    to_toml::to_toml,
};
use crate::{config::Pattern, plugin::Hook};

/// Writes what passes in a room as cases without answers, by the server API.
///
/// Messages are seen as they are delivered, after the plugins that are in force.
/// Texts and who sent them are made unknowable unless --keep names the field or
/// --plain leaves all as it is; numbers and the names of fields and rooms stay.
/// The key is taken from the variable `WAYLEAVE_API_KEY`, or from the config.
#[derive(Debug, clap::Args)]
pub(super) struct Record {
    /// The file to be written.
    file: PathBuf,
    /// The room; with `*`, all rooms that match.
    #[arg(long)]
    room: String,
    /// How long; Ctrl-C ends it sooner.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// At most so many messages.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// The hook of the cases.
    #[arg(long, default_value = "transform", value_parser = hook)]
    hook: Hook,
    /// Keep the texts of this field; may be given several times.
    #[arg(long, value_name = "FIELD")]
    keep: Vec<String>,
    /// Keep everything as it is.
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    gateway: Gateway,
}

fn hook(word: &str) -> Result<Hook, String> {
    const OF_MESSAGES: [Hook; 3] = [Hook::AuthorizePublish, Hook::Transform, Hook::Route];
    let found = OF_MESSAGES.into_iter().find(|hook| hook.key() == word);
    found.ok_or_else(|| "expected a hook of messages: authorize_publish, transform or route".to_owned())
}

pub(super) fn main(record: &Record) -> ExitCode {
    super::block_on(record.run())
}

impl Record {
    async fn run(&self) -> anyhow::Result<()> {
        let place = self.file.display();
        ensure!(!self.file.exists(), "`{place}` is there already; nothing was changed");
        let messages = self.listen().await?;
        ensure!(!messages.is_empty(), "nothing was said in `{}`, so nothing was written", self.room);
        // Somebody may have made it meanwhile.
        let mut file = std::fs::File::create_new(&self.file).with_context(|| format!("`{place}` cannot be made"))?;
        std::io::Write::write_all(&mut file, self.document(&messages).to_string().as_bytes())
            .with_context(|| format!("`{place}` cannot be written"))?;
        let n = messages.len();
        let messages = if n == 1 { "message" } else { "messages" };
        println!("{n} {messages} in {place}; `wayleave plugin test --update` adds what a plugin answers");
        Ok(())
    }

    /// The messages that pass until the time is over.
    async fn listen(&self) -> anyhow::Result<Vec<Value>> {
        let pattern = Pattern::parse(&self.room).map_err(|why| anyhow::anyhow!("--room: {why}"))?;
        let room = (!self.room.contains('*')).then_some(self.room.as_str());
        let answer = self.gateway.api()?.ask(&tail_of(room, None), &json!({})).await?;
        eprintln!("recording `{}` for {}", self.room, humantime::format_duration(self.duration));
        let mut messages = Vec::new();
        let listening = follow(answer, |line| {
            let said: Value = serde_json::from_slice(line)?;
            let is_wanted = said["type"] == "message"
                && said.get("data").is_some()
                && said["channel"].as_str().is_some_and(|room| pattern.matches(room));
            if is_wanted {
                messages.push(said);
            }
            ensure!(messages.len() < self.count as usize, ENOUGH);
            Ok(())
        });
        tokio::select! {
            ended = listening => match ended {
                Ok(why) => eprintln!("the tail has ended: {why}"),
                Err(error) if error.to_string() == ENOUGH => {}
                Err(error) => return Err(error),
            },
            () = tokio::time::sleep(self.duration) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(messages)
    }

    fn document(&self, messages: &[Value]) -> DocumentMut {
        let mut stand_ins = StandIns::default();
        let mut cases = ArrayOfTables::new();
        for (n, said) in messages.iter().enumerate() {
            let mut case = Table::new();
            case.decor_mut().set_prefix("\n");
            case.insert("name", value(format!("message {}", n + 1)));
            case.insert("hook", value(self.hook.key()));
            case.insert("room", value(said["channel"].as_str().unwrap_or_default()));
            let (data, client) = if self.plain {
                (said["data"].clone(), client(said, |_, name| name.to_owned()))
            } else {
                let kept = self.keep.iter().map(String::as_str).collect();
                (hidden(&said["data"], &kept), client(said, |kind, name| stand_ins.of(kind, name)))
            };
            if let Some(client) = to_toml(&client).filter(|_| client != json!({})) {
                case.insert("client", value(client));
            }
            match to_toml(&data) {
                Some(data) => case.insert("data", value(data)),
                None => case.insert("json", value(data.to_string())),
            };
            cases.push(case);
        }
        let mut document = DocumentMut::new();
        let head =
            "# Recorded, as it was delivered. [plugin] may say settings and grants, as its entry in the config.\n\n";
        let mut plugin = Table::new();
        plugin.decor_mut().set_prefix(head);
        document.insert("plugin", Item::Table(plugin));
        document.insert("cases", Item::ArrayOfTables(cases));
        document
    }
}

/// How `follow` is told that there is enough.
const ENOUGH: &str = "enough";

/// Who sent it, with other names in place of theirs.
fn client(said: &Value, mut name: impl FnMut(&'static str, &str) -> String) -> Value {
    let mut fields = serde_json::Map::new();
    for (from, to) in [("client", "connection"), ("user", "user")] {
        if let Some(given) = said["from"][from].as_str() {
            fields.insert(to.to_owned(), json!(name(to, given)));
        }
    }
    Value::Object(fields)
}

/// The same name for the same one, told in the order in which they came.
#[derive(Debug, Default)]
struct StandIns(BTreeMap<(&'static str, String), usize>);

impl StandIns {
    fn of(&mut self, kind: &'static str, name: &str) -> String {
        let n = 1 + self.0.keys().filter(|(other, _)| *other == kind).count();
        let n = *self.0.entry((kind, name.to_owned())).or_insert(n);
        format!("{kind}-{n}")
    }
}

/// The value with its texts made unknowable: as long, with letters for letters
/// and digits for digits.
fn hidden(json: &Value, kept: &BTreeSet<&str>) -> Value {
    match json {
        Value::String(text) => Value::String(text.chars().map(hidden_char).collect()),
        Value::Array(items) => items.iter().map(|item| hidden(item, kept)).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                let value = if kept.contains(key.as_str()) { value.clone() } else { hidden(value, kept) };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn hidden_char(c: char) -> char {
    match c {
        c if c.is_numeric() => '0',
        c if c.is_uppercase() => 'X',
        c if c.is_alphabetic() => 'x',
        // Signs tell how a text is built, and not what it says.
        c if c.is_ascii() => c,
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_hidden_unless_their_field_is_kept() {
        let said = json!({ "text": "Ask @Ada, 42ß!", "kind": "chat", "n": 42, "list": ["a", null, { "kind": ["b"] }] });
        let expected =
            json!({ "text": "Xxx @Xxx, 00x!", "kind": "chat", "n": 42, "list": ["x", null, { "kind": ["b"] }] });
        assert_eq!(hidden(&said, &BTreeSet::from(["kind"])), expected);
        assert_eq!(hidden(&json!("日本 🎉"), &BTreeSet::new()), json!("xx ?"));
    }

    #[test]
    fn names_are_the_same_for_the_same() {
        let mut names = StandIns::default();
        let told = ["ada", "bob", "ada"].map(|name| names.of("user", name));
        assert_eq!(told, ["user-1", "user-2", "user-1"]);
        assert_eq!(names.of("connection", "ada"), "connection-1");
    }
}
