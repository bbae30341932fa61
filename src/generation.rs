//! One generation: a checked config with the plugins that belong to it.
//!
//! It never changes. A reload builds the next one whole, beside the running
//! one, and swaps a pointer; a message sees one generation from start to end.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use crate::{
    auth::Tokens,
    config::{Config, RoomConfig, RouteConfig},
    id,
    plugin::{Caller, Hook, LoadError, Plugin, PluginHost},
    protocol::Tag,
};

/// A config in force, with its plugins.
#[derive(Debug)]
pub struct Generation {
    /// Grows with each replacement, from 1.
    pub number: id::Generation,
    /// What the file says.
    pub config: Config,
    /// All plugins, in the order of the file.
    pub plugins: Vec<Arc<Plugin>>,
    /// The plugins of `auth.plugins`.
    pub authenticators: Vec<Arc<Plugin>>,
    /// Checks tokens.
    pub tokens: Tokens,
    /// By entry of `config.rooms`.
    pipelines: Vec<Pipeline>,
}

/// The plugins of a room's entry, by hook and in order.
#[derive(Debug, Default)]
pub struct Pipeline {
    /// Asked about joins.
    pub authorize: Vec<Arc<Plugin>>,
    /// Asked about publishes.
    pub authorize_publish: Vec<Arc<Plugin>>,
    /// Asked about each message.
    pub transform: Vec<Arc<Plugin>>,
    /// Asked where each message goes.
    pub route: Vec<Arc<Plugin>>,
    /// Told who comes and goes.
    pub observe: Vec<Arc<Plugin>>,
    /// What messages are stamped with, while all plugins answer themselves;
    /// empty unless the room asks for it.
    stamp: Vec<Tag<'static>>,
    number: id::Generation,
    /// All of the room, in order.
    plugins: Vec<Arc<Plugin>>,
}

/// Everything that keeps a generation from going live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBuilt(pub Vec<LoadError>);

impl fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for NotBuilt {}

impl Generation {
    /// Loads the plugins of `config`, taking over those of `running` that did
    /// not change. It computes for long: call it off the runtime's threads.
    ///
    /// # Errors
    /// Every plugin that cannot be used, or lacks the hook that it is used for.
    pub fn build(config: Config, host: &PluginHost, running: Option<&Self>) -> Result<Self, NotBuilt> {
        let before = running.map_or(&[][..], |running| &running.plugins);
        let plugins = host.load(&config.plugins, before).map_err(NotBuilt)?;
        let by_name: HashMap<&str, &Arc<Plugin>> = plugins.iter().map(|plugin| (plugin.name(), plugin)).collect();
        let errors = missing_hooks(&config, &by_name);
        if !errors.is_empty() {
            return Err(NotBuilt(errors));
        }
        let lost = running.map_or_else(Vec::new, |running| lost_guards(running, &plugins));
        if !lost.is_empty() {
            return Err(NotBuilt(lost));
        }
        Ok(Self::assemble(config, plugins, running.map_or(1, |running| running.number + 1), running))
    }

    /// The same config and plugins once more, after `running`. Whom a key lets
    /// in stays as it is there: what was taken out of the config since may be
    /// known to others.
    #[must_use]
    pub fn again(&self, running: &Self) -> Self {
        let mut config = self.config.clone();
        config.api.keys.clone_from(&running.config.api.keys);
        config.auth.jwt.clone_from(&running.config.auth.jwt);
        config.tls.clone_from(&running.config.tls);
        Self::assemble(config, self.plugins.clone(), running.number + 1, Some(running))
    }

    fn assemble(config: Config, plugins: Vec<Arc<Plugin>>, number: id::Generation, before: Option<&Self>) -> Self {
        let by_name: HashMap<&str, &Arc<Plugin>> = plugins.iter().map(|plugin| (plugin.name(), plugin)).collect();
        let find = |name: &String| by_name.get(name.as_str()).map(|plugin| Arc::clone(plugin));
        let authenticators = config.auth.plugins.iter().filter_map(find).collect();
        let pipelines = config
            .rooms
            .iter()
            .map(|room| Pipeline::new(room, number, &room.plugins.iter().filter_map(find).collect::<Vec<_>>()))
            .collect();
        let tokens = Tokens::new(&config.auth.jwt, before.map(|before| &before.tokens));
        Self { number, config, plugins, authenticators, tokens, pipelines }
    }

    /// The entry that counts for a room, with its plugins.
    #[must_use]
    pub fn room(&self, name: &str) -> Option<(&RoomConfig, &Pipeline)> {
        let at = self.config.rooms.iter().position(|room| room.pattern.matches(name))?;
        Some((&self.config.rooms[at], &self.pipelines[at]))
    }

    /// The `[[routes]]` for a room.
    pub fn routes(&self, room: &str) -> impl Iterator<Item = &RouteConfig> {
        self.config.routes.iter().filter(move |route| route.pattern.matches(room))
    }

    /// The plugins that answer calls.
    pub fn callees(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.iter().filter(|plugin| plugin.hooks().contains(&Hook::Call))
    }

    /// The plugins that are asked every period.
    pub fn tickers(&self) -> impl Iterator<Item = (&Arc<Plugin>, Duration)> {
        self.plugins.iter().filter_map(|plugin| Some((plugin, plugin.period()?)))
    }

    /// What is in the plugins' files, by name: instances that run the same have
    /// the same.
    #[must_use]
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.plugins.iter().map(|plugin| (plugin.name().to_owned(), plugin.short_hash())).collect()
    }

    /// The plugins that are told of connections.
    pub fn observers(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.iter().filter(|plugin| plugin.hooks().contains(&Hook::Observe))
    }
}

impl Pipeline {
    fn new(room: &RoomConfig, number: id::Generation, plugins: &[Arc<Plugin>]) -> Self {
        let with = |hook: Hook| plugins.iter().filter(|plugin| plugin.hooks().contains(&hook)).cloned().collect();
        let generations = plugins.iter().map(|plugin| plugin.generation());
        let stamp = if room.stamp { stamp(number, plugins, generations) } else { Vec::new() };
        Self {
            authorize: with(Hook::Authorize),
            authorize_publish: with(Hook::AuthorizePublish),
            transform: with(Hook::Transform),
            route: with(Hook::Route),
            observe: with(Hook::Observe),
            stamp,
            number,
            plugins: plugins.to_vec(),
        }
    }

    /// What a message is stamped with: who answered for this room and sender.
    #[must_use]
    pub fn stamp(&self, sender: Caller<'_>, room: &str) -> Cow<'_, [Tag<'static>]> {
        if self.stamp.is_empty() || self.plugins.iter().all(|plugin| plugin.answers_all()) {
            return Cow::Borrowed(&self.stamp);
        }
        let generations = self.plugins.iter().map(|plugin| plugin.answering(sender, room));
        Cow::Owned(stamp(self.number, &self.plugins, generations))
    }
}

fn stamp(
    number: id::Generation,
    plugins: &[Arc<Plugin>],
    generations: impl Iterator<Item = id::Generation>,
) -> Vec<Tag<'static>> {
    let names = plugins.iter().zip(generations).map(|(plugin, generation)| format!("{}@{generation}", plugin.name()));
    let names: Vec<_> = names.collect();
    vec![("generation".into(), number.to_string().into()), ("plugins".into(), names.join(" ").into())]
}

/// A plugin that is rebuilt without the hook that guarded a room would open
/// it, unseen. A config that names the plugin's hooks says that it is meant.
fn lost_guards(running: &Generation, next: &[Arc<Plugin>]) -> Vec<LoadError> {
    let mut errors = Vec::new();
    for plugin in next.iter().filter(|plugin| !plugin.names_hooks()) {
        let Some(before) = running.plugins.iter().find(|before| before.name() == plugin.name()) else { continue };
        for guard in before.hooks().iter().filter(|hook| hook.is_guard() && !plugin.hooks().contains(hook)) {
            let hooks: Vec<_> = plugin.hooks().iter().map(|hook| format!("\"{}\"", hook.key())).collect();
            let reason = format!(
                "it has lost its `{guard}` hook, and what that guarded would be open; if that is meant, add \
                 `hooks = [{}]`",
                hooks.join(", ")
            );
            errors.push(LoadError { plugin: plugin.name().to_owned(), reason });
        }
    }
    errors
}

/// A room that names a plugin without any hook of rooms would look guarded and
/// be open, so that is an error.
fn missing_hooks(config: &Config, plugins: &HashMap<&str, &Arc<Plugin>>) -> Vec<LoadError> {
    let mut errors = Vec::new();
    let mut check = |name: &String, usable: &[Hook], by: String| {
        let Some(plugin) = plugins.get(name.as_str()) else { return };
        if !plugin.hooks().iter().any(|hook| usable.contains(hook)) {
            let wanted: Vec<_> = usable.iter().map(|hook| hook.interface()).collect();
            let reason = format!("it has no hook that {by} could use; wanted: {}", wanted.join(", "));
            errors.push(LoadError { plugin: name.clone(), reason });
        }
    };
    for name in &config.auth.plugins {
        check(name, &[Hook::Authenticate], "`auth.plugins`".into());
    }
    let of_rooms = [Hook::Authorize, Hook::AuthorizePublish, Hook::Transform, Hook::Route, Hook::Observe];
    for room in &config.rooms {
        for name in &room.plugins {
            check(name, &of_rooms, format!("the rooms `{}`", room.pattern));
        }
    }
    errors
}
