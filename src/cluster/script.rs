//! Lua that Redis runs as one step.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs};

/// A script and its name in Redis's cache.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) source: String,
    hash: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let source = parts.concat();
        let hash = redis::Script::new(&source).get_hash().to_owned();
        Self { source, hash }
    }

    /// The command that runs it. The first key says where.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        command
    }

    /// The same with arguments behind the keys.
    pub(super) fn with(&self, keys: &[&str], arguments: &[&dyn Argument]) -> Cmd {
        let mut command = self.call(keys);
        for argument in arguments {
            argument.add(&mut command);
        }
        command
    }
}

/// A call of a script with its source instead of its name.
pub(super) fn in_full(call: &Cmd) -> Cmd {
    let mut command = redis::cmd("EVAL");
    for (n, argument) in call.args_iter().enumerate() {
        let redis::Arg::Simple(argument) = argument else { continue };
        match n {
            0 => {}
            1 => {
                let script = all().into_iter().find(|script| script.hash.as_bytes() == argument);
                command.arg(script.map_or(argument, |script| script.source.as_bytes()));
            }
            _ => drop(command.arg(argument)),
        }
    }
    command
}

/// Something that can be an argument.
pub(super) trait Argument: Sync {
    fn add(&self, command: &mut Cmd);
}

impl<T: ToRedisArgs + Sync> Argument for T {
    fn add(&self, command: &mut Cmd) {
        command.arg(self);
    }
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal)*;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(&[$(include_str!(concat!("scripts/", $file, ".lua"))),*]));)*

        /// All of them, to be loaded when a connection is made.
        pub(super) fn all() -> Vec<&'static Script> {
            vec![$(&*$name),*]
        }
    };
}

scripts! {
    /// Shows that an instance lives, and sees who else does.
    BEAT = "beat";
    /// Takes over the cleaning up after a dead instance.
    CLAIM = "claim";
    /// What is left to clean up, for whoever has the claim.
    REMAINS = "remains";
    /// Notes rooms and users as held by an instance.
    INDEX = "index";
    /// Puts members into a room.
    ENTER = "members" "enter";
    /// Takes members out of a room.
    EXIT = "members" "exit";
    /// Takes a dead instance's members out of a room, some at a time.
    REAP_ROOM = "members" "reap_room";
    /// A user has one more connection.
    SIGN_IN = "sign_in";
    /// A user has one connection less.
    SIGN_OUT = "sign_out";
    /// Takes a dead instance's connections from a user.
    REAP_USER = "reap_user";
    /// A page of a room's members.
    PAGE = "page";
    /// Keeps a message and publishes it.
    APPEND = "history" "append";
    /// Reads what a room kept.
    READ = "history" "read";
    /// Publishes a message that nothing keeps, if its key is new.
    ONCE = "once";
    /// Writes a document of a room.
    RECORD = "record";
    /// Takes from a bucket of tokens.
    TAKE = "take";
    /// Whose turn a job is.
    TURN = "turn";
    /// Reads and writes a plugin's store.
    KEEP = "keep";
    /// Notes that a token was taken back.
    REVOKE = "revoke";
    /// What was taken back since.
    REVOKED = "revoked";
}
