//! A client that does not read.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestClient, TestGateway, eventually, instance::Instance, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_closed_and_harms_nobody() {
    let config = "[limits]\noutbox = \"64KiB\"\nmessage_size = \"32KiB\"\ncommands_burst = 1000000\nclose_timeout = \"10s\"\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let gateway = TestGateway::start(config).await;
    let mut slow = gateway.client().await;
    slow.join("r").await;
    let (mut healthy, mut sender) = (gateway.client().await, gateway.client().await);
    healthy.join("r").await;
    sender.join("r").await;
    let text = "x".repeat(30 << 10);
    let mut n = 0;
    // The kernel's buffers take some megabytes before the outbox fills.
    while gateway.hub().count("r").0 == 3 {
        sender.publish("r", json!([n, text])).await;
        assert_eq!(healthy.heard("r").await[0], n);
        sender.heard("r").await;
        n += 1;
        assert!(n < 10_000, "the slow client was never closed");
    }
    // It finds what fitted, whole and in order, and then the reason.
    let closed = slow.closed().await;
    assert_eq!(closed, (3008, "slow".into()));
    assert_eq!(gateway.metric(r#"wayleave_closes_total{code="3008"}"#), 1.0);
    sender.publish("r", json!("after")).await;
    assert_eq!(healthy.heard("r").await, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_let_go_at_the_deadline() {
    let config = "[limits]\noutbox = \"64KiB\"\nmessage_size = \"32KiB\"\ncommands_burst = 1000000\nclose_timeout = \"200ms\"\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let gateway = TestGateway::start(config).await;
    let mut slow = gateway.client().await;
    slow.join("r").await;
    let mut sender = gateway.client().await;
    sender.join("r").await;
    let text = "x".repeat(30 << 10);
    while gateway.hub().count("r").0 == 2 {
        sender.publish("r", json!(text)).await;
        sender.heard("r").await;
    }
    eventually("its socket is closed", || gateway.gateway.router().metrics.sockets.get() == 1).await;
    tokio::time::timeout(Duration::from_secs(5), sender.ask("ping", json!({}))).await.unwrap();
    drop(slow);
}

const OPEN: &str = "[limits]\noutbox = \"256KiB\"\nmessage_size = \"32KiB\"\ncommands_per_second = 1000000\n\
                    commands_burst = 1000000\n";

/// A room with a policy, somebody who sends to it, and a member that reads
/// nothing for the moment.
async fn with_slow(policy: &str) -> (Instance, TestClient, TestClient) {
    let room = "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\nslow_at = \"64KiB\"\n";
    let gateway = Instance::start(&format!("{OPEN}{room}{policy}\n"), None, "slow").await;
    let mut slow = TestClient::narrow(&gateway.url(), json!({})).await;
    slow.join("r").await;
    let mut sender = gateway.client().await;
    sender.join("r").await;
    (gateway, slow, sender)
}

/// Sends until so many messages were left out; returns how many were sent.
async fn flood(gateway: &Instance, sender: &mut TestClient, left_out: f64, message: impl Fn(usize) -> Value) -> usize {
    let mut n = 0;
    while gateway.metric("wayleave_slow_dropped_total").await < left_out {
        for _ in 0..50 {
            sender.publish("r", message(n)).await;
            sender.heard("r").await;
            n += 1;
        }
        assert!(n < 20_000, "nothing is left out");
    }
    n
}

/// What somebody hears up to its last message.
async fn all_up_to(client: &mut TestClient, last: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    while all.last() != Some(last) {
        all.push(client.heard("r").await["n"].take());
    }
    all
}

fn numbered(n: usize) -> Value {
    json!({ "n": n, "text": "x".repeat(4 << 10) })
}

/// Row G13: messages that may be lost are, and counted, and memory stays.
#[tokio::test(flavor = "multi_thread")]
async fn g13_what_comes_is_left_out_for_a_member_that_does_not_read() {
    let (mut gateway, mut slow, mut sender) = with_slow("slow = \"drop-newest\"").await;
    let first = flood(&gateway, &mut sender, 50.0, numbered).await;
    let before = gateway.resident_bytes();
    let second = flood(&gateway, &mut sender, 2_000.0, numbered).await;
    println!("g13: {} bytes more after {second} behind {first}", gateway.resident_bytes().saturating_sub(before));
    // The allocator gives back with a delay.
    until("little memory is taken", async || {
        gateway.metric("wayleave_connections").await;
        gateway.resident_bytes().saturating_sub(before) < 1 << 20
    })
    .await;
    // It reads again: what came first is there without a hole, and it is still in.
    let mut heard = Vec::new();
    let end = json!({ "n": "end" });
    let reads = async {
        loop {
            let n = slow.heard("r").await["n"].take();
            if n == "end" {
                return;
            }
            heard.push(n);
        }
    };
    let ends = async {
        // The end may be left out as well, as long as much waits.
        for _ in 0..500 {
            sender.publish("r", end.clone()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = reads => {}
        () = ends => panic!("it never hears anything new"),
    }
    assert!(heard.len() > 10);
    assert_eq!(heard, (0..heard.len()).map(|n| json!(n)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_waited_longest_is_left_out_for_a_member_that_does_not_read() {
    let (gateway, mut slow, mut sender) = with_slow("slow = \"drop-oldest\"").await;
    let n = flood(&gateway, &mut sender, 500.0, numbered).await;
    let heard = all_up_to(&mut slow, &json!(n - 1)).await;
    let numbers: Vec<u64> = heard.iter().map(|n| n.as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    // The newest that fit, without a hole among them.
    let last: Vec<u64> = (n as u64 - 10..n as u64).collect();
    assert_eq!(numbers[numbers.len() - 10..], last, "{numbers:?}");
    assert!(heard.len() < n);
    // Its answers were never left out.
    slow.ask("ping", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_latest_of_each_key_waits_for_a_member_that_does_not_read() {
    let (gateway, mut slow, mut sender) = with_slow("slow = \"latest\"\nslow_key = \"data.key\"").await;
    let message = |n: usize| json!({ "n": n, "key": n % 3, "text": "x".repeat(4 << 10) });
    let n = flood(&gateway, &mut sender, 500.0, message).await;
    sender.publish("r", json!({ "n": "end", "key": "end" })).await;
    let heard = all_up_to(&mut slow, &json!("end")).await;
    let last: Vec<u64> = heard[heard.len() - 4..heard.len() - 1].iter().map(|n| n.as_u64().unwrap()).collect();
    let mut expected: Vec<u64> = (n as u64 - 3..n as u64).collect();
    expected.retain(|n| !last.contains(n));
    assert!(expected.is_empty(), "the latest {expected:?} are missing at the end of {heard:?}");
    assert!(heard.len() <= n - 400, "{} of {n}", heard.len());
}

/// Fault F10 in its short form: the memory that one member takes which does not
/// read is bounded, it is let go, the reason is counted, and others hear all.
#[tokio::test(flavor = "multi_thread")]
async fn f10_a_member_that_does_not_read_takes_its_cap_and_no_more() {
    let room = "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let mut gateway = Instance::start(&format!("{OPEN}{room}"), None, "f10").await;
    let mut healthy = Vec::new();
    for _ in 0..20 {
        let mut member = gateway.client().await;
        member.join("r").await;
        healthy.push(member);
    }
    let mut sender = gateway.client().await;
    sender.join("r").await;
    let message = |n: usize| json!({ "n": n, "text": "x".repeat(30 << 10) });
    let mut sent = 0;
    let mut round = async |sender: &mut TestClient| {
        sender.publish("r", message(sent)).await;
        for member in healthy.iter_mut().chain([&mut *sender]) {
            assert_eq!(member.heard("r").await["n"], sent);
        }
        sent += 1;
    };
    for _ in 0..50 {
        round(&mut sender).await;
    }
    let before = gateway.resident_bytes();
    let mut slow = TestClient::narrow(&gateway.url(), json!({})).await;
    slow.join("r").await;
    let (mut highest, mut rounds) = (before, 0);
    while gateway.metric("wayleave_closes_total{code=\"3008\"}").await < 1.0 {
        round(&mut sender).await;
        highest = highest.max(gateway.resident_bytes());
        rounds += 1;
        assert!(rounds < 2_000, "it is never let go");
    }
    // 9 MB, of which nothing waits for it any more.
    for _ in 0..300 {
        round(&mut sender).await;
    }
    highest = highest.max(gateway.resident_bytes());
    // Its cap is 256 KiB; the allocator keeps what is free for a second.
    assert!(highest - before < 4 << 20, "{} bytes more", highest - before);
}

/// Fault F11: a thousand that do not read take their caps and delay nobody.
#[tokio::test(flavor = "multi_thread")]
async fn f11_a_thousand_that_do_not_read_delay_nobody() {
    const N: usize = 1_000;
    let room = "[[rooms]]\nmatch = \"r\"\npublish = \"anyone\"\n";
    let limits = OPEN.replace("256KiB", "64KiB");
    let mut gateway = Instance::start(&format!("{limits}{room}"), None, "f11").await;
    let url = gateway.url();
    let mut slow = Vec::new();
    for _ in 0..N / 50 {
        slow.extend(join_all((0..50).map(|_| TestClient::narrow(&url, json!({})))).await);
    }
    for member in &mut slow {
        member.join("r").await;
    }
    let (mut healthy, mut sender) = (gateway.client().await, gateway.client().await);
    healthy.join("r").await;
    let before = gateway.resident_bytes();
    let (mut highest, mut worst) = (before, Duration::ZERO);
    // The hub reaches `healthy` among the last.
    for n in 0.. {
        if gateway.metric("wayleave_closes_total{code=\"3008\"}").await >= N as f64 {
            break;
        }
        assert!(n < 3_000, "they are never let go");
        for _ in 0..10 {
            let sent = Instant::now();
            sender.publish("r", json!({ "text": "x".repeat(1 << 10) })).await;
            healthy.heard("r").await;
            worst = worst.max(sent.elapsed());
        }
        highest = highest.max(gateway.resident_bytes());
    }
    println!(
        "f11: at most {} KiB more, {} each; the slowest message took {worst:?}",
        (highest - before) >> 10,
        (highest - before) / N as u64
    );
    assert!(highest - before < (N as u64) * (64 << 10), "{} bytes", highest - before);
    assert!(worst < Duration::from_secs(3), "{worst:?}");
    until("they are closed", async || gateway.metric("wayleave_sockets").await <= 2.0).await;
    drop(slow);
}
