//! Names of things: connections, messages, generations.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The name of a room. Shared, since indexes hold it many times.
pub type RoomName = Arc<str>;

/// The name of a user; empty for an anonymous one.
pub type UserId = Arc<str>;

/// Names one open socket among all instances, for as long as it is open.
///
/// It is random, so that nobody can guess the ids of others; written as 32
/// hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u128);

impl ConnectionId {
    /// A new one on an instance. Half of it says which, so that what is for
    /// one connection goes to one instance without asking anybody.
    #[must_use]
    pub fn random(instance: BootId) -> Self {
        let random = u64::from_le_bytes(random_bytes());
        Self(u128::from(instance.0) << 64 | u128::from(random))
    }

    /// The instance that it is on.
    #[must_use]
    pub fn instance(self) -> BootId {
        BootId((self.0 >> 64) as u64)
    }

    /// Reads back what `to_string` wrote; None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// Spreads connections evenly over `n` shards.
    #[must_use]
    pub fn shard(self, n: usize) -> usize {
        (self.0 % n.max(1) as u128) as usize
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names one run of one instance: a random number, 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct BootId(pub u64);

impl BootId {
    /// The origin of what is no instance's own: each one delivers it.
    pub const NOBODY: Self = Self(0);

    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(u64::from_le_bytes(random_bytes()))
    }

    /// Reads back what `to_string` wrote; None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An instance as the others know it. One that was taken for dead and comes
/// back is the same run with the next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The run.
    pub boot: BootId,
    /// From 1.
    pub generation: u32,
}

impl InstanceId {
    /// Reads back what `to_string` wrote; None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (boot, generation) = text.split_once('.')?;
        let boot = (boot.len() == 16).then(|| u64::from_str_radix(boot, 16).ok()).flatten()?;
        Some(Self { boot: BootId(boot), generation: generation.parse().ok()? })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boot, self.generation)
    }
}

/// Counts the replacements of something: plugins, the pipeline.
pub type Generation = u64;

/// Gives messages their ids: this process's random number, then a count.
#[derive(Debug)]
pub struct MessageIds {
    process: u64,
    next: AtomicU64,
}

impl MessageIds {
    /// Starts a new series.
    #[must_use]
    pub fn new() -> Self {
        Self { process: u64::from_le_bytes(random_bytes()), next: AtomicU64::new(1) }
    }

    /// The next id, unique among all instances.
    pub fn next(&self) -> MessageId {
        MessageId { process: self.process, n: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Default for MessageIds {
    fn default() -> Self {
        Self::new()
    }
}

/// Names one message among all instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    process: u64,
    n: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.process, self.n)
    }
}

/// Fresh randomness from the operating system.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Linux answers this once it has booted; without it nothing here is safe.
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
