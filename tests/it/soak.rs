//! Guests whose language collects its garbage: many calls of one guest, and the
//! memory that it has then.

use std::{path::Path, sync::Arc};

use wayleave::{
    config::Config,
    metrics::Metrics,
    plugin::{Caller, Lookup, MemoryStore, MessageView, PluginHost, Unavailable, Verdict},
    protocol::{MemberInfo, Payload},
};

/// Calls until a guest has the memory that it needs, and after that.
const WARM_UP: u32 = 50_000;
const CALLS: u32 = 200_000;

/// What the process may grow by meanwhile, in KiB.
const GROWTH_MAX: u64 = 4 << 10;

#[derive(Debug)]
struct Nobody;

impl Lookup for Nobody {
    fn count(&self, _room: &str) -> Result<(usize, usize), Unavailable> {
        Ok((0, 0))
    }
    fn members(&self, _room: &str, _limit: usize) -> Result<Vec<MemberInfo>, Unavailable> {
        Ok(Vec::new())
    }
    fn connections(&self, _user: &str) -> Result<Vec<String>, Unavailable> {
        Ok(Vec::new())
    }
}

/// KiB of memory that this process has now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Go collects in the middle of calls, also while the gateway asks it for memory,
/// and reads a clock for it: where that clock was the host's, such a guest died
/// after some thousand calls.
#[test]
#[ignore = "wants plugins/go/moderation built, and takes some seconds; alone, since it looks at the process"]
fn a_guest_in_go_keeps_its_memory() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // One guest for all calls, and nothing of the machine's other work in it.
    let text = "[[plugins]]\nname = \"moderation\"\npath = \"plugins/go/moderation\"\ngrants = [\"log\"]\n\
                memory = \"32MiB\"\nrecycle_after = 1000000000\ntimeout = \"10s\"\nlog_rate = 0\n\
                [plugins.settings]\nwords = [\"darn\"]";
    let config = Config::parse(text, root, &Default::default()).unwrap();
    let host = PluginHost::open(None, Arc::new(MemoryStore::default()), Arc::new(Nobody), Metrics::new()).unwrap();
    let plugin = host.load(&config.plugins, &[]).unwrap().remove(0);
    let caller = Caller { connection: "00112233445566778899aabbccddeeff", user: "ada", info: "" };
    let payload = Payload::Text(format!("{{\"text\":\"oh darn {}\"}}", "and more words ".repeat(12)));
    let ask = || {
        let message = MessageView { id: "0123456789abcdef-1f", room: "chat:lobby", payload: &payload };
        assert!(matches!(plugin.transform(caller, message), Ok(Verdict::Replace(_))));
    };
    (0..WARM_UP).for_each(|_| ask());
    let before = resident();
    (0..CALLS).for_each(|_| ask());
    let after = resident();
    println!("{CALLS} calls: {before} KiB before, {after} KiB after, {} failures", plugin.failures());
    assert!(after < before + GROWTH_MAX, "it grew from {before} to {after} KiB");
    assert_eq!(plugin.failures(), 0);
}
