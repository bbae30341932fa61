//! Is this a Redis to work with?

use redis::{RedisError, Value};

use super::{
    keys::{Keys, LAYOUT},
    link::Link,
};

/// Sharded channels and scripts that may read the time and write came with it.
const OLDEST: u32 = 7;

/// True if trying again will not help until somebody changes something.
pub(super) fn is_final(error: &RedisError) -> bool {
    matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
        || error.kind() == redis::ErrorKind::AuthenticationFailed
        || error.kind() == redis::ErrorKind::InvalidClientConfig
}

/// Checks what must hold before anything is done.
pub(super) async fn at_start(link: &mut Link, keys: &Keys) -> anyhow::Result<()> {
    let troubles = match look(link, keys).await {
        Ok(troubles) => troubles,
        Err(error) if is_final(&error) => {
            anyhow::bail!("this Redis does not let us do what we must: {error}; see its ACL");
        }
        Err(error) => {
            // It is loading, or fails over just now.
            tracing::warn!(%error, "Redis could not be checked; starting all the same");
            return Ok(());
        }
    };
    for trouble in troubles {
        match trouble {
            Trouble::Final(text) => anyhow::bail!(text),
            Trouble::Passing(text) | Trouble::Risk(text) => tracing::warn!("{text}"),
        }
    }
    Ok(())
}

/// Something that is wrong with a server.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It can never work.
    Final(String),
    /// It does not work now.
    Passing(String),
    /// It works, and may lose things.
    Risk(String),
}

/// What is wrong with the server behind a connection.
pub(super) async fn look(link: &mut Link, keys: &Keys) -> Result<Vec<Trouble>, RedisError> {
    let key = keys.layout();
    let mut troubles = Vec::new();
    let info = |section: &str| {
        let mut command = redis::cmd("INFO");
        command.arg(section);
        command
    };
    let text = |value: Value| redis::from_redis_value::<String>(value).unwrap_or_default();
    let server = text(link.one(info("server"), &key).await?);
    let version = field(&server, "redis_version").or_else(|| field(&server, "valkey_version")).unwrap_or("0");
    if version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0) < OLDEST {
        troubles.push(Trouble::Final(format!("this Redis is version {version}; Wayleave needs {OLDEST} or newer")));
        return Ok(troubles);
    }
    let replication = text(link.one(info("replication"), &key).await?);
    if field(&replication, "role") == Some("slave") {
        let text = "this Redis is a read-only replica; point `bus.url` at its master, or use mode = \"sentinel\"";
        troubles.push(Trouble::Passing(text.to_owned()));
        return Ok(troubles);
    }
    let mut claim = redis::cmd("SET");
    claim.arg(&key).arg(LAYOUT).arg("NX");
    match link.one(claim, &key).await {
        Ok(_) => {}
        Err(error) if matches!(error.code(), Some("OOM" | "MISCONF" | "READONLY")) => {
            troubles.push(Trouble::Passing(format!("this Redis takes no writes: {error}")));
            return Ok(troubles);
        }
        Err(error) => return Err(error),
    }
    let mut get = redis::cmd("GET");
    get.arg(&key);
    let layout = text(link.one(get, &key).await?);
    if layout != LAYOUT {
        troubles.push(Trouble::Final(format!(
            "the keys in this Redis have layout version {layout}, and this Wayleave writes version {LAYOUT}; let both \
             versions use different `bus.prefix`es, or stop all instances and delete the keys of the old one"
        )));
    }
    let memory = text(link.one(info("memory"), &key).await?);
    let policy = field(&memory, "maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" && field(&memory, "maxmemory") != Some("0") {
        troubles.push(Trouble::Risk(format!(
            "this Redis evicts keys when its memory is full (maxmemory-policy {policy}): presence and history can be \
             lost at any time; use \"noeviction\""
        )));
    }
    Ok(troubles)
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
