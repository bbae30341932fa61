//! From the hooks of one version's bindings to those that the router knows.

use wasmtime::component::{Instance, InstancePre};

use super::{
    super::{GuestStore, Hooks},
    VERSION,
    bindings::{exports::wayleave::plugin as hooks, wayleave::plugin::types as wit},
    convert::{actions, checked, deliveries, json_or_empty},
};
use crate::{
    plugin::{
        host::HostState,
        types::{
            Action, Admission, Answer, Authentication, Caller, EventView, HelloView, Hook, Identity, JoinView,
            MessageView, MomentView, Routing, Terms, Verdict,
        },
    },
    protocol::{Payload, Refusal},
};

/// Where a plugin's functions are, found once for each component.
pub(super) struct Indices {
    lifecycle: Option<hooks::lifecycle::GuestIndices>,
    self_test: Option<hooks::self_test::GuestIndices>,
    authenticate: Option<hooks::authenticate::GuestIndices>,
    authorize: Option<hooks::authorize::GuestIndices>,
    authorize_publish: Option<hooks::authorize_publish::GuestIndices>,
    transform: Option<hooks::transform::GuestIndices>,
    route: Option<hooks::route::GuestIndices>,
    observe: Option<hooks::observe::GuestIndices>,
    tick: Option<hooks::tick::GuestIndices>,
    call: Option<hooks::call::GuestIndices>,
}

impl Indices {
    /// `has` says which interfaces the component exports by name; each of
    /// them must then have what it should.
    pub(super) fn new(pre: &InstancePre<HostState>, has: &dyn Fn(&str) -> bool) -> wasmtime::Result<Self> {
        macro_rules! find {
            ($module:ident, $name:literal) => {
                has($name).then(|| hooks::$module::GuestIndices::new(pre)).transpose()?
            };
        }
        Ok(Self {
            lifecycle: find!(lifecycle, "lifecycle"),
            self_test: find!(self_test, "self-test"),
            authenticate: find!(authenticate, "authenticate"),
            authorize: find!(authorize, "authorize"),
            authorize_publish: find!(authorize_publish, "authorize-publish"),
            transform: find!(transform, "transform"),
            route: find!(route, "route"),
            observe: find!(observe, "observe"),
            tick: find!(tick, "tick"),
            call: find!(call, "call"),
        })
    }
}

impl super::super::Indices for Indices {
    fn hooks(&self) -> Vec<Hook> {
        let has = |hook: &&Hook| match hook {
            Hook::Authenticate => self.authenticate.is_some(),
            Hook::Authorize => self.authorize.is_some(),
            Hook::AuthorizePublish => self.authorize_publish.is_some(),
            Hook::Transform => self.transform.is_some(),
            Hook::Route => self.route.is_some(),
            Hook::Observe => self.observe.is_some(),
            Hook::Tick => self.tick.is_some(),
            Hook::Call => self.call.is_some(),
        };
        Hook::ALL.iter().filter(has).copied().collect()
    }

    fn load(&self, store: &mut GuestStore, instance: &Instance) -> wasmtime::Result<Box<dyn Hooks>> {
        Ok(Box::new(Functions::load(self, store, instance)?))
    }
}

/// A live guest's functions, with their types checked.
struct Functions {
    lifecycle: Option<hooks::lifecycle::Guest>,
    self_test: Option<hooks::self_test::Guest>,
    authenticate: Option<hooks::authenticate::Guest>,
    authorize: Option<hooks::authorize::Guest>,
    authorize_publish: Option<hooks::authorize_publish::Guest>,
    transform: Option<hooks::transform::Guest>,
    route: Option<hooks::route::Guest>,
    observe: Option<hooks::observe::Guest>,
    tick: Option<hooks::tick::Guest>,
    call: Option<hooks::call::Guest>,
}

fn absent() -> wasmtime::Error {
    wasmtime::format_err!("the plugin does not have this hook")
}

impl Functions {
    fn load(indices: &Indices, store: &mut GuestStore, instance: &Instance) -> wasmtime::Result<Self> {
        macro_rules! load {
            ($field:ident, $interface:literal) => {
                match &indices.$field {
                    Some(found) => Some(found.load(&mut *store, instance).map_err(|error| {
                        error.context(format!("`{}` does not have the type of version {VERSION}", $interface))
                    })?),
                    None => None,
                }
            };
        }
        Ok(Self {
            lifecycle: load!(lifecycle, "lifecycle"),
            self_test: load!(self_test, "self-test"),
            authenticate: load!(authenticate, "authenticate"),
            authorize: load!(authorize, "authorize"),
            authorize_publish: load!(authorize_publish, "authorize-publish"),
            transform: load!(transform, "transform"),
            route: load!(route, "route"),
            observe: load!(observe, "observe"),
            tick: load!(tick, "tick"),
            call: load!(call, "call"),
        })
    }
}

impl Hooks for Functions {
    fn init(&self, store: &mut GuestStore, settings: &str) -> wasmtime::Result<Result<(), String>> {
        self.lifecycle.as_ref().map_or(Ok(Ok(())), |hook| hook.call_init(store, settings).map(Into::into))
    }

    fn self_test(&self, store: &mut GuestStore) -> wasmtime::Result<Result<(), String>> {
        self.self_test.as_ref().map_or(Ok(Ok(())), |hook| hook.call_run(store).map(Into::into))
    }

    fn authenticate(&self, store: &mut GuestStore, hello: HelloView<'_>) -> wasmtime::Result<Authentication> {
        let hook = self.authenticate.as_ref().ok_or_else(absent)?;
        let HelloView { connection, token, data, name, version } = hello;
        let data = data.map(wit::PayloadParam::from);
        let hello = hooks::authenticate::Hello { connection, token, data, name, version, attributes: &[] };
        Ok(match hook.call_authenticate(store, hello)? {
            hooks::authenticate::Authentication::Accept(identity) => Authentication::Accept(Identity {
                info: json_or_empty(identity.info)?,
                user: identity.user,
                rooms: identity.rooms,
                expires_at: (identity.expires_at > 0).then_some(identity.expires_at),
            }),
            hooks::authenticate::Authentication::Refuse(refusal) => Authentication::Refuse(refusal.into()),
            hooks::authenticate::Authentication::Abstain => Authentication::Abstain,
        })
    }

    fn join(&self, store: &mut GuestStore, who: Caller<'_>, join: JoinView<'_>) -> wasmtime::Result<Admission> {
        let hook = self.authorize.as_ref().ok_or_else(absent)?;
        let JoinView { room, token, data } = join;
        let data = data.map(wit::PayloadParam::from);
        let request = hooks::authorize::JoinRequest { room, token, data, attributes: &[] };
        Ok(match hook.call_join(store, who.into(), request)? {
            hooks::authorize::Admission::Allow(terms) => Admission::Allow(Terms {
                publish: terms.publish.into(),
                presence: terms.presence.into(),
                info: json_or_empty(terms.info)?,
                data: terms.data.map(|data| checked(data.into())).transpose()?,
            }),
            hooks::authorize::Admission::Refuse(refusal) => Admission::Refuse(refusal.into()),
        })
    }

    fn publish(
        &self,
        store: &mut GuestStore,
        sender: Caller<'_>,
        message: MessageView<'_>,
    ) -> wasmtime::Result<Result<(), Refusal>> {
        let hook = self.authorize_publish.as_ref().ok_or_else(absent)?;
        Ok(match hook.call_publish(store, sender.into(), message.into())? {
            hooks::authorize_publish::Permit::Allow => Ok(()),
            hooks::authorize_publish::Permit::Refuse(refusal) => Err(refusal.into()),
        })
    }

    fn transform(
        &self,
        store: &mut GuestStore,
        sender: Caller<'_>,
        message: MessageView<'_>,
    ) -> wasmtime::Result<Verdict> {
        let hook = self.transform.as_ref().ok_or_else(absent)?;
        Ok(match hook.call_transform(store, sender.into(), message.into())? {
            hooks::transform::Verdict::Pass => Verdict::Pass,
            hooks::transform::Verdict::Replace(payload) => Verdict::Replace(checked(payload.into())?),
            hooks::transform::Verdict::Drop => Verdict::Drop,
            hooks::transform::Verdict::Refuse(refusal) => Verdict::Refuse(refusal.into()),
        })
    }

    fn route(
        &self,
        store: &mut GuestStore,
        sender: Caller<'_>,
        message: MessageView<'_>,
        max: usize,
    ) -> wasmtime::Result<Routing> {
        let hook = self.route.as_ref().ok_or_else(absent)?;
        Ok(match hook.call_route(store, sender.into(), message.into())? {
            hooks::route::Routing::Pass => Routing::Pass,
            hooks::route::Routing::Add(list) => Routing::Add(deliveries(list, max)?),
            hooks::route::Routing::Replace(list) => Routing::Replace(deliveries(list, max)?),
            hooks::route::Routing::Refuse(refusal) => Routing::Refuse(refusal.into()),
        })
    }

    fn observe(
        &self,
        store: &mut GuestStore,
        who: Caller<'_>,
        event: EventView<'_>,
        max: usize,
    ) -> wasmtime::Result<Vec<Action>> {
        let hook = self.observe.as_ref().ok_or_else(absent)?;
        let EventView { kind, room } = event;
        let event = hooks::observe::Event { kind, who: who.into(), room, attributes: &[] };
        Ok(actions(hook.call_observe(store, event)?, max)?)
    }

    fn tick(&self, store: &mut GuestStore, moment: MomentView, max: usize) -> wasmtime::Result<Vec<Action>> {
        let hook = self.tick.as_ref().ok_or_else(absent)?;
        let period = u64::try_from(moment.period.as_millis()).unwrap_or(u64::MAX);
        let moment = hooks::tick::Moment { now: moment.now, period, attributes: &[] };
        Ok(actions(hook.call_tick(store, moment)?, max)?)
    }

    fn call(
        &self,
        store: &mut GuestStore,
        caller: Caller<'_>,
        method: &str,
        payload: &Payload,
        max: usize,
    ) -> wasmtime::Result<Answer> {
        let hook = self.call.as_ref().ok_or_else(absent)?;
        Ok(match hook.call_call(store, caller.into(), method, payload.into())? {
            hooks::call::Answer::Reply(reply) => {
                Answer::Reply(checked(reply.payload.into())?, actions(reply.actions, max)?)
            }
            hooks::call::Answer::Refuse(refusal) => Answer::Refuse(refusal.into()),
            hooks::call::Answer::Unknown => Answer::Unknown,
        })
    }
}
