//! What a room keeps: its messages, and where each member stands in them.

pub mod history;
pub mod keys;
pub mod records;

/// Where a message stands in its room's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which history: another epoch, another count.
    pub epoch: std::sync::Arc<str>,
    /// From 1, without a hole; 0: before the first.
    pub offset: u64,
}
