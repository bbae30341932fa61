//! R6: one list of checks, run on a site of one gateway that keeps all in
//! memory and on a site of three at one Redis. Clients are on gateways in turn,
//! so where there are several each check goes between them.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    api::{error, result},
    support::{TestClient, TestGateway, eventually, redis::RedisServer, until},
};

const CONFIG: &str = r#"
[server]
personal_rooms = true
[api]
keys = [{ name = "backend", key = "a-key-of-the-tests" }]
[limits]
commands_per_second = 1000000
commands_burst = 1000000
rooms_per_connection = 8
connections_per_user = 3
[[rooms]]
match = "live:*"
publish = "members"
presence = true
join_leave = "users"
[[rooms]]
match = "each:*"
publish = "members"
presence = true
join_leave = true
[[rooms]]
match = "plain:*"
publish = "anyone"
[[rooms]]
match = "kept:*"
publish = "anyone"
presence = true
history = { size = 20, ttl = "5m" }
recovery = true
[[rooms]]
match = "doc:*"
publish = "members"
records = { count = 4, size = "64KiB" }
[[rooms]]
match = "few:*"
publish = "members"
records = { count = 2 }
[[rooms]]
match = "quiet:*"
[[rooms]]
match = "users:*"
join = "users"
[[rooms]]
match = "server:*"
join = "nobody"
[[rooms]]
match = "orders:*"
publish = "anyone"
[[routes]]
room = "orders:*"
to = ["user:{data.to}", "room:plain:audit"]
keep = false
"#;

/// Gateways that are one to their users.
struct Site {
    all: Vec<TestGateway>,
    _redis: Option<RedisServer>,
}

impl Site {
    async fn in_memory() -> Self {
        Self { all: vec![TestGateway::start(CONFIG).await], _redis: None }
    }

    async fn on_redis() -> Self {
        let redis = RedisServer::start().await;
        let mut all = Vec::new();
        for name in ["a", "b", "c"] {
            let bus = format!("[bus]\nkind = \"redis\"\nurl = \"{}\"\n[cluster]\nname = \"{name}\"\n", redis.url());
            let gateway = TestGateway::start(&format!("{bus}{CONFIG}")).await;
            let router = std::sync::Arc::clone(gateway.gateway.router());
            eventually("the instance is ready", || router.cluster.as_ref().unwrap().trouble().is_none()).await;
            all.push(gateway);
        }
        Self { all, _redis: Some(redis) }
    }

    fn at(&self, n: usize) -> &TestGateway {
        &self.all[n % self.all.len()]
    }

    /// Where a backend asks.
    fn api(&self, n: usize) -> SocketAddr {
        self.at(n).gateway.address()
    }

    async fn client(&self, n: usize) -> TestClient {
        self.at(n).client().await
    }

    async fn user(&self, n: usize, user: &str) -> TestClient {
        self.at(n).user(user).await
    }

    /// Clients in a room, each on the next gateway.
    async fn members<const N: usize>(&self, room: &str) -> [TestClient; N] {
        let mut all = Vec::new();
        for n in 0..N {
            let mut client = self.client(n).await;
            client.join(room).await;
            all.push(client);
        }
        all.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
    }
}

/// The offset and data of the next message in a room.
async fn publication(client: &mut TestClient) -> (u64, Value) {
    loop {
        let push = client.push().await;
        if let Some(publication) = push.get("pub") {
            return (publication["offset"].as_u64().unwrap_or(0), publication["data"].clone());
        }
    }
}

/// The next that somebody came or went: `+name` or `-name`.
async fn coming(client: &mut TestClient, name: &str) -> String {
    let push = client.push().await;
    let (sign, info) = if push.get("join").is_some() { ('+', &push["join"]) } else { ('-', &push["leave"]) };
    format!("{sign}{}", info["info"][name].as_str().unwrap_or_else(|| panic!("{push}")))
}

async fn record(client: &mut TestClient, change: Value) -> Value {
    client.ask("rpc", json!({ "method": "wayleave.record", "data": change })).await["rpc"]["data"].take()
}

mod checks {
    use super::*;

    pub(super) async fn members_hear_each_other_once(site: &Site) {
        let mut all = site.members::<4>("plain:1").await;
        for n in 0..all.len() {
            all[n].publish("plain:1", json!(n)).await;
            for client in &mut all {
                assert_eq!(client.heard("plain:1").await, json!(n));
            }
        }
        for client in &mut all {
            client.heard_nothing().await;
        }
    }

    pub(super) async fn others_hear_nothing(site: &Site) {
        let [mut one, mut other] = site.members::<2>("plain:1").await;
        let [mut elsewhere, mut near] = site.members::<2>("plain:2").await;
        one.publish("plain:1", json!(1)).await;
        assert_eq!(other.heard("plain:1").await, 1);
        near.publish("plain:2", json!(2)).await;
        for client in [&mut elsewhere, &mut near] {
            assert_eq!(publication(client).await, (0, json!(2)));
            client.heard_nothing().await;
        }
    }

    pub(super) async fn a_sender_says_who_it_is(site: &Site) {
        let [mut one, _] = site.members::<2>("plain:1").await;
        let mut ann = site.user(1, "ann").await;
        ann.publish("plain:1", json!(1)).await;
        let push = one.push().await;
        let info = &push["pub"]["info"];
        assert_eq!((&info["user"], &info["client"]), (&json!("ann"), &json!(ann.id)), "{push}");
    }

    pub(super) async fn one_senders_messages_keep_their_order(site: &Site) {
        let mut all = site.members::<3>("plain:1").await;
        for n in 0..300 {
            all[0].publish("plain:1", json!(n)).await;
        }
        for client in &mut all {
            for n in 0..300 {
                assert_eq!(client.heard("plain:1").await, json!(n));
            }
        }
    }

    pub(super) async fn an_acknowledged_join_hears_what_follows(site: &Site) {
        let (mut one, mut other) = (site.client(0).await, site.client(1).await);
        for n in 0..100 {
            let room = format!("plain:{n}");
            one.join(&room).await;
            other.publish(&room, json!(n)).await;
            assert_eq!(one.heard(&room).await, json!(n));
            one.ask("unsubscribe", json!({ "channel": room })).await;
        }
    }

    pub(super) async fn who_has_left_hears_nothing(site: &Site) {
        let [mut stays, mut leaves, mut speaks] = site.members::<3>("plain:1").await;
        leaves.ask("unsubscribe", json!({ "channel": "plain:1" })).await;
        speaks.publish("plain:1", json!(1)).await;
        assert_eq!(stays.heard("plain:1").await, 1);
        leaves.heard_nothing().await;
        assert_eq!(leaves.refused("presence", json!({ "channel": "live:1" })).await, 103);
    }

    pub(super) async fn a_room_with_history_has_one_order(site: &Site) {
        let mut all = site.members::<3>("kept:1").await;
        let (mut one, mut other) = (site.client(0).await, site.client(1).await);
        for n in 0..50 {
            tokio::join!(one.publish("kept:1", json!([0, n])), other.publish("kept:1", json!([1, n])));
        }
        let mut order = Vec::new();
        for (n, client) in all.iter_mut().enumerate() {
            let mut mine = Vec::new();
            for offset in 1..=100 {
                let (at, data) = publication(client).await;
                assert_eq!(at, offset);
                mine.push(data);
            }
            if n == 0 {
                order = mine;
            } else {
                assert_eq!(mine, order);
            }
        }
    }

    pub(super) async fn history_is_read_from_either_end(site: &Site) {
        let mut client = site.client(0).await;
        client.join("kept:1").await;
        for n in 1..=30 {
            client.publish("kept:1", json!(n)).await;
        }
        let at = site.api(1);
        let numbers = |history: &Value| -> Vec<u64> {
            history["publications"].as_array().unwrap().iter().map(|it| it["data"].as_u64().unwrap()).collect()
        };
        let all = result(at, "history", json!({ "channel": "kept:1", "limit": 100 })).await;
        assert_eq!((numbers(&all), &all["offset"]), ((11..=30).collect(), &json!(30)), "the newest are kept");
        let newest = result(at, "history", json!({ "channel": "kept:1", "limit": 2, "reverse": true })).await;
        assert_eq!(numbers(&newest), [30, 29]);
        let since = json!({ "channel": "kept:1", "limit": 3, "since": { "offset": 12, "epoch": all["epoch"] } });
        assert_eq!(numbers(&result(at, "history", since).await), [13, 14, 15]);
        result(at, "history_remove", json!({ "channel": "kept:1" })).await;
        let none = result(site.api(2), "history", json!({ "channel": "kept:1", "limit": 9 })).await;
        assert_eq!((numbers(&none), &none["offset"]), (Vec::new(), &json!(30)));
    }

    pub(super) async fn who_comes_back_recovers_or_is_told(site: &Site) {
        let mut client = site.client(0).await;
        let epoch = client.ask("subscribe", json!({ "channel": "kept:1" })).await["subscribe"]["epoch"].take();
        let mut speaker = site.client(1).await;
        for n in 1..=40 {
            speaker.publish("kept:1", json!(n)).await;
        }
        let mut joined = Vec::new();
        for (n, (epoch, offset)) in
            [(epoch.clone(), 40), (epoch.clone(), 25), (epoch.clone(), 10), (json!("other"), 25), (epoch.clone(), 41)]
                .into_iter()
                .enumerate()
        {
            let mut back = site.client(n).await;
            let body = json!({ "channel": "kept:1", "recover": true, "epoch": epoch, "offset": offset });
            let reply = back.ask("subscribe", body).await["subscribe"].take();
            let n_missed = reply["publications"].as_array().map_or(0, Vec::len);
            joined.push((reply["recovered"] == json!(true), n_missed));
            assert_eq!(reply["offset"], json!(40));
            speaker.publish("plain:9", json!(0)).await;
        }
        assert_eq!(joined[..2], [(true, 0), (true, 15)]);
        assert_eq!(joined[2..].iter().map(|it| it.0).collect::<Vec<_>>(), [false; 3], "{joined:?}");
    }

    pub(super) async fn who_recovers_goes_on_with_what_is_live(site: &Site) {
        let [mut first, _] = site.members::<2>("kept:1").await;
        let mut speaker = site.client(2).await;
        for n in 1..=5 {
            speaker.publish("kept:1", json!(n)).await;
        }
        assert_eq!(publication(&mut first).await, (1, json!(1)));
        let top = first.ask("history", json!({ "channel": "kept:1" })).await["history"].take();
        for n in 0..3 {
            let mut back = site.client(n).await;
            let body = json!({ "channel": "kept:1", "recover": true, "epoch": top["epoch"], "offset": 2 });
            let reply = back.ask("subscribe", body).await["subscribe"].take();
            let first = reply["publications"][0].clone();
            assert_eq!((&first["offset"], &first["data"]), (&json!(3), &json!(3)), "{reply}");
            let next = 6 + n as u64;
            speaker.publish("kept:1", json!(next)).await;
            assert_eq!(publication(&mut back).await, (next, json!(next)));
        }
    }

    pub(super) async fn presence_lists_everybody(site: &Site) {
        let mut ids = BTreeSet::new();
        let mut all = Vec::new();
        for (n, user) in ["ann", "bob", "ann"].into_iter().enumerate() {
            let mut client = site.user(n, user).await;
            client.join("live:1").await;
            ids.insert(client.id.clone());
            all.push(client);
        }
        for client in &mut all {
            let reply = client.ask("presence", json!({ "channel": "live:1" })).await;
            let seen: BTreeSet<_> = reply["presence"]["presence"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(seen, ids);
            let stats = client.ask("presence_stats", json!({ "channel": "live:1" })).await;
            assert_eq!(stats["presence_stats"], json!({ "num_clients": 3, "num_users": 2 }));
        }
        assert_eq!(all[0].refused("presence", json!({ "channel": "live:2" })).await, 103, "who is in may ask");
    }

    pub(super) async fn a_user_comes_with_the_first_device_and_goes_with_the_last(site: &Site) {
        let mut watcher = site.client(2).await;
        watcher.join("live:1").await;
        let (mut phone, mut laptop) = (site.user(0, "ann").await, site.user(1, "ann").await);
        phone.join("live:1").await;
        assert_eq!(coming(&mut watcher, "user").await, "+ann");
        laptop.join("live:1").await;
        phone.ask("unsubscribe", json!({ "channel": "live:1" })).await;
        laptop.leave().await;
        assert_eq!(coming(&mut watcher, "user").await, "-ann");
        watcher.heard_nothing().await;
    }

    pub(super) async fn each_connection_comes_and_goes_once(site: &Site) {
        let mut watcher = site.client(2).await;
        watcher.join("each:1").await;
        for n in 0..6 {
            let mut client = site.user(n, "ann").await;
            client.join("each:1").await;
            let id = client.id.clone();
            assert_eq!(coming(&mut watcher, "client").await, format!("+{id}"));
            match n % 3 {
                0 => client.leave().await,
                1 => client.abort(),
                _ => drop(client.ask("unsubscribe", json!({ "channel": "each:1" })).await),
            }
            assert_eq!(coming(&mut watcher, "client").await, format!("-{id}"));
        }
        watcher.heard_nothing().await;
    }

    pub(super) async fn records_converge(site: &Site) {
        let [mut one, mut other, mut follower] = site.members::<3>("doc:1").await;
        for n in 0..30 {
            let patch = |by: &str| json!({ "room": "doc:1", "record": "d", "patch": { format!("{by}{n}"): n } });
            tokio::join!(record(&mut one, patch("a")), record(&mut other, patch("b")));
        }
        let mut followed = json!({});
        for version in 1..=60 {
            let change = follower.heard("doc:1").await;
            assert_eq!(change["version"], json!(version));
            let changed = change.get("patch").or(change.get("data")).unwrap();
            followed.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        }
        let all = result(site.api(1), "records", json!({ "channel": "doc:1" })).await;
        assert_eq!((&all["records"]["d"]["data"], &all["records"]["d"]["version"]), (&followed, &json!(60)));
    }

    pub(super) async fn a_stale_write_of_a_record_is_a_conflict(site: &Site) {
        let [mut one, mut other] = site.members::<2>("doc:1").await;
        let set = |data: u64, version: u64| json!({ "room": "doc:1", "record": "d", "set": data, "version": version });
        assert_eq!(record(&mut one, set(1, 0)).await["version"], json!(1));
        let stale = record(&mut other, set(2, 0)).await;
        assert_eq!((&stale["conflict"], &stale["version"], &stale["data"]), (&json!(true), &json!(1), &json!(1)));
        assert_eq!(record(&mut other, set(2, 1)).await["version"], json!(2));
        let mut late = site.client(2).await;
        late.join("doc:1").await;
        assert_eq!(late.heard("doc:1").await, json!({ "record": "d", "version": 2, "data": 2 }));
    }

    pub(super) async fn records_are_as_many_as_they_may_be(site: &Site) {
        let [mut one, mut other] = site.members::<2>("few:1").await;
        let set = |name: String| json!({ "room": "few:1", "record": name, "set": 1 });
        let delete = |name: String| json!({ "room": "few:1", "record": name, "delete": true });
        record(&mut one, set("a".to_owned())).await;
        // What is not there is deleted without a trace.
        assert_eq!(record(&mut one, delete("never".to_owned())).await["version"], json!(0));
        let mut highest = 0;
        for n in 0..20 {
            let written = record(&mut one, set(format!("n{n}"))).await["version"].as_u64().unwrap();
            let body = json!({ "method": "wayleave.record", "data": set("too many".to_owned()) });
            assert_eq!(other.refused("rpc", body).await, 106);
            let deleted = record(&mut other, delete(format!("n{n}"))).await["version"].as_u64().unwrap();
            assert_eq!(deleted, written + 1);
            highest = highest.max(deleted);
        }
        // One that was there goes on counting, and 0 means one that is not.
        let anew = json!({ "room": "few:1", "record": "n0", "set": 2, "version": 0 });
        assert!(record(&mut one, anew.clone()).await["version"].as_u64().unwrap() > 2);
        assert_eq!(record(&mut one, anew).await["conflict"], json!(true));
        let all = result(site.api(1), "records", json!({ "channel": "few:1" })).await;
        assert_eq!(all["records"].as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "n0"]);
        assert!(highest < 30, "{highest}");
    }

    pub(super) async fn a_user_is_reached_on_all_devices(site: &Site) {
        let mut devices = Vec::new();
        for n in 0..3 {
            devices.push(site.user(n, "ann").await);
        }
        let mut stranger = site.user(1, "bob").await;
        let [mut audit] = site.members::<1>("plain:audit").await;
        let mut client = site.client(2).await;
        client.publish("orders:1", json!({ "to": "ann", "n": 1 })).await;
        for device in &mut devices {
            let push = device.push().await;
            assert_eq!((&push["channel"], &push["pub"]["data"]["n"]), (&json!("user:ann"), &json!(1)), "{push}");
        }
        assert_eq!(audit.heard("plain:audit").await["n"], json!(1));
        client.publish("orders:1", json!({ "to": "bob", "n": 2 })).await;
        assert_eq!(stranger.push().await["pub"]["data"]["n"], json!(2));
        stranger.heard_nothing().await;
        for device in &mut devices {
            device.heard_nothing().await;
        }
    }

    pub(super) async fn a_users_own_room_is_the_servers(site: &Site) {
        let mut ann = site.user(0, "ann").await;
        let mut eve = site.user(1, "eve").await;
        assert_eq!(eve.refused("subscribe", json!({ "channel": "user:ann" })).await, 103);
        // No entry of the config matches it: for clients there is no such room.
        assert_eq!(eve.refused("publish", json!({ "channel": "user:ann", "data": 1 })).await, 102);
        assert_eq!(ann.refused("unsubscribe", json!({ "channel": "user:ann" })).await, 103);
        result(site.api(2), "send", json!({ "to": ["user:ann"], "data": 2 })).await;
        assert_eq!(ann.push().await["pub"]["data"], json!(2));
        eve.heard_nothing().await;
    }

    pub(super) async fn rights_and_names_are_checked(site: &Site) {
        let mut client = site.client(0).await;
        let room = |name: &str| json!({ "channel": name });
        let message = |name: &str| json!({ "channel": name, "data": 1 });
        for (code, name) in [(102, "elsewhere"), (107, ""), (103, "users:1"), (103, "server:1")] {
            assert_eq!(client.refused("subscribe", room(name)).await, code, "{name}");
        }
        client.join("quiet:1").await;
        assert_eq!(client.refused("subscribe", room("quiet:1")).await, 105);
        for (code, name) in [(103, "quiet:1"), (103, "live:1"), (102, "nowhere")] {
            assert_eq!(client.refused("publish", message(name)).await, code, "{name}");
        }
        assert_eq!(client.refused("history", room("quiet:1")).await, 108);
        assert_eq!(client.refused("invented", json!({})).await, 104);
        assert_eq!(error(site.api(1), "publish", message("nowhere")).await, 102);
        site.user(1, "ann").await.join("users:1").await;
    }

    pub(super) async fn a_connection_is_in_so_many_rooms(site: &Site) {
        let mut client = site.client(1).await;
        for n in 0..8 {
            client.join(&format!("plain:{n}")).await;
        }
        assert_eq!(client.refused("subscribe", json!({ "channel": "plain:8" })).await, 106);
        client.ask("unsubscribe", json!({ "channel": "plain:0" })).await;
        client.join("plain:8").await;
    }

    pub(super) async fn a_user_has_so_many_connections(site: &Site) {
        let mut devices = Vec::new();
        for n in 0..3 {
            devices.push(site.user(n, "ann").await);
        }
        let hello = json!({ "token": crate::support::token(&json!({ "sub": "ann" })) });
        let mut fourth = site.at(1).socket().await;
        fourth.say(&json!({ "id": 1, "connect": hello }).to_string()).await;
        assert_eq!(fourth.closed().await.0, 3504);
        devices.pop().unwrap().leave().await;
        let url = site.at(0).url();
        until("there is room for one again", async || {
            TestClient::try_connect(&url, hello.clone(), Duration::from_secs(5)).await.is_ok()
        })
        .await;
        site.user(1, "bob").await;
    }

    pub(super) async fn a_server_puts_users_into_rooms_and_out(site: &Site) {
        let mut devices = [site.user(0, "ann").await, site.user(1, "ann").await];
        let (join, leave) =
            (json!({ "user": "ann", "channel": "live:1", "data": 7 }), json!({ "user": "ann", "channel": "live:1" }));
        assert_eq!(result(site.api(2), "subscribe", join).await, json!({ "connections": 2 }));
        for device in &mut devices {
            assert_eq!(device.push().await["subscribe"]["data"], json!(7));
        }
        let stats = result(site.api(1), "presence_stats", json!({ "channel": "live:1" })).await;
        assert_eq!(stats, json!({ "num_clients": 2, "num_users": 1 }));
        assert_eq!(result(site.api(0), "unsubscribe", leave).await, json!({ "connections": 2 }));
        for device in &mut devices {
            let mut push = device.push().await;
            // They may have been told of each other.
            while push.get("join").is_some() || push.get("leave").is_some() {
                push = device.push().await;
            }
            assert!(push.get("unsubscribe").is_some(), "{push}");
        }
        let stats = result(site.api(1), "presence_stats", json!({ "channel": "live:1" })).await;
        assert_eq!(stats["num_clients"], json!(0));
    }

    pub(super) async fn a_server_disconnects_a_user_everywhere(site: &Site) {
        let mut devices = [site.user(0, "ann").await, site.user(1, "ann").await, site.user(2, "ann").await];
        let mut other = site.user(1, "bob").await;
        let order = json!({ "user": "ann", "disconnect": { "code": 4001, "reason": "bye" } });
        assert_eq!(result(site.api(1), "disconnect", order).await, json!({ "connections": 3 }));
        for device in &mut devices {
            assert_eq!(device.closed().await, (4001, "bye".to_owned()));
        }
        other.heard_nothing().await;
        until("she is offline", async || {
            let users = result(site.api(2), "users", json!({ "users": ["ann", "bob"] })).await["users"].take();
            users["ann"]["online"] == json!(false) && users["bob"]["online"] == json!(true)
        })
        .await;
    }

    pub(super) async fn a_message_for_some_but_not_for_others(site: &Site) {
        let mut clients = Vec::new();
        for n in 0..9 {
            let rooms: &[&str] = [&["plain:1"][..], &["plain:1", "plain:2"], &["plain:3"]][n / 3];
            let mut client = site.client(n).await;
            for room in rooms {
                client.join(room).await;
            }
            clients.push(client);
        }
        let send = json!({ "to": ["room:plain:1", "room:plain:3"], "except": ["room:plain:2"], "data": 1 });
        result(site.api(0), "send", send).await;
        result(site.api(0), "send", json!({ "to": ["everyone"], "data": "end" })).await;
        for (n, client) in clients.iter_mut().enumerate() {
            if n / 3 != 1 {
                assert_eq!(client.push().await["pub"]["data"], json!(1));
            }
            assert_eq!(client.push().await["message"]["data"], json!("end"));
        }
    }

    pub(super) async fn a_publish_that_is_repeated_happens_once(site: &Site) {
        let [mut client] = site.members::<1>("kept:1").await;
        client.join("plain:1").await;
        for room in ["kept:1", "plain:1"] {
            let publish = json!({ "channel": room, "data": room, "idempotency_key": "k" });
            let first = result(site.api(0), "publish", publish.clone()).await;
            assert_eq!(result(site.api(1), "publish", publish).await, first);
            result(site.api(1), "publish", json!({ "channel": room, "data": "end" })).await;
            assert_eq!(client.heard(room).await, json!(room));
            assert_eq!(client.heard(room).await, "end");
        }
    }

    pub(super) async fn what_is_where_is_listed_once(site: &Site) {
        let mut ids = BTreeSet::new();
        let mut all = Vec::new();
        for n in 0..7 {
            let mut client = site.client(n).await;
            client.join("live:1").await;
            ids.insert(client.id.clone());
            all.push(client);
        }
        for (method, list, parameters) in [
            ("connections", "connections", json!({ "limit": 3 })),
            ("members", "members", json!({ "channel": "live:1", "limit": 3 })),
        ] {
            // Nobody waits for another instance for long, so a page may lack what it says.
            until("all are listed", async || {
                let (mut found, mut parameters) = (Vec::new(), parameters.clone());
                loop {
                    let page = result(site.api(1), method, parameters.clone()).await;
                    let clients = page[list].as_array().unwrap().iter();
                    found.extend(clients.map(|it| it["client"].as_str().unwrap().to_owned()));
                    let Some(next) = page.get("next") else { break };
                    parameters["cursor"] = next.clone();
                }
                let once: BTreeSet<_> = found.iter().cloned().collect();
                assert_eq!(found.len(), once.len(), "{method}");
                once == ids
            })
            .await;
        }
        let all = json!({ "channels": { "live:1": { "num_clients": 7 } } });
        until("the room is listed", async || {
            result(site.api(2), "channels", json!({ "pattern": "live:*" })).await == all
        })
        .await;
    }

    pub(super) async fn who_breaks_off_has_left(site: &Site) {
        let [mut stays, breaks] = site.members::<2>("live:1").await;
        breaks.abort();
        until("it is gone", async || {
            let stats = stays.ask("presence_stats", json!({ "channel": "live:1" })).await;
            stats["presence_stats"]["num_clients"] == json!(1)
        })
        .await;
        stays.publish("live:1", json!(1)).await;
        assert_eq!(stays.heard("live:1").await, 1);
    }
}

macro_rules! on_both {
    ($($check:ident)*) => {
        mod r6_in_memory {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&super::Site::in_memory().await).await;
            })*
        }

        mod r6_on_redis {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&super::Site::on_redis().await).await;
            })*
        }
    };
}

on_both! {
    members_hear_each_other_once
    others_hear_nothing
    a_sender_says_who_it_is
    one_senders_messages_keep_their_order
    an_acknowledged_join_hears_what_follows
    who_has_left_hears_nothing
    a_room_with_history_has_one_order
    history_is_read_from_either_end
    who_comes_back_recovers_or_is_told
    who_recovers_goes_on_with_what_is_live
    presence_lists_everybody
    a_user_comes_with_the_first_device_and_goes_with_the_last
    each_connection_comes_and_goes_once
    records_converge
    a_stale_write_of_a_record_is_a_conflict
    records_are_as_many_as_they_may_be
    a_user_is_reached_on_all_devices
    a_users_own_room_is_the_servers
    rights_and_names_are_checked
    a_connection_is_in_so_many_rooms
    a_user_has_so_many_connections
    a_server_puts_users_into_rooms_and_out
    a_server_disconnects_a_user_everywhere
    a_message_for_some_but_not_for_others
    a_publish_that_is_repeated_happens_once
    what_is_where_is_listed_once
    who_breaks_off_has_left
}
