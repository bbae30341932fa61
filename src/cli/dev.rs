//! `wayleave dev`: a gateway that rebuilds its plugins as they are edited.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use notify::RecursiveMode;

use super::{build, run};
use crate::{
    config::Config,
    gateway::Gateway,
    reload::{BuildError, Reloader, Watcher, settled},
};

pub(super) fn main(file: &Path) -> ExitCode {
    let config = match super::load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    super::start_log(&config.log);
    let result = run::runtime().and_then(|runtime| runtime.block_on(serve(config, file)));
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

async fn serve(config: Config, file: &Path) -> anyhow::Result<ExitCode> {
    // The first build is awaited: a gateway without its plugins would not start.
    for (name, folder) in sources(&config) {
        tracing::info!(plugin = name, folder = %folder.display(), "building");
        let built = tokio::task::spawn_blocking(move || build::build_if_stale(&folder)).await?;
        if let Err(error) = built {
            let text = format!("{error:#}");
            anyhow::ensure!(is_built(&config, &name), "plugin `{name}` cannot be built:\n{text}");
            tracing::error!(plugin = name, "cannot be built, its last build is used:\n{text}");
        }
    }
    // Only now: a signal is to end a long build at once.
    let signals = run::Signals::new()?;
    let gateway = Gateway::start(config, Some(file.to_owned())).await?;
    let page = gateway.reloader().running().config.server.try_page;
    let hint = if page { "open it" } else { "`server.try_page = true` gives a page to try it" };
    tracing::info!("serving http://{}; {hint}, and edit a plugin or the config", gateway.address());
    let watching = watch(Arc::clone(gateway.reloader()));
    signals.until_stopped(gateway, watching).await
}

fn is_built(config: &Config, name: &str) -> bool {
    config.plugins.iter().any(|plugin| plugin.name == name && plugin.file().is_file())
}

/// The plugins that have sources, by name.
fn sources(config: &Config) -> BTreeMap<String, PathBuf> {
    let sources = config.plugins.iter().filter(|plugin| plugin.is_source());
    sources.map(|plugin| (plugin.name.clone(), plugin.path.clone())).collect()
}

/// Rebuilds what has changed, for ever. A build replaces `plugin.wasm` or
/// `plugin.js`, which the gateway's own watcher sees.
async fn watch(reloader: Arc<Reloader>) {
    let mut watcher = match Watcher::new() {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::error!(%error, "sources cannot be watched");
            return std::future::pending().await;
        }
    };
    let mut seen: BTreeMap<String, build::SourceState> = BTreeMap::new();
    let mut status = reloader.status();
    loop {
        // The config may name other plugins by now.
        let sources = configured(&reloader);
        let folders: BTreeSet<PathBuf> = sources.values().cloned().collect();
        let roots = folders.clone();
        watcher.watch(&folders, RecursiveMode::Recursive, move |path| {
            roots.iter().any(|root| path.strip_prefix(root).is_ok_and(build::is_source))
        });
        for (name, folder) in &sources {
            let state = build::sources(folder);
            let known = seen.insert(name.clone(), state.clone());
            // One seen for the first time may be a copy with its original's build.
            let is_due = known.map_or_else(|| build::is_stale(folder), |known| known != state);
            if is_due {
                rebuild(&reloader, name, folder).await;
            }
        }
        reloader.forget_builds(|plugin| sources.contains_key(plugin));
        tokio::select! {
            () = watcher.changed() => {}
            _ = status.changed() => {}
        }
        let files = sources.values().flat_map(|folder| build::sources(folder).into_keys()).collect();
        settled(&files).await;
    }
}

/// The sources of the config as it stands in its file; of the running one
/// while the file has mistakes.
fn configured(reloader: &Reloader) -> BTreeMap<String, PathBuf> {
    match reloader.file().map(|file| Config::load(file)) {
        Some(Ok(config)) => sources(&config),
        _ => sources(&reloader.running().config),
    }
}

async fn rebuild(reloader: &Reloader, name: &str, folder: &Path) {
    tracing::info!(plugin = name, "building");
    reloader.show(|status| {
        status.building.push(name.to_owned());
        status.build_errors.retain(|error| error.plugin != name);
    });
    let folder = folder.to_owned();
    let built = tokio::task::spawn_blocking(move || build::build(&folder)).await;
    let error = match built {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(panic) => Some(panic.to_string()),
    };
    match &error {
        None => tracing::info!(plugin = name, "built"),
        Some(text) => tracing::error!(plugin = name, "cannot be built, the running one stays:\n{text}"),
    }
    reloader.show(|status| {
        status.building.retain(|building| building != name);
        status.build_errors.extend(error.map(|text| BuildError { plugin: name.to_owned(), text }));
    });
}
