//! Who is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::dialect::{Dialect, Users};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The bare `write`, and the least that a relay over Redis must do.
    Write,
    Raw,
    Axum,
    Wayleave,
    Centrifugo,
    Nats,
    SocketIo,
    Socketioxide,
}

/// What tells contestants of one kind apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    Nothing,
    Protobuf,
    /// A plugin with three hooks, or the server's own way of asking others.
    Hooks,
    Adapter(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contestant {
    pub(crate) id: &'static str,
    pub(crate) kind: Kind,
    pub(crate) with: With,
}

const fn new(id: &'static str, kind: Kind, with: With) -> Contestant {
    Contestant { id, kind, with }
}

pub(crate) const ALL: [Contestant; 15] = [
    new("write", Kind::Write, With::Nothing),
    new("raw", Kind::Raw, With::Nothing),
    new("axum", Kind::Axum, With::Nothing),
    new("wayleave", Kind::Wayleave, With::Nothing),
    new("wayleave-protobuf", Kind::Wayleave, With::Protobuf),
    new("wayleave-plugin", Kind::Wayleave, With::Hooks),
    new("centrifugo", Kind::Centrifugo, With::Nothing),
    new("centrifugo-protobuf", Kind::Centrifugo, With::Protobuf),
    new("centrifugo-hook", Kind::Centrifugo, With::Hooks),
    new("nats", Kind::Nats, With::Nothing),
    new("socketio", Kind::SocketIo, With::Adapter("none")),
    new("socketio-redis", Kind::SocketIo, With::Adapter("classic")),
    new("socketio-sharded", Kind::SocketIo, With::Adapter("sharded")),
    new("socketio-streams", Kind::SocketIo, With::Adapter("streams")),
    new("socketioxide", Kind::Socketioxide, With::Nothing),
];

impl Contestant {
    pub(crate) fn dialect(&self) -> Dialect {
        match (self.kind, self.with) {
            (Kind::Wayleave | Kind::Centrifugo, With::Protobuf) => Dialect::Protobuf,
            (Kind::Wayleave | Kind::Centrifugo, _) => Dialect::Json,
            (Kind::SocketIo | Kind::Socketioxide, _) => Dialect::SocketIo,
            (Kind::Nats, _) => Dialect::Nats,
            (Kind::Write | Kind::Raw | Kind::Axum, _) => Dialect::Raw,
        }
    }

    pub(crate) fn users(&self) -> Users {
        self.dialect().users(self.kind == Kind::Wayleave)
    }

    /// Needs a Redis to be many; NATS has links of its own.
    pub(crate) fn shares_redis(&self) -> bool {
        self.kind != Kind::Nats
    }

    /// Can be one of several instances, or one alone.
    pub(crate) fn can_be(&self, many: bool) -> bool {
        match self.kind {
            Kind::Raw | Kind::Axum => !many,
            Kind::SocketIo => (self.with == With::Adapter("none")) != many,
            _ => true,
        }
    }

    /// The program that is measured, as `make bench-peers` brings it.
    pub(crate) fn program(&self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        match self.kind {
            Kind::Wayleave => env!("CARGO_BIN_EXE_wayleave").into(),
            Kind::Write | Kind::Raw | Kind::Axum | Kind::Socketioxide => root.join("target/peers/release/peers"),
            Kind::Centrifugo => root.join("target/peers/bin/centrifugo"),
            Kind::Nats => root.join("target/peers/bin/nats-server"),
            // Of a version that its packages' list names, and not the machine's.
            Kind::SocketIo => socketio().join("node_modules/.bin/node"),
        }
    }

    /// Why it cannot be measured, if so.
    pub(crate) fn missing(&self) -> Option<String> {
        let program = self.program();
        let is_there = Command::new(&program).arg("--version").output().is_ok();
        (!is_there).then(|| format!("there is no `{}`", program.file_name().unwrap_or_default().display()))
    }
}

pub(crate) fn socketio() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/socketio")
}
