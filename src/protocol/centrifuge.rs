//! The Centrifuge protocol, version 2, as JSON.
//!
//! Many commands may share a frame, one a line; so may replies. A reply
//! carries the `id` of its command, a push has none, and the empty object is
//! a ping in one direction and its answer in the other.

use std::{borrow::Cow, io::Write};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Command, Form, Hello, Incoming, JoinedRoom, MemberInfo, NotTheProtocol, PastPublication, Payload, PayloadRef,
    Publication, Push, Refusal, Reply, Request, Rule, Said, Seen, VERSION, Welcome, Wishes,
};
use crate::room::Position;

#[derive(Deserialize)]
struct WireCommand<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow, default)]
    connect: Option<WireConnect<'a>>,
    #[serde(borrow, default)]
    subscribe: Option<WireSubscribe<'a>>,
    #[serde(borrow, default)]
    unsubscribe: Option<WireChannel<'a>>,
    #[serde(borrow, default)]
    publish: Option<WirePublish<'a>>,
    #[serde(borrow, default)]
    presence: Option<WireChannel<'a>>,
    #[serde(borrow, default)]
    presence_stats: Option<WireChannel<'a>>,
    #[serde(borrow, default)]
    rpc: Option<WireRpc<'a>>,
    #[serde(borrow, default)]
    send: Option<WireSend<'a>>,
    #[serde(default)]
    ping: Option<Empty>,
    #[serde(borrow, default)]
    history: Option<WireHistory<'a>>,
    #[serde(borrow, default)]
    refresh: Option<WireRefresh<'a>>,
    #[serde(borrow, default)]
    sub_refresh: Option<WireRefresh<'a>>,
}

#[derive(Deserialize)]
struct Empty {}

#[derive(Deserialize)]
struct WireConnect<'a> {
    #[serde(borrow, default)]
    token: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    version: Cow<'a, str>,
    #[serde(borrow, default)]
    subs: std::collections::BTreeMap<Cow<'a, str>, WireRecover<'a>>,
}

#[derive(Deserialize)]
struct WireRecover<'a> {
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
}

impl<'a> WireRecover<'a> {
    fn seen(self) -> Option<Seen<'a>> {
        self.recover.then_some(Seen { epoch: self.epoch, offset: self.offset })
    }
}

#[derive(Deserialize)]
struct WireHistory<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(default)]
    limit: i64,
    #[serde(borrow, default)]
    since: Option<WirePosition<'a>>,
    #[serde(default)]
    reverse: bool,
}

#[derive(Deserialize)]
struct WirePosition<'a> {
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
struct WireSubscribe<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    recover: bool,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    join_leave: bool,
    #[serde(borrow, default)]
    delta: Cow<'a, str>,
    #[serde(default)]
    tf: Option<WireFilter>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireFilter {
    op: String,
    key: String,
    cmp: String,
    val: String,
    vals: Vec<String>,
    nodes: Vec<WireFilter>,
}

impl From<WireFilter> for Rule {
    fn from(wire: WireFilter) -> Self {
        let WireFilter { op, key, cmp, val, vals, nodes } = wire;
        Self { op, key, cmp, val, vals, nodes: nodes.into_iter().map(Into::into).collect() }
    }
}

#[derive(Deserialize)]
struct WireChannel<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WirePublish<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireRpc<'a> {
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// Of the connection, or of the room that it names.
#[derive(Deserialize)]
struct WireRefresh<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireSend<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// `null` is a value like others here; serde would take it for no value.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The kind of differences that we know; who asks for another hears whole
/// messages.
pub(super) const FOSSIL: &str = "fossil";

#[derive(Deserialize)]
struct WireSaid {
    node: String,
    session: String,
    data: String,
}

impl Said {
    /// From the body of a request: the commands are a text in it.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_json(bytes: &[u8]) -> Result<Self, NotTheProtocol> {
        let wire = serde_json::from_slice(bytes).map_err(|error| NotTheProtocol(error.to_string().into()))?;
        let WireSaid { node, session, data } = wire;
        Ok(Self { node, session, message: Incoming::Text(data.into()) })
    }
}

/// The commands in a frame, in order. Blank lines count for nothing; a frame
/// without any command is not the protocol.
///
/// # Errors
/// Each line may be refused on its own.
pub fn decode(text: &str) -> impl Iterator<Item = Result<Request<'_>, NotTheProtocol>> {
    let lines = || text.lines().filter(|line| !line.trim_ascii().is_empty());
    let nothing = lines().next().is_none();
    let empty = |()| Err(NotTheProtocol("an empty frame".into()));
    nothing.then_some(()).into_iter().map(empty).chain(lines().map(decode_command))
}

fn raw(value: Option<&RawValue>) -> Option<Payload> {
    value.map(|value| Payload::Text(value.get().to_owned()))
}

fn decode_command(line: &str) -> Result<Request<'_>, NotTheProtocol> {
    // serde would take a list for a struct, its fields in order.
    if !line.trim_ascii_start().starts_with('{') {
        return Err(NotTheProtocol("expected an object".into()));
    }
    let wire: WireCommand<'_> = serde_json::from_str(line).map_err(|error| NotTheProtocol(error.to_string().into()))?;
    let id = wire.id;
    let command = if let Some(connect) = wire.connect {
        let WireConnect { token, data, name, version, subs } = connect;
        let seen = subs.into_iter().filter_map(|(room, sub)| Some((room, sub.seen()?))).collect();
        Command::Connect(Box::new(Hello { token, data: raw(data), name, version, seen }))
    } else if let Some(subscribe) = wire.subscribe {
        let WireSubscribe { channel, token, data, recover, epoch, offset, join_leave, delta, tf } = subscribe;
        let recover = recover.then_some(Seen { epoch, offset });
        let wishes = Wishes { join_leave, delta: delta == FOSSIL, filter: tf.map(|filter| Box::new(filter.into())) };
        Command::Join { room: channel, token, data: raw(data), recover, wishes }
    } else if let Some(unsubscribe) = wire.unsubscribe {
        Command::Leave { room: unsubscribe.channel }
    } else if let Some(publish) = wire.publish {
        let payload = raw(publish.data).ok_or_else(|| NotTheProtocol("publish without data".into()))?;
        Command::Publish { room: publish.channel, payload }
    } else if let Some(presence) = wire.presence {
        Command::Presence { room: presence.channel }
    } else if let Some(stats) = wire.presence_stats {
        Command::PresenceStats { room: stats.channel }
    } else if let Some(WireHistory { channel, limit, since, reverse }) = wire.history {
        // A negative limit asks for all.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let since = since.map(|WirePosition { epoch, offset }| Seen { epoch, offset });
        Command::History { room: channel, limit, since, reverse }
    } else if let Some(rpc) = wire.rpc {
        Command::Call { method: rpc.method, data: raw(rpc.data) }
    } else if let Some(send) = wire.send {
        Command::Send { data: raw(send.data) }
    } else if let Some(refresh) = wire.refresh {
        Command::Refresh { token: refresh.token }
    } else if let Some(WireRefresh { channel, token }) = wire.sub_refresh {
        Command::SubRefresh { room: channel, token }
    } else if wire.ping.is_some() {
        Command::Ping
    } else if id == 0 {
        if !is_empty_object(line) {
            return Err(NotTheProtocol("a command without id and known name".into()));
        }
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

fn is_empty_object(line: &str) -> bool {
    line.bytes().filter(|byte| !byte.is_ascii_whitespace()).eq(*b"{}")
}

/// Somebody, as clients and the server API see it.
#[derive(Serialize)]
pub(crate) struct WireInfo<'a> {
    client: &'a str,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<&'a RawValue>,
}

impl<'a> From<&'a MemberInfo> for WireInfo<'a> {
    fn from(member: &'a MemberInfo) -> Self {
        // Both were checked to be JSON when they came in.
        let raw = |text: &'a str| (!text.is_empty()).then(|| serde_json::from_str(text).ok()).flatten();
        Self {
            client: &member.connection,
            user: &member.user,
            conn_info: raw(&member.info),
            chan_info: raw(&member.room_info),
        }
    }
}

/// Appends a value as JSON.
fn json(buffer: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Texts, numbers and raw JSON into memory: there is nothing to fail.
    serde_json::to_writer(buffer, value).expect("plain values become JSON");
}

/// Appends a JSON text as it is, without the line breaks that would end the
/// command in a frame of several. In JSON they are only ever blanks.
fn raw_json(buffer: &mut Vec<u8>, text: &str) {
    let breaks = |byte: &u8| matches!(byte, b'\n' | b'\r');
    // Without a way out of each piece, it is looked at in a few instructions.
    if text.as_bytes().chunks(256).any(|bytes| bytes.iter().fold(false, |found, byte| found | breaks(byte))) {
        buffer.extend(text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    } else {
        buffer.extend_from_slice(text.as_bytes());
    }
}

/// Appends a body as JSON.
fn body(buffer: &mut Vec<u8>, payload: PayloadRef<'_>) {
    raw_json(buffer, &payload.to_json());
}

/// Appends what [`WireInfo`] is, without a look at JSON that is passed on.
fn info(buffer: &mut Vec<u8>, member: &MemberInfo) {
    buffer.extend_from_slice(br#"{"client":"#);
    json(buffer, &*member.connection);
    buffer.extend_from_slice(br#","user":"#);
    json(buffer, &*member.user);
    // Both were checked to be JSON where they came in, on whichever instance.
    let infos: [(&[u8], _); 2] = [(br#","conn_info":"#, &member.info), (br#","chan_info":"#, &member.room_info)];
    for (name, text) in infos {
        if !text.is_empty() {
            buffer.extend_from_slice(name);
            raw_json(buffer, text);
        }
    }
    buffer.push(b'}');
}

/// Appends a refusal.
pub(super) fn write_refusal(buffer: &mut Vec<u8>, id: u32, refusal: &Refusal) {
    let _infallible = write!(buffer, r#"{{"id":{id},"error":{{"code":{},"message":"#, refusal.code);
    json(buffer, &refusal.reason);
    buffer.extend_from_slice(if refusal.temporary { br#","temporary":true}}"# } else { b"}}" });
}

/// Appends a reply.
pub(super) fn write_reply(buffer: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    buffer.extend_from_slice(br#"{"id":"#);
    json(buffer, &id);
    buffer.push(b',');
    encode_result(buffer, reply);
    buffer.push(b'}');
}

fn encode_result(buffer: &mut Vec<u8>, reply: &Reply<'_>) {
    match reply {
        Reply::Connected(welcome) => encode_welcome(buffer, welcome),
        Reply::Joined(joined) => {
            buffer.extend_from_slice(br#""subscribe":{"#);
            encode_joined(buffer, joined);
            buffer.push(b'}');
        }
        Reply::Left => buffer.extend_from_slice(br#""unsubscribe":{}"#),
        Reply::Published => buffer.extend_from_slice(br#""publish":{}"#),
        Reply::History { position, publications } => {
            buffer.extend_from_slice(br#""history":{"#);
            encode_publications(buffer, publications, Form::Plain);
            if !publications.is_empty() {
                buffer.push(b',');
            }
            let _infallible = write!(buffer, r#""offset":{},"epoch":"#, position.offset);
            json(buffer, &*position.epoch);
            buffer.push(b'}');
        }
        Reply::Presence(members) => {
            buffer.extend_from_slice(br#""presence":{"presence":{"#);
            for (n, member) in members.iter().enumerate() {
                if n > 0 {
                    buffer.push(b',');
                }
                json(buffer, &member.connection);
                buffer.push(b':');
                info(buffer, member);
            }
            buffer.extend_from_slice(b"}}");
        }
        Reply::PresenceStats { connections, users } => {
            let _infallible = write!(buffer, r#""presence_stats":{{"num_clients":{connections},"num_users":{users}}}"#);
        }
        Reply::Called(data) => {
            buffer.extend_from_slice(br#""rpc":{"data":"#);
            body(buffer, *data);
            buffer.push(b'}');
        }
        Reply::Refreshed { connection, ttl } => {
            let _infallible = write!(buffer, r#""refresh":{{"client":"{connection}","version":"{VERSION}""#);
            encode_ttl(buffer, *ttl);
            buffer.push(b'}');
        }
        Reply::SubRefreshed { ttl } => {
            buffer.extend_from_slice(br#""sub_refresh":{"expires":"#);
            let _infallible = match ttl {
                Some(ttl) => write!(buffer, r#"true,"ttl":{ttl}}}"#),
                None => write!(buffer, "false}}"),
            };
        }
        Reply::Pong => buffer.extend_from_slice(br#""ping":{}"#),
    }
}

/// Two more members of an object that has some, or nothing for what does not
/// expire.
fn encode_ttl(buffer: &mut Vec<u8>, ttl: Option<u32>) {
    if let Some(ttl) = ttl {
        let _infallible = write!(buffer, r#","expires":true,"ttl":{ttl}"#);
    }
}

fn encode_welcome(buffer: &mut Vec<u8>, welcome: &Welcome<'_>) {
    let Welcome { connection, instance, ping, pong, session, ttl, rooms } = welcome;
    let _infallible = write!(
        buffer,
        r#""connect":{{"client":"{connection}","version":"{VERSION}","ping":{ping},"pong":{pong},"node":"{instance}""#
    );
    if let Some(session) = session {
        let _infallible = write!(buffer, r#","session":"{session}""#);
    }
    encode_ttl(buffer, *ttl);
    if !rooms.is_empty() {
        buffer.extend_from_slice(br#","subs":{"#);
        for (n, (room, joined)) in rooms.iter().enumerate() {
            if n > 0 {
                buffer.push(b',');
            }
            json(buffer, room.as_ref());
            buffer.extend_from_slice(b":{");
            encode_joined(buffer, joined);
            buffer.push(b'}');
        }
        buffer.push(b'}');
    }
    buffer.push(b'}');
}

/// The members of an object, between its braces.
fn encode_joined(buffer: &mut Vec<u8>, joined: &JoinedRoom) {
    let JoinedRoom { data, position, publications, was_recovering, recovered, delta, ttl } = joined;
    let start = buffer.len();
    let comma = |buffer: &mut Vec<u8>| {
        if buffer.len() > start {
            buffer.push(b',');
        }
    };
    if let Some(data) = data {
        buffer.extend_from_slice(br#""data":"#);
        body(buffer, data.borrowed());
    }
    if let Some(Position { epoch, offset }) = position {
        comma(buffer);
        let _infallible = write!(buffer, r#""recoverable":true,"positioned":true,"offset":{offset},"epoch":"#);
        json(buffer, &**epoch);
    }
    if *was_recovering {
        comma(buffer);
        let _infallible = write!(buffer, r#""was_recovering":true,"recovered":{recovered}"#);
    }
    if *delta {
        comma(buffer);
        buffer.extend_from_slice(br#""delta":true"#);
    }
    if !publications.is_empty() {
        comma(buffer);
        encode_publications(buffer, publications, if *delta { Form::Whole } else { Form::Plain });
    }
    if let Some(ttl) = ttl {
        comma(buffer);
        let _infallible = write!(buffer, r#""expires":true,"ttl":{ttl}"#);
    }
}

/// `"publications":[…]`, or nothing if there are none.
fn encode_publications(buffer: &mut Vec<u8>, publications: &[PastPublication], form: Form<'_>) {
    if publications.is_empty() {
        return;
    }
    buffer.extend_from_slice(br#""publications":["#);
    for (n, publication) in publications.iter().enumerate() {
        buffer.extend_from_slice(if n > 0 { b",{" } else { b"{" });
        encode_publication(buffer, &publication.borrowed(""), form);
        buffer.push(b'}');
    }
    buffer.push(b']');
}

/// The members of a publication, between its braces.
fn encode_publication(buffer: &mut Vec<u8>, publication: &Publication<'_>, form: Form<'_>) {
    let Publication { payload, sender, tags, offset, .. } = *publication;
    buffer.extend_from_slice(br#""data":"#);
    match form {
        Form::Plain => body(buffer, payload),
        Form::Whole => json(buffer, &*payload.to_json()),
        // It was looked at whether it is a text.
        Form::Delta(patch) => {
            json(buffer, &*String::from_utf8_lossy(patch));
            buffer.extend_from_slice(br#","delta":true"#);
        }
    }
    if let Some(sender) = sender {
        buffer.extend_from_slice(br#","info":"#);
        info(buffer, sender);
    }
    if !tags.is_empty() {
        buffer.extend_from_slice(br#","tags":{"#);
        for (n, (name, value)) in tags.iter().enumerate() {
            if n > 0 {
                buffer.push(b',');
            }
            json(buffer, name);
            buffer.push(b':');
            json(buffer, value);
        }
        buffer.push(b'}');
    }
    if offset > 0 {
        buffer.extend_from_slice(br#","offset":"#);
        json(buffer, &offset);
    }
}

fn open(buffer: &mut Vec<u8>, room: &str, kind: &str) {
    buffer.extend_from_slice(br#"{"push":{"channel":"#);
    json(buffer, room);
    for part in [",\"", kind, "\":{"] {
        buffer.extend_from_slice(part.as_bytes());
    }
}

/// Appends the push of a message.
pub(super) fn write_publication(buffer: &mut Vec<u8>, publication: &Publication<'_>, form: Form<'_>) {
    open(buffer, publication.room, "pub");
    encode_publication(buffer, publication, form);
    buffer.extend_from_slice(b"}}}");
}

/// Appends a push.
pub(super) fn write_push(buffer: &mut Vec<u8>, push: &Push<'_>) {
    match push {
        Push::Ping => {
            buffer.extend_from_slice(b"{}");
            return;
        }
        Push::Message(payload) => {
            buffer.extend_from_slice(br#"{"push":{"message":{"data":"#);
            body(buffer, *payload);
        }
        Push::Ended(close) => {
            let _infallible = write!(buffer, r#"{{"push":{{"disconnect":{{"code":{},"reason":"#, close.code);
            json(buffer, &close.reason);
        }
        Push::Publication(publication) => return write_publication(buffer, publication, Form::Plain),
        Push::Joined { room, member } | Push::Left { room, member } => {
            open(buffer, room, if matches!(push, Push::Joined { .. }) { "join" } else { "leave" });
            buffer.extend_from_slice(br#""info":"#);
            info(buffer, member);
        }
        Push::Refresh { ttl } => {
            buffer.extend_from_slice(br#"{"push":{"refresh":{"expires":"#);
            let _infallible = match ttl {
                Some(ttl) => write!(buffer, r#"true,"ttl":{ttl}"#),
                None => write!(buffer, "false"),
            };
        }
        Push::YouJoined { room, joined } => {
            open(buffer, room, "subscribe");
            encode_joined(buffer, joined);
        }
        Push::YouLeft { room, code, reason } => {
            open(buffer, room, "unsubscribe");
            let _infallible = write!(buffer, r#""code":{code},"reason":"#);
            json(buffer, reason);
        }
    }
    buffer.extend_from_slice(b"}}}");
}

#[cfg(test)]
mod tests;
