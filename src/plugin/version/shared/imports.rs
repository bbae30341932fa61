//! The host interfaces of one version: its types over what [`HostState`] does.

use tracing::Level;

use super::bindings::wayleave::plugin as wit;
use crate::{
    plugin::{
        Unavailable,
        host::{self, HostState, MEMBERS_MAX, lifetime},
        kv::NotStored,
    },
    protocol::Payload,
};

impl wit::types::Host for HostState {}

impl wit::log::Host for HostState {
    fn log(&mut self, level: wit::log::Level, message: String) -> wasmtime::Result<()> {
        self.count()?;
        let level = match level {
            wit::log::Level::Debug => Level::DEBUG,
            wit::log::Level::Info => Level::INFO,
            wit::log::Level::Warn => Level::WARN,
            wit::log::Level::Error => Level::ERROR,
        };
        self.write_log(level, &message);
        Ok(())
    }
}

impl wit::kv::Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<wit::kv::Found> {
        self.count()?;
        Ok(match self.store.get(&self.plugin, &key) {
            Ok(Some(value)) => wit::kv::Found::Value(value.into()),
            Ok(None) => wit::kv::Found::Missing,
            Err(Unavailable) => wit::kv::Found::Unavailable,
        })
    }

    fn set(&mut self, key: String, value: wit::types::PayloadResult, ttl: u64) -> wasmtime::Result<wit::kv::Stored> {
        self.count()?;
        Ok(match self.store.set(&self.plugin, &key, Payload::from(value), lifetime(ttl), self.kv_quota) {
            Ok(()) => wit::kv::Stored::Ok,
            Err(NotStored::Quota) => wit::kv::Stored::Quota,
            Err(NotStored::TooLarge) => wit::kv::Stored::TooLarge,
            // Nothing here is a number: a store that says so is not right.
            Err(NotStored::NotANumber | NotStored::Unavailable) => wit::kv::Stored::Unavailable,
        })
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<wit::kv::Deleted> {
        self.count()?;
        Ok(match self.store.delete(&self.plugin, &key) {
            Ok(true) => wit::kv::Deleted::Ok,
            Ok(false) => wit::kv::Deleted::Missing,
            Err(Unavailable) => wit::kv::Deleted::Unavailable,
        })
    }

    fn increment(&mut self, key: String, by: i64, ttl: u64) -> wasmtime::Result<wit::kv::Counter> {
        self.count()?;
        Ok(match self.store.increment(&self.plugin, &key, by, lifetime(ttl), self.kv_quota) {
            Ok(value) => wit::kv::Counter::Value(value),
            Err(NotStored::NotANumber) => wit::kv::Counter::NotANumber,
            Err(NotStored::Quota) => wit::kv::Counter::Quota,
            Err(NotStored::TooLarge) => wit::kv::Counter::TooLarge,
            Err(NotStored::Unavailable) => wit::kv::Counter::Unavailable,
        })
    }
}

impl wit::lookup::Host for HostState {
    fn count(&mut self, room: String) -> wasmtime::Result<wit::lookup::Tally> {
        HostState::count(self)?;
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(match self.lookup.count(&room) {
            Ok((connections, users)) => wit::lookup::Tally::Counts(wit::lookup::Counts {
                connections: number(connections),
                users: number(users),
            }),
            Err(Unavailable) => wit::lookup::Tally::Unavailable,
        })
    }

    fn members(&mut self, room: String, limit: u32) -> wasmtime::Result<wit::lookup::Roster> {
        HostState::count(self)?;
        let member = |member: crate::protocol::MemberInfo| wit::lookup::Member {
            connection: member.connection,
            user: member.user.to_string(),
            info: member.info.to_string(),
        };
        Ok(match self.lookup.members(&room, MEMBERS_MAX.min(limit as usize)) {
            Ok(members) => wit::lookup::Roster::Members(members.into_iter().map(member).collect()),
            Err(Unavailable) => wit::lookup::Roster::Unavailable,
        })
    }

    fn connections(&mut self, user: String) -> wasmtime::Result<wit::lookup::Devices> {
        HostState::count(self)?;
        Ok(match self.lookup.connections(&user) {
            Ok(connections) => wit::lookup::Devices::Connections(connections),
            Err(Unavailable) => wit::lookup::Devices::Unavailable,
        })
    }
}

impl wit::clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(HostState::now(self))
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(HostState::monotonic(self))
    }
}

impl wit::random::Host for HostState {
    fn bytes(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        self.count()?;
        host::random_bytes(length)
    }

    fn number(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(u64::from_le_bytes(crate::id::random_bytes()))
    }
}
