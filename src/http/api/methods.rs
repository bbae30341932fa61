//! The methods: each reads its parameters, asks the router, and says it in
//! JSON.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Answer, Web, WireError, tokens,
    wire::{self, Stated, bad, read, required},
};
use crate::{
    cluster::envelope::What,
    config::{ApiKey, Target},
    id::{BootId, ConnectionId},
    metrics::HookCalls,
    protocol::{Close, MemberInfo, Refusal, Seen, centrifuge::WireInfo as Info},
    room::{Position, records::Edit},
    router::{Act, Acted, Gathered, InstanceReport, Known, Message, Work, records::to_json},
};

/// Rooms of one broadcast.
const CHANNELS_MAX: usize = 10_000;

/// Users in one question.
const USERS_MAX: usize = 100;

/// Targets of one delivery.
const TARGETS_MAX: usize = 10_000;

/// Entries of a page, unless it is asked for another number, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// How long answers are waited for, unless it is asked for another time, and
/// at most.
const WITHIN: Duration = Duration::from_secs(5);
const WITHIN_MAX: Duration = Duration::from_secs(30);

/// Calls one of the [`METHODS`](super::METHODS) but `batch`, for whom has this
/// key.
pub(super) async fn call(web: &Web, key: &ApiKey, method: &str, parameters: &[u8]) -> Answer {
    match method {
        "publish" => publish(web, parameters).await,
        "broadcast" => broadcast(web, parameters).await,
        "subscribe" => subscribe(web, parameters).await,
        "unsubscribe" => unsubscribe(web, parameters).await,
        "disconnect" => disconnect(web, parameters).await,
        "refresh" => tokens::refresh(web, parameters).await,
        "revoke_token" => tokens::revoke_token(web, parameters).await,
        "invalidate_user_tokens" => tokens::invalidate_user_tokens(web, parameters).await,
        "presence" => presence(web, parameters).await,
        "presence_stats" => presence_stats(web, parameters).await,
        "history" => history(web, parameters).await,
        "history_remove" => history_remove(web, parameters).await,
        "channels" => channels(web, key, parameters).await,
        "info" => info(web, parameters).await,
        "rpc" => rpc(web, parameters).await,
        "connections" => connections(web, parameters).await,
        "users" => users(web, parameters).await,
        "instances" => instances(web, parameters).await,
        "send" => send(web, parameters),
        "requests" => requests(web, parameters).await,
        "members" => members(web, parameters).await,
        "records" => records(web, parameters).await,
        "record" => record(web, parameters).await,
        "plugins" => plugins(web, parameters),
        "reload" => work(web, parameters, Work::Reload).await,
        "rollback" => work(web, parameters, Work::Rollback).await,
        "drain" => drain(web, parameters).await,
        _ => Err(Refusal::METHOD_NOT_FOUND),
    }
}

/// A result as JSON.
pub(super) fn ok(result: impl Serialize) -> Answer {
    serde_json::value::to_raw_value(&result).map_err(|error| {
        tracing::error!(%error, "an answer of the server API is not JSON");
        Refusal::INTERNAL
    })
}

fn stated(value: impl Serialize, stale: bool) -> Answer {
    ok(Stated { value, stale })
}

/// What another instance or a plugin said, which was checked there.
fn raw(text: String) -> Result<Box<RawValue>, Refusal> {
    RawValue::from_string(text).map_err(|_| Refusal::INTERNAL)
}

fn page(limit: Option<usize>) -> usize {
    limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
}

fn within(timeout_ms: Option<u64>) -> Duration {
    timeout_ms.map_or(WITHIN, Duration::from_millis).clamp(Duration::from_millis(1), WITHIN_MAX)
}

fn few<T>(field: &str, values: &[T], max: usize) -> Result<(), Refusal> {
    match values.len() {
        0 => Err(bad(format!("`{field}` is required"))),
        n if n > max => Err(Refusal {
            reason: format!("limit exceeded: more than {max} `{field}`").into(),
            ..Refusal::LIMIT_EXCEEDED
        }),
        _ => Ok(()),
    }
}

/// Instances with their names, for those who have to look after them.
async fn named(web: &Web, boots: &BTreeSet<BootId>) -> Vec<Value> {
    let names = web.router.names(boots).await;
    names.into_iter().map(|(boot, name)| json!({ "uid": boot.to_string(), "name": name })).collect()
}

fn message<'a>(publish: &'a wire::Publish<'_>) -> Result<Message<'a>, Refusal> {
    let tags = publish.tags.iter().flatten().map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value)));
    Ok(Message {
        payload: wire::payload(publish.data, publish.b64data.as_deref())?,
        tags: tags.collect(),
        skip_history: publish.skip_history.unwrap_or(false),
        key: publish.idempotency_key.as_deref().filter(|key| !key.is_empty()),
    })
}

fn published(position: Option<Position>) -> Value {
    position.map_or_else(|| json!({}), |position| json!({ "offset": position.offset, "epoch": &*position.epoch }))
}

async fn publish(web: &Web, parameters: &[u8]) -> Answer {
    let publish: wire::Publish<'_> = read(parameters)?;
    let room = required("channel", &publish.channel)?;
    ok(published(web.router.publish_by_server(room, &message(&publish)?).await?))
}

async fn broadcast(web: &Web, parameters: &[u8]) -> Answer {
    let publish: wire::Publish<'_> = read(parameters)?;
    few("channels", &publish.channels, CHANNELS_MAX)?;
    let message = message(&publish)?;
    let each = publish.channels.iter().map(|room| web.router.publish_by_server(room, &message));
    let responses: Vec<Value> = futures_util::future::join_all(each)
        .await
        .into_iter()
        .map(|answer| match answer {
            Ok(position) => json!({ "result": published(position) }),
            Err(refusal) => json!({ "error": WireError::from(&refusal) }),
        })
        .collect();
    ok(json!({ "responses": responses }))
}

/// With whom something is to be done: a user, one of its connections, or
/// targets.
pub(super) fn whom<'a>(
    user: &'a str,
    client: Option<&str>,
    to: &[Cow<'_, str>],
    except: &[Cow<'_, str>],
    what: What<'a>,
) -> Result<Act<'a>, Refusal> {
    let client = client.filter(|client| !client.is_empty());
    let targets = match (user, client) {
        ("", None) if to.is_empty() => return Err(bad("`user`, `client` or `to` is required")),
        ("", None) => wire::targets("to", to)?,
        _ if !to.is_empty() => return Err(bad("give either `to`, or `user` and `client`")),
        (user, None) => vec![Target::User(user.to_owned())],
        (_, Some(client)) => vec![Target::Connection(client.to_owned())],
    };
    few("to", &targets, TARGETS_MAX)?;
    let except = wire::targets("except", except)?;
    Ok(Act { except, user: Some(user).filter(|user| !user.is_empty()), ..Act::new(targets, what) })
}

pub(super) async fn act(web: &Web, act: Act<'_>) -> Answer {
    let Acted { done, failed, missing } = web.router.act(act).await?;
    let mut result = json!({ "connections": done });
    if failed > 0 {
        result["failed"] = failed.into();
    }
    if !missing.is_empty() {
        result["missing"] = named(web, &missing.into_iter().collect()).await.into();
    }
    ok(result)
}

async fn subscribe(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Subscribe<'_> = read(parameters)?;
    let room = required("channel", &wire.channel)?;
    let info = wire::json_text("info", wire.info, wire.b64info.as_deref())?;
    let data = wire::json_text("data", wire.data, wire.b64data.as_deref())?;
    let since = wire.recover_since.map(|since| Seen { epoch: since.epoch, offset: since.offset });
    let whom = whom(&wire.user, wire.client.as_deref(), &wire.to, &wire.except, What::Join(room.into()))?;
    let until = wire.expire_at.and_then(|at| u64::try_from(at).ok()).filter(|at| *at > 0);
    let until = until.map(|seconds| seconds.saturating_mul(1000));
    let overrides = wire.overrides.unwrap_or_default();
    act(web, Act { info: info.as_deref(), data: data.as_deref(), since, until, overrides, ..whom }).await
}

async fn unsubscribe(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Subscribe<'_> = read(parameters)?;
    let room = required("channel", &wire.channel)?;
    act(web, whom(&wire.user, wire.client.as_deref(), &wire.to, &wire.except, What::Leave(room.into()))?).await
}

async fn disconnect(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Disconnect<'_> = read(parameters)?;
    let forced = Close::FORCED;
    let (code, reason) = match &wire.disconnect {
        Some(with) if with.code != 0 => (with.code, Cow::Borrowed(&*with.reason)),
        _ => (forced.code, forced.reason),
    };
    let mut act_on = whom(&wire.user, wire.client.as_deref(), &wire.to, &wire.except, What::Close(code, reason))?;
    let kept = wire.whitelist.iter().flatten().filter(|id| ConnectionId::parse(id).is_some());
    act_on.except.extend(kept.map(|id| Target::Connection(id.to_string())));
    act(web, act_on).await
}

async fn presence(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Channel<'_> = read(parameters)?;
    let Known { value, is_stale } = web.router.presence_for_server(required("channel", &wire.channel)?).await?;
    let presence: BTreeMap<&str, Info<'_>> =
        value.iter().map(|member| (member.connection.as_str(), member.into())).collect();
    stated(BTreeMap::from([("presence", presence)]), is_stale)
}

async fn presence_stats(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Channel<'_> = read(parameters)?;
    let Known { value, is_stale } = web.router.count_for_server(required("channel", &wire.channel)?).await?;
    stated(json!({ "num_clients": value.0, "num_users": value.1 }), is_stale)
}

#[derive(Serialize)]
struct HistoryResult<'a> {
    publications: Vec<wire::Publication<'a>>,
    offset: u64,
    epoch: &'a str,
}

async fn history(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::History<'_> = read(parameters)?;
    let room = required("channel", &wire.channel)?;
    let generation = web.router.generation();
    let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
    // Without a limit only the position is asked; a negative one asks for all.
    let limit = wire.limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let since = wire.since.map(|since| Seen { epoch: since.epoch, offset: since.offset });
    let (position, past) = web.router.past(entry, room, limit, since, wire.reverse.unwrap_or(false)).await?;
    let publications = past.iter().filter_map(wire::Publication::new).collect();
    ok(HistoryResult { publications, offset: position.offset, epoch: &position.epoch })
}

async fn history_remove(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Channel<'_> = read(parameters)?;
    web.router.remove_history(required("channel", &wire.channel)?).await?;
    ok(json!({}))
}

async fn records(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Channel<'_> = read(parameters)?;
    let all = web.router.records(required("channel", &wire.channel)?).await?;
    ok(json!({ "records": to_json(all) }))
}

async fn record(web: &Web, parameters: &[u8]) -> Answer {
    let asked: Value = read(parameters)?;
    let text = |field| required(field, asked[field].as_str().unwrap_or_default());
    let edit = Edit::read(&asked).ok_or_else(|| bad("one of `set`, `patch` and `delete` is required"))?;
    let version = match &asked["version"] {
        Value::Null => None,
        version => Some(version.as_u64().ok_or_else(|| bad("`version` is a whole number"))?),
    };
    let edited = web.router.edit_record(text("channel")?, text("record")?, &edit, version).await?;
    ok(edited.to_json())
}

async fn channels(web: &Web, key: &ApiKey, parameters: &[u8]) -> Answer {
    let wire: wire::Channels<'_> = read(parameters)?;
    let Known { value, is_stale } = web.router.rooms(wire.pattern.as_deref().unwrap_or_default()).await?;
    let is_shown = |room: &str| key.rooms.as_ref().is_none_or(|all| all.iter().any(|pattern| pattern.matches(room)));
    let shown = value.iter().filter(|(room, _)| is_shown(room));
    let channels: BTreeMap<_, _> = shown.map(|(room, n)| (room.as_str(), json!({ "num_clients": n }))).collect();
    stated(BTreeMap::from([("channels", channels)]), is_stale)
}

async fn info(web: &Web, parameters: &[u8]) -> Answer {
    let _: wire::Nothing = read(parameters)?;
    let Known { value, is_stale } = web.router.instances().await;
    let nodes: Vec<Value> = value.into_iter().map(|instance| instance.info).collect();
    stated(BTreeMap::from([("nodes", nodes)]), is_stale)
}

async fn instances(web: &Web, parameters: &[u8]) -> Answer {
    let _: wire::Nothing = read(parameters)?;
    let Known { value, is_stale } = web.router.instances().await;
    let differing = differing(&value);
    let show = |instance: InstanceReport| {
        let mut shown = instance.info;
        shown["silent_ms"] = u64::try_from(instance.silent.as_millis()).unwrap_or(u64::MAX).into();
        shown["is_self"] = (instance.boot == web.router.boot).into();
        shown
    };
    let instances: Vec<Value> = value.into_iter().map(show).collect();
    stated(json!({ "instances": instances, "differing": differing }), is_stale)
}

/// Plugins that are not the same everywhere: by plugin, which instances have
/// which content; `""` is none.
fn differing(instances: &[InstanceReport]) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let names: BTreeSet<&String> = instances
        .iter()
        .filter_map(|instance| instance.info["plugins"].as_object())
        .flat_map(|all| all.keys())
        .collect();
    let mut differing = BTreeMap::new();
    for name in names {
        let mut by_hash: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for instance in instances {
            let hash = instance.info["plugins"][name].as_str().unwrap_or_default();
            let uid = instance.info["uid"].as_str().unwrap_or_default();
            by_hash.entry(hash.to_owned()).or_default().push(uid.to_owned());
        }
        if by_hash.len() > 1 {
            differing.insert(name.clone(), by_hash);
        }
    }
    differing
}

async fn rpc(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Rpc<'_> = read(parameters)?;
    let method = required("method", &wire.method)?;
    let data = wire.params.map_or("null", RawValue::get);
    if !wire.all {
        let data = raw(web.router.call_by_server(method, Some(data))?)?;
        return ok(BTreeMap::from([("data", data)]));
    }
    let gathered = web.router.call_everywhere(method, data, within(wire.timeout_ms)).await?;
    by_instance(web, gathered).await
}

/// What each instance answered.
async fn by_instance(web: &Web, gathered: Gathered) -> Answer {
    #[derive(Serialize)]
    struct Result {
        answers: Vec<BTreeMap<String, Box<RawValue>>>,
        missing: Vec<Value>,
    }
    let Gathered { answers, missing, is_stale, .. } = gathered;
    let names = web.router.names(&answers.iter().map(|given| given.instance).collect()).await;
    let mut all = Vec::with_capacity(answers.len());
    for given in answers {
        let instance = raw(json!(given.instance.to_string()).to_string())?;
        let name = raw(json!(names.get(&given.instance)).to_string())?;
        let fields = [("instance".to_owned(), instance), ("name".to_owned(), name), (given.about, raw(given.text)?)];
        all.push(BTreeMap::from(fields));
    }
    stated(Result { answers: all, missing: named(web, &missing).await }, is_stale)
}

fn send(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Send<'_> = read(parameters)?;
    few("to", &wire.to, TARGETS_MAX)?;
    let (to, except) = (wire::targets("to", &wire.to)?, wire::targets("except", &wire.except)?);
    let payload = wire::payload(wire.data, wire.b64data.as_deref())?;
    let here = web.router.send(to, except, &payload, &wire::tags(wire.tags), wire.local)?;
    ok(json!({ "here": here }))
}

async fn requests(web: &Web, parameters: &[u8]) -> Answer {
    #[derive(Serialize)]
    struct Given {
        client: String,
        instance: String,
        data: Box<RawValue>,
    }
    #[derive(Serialize)]
    struct Silent {
        client: String,
        instance: String,
    }
    #[derive(Serialize)]
    struct Result {
        answers: Vec<Given>,
        silent: Vec<Silent>,
        missing: Vec<Value>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    }
    let wire: wire::Requests<'_> = read(parameters)?;
    few("to", &wire.to, TARGETS_MAX)?;
    let (to, except) = (wire::targets("to", &wire.to)?, wire::targets("except", &wire.except)?);
    let data = wire.data.map_or("null", RawValue::get);
    let Gathered { answers, silent, missing, is_cut, is_stale } =
        web.router.request(&to, &except, data, within(wire.timeout_ms)).await?;
    let mut given = Vec::with_capacity(answers.len());
    for answer in answers {
        given.push(Given { client: answer.about, instance: answer.instance.to_string(), data: raw(answer.text)? });
    }
    let silent = silent.into_iter().map(|(client, boot)| Silent { client, instance: boot.to_string() }).collect();
    let missing = named(web, &missing).await;
    stated(Result { answers: given, silent, missing, truncated: is_cut }, is_stale)
}

async fn connections(web: &Web, parameters: &[u8]) -> Answer {
    #[derive(Serialize)]
    struct Result {
        connections: Vec<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        missing: Vec<Value>,
    }
    let wire: wire::Connections<'_> = read(parameters)?;
    let cursor = wire.cursor.as_deref().unwrap_or_default();
    if !cursor.is_empty() && ConnectionId::parse(cursor).is_none() {
        return Err(bad("`cursor` is not one of this list"));
    }
    let instance = match wire.instance.as_deref() {
        None => None,
        Some(name) => Some(instance_named(web, name).await?),
    };
    let user = wire.user.as_deref().filter(|user| !user.is_empty());
    let Known { value, is_stale } = web.router.connections(user, instance, cursor, page(wire.limit)).await?;
    let connections =
        value.connections.into_iter().map(|(_, text)| raw(text)).collect::<std::result::Result<_, _>>()?;
    let missing = named(web, &value.missing).await;
    stated(Result { connections, next: value.next, missing }, is_stale)
}

async fn users(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Users<'_> = read(parameters)?;
    few("users", &wire.users, USERS_MAX)?;
    let each = wire.users.iter().map(|user| web.router.connections_of(user));
    let all = futures_util::future::join_all(each).await;
    let is_stale = all.iter().any(|known| known.is_stale);
    let show = |known: &Known<usize>| json!({ "online": known.value > 0, "num_clients": known.value });
    let users: BTreeMap<&str, Value> = wire.users.iter().map(AsRef::as_ref).zip(all.iter().map(show)).collect();
    stated(BTreeMap::from([("users", users)]), is_stale)
}

async fn members(web: &Web, parameters: &[u8]) -> Answer {
    #[derive(Serialize)]
    struct Result<'a> {
        members: Vec<Info<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let wire: wire::Members<'_> = read(parameters)?;
    let cursor = wire.cursor.as_deref().filter(|cursor| !cursor.is_empty());
    let room = required("channel", &wire.channel)?;
    let Known { value, is_stale } = web.router.members(room, cursor, page(wire.limit)).await?;
    let members = value.members.iter().map(|member: &MemberInfo| member.into()).collect();
    stated(Result { members, next: value.next }, is_stale)
}

async fn work(web: &Web, parameters: &[u8], work: Work) -> Answer {
    let wire: wire::Reload = read(parameters)?;
    if wire.all {
        return by_instance(web, web.router.work_everywhere(work).await?).await;
    }
    match web.router.work_here(work).await {
        Ok(generation) => ok(json!({ "generation": generation })),
        Err(reason) => Err(Refusal { reason: reason.into(), temporary: false, ..Refusal::INTERNAL }),
    }
}

async fn drain(web: &Web, parameters: &[u8]) -> Answer {
    let wire: wire::Drain<'_> = read(parameters)?;
    let instance = match wire.instance.as_deref() {
        None => web.router.boot,
        Some(name) => instance_named(web, name).await?,
    };
    by_instance(web, web.router.work_at(instance, Work::Drain).await?).await
}

async fn instance_named(web: &Web, name: &str) -> Result<BootId, Refusal> {
    let found = web.router.instance_named(name).await;
    found.ok_or_else(|| bad(format!("there is no instance `{name}`; see the method `instances`")))
}

/// What is live here, and how it does.
fn plugins(web: &Web, parameters: &[u8]) -> Answer {
    let _: wire::Nothing = read(parameters)?;
    let status = web.reloader.status().borrow().clone();
    let calls = web.router.metrics.hook_calls();
    let micros = |seconds: f64| (seconds * 1e7).round() / 10.0;
    let show = |calls: &HookCalls| {
        json!({
            "count": calls.count,
            "mean_us": micros(calls.seconds / calls.count.max(1) as f64),
            "p50_us": calls.within(0.5).map(micros),
            "p99_us": calls.within(0.99).map(micros),
            "failures": calls.failures,
        })
    };
    let running = web.reloader.running();
    let phase = |name: &str| running.plugins.iter().find(|plugin| plugin.name() == name).map(|it| it.phase().key());
    let plugins: Vec<Value> = status
        .plugins
        .iter()
        .map(|plugin| {
            let own = calls.iter().filter(|calls| calls.plugin == plugin.name);
            let by_hook: BTreeMap<&str, Value> = own.map(|calls| (&*calls.hook, show(calls))).collect();
            json!({
                "name": plugin.name,
                "generation": plugin.generation,
                "hash": plugin.hash,
                "hooks": plugin.hooks,
                "phase": phase(&plugin.name),
                "calls": by_hook,
            })
        })
        .collect();
    ok(json!({
        "instance": web.router.instance,
        "generation": status.generation,
        "plugins": plugins,
        "error": status.error,
        "can_roll_back": web.reloader.can_roll_back(),
        "is_rolled_back": web.reloader.is_rolled_back(),
    }))
}
