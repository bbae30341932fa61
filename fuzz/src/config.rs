//! A config file of somebody who mistypes everything.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use wayleave::config::Config;

/// Nothing that a config could name is in there.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

/// Either a config comes out, or mistakes that can be shown. The same text
/// stands in a variable, too.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let start: String = text.chars().take(40).collect();
    for environment in [BTreeMap::new(), BTreeMap::from([("WAYLEAVE_LIMITS_OUTBOX".to_owned(), start)])] {
        if let Err(error) = Config::parse(&text, FOLDER.path(), &environment) {
            assert!(!error.to_string().trim().is_empty());
        }
    }
}

/// The config that documents every key with its comments taken off, and one
/// that is deployed.
#[must_use]
pub fn good_configs() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The crate of this file, or the one whose tests have it.
    let root = if root.ends_with("fuzz") { root.join("..") } else { root.to_owned() };
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("it is there");
    let whole = read("config.toml");
    let bare = whole.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    // Small ones are spoilt where it matters more often.
    let sections = whole.split("\n\n").filter(|section| section.contains('=')).map(str::to_owned);
    [read("deploy/etc/config.toml"), bare, whole.clone()].into_iter().chain(sections).map(String::into_bytes).collect()
}
