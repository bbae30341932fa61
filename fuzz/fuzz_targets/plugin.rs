//! A hostile plugin file: bytes that were a good component before they were
//! changed. It is refused or it loads; no panic may get out, and nothing may
//! hang. (The libraries that read components do panic on some bytes; the host
//! takes that for a bad file.)

#![no_main]

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use wayleave::{
    config::Config,
    hub::Hub,
    metrics::Metrics,
    plugin::{MemoryStore, PluginHost},
    router::HubLookup,
};

struct Bench {
    host: PluginHost,
    folder: tempfile::TempDir,
    good: Vec<Vec<u8>>,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    // libFuzzer's own hook ends the process at a panic, also at one that the
    // host would have caught. One that gets out ends it all the same.
    std::panic::set_hook(Box::new(|_| {}));
    let lookup = Arc::new(HubLookup(Arc::new(Hub::new())));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/fixtures");
    let mut good: Vec<_> = std::fs::read_dir(fixtures)
        .expect("the fixtures are there")
        .filter_map(|entry| wat::parse_file(entry.ok()?.path()).ok())
        .collect();
    good.sort();
    Bench {
        host: PluginHost::open(None, Arc::new(MemoryStore::default()), lookup, Metrics::new()).expect("wasm runs here"),
        folder: tempfile::tempdir().expect("a folder"),
        good,
    }
});

fuzz_target!(|input: (u8, Vec<(u16, u8)>, Option<u16>, &[u8])| {
    let (which, changes, cut, raw) = input;
    let bytes = if raw.len() > 8 {
        raw.to_vec()
    } else {
        let mut bytes = BENCH.good[usize::from(which) % BENCH.good.len()].clone();
        for (at, value) in changes {
            let n = bytes.len();
            bytes[usize::from(at) % n] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::from(cut) % bytes.len());
        }
        bytes
    };
    let path = BENCH.folder.path().join("p.wasm");
    std::fs::write(&path, bytes).expect("the file is written");
    let text = "[[plugins]]\nname = \"p\"\npath = \"p.wasm\"\ngrants = [\"log\", \"kv\", \"lookup\"]\ninit_timeout = \"20ms\"\n";
    let config = Config::parse(text, BENCH.folder.path(), &Default::default()).expect("the config is good");
    let _either = BENCH.host.load(&config.plugins, &[]);
});
