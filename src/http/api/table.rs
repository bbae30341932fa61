//! Every method of the server API, in one table.

/// A method.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// As it stands in the path.
    pub(crate) name: &'static str,
    /// It changes something or reaches clients, so who called it is logged.
    pub(crate) writes: bool,
    /// What a key that is limited to rooms is asked about.
    pub(crate) about: About,
}

/// Where in its parameters the rooms are that a method has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// In `channel`.
    Room,
    /// In `channel`; whom it concerns in `user`, `client` or `to`.
    RoomOf,
    /// In `channels`.
    Rooms,
    /// In `to`.
    Targets,
    /// It lists rooms, and leaves others out.
    List,
    /// It carries other methods, each of which is asked about.
    Others,
    /// None: it is about the instance, connections or users.
    Instance,
}

const fn read(name: &'static str, about: About) -> Method {
    Method { name, writes: false, about }
}

const fn write(name: &'static str, about: About) -> Method {
    Method { name, writes: true, about }
}

/// All of them, in the order of the documents.
pub(crate) const METHODS: &[Method] = &[
    write("publish", About::Room),
    write("broadcast", About::Rooms),
    write("subscribe", About::RoomOf),
    write("unsubscribe", About::RoomOf),
    write("disconnect", About::Instance),
    write("refresh", About::Instance),
    read("presence", About::Room),
    read("presence_stats", About::Room),
    read("history", About::Room),
    write("history_remove", About::Room),
    read("channels", About::List),
    read("info", About::Instance),
    write("rpc", About::Instance),
    read("batch", About::Others),
    write("send", About::Targets),
    write("requests", About::Targets),
    read("connections", About::Instance),
    read("members", About::Room),
    read("records", About::Room),
    write("record", About::Room),
    read("users", About::Instance),
    read("instances", About::Instance),
    read("plugins", About::Instance),
    write("revoke_token", About::Instance),
    write("invalidate_user_tokens", About::Instance),
    write("reload", About::Instance),
    write("rollback", About::Instance),
    write("drain", About::Instance),
    // It changes nothing, but shows what others say.
    write("tail", About::Room),
];

impl Method {
    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.name == name)
    }
}
