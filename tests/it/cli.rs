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
