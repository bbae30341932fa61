//! What plugins are asked on the way of a message.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use wayleave::{
    hub::Hub,
    metrics::Metrics,
    plugin::{MemoryStore, Plugin, PluginHost},
    router::HubLookup,
};

use crate::support::plugins::{WORDS, body, load, publish, route, transform};

pub(super) fn one(count: u32) -> Result<()> {
    let moderation = Plugins::open()?.moderation()?;
    let clean = body("");
    (0..count).for_each(|_| transform(&moderation, &clean));
    Ok(())
}

/// As the rows of `peers` with three hooks do.
pub(super) fn three(count: u32) -> Result<()> {
    let settings = "muted = [\"mallory\"]\nwords = [\"darn\", \"heck\", \"dang\"]\ncall = \"!moderator\"";
    let more = format!("[plugins.settings]\n{settings}");
    let plugin = Plugins::open()?.load("plugins/fixtures/three-hooks", &more)?;
    let clean = body("");
    for _ in 0..count {
        publish(&plugin, &clean);
        transform(&plugin, &clean);
        route(&plugin, &clean);
    }
    Ok(())
}

struct Plugins(PluginHost);

impl Plugins {
    /// What is compiled is kept: that takes seconds where each instruction is
    /// counted.
    fn open() -> Result<Self> {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
        let lookup = Arc::new(HubLookup(Arc::new(Hub::new())));
        Ok(Self(PluginHost::open(Some(&cache), Arc::new(MemoryStore::default()), lookup, Metrics::new())?))
    }

    fn moderation(&self) -> Result<Arc<Plugin>> {
        self.load("plugins/rust/moderation", &format!("grants = [\"log\"]\n[plugins.settings]\nwords = {WORDS:?}"))
    }

    fn load(&self, path: &str, more: &str) -> Result<Arc<Plugin>> {
        // Time goes on as ever while they are slower by far.
        let more = format!("timeout = \"10s\"\ninit_timeout = \"60s\"\n{more}");
        load(&self.0, path, &more).with_context(|| format!("{path} is not built; `make plugins` builds it"))
    }
}
