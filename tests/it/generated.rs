//! Plugins made by chance: valid WebAssembly of which nothing else is known, and
//! modules with our interfaces whose bodies do anything at all. Each loads or is
//! refused, each call answers or fails; nothing panics and nothing hangs.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arbitrary::Unstructured;
use wasm_smith::{Component, Config as Smith, Module};
use wayleave::{
    config::Config,
    hub::Hub,
    metrics::Metrics,
    plugin::{
        Caller, EventView, Failure, HelloView, Hook, JoinView, MemoryStore, MessageView, MomentView, Plugin, PluginHost,
    },
    protocol::Payload,
    router::HubLookup,
};
use wit_component::{StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve, WorldId};

use crate::faults::Random;

/// Every hook of its own, and what any of them may ask for.
const HOOKS: [(Hook, &str); 8] = [
    (Hook::Authenticate, "authenticate"),
    (Hook::Authorize, "authorize"),
    (Hook::AuthorizePublish, "authorize-publish"),
    (Hook::Transform, "transform"),
    (Hook::Route, "route"),
    (Hook::Observe, "observe"),
    (Hook::Tick, "tick"),
    (Hook::Call, "call"),
];
const IMPORTS: [&str; 6] = ["clock", "kv", "log", "lookup", "metrics", "random"];

/// What a load or a call may take, other tests beside it: far above every limit
/// of [`config`].
const AT_MOST: Duration = Duration::from_secs(20);

fn config(folder: &Path, name: &str, has_tick: bool) -> Config {
    let tick = if has_tick { "tick = \"1h\"" } else { "" };
    let grants = IMPORTS.map(|name| format!("{name:?}")).join(", ");
    let text = format!(
        "[[plugins]]\nname = \"p\"\npath = {name:?}\ngrants = [{grants}]\ntimeout = \"20ms\"\ninit_timeout = \"20ms\"\n\
         memory = \"4MiB\"\nbreaker = false\n{tick}\n"
    );
    Config::parse(&text, folder, &BTreeMap::new()).unwrap()
}

struct Bench {
    host: PluginHost,
    folder: tempfile::TempDir,
    loaded: usize,
    refused: BTreeMap<String, usize>,
}

impl Bench {
    fn new() -> Self {
        let lookup = Arc::new(HubLookup(Arc::new(Hub::new())));
        let host = PluginHost::open(None, Arc::new(MemoryStore::default()), lookup, Metrics::new()).unwrap();
        Self { host, folder: tempfile::tempdir().unwrap(), loaded: 0, refused: BTreeMap::new() }
    }

    fn load(&mut self, bytes: &[u8], has_tick: bool) -> Option<Arc<Plugin>> {
        std::fs::write(self.folder.path().join("p.wasm"), bytes).unwrap();
        let config = config(self.folder.path(), "p.wasm", has_tick);
        let started = Instant::now();
        let loaded = self.host.load(&config.plugins, &[]);
        assert!(started.elapsed() < AT_MOST, "{:?} for a load", started.elapsed());
        match loaded {
            Ok(mut plugins) => {
                self.loaded += 1;
                plugins.pop()
            }
            Err(errors) => {
                let reason = &errors[0].reason;
                assert!(!reason.is_empty());
                // The rest has numbers and names.
                let kind = reason.split(['(', '`']).next().unwrap_or_default().chars().take(80).collect::<String>();
                *self.refused.entry(kind).or_default() += 1;
                None
            }
        }
    }
}

/// So many bytes by chance.
fn chance(random: &mut Random, n: usize) -> Vec<u8> {
    (0..n).map(|_| u8::try_from(random.next(256)).unwrap()).collect()
}

/// What the host's engine knows.
fn smith() -> Smith {
    Smith {
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        threads_enabled: false,
        max_memories: 1,
        ..Smith::default()
    }
}

/// A world, and a module with nothing in it that is of it.
struct Shape {
    resolve: Resolve,
    world: WorldId,
    module: Vec<u8>,
}

/// With these hooks, and all imports that there are.
fn shape(hooks: &[&str], has_lifecycle: bool) -> Shape {
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit/1.0.0");
    resolve.push_path(wit).unwrap();
    let import = IMPORTS.map(|name| format!("import wayleave:plugin/{name}@1.0.0;")).join("\n");
    let lifecycle = has_lifecycle.then_some("lifecycle");
    let exports = hooks.iter().copied().chain(lifecycle).map(|name| format!("export wayleave:plugin/{name}@1.0.0;"));
    let world = format!("package test:generated;\nworld w {{\n{import}\n{}\n}}", exports.collect::<String>());
    let package = resolve.push_str("world.wit", &world).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    // It has a memory of no pages, in which nothing could be handed over.
    const NONE: [u8; 5] = [5, 3, 1, 0, 0];
    let at = module.windows(NONE.len()).position(|bytes| bytes == NONE).expect("a section of one memory");
    module[at + 4] = 16;
    Shape { resolve, world, module }
}

fn call(plugin: &Plugin, hook: Hook) -> Result<(), Failure> {
    let payload = Payload::Text(r#"{"text":"hello"}"#.into());
    let caller = Caller { connection: "c", user: "ada", info: "{}" };
    let message = MessageView { id: "m", room: "chat:1", payload: &payload };
    match hook {
        Hook::Authenticate => {
            let hello = HelloView { connection: "c", token: "t", data: None, name: "js", version: "1" };
            plugin.authenticate(hello).map(drop)
        }
        Hook::Authorize => plugin.join(caller, JoinView { room: "chat:1", token: "", data: None }).map(drop),
        Hook::AuthorizePublish => plugin.publish(caller, message).map(drop),
        Hook::Transform => plugin.transform(caller, message).map(drop),
        Hook::Route => plugin.route(caller, message).map(drop),
        Hook::Observe => plugin.observe(caller, EventView { kind: "joined", room: "chat:1" }).map(drop),
        Hook::Tick => plugin.tick(MomentView { now: 0, period: Duration::from_secs(1) }).map(drop),
        Hook::Call => plugin.answer(caller, "method", &payload).map(drop),
    }
}

#[test]
fn modules_of_our_interfaces_with_bodies_by_chance_do_no_harm() {
    let mut bench = Bench::new();
    let mut random = Random(0x5EED);
    let (mut answered, mut failed) = (0, BTreeMap::<String, usize>::new());
    for n in 0..150 {
        // One hook or two, and now and then all.
        let which: Vec<_> = match n % 8 {
            7 => HOOKS.to_vec(),
            _ => vec![HOOKS[n % HOOKS.len()], HOOKS[(n / HOOKS.len() + 1) % HOOKS.len()]],
        };
        let mut names: Vec<_> = which.iter().map(|(_, name)| *name).collect();
        names.sort_unstable();
        names.dedup();
        let Shape { resolve, world, module } = shape(&names, n % 5 == 0);
        let smith = Smith { available_imports: Some(module.clone()), exports: Some(module), ..smith() };
        let bytes = chance(&mut random, 4_000);
        let mut module = Module::new(smith, &mut Unstructured::new(&bytes)).expect("4,000 bytes make a module");
        // Half of them end by themselves; the others are for the host to end.
        if n % 2 == 0 {
            module.ensure_termination(1_000).expect("it has no fuel of its own");
        }
        let mut bytes = module.to_bytes();
        // As every compiler for our interfaces does.
        embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).unwrap();
        let Some(plugin) = bench.load(&bytes, names.contains(&"tick")) else { continue };
        for hook in plugin.hooks() {
            for _ in 0..3 {
                let started = Instant::now();
                match call(&plugin, *hook) {
                    Ok(()) => answered += 1,
                    Err(failure) => *failed.entry(format!("{:?}", failure.kind)).or_default() += 1,
                }
                assert!(started.elapsed() < AT_MOST, "{:?} for a call of {hook:?}", started.elapsed());
            }
        }
    }
    println!("{} loaded, refused {:?}; {answered} answers, failures {failed:?}", bench.loaded, bench.refused);
    assert!(bench.loaded > 20, "too few to say anything: {:?}", bench.refused);
    // By chance hardly one answers what could be read.
    assert!(failed.len() > 1, "{answered} answers, failures {failed:?}");
}

#[test]
fn components_by_chance_are_refused_with_a_reason() {
    let mut bench = Bench::new();
    let mut random = Random(0xC0FFEE);
    for _ in 0..300 {
        let bytes = chance(&mut random, 2_000);
        let Ok(component) = Component::new(smith(), &mut Unstructured::new(&bytes)) else { continue };
        bench.load(&component.to_bytes(), false);
    }
    println!("{} loaded, refused {:?}", bench.loaded, bench.refused);
    assert_eq!(bench.loaded, 0, "one has a hook by chance?");
    assert!(bench.refused.values().sum::<usize>() > 100, "too few to say anything: {:?}", bench.refused);
}
