//! Plugins that are scripts: every hook through the engine, and whatever a
//! script gets wrong, said with its place.

use std::path::Path;

use serde_json::{Value, json};
use wayleave::{config::Config, gateway::Gateway, reload::Outcome};

use crate::support::{TestGateway, plugin_config, token};

/// Compiled code, kept over tests and runs: the engine is large.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/scripts");

fn config(script: &Path, plugin: &str, more: &str) -> String {
    let auth = if more.contains("[auth]") {
        String::new()
    } else {
        format!("[auth]\nanonymous = true\n[auth.jwt]\nhmac_secret = \"{}\"\n", crate::support::SECRET)
    };
    let config = plugin_config(script, plugin, more);
    format!("[server]\nlisten = \"127.0.0.1:0\"\ncache = {CACHE:?}\n[metrics]\nenabled = true\n{auth}{config}")
}

/// A gateway whose plugin `p` is this script, in the rooms `room:*`.
async fn start(script: &str, plugin: &str, more: &str) -> TestGateway {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.js");
    std::fs::write(&file, script).unwrap();
    let mut gateway = TestGateway::start_raw(&config(&file, plugin, more)).await;
    gateway.files.push(folder);
    gateway
}

fn script_of(gateway: &TestGateway) -> std::path::PathBuf {
    gateway.files[0].path().join("plugin.js")
}

async fn load_error(script: &str, plugin: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.js");
    std::fs::write(&file, script).unwrap();
    let config = Config::parse(&config(&file, plugin, ""), Path::new("/"), &Default::default()).unwrap();
    match Gateway::start(config, None).await {
        Ok(_) => panic!("accepted: {script}"),
        Err(error) => format!("{error:#}"),
    }
}

async fn check_refused(script: &str, plugin: &str, reasons: &[&str]) {
    let error = load_error(script, plugin).await;
    for reason in reasons {
        assert!(error.contains(reason), "no {reason:?} in: {error}");
    }
}

const PASS: &str = "export function transform() { return \"pass\"; }\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_script_is_said_at_load() {
    let with_pass = |text: &str| format!("{text}\n{PASS}");
    check_refused("const a = 1;", "", &["no hook"]).await;
    check_refused("\n\nexport function transform( {", "", &["SyntaxError", "plugin.js:3:"]).await;
    check_refused("export function transfrom() {}", "", &["`transfrom`", "no hook"]).await;
    check_refused("export const transform = 3;", "", &["`transform` must be a function"]).await;
    check_refused("export async function transform() {}", "", &["`transform` is async"]).await;
    check_refused(
        &with_pass("function f(a) {\n  return a.b;\n}\nf();"),
        "",
        &["cannot read property 'b' of undefined at f (plugin.js:2:", "(plugin.js:4:"],
    )
    .await;
    check_refused(&with_pass("throw 'no';"), "", &["it threw what is no Error: no"]).await;
    check_refused(&with_pass("throw new Error('a\\nb\\x07');"), "", &["Error: a b "]).await;
    check_refused(&with_pass("await new Promise(() => {});"), "", &["awaits something that never comes"]).await;
    check_refused(&with_pass("for (;;);"), "init_timeout = \"50ms\"", &["longer than 50ms"]).await;
    check_refused(&with_pass("for (const a = [];;) a.push(new Uint8Array(65536));"), "", &["out of memory"]).await;
    check_refused(&with_pass("import './other.js';"), "", &["`./other.js` cannot be imported"]).await;
    check_refused(
        &with_pass("import * as kv from 'wayleave:plugin/kv';\nimport * as clock from 'wayleave:plugin/clock@1.0.0';"),
        "grants = [\"clock\"]",
        &["was not granted; add \"kv\" to its `grants`"],
    )
    .await;
    check_refused(&with_pass("await import('wayleave:plugin/kv');"), "", &["was not granted; add \"kv\""]).await;
    check_refused(&with_pass("import { lgo } from 'wayleave:plugin/log';"), "grants = [\"log\"]", &["'lgo'"]).await;
    check_refused(&with_pass("import 'wayleave:plugin/log@0.1.0';"), "", &["another version than the 1.0.0"]).await;
    check_refused(&with_pass("import 'wayleave:plugin/lock';"), "", &["`wayleave:plugin/lock` is no interface"]).await;
    check_refused(&with_pass("\nDate.now();"), "", &["needs the grant `clock`", "plugin.js:2:"]).await;
    check_refused(&with_pass("export function init() {}"), "", &["init must be \"ready\"", "is undefined"]).await;
    check_refused(
        &with_pass("export function init(s) { return { tag: 'failed', val: `no: ${s}` }; }"),
        "",
        &["`init` says: no: {}"],
    )
    .await;
    check_refused(&with_pass("export function selfTest() { return Promise.resolve('ready'); }"), "", &["a promise"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_text_is_no_script() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.js");
    std::fs::write(&file, b"\xff\xfe").unwrap();
    let config = Config::parse(&config(&file, "", ""), Path::new("/"), &Default::default()).unwrap();
    let error = Gateway::start(config, None).await.err().unwrap();
    assert!(format!("{error:#}").contains("is not UTF-8"), "{error:#}");
}

/// Publishes what the script fails at, and returns the failure as it was counted.
async fn check_failing(answer: &str, kind: &str) {
    let script = format!("export function transform(sender, message) {{ {answer} }}");
    let gateway = start(&script, "timeout = \"200ms\"", "").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.join("free:1").await;
    let reply = client.ask("publish", json!({ "channel": "room:1", "data": "x" })).await;
    assert_eq!(reply["error"]["code"], 100, "{answer}: {reply}");
    client.publish("free:1", json!("goes on")).await;
    assert_eq!(client.heard("free:1").await, "goes on");
    let metric = format!(r#"wayleave_plugin_failures_total{{plugin="p",hook="transform",kind="{kind}"}}"#);
    assert!((gateway.metric(&metric) - 1.0).abs() < 0.1, "{answer}: not {kind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_fails_costs_one_message() {
    check_failing("throw new Error('bad');", "trap").await;
    check_failing("return sender.nothing.at;", "trap").await;
    check_failing("for (;;);", "timeout").await;
    check_failing("for (const a = [];;) a.push(new Uint8Array(65536));", "memory").await;
    check_failing("const f = () => f() + 1; return f();", "trap").await;
    for answer in [
        "",
        "return true;",
        "return Promise.resolve('pass');",
        "return 'passes';",
        "return 'replace';",
        "return { tag: 'allow' };",
        "return { tag: 'replace' };",
        "return { tag: 'replace', val: 'text' };",
        "return { tag: 'replace', val: { tag: 'text', val: 3 } };",
        "return { tag: 'replace', val: { tag: 'text', val: '\"\\ud800\"' } };",
        "return { tag: 'replace', val: { tag: 'text', val: 'no JSON' } };",
        "return { tag: 'replace', val: { tag: 'binary', val: [1, 2] } };",
        "return { tag: 'refuse', val: { code: -1, reason: '' } };",
        "return { tag: 'refuse', val: { code: 1.5, reason: '' } };",
        "return { tag: 'refuse', val: { reason: 'why' } };",
        "return { get tag() { throw new Error('no tag'); } };",
    ] {
        check_failing(answer, "answer").await;
    }
}

const ALL: &str = r#"
import { log } from "wayleave:plugin/log@1.0.0";
import * as kv from "wayleave:plugin/kv";
import * as lookup from "wayleave:plugin/lookup";
import * as clock from "wayleave:plugin/clock";
import * as random from "wayleave:plugin/random";
import * as metrics from "wayleave:plugin/metrics";

const text = (value) => ({ tag: "text", val: JSON.stringify(value) });

export const lifecycle = { init: (settings) => (JSON.parse(settings).works ? { tag: "ready" } : { tag: "failed", val: "" }) };
export const selfTest = () => "ready";

export function authenticate(hello) {
  if (hello.token === "bad") return { tag: "refuse", val: { code: 444, reason: "né", temporary: true } };
  if (!hello.token.startsWith("user-")) return "abstain";
  const info = JSON.stringify({ data: hello.data && JSON.parse(hello.data.val), name: hello.name });
  return { tag: "accept", val: { user: hello.token.slice(5), info, rooms: ["free:start"], expiresAt: 0n } };
}

export function authorize(who, request) {
  if (request.room === "room:closed") return { tag: "refuse", val: { code: 0, reason: "closed" } };
  const data = text([who.user, request.token, request.data]);
  return { tag: "allow", val: { publish: "granted", presence: "granted", info: '{"seat":1}', data } };
}

export function authorizePublish(sender, message) {
  return message.payload.val === '"forbidden"' ? { tag: "refuse", val: { code: 455, reason: "not that" } } : "allow";
}

export function transform(sender, message) {
  if (message.payload.tag === "binary") return { tag: "replace", val: { tag: "binary", val: message.payload.val.map((b) => b + 1) } };
  const value = JSON.parse(message.payload.val);
  if (value === "quiet") return { tag: "drop" };
  return typeof value === "object" ? { tag: "replace", val: text({ ...value, by: sender.user, in: message.room }) } : "pass";
}

export function route(sender, message) {
  const value = JSON.parse(message.payload.val);
  if (!value.to) return { tag: "pass" };
  return { tag: "add", val: [{ to: [{ tag: "user", val: value.to }, "everyone"], except: [{ tag: "user", val: "eve" }], payload: text("for you") }] };
}

export function observe(event) {
  metrics.count("events");
  if (event.kind !== "joined" || event.room !== "room:1") return [];
  return [
    { tag: "send", val: { to: [{ tag: "connection", val: event.who.connection }], payload: text(["welcome", event.who.user]), attributes: [["a", "b"]] } },
    { tag: "join", val: { who: { tag: "connection", val: event.who.connection }, room: "free:more" } },
    { tag: "set-info", val: { connection: event.who.connection, info: '{"renamed":true}' } },
  ];
}

export function tick(moment) {
  if (moment.period !== 1000 || Math.abs(moment.now - Date.now()) > 60000) throw new Error("when?");
  metrics.gauge("ticked", 1.5);
  return [];
}

export function call(caller, method, payload) {
  switch (method) {
    case "host": {
      log("info", "asked");
      console.log("and", { told: true }, new Error("why"));
      const n = random.number();
      return reply({
        stored: kv.set("k", text("vé"), 0),
        got: JSON.parse(kv.get("k").val.val),
        missing: kv.get("other"),
        counted: [kv.increment("n", 5), kv.increment("n", -2n), kv.increment("k")],
        deleted: [kv.delete("k"), kv.delete("k")],
        room: lookup.count("room:1"),
        members: lookup.members("room:1", 10).val.map((member) => member.user),
        devices: lookup.connections(caller.user).val.length,
        now: Math.abs(clock.now() - Date.now()) < 60000 && clock.monotonic() > 0,
        random: random.bytes(16).length === 16 && Number.isSafeInteger(n) && Math.random() !== Math.random(),
        text: new TextDecoder().decode(new TextEncoder().encode("é😀\ud800")),
        lone: new TextDecoder().decode(new Uint8Array([0xff, 0x61, 0xe2, 0x82])),
      });
    }
    case "wrong":
      try {
        kv.set(7, text(1));
      } catch (error) {
        return reply(error.message);
      }
    case "seed":
      return reply(Math.random());
    case "bytes":
      return { tag: "reply", val: { payload } };
    default:
      return "unknown";
  }
}

const reply = (value) => ({ tag: "reply", val: { payload: text(value), actions: [] } });
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_hook_and_every_interface_works_in_a_script() {
    let plugin = "timeout = \"2s\"\ntick = \"1s\"\ngrants = [\"log\", \"kv\", \"lookup\", \"clock\", \"random\", \"metrics\"]\nsettings = { works = true }";
    let more = "[auth]\nanonymous = true\nplugins = [\"p\"]\n";
    let gateway = start(ALL, plugin, more).await;
    let mut ada = gateway.client_with(json!({ "token": "user-ada", "data": { "a": 1 }, "name": "js" })).await;
    let reply = ada.ask("subscribe", json!({ "channel": "room:1", "token": "t", "data": [1] })).await;
    assert_eq!(reply["subscribe"]["data"], json!(["ada", "t", { "tag": "text", "val": "[1]" }]), "{reply}");
    assert_eq!(ada.push().await["message"]["data"], json!(["welcome", "ada"]));
    assert_eq!(ada.refused("subscribe", json!({ "channel": "room:closed" })).await, 103);

    assert_eq!(ada.refused("publish", json!({ "channel": "room:1", "data": "forbidden" })).await, 455);
    ada.publish("room:1", json!("quiet")).await;
    ada.publish("room:1", json!({ "é": "😀" })).await;
    assert_eq!(ada.heard("room:1").await, json!({ "é": "😀", "by": "ada", "in": "room:1" }));

    let answer = ada.ask("rpc", json!({ "method": "host", "data": null })).await;
    assert_eq!(
        answer["rpc"]["data"],
        json!({
            "stored": "ok",
            "got": "vé",
            "missing": { "tag": "missing" },
            "counted": [{ "tag": "value", "val": 5 }, { "tag": "value", "val": 3 }, { "tag": "not-a-number" }],
            "deleted": ["ok", "missing"],
            "room": { "tag": "counts", "val": { "connections": 1, "users": 1 } },
            "members": ["ada"],
            "devices": 1,
            "now": true,
            "random": true,
            "text": "é😀\u{fffd}",
            "lone": "\u{fffd}a\u{fffd}",
        }),
        "{answer}"
    );
    let answer = ada.ask("rpc", json!({ "method": "wrong", "data": null })).await;
    assert_eq!(answer["rpc"]["data"], json!("kv.set: key must be a string, and is 7"));
    let answer = ada.ask("rpc", json!({ "method": "bytes", "data": { "x": 1 } })).await;
    assert_eq!(answer["rpc"]["data"], json!({ "x": 1 }));
    assert_eq!(ada.refused("rpc", json!({ "method": "other", "data": null })).await, 104);
    crate::support::eventually("a tick", || gateway.gateway.router().metrics.text(0, 0, 0).contains("ticked")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_live_at_once_and_a_bad_one_changes_nothing() {
    let says = |what: &str| {
        format!(
            "export const route = () => \"pass\";\n\
             export const call = () => ({{ tag: \"reply\", val: {{ payload: {{ tag: \"text\", val: '{what}' }} }} }});"
        )
    };
    let gateway = start(&says("1"), "", "").await;
    let mut client = gateway.client().await;
    let asked = async |client: &mut crate::support::TestClient| -> Value {
        client.ask("rpc", json!({ "method": "m", "data": null })).await["rpc"]["data"].clone()
    };
    assert_eq!(asked(&mut client).await, 1);
    std::fs::write(script_of(&gateway), says("2")).unwrap();
    let outcome = gateway.gateway.reloader().reload("a test").await;
    assert!(matches!(outcome, Outcome::Replaced(_)), "{outcome:?}");
    assert_eq!(asked(&mut client).await, 2);
    std::fs::write(script_of(&gateway), "export const call = (").unwrap();
    let outcome = gateway.gateway.reloader().reload("a test").await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_eq!(asked(&mut client).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_a_script_needs_no_build() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plugin.js"), PASS).unwrap();
    let gateway = TestGateway::start_raw(&config(folder.path(), "", "")).await;
    let mut user = gateway.client_with(json!({ "token": token(&json!({ "sub": "ada" })) })).await;
    user.join("room:1").await;
    user.publish("room:1", json!(1)).await;
    assert_eq!(user.heard("room:1").await, 1);
}
