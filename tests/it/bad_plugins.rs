//! Plugins that misbehave: named with hook and reason, their policy followed,
//! and the gateway serves on.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use wayleave::{config::Config, gateway::Gateway, reload::Outcome};

use crate::support::{PATIENCE, TestGateway, eventually, fixture, plugin_config};

/// Starts with a plugin that cannot be used and returns what is said.
async fn load_error(path: &std::path::Path, plugin: &str) -> String {
    let text = format!("[server]\nlisten = \"127.0.0.1:0\"\ncache = \"\"\n{}", plugin_config(path, plugin, ""));
    let config = Config::parse(&text, std::path::Path::new("/"), &Default::default()).unwrap();
    match Gateway::start(config, None).await {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => format!("{error:#}"),
    }
}

async fn check_refused(name: &str, plugin: &str, reasons: &[&str]) {
    let error = load_error(&fixture(name), plugin).await;
    assert!(error.contains("plugin `p`"), "{error}");
    for reason in reasons {
        assert!(error.contains(reason), "{name}: no {reason:?} in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_be_used_is_refused_at_load_with_its_reason() {
    check_refused("wants-kv", "", &["not granted: kv", "add \"kv\" to its `grants`"]).await;
    check_refused("wants-wasi", "", &["wasi:cli/environment", "no WASI"]).await;
    check_refused("no-hooks", "", &["no hook", "authorize, "]).await;
    check_refused("unknown-hook", "", &["authorise", "did you mean `authorize`?"]).await;
    check_refused("mistyped-hook", "", &["`authorize`", "type"]).await;
    check_refused("wrong-version", "", &["0.9.0", "0.1.0"]).await;
    check_refused("core-module", "", &["no hook", "core module"]).await;
    check_refused("init-fails", "", &["`init` says: settings are missing"]).await;
    check_refused("init-traps", "", &["does not start", "unreachable"]).await;
    check_refused("init-loops", "init_timeout = \"50ms\"", &["longer than 50ms"]).await;
    check_refused("self-test-fails", "", &["self-test says"]).await;
    check_refused("tick-sends", "", &["has the hook `tick`", "add `tick = \"10s\"`"]).await;
    check_refused("pass", "tick = \"10s\"", &["does not have that hook", "remove `tick`"]).await;
    check_refused("does-not-exist", "", &["cannot be read"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_plugin_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = wat::parse_file(fixture("pass")).unwrap();
    let check = async |name: &str, bytes: &[u8], reason: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = load_error(&path, "").await;
        assert!(error.contains(reason), "no {reason:?} in: {error}");
    };
    check("text.wasm", b"hello, I am a text", "is not WebAssembly").await;
    check("empty.wasm", b"", "is not WebAssembly").await;
    check("half.wasm", &whole[..whole.len() / 2], "does not compile").await;
    check("cut.wasm", &whole[..whole.len() - 1], "does not compile").await;
    let error = load_error(folder.path(), "").await;
    assert!(error.contains("wayleave plugin build"), "{error}");
    assert!(load_error(std::path::Path::new("/dev/zero.wasm"), "").await.contains("cannot be read"));
}

/// Row T13: what stands in a plugin's place and is no plugin is not waited for, not
/// read without end, and does not go live.
#[tokio::test(flavor = "multi_thread")]
async fn t13_what_is_no_plain_file_never_takes_the_place_of_a_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let (file, whole) = (folder.path().join("p.wasm"), wat::parse_file(fixture("replace")).unwrap());
    std::fs::write(&file, &whole).unwrap();
    let gateway = TestGateway::start(&plugin_config(&file, "", "")).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.publish("room:1", json!("before")).await;
    let replaced = client.heard("room:1").await;
    assert_ne!(replaced, json!("before"));
    let made = |command: &str, argument: &std::path::Path| {
        assert!(std::process::Command::new(command).arg(argument).status().unwrap().success());
    };
    let bad: [(&str, &dyn Fn()); 6] = [
        ("a pipe", &|| made("mkfifo", &file)),
        ("a folder", &|| std::fs::create_dir(&file).unwrap()),
        ("a device", &|| std::os::unix::fs::symlink("/dev/zero", &file).unwrap()),
        ("itself", &|| std::os::unix::fs::symlink(&file, &file).unwrap()),
        ("a gigabyte", &|| std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap()),
        ("a part", &|| std::fs::write(&file, &whole[..whole.len() - 9]).unwrap()),
    ];
    for (what, make) in bad {
        if file.symlink_metadata().unwrap().is_dir() {
            std::fs::remove_dir(&file).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        make();
        let reloading = gateway.gateway.reloader().reload("a test");
        let outcome =
            tokio::time::timeout(PATIENCE, reloading).await.unwrap_or_else(|_| panic!("{what} is waited for"));
        assert!(matches!(outcome, Outcome::Failed(_)), "{what}: {outcome:?}");
        client.publish("room:1", json!(what)).await;
        assert_eq!(client.heard("room:1").await, replaced, "{what}");
    }
    // A link to a good one is as good as that: so are files mounted in containers.
    std::fs::write(folder.path().join("other.wasm"), &whole).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("other.wasm", &file).unwrap();
    let outcome = gateway.gateway.reloader().reload("a test").await;
    assert!(!matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

/// Publishes into a room whose plugin fails at `hook` with `kind`, under both
/// policies, and looks that everything else goes on.
async fn check_failing(name: &str, plugin: &str, hook: &str, kind: &str) {
    let gateway = TestGateway::with_plugin(name, plugin).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.join("free:1").await;
    for _ in 0..3 {
        let reply = client.ask("publish", json!({ "channel": "room:1", "data": "x" })).await;
        assert_eq!(reply["error"]["code"], 100, "{name}: {reply}");
        client.publish("free:1", json!("goes on")).await;
        assert_eq!(client.heard("free:1").await, "goes on", "{name}");
    }
    let metric = format!(r#"wayleave_plugin_failures_total{{plugin="p",hook="{hook}",kind="{kind}"}}"#);
    assert_eq!(gateway.metric(&metric), 3.0, "{name}: {}", gateway.gateway.router().metrics.text(0, 0, 0));

    let gateway = TestGateway::with_plugin(name, &format!("{plugin}\non_failure = \"open\"")).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.publish("room:1", json!("passes")).await;
    assert_eq!(client.heard("room:1").await, "passes", "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_transform_or_route_costs_one_message() {
    check_failing("trap", "", "transform", "trap").await;
    check_failing("loop", "timeout = \"5ms\"", "transform", "timeout").await;
    check_failing("grow", "timeout = \"500ms\"", "transform", "memory").await;
    check_failing("recurse", "", "transform", "trap").await;
    check_failing("grow-table", "timeout = \"500ms\"", "transform", "memory").await;
    check_failing("not-json", "", "transform", "answer").await;
    check_failing("bad-utf8", "", "transform", "answer").await;
    check_failing("answer-huge", "memory = \"128MiB\"\ntimeout = \"500ms\"", "transform", "answer").await;
    check_failing("host-call-flood", "grants = [\"log\"]\ntimeout = \"500ms\"", "transform", "host_calls").await;
    check_failing("log-huge", "grants = [\"log\"]\nmemory = \"64MiB\"\ntimeout = \"500ms\"", "transform", "answer")
        .await;
    check_failing("million-targets", "memory = \"128MiB\"\ntimeout = \"500ms\"", "route", "answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_is_not_answered() {
    check_failing("answer-gigabyte", "memory = \"2GiB\"\ntimeout = \"2s\"", "transform", "answer").await;
    let gateway = load_error(&fixture("answer-gigabyte"), "").await;
    assert!(gateway.contains("more memory than it may have"), "{gateway}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_authorizer_refuses_whatever_the_plain_policy_says() {
    for name in ["authorize-traps", "authorize-loops"] {
        for policy in ["", "on_failure = \"open\"", "on_failure = \"closed\""] {
            let gateway = TestGateway::with_plugin(name, &format!("timeout = \"5ms\"\n{policy}")).await;
            let mut client = gateway.client().await;
            assert_eq!(client.refused("subscribe", json!({ "channel": "room:1" })).await, 100, "{name}");
            assert_eq!(gateway.hub().count("room:1"), (0, 0));
            client.join("free:1").await;
        }
        let open = "timeout = \"5ms\"\non_failure = { authorize = \"open\" }";
        TestGateway::with_plugin(name, open).await.client().await.join("room:1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_observer_ticker_or_callee_harms_nobody() {
    let gateway = TestGateway::with_plugin("observe-traps", "").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.publish("room:1", json!(1)).await;
    assert_eq!(client.heard("room:1").await, 1);
    let failures = gateway.metric(r#"wayleave_plugin_failures_total{plugin="p",hook="observe",kind="trap"}"#);
    assert_eq!(failures, 2.0, "connected and joined");
    let gateway = TestGateway::with_callee("tick-traps", "tick = \"1s\"").await;
    let mut client = gateway.client().await;
    let failures = || gateway.metric(r#"wayleave_plugin_failures_total{plugin="p",hook="tick",kind="trap"}"#);
    eventually("a failed tick is counted", || failures() > 0.0).await;
    client.ask("ping", json!({})).await;
    let gateway = TestGateway::with_callee("call-traps", "").await;
    let mut client = gateway.client().await;
    assert_eq!(client.refused("rpc", json!({ "method": "x" })).await, 100);
    client.ask("ping", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_traps_leave_nothing_behind() {
    let gateway = TestGateway::start(&plugin_config(
        &fixture("trap"),
        "breaker = false",
        "[limits]\ncommands_burst = 1000000\ncommands_per_second = 1000000\n",
    ))
    .await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut publish = async |n: usize| {
        for _ in 0..n {
            assert_eq!(client.refused("publish", json!({ "channel": "room:1", "data": 1 })).await, 100);
        }
    };
    publish(500).await;
    let before = resident();
    publish(10_000).await;
    // Other tests run in this process, and the allocator gives back with a delay.
    eventually("the memory is back", || resident().saturating_sub(before) < 16 << 20).await;
}

/// How long a neighbour's messages take alone and while somebody else's plugin
/// fails all the time, their median and p99, and how long each failure took.
async fn beside(name: &str, plugin: &str) -> ([Duration; 2], [Duration; 2], Vec<Duration>) {
    const LIMITS: &str = "[limits]\ncommands_burst = 1000000\ncommands_per_second = 1000000\n";
    let plugin = format!("breaker = false\n{plugin}");
    let gateway = TestGateway::start(&plugin_config(&fixture(name), &plugin, LIMITS)).await;
    let (mut neighbour, mut victim) = (gateway.client().await, gateway.client().await);
    neighbour.join("free:1").await;
    victim.join("room:1").await;
    let mut measure = async || {
        let mut times = Vec::new();
        for n in 0..400 {
            let started = Instant::now();
            neighbour.publish("free:1", json!(n)).await;
            assert_eq!(neighbour.heard("free:1").await, n);
            times.push(started.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.sort();
        [times[times.len() / 2], times[times.len() * 99 / 100]]
    };
    let alone = measure().await;
    let ended = CancellationToken::new();
    let end = ended.clone();
    let failing = tokio::spawn(async move {
        let mut took = Vec::new();
        while !end.is_cancelled() {
            let started = Instant::now();
            assert_eq!(victim.refused("publish", json!({ "channel": "room:1", "data": 1 })).await, 100);
            took.push(started.elapsed());
        }
        took.sort();
        took
    });
    let with = measure().await;
    ended.cancel();
    (alone, with, failing.await.unwrap())
}

/// Row W2: who loops is stopped at its deadline, and those who have nothing to
/// do with it do not wait for it. The bound is one that a machine of two cores
/// holds while other tests run; the ratio is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn neighbours_of_a_plugin_that_fails_all_the_time_do_not_wait_for_it() {
    for (name, plugin) in [("trap", ""), ("loop", "timeout = \"50ms\""), ("grow", "timeout = \"500ms\"")] {
        let (alone, with, took) = beside(name, plugin).await;
        println!("{name}: a neighbour's median and p99 alone {alone:?}, with it {with:?}; {} failures", took.len());
        assert!(took.len() > 5, "{name}: it never failed");
        assert!(with[0] < alone[0] * 2 + Duration::from_millis(10), "{name}: {alone:?} alone, {with:?} with it");
        assert!(with[1] < alone[1] * 2 + Duration::from_millis(100), "{name}: {alone:?} alone, {with:?} with it");
        if name == "loop" {
            let median = took[took.len() / 2];
            assert!((40..=150).contains(&median.as_millis()), "{median:?} for a deadline of 50 ms");
        }
    }
}

/// Row T12: every hostile plugin at once, each with a client that keeps asking it,
/// and nothing in between: who has nothing to do with them misses nothing, and
/// what they took is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t12_hostile_plugins_under_load_harm_only_their_own_messages() {
    const EVIL: [(&str, &str); 11] = [
        ("trap", ""),
        ("loop", "timeout = \"5ms\""),
        ("recurse", ""),
        ("grow", "timeout = \"200ms\""),
        ("grow-table", "timeout = \"200ms\""),
        ("not-json", ""),
        ("bad-utf8", ""),
        ("answer-huge", "memory = \"128MiB\"\ntimeout = \"500ms\""),
        ("million-targets", "memory = \"128MiB\"\ntimeout = \"500ms\""),
        ("host-call-flood", "grants = [\"log\"]\ntimeout = \"500ms\""),
        ("log-huge", "grants = [\"log\"]\nmemory = \"64MiB\"\ntimeout = \"500ms\""),
    ];
    let mut config = "[limits]\ncommands_burst = 1000000\ncommands_per_second = 1000000\n\
        [[rooms]]\nmatch = \"free:*\"\npublish = \"members\"\n"
        .to_owned();
    for (name, plugin) in EVIL {
        let path = fixture(name).display().to_string();
        config += &format!(
            "[[rooms]]\nmatch = \"{name}:*\"\npublish = \"members\"\nplugins = [\"{name}\"]\n\
             [[plugins]]\nname = \"{name}\"\npath = {path:?}\nbreaker = false\n{plugin}\n"
        );
    }
    let gateway = TestGateway::start(&config).await;
    let mut neighbour = gateway.client().await;
    neighbour.join("free:1").await;
    let mut measure = async |n: usize| {
        let mut times = Vec::new();
        for n in 0..n {
            let started = Instant::now();
            neighbour.publish("free:1", json!(n)).await;
            assert_eq!(neighbour.heard("free:1").await, n);
            times.push(started.elapsed());
        }
        times.sort();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    let alone = measure(2_000).await;
    let ended = CancellationToken::new();
    let mut victims = tokio::task::JoinSet::new();
    for (name, _) in EVIL {
        let (mut client, end) = (gateway.client().await, ended.clone());
        let room = format!("{name}:1");
        client.join(&room).await;
        victims.spawn(async move {
            let mut asked = 0;
            while asked < 3 || !end.is_cancelled() {
                assert_eq!(client.refused("publish", json!({ "channel": room, "data": "x" })).await, 100, "{room}");
                asked += 1;
            }
            // Its connection is none the worse.
            client.ask("ping", json!({})).await;
            asked
        });
    }
    let with = measure(2_000).await;
    ended.cancel();
    let mut asked = 0;
    while let Some(n) = victims.join_next().await {
        asked += n.unwrap();
    }
    println!(
        "t12: a neighbour's median and p99 alone {alone:?}, beside {asked} failures of {} kinds {with:?}",
        EVIL.len()
    );
    let failures: usize = gateway.gateway.reloader().running().plugins.iter().map(|plugin| plugin.failures()).sum();
    assert_eq!(failures, asked, "each message failed once, and nothing else did");
}
