//! Documents of rooms: who reads and writes them, and who is told.
//!
//! A change reaches members as a publication whose tag `record` names the
//! document. What a member knows is the version: the next one comes as a
//! patch; where an instance has missed one, its members get the whole document.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Envelope, Router, is_personal, join::check_name, may_publish, remote::refusal, run_hooks};
use crate::{
    cluster::{RecordWrite, envelope::Change},
    config::RecordsConfig,
    hub::{Connection, Seen},
    id::RoomName,
    protocol::{Broadcast, MemberInfo, Payload, PayloadRef, Publication, Push, Refusal, Tag},
    room::records::{Documents, Edit, NAME_MAX, Record, Unwritten},
    session::flusher::Batch,
};

/// How often a write without a version is tried on what others have written.
const TRIES: usize = 1_000;

/// How often a document is read again that Redis does not give, and when.
const REREADS: usize = 120;
const REREAD: Duration = Duration::from_millis(500);

/// Versions that members here have been told, by room and document.
#[derive(Debug, Default)]
pub(super) struct Versions(Mutex<HashMap<RoomName, HashMap<String, u64>>>);

/// What a write came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Edited {
    /// It has this version now.
    Written(u64),
    /// The version that the writer names is not the one that is there.
    Conflict(Record),
}

impl Edited {
    /// As clients and the server API read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Written(version) => json!({ "version": version }),
            Self::Conflict(Record { version, text }) => {
                let data: Value = serde_json::from_str(text).unwrap_or_default();
                json!({ "conflict": true, "version": version, "data": data })
            }
        }
    }
}

impl Router {
    fn records_of(&self, room: &str) -> Result<RecordsConfig, Refusal> {
        let generation = self.generation();
        let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        entry.records.ok_or(Refusal::NOT_AVAILABLE)
    }

    /// All documents of a room.
    ///
    /// # Errors
    /// If the room has none, or Redis does not answer.
    pub async fn records(&self, room: &str) -> Result<Vec<(String, Record)>, Refusal> {
        self.records_of(room)?;
        Ok(self.documents(room).await?.into_live())
    }

    async fn documents(&self, room: &str) -> Result<Documents, Refusal> {
        match &self.cluster {
            None => Ok(self.memory_records.all(room)),
            Some(cluster) => cluster.records(room).await.map_err(refusal),
        }
    }

    async fn record(&self, room: &str, name: &str) -> Result<Record, Refusal> {
        match &self.cluster {
            None => Ok(self.memory_records.get(room, name)),
            Some(cluster) => cluster.record(room, name).await.map_err(refusal),
        }
    }

    /// Writes a document of a room. With a `version` it is written only if the
    /// document has that one; 0: if there is none.
    ///
    /// # Errors
    /// If it is too large or one too many, or Redis does not answer.
    pub async fn edit_record(
        self: &Arc<Self>,
        room: &str,
        name: &str,
        edit: &Edit,
        version: Option<u64>,
    ) -> Result<Edited, Refusal> {
        let config = self.records_of(room)?;
        check_name(name, NAME_MAX)?;
        let mut record = self.record(room, name).await?;
        for _ in 0..TRIES {
            // 0 is that of one that is not there, also of one that was.
            let is_there = |version| version == record.version || (version == 0 && record.text.is_empty());
            if version.is_some_and(|version| !is_there(version)) {
                return Ok(Edited::Conflict(record));
            }
            if *edit == Edit::Delete && record.text.is_empty() {
                return Ok(Edited::Written(record.version));
            }
            let text = edit.apply(&record.text);
            if text.len() > config.size {
                return Err(Refusal::LIMIT_EXCEEDED);
            }
            let patch = match edit {
                // A patch on nothing is the whole.
                Edit::Patch(patch) if !record.text.is_empty() => Some(patch.to_string()),
                _ => None,
            };
            let change = Change {
                room: room.into(),
                name: name.into(),
                version: record.version + 1,
                is_whole: patch.is_none(),
                patch: patch.unwrap_or_else(|| text.clone()).into(),
            };
            match &self.cluster {
                None => {
                    let (count, ttl) = (config.count, config.ttl);
                    let tell = |_| self.tell_change(&change);
                    match self.memory_records.write(room, name, record.version, text, count, ttl, tell) {
                        Ok(version) => return Ok(Edited::Written(version)),
                        Err(Unwritten::Full) => return Err(Refusal::LIMIT_EXCEEDED),
                        Err(Unwritten::Conflict) => record = self.memory_records.get(room, name),
                    }
                }
                Some(cluster) => {
                    let write = cluster.write_record(record.version, &text, change, config.ttl, config.count);
                    match write.await.map_err(refusal)? {
                        RecordWrite::Written(version) => return Ok(Edited::Written(version)),
                        RecordWrite::Full => return Err(Refusal::LIMIT_EXCEEDED),
                        RecordWrite::Conflict(there) => record = there,
                    }
                }
            }
        }
        Err(Refusal::BUS_DOWN)
    }

    /// A client's `wayleave.records` and `wayleave.record`: reads all documents
    /// of a room, or writes one, through the hooks that a message would pass.
    ///
    /// # Errors
    /// Why it may not.
    pub async fn records_call(
        self: &Arc<Self>,
        from: &Arc<Connection>,
        method: &str,
        data: Option<&Payload>,
    ) -> Result<String, Refusal> {
        let asked: Value = data.and_then(|data| serde_json::from_str(&data.to_json()).ok()).unwrap_or_default();
        let room = asked["room"].as_str().ok_or(Refusal::BAD_REQUEST)?;
        let generation = self.generation();
        check_name(room, generation.config.limits.name_length)?;
        let (entry, pipeline) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        let membership = from.membership(room);
        if method == "records" {
            membership.ok_or(Refusal::PERMISSION_DENIED)?;
            return Ok(json!({ "records": to_json(self.records(room).await?) }).to_string());
        }
        if !may_publish(entry, membership.as_ref()) || is_personal(&generation, room) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        let version = match &asked["version"] {
            Value::Null => None,
            version => Some(version.as_u64().ok_or(Refusal::BAD_REQUEST)?),
        };
        let sender = from.as_member(membership.map_or_else(|| "".into(), |membership| membership.info));
        let mut envelope = Envelope {
            id: self.ids.next(),
            room,
            sender: &sender,
            payload: Payload::Text(asked.to_string()),
            keep: true,
            deliveries: Vec::new(),
        };
        if !run_hooks(pipeline, &mut envelope)? {
            return Err(Refusal::PERMISSION_DENIED);
        }
        // As the hooks have left it.
        let asked: Value = serde_json::from_str(&envelope.payload.to_json()).unwrap_or_default();
        let name = asked["record"].as_str().ok_or(Refusal::BAD_REQUEST)?;
        let edit = Edit::read(&asked).ok_or(Refusal::BAD_REQUEST)?;
        Ok(self.edit_record(room, name, &edit, version).await?.to_json().to_string())
    }

    /// A document changed somewhere.
    pub(super) fn on_record(self: &Arc<Self>, change: &Change<'_>) {
        let known = {
            let mut versions = self.versions.0.lock();
            let Some(room) = versions.get_mut(&*change.room) else { return };
            let known = room.entry(change.name.as_ref().to_owned()).or_default();
            let before = *known;
            *known = before.max(change.version);
            before
        };
        if change.version <= known {
            return;
        }
        if change.version == known + 1 || change.is_whole {
            return self.tell_change(change);
        }
        let (router, room) = (Arc::clone(self), RoomName::from(&*change.room));
        let name = change.name.as_ref().to_owned();
        self.tasks.spawn(async move {
            for _ in 0..REREADS {
                if let Ok(record) = router.record(&room, &name).await {
                    return router.tell_whole(&room, &name, &record, None);
                }
                tokio::select! {
                    () = tokio::time::sleep(REREAD) => {}
                    () = router.stop.cancelled() => return,
                }
            }
        });
    }

    /// Tells a new member all documents of its room.
    pub(super) async fn tell_records(self: &Arc<Self>, connection: &Arc<Connection>, room: &RoomName) {
        self.versions.0.lock().entry(Arc::clone(room)).or_default();
        let Ok(records) = self.records(room).await else { return };
        for (name, record) in &records {
            // What is read may be ahead of what is heard. The others would not
            // be told of that any more.
            let is_news = self.versions.0.lock().get_mut(room).is_some_and(|known| {
                let version = known.entry(name.clone()).or_default();
                let before = std::mem::replace(version, record.version.max(*version));
                before < record.version
            });
            self.tell_whole(room, name, record, (!is_news).then_some(connection));
        }
    }

    /// Something may have been missed in all rooms with documents.
    pub(super) async fn compare_records(self: &Arc<Self>) {
        let rooms: Vec<RoomName> = self.versions.0.lock().keys().cloned().collect();
        for room in rooms {
            let Ok(documents) = self.documents(&room).await else { continue };
            let mut news = Vec::new();
            if let Some(known) = self.versions.0.lock().get_mut(&room) {
                // Those that were deleted may not be remembered.
                for name in known.keys().chain(documents.records.keys()).cloned().collect::<BTreeSet<_>>() {
                    let record = documents.get(&name);
                    let version = known.entry(name.clone()).or_default();
                    // A Redis that was wiped counts anew.
                    if std::mem::replace(version, record.version) != record.version {
                        news.push((name, record));
                    }
                }
            }
            for (name, record) in news {
                self.tell_whole(&room, &name, &record, None);
            }
        }
    }

    /// The last member here has left.
    pub(super) fn forget_records(&self, room: &str) {
        self.versions.0.lock().remove(room);
    }

    fn tell_change(&self, change: &Change<'_>) {
        let kind = if change.is_whole { "data" } else { "patch" };
        let text = if change.patch.is_empty() { "null" } else { &*change.patch };
        self.tell_record(&change.room, &change.name, change.version, kind, text, None);
    }

    fn tell_whole(&self, room: &str, name: &str, record: &Record, only: Option<&Arc<Connection>>) {
        let text = if record.text.is_empty() { "null" } else { &record.text };
        self.tell_record(room, name, record.version, "data", text, only);
    }

    fn tell_record(
        &self,
        room: &str,
        name: &str,
        version: u64,
        kind: &str,
        text: &str,
        only: Option<&Arc<Connection>>,
    ) {
        let data = format!(r#"{{"record":{},"version":{version},"{kind}":{text}}}"#, json!(name));
        let tags: [Tag<'_>; 1] = [("record".into(), name.into())];
        let push = Push::Publication(Publication {
            room,
            payload: PayloadRef::Text(&data),
            sender: None::<&MemberInfo>,
            tags: &tags,
            offset: 0,
        });
        let mut batch = Batch::new(&self.flusher);
        let broadcast = Broadcast::new(push);
        match only {
            Some(connection) => self.hub.deliver_each([connection], &broadcast, &mut Seen::default(), &mut batch),
            None => self.hub.deliver_room(room, &broadcast, &mut Seen::default(), &mut batch),
        };
    }
}

/// As clients and the server API read them.
#[must_use]
pub fn to_json(records: Vec<(String, Record)>) -> Value {
    let each = records.into_iter().map(|(name, Record { version, text })| {
        let data: Value = serde_json::from_str(&text).unwrap_or_default();
        (name, json!({ "version": version, "data": data }))
    });
    Value::Object(each.collect())
}
