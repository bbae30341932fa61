//! Tells when files have changed and have come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Reloader;
use crate::config::{Config, PluginConfig};

/// Editors and compilers write a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Between two looks at a file that must find it unchanged.
const SETTLE: Duration = Duration::from_millis(20);

/// Watches files by their folders: a replaced file is another one, and a watch
/// on the old one would see nothing any more.
pub struct Watcher {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    shared: Arc<Shared>,
}

struct Shared {
    changed: Notify,
    /// Which paths count. Held for one look-up.
    counts: Mutex<Filter>,
}

type Filter = Box<dyn Fn(&Path) -> bool + Send>;

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("folders", &self.folders).finish_non_exhaustive()
    }
}

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// If the system gives no watches.
    pub fn new() -> notify::Result<Self> {
        let shared = Arc::new(Shared { changed: Notify::new(), counts: Mutex::new(Box::new(|_| false)) });
        let told = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let counts = |event: &Event| {
                !matches!(event.kind, EventKind::Access(_)) && {
                    let counts = told.counts.lock();
                    event.paths.iter().any(|path| counts(path))
                }
            };
            // An error means that events were lost: look.
            if event.as_ref().map_or(true, counts) {
                told.changed.notify_one();
            }
        })?;
        Ok(Self { watcher, folders: BTreeSet::new(), shared })
    }

    /// From here on watches these folders, and of what is in them the paths
    /// that count.
    pub fn watch(
        &mut self,
        folders: &BTreeSet<PathBuf>,
        mode: RecursiveMode,
        counts: impl Fn(&Path) -> bool + Send + 'static,
    ) {
        *self.shared.counts.lock() = Box::new(counts);
        for gone in self.folders.difference(folders) {
            // It may not exist any more, and then there is nothing to end.
            let _gone = self.watcher.unwatch(gone);
        }
        let mut watched = folders & &self.folders;
        for new in folders.difference(&self.folders) {
            // One that is not there yet is tried again the next time.
            match self.watcher.watch(new, mode) {
                Ok(()) => drop(watched.insert(new.clone())),
                Err(error) => tracing::debug!(folder = %new.display(), %error, "cannot be watched"),
            }
        }
        self.folders = watched;
    }

    /// Waits until something has changed and nothing has for a while.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
        while tokio::time::timeout(DEBOUNCE, self.shared.changed.notified()).await.is_ok() {}
    }

    /// Reloads whenever the config or a plugin's file has changed; ends with
    /// `stop`.
    ///
    /// Events make it quick, and a look at the files every two seconds makes it
    /// sure: folders are deleted and made anew, links are swapped, and a change
    /// may come before its watch.
    pub async fn run(mut self, reloader: Arc<Reloader>, stop: CancellationToken) {
        // What was read before is not known to be what is there now: the first
        // look finds a change, and at worst nothing to do. So it is with files
        // that a reload names anew.
        let mut seen = Look::new();
        let mut rollbacks = reloader.rollbacks.subscribe();
        let mut n_rollbacks = rollbacks.borrow_and_update().0;
        loop {
            let files = files(&reloader);
            let folders = files.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect();
            let counted = files.clone();
            self.watch(&folders, RecursiveMode::NonRecursive, move |path| counted.contains(path));
            tokio::select! {
                () = self.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = rollbacks.changed() => {}
                () = stop.cancelled() => return,
            }
            if rollbacks.borrow().0 != n_rollbacks {
                // What stood there then is not wanted; what has changed since is.
                (n_rollbacks, seen) = rollbacks.borrow_and_update().clone();
                continue;
            }
            let now = look(&files);
            // After a rollback other files may count, which have not changed.
            let is_new = |(file, state): (&PathBuf, &_)| seen.get(file).is_some_and(|before| before != state);
            let has_changed = if reloader.is_rolled_back() { now.iter().any(is_new) } else { now != seen };
            if !has_changed {
                // Also those that count only now: their next change is one.
                seen.extend(now);
                continue;
            }
            tokio::select! {
                () = settled(&files) => {}
                () = stop.cancelled() => return,
            }
            seen = look(&files);
            reloader.reload_seen(n_rollbacks).await;
        }
    }
}

/// How often the files are looked at, events or not.
const LOOK: Duration = Duration::from_secs(2);

/// Looks that must find the files at rest; one that is written for longer is
/// read as it is, and read again when it changes.
const SETTLE_MAX: u32 = 100;

/// Waits until none of the files changes between two looks.
pub async fn settled(files: &BTreeSet<PathBuf>) {
    for _ in 0..SETTLE_MAX {
        let before = look(files);
        tokio::time::sleep(SETTLE).await;
        if look(files) == before {
            return;
        }
    }
}

/// Sizes and times of files, through links.
pub(super) type Look = BTreeMap<PathBuf, Option<(u64, Option<SystemTime>)>>;

/// What stands on disk now.
pub(super) fn stand(reloader: &Reloader) -> Look {
    look(&files(reloader))
}

fn look(files: &BTreeSet<PathBuf>) -> Look {
    let state = |file: &PathBuf| file.metadata().ok().map(|data| (data.len(), data.modified().ok()));
    files.iter().map(|file| (file.clone(), state(file))).collect()
}

/// The files that a generation is made of.
fn files(reloader: &Reloader) -> BTreeSet<PathBuf> {
    let generation = reloader.running();
    // A config that could not be put in force may name a plugin that is still
    // to be built.
    let wanted = reloader.file().and_then(|file| Config::load(file).ok()).map(|config| config.plugins);
    let plugins = generation.config.plugins.iter().chain(wanted.iter().flatten()).map(PluginConfig::file);
    let given = generation.config.plugins.iter().flat_map(|plugin| plugin.secret_files.iter().cloned());
    let secrets = generation.config.auth.jwt.iter().flat_map(|jwt| jwt.files.iter().cloned());
    let keys = generation.config.api.keys.iter().filter_map(|key| key.file.clone());
    let tls = generation.config.tls.iter().flat_map(|tls| [tls.cert.clone(), tls.key.clone()]);
    let files = plugins.chain(given).chain(secrets).chain(keys).chain(tls).chain(reloader.file().cloned());
    files.map(|file| absolute(&file)).collect()
}

fn absolute(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
}
