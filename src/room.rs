//! What a room keeps: its messages, and where each member stands in them.

pub mod history;
