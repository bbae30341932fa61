//! Puts the cases of a file to a plugin.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    log::GuestLog,
    outcome::{self, Outcome, same},
    stage::Stage,
};
use crate::{
    config::cases::{Case, CaseFile, Expect, Step, named},
    plugin::{
        Caller, EventView, Failure, FailureKind, HelloView, Hook, JoinView, MessageView, MomentView, Plugin, PluginHost,
    },
    protocol::Payload,
};

/// How one step went.
#[derive(Debug)]
pub(super) struct StepReport {
    /// Where it stands in the file.
    pub(super) line: usize,
    /// What was expected, if anything.
    pub(super) expected: Option<Expect>,
    pub(super) actual: Expect,
    pub(super) note: Option<String>,
    /// What the plugin logged.
    pub(super) log: Vec<String>,
    pub(super) took: Duration,
}

impl StepReport {
    /// True if it is as expected.
    pub(super) fn is_good(&self) -> bool {
        self.expected.as_ref().is_some_and(|expected| {
            let kept = |side: &Expect| side.kv.clone().map(Value::Object);
            let same_kept = match (kept(expected), kept(&self.actual)) {
                (Some(one), Some(other)) => same(&one, &other),
                _ => true,
            };
            same_kept && same(&expected.answer, &self.actual.answer)
        })
    }
}

/// A plugin and what it takes to ask it.
pub(super) struct Subject<'a> {
    pub(super) host: &'a PluginHost,
    pub(super) stage: &'a Stage,
    pub(super) log: &'a GuestLog,
    /// As the store and the log call it.
    pub(super) name: &'a str,
    /// A folder or a file.
    pub(super) path: &'a Path,
}

type Loaded = HashMap<String, Result<Arc<Plugin>, String>>;

impl Subject<'_> {
    /// Puts all cases of a file, one after the other.
    ///
    /// # Errors
    /// If the plugin cannot be used as the file's `[plugin]` says.
    pub(super) fn put(&self, file: &CaseFile) -> Result<Vec<Vec<StepReport>>, String> {
        let mut loaded = Loaded::new();
        if let Err(reason) = self.load(file, None, &mut loaded)
            && !is_about_settings(&reason)
        {
            return Err(reason);
        }
        Ok(file.cases.iter().map(|case| self.put_case(file, case, &mut loaded)).collect())
    }

    fn load(&self, file: &CaseFile, settings: Option<&Value>, loaded: &mut Loaded) -> Result<Arc<Plugin>, String> {
        let key = settings.map_or_else(String::new, Value::to_string);
        let load = || {
            let config = named(&file.plugin, self.name, self.path, settings);
            let plugins = self.host.load(&[config], &[]);
            plugins.map(|mut plugins| plugins.remove(0)).map_err(|errors| errors[0].reason.clone())
        };
        loaded.entry(key).or_insert_with(load).clone()
    }

    fn put_case(&self, file: &CaseFile, case: &Case, loaded: &mut Loaded) -> Vec<StepReport> {
        self.stage.begin(self.name, case);
        // What `init` sees is what the first step sees.
        self.stage.turn_to(&case.steps[0]);
        let started = Instant::now();
        let plugin = self.load(file, case.settings.as_ref(), loaded);
        let init = started.elapsed();
        // Loading has asked `init`, which may have kept something.
        self.stage.begin(self.name, case);
        case.steps.iter().map(|step| self.put_step(step, plugin.as_deref(), init)).collect()
    }

    fn put_step(&self, step: &Step, plugin: Result<&Plugin, &String>, init: Duration) -> StepReport {
        self.stage.turn_to(step);
        if !matches!((&plugin, step.hook), (_, None) | (Err(_), _)) {
            // What was logged at the start belongs to `init`.
            self.log.take();
        }
        let (outcome, took) = match (plugin, step.hook) {
            (Ok(plugin), Some(hook)) => ask(plugin, hook, step),
            (Ok(_), None) => (Outcome::Init(Ok(())), init),
            (Err(reason), None) => {
                let why = reason.strip_prefix(INIT_SAYS).unwrap_or(reason);
                (Outcome::Init(Err(why.to_owned())), init)
            }
            (Err(reason), Some(hook)) => (Outcome::Failed(not_started(self.name, hook, reason)), init),
        };
        let like = step.expect.as_ref().map_or(Value::Null, |expect| expect.answer.clone());
        let kept = self.stage.kept(self.name);
        let kv = match &step.expect {
            Some(expect) => expect.kv.as_ref().map(|like| outcome::kept(&kept, like)),
            None => Some(outcome::kept(&kept, &serde_json::Map::new())).filter(|kept| !kept.is_empty()),
        };
        StepReport {
            line: step.line,
            expected: step.expect.clone(),
            actual: Expect { answer: outcome.to_json(&like), kv },
            note: outcome.note().map(str::to_owned),
            log: self.log.take(),
            took,
        }
    }
}

/// How a refusal of `init` begins among the reasons why a plugin cannot be loaded.
const INIT_SAYS: &str = "`init` says: ";

/// True if other settings may help: a case of its own may say so.
fn is_about_settings(reason: &str) -> bool {
    reason.starts_with(INIT_SAYS)
}

fn not_started(plugin: &str, hook: Hook, reason: &str) -> Failure {
    Failure { plugin: plugin.to_owned(), hook, kind: FailureKind::Start, reason: reason.to_owned() }
}

/// Each step has a fresh guest, as live any call may have: memory is no state.
fn ask(plugin: &Plugin, hook: Hook, step: &Step) -> (Outcome, Duration) {
    if !plugin.hooks().contains(&hook) {
        let has: Vec<_> = plugin.hooks().iter().map(|hook| hook.key()).collect();
        let reason = format!("it does not have this hook; it has {}", has.join(", "));
        return (Outcome::Failed(not_started(plugin.name(), hook, &reason)), Duration::ZERO);
    }
    if let Err(failure) = plugin.renew() {
        return (Outcome::Failed(failure), Duration::ZERO);
    }
    let started = Instant::now();
    let outcome = put(plugin, hook, step);
    (outcome.unwrap_or_else(Outcome::Failed), started.elapsed())
}

fn put(plugin: &Plugin, hook: Hook, step: &Step) -> Result<Outcome, Failure> {
    let null = Payload::Text("null".to_owned());
    let caller = Caller { connection: &step.connection, user: &step.user, info: &step.info };
    let message = MessageView { id: &step.id, room: &step.room, payload: step.payload.as_ref().unwrap_or(&null) };
    Ok(match hook {
        Hook::Authenticate => Outcome::Authenticate(plugin.authenticate(HelloView {
            connection: &step.connection,
            token: &step.token,
            data: step.payload.as_ref(),
            name: &step.library,
            version: &step.version,
        })?),
        Hook::Authorize => {
            let join = JoinView { room: &step.room, token: &step.token, data: step.payload.as_ref() };
            Outcome::Authorize(plugin.join(caller, join)?)
        }
        Hook::AuthorizePublish => Outcome::AuthorizePublish(plugin.publish(caller, message)?),
        Hook::Transform => Outcome::Transform(plugin.transform(caller, message)?),
        Hook::Route => Outcome::Route(plugin.route(caller, message)?),
        Hook::Observe => {
            let is_about_room = matches!(step.event, "joined" | "left");
            let event = EventView { kind: step.event, room: if is_about_room { &step.room } else { "" } };
            Outcome::Actions(plugin.observe(caller, event)?)
        }
        Hook::Tick => {
            let period = plugin.period().unwrap_or_default();
            Outcome::Actions(plugin.tick(MomentView { now: step.now, period })?)
        }
        Hook::Call => Outcome::Call(plugin.answer(caller, &step.method, message.payload)?),
    })
}
