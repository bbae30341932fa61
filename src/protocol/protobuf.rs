//! The Centrifuge protocol, version 2, as Protobuf.
//!
//! The same commands, replies and pushes as in [`super::centrifuge`], each
//! behind its length as a varint; many may share a frame. Field numbers are
//! those of the protocol's published schema; fields of it that are not here are
//! passed over.

use std::{borrow::Cow, collections::HashMap};

use bytes::Bytes;
use prost::Message as _;

use super::{
    Command, Form, Hello, Incoming, JoinedRoom, MemberInfo, NotTheProtocol, PastPublication, Payload, PayloadRef,
    Publication, Push, Refusal, Request, Rule, Said, Seen, Tag, VERSION, Welcome, Wishes, centrifuge::FOSSIL,
};

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommand {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "4")]
    connect: Option<WireConnect>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<WireSubscribe>,
    #[prost(message, optional, tag = "6")]
    unsubscribe: Option<WireChannel>,
    #[prost(message, optional, tag = "7")]
    publish: Option<WirePublish>,
    #[prost(message, optional, tag = "8")]
    presence: Option<WireChannel>,
    #[prost(message, optional, tag = "9")]
    presence_stats: Option<WireChannel>,
    #[prost(message, optional, tag = "10")]
    history: Option<WireHistory>,
    #[prost(message, optional, tag = "11")]
    ping: Option<Nothing>,
    #[prost(message, optional, tag = "12")]
    send: Option<WireData>,
    #[prost(message, optional, tag = "13")]
    rpc: Option<WireRpc>,
    #[prost(message, optional, tag = "14")]
    refresh: Option<WireRefresh>,
    #[prost(message, optional, tag = "15")]
    sub_refresh: Option<WireSubRefresh>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRefresh {
    #[prost(string, tag = "1")]
    token: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubRefresh {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    token: String,
}

/// A message whose fields do not matter, or that has none.
#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct WireConnect {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(map = "string, message", tag = "3")]
    subs: HashMap<String, WireSubscribe>,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSubscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
    #[prost(bytes = "vec", tag = "8")]
    data: Vec<u8>,
    #[prost(bool, tag = "11")]
    join_leave: bool,
    #[prost(string, tag = "12")]
    delta: String,
    #[prost(message, optional, tag = "13")]
    tf: Option<WireFilter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireFilter {
    #[prost(string, tag = "1")]
    op: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    cmp: String,
    #[prost(string, tag = "4")]
    val: String,
    #[prost(string, repeated, tag = "5")]
    vals: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    nodes: Vec<WireFilter>,
}

impl From<WireFilter> for Rule {
    fn from(wire: WireFilter) -> Self {
        let WireFilter { op, key, cmp, val, vals, nodes } = wire;
        Self { op, key, cmp, val, vals, nodes: nodes.into_iter().map(Into::into).collect() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireChannel {
    #[prost(string, tag = "1")]
    channel: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePublish {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHistory {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(int32, tag = "7")]
    limit: i32,
    #[prost(message, optional, tag = "8")]
    since: Option<WirePosition>,
    #[prost(bool, tag = "9")]
    reverse: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePosition {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(string, tag = "2")]
    epoch: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRpc {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(string, tag = "2")]
    method: String,
}

/// A message that is nothing but a body.
#[derive(Clone, PartialEq, prost::Message)]
struct WireData {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

/// A reply or a push, as it goes out.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<WireError>,
    #[prost(message, optional, tag = "4")]
    push: Option<WirePush>,
    #[prost(message, optional, tag = "5")]
    connect: Option<WireConnected>,
    #[prost(message, optional, tag = "6")]
    subscribe: Option<WireJoined>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<Nothing>,
    #[prost(message, optional, tag = "8")]
    publish: Option<Nothing>,
    #[prost(message, optional, tag = "9")]
    presence: Option<WirePresence>,
    #[prost(message, optional, tag = "10")]
    presence_stats: Option<WireStats>,
    #[prost(message, optional, tag = "11")]
    history: Option<WirePast>,
    #[prost(message, optional, tag = "12")]
    ping: Option<Nothing>,
    #[prost(message, optional, tag = "13")]
    rpc: Option<WireData>,
    #[prost(message, optional, tag = "14")]
    refresh: Option<WireRefreshed>,
    #[prost(message, optional, tag = "15")]
    sub_refresh: Option<WireExpiry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRefreshed {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bool, tag = "3")]
    expires: bool,
    #[prost(uint32, tag = "4")]
    ttl: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireExpiry {
    #[prost(bool, tag = "1")]
    expires: bool,
    #[prost(uint32, tag = "2")]
    ttl: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireError {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bool, tag = "3")]
    temporary: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePush {
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(message, optional, tag = "4")]
    publication: Option<WirePublication>,
    #[prost(message, optional, tag = "5")]
    join: Option<WireWho>,
    #[prost(message, optional, tag = "6")]
    leave: Option<WireWho>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<WireLeft>,
    #[prost(message, optional, tag = "8")]
    message: Option<WireData>,
    #[prost(message, optional, tag = "9")]
    subscribe: Option<WirePlaced>,
    #[prost(message, optional, tag = "11")]
    disconnect: Option<WireEnded>,
    #[prost(message, optional, tag = "12")]
    refresh: Option<WireExpiry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireInfo {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    client: String,
    #[prost(bytes = "vec", tag = "3")]
    conn_info: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    chan_info: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePublication {
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    info: Option<WireInfo>,
    #[prost(uint64, tag = "6")]
    offset: u64,
    #[prost(map = "string, string", tag = "7")]
    tags: HashMap<String, String>,
    #[prost(bool, tag = "8")]
    delta: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireWho {
    #[prost(message, optional, tag = "1")]
    info: Option<WireInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireLeft {
    #[prost(uint32, tag = "2")]
    code: u32,
    #[prost(string, tag = "3")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePlaced {
    #[prost(bool, tag = "1")]
    recoverable: bool,
    #[prost(string, tag = "4")]
    epoch: String,
    #[prost(uint64, tag = "5")]
    offset: u64,
    #[prost(bool, tag = "6")]
    positioned: bool,
    #[prost(bytes = "vec", tag = "7")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireEnded {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireConnected {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bool, tag = "3")]
    expires: bool,
    #[prost(uint32, tag = "4")]
    ttl: u32,
    #[prost(map = "string, message", tag = "6")]
    subs: HashMap<String, WireJoined>,
    #[prost(uint32, tag = "7")]
    ping: u32,
    #[prost(bool, tag = "8")]
    pong: bool,
    #[prost(string, tag = "9")]
    session: String,
    #[prost(string, tag = "10")]
    node: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireJoined {
    #[prost(bool, tag = "1")]
    expires: bool,
    #[prost(uint32, tag = "2")]
    ttl: u32,
    #[prost(bool, tag = "3")]
    recoverable: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(message, repeated, tag = "7")]
    publications: Vec<WirePublication>,
    #[prost(bool, tag = "8")]
    recovered: bool,
    #[prost(uint64, tag = "9")]
    offset: u64,
    #[prost(bool, tag = "10")]
    positioned: bool,
    #[prost(bytes = "vec", tag = "11")]
    data: Vec<u8>,
    #[prost(bool, tag = "12")]
    was_recovering: bool,
    #[prost(bool, tag = "13")]
    delta: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePresence {
    #[prost(map = "string, message", tag = "1")]
    presence: HashMap<String, WireInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireStats {
    #[prost(uint32, tag = "1")]
    num_clients: u32,
    #[prost(uint32, tag = "2")]
    num_users: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePast {
    #[prost(message, repeated, tag = "1")]
    publications: Vec<WirePublication>,
    #[prost(string, tag = "2")]
    epoch: String,
    #[prost(uint64, tag = "3")]
    offset: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSaid {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    session: String,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

impl Said {
    /// From the body of a request.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_protobuf(bytes: Bytes) -> Result<Self, NotTheProtocol> {
        let wire = WireSaid::decode(bytes).map_err(|error| NotTheProtocol(error.to_string().into()))?;
        let WireSaid { node, session, data } = wire;
        Ok(Self { node, session, message: Incoming::Binary(data) })
    }
}

/// The commands in a frame, in order, read as they are asked for; what follows
/// one that cannot be read is lost. A frame without any command is not the
/// protocol.
pub(super) fn decode(bytes: &[u8]) -> Commands<'_> {
    Commands { left: bytes, wrong: bytes.is_empty().then_some("an empty frame") }
}

/// Commands that are still to be read.
pub(super) struct Commands<'a> {
    left: &'a [u8],
    wrong: Option<&'static str>,
}

impl Commands<'_> {
    /// No commands, but this mistake.
    pub(super) fn wrong(reason: &'static str) -> Self {
        Self { left: &[], wrong: Some(reason) }
    }
}

impl Iterator for Commands<'_> {
    type Item = Result<Request<'static>, NotTheProtocol>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(reason) = self.wrong.take() {
            return Some(Err(NotTheProtocol(reason.into())));
        }
        if self.left.is_empty() {
            return None;
        }
        let read = WireCommand::decode_length_delimited(&mut self.left)
            .map_err(|error| NotTheProtocol(error.to_string().into()))
            .and_then(request);
        if read.is_err() {
            self.left = &[];
        }
        Some(read)
    }
}

/// A body that may be missing: on this wire that is one without bytes.
fn body(data: Vec<u8>) -> Option<Payload> {
    (!data.is_empty()).then(|| Payload::from_bytes(data))
}

fn request(wire: WireCommand) -> Result<Request<'static>, NotTheProtocol> {
    let id = wire.id;
    let command = if let Some(connect) = wire.connect {
        let WireConnect { token, data, subs, name, version } = connect;
        let seen = subs.into_iter().filter_map(|(room, sub)| Some((room.into(), sub.seen()?))).collect();
        let (token, name, version) = (token.into(), name.into(), version.into());
        Command::Connect(Box::new(Hello { token, data: body(data), name, version, seen }))
    } else if let Some(mut subscribe) = wire.subscribe {
        let (room, token) = (std::mem::take(&mut subscribe.channel), std::mem::take(&mut subscribe.token));
        let data = body(std::mem::take(&mut subscribe.data));
        let filter = subscribe.tf.take().map(|filter| Box::new(filter.into()));
        let wishes = Wishes { join_leave: subscribe.join_leave, delta: subscribe.delta == FOSSIL, filter };
        Command::Join { room: room.into(), token: token.into(), data, recover: subscribe.seen(), wishes }
    } else if let Some(WireChannel { channel }) = wire.unsubscribe {
        Command::Leave { room: channel.into() }
    } else if let Some(WirePublish { channel, data }) = wire.publish {
        let payload = body(data).ok_or_else(|| NotTheProtocol("publish without data".into()))?;
        Command::Publish { room: channel.into(), payload }
    } else if let Some(WireChannel { channel }) = wire.presence {
        Command::Presence { room: channel.into() }
    } else if let Some(WireChannel { channel }) = wire.presence_stats {
        Command::PresenceStats { room: channel.into() }
    } else if let Some(WireHistory { channel, limit, since, reverse }) = wire.history {
        // A negative limit asks for all.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let since = since.map(|WirePosition { epoch, offset }| Seen { epoch: epoch.into(), offset });
        Command::History { room: channel.into(), limit, since, reverse }
    } else if let Some(WireRpc { data, method }) = wire.rpc {
        Command::Call { method: method.into(), data: body(data) }
    } else if let Some(WireData { data }) = wire.send {
        Command::Send { data: body(data) }
    } else if let Some(WireRefresh { token }) = wire.refresh {
        Command::Refresh { token: token.into() }
    } else if let Some(WireSubRefresh { channel, token }) = wire.sub_refresh {
        Command::SubRefresh { room: channel.into(), token: token.into() }
    } else if wire.ping.is_some() {
        Command::Ping
    } else if id == 0 {
        Command::Pong
    } else {
        Command::Unsupported
    };
    // Only `send` and the pong go without a reply, and so without an id.
    if id == 0 && !matches!(command, Command::Send { .. } | Command::Pong) {
        return Err(NotTheProtocol("a command without id".into()));
    }
    Ok(Request { id, command })
}

impl WireSubscribe {
    fn seen(self) -> Option<Seen<'static>> {
        self.recover.then_some(Seen { epoch: self.epoch.into(), offset: self.offset })
    }
}

impl Message {
    /// Appends it behind its length.
    pub(super) fn write(&self, buffer: &mut Vec<u8>) {
        // A vector grows.
        self.encode_length_delimited(buffer).expect("a vector takes any number of bytes");
    }
}

/// A refusal.
pub(super) fn refusal(id: u32, refusal: &Refusal) -> Message {
    let Refusal { code, reason, temporary } = refusal;
    let error = WireError { code: *code, message: reason.to_string(), temporary: *temporary };
    Message { id, error: Some(error), ..Message::default() }
}

/// A reply.
pub(super) fn reply(id: u32, reply: &super::Reply<'_>) -> Message {
    use super::Reply;
    let mut message = Message { id, ..Message::default() };
    match reply {
        Reply::Connected(welcome) => message.connect = Some(welcome.into()),
        Reply::Joined(joined) => message.subscribe = Some((*joined).into()),
        Reply::Left => message.unsubscribe = Some(Nothing {}),
        Reply::Published => message.publish = Some(Nothing {}),
        Reply::History { position, publications } => {
            message.history = Some(WirePast {
                publications: publications.iter().map(Into::into).collect(),
                epoch: position.epoch.to_string(),
                offset: position.offset,
            });
        }
        Reply::Presence(members) => {
            let presence = members.iter().map(|member| (member.connection.clone(), member.into())).collect();
            message.presence = Some(WirePresence { presence });
        }
        Reply::PresenceStats { connections, users } => {
            let (num_clients, num_users) = (count(*connections), count(*users));
            message.presence_stats = Some(WireStats { num_clients, num_users });
        }
        Reply::Called(payload) => message.rpc = Some(data(*payload)),
        Reply::Refreshed { connection, ttl } => {
            let (client, version) = ((*connection).to_owned(), VERSION.to_owned());
            let WireExpiry { expires, ttl } = expiry(*ttl);
            message.refresh = Some(WireRefreshed { client, version, expires, ttl });
        }
        Reply::SubRefreshed { ttl } => message.sub_refresh = Some(expiry(*ttl)),
        Reply::Pong => message.ping = Some(Nothing {}),
    }
    message
}

/// A push.
pub(super) fn push(push: &Push<'_>) -> Message {
    let to = |room: &str| WirePush { channel: room.to_owned(), ..WirePush::default() };
    let push = match push {
        Push::Ping => return Message::default(),
        Push::Publication(publication) => return publication_push(publication, Form::Plain),
        Push::Joined { room, member } => WirePush { join: Some(who(member)), ..to(room) },
        Push::Left { room, member } => WirePush { leave: Some(who(member)), ..to(room) },
        Push::YouJoined { room, joined } => WirePush { subscribe: Some((*joined).into()), ..to(room) },
        Push::YouLeft { room, code, reason } => {
            WirePush { unsubscribe: Some(WireLeft { code: *code, reason: (*reason).to_owned() }), ..to(room) }
        }
        Push::Refresh { ttl } => WirePush { refresh: Some(expiry(*ttl)), ..WirePush::default() },
        Push::Message(payload) => WirePush { message: Some(data(*payload)), ..WirePush::default() },
        Push::Ended(close) => {
            let ended = WireEnded { code: close.code.into(), reason: close.reason.to_string() };
            WirePush { disconnect: Some(ended), ..WirePush::default() }
        }
    };
    Message { push: Some(push), ..Message::default() }
}

fn expiry(ttl: Option<u32>) -> WireExpiry {
    WireExpiry { expires: ttl.is_some(), ttl: ttl.unwrap_or_default() }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn data(payload: PayloadRef<'_>) -> WireData {
    WireData { data: payload.as_bytes().to_vec() }
}

fn who(member: &MemberInfo) -> WireWho {
    WireWho { info: Some(member.into()) }
}

/// The push of a message.
pub(super) fn publication_push(publication: &Publication<'_>, form: Form<'_>) -> Message {
    let mut wire = WirePublication::from(publication);
    if let Form::Delta(patch) = form {
        (wire.data, wire.delta) = (patch.to_vec(), true);
    }
    let push = WirePush { channel: publication.room.to_owned(), publication: Some(wire), ..WirePush::default() };
    Message { push: Some(push), ..Message::default() }
}

impl From<&Publication<'_>> for WirePublication {
    fn from(publication: &Publication<'_>) -> Self {
        let Publication { payload, sender, tags, offset, .. } = publication;
        let owned = |(name, value): &Tag<'_>| (Cow::to_string(name), Cow::to_string(value));
        Self {
            data: payload.as_bytes().to_vec(),
            info: sender.map(Into::into),
            offset: *offset,
            tags: tags.iter().map(owned).collect(),
            delta: false,
        }
    }
}

impl From<&PastPublication> for WirePublication {
    fn from(past: &PastPublication) -> Self {
        (&past.borrowed("")).into()
    }
}

impl From<&MemberInfo> for WireInfo {
    fn from(member: &MemberInfo) -> Self {
        Self {
            user: member.user.to_string(),
            client: member.connection.clone(),
            conn_info: member.info.as_bytes().to_vec(),
            chan_info: member.room_info.as_bytes().to_vec(),
        }
    }
}

impl From<&Welcome<'_>> for WireConnected {
    fn from(welcome: &Welcome<'_>) -> Self {
        let Welcome { connection, instance, ping, pong, session, ttl, rooms } = welcome;
        Self {
            client: (*connection).to_owned(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
            subs: rooms.iter().map(|(room, joined)| (room.to_string(), joined.into())).collect(),
            ping: u32::try_from(*ping).unwrap_or(u32::MAX),
            pong: *pong,
            session: session.unwrap_or_default().to_owned(),
            node: (*instance).to_owned(),
        }
    }
}

impl From<&JoinedRoom> for WireJoined {
    fn from(joined: &JoinedRoom) -> Self {
        let JoinedRoom { data, position, publications, was_recovering, recovered, delta, ttl } = joined;
        Self {
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
            recoverable: position.is_some(),
            epoch: position.as_ref().map(|position| position.epoch.to_string()).unwrap_or_default(),
            publications: publications.iter().map(Into::into).collect(),
            recovered: *recovered,
            offset: position.as_ref().map_or(0, |position| position.offset),
            positioned: position.is_some(),
            data: bytes(data.as_ref()),
            was_recovering: *was_recovering,
            delta: *delta,
        }
    }
}

impl From<&JoinedRoom> for WirePlaced {
    fn from(joined: &JoinedRoom) -> Self {
        let position = joined.position.as_ref();
        Self {
            recoverable: position.is_some(),
            epoch: position.map(|position| position.epoch.to_string()).unwrap_or_default(),
            offset: position.map_or(0, |position| position.offset),
            positioned: position.is_some(),
            data: bytes(joined.data.as_ref()),
        }
    }
}

fn bytes(payload: Option<&Payload>) -> Vec<u8> {
    payload.map(|payload| payload.borrowed().as_bytes().to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Encoding;

    fn command(wire: &WireCommand) -> Vec<u8> {
        wire.encode_length_delimited_to_vec()
    }

    #[test]
    fn several_commands_share_a_frame_and_bytes_that_are_json_are_a_text() {
        let publish = |data: &[u8]| WireCommand {
            id: 1,
            publish: Some(WirePublish { channel: "r".into(), data: data.into() }),
            ..WireCommand::default()
        };
        let mut frame = command(&publish(b"{\"a\": 1}"));
        frame.extend(command(&publish(b"\xff\x00")));
        frame.extend(command(&WireCommand::default()));
        let requests: Vec<_> = decode(&frame).map(Result::unwrap).collect();
        let payload = |n: usize| match &requests[n].command {
            Command::Publish { payload, .. } => payload.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(payload(0), Payload::Text("{\"a\": 1}".into()));
        assert_eq!(payload(1), Payload::Binary(b"\xff\x00".into()));
        assert!(matches!(requests[2].command, Command::Pong));
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        let no_id = WireCommand { ping: Some(Nothing {}), ..WireCommand::default() };
        for bytes in [&b""[..], b"\x05\x08", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", &command(&no_id)] {
            assert!(decode(bytes).any(|request| request.is_err()), "{bytes:?}");
        }
    }

    #[test]
    fn a_push_has_the_fields_of_the_schema() {
        let push = Push::Publication(Publication {
            room: "r",
            payload: PayloadRef::Text("1"),
            sender: None,
            tags: &[("a".into(), "b".into())],
            offset: 3,
        });
        // Reply.push (4) of: channel (2), pub (4) of: data (4), offset (6), tags (7) of: key (1), value (2).
        let publication = b"\x22\x011\x30\x03\x3a\x06\x0a\x01a\x12\x01b";
        let mut expected = vec![0x22, 5 + publication.len() as u8, 0x12, 1, b'r', 0x22, publication.len() as u8];
        expected.extend_from_slice(publication);
        let frame = Encoding::CentrifugeProtobufStream.push(&push);
        assert_eq!(frame[0] as usize, frame.len() - 1);
        assert_eq!(&frame[1..], expected);
    }
}
