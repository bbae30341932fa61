//! Plugins that are text: one engine, compiled once, runs all scripts.
//!
//! The engine is a component that exports every hook and imports every host
//! interface; which of them there are for a plugin is the script's to say and
//! the grants' to bound. What was not granted is not linked either: a call of it
//! would be a trap, whatever the engine believes.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use wasmtime::{
    Engine,
    component::{Component, HasSelf, Instance, InstancePre, Linker},
};
use wit_bindgen_core::wit_parser::{PackageId, Resolve, SourceMap};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::{
    host::HostState,
    types::{FailureKind, Grant},
    version::GuestStore,
};

mod bindings {
    wasmtime::component::bindgen!({
        path: "plugins/engines/javascript/wit",
        world: "wayleave:script/private",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
    });
}

use bindings::{
    exports::wayleave::script::engine::{GuestIndices, Loaded},
    wayleave::script::failure,
};

/// Made by `build.rs`; empty if it could not be.
const ENGINE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/javascript.wasm"));

/// What the engine's type is made of.
const WIT: &[(&str, &str)] = &[
    ("types.wit", include_str!("../../wit/1.0.0/types.wit")),
    ("host.wit", include_str!("../../wit/1.0.0/host.wit")),
    ("hooks.wit", include_str!("../../wit/1.0.0/hooks.wit")),
    ("worlds.wit", include_str!("../../wit/1.0.0/worlds.wit")),
];
const SCRIPT_WIT: &str = include_str!("../../plugins/engines/javascript/wit/world.wit");
const WORLD: &str = "wayleave:script/scripted";

/// A longer reason is cut: it has the script's words in it.
const REASON_MAX: usize = 1 << 10;

/// The version of the interfaces that the engine speaks.
pub(super) const VERSION: &str = "1.0.0";

/// The engine, compiled at the first script.
#[derive(Default)]
pub(super) struct Scripts(OnceLock<Result<Component, String>>);

impl Scripts {
    pub(super) fn engine(&self, engine: &Engine) -> Result<&Component, String> {
        self.0.get_or_init(|| compile(engine)).as_ref().map_err(Clone::clone)
    }
}

fn compile(engine: &Engine) -> Result<Component, String> {
    if ENGINE.is_empty() {
        return Err("it is a script, and this gateway was built without the engine for them: no C compiler for \
                    WebAssembly was there; see docs/plugins.md"
            .into());
    }
    let component = encode().map_err(|error| format!("the JavaScript engine is no component: {error:#}"))?;
    Component::from_binary(engine, &component)
        .map_err(|error| format!("the JavaScript engine does not compile: {error:#}"))
}

fn encode() -> anyhow::Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    push(&mut resolve, WIT)?;
    let package = push(&mut resolve, &[("world.wit", SCRIPT_WIT)])?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    let mut module = ENGINE.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    // The compiler validates what comes out.
    ComponentEncoder::default().validate(false).module(&module)?.encode()
}

fn push(resolve: &mut Resolve, files: &[(&str, &str)]) -> anyhow::Result<PackageId> {
    let mut sources = SourceMap::default();
    for (file, text) in files {
        sources.push_str(file, *text);
    }
    let package = sources.parse().map_err(|(_, error)| anyhow::anyhow!("{error:?}"))?;
    resolve.push_group(package).map_err(|error| anyhow::anyhow!("{error:?}"))
}

/// True if this file is for the engine.
pub(super) fn is_script(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "js" || extension == "mjs")
}

/// A script, to be given to each new guest.
pub(super) struct Script {
    /// As places in it are told.
    name: String,
    source: Arc<str>,
    grants: Vec<&'static str>,
    indices: GuestIndices,
}

impl Script {
    pub(super) fn new(
        file: &Path,
        source: &[u8],
        grants: &[Grant],
        pre: &InstancePre<HostState>,
    ) -> Result<Self, String> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = std::str::from_utf8(source).map_err(|error| format!("`{name}` is not UTF-8: {error}"))?;
        let indices =
            GuestIndices::new(pre).map_err(|error| format!("the JavaScript engine does not fit: {error:#}"))?;
        Ok(Self { name, source: source.into(), grants: grants.iter().map(|grant| grant.name()).collect(), indices })
    }

    /// Loads the script into a new guest. Err inside Ok: why it cannot be used.
    pub(super) fn load(
        &self,
        store: &mut GuestStore,
        instance: &Instance,
    ) -> wasmtime::Result<Result<Vec<String>, String>> {
        let seed = u64::from_le_bytes(crate::id::random_bytes());
        let guest = self.indices.load(&mut *store, instance)?;
        Ok(match guest.call_load(store, &self.source, &self.name, &self.grants, seed)? {
            Loaded::Hooks(hooks) => Ok(hooks),
            Loaded::Failed(reason) => Err(printable(&reason)),
        })
    }
}

/// Adds what only the engine may call, and traps in place of what was not
/// granted.
pub(super) fn link(linker: &mut Linker<HostState>, engine: &Component) -> wasmtime::Result<()> {
    failure::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    linker.define_unknown_imports_as_traps(engine)
}

/// A script has failed, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct ScriptError {
    pub(super) kind: FailureKind,
    reason: String,
}

impl failure::Host for HostState {
    fn fail(&mut self, kind: failure::Kind, message: String) -> wasmtime::Result<()> {
        let kind = match kind {
            failure::Kind::Thrown => FailureKind::Trap,
            failure::Kind::Answer => FailureKind::Answer,
        };
        Err(ScriptError { kind, reason: printable(&message) }.into())
    }
}

/// On one line, and not too long: what a script says must not look like lines
/// of the log's own.
fn printable(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(REASON_MAX)];
    cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
