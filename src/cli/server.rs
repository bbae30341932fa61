//! `wayleave publish` and `wayleave tail`, by the server API; `publish` also as
//! a client.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, ensure};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{
    client::{Api, Gateway, Patience, refused},
    subscribe::Socket,
};

/// Publishes to a room, by the server API or as a client.
#[derive(Debug, clap::Args)]
pub(super) struct Publish {
    /// The room.
    room: String,
    /// The message: JSON, such as '{"text": "hello"}'.
    #[arg(value_parser = super::json)]
    data: Value,
    /// Join the room and publish there as the client with this token: the room's
    /// plugins are asked as for any other. `wayleave token` makes one.
    #[arg(long)]
    token: Option<String>,
    #[command(flatten)]
    gateway: Gateway,
}

/// Shows what passes, as it happens, by the server API: JSON, a line each.
#[derive(Debug, clap::Args)]
pub(super) struct Tail {
    /// Only what is about this room.
    #[arg(long)]
    room: Option<String>,
    /// Only what this user does or is sent by name.
    #[arg(long, conflicts_with = "room")]
    user: Option<String>,
    #[command(flatten)]
    gateway: Gateway,
}

pub(super) fn publish(publish: &Publish) -> ExitCode {
    super::block_on(async {
        let parameters = json!({ "channel": publish.room, "data": publish.data });
        let result = match &publish.token {
            Some(token) => as_client(publish, token, parameters).await?,
            None => publish.gateway.api()?.call("publish", &parameters).await?,
        };
        println!("{result}");
        Ok(())
    })
}

async fn as_client(publish: &Publish, token: &str, parameters: Value) -> anyhow::Result<Value> {
    ensure!(!token.is_empty(), "--token is empty; without --token the server API publishes");
    let mut socket = Socket::open(&publish.gateway, token).await?;
    let pass_over = &mut |_push| {};
    // Most rooms take messages of members alone; others may admit none.
    let joined = socket.ask("subscribe", json!({ "channel": publish.room }), pass_over).await;
    match (joined, socket.ask("publish", parameters, pass_over).await) {
        (_, Ok(published)) => Ok(published),
        (Ok(_), Err(refused)) => Err(refused.into()),
        (Err(join), Err(publish)) => Err(anyhow!("{publish} (and to join: {join})")),
    }
}

/// The method with what is to be looked at.
pub(super) fn tail_of(room: Option<&str>, user: Option<&str>) -> String {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    match (room, user) {
        (Some(room), _) => format!("tail?room={}", encode(room)),
        (None, Some(user)) => format!("tail?user={}", encode(user)),
        (None, None) => "tail".to_owned(),
    }
}

pub(super) fn tail(tail: &Tail) -> ExitCode {
    let to = tail_of(tail.room.as_deref(), tail.user.as_deref());
    super::block_on(async {
        let api = tail.gateway.api()?;
        // What is wrong from the start is wrong; later the gateway may be
        // starting anew.
        let mut answer = Some(api.ask(&to, &json!({})).await?);
        let mut patience = Patience::default();
        loop {
            if let Some(answer) = answer.take() {
                patience = Patience::default();
                let why = follow(answer, print).await?;
                eprintln!("the tail has ended ({why}); trying again");
            }
            patience.wait().await;
            answer = again(&api, &to).await?;
        }
    })
}

/// None: not yet.
async fn again(api: &Api, to: &str) -> anyhow::Result<Option<hyper::Response<hyper::body::Incoming>>> {
    match api.ask(to, &json!({})).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.to_string().starts_with("refused") => Err(error),
        Err(_) => Ok(None),
    }
}

/// Hands on lines until they end; returns why.
///
/// # Errors
/// What the gateway says instead, or whoever takes the lines.
pub(super) async fn follow(
    mut answer: hyper::Response<hyper::body::Incoming>,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    /// One that does not say that it is alive any more has gone.
    const SILENCE: Duration = Duration::from_secs(30);
    let mut text = Vec::new();
    loop {
        let frame = match tokio::time::timeout(SILENCE, answer.body_mut().frame()).await {
            Err(_) => return Ok("nothing came any more".to_owned()),
            Ok(None) => return Ok("the gateway ended it".to_owned()),
            Ok(Some(Err(error))) => return Ok(error.to_string()),
            Ok(Some(Ok(frame))) => frame,
        };
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        ensure!(text.len() < 16 << 20, "a line without an end");
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            take(&line)?;
        }
        // An error is an answer without a line's end.
        if text.starts_with(b"{\"error\"") && text.ends_with(b"}") {
            refused(&serde_json::from_slice(&text)?)?;
        }
    }
}

fn print(line: &[u8]) -> anyhow::Result<()> {
    if line == b"{\"type\":\"alive\"}\n" {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    // Whoever reads may have had enough, as `head` has.
    out.write_all(line).and_then(|()| out.flush()).context("nobody reads on")
}
