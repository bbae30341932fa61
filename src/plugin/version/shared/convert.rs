//! From the bindings' types to the router's, and back. What an answer holds is
//! checked here: texts are JSON, and no answer reaches further than it may.

use serde::de::IgnoredAny;

use super::{
    super::BadAnswer,
    action,
    bindings::{exports::wayleave::plugin as hooks, wayleave::plugin::types as wit},
};
use crate::{
    config::Target,
    plugin::types::{Action, Caller, Delivery, MessageView, Permission},
    protocol::{Payload, Refusal, one_line},
};

/// A payload that clients can be sent: a text must be one JSON value.
pub(super) fn checked(payload: Payload) -> Result<Payload, BadAnswer> {
    match &payload {
        Payload::Text(text) if serde_json::from_str::<IgnoredAny>(text).is_err() => {
            Err(BadAnswer(format!("a text payload must be one JSON value, and {} is not", excerpt(text))))
        }
        _ => Ok(payload),
    }
}

pub(super) fn json_or_empty(text: String) -> Result<String, BadAnswer> {
    if text.is_empty() || serde_json::from_str::<IgnoredAny>(&text).is_ok() {
        return Ok(one_line(text));
    }
    Err(BadAnswer(format!("`info` must be JSON or empty, and {} is neither", excerpt(&text))))
}

fn excerpt(text: &str) -> String {
    format!("{:?}", &text[..text.floor_char_boundary(60)])
}

/// Targets of one answer that reach any number of rooms or connections.
const WIDE_MAX: usize = 16;

fn check_reach<'a>(targets: impl Iterator<Item = &'a wit::Target>) -> Result<(), BadAnswer> {
    let wide = targets.filter(|target| matches!(target, wit::Target::Pattern(_) | wit::Target::Everyone)).count();
    if wide > WIDE_MAX {
        return Err(BadAnswer(format!("more than {WIDE_MAX} targets that are a pattern or everyone")));
    }
    Ok(())
}

/// Who is moved between rooms: types.wit allows a connection or a user.
pub(super) fn mover(who: wit::Target) -> Result<Target, BadAnswer> {
    match who {
        wit::Target::Connection(_) | wit::Target::User(_) => Ok(who.into()),
        _ => Err(BadAnswer("only a connection or a user can join or leave".into())),
    }
}

pub(super) fn deliveries(list: Vec<wit::Delivery>, max: usize) -> Result<Vec<Delivery>, BadAnswer> {
    let n = list.iter().map(|delivery| 1 + delivery.to.len() + delivery.except.len()).sum::<usize>();
    if n > max.saturating_mul(2) || list.iter().map(|delivery| delivery.to.len()).sum::<usize>() > max {
        return Err(BadAnswer(format!("more targets than `targets` ({max}) allows")));
    }
    check_reach(list.iter().flat_map(|delivery| delivery.to.iter().chain(&delivery.except)))?;
    list.into_iter().map(delivery).collect()
}

pub(super) fn delivery(delivery: wit::Delivery) -> Result<Delivery, BadAnswer> {
    Ok(Delivery {
        to: delivery.to.into_iter().map(Into::into).collect(),
        except: delivery.except.into_iter().map(Into::into).collect(),
        payload: delivery.payload.map(|payload| checked(payload.into())).transpose()?,
    })
}

pub(super) fn actions(list: Vec<wit::Action>, max: usize) -> Result<Vec<Action>, BadAnswer> {
    let targets = |action: &wit::Action| match action {
        wit::Action::Send(delivery) => 1 + delivery.to.len() + delivery.except.len(),
        _ => 1,
    };
    if list.iter().map(targets).sum::<usize>() > max {
        return Err(BadAnswer(format!("more targets and actions than `targets` ({max}) allows")));
    }
    let wide = |action: &wit::Action| match action {
        wit::Action::Send(delivery) => delivery.to.iter().chain(&delivery.except).cloned().collect(),
        wit::Action::Disconnect(end) => vec![end.who.clone()],
        _ => Vec::new(),
    };
    check_reach(list.iter().flat_map(wide).collect::<Vec<_>>().iter())?;
    list.into_iter().map(action).collect()
}

impl From<hooks::lifecycle::Readiness> for Result<(), String> {
    fn from(readiness: hooks::lifecycle::Readiness) -> Self {
        match readiness {
            hooks::lifecycle::Readiness::Ready => Ok(()),
            hooks::lifecycle::Readiness::Failed(why) => Err(why),
        }
    }
}

impl<'a> From<Caller<'a>> for wit::Client<'a> {
    fn from(caller: Caller<'a>) -> Self {
        let Caller { connection, user, info } = caller;
        Self { connection, user, info, attributes: &[] }
    }
}

impl<'a> From<MessageView<'a>> for wit::Message<'a> {
    fn from(message: MessageView<'a>) -> Self {
        let MessageView { id, room, payload } = message;
        Self { id, room, payload: payload.into(), attributes: &[] }
    }
}

impl<'a> From<&'a Payload> for wit::PayloadParam<'a> {
    fn from(payload: &'a Payload) -> Self {
        match payload {
            Payload::Text(text) => Self::Text(text),
            Payload::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<wit::PayloadResult> for Payload {
    fn from(payload: wit::PayloadResult) -> Self {
        match payload {
            wit::PayloadResult::Text(text) => Self::Text(text),
            wit::PayloadResult::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<Payload> for wit::PayloadResult {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Text(text) => Self::Text(text),
            Payload::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<wit::Refusal> for Refusal {
    fn from(refusal: wit::Refusal) -> Self {
        Self::from_plugin(refusal.code, &refusal.reason, refusal.temporary)
    }
}

impl From<wit::Target> for Target {
    fn from(target: wit::Target) -> Self {
        match target {
            wit::Target::Room(name) => Self::Room(name),
            wit::Target::User(name) => Self::User(name),
            wit::Target::Connection(name) => Self::Connection(name),
            wit::Target::Pattern(name) => Self::Pattern(name),
            wit::Target::Everyone => Self::Everyone,
        }
    }
}

impl From<hooks::authorize::Permission> for Permission {
    fn from(permission: hooks::authorize::Permission) -> Self {
        match permission {
            hooks::authorize::Permission::Configured => Self::Configured,
            hooks::authorize::Permission::Granted => Self::Granted,
            hooks::authorize::Permission::Denied => Self::Denied,
        }
    }
}
