//! Replaces generations while traffic flows.
//!
//! The next one is read, compiled and checked whole beside the running one;
//! only then is one pointer swapped. Whatever goes wrong before, the running
//! one stays, and the reason is in the log, the metrics and the status.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use tokio::sync::{Mutex, watch};

use crate::{config::Config, generation::Generation, plugin::PluginHost, router::Router};

mod watcher;

use self::watcher::Look;
pub use self::watcher::{Watcher, settled};

/// What is live, and what last went wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The generation in force.
    pub generation: u64,
    /// Its plugins.
    pub plugins: Vec<PluginStatus>,
    /// Why the last attempt to replace it failed; None: it did not.
    pub error: Option<String>,
    /// Plugins that are being built right now (`wayleave dev`).
    pub building: Vec<String>,
    /// Why plugins could not be built (`wayleave dev`).
    pub build_errors: Vec<BuildError>,
}

/// One live plugin.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStatus {
    /// As the config calls it.
    pub name: String,
    /// How often it was replaced, from 1.
    pub generation: u64,
    /// Of its content.
    pub hash: String,
    /// What it decides.
    pub hooks: Vec<&'static str>,
}

/// What a toolchain said about a plugin's source.
#[derive(Debug, Clone, Serialize)]
pub struct BuildError {
    /// As the config calls it.
    pub plugin: String,
    /// Its words.
    pub text: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This generation is in force now.
    Replaced(u64),
    /// Nothing has changed on disk.
    Unchanged,
    /// The running one stays, for this reason.
    Failed(String),
}

/// Replaces generations, one attempt at a time.
#[derive(Debug)]
pub struct Reloader {
    file: Option<PathBuf>,
    host: Arc<PluginHost>,
    router: Arc<Router>,
    /// What was in force at the start, for what needs a restart.
    started_with: Config,
    status: watch::Sender<Status>,
    /// Held for a whole attempt: two at once could swap in the older one.
    attempt: Mutex<()>,
    /// What was in force before; None: nothing, or it was taken back already.
    before: parking_lot::Mutex<Option<Arc<Generation>>>,
    /// What is in force is older than what stands on disk, and meant so.
    is_rolled_back: AtomicBool,
    /// How often that was wished, and what stood on disk the last time.
    rollbacks: watch::Sender<(u64, Look)>,
}

impl Reloader {
    /// `file`: where the config is read from again; None: only plugins are
    /// looked at.
    #[must_use]
    pub fn new(file: Option<PathBuf>, host: Arc<PluginHost>, router: Arc<Router>) -> Self {
        let generation = router.generation();
        announce(&router, &generation);
        let status = Status {
            generation: generation.number,
            plugins: plugins(&generation),
            error: None,
            building: Vec::new(),
            build_errors: Vec::new(),
        };
        let started_with = generation.config.clone();
        Self {
            file,
            host,
            router,
            started_with,
            status: watch::Sender::new(status),
            attempt: Mutex::default(),
            before: parking_lot::Mutex::default(),
            is_rolled_back: AtomicBool::new(false),
            rollbacks: watch::Sender::default(),
        }
    }

    /// What is live, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Changes what is shown of builds.
    pub fn show(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Keeps only the build errors of plugins that are still wanted. Nobody is
    /// told unless something changes.
    pub fn forget_builds(&self, is_wanted: impl Fn(&str) -> bool) {
        self.status.send_if_modified(|status| {
            let before = status.build_errors.len();
            status.build_errors.retain(|error| is_wanted(&error.plugin));
            status.build_errors.len() != before
        });
    }

    /// The generation in force.
    #[must_use]
    pub fn running(&self) -> Arc<Generation> {
        self.router.generation()
    }

    /// Whose generations it replaces.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// True if there is a generation to go back to.
    #[must_use]
    pub fn can_roll_back(&self) -> bool {
        self.before.lock().is_some()
    }

    /// True if an older generation was put in force again, and stays until a
    /// file changes.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        self.is_rolled_back.load(Ordering::Relaxed)
    }

    /// The config's file.
    #[must_use]
    pub fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref()
    }

    /// Reads config and plugins again and puts them in force, if all of it is
    /// right. `why` is for the log.
    pub async fn reload(&self, why: &'static str) -> Outcome {
        let _one_at_a_time = self.attempt.lock().await;
        self.attempt(why).await
    }

    /// The same for files that were seen to change after so many rollbacks. With
    /// another one since, they may be what was rolled back: nothing is done, and
    /// what has changed since that is a change of its own.
    async fn reload_seen(&self, rollbacks: u64) {
        let _one_at_a_time = self.attempt.lock().await;
        if self.rollbacks.borrow().0 == rollbacks {
            self.attempt("a file has changed").await;
        }
    }

    async fn attempt(&self, why: &'static str) -> Outcome {
        let running = self.router.generation();
        let (file, host, before) = (self.file.clone(), Arc::clone(&self.host), Arc::clone(&running));
        // Compiling computes for seconds; the runtime's threads have sockets.
        let built = tokio::task::spawn_blocking(move || {
            let config = match file {
                Some(file) => Config::load(&file).map_err(|error| error.to_string())?,
                None => before.config.clone(),
            };
            Generation::build(config, &host, Some(&before)).map_err(|error| error.to_string())
        })
        .await
        .unwrap_or_else(|panic| Err(format!("the attempt panicked: {panic}")));
        let outcome = match built {
            Err(reason) => Outcome::Failed(reason),
            Ok(next) if is_same(&running, &next) => Outcome::Unchanged,
            Ok(next) => {
                let number = self.put_in_force(next);
                *self.before.lock() = Some(Arc::clone(&running));
                self.is_rolled_back.store(false, Ordering::Relaxed);
                Outcome::Replaced(number)
            }
        };
        match &outcome {
            Outcome::Replaced(generation) => {
                self.router.metrics.reloaded("replaced");
                tracing::info!(generation, why, "reloaded");
            }
            Outcome::Unchanged => {
                self.router.metrics.reloaded("unchanged");
                self.status.send_if_modified(|status| status.error.take().is_some());
                tracing::debug!(why, "reload: nothing has changed");
            }
            Outcome::Failed(reason) => {
                self.router.metrics.reloaded("failed");
                self.status.send_modify(|status| status.error = Some(reason.clone()));
                tracing::error!(
                    why,
                    generation = running.number,
                    "reload failed, the running generation stays: {reason}"
                );
            }
        }
        outcome
    }

    /// Puts the config and the plugins in force again that were before the
    /// last reload: the very same ones, nothing is read or compiled. Only keys
    /// of the server API, of tokens and of TLS stay as they are now. What
    /// stands on disk is taken over once a file changes, or by a reload. `why`
    /// is for the log.
    pub async fn roll_back(&self, why: &'static str) -> Outcome {
        let _one_at_a_time = self.attempt.lock().await;
        let Some(before) = self.before.lock().take() else {
            return Outcome::Failed("there is no generation to go back to".to_owned());
        };
        let unwanted = watcher::stand(self);
        let number = self.put_in_force(before.again(&self.router.generation()));
        self.is_rolled_back.store(true, Ordering::Relaxed);
        self.rollbacks.send_modify(|(n, look)| (*n, *look) = (*n + 1, unwanted));
        self.router.metrics.reloaded("rolled back");
        tracing::warn!(generation = number, as_before = before.number, why, "rolled back");
        Outcome::Replaced(number)
    }

    fn put_in_force(&self, next: Generation) -> u64 {
        for key in next.config.needs_restart(&self.started_with) {
            tracing::warn!(key, "has changed in the config and takes effect at the next start");
        }
        let next = Arc::new(next);
        self.router.replace(Arc::clone(&next));
        announce(&self.router, &next);
        self.status.send_modify(|status| {
            status.generation = next.number;
            status.plugins = plugins(&next);
            status.error = None;
        });
        next.number
    }
}

fn announce(router: &Router, generation: &Generation) {
    router.metrics.generation.set(i64::try_from(generation.number).unwrap_or(i64::MAX));
    // Here, since the config is read far more often than put in force.
    for reason in generation.config.auth.jwt.iter().flat_map(|jwt| &jwt.unusable) {
        tracing::warn!("{reason}");
    }
    for plugin in &generation.plugins {
        router.metrics.plugin_is_live(plugin.name(), plugin.generation());
    }
}

fn plugins(generation: &Generation) -> Vec<PluginStatus> {
    let status = |plugin: &Arc<crate::plugin::Plugin>| PluginStatus {
        name: plugin.name().to_owned(),
        generation: plugin.generation(),
        hash: plugin.hash()[..12].to_owned(),
        hooks: plugin.hooks().iter().map(|hook| hook.interface()).collect(),
    };
    generation.plugins.iter().map(status).collect()
}

fn is_same(running: &Generation, next: &Generation) -> bool {
    let same_plugins = running.plugins.len() == next.plugins.len()
        && running.plugins.iter().zip(&next.plugins).all(|(running, next)| Arc::ptr_eq(running, next));
    same_plugins && running.config == next.config
}
