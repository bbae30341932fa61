//! A gateway in this process that what has been read is passed on to.

use std::{path::Path, sync::LazyLock};

use tokio::runtime::Runtime;
use wayleave::{config::Config, gateway::Gateway};

/// Of everything that messages have to do with, and without plugins.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
personal_rooms = true

[api]
keys = [{ name = "k", key = "a-key-that-is-long-enough" }]
failures = ""

[[rooms]]
match = "kept:*"
publish = "members"
presence = true
join_leave = "users"
history = { size = 10, ttl = "10s" }
recovery = true
records = { count = 16, size = "16KiB" }

[[rooms]]
match = "live:*"
publish = "members"
presence = true
delta = true
tags_filter = true
"#;

pub(super) struct Here {
    pub(super) runtime: Runtime,
    pub(super) gateway: Gateway,
}

pub(super) static HERE: LazyLock<Here> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let config = Config::parse(CONFIG, Path::new("."), &Default::default()).unwrap_or_else(|error| panic!("{error}"));
    let gateway = runtime.block_on(Gateway::start(config, None)).expect("it starts");
    Here { runtime, gateway }
});
