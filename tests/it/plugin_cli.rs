//! `wayleave plugin …`: what writers of plugins use, by running the program.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{PATIENCE, fixture, instance::Instance};

fn wayleave(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wayleave")).args(arguments).current_dir(folder).output().unwrap()
}

/// Exit code, and what was said on both.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// A folder with a plugin of the fixtures and its file of cases.
fn with_cases(plugin: &str, cases: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("cases")).unwrap();
    std::fs::copy(fixture(plugin), folder.path().join("p.wat")).unwrap();
    std::fs::write(folder.path().join("cases/p.toml"), cases).unwrap();
    folder
}

#[track_caller]
fn check(plugin: &str, cases: &str, code: i32, expected: &[&str]) {
    let folder = with_cases(plugin, cases);
    let (status, text) = said(&wayleave(&["plugin", "test", "p.wat"], folder.path()));
    assert_eq!(status, Some(code), "{text}");
    for line in expected {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
}

#[test]
fn a_case_that_holds_is_a_line_and_one_that_does_not_shows_the_difference() {
    let case =
        |expect: &str| format!("[[cases]]\nname = \"a word\"\nhook = \"transform\"\ndata = 1\nexpect = {expect}\n");
    check("pass", &case("\"pass\""), 0, &["✓ a word (", "1 passed, 0 failed"]);
    check("drop", &case("\"drop\""), 0, &["1 passed"]);
    check("drop", &case("\"pass\""), 1, &["✗ a word", "cases/p.toml:1", "- \"pass\"", "+ \"drop\"", "1 failed"]);
    check("refuse", &case("{ refuse = { code = 450 } }"), 0, &["1 passed"]);
    check("refuse", &case("{ refuse = { code = 450, reason = \"other\" } }"), 1, &["-     \"reason\": \"other\""]);
    check("trap", &case("{ failure = \"trap\" }"), 0, &["1 passed"]);
    check("loop", &case("\"pass\""), 1, &["it took longer than 20ms", "+   \"failure\": \"timeout\""]);
}

#[test]
fn each_hook_is_asked_with_what_its_case_says() {
    let case = |hook: &str, rest: &str| format!("[[cases]]\nname = \"it\"\nhook = \"{hook}\"\n{rest}\n");
    check("allow", &case("authorize", "expect = \"allow\""), 0, &[]);
    check("deny", &case("authorize", "expect = { refuse = { code = 103 } }"), 0, &[]);
    check("route-to-user", &case("route", "data = 1\nexpect = { add = [{ to = [\"user:bob\"] }] }"), 0, &[]);
    check("echo-call", &case("call", "method = \"echo\"\ndata = [1]\nexpect = { reply = { data = [1.0] } }"), 0, &[]);
    check("echo-call", &case("call", "method = \"other\"\nexpect = \"unknown\""), 0, &[]);
    let kick = "event = \"joined\"\nclient = { connection = \"c\" }\nexpect = { actions = [{ disconnect = { who = \
                \"connection:c\", code = 4500, reason = \"kicked\" } }] }";
    check("observe-kick", &case("observe", kick), 0, &[]);
    check("observe-kick", &case("observe", "event = \"connected\"\nexpect = \"nothing\""), 0, &[]);
    let tick = format!("[plugin]\ntick = \"1s\"\n{}", case("tick", "expect = { failure = \"trap\" }"));
    check("tick-traps", &tick, 0, &[]);
    check("init-fails", &case("init", "expect = { failed = \"\" }"), 0, &["1 passed"]);
    check("pass", &case("init", "expect = \"ready\""), 0, &["1 passed"]);
    check("pass", &case("call", "expect = \"unknown\""), 1, &["it does not have this hook; it has transform"]);
}

#[test]
fn steps_share_a_store_that_each_case_has_for_itself() {
    let cases = r#"
[plugin]
grants = ["kv"]
[[cases]]
name = "counts up"
hook = "call"
method = "count"
steps = [
    { expect = { reply = { data = 1 } } },
    { expect = { reply = { data = 2 }, kv = { n = 2 } } },
]
[[cases]]
name = "from what there was"
hook = "call"
method = "count"
kv = { n = 41 }
expect = { reply = { data = 42 }, kv = { n = "42" } }
[[cases]]
name = "and says so when it cannot"
hook = "call"
method = "count"
unavailable = ["kv"]
expect = { refuse = { code = 507, temporary = true } }
"#;
    check("counter-kv", cases, 0, &["3 passed, 0 failed"]);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines() {
    let cases = r#"[plugin]
timeot = "1s"
[[cases]]
name = "a"
hook = "transfrom"
data = 1
[[cases]]
name = "a"
hook = "transform"
expect = "passed"
binary = "?"
[[cases]]
name = "b"
hook = "authorize"
expect = { refuse = { code = 1 }, allow = {} }
client = { usr = "ada" }
steps = []
"#;
    let expected = [
        "line 2: plugin.timeot: this key is not known; did you mean `timeout`?",
        "line 5: cases[0].hook: `transfrom` is no hook",
        "did you mean `transform`?",
        "line 8: cases[1].name: there are two cases named `a`",
        "line 10: cases[1].expect: \"passed\" is no answer of `transform`; expected \"pass\", \"drop\", replace = …",
        "line 11: cases[1].binary: is no base64",
        "line 15: cases[2].expect: belongs into each of the `steps`",
        "line 16: cases[2].client.usr: this key is not known; did you mean `user`?",
        "line 17: cases[2].steps: there are none",
    ];
    check("pass", cases, 2, &expected);
    check("pass", "", 2, &["there are none; a case begins with [[cases]]"]);
    check(
        "wants-kv",
        "[[cases]]\nname = \"a\"\nhook = \"transform\"\ndata = 1\n",
        2,
        &["it imports what it was not granted"],
    );
    let folder = tempfile::tempdir().unwrap();
    let (status, text) = said(&wayleave(&["plugin", "test", "nothing.wasm"], folder.path()));
    assert!(status == Some(2) && text.contains("there is no such plugin"), "{text}");
}

#[test]
fn update_writes_answers_and_leaves_the_rest_as_it_is() {
    let cases = "# Above.\n[[cases]]  # first\nname = \"new\"\nhook = \"transform\"\nroom = 'r'   # a room\ndata = { a = 1 }\n\n\
                 [[cases]]\nname = \"differs\"\nhook = \"transform\"\ndata = 1\nexpect = \"drop\"  # for now\n\n\
                 [[cases]]\nname = \"steps\"\nhook = \"transform\"\nsteps = [\n    { data = 1 },  # one\n    { data = 2, expect = \"pass\" },\n]\n# Below.\n";
    let folder = with_cases("pass", cases);
    let run = |arguments: &[&str]| said(&wayleave(&[&["plugin", "test", "p.wat"], arguments].concat(), folder.path()));
    let (status, text) = run(&[]);
    assert!(status == Some(1) && text.contains("has no `expect`; --update writes"), "{text}");
    let (status, text) = run(&["--update"]);
    assert!(status == Some(0) && text.contains("0 passed, 0 failed, 3 written"), "{text}");
    let written = std::fs::read_to_string(folder.path().join("cases/p.toml")).unwrap();
    let expected = cases
        .replace("data = { a = 1 }\n", "data = { a = 1 }\nexpect = \"pass\"\n")
        .replace("expect = \"drop\"", "expect = \"pass\"")
        .replace("{ data = 1 }", "{ data = 1, expect = \"pass\" }");
    assert_eq!(written, expected);
    let (status, text) = run(&["--update"]);
    assert!(status == Some(0) && text.contains("3 passed, 0 failed\n"), "{text}");
    assert_eq!(std::fs::read_to_string(folder.path().join("cases/p.toml")).unwrap(), expected);
}

#[test]
fn the_same_cases_are_put_to_each_plugin_and_programs_read_the_results() {
    let cases = "[[cases]]\nname = \"a\"\nhook = \"transform\"\ndata = 1\nexpect = \"pass\"\n";
    let folder = with_cases("pass", cases);
    std::fs::copy(fixture("drop"), folder.path().join("q.wat")).unwrap();
    let arguments = ["plugin", "test", "--cases", "cases", "--format", "json", "p.wat", "q.wat"];
    let (status, text) = said(&wayleave(&arguments, folder.path()));
    assert_eq!(status, Some(1), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["plugin"], &lines[0]["case"], &lines[0]["ok"]), (&"p.wat".into(), &"a".into(), &true.into()));
    assert_eq!((&lines[1]["plugin"], &lines[1]["ok"]), (&"q.wat".into(), &false.into()));
    assert_eq!((&lines[1]["steps"][0]["expected"], &lines[1]["steps"][0]["actual"]), (&"pass".into(), &"drop".into()));
    assert_eq!(lines[2]["summary"]["passed"], 1);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The same example answers alike in whatever language it is: all that are there
/// must be built, so that none is left out unseen.
#[test]
fn an_example_answers_alike_in_every_language() {
    for name in ["moderation", "members-only", "mentions"] {
        let languages = root().join("plugins").read_dir().unwrap().flatten().map(|entry| entry.path().join(name));
        let mut folders: Vec<_> = languages.filter(|folder| folder.is_dir()).collect();
        folders.sort();
        assert!(folders.iter().any(|folder| folder.ends_with(format!("rust/{name}"))), "{folders:?}");
        // A script is built where it is bundled.
        let is_script = |folder: &Path| folder.join("package.json").is_file();
        let built: Vec<_> = folders
            .iter()
            .map(|folder| folder.join(if is_script(folder) { "plugin.js" } else { "plugin.wasm" }))
            .collect();
        for file in &built {
            assert!(file.is_file(), "`{}` is not built; `make plugins` does", file.display());
        }
        let cases = format!("plugins/cases/{name}.toml");
        let mut arguments = vec!["plugin", "test", "--cases", &cases];
        arguments.extend(built.iter().map(|file| file.to_str().unwrap()));
        let (status, text) = said(&wayleave(&arguments, &root()));
        assert_eq!(status, Some(0), "{text}");
    }
}

#[test]
fn new_makes_a_folder_that_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let new = |arguments: &[&str]| said(&wayleave(&[&["plugin", "new"], arguments].concat(), folder.path()));
    let (status, text) = new(&["rust", "say-hello", "--hooks", "transform,call"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("name = \"say-hello\"") && text.contains("wayleave plugin test say-hello"), "{text}");
    assert!(!text.contains("tick"), "{text}");
    let read = |file: &str| std::fs::read_to_string(folder.path().join("say-hello").join(file)).unwrap();
    assert!(read("Cargo.toml").contains("name = \"say-hello\""));
    let world = read("wit/world.wit");
    assert!(world.contains("export wayleave:plugin/call@1.0.0") && !world.contains("tick"), "{world}");
    assert!(read("cases/say-hello.toml").contains("say-hello.echo"));
    assert!(!read("src/lib.rs").contains("my-plugin"));
    assert_eq!(
        read("wit/deps/wayleave/types.wit"),
        std::fs::read_to_string(root().join("wit/1.0.0/types.wit")).unwrap()
    );

    let (status, text) = new(&["rust", "say-hello"]);
    assert!(status == Some(2) && text.contains("is there already"), "{text}");
    let (status, text) = new(&["cobol", "other"]);
    assert!(
        status == Some(2) && text.contains("there is no template in `cobol`; there are: ") && text.contains("rust"),
        "{text}"
    );
    let (status, text) = new(&["rust", "Other"]);
    assert!(status == Some(2) && text.contains("`Other` is not a plugin's name"), "{text}");
    let (status, text) = new(&["rust", "other", "--hooks", "transform,rout"]);
    assert!(status == Some(2) && text.contains("there is no such hook"), "{text}");
    assert!(!folder.path().join("other").exists());
}

#[test]
fn inspect_says_what_a_plugin_needs_and_costs() {
    let (status, text) = said(&wayleave(&["plugin", "inspect", fixture("counter-kv").to_str().unwrap()], &root()));
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "hooks      call",
        "grants = [\"kv\"]",
        "a guest    starts in",
        "median",
        "with a message of 200 bytes",
        "[[plugins]]",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let (status, text) = said(&wayleave(&["plugin", "inspect", fixture("trap").to_str().unwrap()], &root()));
    assert!(status == Some(0) && text.contains("failed: "), "{text}");
    let (status, text) = said(&wayleave(&["plugin", "inspect", fixture("no-hooks").to_str().unwrap()], &root()));
    assert!(status == Some(2) && text.contains("it has no hook"), "{text}");
}

#[test]
fn inspect_goes_on_where_a_plugin_wants_settings() {
    let file = root().join("plugins/rust/moderation/plugin.wasm");
    let inspect = |more: &[&str]| {
        let (status, text) =
            said(&wayleave(&[&["plugin", "inspect", file.to_str().unwrap(), "--json"], more].concat(), &root()));
        assert_eq!(status, Some(0), "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let without = inspect(&[]);
    assert_eq!((&without["hooks"][0], &without["grants"][0]), (&"transform".into(), &"log".into()));
    assert!(without["measured"]["failed"].as_str().unwrap().contains("`words`"), "{without}");
    let given = inspect(&["--settings", r#"{"words":["darn"]}"#]);
    assert!(given["measured"]["hooks"]["transform"]["median_us"].as_f64().unwrap() > 0.0, "{given}");
    assert!(given["entry"].as_str().unwrap().contains("settings = { words = [\"darn\"] }"), "{given}");
    let of_config = inspect(&["--config", "config.toml", "--name", "moderation"]);
    assert!(of_config["measured"]["hooks"]["transform"]["calls"].as_u64().unwrap() > 0, "{of_config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tests_again_when_a_case_changes() {
    let cases = |expect: &str| format!("[[cases]]\nname = \"a\"\nhook = \"transform\"\ndata = 1\nexpect = {expect}\n");
    let folder = with_cases("pass", &cases("\"drop\""));
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_wayleave"))
        .args(["plugin", "test", "p.wat", "--watch"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut says = async |text: &str| loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it says nothing").unwrap();
        if line.expect("it ended").contains(text) {
            return;
        }
    };
    says("0 passed, 1 failed").await;
    says("waiting for changes").await;
    std::fs::write(folder.path().join("cases/p.toml"), cases("\"pass\"")).unwrap();
    says("1 passed, 0 failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_in_a_room_becomes_cases_without_anybodys_words() {
    let config = "[api]\nkeys = [{ name = \"all\", key = \"a-key-of-the-tests\" }]\n\
                  [[rooms]]\nmatch = \"chat:*\"\npublish = \"members\"\n";
    let gateway = Instance::start(config, None, "recorded").await;
    let folder = with_cases("pass", "");
    std::fs::remove_file(folder.path().join("cases/p.toml")).unwrap();
    std::fs::write(folder.path().join("config.toml"), gateway.config()).unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_wayleave"))
        .args(["plugin", "record", "--room", "chat:*", "--count", "2", "--keep", "kind", "cases/p.toml"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, heard.next_line()).await.expect("it says nothing").unwrap();
    assert!(line.as_ref().is_some_and(|line| line.starts_with("recording `chat:*`")), "{line:?}");
    let mut client = gateway.client().await;
    client.join("chat:1").await;
    client.publish("chat:1", serde_json::json!({ "text": "Hi @bob 1", "kind": "chat", "n": 7 })).await;
    client.publish("chat:1", serde_json::json!([null])).await;
    assert!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
    let written = std::fs::read_to_string(folder.path().join("cases/p.toml")).unwrap();
    for part in
        ["text = \"Xx @xxx 0\"", "kind = \"chat\"", "n = 7", "json = \"[null]\"", "connection = \"connection-1\""]
    {
        assert!(written.contains(part), "no {part:?} in:\n{written}");
    }
    let test = |more: &[&str]| said(&wayleave(&[&["plugin", "test", "p.wat"], more].concat(), folder.path()));
    assert_eq!(test(&["--update"]).0, Some(0));
    let (status, text) = test(&[]);
    assert!(status == Some(0) && text.contains("2 passed"), "{text}");
    let (status, text) = said(&wayleave(&["plugin", "record", "--room", "chat:*", "cases/p.toml"], folder.path()));
    assert!(status == Some(1) && text.contains("is there already"), "{text}");
}
