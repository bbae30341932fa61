//! The report of an inspection, for people and for programs.

use std::{fmt, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{super::to_toml::to_toml, Cost, MESSAGE, Measured, has};
use crate::{
    config::PluginConfig,
    plugin::{Examined, Grant, Hook},
};

/// All that was found out.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) path: PathBuf,
    pub(super) has_settings: bool,
    pub(super) config: PluginConfig,
    pub(super) examined: Examined,
    /// Or why it does not run.
    pub(super) measured: Result<Measured, String>,
}

fn list(words: impl Iterator<Item = impl AsRef<str>>) -> String {
    words.map(|word| format!("\"{}\"", word.as_ref())).collect::<Vec<_>>().join(", ")
}

fn size(bytes: usize) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

fn micros(duration: Duration) -> String {
    match duration.as_secs_f64() * 1e6 {
        micros if micros < 100.0 => format!("{micros:.1} µs"),
        micros if micros < 10_000.0 => format!("{micros:.0} µs"),
        micros => format!("{:.0} ms", micros / 1000.0),
    }
}

impl Report {
    fn kind(&self) -> &'static str {
        if self.examined.was_core { "core module, made a component here" } else { "component" }
    }

    /// An entry for the config.
    fn entry(&self) -> String {
        let Examined { grants, hooks, .. } = &self.examined;
        let mut lines = vec![
            "[[plugins]]".to_owned(),
            format!("name = {}", json!(self.config.name)),
            format!("path = {}", json!(self.path)),
        ];
        if !grants.is_empty() {
            lines.push(format!("grants = [{}]", list(grants.iter().map(|grant| grant.name()))));
        }
        lines.push(format!("hooks = [{}]", list(hooks.iter().map(|hook| hook.key()))));
        if hooks.contains(&Hook::Tick) {
            let tick = self.config.tick.unwrap_or(Duration::from_secs(10));
            lines.push(format!("tick = \"{}\"", humantime::format_duration(tick)));
        }
        if let Ok(measured) = &self.measured {
            lines.push(format!("timeout = \"{}\"", humantime::format_duration(measured.suggested_timeout())));
            lines.push(format!("init_timeout = \"{}\"", humantime::format_duration(measured.suggested_init_timeout())));
            lines.push(format!("memory = \"{}MiB\"", measured.suggested_memory() >> 20));
        }
        let settings = &self.config.settings;
        if settings.as_object().is_some_and(|settings| !settings.is_empty())
            && let Some(settings) = to_toml(settings)
        {
            lines.push(format!("settings = {settings}"));
        }
        if has(&self.examined, Grant::Http) {
            lines.push("[plugins.http]\norigins = []            # where its requests may go".to_owned());
        }
        if has(&self.examined, Grant::Secrets) {
            lines.push("[plugins.secrets]\n# name = { env = \"NAME\" }, for each that it asks for".to_owned());
        }
        lines.join("\n")
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let Examined { size, was_core, version, hooks, imports, grants, compiled } = &self.examined;
        let cost = |cost: &Cost| json!({ "median_us": us(cost.median), "p99_us": us(cost.p99), "calls": cost.calls });
        let hook = |(hook, measured): &(Hook, Result<Cost, String>)| {
            let found = measured.as_ref().map_or_else(|why| json!({ "failed": why }), cost);
            (hook.key().to_owned(), found)
        };
        let measured = match &self.measured {
            Err(why) => json!({ "failed": why }),
            Ok(measured) => json!({
                "start": cost(&measured.start),
                "memory": measured.memory,
                "memory_after_calls": measured.memory_after,
                "message_bytes": MESSAGE,
                "hooks": measured.hooks.iter().map(hook).collect::<serde_json::Map<_, _>>(),
                "suggested": {
                    "timeout_ms": us(measured.suggested_timeout()) / 1000.0,
                    "init_timeout_ms": us(measured.suggested_init_timeout()) / 1000.0,
                    "memory": measured.suggested_memory(),
                },
            }),
        };
        json!({
            "plugin": self.path,
            "kind": if *was_core { "core" } else { "component" },
            "version": version,
            "hooks": hooks.iter().map(|hook| hook.key()).collect::<Vec<_>>(),
            "imports": imports,
            "grants": grants.iter().map(|grant| grant.name()).collect::<Vec<_>>(),
            "size": size,
            "compile_ms": us(*compiled) / 1000.0,
            "measured": measured,
            "entry": self.entry(),
        })
    }
}

/// In microseconds, to a tenth.
fn us(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Examined { size: bytes, version, hooks, imports, grants, compiled, .. } = &self.examined;
        writeln!(f, "{}", self.path.display())?;
        writeln!(f, "  {}, {}, compiled in {}", self.kind(), size(*bytes), micros(*compiled))?;
        let hooks: Vec<_> = hooks.iter().map(|hook| hook.key()).collect();
        writeln!(f, "  hooks      {}, of version {version}", hooks.join(", "))?;
        writeln!(f, "  imports    {}", if imports.is_empty() { "none".to_owned() } else { imports.join(", ") })?;
        writeln!(f, "  grants     grants = [{}]", list(grants.iter().map(|grant| grant.name())))?;
        match &self.measured {
            Err(why) => {
                writeln!(f, "  it does not run like this, so nothing was measured:\n    {why}")?;
                if !self.has_settings {
                    writeln!(f, "    (--settings gives it some, or --config with --name)")?;
                }
            }
            Ok(measured) => fmt_measured(measured, f)?,
        }
        writeln!(f, "\nFor the config:\n")?;
        self.entry().lines().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

fn fmt_measured(measured: &Measured, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Measured { start, memory, memory_after, hooks } = measured;
    writeln!(f, "  a guest    starts in {} (p99 {}), `init` included", micros(start.median), micros(start.p99))?;
    writeln!(f, "             has {} of memory, and {} after the calls below", size(*memory), size(*memory_after))?;
    writeln!(f, "  calls, with a message of {MESSAGE} bytes, on this machine:")?;
    for (hook, cost) in hooks {
        match cost {
            Ok(Cost { median, p99, calls }) => {
                writeln!(
                    f,
                    "    {:18} median {:>9}   p99 {:>9}   ({calls} calls)",
                    hook.key(),
                    micros(*median),
                    micros(*p99)
                )?;
            }
            Err(why) => writeln!(f, "    {:18} failed: {why}", hook.key())?,
        }
    }
    Ok(())
}
