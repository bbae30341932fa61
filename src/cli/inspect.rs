//! `wayleave plugin inspect`: what a plugin is, what it needs, and what it costs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::Value;

use self::{
    measure::{Cost, MESSAGE},
    report::Report,
};
use super::{EXIT_MISTAKE, build};
use crate::{
    config::{Config, PluginConfig},
    hub::Hub,
    metrics::Metrics,
    plugin::{Examined, Grant, Hook, MemoryStore, Plugin, PluginHost},
    router::HubLookup,
};

mod measure;
mod report;

/// Says what a plugin has and needs, measures it, and suggests its entry in the
/// config.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// A source folder, which is built if need be, or a `.wasm` file.
    plugin: PathBuf,
    /// What it is given at its start: JSON, or a TOML file.
    #[arg(long, conflicts_with_all = ["config", "name"])]
    settings: Option<String>,
    /// Take settings, grants and limits from this config …
    #[arg(long, requires = "name")]
    config: Option<PathBuf>,
    /// … where the plugin has this name.
    #[arg(long, requires = "config")]
    name: Option<String>,
    /// Print an object for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(inspect: &Inspect) -> ExitCode {
    match inspect.report() {
        Ok(report) => {
            if inspect.json {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(EXIT_MISTAKE)
        }
    }
}

impl Inspect {
    fn report(&self) -> anyhow::Result<Report> {
        if self.plugin.is_dir() {
            build::build_if_stale(&self.plugin)?;
        }
        let mut config = self.config()?;
        let lookup = Arc::new(HubLookup(Arc::new(Hub::new())));
        // Without a cache, or compiling would cost nothing.
        let host = PluginHost::open(None, Arc::new(MemoryStore::default()), lookup, Metrics::new())?;
        let examined = host.examine(&config).map_err(|reason| anyhow!("{}: {reason}", self.plugin.display()))?;
        ensure!(!examined.hooks.is_empty(), "{}: it has no hook", self.plugin.display());
        if self.config.is_none() {
            fit(&mut config, &examined);
        }
        let measured = host.load(std::slice::from_ref(&config), &[]);
        let measured =
            measured.map_err(|errors| errors[0].reason.clone()).and_then(|plugins| Measured::of(&plugins[0]));
        Ok(Report { path: self.plugin.clone(), has_settings: self.settings.is_some(), config, examined, measured })
    }

    fn config(&self) -> anyhow::Result<PluginConfig> {
        let path = std::path::absolute(&self.plugin)?;
        let mut config = match (&self.config, &self.name) {
            (Some(file), Some(name)) => of_config(file, name)?,
            _ => bare()?,
        };
        if let Some(text) = &self.settings {
            config.settings = settings(text)?;
        }
        if self.name.is_none() {
            // `plugin.wasm` is called as its folder is.
            let folder = path.parent().filter(|_| path.file_name().is_some_and(|name| name == "plugin.wasm"));
            let named = folder.unwrap_or(&path).file_stem().unwrap_or_default();
            config.name = named.to_string_lossy().into_owned();
        }
        config.path = path;
        Ok(config)
    }
}

/// A plugin's config in which nothing is said but what must be.
fn bare() -> anyhow::Result<PluginConfig> {
    let text = "[[plugins]]\nname = \"plugin\"\npath = \"plugin.wasm\"\n";
    let config = Config::parse(text, Path::new("/"), &std::collections::BTreeMap::new())?;
    config.plugins.into_iter().next().context("a plugin was named")
}

fn of_config(file: &Path, name: &str) -> anyhow::Result<PluginConfig> {
    let config = Config::load(file)?;
    let known: Vec<_> = config.plugins.iter().map(|plugin| plugin.name.clone()).collect();
    let found = config.plugins.into_iter().find(|plugin| plugin.name == name);
    found.with_context(|| format!("`{}` has no plugin `{name}`; it has {}", file.display(), known.join(", ")))
}

fn settings(text: &str) -> anyhow::Result<Value> {
    let value: Value = if text.trim_start().starts_with('{') {
        super::json(text).map_err(|error| anyhow!("--settings: {error}"))?
    } else {
        let file = std::fs::read_to_string(text).with_context(|| format!("--settings: `{text}` cannot be read"))?;
        toml::from_str(&file).with_context(|| format!("--settings: `{text}`"))?
    };
    if !value.is_object() {
        bail!("--settings: expected an object");
    }
    Ok(value)
}

/// Gives it what it needs to run, and time and room enough to be measured.
fn fit(config: &mut PluginConfig, examined: &Examined) {
    config.grants.clone_from(&examined.grants);
    config.tick = examined.hooks.contains(&Hook::Tick).then_some(Duration::from_secs(10));
    config.memory = 1 << 30;
    config.timeout = Duration::from_secs(1);
    config.init_timeout = Duration::from_secs(60);
}

/// What a plugin costs.
#[derive(Debug)]
struct Measured {
    start: Cost,
    /// Bytes of a guest after `init`.
    memory: usize,
    /// The same after the calls.
    memory_after: usize,
    /// Or why it failed.
    hooks: Vec<(Hook, Result<Cost, String>)>,
}

impl Measured {
    fn of(plugin: &Plugin) -> Result<Self, String> {
        let (start, memory) = measure::starts(plugin).map_err(|failure| failure.reason)?;
        let mut memory_after = memory;
        let mut hooks = Vec::new();
        for hook in plugin.hooks() {
            hooks.push((*hook, measure::calls(plugin, *hook).map_err(|failure| failure.reason)));
            memory_after = memory_after.max(plugin.memory());
        }
        Ok(Self { start, memory, memory_after, hooks })
    }

    /// Twice what it took, as a power of two: past three quarters a guest is
    /// replaced.
    fn suggested_memory(&self) -> usize {
        (self.memory_after * 2).next_power_of_two().max(4 << 20)
    }

    /// Far above what the slowest calls took, since it goes by the clock and a
    /// thread may wait for its turn.
    fn suggested_timeout(&self) -> Duration {
        let slowest = self.hooks.iter().filter_map(|(_, cost)| Some(cost.as_ref().ok()?.p99)).max();
        round_up(slowest.unwrap_or_default() * 20).max(Duration::from_millis(20))
    }

    fn suggested_init_timeout(&self) -> Duration {
        round_up(self.start.p99 * 10).max(Duration::from_secs(1))
    }
}

/// Up to 1, 2 or 5 times a power of ten, in milliseconds.
fn round_up(duration: Duration) -> Duration {
    let wanted = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
    let steps = (0..12).flat_map(|power| [1, 2, 5].map(|step| step * 10_u64.pow(power)));
    Duration::from_millis(steps.into_iter().find(|step| *step >= wanted).unwrap_or(wanted))
}

/// The grants whose tables only the operator can fill in.
fn has(examined: &Examined, grant: Grant) -> bool {
    examined.grants.contains(&grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_round() {
        let millis = |n| u64::try_from(round_up(Duration::from_millis(n)).as_millis()).unwrap();
        assert_eq!([0, 1, 3, 5, 6, 180, 201, 900].map(millis), [1, 1, 5, 5, 10, 200, 500, 1_000]);
    }
}
