//! What is done after an instance that died or ended: its rooms and users are
//! emptied in steps, by whoever has the claim.

use std::sync::Arc;

use redis::Value;
use tokio::time::Instant;

use super::{
    BusError, Cluster, Receiver,
    membership::{Finding, Why},
    registry::member_of,
    script,
};
use crate::id::InstanceId;

/// Rooms and users that are cleaned up in one step.
const STEP: usize = 64;

/// Members that one script takes out.
const MEMBERS: usize = 256;

/// Takes out what a dead instance held, if the claim to do so is won.
pub(super) async fn clean_up(
    cluster: &Arc<Cluster>,
    receiver: &dyn Receiver,
    finding: &Finding,
) -> Result<(), BusError> {
    let Some(dead) = InstanceId::parse(&finding.instance) else { return Ok(()) };
    let token = data_encoding::HEXLOWER.encode(&crate::id::random_bytes::<8>());
    let names = ["beats", "infos", "dead", "departed", "claims"].map(|part| cluster.keys.instances(part));
    let lease = cluster.keys.instance("lease", dead);
    let mut keys: Vec<&str> = names.iter().map(String::as_str).collect();
    keys.push(&lease);
    let claim = script::CLAIM.with(&keys, &[&finding.instance, &finding.seen, &token]);
    let won: i64 = redis::from_redis_value(cluster.reader.one(claim, &names[0]).await?).unwrap_or(0);
    if won != 1 {
        return Ok(());
    }
    match finding.why {
        Why::Silent => tracing::warn!(instance = finding.instance, "an instance is silent; cleaning up after it"),
        Why::Departed => tracing::info!(instance = finding.instance, "cleaning up after an instance that ended"),
        Why::Stalled => tracing::warn!(instance = finding.instance, "taking over a cleaning up that stood still"),
    }
    let started = Instant::now();
    let (rooms_key, users_key) = (cluster.keys.instance("rooms", dead), cluster.keys.instance("users", dead));
    let (mut rooms, mut users): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut gone = 0;
    loop {
        let mut command = script::REMAINS
            .with(&[&names[4], &rooms_key, &users_key], &[&finding.instance, &token, &STEP, &rooms.len()]);
        for done in rooms.iter().chain(&users) {
            command.arg(done);
        }
        let answer = cluster.reader.one(command, &names[4]).await?;
        let mut answer = redis::from_redis_value::<Vec<Value>>(answer).unwrap_or_default().into_iter();
        match answer.next() {
            Some(Value::Int(1)) => {}
            Some(Value::Int(0)) => break,
            _ => {
                // Another has taken over while this one stood still.
                cluster.metrics.fenced.inc();
                cluster.metrics.swept("fenced");
                return Ok(());
            }
        }
        let mut names = || answer.next().and_then(|value| redis::from_redis_value::<Vec<String>>(value).ok());
        (rooms, users) = (names().unwrap_or_default(), names().unwrap_or_default());
        gone += clean_rooms(cluster, receiver, dead, &rooms).await?;
        clean_users(cluster, receiver, dead, &users).await?;
    }
    cluster.metrics.swept("done");
    tracing::info!(instance = finding.instance, members = gone, took = ?started.elapsed(), "cleaned up");
    Ok(())
}

async fn clean_rooms(
    cluster: &Cluster,
    receiver: &dyn Receiver,
    dead: InstanceId,
    rooms: &[String],
) -> Result<usize, BusError> {
    let mut left: Vec<&String> = rooms.iter().collect();
    let mut gone = 0;
    while !left.is_empty() {
        let commands = left.iter().map(|room| {
            let keys = cluster.member_keys(room, dead);
            // Whether the room tells who comes and goes is the receivers' to
            // know; those whose rooms do not pass it over.
            let arguments: [&dyn script::Argument; 4] =
                [&dead.to_string(), &cluster.publish_command(), &cluster.keys.room_topic(room), &MEMBERS];
            let command = script::REAP_ROOM.with(&keys.each_ref().map(String::as_str), &arguments);
            let [key, ..] = keys;
            (command, key)
        });
        let answers = cluster.reader.all(commands.collect()).await?;
        let mut next = Vec::new();
        for (room, answer) in left.into_iter().zip(answers) {
            let (n, taken): (usize, Vec<Value>) = redis::from_redis_value(answer?).unwrap_or_default();
            let mut taken = taken.into_iter();
            while let (Some(is_last), Some(Value::BulkString(value))) = (taken.next(), taken.next()) {
                gone += 1;
                if let Some(member) = member_of(&value) {
                    receiver.on_reaped(room, &member, is_last == Value::Int(1));
                }
            }
            if n > 0 {
                next.push(room);
            }
        }
        left = next;
    }
    Ok(gone)
}

async fn clean_users(
    cluster: &Cluster,
    receiver: &dyn Receiver,
    dead: InstanceId,
    users: &[String],
) -> Result<(), BusError> {
    let commands = users.iter().map(|user| {
        let (key, cleaned) = (cluster.keys.user(user, "connections"), cluster.keys.user(user, "cleaned"));
        (script::REAP_USER.with(&[&key, &cleaned], &[&dead.to_string()]), key)
    });
    for (user, answer) in users.iter().zip(cluster.reader.all(commands.collect()).await?) {
        let (_, is_gone): (usize, i64) = redis::from_redis_value(answer?).unwrap_or_default();
        if is_gone == 1 {
            receiver.on_user_gone(user);
        }
    }
    Ok(())
}
