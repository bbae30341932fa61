//! Rooms and users: who hears what.

use serde_json::json;

use crate::support::{PATIENCE, TestClient, TestGateway, eventually, instance::Instance, token};

const ROOMS: &str = r#"
[[rooms]]
match = "chat:*"
publish = "members"
presence = true
join_leave = true
[[rooms]]
match = "open:*"
publish = "anyone"
[[rooms]]
match = "quiet:*"
[[rooms]]
match = "users:*"
join = "users"
[[rooms]]
match = "server:*"
join = "nobody"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn members_hear_each_other_and_nobody_else() {
    let gateway = TestGateway::start(ROOMS).await;
    let (mut ada, mut bob, mut eve) = (gateway.user("ada").await, gateway.user("bob").await, gateway.client().await);
    ada.join("chat:1").await;
    bob.join("chat:1").await;
    eve.join("chat:2").await;
    ada.publish("chat:1", json!({ "text": "hello" })).await;
    let push = loop {
        let push = bob.push().await;
        if push.get("pub").is_some() {
            break push;
        }
    };
    assert_eq!(push["channel"], "chat:1");
    assert_eq!(push["pub"]["data"], json!({ "text": "hello" }));
    assert_eq!(push["pub"]["info"]["user"], "ada");
    assert_eq!(push["pub"]["info"]["client"], ada.id);
    assert_eq!(ada.heard("chat:1").await, json!({ "text": "hello" }));
    eve.heard_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_and_names_are_checked() {
    let gateway = TestGateway::start(ROOMS).await;
    let mut client = gateway.client().await;
    let room = |name: &str| json!({ "channel": name });
    let message = |name: &str| json!({ "channel": name, "data": 1 });
    assert_eq!(client.refused("subscribe", room("elsewhere")).await, 102);
    assert_eq!(client.refused("subscribe", room("")).await, 107);
    assert_eq!(client.refused("subscribe", room("chat:\u{7}")).await, 107);
    assert_eq!(client.refused("subscribe", room(&format!("chat:{}", "x".repeat(251)))).await, 106);
    assert_eq!(client.refused("subscribe", room("users:1")).await, 103);
    assert_eq!(client.refused("subscribe", room("server:1")).await, 103);
    assert_eq!(client.refused("publish", message("chat:1")).await, 103);
    assert_eq!(client.refused("publish", message("nowhere")).await, 102);
    client.publish("open:1", json!(1)).await;
    client.join("quiet:1").await;
    assert_eq!(client.refused("subscribe", room("quiet:1")).await, 105);
    assert_eq!(client.refused("publish", message("quiet:1")).await, 103);
    assert_eq!(client.refused("presence", room("quiet:1")).await, 108);
    assert_eq!(client.refused("presence", room("chat:1")).await, 103);
    assert_eq!(client.refused("history", room("chat:1")).await, 103);
    assert_eq!(client.refused("invented", json!({})).await, 104);
    gateway.user("ada").await.join("users:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_shows_who_is_here_and_who_comes_and_goes() {
    let gateway = TestGateway::start(ROOMS).await;
    let mut ada = gateway.user("ada").await;
    ada.join("chat:1").await;
    let mut phone = gateway.user("bob").await;
    phone.join("chat:1").await;
    let joined = ada.push().await;
    assert_eq!(joined["join"]["info"], json!({ "client": phone.id, "user": "bob" }));
    let mut laptop = gateway.user("bob").await;
    laptop.join("chat:1").await;
    ada.push().await;
    let stats = ada.ask("presence_stats", json!({ "channel": "chat:1" })).await;
    assert_eq!(stats["presence_stats"], json!({ "num_clients": 3, "num_users": 2 }));
    let here = ada.ask("presence", json!({ "channel": "chat:1" })).await;
    assert_eq!(here["presence"]["presence"][&phone.id]["user"], "bob");
    assert_eq!(here["presence"]["presence"].as_object().unwrap().len(), 3);
    // Leaving by wish and by going away look alike to the others.
    phone.ask("unsubscribe", json!({ "channel": "chat:1" })).await;
    assert_eq!(ada.push().await["leave"]["info"]["client"], phone.id.as_str());
    let id = laptop.id.clone();
    drop(laptop);
    assert_eq!(ada.push().await["leave"]["info"]["client"], id.as_str());
    // Leaving twice is no error, and the room is forgotten with its last member.
    phone.ask("unsubscribe", json!({ "channel": "chat:1" })).await;
    ada.ask("unsubscribe", json!({ "channel": "chat:1" })).await;
    eventually("the room is forgotten", || gateway.hub().n_rooms() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_in_so_many_rooms_and_no_more() {
    let gateway = TestGateway::start(&format!("[limits]\nrooms_per_connection = 2\n{ROOMS}")).await;
    let mut client = gateway.client().await;
    client.join("chat:1").await;
    client.join("chat:2").await;
    assert_eq!(client.refused("subscribe", json!({ "channel": "chat:3" })).await, 106);
    client.ask("unsubscribe", json!({ "channel": "chat:1" })).await;
    client.join("chat:3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_room_is_the_servers() {
    let gateway =
        TestGateway::start("[server]\npersonal_rooms = true\n[[rooms]]\nmatch = \"*\"\npublish = \"anyone\"\n").await;
    let mut ada = gateway.socket().await;
    let reply = ada.ask("connect", json!({ "token": crate::support::token(&json!({ "sub": "ada" })) })).await;
    assert_eq!(reply["connect"]["subs"], json!({ "user:ada": {} }));
    let mut eve = gateway.user("eve").await;
    assert_eq!(eve.refused("subscribe", json!({ "channel": "user:ada" })).await, 103);
    assert_eq!(eve.refused("publish", json!({ "channel": "user:ada", "data": 1 })).await, 103);
    assert_eq!(ada.refused("unsubscribe", json!({ "channel": "user:ada" })).await, 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn declarative_routes_send_to_users_on_all_devices_and_to_other_rooms() {
    let config = r#"
[server]
personal_rooms = true
[[rooms]]
match = "*"
publish = "members"
[[routes]]
room = "orders:*"
to = ["user:{data.customer}", "room:audit", "room:by-{user}"]
[[routes]]
room = "secret:*"
to = ["room:audit"]
keep = false
"#;
    let gateway = TestGateway::start(config).await;
    let (mut phone, mut laptop) = (gateway.user("ada").await, gateway.user("ada").await);
    let mut seller = gateway.user("bob").await;
    let mut audit = gateway.client().await;
    audit.join("audit").await;
    audit.join("by-bob").await;
    seller.join("orders:7").await;
    seller.publish("orders:7", json!({ "customer": "ada", "n": 1 })).await;
    for device in [&mut phone, &mut laptop] {
        let push = device.push().await;
        assert_eq!((push["channel"].as_str(), push["pub"]["data"]["n"].as_u64()), (Some("user:ada"), Some(1)));
    }
    // Several targets of one rule reach a connection once, through the first.
    assert_eq!(audit.heard("audit").await["n"], 1);
    audit.heard_nothing().await;
    assert_eq!(seller.heard("orders:7").await["n"], 1);
    // What a template needs and the message lacks is simply no target.
    seller.publish("orders:7", json!("no customer")).await;
    assert_eq!(audit.heard("audit").await, "no customer");
    seller.heard("orders:7").await;
    seller.join("secret:1").await;
    seller.publish("secret:1", json!("hush")).await;
    assert_eq!(audit.heard("audit").await, "hush");
    seller.heard_nothing().await;
    phone.heard_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_senders_messages_arrive_in_order_everywhere() {
    let gateway = TestGateway::start(&format!("[limits]\ncommands_burst = 100000\n{ROOMS}")).await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut reader = gateway.client().await;
        reader.join("open:1").await;
        readers.push(reader);
    }
    let mut senders = Vec::new();
    for sender in 0..4 {
        let mut client = gateway.client().await;
        senders.push(tokio::task::spawn(async move {
            for n in 0..250 {
                client.publish("open:1", json!([sender, n])).await;
            }
        }));
    }
    for reader in &mut readers {
        let mut next = [0; 4];
        for _ in 0..1000 {
            let data = reader.heard("open:1").await;
            let (sender, n) = (data[0].as_u64().unwrap() as usize, data[1].as_u64().unwrap());
            assert_eq!(n, next[sender], "sender {sender}");
            next[sender] += 1;
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_cannot_route_itself_into_a_users_own_room() {
    let config = "[server]\npersonal_rooms = true\n[[rooms]]\nmatch = \"*\"\npublish = \"members\"\n\
                  [[routes]]\nroom = \"r\"\nto = [\"room:{data.to}\", \"pattern:{data.to}\"]\n";
    let gateway = TestGateway::start(config).await;
    let (mut ada, mut eve) = (gateway.user("ada").await, gateway.user("eve").await);
    eve.join("r").await;
    ada.join("open").await;
    for to in ["user:ada", "*", "o*"] {
        eve.publish("r", json!({ "to": to })).await;
    }
    ada.heard_nothing().await;
    eve.publish("r", json!({ "to": "open" })).await;
    ada.heard("open").await;
}

/// Who is counted for a little longer is not connected for longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_grace_keeps_no_socket_open() {
    let config = "[limits]\nclose_timeout = \"1s\"\n\
                  [[rooms]]\nmatch = \"calm:*\"\npresence = true\npresence_grace = \"120s\"\n";
    let mut instance = Instance::start(config, None, "one").await;
    let mut watcher = instance.client().await;
    watcher.join("calm:1").await;
    let before = instance.open_files();
    for _ in 0..5 {
        let mut client = instance.client().await;
        client.join("calm:1").await;
        client.hang_up().await;
    }
    let stats = watcher.ask("presence_stats", json!({ "channel": "calm:1" })).await;
    assert_eq!(stats["presence_stats"]["num_clients"], 6, "all are counted: {stats}");
    eventually("nothing is open for them", || instance.open_files() <= before).await;
}

/// However many of a user come at once, as many as allowed stay. On one thread
/// all of them come before the first of the old ones has gone.
#[tokio::test]
async fn newcomers_of_one_moment_do_not_all_close_the_same_one() {
    let config = "[limits]\nconnections_per_user = 2\nuser_limit = \"close-oldest\"\n\
                  [[rooms]]\nmatch = \"calm:*\"\n";
    let gateway = TestGateway::start(config).await;
    let url = gateway.url();
    let _older = (gateway.user("ann").await, gateway.user("ann").await);
    let hello = json!({ "token": token(&json!({ "sub": "ann" })) });
    // Some of them are closed before they are welcomed.
    let come = |_| TestClient::try_connect(&url, hello.clone(), PATIENCE);
    let newer = futures_util::future::join_all((0..8).map(come)).await;
    eventually("as many as allowed are left", || gateway.hub().connections_of("ann").len() == 2).await;
    drop(newer);
}
