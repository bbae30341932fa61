//! The recipes of `docs/cookbook`, as they stand there: the cases of each, and
//! its point with real clients.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    api,
    support::{PATIENCE, TestClient, instance::Instance, is_left_out, pages::Block, redis::RedisServer, token, until},
};

/// Failures that would let a plugin rest.
const OFTEN: usize = 22;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A recipe's files in a folder of their own.
struct Recipe {
    folder: TempDir,
    /// Where its plugin is, in that folder.
    plugin: String,
}

impl Recipe {
    /// Writes what the page shows, and puts its cases to its plugin.
    fn of(name: &str) -> Self {
        let page = std::fs::read_to_string(root().join(format!("docs/cookbook/{name}.md"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for block in Block::all(&page) {
            let place = format!("{name}.md, line {}", block.line);
            if block.language == "sh" {
                run(&block.text, folder.path());
                continue;
            }
            let file = block.value("file").unwrap_or_else(|| panic!("{place}: nothing uses this block"));
            let is_named = page.lines().take(block.line - 1).any(|line| line.contains(&format!("`{file}`")));
            assert!(is_named, "{place}: nothing tells readers that this is `{file}`");
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, block.text).unwrap();
        }
        let config = std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
        let plugin = config.lines().find_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
        let recipe = Self { plugin: plugin.unwrap().to_owned(), folder };
        recipe.put_cases();
        recipe
    }

    /// All hold; something is allowed, and something refused.
    fn put_cases(&self) {
        let said = run(&format!("wayleave plugin test --format json {}", self.plugin), self.folder.path());
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let steps = lines.iter().filter_map(|line| line["steps"].as_array()).flatten();
        let (no, yes): (Vec<_>, Vec<_>) = steps
            .map(|step| step["actual"].to_string())
            .partition(|answer| answer.contains("\"refuse\"") || answer.contains("\"failed\""));
        assert!(!no.is_empty() && !yes.is_empty(), "{said}");
    }

    /// Its config with the plugin where it is, and with other words; each must be there.
    fn config(&self, changes: &[(&str, &str)]) -> String {
        let mut config = std::fs::read_to_string(self.folder.path().join("config.toml")).unwrap();
        let path = format!("path = {:?}", self.folder.path().join(&self.plugin).display().to_string());
        for (from, to) in [(format!("path = \"{}\"", self.plugin).as_str(), path.as_str())].iter().chain(changes) {
            assert!(config.contains(from), "no {from:?} in:\n{config}");
            config = config.replace(from, to);
        }
        format!("{}{config}", api::API)
    }

    async fn serve(&self, changes: &[(&str, &str)]) -> Instance {
        Instance::start(&self.config(changes), None, &self.plugin).await
    }
}

/// Runs a script with the program of this build; returns what it printed.
fn run(script: &str, folder: &Path) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder);
    let output = command.env("PATH", path()).env("CARGO_TARGET_DIR", root().join("plugins/target")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Where the program of this build is, and what `tests/setup` has installed.
fn path() -> std::ffi::OsString {
    let own = [Path::new(env!("CARGO_BIN_EXE_wayleave")).parent().unwrap().to_owned(), root().join("target/tools/bin")];
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path))).unwrap()
}

async fn user(gateway: &Instance, user: &str, info: Value) -> TestClient {
    gateway.client_with(json!({ "token": token(&json!({ "sub": user, "info": info })) })).await
}

/// How a call of a plugin is answered.
async fn rpc(client: &mut TestClient, method: &str, data: Value) -> Result<Value, u64> {
    let mut reply = client.ask("rpc", json!({ "method": method, "data": data })).await;
    reply["error"]["code"].as_u64().map_or_else(|| Ok(reply["rpc"]["data"].take()), Err)
}

async fn refused_join(client: &mut TestClient, room: &str) -> u64 {
    client.refused("subscribe", json!({ "channel": room })).await
}

async fn refused_publish(client: &mut TestClient, room: &str, data: Value) -> u64 {
    client.refused("publish", json!({ "channel": room, "data": data })).await
}

/// Waits until somebody is taken out of a room.
async fn taken_out(client: &mut TestClient, room: &str) {
    loop {
        let push = client.push().await;
        if push.get("unsubscribe").is_some() {
            assert_eq!(push["channel"], room);
            return;
        }
    }
}

#[test]
fn each_recipe_is_linked_and_tested() {
    let pages: BTreeSet<PathBuf> =
        root().join("docs/cookbook").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(pages.len(), 10, "{pages:?}");
    let index = std::fs::read_to_string(root().join("docs/cookbook.md")).unwrap();
    for page in pages {
        let name = page.file_stem().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("](cookbook/{name}.md)")), "docs/cookbook.md has no link to {name}");
        let test = format!("Recipe::of(\"{name}\")");
        assert!(include_str!("cookbook.rs").contains(&test), "no test here has {test}");
    }
}

/// Billing, as far as it matters here.
#[derive(Default)]
struct Billing {
    paid: Mutex<BTreeSet<String>>,
    is_down: AtomicBool,
    asked: AtomicUsize,
    /// Who holds it holds up the answers.
    hold: tokio::sync::Mutex<()>,
}

impl Billing {
    async fn start() -> (Arc<Self>, String) {
        let billing = Arc::new(Self::default());
        let access = async |State(billing): State<Arc<Self>>, query: Query<Vec<(String, String)>>, head: HeaderMap| {
            billing.asked.fetch_add(1, Ordering::SeqCst);
            assert_eq!(head["authorization"], "Bearer a key that opens nothing");
            assert_eq!(query.0[1], ("product".to_owned(), "jazz".to_owned()));
            if billing.is_down.load(Ordering::SeqCst) {
                return Err(StatusCode::BAD_GATEWAY);
            }
            let paid = billing.paid.lock().contains(&query.0[0].1);
            drop(billing.hold.lock().await);
            Ok(Json(json!({ "paid": paid })))
        };
        let app = Router::new().route("/v1/access", get(access)).with_state(Arc::clone(&billing));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (billing, origin)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paid_rooms_let_in_whom_billing_names_also_while_it_is_down() {
    let recipe = Recipe::of("paid-rooms");
    let (billing, origin) = Billing::start().await;
    let key = format!("{{ file = {:?} }}", recipe.folder.path().join("paid-rooms/cases/billing-key").display());
    let changes = [("https://billing.example.com", origin.as_str()), ("{ env = \"BILLING_KEY\" }", &key)];
    let gateway = recipe.serve(&changes).await;
    let odd = "ada & co?";
    billing.paid.lock().extend(["ada".to_owned(), odd.to_owned()]);
    let mut ada = gateway.user("ada").await;
    ada.join("paid:jazz").await;
    assert_eq!(billing.asked(), 1);
    gateway.user("ada").await.join("paid:jazz").await;
    assert_eq!(billing.asked(), 1, "what it said is kept");
    gateway.user(odd).await.join("paid:jazz").await;
    assert_eq!(refused_join(&mut gateway.user("bob").await, "paid:jazz").await, 402);
    billing.is_down.store(true, Ordering::SeqCst);
    gateway.user("ada").await.join("paid:jazz").await;
    let mut eve = gateway.user("eve").await;
    let reply = eve.ask("subscribe", json!({ "channel": "paid:jazz" })).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&503.into(), &true.into()), "{reply}");

    // She ceases to pay, which only billing may say.
    billing.is_down.store(false, Ordering::SeqCst);
    billing.paid.lock().remove("ada");
    let ended = json!({ "user": "ada", "product": "jazz", "paid": false });
    assert_eq!(rpc(&mut eve, "paid-rooms.changed", ended.clone()).await, Err(103));
    let told = json!({ "method": "paid-rooms.changed", "params": ended });
    api::result(gateway.addr(), "rpc", told).await;
    taken_out(&mut ada, "paid:jazz").await;
    assert_eq!(refused_join(&mut ada, "paid:jazz").await, 402);

    // Another does so while she joins: billing said yes before.
    billing.paid.lock().insert("cy".to_owned());
    let mut cy = gateway.user("cy").await;
    let (held, before) = (billing.hold.lock().await, billing.asked());
    let change = async {
        until("billing is asked", async || billing.asked() > before).await;
        billing.paid.lock().remove("cy");
        let ended = json!({ "user": "cy", "product": "jazz", "paid": false });
        let told = json!({ "method": "paid-rooms.changed", "params": ended });
        api::result(gateway.addr(), "rpc", told).await;
        drop(held);
    };
    let (reply, ()) = tokio::join!(cy.ask("subscribe", json!({ "channel": "paid:jazz" })), change);
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&503.into(), &true.into()), "{reply}");
    assert_eq!(refused_join(&mut cy, "paid:jazz").await, 402, "and the old answer is not kept");

    // With answers that are not believed for long, only the day's memory is left.
    let short = [changes.as_slice(), &[("[plugins.settings]\n", "[plugins.settings]\nyes = 0\n")]].concat();
    let gateway = recipe.serve(&short).await;
    gateway.user(odd).await.join("paid:jazz").await;
    billing.is_down.store(true, Ordering::SeqCst);
    let before = billing.asked();
    gateway.user(odd).await.join("paid:jazz").await;
    assert_eq!(billing.asked(), before + 1);
    assert_eq!(refused_join(&mut gateway.user("eve").await, "paid:jazz").await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_mode_counts_a_user_on_all_instances() {
    let recipe = Recipe::of("slow-mode");
    let redis = RedisServer::start().await;
    let config = recipe.config(&[("\"chat:welcome\" = 60", "\"chat:welcome\" = 1")]);
    let one = Instance::start(&config, Some(&redis.url()), "one").await;
    let other = Instance::start(&config, Some(&redis.url()), "other").await;
    let (mut here, mut there) = (one.user("ada").await, other.user("ada").await);
    let mut bob = other.user("bob").await;
    for client in [&mut here, &mut there, &mut bob] {
        client.join("chat:1").await;
        client.join("chat:2").await;
        client.join("chat:welcome").await;
    }
    here.publish("chat:1", json!("first")).await;
    assert_eq!(refused_publish(&mut there, "chat:1", json!("too soon")).await, 429);
    // Heard first: nothing orders what two say in a room without history.
    assert_eq!(bob.heard("chat:1").await, "first");
    bob.publish("chat:1", json!("another's")).await;
    assert_eq!(bob.heard("chat:1").await, "another's");

    // Both at once are still one.
    let say = json!({ "channel": "chat:2", "data": 1 });
    let (a, b) = tokio::join!(here.ask("publish", say.clone()), there.ask("publish", say));
    assert!(a.get("error").is_some() != b.get("error").is_some(), "{a} {b}");

    // And after the time the next one may.
    here.publish("chat:welcome", json!(1)).await;
    let say = json!({ "channel": "chat:welcome", "data": 2 });
    until("the time is over", async || there.ask("publish", say.clone()).await.get("error").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_hangs_a_plugin_says_so_itself_and_is_asked_on() {
    let recipe = Recipe::of("private-rooms");
    let mut redis = RedisServer::start().await;
    let gateway = Instance::start(&recipe.config(&[]), Some(&redis.url()), "one").await;
    let mut bob = gateway.user("bob").await;
    assert_eq!(refused_join(&mut bob, "private:ada:club").await, 103);
    let mut others = Vec::new();
    for n in 0..OFTEN {
        others.push(gateway.user(&format!("user-{n}")).await);
    }
    redis.stop();
    let room = json!({ "channel": "private:ada:club" });
    let replies =
        futures_util::future::join_all(others.iter_mut().map(|other| other.ask("subscribe", room.clone()))).await;
    for reply in replies.into_iter().chain([bob.ask("subscribe", room.clone()).await]) {
        let error = json!({ "code": 503, "message": "invitations cannot be read now", "temporary": true });
        assert_eq!(reply["error"], error, "{reply}");
    }
    redis.cont();
}

#[tokio::test(flavor = "multi_thread")]
async fn private_rooms_are_for_those_who_were_invited() {
    let recipe = Recipe::of("private-rooms");
    let gateway = recipe.serve(&[]).await;
    let (mut ada, mut bob) = (gateway.user("ada").await, gateway.user("bob").await);
    let room = "private:ada:club";
    ada.join(room).await;
    assert_eq!(refused_join(&mut bob, room).await, 103);
    let invitation = json!({ "room": room, "user": "bob" });
    assert_eq!(rpc(&mut bob, "private.invite", invitation.clone()).await, Err(103), "he is not the owner");
    assert_eq!(rpc(&mut ada, "private.invite", invitation.clone()).await, Ok(json!({})));
    assert_eq!(bob.heard("user:bob").await, json!({ "invited": room, "by": "ada" }));
    bob.join(room).await;
    ada.publish(room, json!("welcome")).await;
    assert_eq!(bob.heard(room).await, "welcome");
    assert_eq!(rpc(&mut ada, "private.remove", invitation).await, Ok(json!({})));
    taken_out(&mut bob, room).await;
    assert_eq!(refused_join(&mut bob, room).await, 103);

    // Somebody else asks without an end.
    let mut eve = gateway.user("eve").await;
    let invitation = json!({ "room": "private:eve:club", "user": "bob" });
    for _ in 0..20 {
        assert_eq!(rpc(&mut eve, "private.invite", invitation.clone()).await, Ok(json!({})));
    }
    assert_eq!(rpc(&mut eve, "private.invite", invitation).await, Err(111));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_banned_users_message_reaches_only_himself() {
    let recipe = Recipe::of("shadow-bans");
    let gateway = recipe.serve(&[]).await;
    let mut mo = user(&gateway, "mo", json!({ "role": "moderator" })).await;
    let (mut ada, mut bob) = (gateway.user("ada").await, gateway.user("bob").await);
    let mut phone = gateway.user("bob").await;
    for client in [&mut ada, &mut bob, &mut phone] {
        client.join("chat:1").await;
    }
    bob.publish("chat:1", json!("what do I hear")).await;
    let before = bob.push().await;
    for client in [&mut ada, &mut phone] {
        assert_eq!(client.heard("chat:1").await, "what do I hear");
    }
    let ban = json!({ "user": "bob", "hours": 1 });
    assert_eq!(rpc(&mut ada, "shadow-ban.set", ban.clone()).await, Err(103));
    assert_eq!(rpc(&mut mo, "shadow-ban.set", ban.clone()).await, Ok(json!({ "done": true })));
    bob.publish("chat:1", json!("you are all wrong")).await;
    let push = bob.push().await;
    assert_eq!((&push["channel"], &push["pub"]["info"]["user"]), (&"chat:1".into(), &"bob".into()), "{push}");
    let names = |push: &Value| push["pub"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&push), "he can see it: {before} {push}");
    assert_eq!(phone.heard("chat:1").await, "you are all wrong");
    ada.publish("chat:1", json!("how quiet it is")).await;
    assert_eq!(ada.heard("chat:1").await, "how quiet it is", "and nothing before it");
    for client in [&mut ada, &mut bob] {
        assert_eq!(client.refused("history", json!({ "channel": "chat:1", "limit": 10 })).await, 108);
    }

    assert_eq!(rpc(&mut mo, "shadow-ban.lift", ban).await, Ok(json!({ "done": true })));
    bob.publish("chat:1", json!("sorry")).await;
    assert_eq!(ada.heard("chat:1").await, "sorry");

    // For those who add a history: alone in a room, too, what he says is not in it.
    let history = [("presence = true\n", "presence = true\nhistory = { size = 100, ttl = \"5m\" }\n")];
    let gateway = recipe.serve(&history).await;
    let mut mo = user(&gateway, "mo", json!({ "role": "moderator" })).await;
    assert_eq!(rpc(&mut mo, "shadow-ban.set", json!({ "user": "bob", "hours": 1 })).await, Ok(json!({ "done": true })));
    let mut bob = gateway.user("bob").await;
    bob.join("chat:2").await;
    bob.publish("chat:2", json!("echo")).await;
    let push = bob.push().await;
    assert!(push["pub"]["data"] == "echo" && push["pub"].get("offset").is_none(), "{push}");
    let history = bob.ask("history", json!({ "channel": "chat:2", "limit": 10 })).await;
    assert!(history["history"]["publications"].as_array().is_none_or(Vec::is_empty), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_checks_say_what_is_wrong_and_where() {
    let recipe = Recipe::of("schema-checks");
    let gateway = recipe.serve(&[]).await;
    let mut ada = gateway.user("ada").await;
    ada.join("orders:1").await;
    let order = |price: Value| json!({ "customer": "ada", "items": [{ "sku": "a", "price": 1 }, { "sku": "b", "price": price }] });
    let reply = ada.ask("publish", json!({ "channel": "orders:1", "data": order(json!(-5)) })).await;
    assert_eq!(
        (&reply["error"]["code"], &reply["error"]["message"]),
        (&422.into(), &"items[1].price: expected at least 0, found -5".into()),
        "{reply}"
    );
    ada.publish("orders:1", order(json!(5))).await;
    assert_eq!(ada.heard("orders:1").await, order(json!(5)), "and nothing before it");

    // What would end a guest does not come to one, and nobody else is shut out.
    let mut eve = gateway.user("eve").await;
    eve.join("orders:1").await;
    let deep = format!("{}{}", "[".repeat(25_000), "]".repeat(25_000));
    for n in 0..OFTEN {
        eve.say(&format!(r#"{{"id":{},"publish":{{"channel":"orders:1","data":{deep}}}}}"#, 1_000 + n)).await;
        let reply = eve.try_frame(PATIENCE).await.unwrap_or_else(|| panic!("nothing came"));
        assert_eq!(reply["error"]["code"], 107, "{reply}");
    }
    ada.publish("orders:1", order(json!(6))).await;
    assert_eq!(eve.heard("orders:1").await, order(json!(6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_messages_go_to_the_desk_that_fits_them() {
    let recipe = Recipe::of("routing-by-attribute");
    let gateway = recipe.serve(&[]).await;
    let mut gold = user(&gateway, "gold-agent", json!({ "desks": ["desk:gold", "desk:en"] })).await;
    let mut german = user(&gateway, "german-agent", json!({ "desks": ["desk:de"] })).await;
    gold.join("desk:gold").await;
    gold.join("desk:en").await;
    german.join("desk:de").await;
    assert_eq!(refused_join(&mut german, "desk:gold").await, 103);
    let mut ada = user(&gateway, "ada", json!({ "plan": "gold", "language": "de" })).await;
    let mut bob = user(&gateway, "bob", json!({ "language": "de" })).await;
    assert_eq!(refused_join(&mut ada, "inbox").await, 103);
    ada.publish("inbox", json!("from ada")).await;
    bob.publish("inbox", json!("from bob")).await;
    gateway.client().await.publish("inbox", json!("from nobody")).await;
    let push = gold.push().await;
    assert_eq!((&push["channel"], &push["pub"]["info"]["user"]), (&"desk:gold".into(), &"ada".into()), "{push}");
    assert_eq!(gold.heard("desk:en").await, "from nobody");
    assert_eq!(german.heard("desk:de").await, "from bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn sensors_arrive_together_in_their_sites_room_and_their_mean_after_them() {
    if is_left_out("go") {
        return;
    }
    let recipe = Recipe::of("sensor-rooms");
    let gateway = recipe.serve(&[("tick = \"10s\"", "tick = \"1s\"")]).await;
    let mut watcher = gateway.user("watcher").await;
    watcher.join("site:north").await;
    let (mut one, mut two) = (gateway.user("sensor:north:1").await, gateway.user("sensor:north:2").await);
    assert_eq!(refused_publish(&mut one, "sensor:north:1", json!({ "value": "warm" })).await, 422);
    assert_eq!(refused_publish(&mut one, "sensor:north:2", json!({ "value": 20 })).await, 103, "another's");
    assert_eq!(refused_publish(&mut watcher, "sensor:north:1", json!({ "value": 20 })).await, 103);
    let mut elsewhere = gateway.user("sensor:moon:1").await;
    assert_eq!(refused_publish(&mut elsewhere, "sensor:moon:1", json!({ "value": 20 })).await, 404);
    one.publish("sensor:north:1", json!({ "value": 20 })).await;
    two.publish("sensor:north:2", json!({ "value": 22.5 })).await;
    let (mut readings, mut sum, mut counted) = (Vec::new(), 0.0, 0);
    // A tick may come between the two.
    while counted < 2 || readings.len() < 2 {
        let came = watcher.heard("site:north").await;
        match came["readings"].as_i64() {
            Some(n) => {
                sum += came["mean"].as_f64().unwrap() * n as f64;
                counted += n;
            }
            None => readings.push(came),
        }
    }
    assert_eq!(readings, [json!({ "sensor": "1", "value": 20 }), json!({ "sensor": "2", "value": 22.5 })]);
    assert_eq!((counted, sum), (2, 42.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phrase_arrives_in_all_languages() {
    let recipe = Recipe::of("translated-payloads");
    let gateway = recipe.serve(&[]).await;
    let mut ada = gateway.user("ada").await;
    ada.join("game:1").await;
    assert_eq!(refused_publish(&mut ada, "game:1", json!({ "text": "free" })).await, 422);
    ada.publish("game:1", json!({ "phrase": "help", "args": { "place": "bridge" } })).await;
    let heard = ada.heard("game:1").await;
    assert_eq!(heard["text"], json!({ "en": "I need help at the bridge", "de": "Ich brauche Hilfe: bridge" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_private_group_nobody_learns_who_is_there() {
    let recipe = Recipe::of("presence-privacy");
    let gateway = recipe.serve(&[]).await;
    let (mut ada, mut bob) = (gateway.user("ada").await, gateway.user("bob").await);
    let mut sam = user(&gateway, "sam", json!({ "role": "staff" })).await;
    let room = json!({ "channel": "group:1" });
    let joined = ada.ask("subscribe", room.clone()).await;
    let name = joined["subscribe"]["data"]["you"].as_str().unwrap_or_else(|| panic!("{joined}")).to_owned();
    bob.join("group:1").await;
    for method in ["presence", "presence_stats"] {
        assert_eq!(bob.refused(method, room.clone()).await, 108, "not for members");
    }
    assert_eq!(refused_publish(&mut ada, "group:1", json!("hi")).await, 103);
    let say = json!({ "room": "group:1", "data": { "text": "hi" } });
    assert_eq!(rpc(&mut sam, "group.say", say.clone()).await, Err(103), "not a member yet");
    assert_eq!(rpc(&mut ada, "group.say", say.clone()).await, Ok(json!({})));
    let push = bob.push().await;
    assert_eq!(push["pub"]["data"], json!({ "from": name, "data": { "text": "hi" } }));
    assert!(!push.to_string().contains("ada") && !push.to_string().contains(&ada.id), "{push}");
    let history = bob.ask("history", json!({ "channel": "group:1", "limit": 10 })).await;
    assert!(history.to_string().contains(&name) && !history.to_string().contains("ada"), "{history}");
    assert_eq!(rpc(&mut bob, "group.count", say.clone()).await, Ok(json!({ "users": 2 })));
    sam.join("group:1").await;
    let presence = sam.ask("presence", room.clone()).await;
    assert_eq!(presence["presence"]["presence"][&ada.id]["user"], "ada", "{presence}");
    // Another device has the same name, another room another one.
    let again = gateway.user("ada").await.ask("subscribe", room).await;
    assert_eq!(again["subscribe"]["data"]["you"], *name);
    let other = ada.ask("subscribe", json!({ "channel": "group:2" })).await;
    assert_ne!(other["subscribe"]["data"]["you"], *name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_geofenced_room_is_for_those_who_are_there() {
    let recipe = Recipe::of("geofenced-rooms");
    // So that the test need not walk.
    let gateway = recipe.serve(&[("max_speed = 100 ", "max_speed = 10000 ")]).await;
    let (mut ada, mut bob) = (gateway.user("ada").await, gateway.user("bob").await);
    let at = |lat: f64, lon: f64| json!({ "lat": lat, "lon": lon });
    assert_eq!(refused_join(&mut ada, "place:plaza").await, 428);
    assert_eq!(rpc(&mut ada, "geofence.report", at(52.5201, 13.4049)).await, Ok(json!({})));
    ada.join("place:plaza").await;
    ada.publish("place:plaza", json!("here")).await;
    assert_eq!(ada.heard("place:plaza").await, "here");
    assert_eq!(refused_join(&mut ada, "place:harbour").await, 403);
    assert_eq!(rpc(&mut bob, "geofence.report", at(48.8566, 2.3522)).await, Ok(json!({})));
    assert_eq!(refused_join(&mut bob, "place:plaza").await, 403);
    // To Paris, in no time.
    assert_eq!(rpc(&mut ada, "geofence.report", at(48.8566, 2.3522)).await, Err(409));
    assert_eq!(rpc(&mut ada, "geofence.report", at(52.5300, 13.4050)).await, Ok(json!({})));
    taken_out(&mut ada, "place:plaza").await;
    assert_eq!(refused_join(&mut ada, "place:plaza").await, 403);
}
