//! The program itself: arguments, exit codes, signals.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
};

use crate::support::{PATIENCE, fixture, plugin_config};

fn wayleave(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wayleave")).args(arguments).current_dir(folder).output().unwrap()
}

#[track_caller]
fn check_mistakes(config: &str, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    for command in ["check", "run"] {
        let output = wayleave(&[command], folder.path());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        for line in expected {
            assert!(said.contains(line), "no {line:?} in:\n{said}");
        }
        assert_eq!(said.lines().count(), expected.len(), "{said}");
    }
}

#[test]
fn five_mistakes_are_five_messages_with_line_and_remedy() {
    check_mistakes(
        r#"[server]
listen = "localhost"
ping_intervall = "25s"
[limits]
message_size = 65536
[[rooms]]
match = "chat:*"
publish = "everybody"
plugins = ["moderation"]
"#,
        &[
            "5 mistakes in config.toml",
            r#"line 2: server.listen: `localhost` is not an address; expected one such as "127.0.0.1:8000""#,
            "line 3: server.ping_intervall: this key is not known; did you mean `ping_interval`?",
            "line 5: limits.message_size: expected a size with its unit (B, KiB, MiB, GiB), such as \"64KiB\"",
            r#"line 8: rooms[0].publish: "everybody" is not known; expected "nobody", "members", "anyone""#,
            "line 9: rooms[0].plugins: there is no plugin named `moderation`; the [[plugins]] are: none",
        ],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = wayleave(&["run", "--config", "missing.toml"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("missing.toml") && said.contains("--config"), "{said}");
}

#[test]
fn check_tells_what_each_plugin_decides() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[server]\ncache = \"\"\n{}", plugin_config(&fixture("pass"), "", ""));
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let output = wayleave(&["check"], folder.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("plugin p") && said.contains("transform"), "{said}");
}

#[test]
fn check_names_each_plugin_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = |name: &str, path: &str| {
        format!("[[plugins]]\nname = \"{name}\"\npath = {:?}\n", fixture(path).display().to_string())
    };
    let config = format!("[server]\ncache = \"\"\n{}{}", plugin("one", "no-hooks"), plugin("two", "wants-kv"));
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let output = wayleave(&["check"], folder.path());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("plugin `one`: it has no hook") && said.contains("plugin `two`: it imports"), "{said}");
}

/// A running program and its log.
struct Running {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, "run")
    }

    fn start_with(folder: &Path, command: &str) -> Self {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_wayleave"))
            .arg(command)
            .current_dir(folder)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// The next log line that holds this.
    async fn says(&mut self, text: &str) -> String {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.log.next_line()).await.expect("it says nothing");
            let line = line.unwrap().unwrap_or_else(|| panic!("it ended without saying {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_and_sigterm_drains() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    // The file is not watched in time when the signal comes right behind it,
    // and whichever is first, the change is live once.
    let config = "[server]\nlisten = \"127.0.0.1:0\"\ncache = \"\"\n[auth]\nanonymous = true\n";
    std::fs::write(&file, config).unwrap();
    let mut running = Running::start(folder.path());
    let line = running.says("listening on http://").await;
    let address = line.split("http://").nth(1).unwrap().trim().to_owned();
    std::fs::write(&file, format!("{config}[[rooms]]\nmatch = \"r\"\n")).unwrap();
    running.signal("-HUP");
    running.says("reloaded").await;
    let mut client = crate::support::TestClient::open(&format!("ws://{address}/connection/websocket")).await;
    client.ask("connect", serde_json::json!({})).await;
    client.join("r").await;
    running.signal("-TERM");
    assert_eq!(client.closed().await.0, 3001);
    drop(client);
    let status = tokio::time::timeout(PATIENCE, running.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// A plugin whose "source" is a compiled component and whose build copies it:
/// a toolchain that is quick and can fail.
fn write_source(folder: &Path, source: &[u8], build: &str) {
    std::fs::create_dir_all(folder.join("src")).unwrap();
    std::fs::create_dir_all(folder.join("node_modules")).unwrap();
    std::fs::write(folder.join("src/plugin.bin"), source).unwrap();
    let package = format!(r#"{{"name":"p","private":true,"scripts":{{"build":"{build}"}}}}"#);
    std::fs::write(folder.join("package.json"), package).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_rebuilds_on_save_and_says_what_cannot_be_built() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("p");
    let component = |name: &str| wat::parse_file(fixture(name)).unwrap();
    write_source(&plugin, &component("stamp-a"), "cp src/plugin.bin plugin.wasm");
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ncache = \"\"\ntry_page = true\n[auth]\nanonymous = true\n{}",
        plugin_config(Path::new("p"), "", "")
    );
    std::fs::write(folder.path().join("config.toml"), &config).unwrap();
    let mut running = Running::start_with(folder.path(), "dev");
    let line = running.says("serving http://").await;
    let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
    let mut client = crate::support::TestClient::open(&format!("ws://{address}/connection/websocket")).await;
    client.ask("connect", serde_json::json!({})).await;
    client.join("room:1").await;
    client.publish("room:1", serde_json::json!(1)).await;
    assert_eq!(client.heard("room:1").await["stamp"], "a");

    std::fs::write(plugin.join("src/plugin.bin"), component("stamp-b")).unwrap();
    running.says("reloaded").await;
    client.publish("room:1", serde_json::json!(1)).await;
    assert_eq!(client.heard("room:1").await["stamp"], "b");

    write_source(&plugin, &component("stamp-b"), "echo no such word in line 7 >&2; false");
    running.says("cannot be built, the running one stays").await;
    running.says("no such word in line 7").await;
    client.publish("room:1", serde_json::json!(1)).await;
    assert_eq!(client.heard("room:1").await["stamp"], "b");

    // A plugin that the config names from now on is built and then live.
    // It began as a copy of another, with that one's build in it.
    std::fs::create_dir(folder.path().join("q")).unwrap();
    std::fs::write(folder.path().join("q/plugin.wasm"), component("no-hooks")).unwrap();
    write_source(&folder.path().join("q"), &component("echo-call"), "cp src/plugin.bin plugin.wasm");
    let more = "\n[[plugins]]\nname = \"q\"\npath = \"q\"\n";
    std::fs::write(folder.path().join("config.toml"), config + more).unwrap();
    running.says("reloaded").await;
    let reply = client.ask("rpc", serde_json::json!({ "method": "echo", "data": "back" })).await;
    assert_eq!(reply["rpc"]["data"], "back");
}

/// A gateway for the tools, its config, and where it is.
async fn for_tools() -> (tempfile::TempDir, crate::support::instance::Instance, String) {
    let rooms = "[[rooms]]\nmatch = \"chat:*\"\npublish = \"members\"\n[[rooms]]\nmatch = \"kept:*\"\nhistory = { size = \
                 10, ttl = \"1m\" }\nrecovery = true\n";
    let api = "[api]\nkeys = [{ name = \"some\", key = \"a key for some things\", methods = [\"info\"] }, { name = \"all\", \
               key = \"a-key-of-the-tests\" }]\n";
    let gateway = crate::support::instance::Instance::start(&format!("{api}{rooms}"), None, "tools").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), gateway.config()).unwrap();
    let url = gateway.http();
    (folder, gateway, url)
}

/// A tool that goes on: what it prints, line by line.
struct Tool {
    child: Child,
    out: Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Tool {
    fn start(arguments: &[&str], folder: &Path) -> Self {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_wayleave"))
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, out }
    }

    async fn next(&mut self) -> serde_json::Value {
        let line = tokio::time::timeout(PATIENCE, self.out.next_line()).await.expect("it prints nothing").unwrap();
        serde_json::from_str(&line.expect("it ended")).unwrap()
    }
}

/// Runs a tool to its end, off the test's thread.
async fn tool(arguments: &[&str], folder: &Path) -> (bool, String, String) {
    let (arguments, folder): (Vec<String>, _) =
        (arguments.iter().map(|&it| it.to_owned()).collect(), folder.to_owned());
    let output = tokio::task::spawn_blocking(move || {
        wayleave(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &folder)
    });
    let output = output.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// A certificate that no public authority knows, as of a gateway inside.
#[tokio::test(flavor = "multi_thread")]
async fn the_tools_speak_tls_where_the_config_has_it_and_trust_whom_they_are_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, signing_key.serialize_pem()).unwrap();
    let config =
        format!("{}[tls]\ncert = {cert_file:?}\nkey = {key_file:?}\n[[rooms]]\nmatch = \"chat:*\"\n", crate::api::API);
    let gateway = crate::support::TestGateway::start(&config).await;
    let listen = format!("[server]\nlisten = \"{}\"\n", gateway.gateway.address());
    std::fs::write(folder.path().join("config.toml"), format!("{listen}{config}")).unwrap();
    let (good, _, said) = tool(&["publish", "chat:1", "1", "--ca", "cert.pem"], folder.path()).await;
    assert!(good, "{said}");
    let (good, _, said) = tool(&["publish", "chat:1", "1"], folder.path()).await;
    assert!(!good && said.contains("no TLS with"), "{said}");
    let (good, _, said) = tool(&["publish", "chat:1", "1", "--ca", "config.toml"], folder.path()).await;
    assert!(!good && said.contains("no certificate in it"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_tool_lets_its_user_in() {
    let (folder, gateway, _) = for_tools().await;
    let arguments = ["token", "--user", "ada", "--room", "chat:1", "--ttl", "1m", "--info", r#"{"name":"Ada"}"#];
    let (good, token, said) = tool(&arguments, folder.path()).await;
    assert!(good, "{said}");
    let hello = serde_json::json!({ "token": token.trim() });
    let mut ada = gateway.client_with(hello).await;
    ada.publish("chat:1", serde_json::json!(1)).await;
    let push = ada.push().await;
    assert_eq!(
        (&push["pub"]["info"]["user"], &push["pub"]["info"]["conn_info"]["name"]),
        (&"ada".into(), &"Ada".into())
    );
    let claims = data_encoding::BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now..=now + 60).contains(&claims["exp"].as_u64().unwrap()), "{claims}");

    let (_, forever, _) = tool(&["token", "--user", "ada", "--ttl", "forever"], folder.path()).await;
    let claims = data_encoding::BASE64URL_NOPAD.decode(forever.split('.').nth(1).unwrap().as_bytes()).unwrap();
    assert!(!String::from_utf8(claims).unwrap().contains("exp"));
    let (good, _, said) = tool(&["token", "--user", "ada", "--info", "x"], folder.path()).await;
    assert!(!good && said.contains("not JSON"), "{said}");
    std::fs::write(folder.path().join("config.toml"), "").unwrap();
    let (good, _, said) = tool(&["token", "--user", "ada"], folder.path()).await;
    assert!(!good && said.contains("auth.jwt"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tool_publishes_others_hear_also_after_a_restart() {
    let (folder, mut gateway, url) = for_tools().await;
    let subscribe = ["subscribe", "kept:1", "--url", &url, "--count", "2"];
    let mut heard = Tool::start(&subscribe, folder.path());
    assert_eq!(heard.next().await["channel"], "kept:1");
    let mut tail = Tool::start(&["tail", "--room", "kept:1"], folder.path());
    assert_eq!(tail.next().await["type"], "tailing");
    let publish = ["publish", "kept:1", r#"{"n": 1}"#];
    let (good, out, said) = tool(&publish, folder.path()).await;
    assert!(good && out.contains("\"offset\":1"), "{out}{said}");
    assert_eq!(heard.next().await["pub"]["data"], serde_json::json!({ "n": 1 }));
    let line = tail.next().await;
    assert_eq!((&line["type"], &line["data"]), (&"message".into(), &serde_json::json!({ "n": 1 })), "{line}");

    // Both come back by themselves; what was in memory is gone.
    gateway.restart().await;
    assert!(heard.next().await.get("subscribed").is_some());
    while tail.next().await["type"] != "tailing" {}
    let (good, _, said) = tool(&["publish", "kept:1", "2", "--url", &url], folder.path()).await;
    assert!(good, "{said}");
    assert_eq!(heard.next().await["pub"]["data"], serde_json::json!(2));
    while tail.next().await["data"] != serde_json::json!(2) {}
    let ended = tokio::time::timeout(PATIENCE, heard.child.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "two messages were wanted");
}

/// By the server API nothing asks the plugins, so that is no way to try one.
#[tokio::test(flavor = "multi_thread")]
async fn publish_with_a_token_is_a_clients_and_asks_the_plugins() {
    let config = plugin_config(&fixture("refuse"), "", "");
    let gateway = crate::support::instance::Instance::start(&config, None, "asked").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), gateway.config()).unwrap();
    let (_, token, _) = tool(&["token", "--user", "ada"], folder.path()).await;
    let publish = async |room: &str| tool(&["publish", room, "1", "--token", token.trim()], folder.path()).await;
    let mut bob = gateway.client().await;
    bob.join("free:1").await;
    let (good, _, said) = publish("free:1").await;
    assert!(good, "{said}");
    let push = bob.push().await;
    assert_eq!((&push["pub"]["data"], &push["pub"]["info"]["user"]), (&1.into(), &"ada".into()), "{push}");
    let (good, _, said) = publish("room:1").await;
    assert!(!good && said.contains("refused: 450"), "{said}");
    let (good, _, said) = publish("nowhere").await;
    assert!(!good && said.contains("refused: 102"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_say_what_is_wrong() {
    let (folder, gateway, url) = for_tools().await;
    let nowhere = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (vec!["publish", "nowhere", "1"], "refused with 102"),
        (vec!["publish", "chat:1", "hello"], "a text stands in quotes"),
        (vec!["publish", "chat:1", "1", "--url", "localhost"], "is no address"),
        (vec!["tail", "--room", "nowhere"], "refused with 102"),
        (vec!["subscribe", "nowhere"], "refused: 102"),
        (vec!["subscribe", "chat:1", "--token", "x"], "3500"),
        (vec!["bench", "--connections", "1", "--rooms", "2"], "more rooms than connections"),
        (vec!["bench", "--connections", "1", "--rooms", "1", "--pid", "4194305", "--seconds", "1"], "no process"),
    ] {
        let (good, _, said) = tool(&arguments, folder.path()).await;
        assert!(!good && said.contains(expected), "{arguments:?}: {said}");
    }
    let (good, _, said) = tool(&["publish", "chat:1", "1", "--url", &url], nowhere.path()).await;
    assert!(!good && said.contains("WAYLEAVE_API_KEY"), "{said}");
    let with_key = |key: &'static str, url: String| {
        let folder = nowhere.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
            command.args(["publish", "chat:1", "1", "--url", &url]).env("WAYLEAVE_API_KEY", key).current_dir(folder);
            command.output().unwrap()
        })
    };
    assert!(with_key("a-key-of-the-tests", url.clone()).await.unwrap().status.success());
    let refused = with_key("a wrong key, but long", url).await.unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("refused with 401"));
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn bench_counts_every_delivery() {
    let (folder, mut gateway, url) = for_tools().await;
    let pid = gateway.pid().to_string();
    let arguments = [
        "bench",
        "--url",
        &url,
        "--connections",
        "20",
        "--rooms",
        "3",
        "--rate",
        "100",
        "--seconds",
        "2",
        "--pid",
        &pid,
        "--json",
    ];
    let (good, out, said) = tool(&arguments, folder.path()).await;
    assert!(good && said.contains("deliveries"), "{said}");
    let figures: serde_json::Value = serde_json::from_str(&out).unwrap();
    // 20 members in rooms of 7, 7 and 6, each of whom sends ten times: 10 * (49 + 49 + 36).
    assert_eq!((&figures["messages"], &figures["deliveries"]), (&200.into(), &1340.into()), "{figures}");
    assert_eq!((&figures["deliveries_missing"], &figures["refused"]), (&0.into(), &0.into()), "{figures}");
    let latency = &figures["latency_ms"];
    assert!(latency["p50"].as_f64().unwrap() > 0.0 && latency["p50"].as_f64() <= latency["max"].as_f64(), "{figures}");
    assert!(figures["server_cpu_seconds"].is_number());
}
