//! Row T15: what the config keeps secret is said nowhere.

use serde_json::json;

use crate::support::{instance::Instance, redis::RedisServer, until};

/// Each secret has this in it, so that a search finds any piece of one.
const CANARY: &str = "CaNaRy7f3a";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_the_config_is_in_a_log_a_metric_an_answer_or_a_panic() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = signing_key.serialize_pem();
    std::fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), &key).unwrap();
    let api_key = format!("{CANARY}-of-the-api");
    let password = format!(">{CANARY}-bus");
    redis.command(&["ACL", "SETUSER", "u", "on", &password, "~*", "&*", "+@all"]).await;
    let config = |with_tls: bool| {
        let tls = format!("[tls]\ncert = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"\n", folder.path().display());
        format!(
            "[log]\nlevel = \"trace\"\n[auth]\n[auth.jwt]\nhmac_secret = \"{CANARY}-of-tokens-long-enough-to-be\"\n\
             [api]\nkeys = [{{ name = \"a\", key = \"{api_key}\" }}]\n[bus]\nkind = \"redis\"\n\
             url = \"redis://:{CANARY}-url@127.0.0.1:{}\"\nusername = \"u\"\npassword = \"{CANARY}-bus\"\n\
             [[rooms]]\nmatch = \"r\"\n{}",
            redis.port(),
            if with_tls { tls.as_str() } else { "" }
        )
    };
    let parsed = wayleave::config::Config::parse(&config(true), folder.path(), &Default::default()).unwrap();
    // What a panic would print of it.
    let debug = format!("{parsed:?}");
    assert!(debug.contains("Secret(…)") && !debug.contains(CANARY), "{debug}");
    assert!(!debug.contains(&key[40..80]), "{debug}");
    // Every mistake names its place, not what stands there.
    let wrong = config(true).replace("\"r\"\n", "\"r\"\nunknown = 1\n").replace("name = \"a\"", "name = 7");
    let mistakes = wayleave::config::Config::parse(&wrong, folder.path(), &Default::default()).unwrap_err();
    assert!(mistakes.mistakes.len() >= 2 && !mistakes.to_string().contains(CANARY), "{mistakes}");

    let mut instance = Instance::start(&config(false), None, "a").await;
    instance.ready().await;
    // From here on Redis refuses the password, and that is logged.
    redis.command(&["ACL", "DELUSER", "u"]).await;
    until("it has noticed", async || instance.log().contains("WRONGPASS")).await;
    let token = crate::support::token(&json!({ "sub": "u" }));
    for hello in [json!({}), json!({ "token": token }), json!({ "token": format!("{CANARY}.x.y") })] {
        let refused =
            crate::support::TestClient::try_connect(&instance.url(), hello, crate::support::PATIENCE).await.map(drop);
        let said = refused.unwrap_err();
        assert!(!said.contains(CANARY), "{said}");
    }
    for path in ["/metrics", "/ready", "/api/info", "/api/publish", "/", &format!("/api/info?api_key={api_key}")] {
        let (_, text) = instance.get(path).await.unwrap();
        assert!(!text.contains(CANARY), "{path}: {text}");
    }
    instance.terminate_soon();
    instance.ended(crate::support::PATIENCE).await;
    let log = instance.log();
    assert!(log.lines().count() > 8 && log.contains("WRONGPASS"), "there is nothing to search:\n{log}");
    let line = log.lines().find(|line| line.contains(CANARY));
    assert_eq!(line, None);
}

/// S20: what a user wrote is one line of the log, in either format, and not
/// all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_users_write_is_escaped_and_cut_in_the_log() {
    for format in ["text", "json"] {
        let config = format!(
            "[log]\nlevel = \"debug\"\nformat = \"{format}\"\n{}",
            "[server]\npersonal_rooms = true\n[[rooms]]\nmatch = \"*\"\npublish = \"members\"\n"
        );
        let mut instance = Instance::start(&config, None, "a").await;
        let hostile = "x\n2026-01-01 FORGED\r\n\u{1b}[31mred\u{7}";
        let long = "y".repeat(5_000);
        for text in [hostile, &long] {
            let mut client = instance.client().await;
            // Not the protocol: the reason is logged.
            client.say(&format!("{text} {{")).await;
            client.closed().await;
            let mut client = instance.client().await;
            client.ask("subscribe", json!({ "channel": text })).await;
            client.ask("rpc", json!({ "method": text, "data": text })).await;
            let user = json!({ "token": crate::support::token(&json!({ "sub": text })) });
            let _refused =
                crate::support::TestClient::try_connect(&instance.url(), user, crate::support::PATIENCE).await;
            client.ask("publish", json!({ "channel": text, "data": text })).await;
        }
        instance.terminate_soon();
        instance.ended(crate::support::PATIENCE).await;
        let log = instance.log();
        assert!(log.contains("bad request") && log.lines().count() >= 6, "{log}");
        for line in log.lines() {
            assert!(!line.starts_with("2026-01-01 FORGED") && line.len() < 1_000, "{format}: {line}");
            assert!(!line.contains(['\u{1b}', '\u{7}', '\r']), "{format}: {line:?}");
            if format == "json" {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
    }
}
