//! What the methods take, and what they answer, as JSON.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    auth::Overrides,
    config::Target,
    protocol::{PastPublication, Payload, Refusal, Tag, centrifuge::WireInfo as Info},
};

/// A refusal for what makes no sense, and why.
pub(super) fn bad(why: impl std::fmt::Display) -> Refusal {
    Refusal { reason: format!("bad request: {why}").into(), ..Refusal::BAD_REQUEST }
}

/// Reads parameters.
pub(super) fn read<'a, T: Deserialize<'a>>(parameters: &'a [u8]) -> Result<T, Refusal> {
    // serde would take a list for a struct, its fields in order.
    if !parameters.trim_ascii_start().starts_with(b"{") {
        return Err(bad("expected a JSON object"));
    }
    serde_json::from_slice(parameters).map_err(bad)
}

/// A name that must be there.
pub(super) fn required<'a>(field: &str, value: &'a str) -> Result<&'a str, Refusal> {
    if value.is_empty() { Err(bad(format!("`{field}` is required"))) } else { Ok(value) }
}

/// The body of a message: JSON as it stands, or bytes in base64.
pub(super) fn payload(data: Option<&RawValue>, b64data: Option<&str>) -> Result<Payload, Refusal> {
    match (data, b64data) {
        (_, Some(text)) if !text.is_empty() => {
            let bytes = data_encoding::BASE64.decode(text.as_bytes());
            bytes.map(Payload::Binary).map_err(|error| bad(format!("`b64data` is not base64: {error}")))
        }
        (Some(data), _) => Ok(Payload::Text(data.get().to_owned())),
        (None, _) => Err(bad("`data` is required")),
    }
}

/// A JSON text that is for clients: as it stands, or in base64.
pub(super) fn json_text<'a>(
    field: &str,
    value: Option<&'a RawValue>,
    b64: Option<&str>,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(b64) = b64.filter(|text| !text.is_empty()) else {
        return Ok(value.map(RawValue::get).filter(|text| *text != "null").map(Cow::Borrowed));
    };
    let bytes = data_encoding::BASE64.decode(b64.as_bytes()).map_err(|_| bad(format!("`b64{field}` is not base64")))?;
    let text = String::from_utf8(bytes).map_err(|_| bad(format!("`b64{field}` is not a text")))?;
    serde_json::from_str::<&RawValue>(&text).map_err(|_| bad(format!("`b64{field}` is not JSON")))?;
    Ok(Some(Cow::Owned(text)))
}

/// `null` is a message like others; serde would take it for none.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Targets as they are written in the config.
pub(super) fn targets(field: &str, texts: &[Cow<'_, str>]) -> Result<Vec<Target>, Refusal> {
    let shape = r#"expected "room:…", "user:…", "connection:…", "pattern:…" or "everyone""#;
    let parse = |text: &Cow<'_, str>| {
        let target = Target::parse(text).ok_or_else(|| bad(format!("`{field}`: `{text}` is no target; {shape}")))?;
        match &target {
            Target::Connection(id) if crate::id::ConnectionId::parse(id).is_none() => {
                Err(bad(format!("`{field}`: `{id}` is not the id of a connection")))
            }
            Target::Pattern(pattern) => crate::config::Pattern::parse(pattern).map(|_| ()).map_err(bad),
            _ => Ok(()),
        }?;
        Ok(target)
    };
    texts.iter().map(parse).collect()
}

/// Tags for a message.
pub(super) fn tags(tags: BTreeMap<Cow<'_, str>, Cow<'_, str>>) -> Vec<Tag<'static>> {
    tags.into_iter().map(|(name, value)| (name.into_owned().into(), value.into_owned().into())).collect()
}

#[derive(Deserialize)]
pub(super) struct Publish<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) channels: Vec<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) b64data: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) skip_history: Option<bool>,
    #[serde(borrow, default)]
    pub(super) tags: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(borrow, default)]
    pub(super) idempotency_key: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Since<'a> {
    #[serde(default)]
    pub(super) offset: u64,
    #[serde(borrow, default)]
    pub(super) epoch: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct Subscribe<'a> {
    #[serde(borrow, default)]
    pub(super) user: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) client: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) to: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) except: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) channel: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) b64info: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) b64data: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) recover_since: Option<Since<'a>>,
    #[serde(default)]
    pub(super) expire_at: Option<i64>,
    #[serde(default, rename = "override")]
    pub(super) overrides: Option<Overrides>,
}

#[derive(Deserialize)]
pub(super) struct Disconnect<'a> {
    #[serde(borrow, default)]
    pub(super) user: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) client: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) to: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) except: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) whitelist: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    pub(super) disconnect: Option<CloseWith<'a>>,
}

#[derive(Deserialize)]
pub(super) struct CloseWith<'a> {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(borrow, default)]
    pub(super) reason: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct Channel<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct History<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Cow<'a, str>,
    #[serde(default)]
    pub(super) limit: Option<i64>,
    #[serde(borrow, default)]
    pub(super) since: Option<Since<'a>>,
    #[serde(default)]
    pub(super) reverse: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Channels<'a> {
    #[serde(borrow, default)]
    pub(super) pattern: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Rpc<'a> {
    #[serde(borrow, default)]
    pub(super) method: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) params: Option<&'a RawValue>,
    /// Ours: ask the plugins of every instance.
    #[serde(default)]
    pub(super) all: bool,
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send<'a> {
    #[serde(borrow)]
    pub(super) to: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) except: Vec<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) b64data: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(default)]
    pub(super) local: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requests<'a> {
    #[serde(borrow)]
    pub(super) to: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) except: Vec<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connections<'a> {
    #[serde(borrow, default)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) instance: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) limit: Option<usize>,
    #[serde(borrow, default)]
    pub(super) cursor: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Members<'a> {
    #[serde(borrow)]
    pub(super) channel: Cow<'a, str>,
    #[serde(default)]
    pub(super) limit: Option<usize>,
    #[serde(borrow, default)]
    pub(super) cursor: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Users<'a> {
    #[serde(borrow)]
    pub(super) users: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    #[serde(default)]
    pub(super) all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain<'a> {
    #[serde(borrow, default)]
    pub(super) instance: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// A message from a room's history.
#[derive(Serialize)]
pub(super) struct Publication<'a> {
    offset: u64,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Info<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

impl<'a> Publication<'a> {
    /// None: its body is not JSON.
    pub(super) fn new(past: &'a PastPublication) -> Option<Self> {
        Some(Self {
            offset: past.offset,
            data: RawValue::from_string(past.payload.to_json().into_owned()).ok()?,
            info: past.sender.as_ref().map(Info::from),
            tags: past.tags.iter().map(|(name, value)| (&**name, &**value)).collect(),
        })
    }
}

/// Said only if it is so: the answer is of this instance alone, or an instance
/// did not report.
#[derive(Serialize)]
pub(super) struct Stated<T: Serialize> {
    #[serde(flatten)]
    pub(super) value: T,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) stale: bool,
}
