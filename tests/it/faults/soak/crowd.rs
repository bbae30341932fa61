//! Those who behave: members that stay, senders, visitors that come and go.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Stage;
use crate::{
    faults::Random,
    support::{NoAnswer, PATIENCE, TestClient, token},
};

/// A pause of who could not do something.
const PAUSE: Duration = Duration::from_millis(100);

/// What a member has heard of each sender.
///
/// A message carries its number, and that of the sender's last one that was
/// accepted before it. So what was refused may be missing and what was accepted
/// may not, and nothing has to be remembered beyond the last number.
#[derive(Default)]
struct Heard(HashMap<String, u64>);

impl Heard {
    /// What is wrong with the next message, if anything. Messages of servers
    /// have no numbers.
    fn next(&mut self, data: &Value) -> Option<&'static str> {
        let (n, after) = (data["n"].as_u64()?, data["after"].as_u64()?);
        let Some(last) = self.0.get_mut(data["from"].as_str()?) else {
            self.0.insert(data["from"].as_str()?.to_owned(), n);
            return None;
        };
        let before = std::mem::replace(last, n.max(*last));
        match n {
            _ if n == before => Some("heard twice"),
            _ if n < before => Some("heard out of order"),
            _ if after > before => Some("lost"),
            _ => None,
        }
    }
}

/// A place in a room, over connections.
struct Place {
    stage: Arc<Stage>,
    room: String,
    is_kept: bool,
    heard: Heard,
    position: Option<(String, u64)>,
}

impl Place {
    fn hear(&mut self, publication: &Value) {
        self.stage.count("heard");
        if let Some((_, offset)) = &mut self.position {
            *offset = publication["offset"].as_u64().unwrap_or(*offset);
        }
        match self.heard.next(&publication["data"]) {
            // What passes while Redis is not heard is lost to rooms that keep nothing.
            Some("lost") if !self.is_kept && !self.stage.is_calm() => self.stage.count("missed in live rooms"),
            Some(what) => self.stage.wrong(&format!("{what} in {}", if self.is_kept { "kept" } else { "live" })),
            None => {}
        }
    }

    /// Joins, and hears what it has missed. Err: the connection has ended.
    async fn join(&mut self, client: &mut TestClient) -> Result<(), NoAnswer> {
        loop {
            let mut body = json!({ "channel": self.room });
            if let Some((epoch, offset)) = &self.position {
                body["recover"] = json!(true);
                body["epoch"] = json!(epoch);
                body["offset"] = json!(offset);
            }
            let reply = client.try_ask("subscribe", body, PATIENCE).await?;
            let Some(joined) = reply.get("subscribe") else {
                self.stage.refused("a member's join", &reply);
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            match (self.position.is_some(), joined["recovered"] == json!(true)) {
                (true, true) => self.stage.count("recovered"),
                (true, false) => self.stage.wrong("not recovered"),
                (false, _) => self.heard = Heard::default(),
            }
            joined["publications"].as_array().into_iter().flatten().for_each(|missed| self.hear(missed));
            if self.is_kept {
                let epoch = joined["epoch"].as_str().unwrap_or_default();
                self.position = Some((epoch.to_owned(), joined["offset"].as_u64().unwrap_or(0)));
            }
            return Ok(());
        }
    }

    /// Listens until then. Err: the connection has ended before.
    async fn listen(&mut self, client: &mut TestClient, until: Instant) -> Result<(), NoAnswer> {
        self.join(client).await?;
        loop {
            match client.try_push(until.saturating_duration_since(Instant::now())).await {
                Ok(push) if push.get("pub").is_some() => self.hear(&push["pub"]),
                Ok(push) if push.get("unsubscribe").is_some() => {
                    self.stage.count("told to come again");
                    self.join(client).await?;
                }
                Ok(_) => {}
                Err(NoAnswer::Late) => return Ok(()),
                Err(closed) => return Err(closed),
            }
        }
    }
}

/// Follows a room. After each `stays` its connection breaks off and it comes
/// back to the next instance, where it asks for what it has missed.
pub(super) async fn member(stage: Arc<Stage>, first: usize, room: String, stays: Duration) {
    let is_kept = room.starts_with("kept");
    let mut place = Place { stage: stage.clone(), room, is_kept, heard: Heard::default(), position: None };
    for n in first.. {
        let mut client = match TestClient::try_connect(stage.url(n), json!({}), PATIENCE).await {
            Ok(client) => client,
            Err(why) => {
                stage.wrong(&format!("a member is not let in: {why}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match place.listen(&mut client, Instant::now() + stays).await {
            Ok(()) => client.abort(),
            Err(why) => stage.wrong(&format!("a member was closed: {why:?}")),
        }
    }
}

/// Publishes to a room, a message each `pause`.
pub(super) async fn sender(stage: Arc<Stage>, n: usize, room: String, pause: Duration, size: usize) {
    let from = format!("sender {}", stage.number());
    let text = "some words, darn, of a message ".repeat(size / 31 + 1);
    let (mut number, mut accepted) = (0, 0);
    loop {
        let mut client = match TestClient::try_connect(stage.url(n), json!({}), PATIENCE).await {
            Ok(client) => client,
            Err(why) => {
                stage.wrong(&format!("a sender is not let in: {why}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            number += 1;
            let data = json!({ "from": from, "n": number, "after": accepted, "text": text[..size] });
            match client.try_ask("publish", json!({ "channel": room, "data": data }), PATIENCE).await {
                Ok(reply) if reply.get("publish").is_some() => {
                    accepted = number;
                    stage.count("sent");
                }
                Ok(reply) => stage.refused("a publish", &reply),
                Err(why) => {
                    stage.wrong(&format!("a sender was closed: {why:?}"));
                    break;
                }
            }
        }
    }
}

/// One user after the other, none of them twice.
pub(super) async fn visitors(stage: Arc<Stage>, first: usize) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (first as u64 + 1));
    for n in first.. {
        let user = format!("user {}", stage.number());
        // Its token ends while it is here.
        let is_short = random.next(20) == 0;
        let mut claims = json!({ "sub": user });
        if is_short {
            claims["exp"] = json!(now() + 5);
        }
        let hello = json!({ "token": token(&claims) });
        stage.latest.lock().clone_from(&user);
        match TestClient::try_connect(stage.url(n), hello, PATIENCE).await {
            Ok(mut client) => match visit(&stage, &mut client, n, &user, &mut random, is_short).await {
                Ok(()) => part(client, &mut random).await,
                Err(NoAnswer::Closed(3005, _)) if is_short => stage.count("expired"),
                Err(why) => {
                    if !stage.sent_away.lock().contains(&user) {
                        stage.wrong(&format!("a visitor was closed: {why:?}"));
                    }
                }
            },
            Err(why) => stage.wrong(&format!("a visitor is not let in: {why}")),
        }
        stage.sent_away.lock().retain(|it| *it != user);
        stage.count("visits");
        tokio::time::sleep(stage.pause(random.next(400))).await;
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Closes, or breaks off in one of two ways.
async fn part(client: TestClient, random: &mut Random) {
    match random.next(3) {
        0 => client.leave().await,
        1 => client.abort(),
        _ => drop(client),
    }
}

/// Asks for something that is given.
async fn ask(stage: &Stage, client: &mut TestClient, method: &str, body: Value) -> Result<Value, NoAnswer> {
    let reply = client.try_ask(method, body, PATIENCE).await?;
    stage.count("asked");
    if reply.get("error").is_some() {
        stage.refused(&format!("a visitor's {method}"), &reply);
    }
    Ok(reply)
}

/// What a user does while it is here: something in a room of its own, which ends
/// with it, and something among others.
async fn visit(
    stage: &Stage,
    client: &mut TestClient,
    n: usize,
    user: &str,
    random: &mut Random,
    is_short: bool,
) -> Result<(), NoAnswer> {
    let (own, hall, chat) =
        (format!("own:{user}"), format!("hall:{}", random.next(3)), format!("chat:{}", random.next(3)));
    let joined = ask(stage, client, "subscribe", json!({ "channel": own })).await?;
    ask(stage, client, "subscribe", json!({ "channel": hall })).await?;
    ask(stage, client, "subscribe", json!({ "channel": chat })).await?;
    ask(stage, client, "subscribe", json!({ "channel": "price:1", "delta": "fossil" })).await?;
    ask(stage, client, "subscribe", json!({ "channel": "stamped:1" })).await?;
    for text in ["one", "two, darn", "three for @user"] {
        ask(stage, client, "publish", json!({ "channel": own, "data": { "text": text } })).await?;
    }
    ask(stage, client, "publish", json!({ "channel": chat, "data": { "text": "darn, @everybody" } })).await?;
    ask(stage, client, "presence", json!({ "channel": hall })).await?;
    ask(stage, client, "presence_stats", json!({ "channel": chat })).await?;
    ask(stage, client, "history", json!({ "channel": own, "limit": 10 })).await?;
    ask(stage, client, "rpc", json!({ "method": "next", "data": null })).await?;
    let board = format!("board:{}", if random.next(2) == 0 { "all" } else { user });
    ask(stage, client, "subscribe", json!({ "channel": board })).await?;
    for value in 0..3 {
        let data = json!({ "room": board, "record": "d", "patch": { "by": user, "value": value } });
        ask(stage, client, "rpc", json!({ "method": "wayleave.record", "data": data })).await?;
    }
    if random.next(2) == 0 {
        ask(stage, client, "unsubscribe", json!({ "channel": hall })).await?;
    }
    let stays = if is_short { Duration::from_secs(30) } else { stage.pause(random.next(2000)) };
    let until = Instant::now() + stays;
    while Instant::now() < until {
        match client.try_push(until.saturating_duration_since(Instant::now())).await {
            Ok(_) | Err(NoAnswer::Late) => {}
            Err(closed) => return Err(closed),
        }
    }
    if random.next(4) > 0 {
        return Ok(());
    }
    // It breaks off and is back elsewhere, with all that it was told before.
    let back = client.try_reconnect_to(stage.url(n + 1), PATIENCE).await;
    if let Err(why) = back {
        stage.wrong(&format!("a visitor is not let in again: {why}"));
        return Ok(());
    }
    let (epoch, offset) = (&joined["subscribe"]["epoch"], joined["subscribe"]["offset"].as_u64().unwrap_or(0));
    let body = json!({ "channel": own, "recover": true, "epoch": epoch, "offset": offset });
    let reply = ask(stage, client, "subscribe", body).await?;
    let missed = reply["subscribe"]["publications"].as_array().map_or(0, Vec::len);
    if stage.is_calm() && (reply["subscribe"]["recovered"] != json!(true) || missed != 3) {
        stage.wrong(&format!("{missed} of 3 recovered: {}", reply["subscribe"]["recovered"]));
    }
    stage.count("recovered");
    Ok(())
}
