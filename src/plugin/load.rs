//! From a file to a program that guests can be made of, or the reason why
//! not. Everything that can be known before the first message is checked here.

use std::{
    fs::File,
    io::Read,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};

use super::{
    Environment, core,
    guest::{Guest, Program},
    host::{HostState, Shared},
    script::{self, Script},
    types::{Grant, Hook},
    version::{self, Indices, VERSIONS, Version},
};
use crate::config::PluginConfig;

/// A larger file is no plugin. The largest script engines are at 20 MiB.
const FILE_MAX: u64 = 64 << 20;

/// The package of our interfaces, before the slash.
const PACKAGE: &str = "wayleave:plugin";

/// A plugin that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin `{plugin}`: {reason}")]
pub struct LoadError {
    /// Which plugin.
    pub plugin: String,
    /// What is wrong, and what to do about it where that can be said.
    pub reason: String,
}

/// The bytes of a plugin, read once; what is hashed is what is compiled.
pub(super) struct Source {
    pub(super) hash: blake3::Hash,
    bytes: Vec<u8>,
}

/// Reads a plugin's file.
pub(super) fn read(config: &PluginConfig) -> Result<Source, String> {
    let file = config.file();
    let name = file.display();
    let hint = if config.is_source() {
        format!("; build it first: `wayleave plugin build {}` (or `wayleave dev`)", config.path.display())
    } else {
        String::new()
    };
    // A pipe or device would block for ever, so the kind comes before opening.
    let metadata = std::fs::metadata(&file).map_err(|error| format!("`{name}` cannot be read: {error}{hint}"))?;
    if !metadata.is_file() {
        return Err(format!("`{name}` is not a file"));
    }
    if metadata.len() > FILE_MAX {
        return Err(format!("`{name}` has {} bytes; a plugin has at most {FILE_MAX}", metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    File::open(&file)
        .and_then(|opened| opened.take(FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("`{name}` cannot be read: {error}"))?;
    Ok(Source { hash: blake3::hash(&bytes), bytes })
}

/// Compiles and checks. It may take seconds of computing, so it must not run
/// on the runtime's threads.
pub(super) fn compile(
    engine: &Engine,
    config: &PluginConfig,
    source: &Source,
    environment: &Arc<Environment>,
) -> Result<(Program, Guest), String> {
    // A decoder of hostile bytes may panic; that is a bad file, not the end.
    let attempt = || try_compile(engine, config, source, environment);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err("the compiler panicked on it".into()))
}

fn try_compile(
    engine: &Engine,
    config: &PluginConfig,
    source: &Source,
    environment: &Arc<Environment>,
) -> Result<(Program, Guest), String> {
    let Linked { pre, indices, script, was_core } = if script::is_script(&config.file()) {
        link_script(engine, config, source, environment)?
    } else {
        link_component(engine, config, source, environment)?
    };
    if indices.hooks().is_empty() {
        let names: Vec<_> = Hook::ALL.iter().map(|hook| hook.interface()).collect();
        let mut text = format!("it has no hook; a plugin exports some of {}", names.join(", "));
        if was_core {
            text += " (a core module must embed its component type, as wit-bindgen does; `strip` may have removed it)";
        }
        return Err(text);
    }
    if let Some(named) = config.hooks.as_ref().filter(|named| **named != indices.hooks()) {
        let list = |hooks: &[Hook]| hooks.iter().map(|hook| hook.key()).collect::<Vec<_>>().join(", ");
        return Err(format!(
            "it has the hooks {}, and the config's `hooks` says {}",
            list(&indices.hooks()),
            list(named)
        ));
    }
    check_tick(config, indices.hooks().contains(&Hook::Tick))?;
    let program = Program {
        name: config.name.as_str().into(),
        config: config.clone(),
        pre,
        indices,
        script,
        settings: config.settings.to_string(),
        environment: Arc::clone(environment),
        shared: Shared::new(config, environment)?,
    };
    let mut guest = Guest::start(&program).map_err(|(_, reason)| reason)?;
    guest.self_test(&program).map_err(|(_, reason)| reason)?;
    Ok((program, guest))
}

/// What can be instantiated.
struct Linked {
    pre: InstancePre<HostState>,
    indices: Box<dyn Indices>,
    script: Option<Script>,
    was_core: bool,
}

fn link_component(
    engine: &Engine,
    config: &PluginConfig,
    source: &Source,
    environment: &Environment,
) -> Result<Linked, String> {
    let (bytes, was_core) = componentize(&source.bytes, &config.file())?;
    let component = compiled(engine, source.hash, &bytes, environment)
        .map_err(|error| format!("it does not compile: {}", chain(&error)))?;
    check_imports(engine, &component, &config.grants)?;
    let (version, exported) = check_exports(engine, &component)?;
    let linker = linker(engine, &config.grants)?;
    let pre = linker.instantiate_pre(&component).map_err(|error| format!("it does not link: {}", chain(&error)))?;
    let indices = (version.indices)(&pre, &|interface| exported.iter().any(|name| name == interface))
        .map_err(|error| format!("its exports do not fit: {}", chain(&error)))?;
    Ok(Linked { pre, indices, script: None, was_core })
}

/// The hooks of a script are known once it has run, so it does here.
fn link_script(
    engine: &Engine,
    config: &PluginConfig,
    source: &Source,
    environment: &Arc<Environment>,
) -> Result<Linked, String> {
    let component = environment.scripts.engine(engine)?;
    let mut linker = linker(engine, &config.grants)?;
    script::link(&mut linker, component).map_err(|error| chain(&error))?;
    let pre = linker.instantiate_pre(component).map_err(|error| format!("it does not link: {}", chain(&error)))?;
    let script = Script::new(&config.file(), &source.bytes, &config.grants, &pre)?;
    let exported = Guest::hooks_of(&script, &pre, config, environment)?;
    let version = version::find("the JavaScript engine", script::VERSION)?;
    let indices = (version.indices)(&pre, &|interface| exported.iter().any(|name| name == interface))
        .map_err(|error| format!("the JavaScript engine does not fit: {}", chain(&error)))?;
    Ok(Linked { pre, indices, script: Some(script), was_core: false })
}

fn linker(engine: &Engine, grants: &[Grant]) -> Result<Linker<HostState>, String> {
    let mut linker = Linker::new(engine);
    // Of all versions: what it was linked from may be older than its hooks.
    for version in VERSIONS {
        (version.link)(&mut linker, grants).map_err(|error| chain(&error))?;
    }
    Ok(linker)
}

/// Compiles, or takes what was kept.
fn compiled(
    engine: &Engine,
    hash: blake3::Hash,
    bytes: &[u8],
    environment: &Environment,
) -> wasmtime::Result<Component> {
    let Some(kept) = &environment.compiled else { return Component::from_binary(engine, bytes) };
    if let Some(component) = kept.lock().get(&hash) {
        return Ok(component.clone());
    }
    let component = Component::from_binary(engine, bytes)?;
    kept.lock().insert(hash, component.clone());
    Ok(component)
}

/// What can be known of a plugin without running it.
#[derive(Debug, Clone)]
pub struct Examined {
    /// Bytes of its file.
    pub size: usize,
    /// A core module, which the gateway has made a component of.
    pub was_core: bool,
    /// Of the interfaces that it exports.
    pub version: &'static str,
    /// The hooks that it exports.
    pub hooks: Vec<Hook>,
    /// The interfaces that it imports, in full, and so their versions.
    pub imports: Vec<String>,
    /// The grants that these need.
    pub grants: Vec<Grant>,
    /// How long it took to compile.
    pub compiled: Duration,
}

/// Reads and compiles a plugin's file, and looks at what comes of it.
pub(super) fn examine(
    engine: &Engine,
    config: &PluginConfig,
    environment: &Arc<Environment>,
) -> Result<Examined, String> {
    let source = read(config)?;
    let attempt = || {
        if script::is_script(&config.file()) {
            examine_script(engine, config, &source, environment)
        } else {
            try_examine(engine, config, &source)
        }
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err("the compiler panicked on it".into()))
}

/// A script says which hooks it has by running; what it imports stands in its
/// text.
fn examine_script(
    engine: &Engine,
    config: &PluginConfig,
    source: &Source,
    environment: &Arc<Environment>,
) -> Result<Examined, String> {
    let text = String::from_utf8_lossy(&source.bytes);
    let named = |grant: &&Grant| {
        let name = format!("{PACKAGE}/{}", grant.name());
        text.match_indices(&name).any(|(at, _)| text[at + name.len()..].starts_with(['"', '\'', '@']))
    };
    let grants: Vec<_> = Grant::all().filter(|grant| named(&grant)).collect();
    let started = Instant::now();
    environment.scripts.engine(engine)?;
    let compiled = started.elapsed();
    let config = PluginConfig { grants: grants.clone(), ..config.clone() };
    let linked = link_script(engine, &config, source, environment)?;
    let imports = grants.iter().map(|grant| format!("{PACKAGE}/{}@{}", grant.name(), script::VERSION)).collect();
    Ok(Examined {
        size: source.bytes.len(),
        was_core: false,
        version: script::VERSION,
        hooks: linked.indices.hooks(),
        imports,
        grants,
        compiled,
    })
}

fn try_examine(engine: &Engine, config: &PluginConfig, source: &Source) -> Result<Examined, String> {
    let (bytes, was_core) = componentize(&source.bytes, &config.file())?;
    let started = Instant::now();
    let component =
        Component::from_binary(engine, &bytes).map_err(|error| format!("it does not compile: {}", chain(&error)))?;
    let compiled = started.elapsed();
    let (version, exported) = check_exports(engine, &component)?;
    let is_exported = |hook: &&Hook| exported.iter().any(|name| name == hook.interface());
    let hooks = Hook::ALL.iter().filter(is_exported).copied().collect();
    let kind = component.component_type();
    let imports: Vec<_> = kind.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let needed = imports.iter().filter_map(|name| Grant::from_name(ours(name)?.0));
    let mut grants: Vec<_> = needed.collect();
    grants.sort();
    grants.dedup();
    Ok(Examined { size: source.bytes.len(), was_core, version: version.number, hooks, imports, grants, compiled })
}

/// A period without the hook, or the hook without one, would never be asked and
/// look as if it were.
fn check_tick(config: &PluginConfig, has_hook: bool) -> Result<(), String> {
    match config.tick {
        None if has_hook => {
            Err("it has the hook `tick`, and its config does not say how often; add `tick = \"10s\"`".into())
        }
        Some(_) if !has_hook => {
            Err("its config says `tick`, and it does not have that hook; remove `tick`, or export it".into())
        }
        _ => Ok(()),
    }
}

fn chain(error: &wasmtime::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Makes a component of what is in the file: text, a core module that embeds
/// its component type, or a component already. True: it was a core module.
fn componentize(bytes: &[u8], file: &Path) -> Result<(Vec<u8>, bool), String> {
    let binary = if file.extension().is_some_and(|extension| extension == "wat") {
        wat::parse_bytes(bytes).map_err(|error| format!("its text does not parse: {error}"))?.into_owned()
    } else {
        bytes.to_owned()
    };
    match binary.get(..8) {
        Some([b'\0', b'a', b's', b'm', 1, 0, 0, 0]) => core::encode(&binary)
            .map(|component| (component, true))
            .map_err(|error| format!("it is a core module that cannot become a component: {error:#}")),
        Some([b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok((binary, false)),
        _ => Err(format!("`{}` is not WebAssembly", file.display())),
    }
}

/// Splits `wayleave:plugin/log@0.1.0` into interface and version.
fn ours(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
    Some(rest.split_once('@').unwrap_or((rest, "")))
}

/// Each import must be one of ours and granted; all that are not are named.
fn check_imports(engine: &Engine, component: &Component, grants: &[Grant]) -> Result<(), String> {
    let mut missing = Vec::new();
    let kind = component.component_type();
    for (name, _) in kind.imports(engine) {
        let Some((interface, version)) = ours(name) else {
            return Err(if name.starts_with("wasi:") {
                format!("it imports `{name}`, and plugins get no WASI; build it without (see docs/plugins.md)")
            } else {
                format!("it imports `{name}`, which this gateway does not have")
            });
        };
        version::find(name, version)?;
        // Types alone are no capability, wherever they are declared.
        if interface == "types" {
            continue;
        }
        match Grant::from_name(interface) {
            Some(grant) if grants.contains(&grant) => {}
            Some(_) => missing.push(interface),
            None => return Err(format!("it imports `{name}`, which this gateway does not have")),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = missing.iter().map(|name| format!("\"{name}\"")).collect();
    Err(format!(
        "it imports what it was not granted: {0}; add {1} to its `grants`",
        missing.join(", "),
        list.join(", ")
    ))
}

/// The names of our interfaces that it exports, and of which version they are.
/// A mistyped hook must not count as a hook that is not there, so an unknown
/// name is an error.
fn check_exports(engine: &Engine, component: &Component) -> Result<(&'static Version, Vec<String>), String> {
    let mut exported = Vec::new();
    let mut found: Option<&'static Version> = None;
    let kind = component.component_type();
    for (name, _) in kind.exports(engine) {
        let Some((interface, version)) = ours(name) else { continue };
        let version = version::find(name, version)?;
        if let Some(other) = found.replace(version).filter(|other| other.number != version.number) {
            let (one, two) = (other.number, version.number);
            return Err(format!("it exports hooks of version {one} and of {two}; build all of it against one"));
        }
        let known = Hook::ALL.iter().map(|hook| hook.interface()).chain(["lifecycle", "self-test"]);
        if !known.clone().any(|known| known == interface) {
            let near = known.min_by_key(|known| strsim::damerau_levenshtein(known, interface)).unwrap_or_default();
            return Err(format!("it exports `{name}`, which is no hook; did you mean `{near}`?"));
        }
        exported.push(interface.to_owned());
    }
    // Without any of ours it is refused for that.
    Ok((found.unwrap_or(&VERSIONS[0]), exported))
}
