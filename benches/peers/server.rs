//! One server of a contestant: its config, its process, its address.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::contestant::{Contestant, Kind, With, socketio};
use super::dialect::SECRET;
use crate::support::gateway::{self, free_addr};
use crate::support::process::{self, Process};

/// What a server is told of the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Others<'a> {
    pub(crate) redis: Option<SocketAddr>,
    /// Where Centrifugo asks.
    pub(crate) hook: Option<SocketAddr>,
    /// Where this one and the earlier ones listen for one another.
    pub(crate) routes: &'a [SocketAddr],
}

pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    /// Its config and its log; goes with it.
    folder: TempDir,
}

impl Server {
    /// Starts one on a free loopback port and waits until it takes clients.
    pub(crate) async fn start(contestant: &Contestant, others: Others<'_>) -> Result<Server> {
        let addr = free_addr()?;
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(contestant.program());
        set_up(&mut command, contestant, addr, folder.path(), others)?;
        Self::spawn(&mut command, addr, folder, contestant.kind == Kind::Wayleave).await
    }

    /// The bench itself as a backend that allows everything it is asked.
    pub(crate) async fn hook() -> Result<Server> {
        let addr = free_addr()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--hook", &addr.to_string()]);
        Self::spawn(&mut command, addr, tempfile::tempdir()?, false).await
    }

    async fn spawn(command: &mut Command, addr: SocketAddr, folder: TempDir, asks: bool) -> Result<Server> {
        let log = File::create(folder.path().join("log"))?;
        let child = command
            .current_dir(folder.path())
            // Held open as long as this lives; its end is that of those who look.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let mut server = Server { process: Process(child), addr, folder };
        for _ in 0..400 {
            let is_up = if asks { gateway::is_ready(addr).await } else { TcpStream::connect(addr).await.is_ok() };
            if is_up {
                return Ok(server);
            }
            if let Some(status) = server.process.0.try_wait()? {
                bail!("it ended with {status}:\n{}", server.log());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("it is not ready after 20 s:\n{}", server.log())
    }

    /// What it has said, for a report of trouble.
    pub(crate) fn log(&self) -> String {
        process::end_of(&self.folder.path().join("log"))
    }
}

fn set_up(
    command: &mut Command,
    contestant: &Contestant,
    addr: SocketAddr,
    folder: &Path,
    others: Others<'_>,
) -> Result<()> {
    let port = addr.port().to_string();
    let redis = others.redis.map(|redis| redis.port().to_string());
    let config = folder.join("config");
    match contestant.kind {
        Kind::Wayleave => {
            let config = config.with_extension("toml");
            fs::write(&config, wayleave(addr, others.redis, contestant.with == With::Hooks))?;
            command.args(["run", "--config"]).arg(config);
        }
        Kind::Centrifugo => {
            let config = config.with_extension("json");
            fs::write(&config, centrifugo(addr, others).to_string())?;
            command.arg("--config").arg(config);
        }
        Kind::Nats => {
            fs::write(&config, nats(addr, others.routes)?)?;
            command.arg("--config").arg(config);
        }
        Kind::SocketIo => {
            let With::Adapter(adapter) = contestant.with else { bail!("no adapter is named") };
            command.arg(socketio().join("server.js")).args([&port, redis.as_deref().unwrap_or("0"), adapter]);
            command.env("NODE_ENV", "production");
        }
        Kind::Write | Kind::Raw | Kind::Axum | Kind::Socketioxide => {
            command.args([contestant.id, "--port", &port]);
            command.args(redis.iter().flat_map(|redis| ["--redis", redis]));
        }
    }
    Ok(())
}

/// The whole config of a gateway under load.
fn wayleave(addr: SocketAddr, redis: Option<SocketAddr>, hooks: bool) -> String {
    let bus = match redis {
        Some(redis) => format!("[bus]\nkind = \"redis\"\nurl = \"redis://{redis}/\"\n"),
        None => "[bus]\nkind = \"memory\"\n".to_owned(),
    };
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/fixtures/three-hooks/plugin.wasm");
    let (plugin, plugins) = if hooks {
        let settings = "muted = [\"mallory\"]\nwords = [\"darn\", \"heck\", \"dang\"]\ncall = \"!moderator\"";
        let plugin = format!("[[plugins]]\nname = \"three\"\npath = {plugin:?}\n[plugins.settings]\n{settings}\n");
        (plugin, "plugins = [\"three\"]")
    } else {
        (String::new(), "")
    };
    let rooms =
        ["bench:*", "to:*"].map(|rooms| format!("[[rooms]]\nmatch = \"{rooms}\"\npublish = \"anyone\"\n{plugins}\n"));
    format!(
        r#"
[server]
listen = "{addr}"
personal_rooms = true

[auth]
anonymous = true
[auth.jwt]
hmac_secret = "{SECRET}"

{bus}
[metrics]
enabled = true

[limits]
message_size = "256KiB"
commands_per_second = 1_000_000_000
commands_burst = 1_000_000_000

{plugin}
{rooms}
[[routes]]
room = "to:*"
to = ["user:{{data.user}}"]
keep = false
"#,
        rooms = rooms.concat()
    )
}

fn centrifugo(addr: SocketAddr, others: Others<'_>) -> serde_json::Value {
    let namespace = |name: &str| {
        json!({
            "name": name,
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true,
            "allow_publish_for_anonymous": true,
            "publish_proxy_enabled": others.hook.is_some(),
        })
    };
    let engine = match others.redis {
        Some(redis) => json!({ "type": "redis", "redis": { "address": [format!("redis://{redis}")] } }),
        None => json!({ "type": "memory" }),
    };
    let proxy =
        others.hook.map_or_else(|| json!({}), |hook| json!({ "publish": { "endpoint": format!("http://{hook}") } }));
    json!({
        "http_server": { "address": addr.ip().to_string(), "port": addr.port() },
        "client": {
            "allow_anonymous_connect_without_token": true,
            "token": { "hmac_secret_key": SECRET },
        },
        "channel": { "namespaces": [namespace("bench"), namespace("user")], "proxy": proxy },
        "engine": engine,
        "websocket": { "message_size_limit": 256 << 10 },
        "log": { "level": "error" },
    })
}

fn nats(addr: SocketAddr, routes: &[SocketAddr]) -> Result<String> {
    let (own, others) = routes.split_last().context("no address for the other servers")?;
    let clients = free_addr()?;
    let others: Vec<_> = others.iter().map(|other| format!("\"nats://{other}\"")).collect();
    Ok(format!(
        "listen: \"{clients}\"\nserver_name: \"s{}\"\nmax_connections: 100000\n\
         websocket {{ listen: \"{addr}\", no_tls: true }}\n\
         cluster {{ name: \"bench\", listen: \"{own}\", routes: [{}] }}\n",
        addr.port(),
        others.join(", ")
    ))
}
