//! `wayleave check`.

use std::{path::Path, process::ExitCode, sync::Arc};

use crate::{
    generation::Generation,
    hub::Hub,
    metrics::Metrics,
    plugin::{MemoryStore, Plugin, PluginHost},
    router::HubLookup,
};

pub(super) fn main(file: &Path) -> ExitCode {
    let config = match super::load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let lookup = Arc::new(HubLookup(Arc::new(Hub::new())));
    let store = Arc::new(MemoryStore::default());
    let host = match PluginHost::open(config.server.cache.as_deref(), store, lookup, Metrics::new()) {
        Ok(host) => host,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    match Generation::build(config, &host, None) {
        Ok(generation) => {
            println!("{} is good", file.display());
            for plugin in &generation.plugins {
                println!("  plugin {}", describe(plugin));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(super::EXIT_MISTAKE)
        }
    }
}

fn describe(plugin: &Plugin) -> String {
    let hooks: Vec<_> = plugin.hooks().iter().map(|hook| hook.interface()).collect();
    format!("{} ({}): {}", plugin.name(), &plugin.hash()[..12], hooks.join(", "))
}
