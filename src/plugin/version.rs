//! The versions of the interface that this gateway speaks, a module for each.
//!
//! What a version's bindings have in common with the others' is written once,
//! in `shared`, and compiled into each; what sets it apart stands in its module.

use wasmtime::{
    Store,
    component::{Instance, InstancePre, Linker},
};

use super::{
    host::HostState,
    types::{
        Action, Admission, Answer, Authentication, Caller, EventView, Grant, HelloView, Hook, JoinView, MessageView,
        MomentView, Routing, Verdict,
    },
};
use crate::protocol::{Payload, Refusal};

mod v0_1_0;
mod v1_0_0;

/// An answer that has the right type and still makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadAnswer(String);

pub(super) type GuestStore = Store<HostState>;

/// One version of the interface.
pub(super) struct Version {
    /// As WIT writes it.
    pub(super) number: &'static str,
    /// Adds the granted interfaces to a linker, and no others.
    pub(super) link: fn(&mut Linker<HostState>, &[Grant]) -> wasmtime::Result<()>,
    /// Finds the interfaces that a component exports by name; each of them must
    /// then have what it should.
    pub(super) indices: FindIndices,
}

type FindIndices = fn(&InstancePre<HostState>, &dyn Fn(&str) -> bool) -> wasmtime::Result<Box<dyn Indices>>;

/// From the oldest to the newest.
pub(super) const VERSIONS: &[Version] = &[v0_1_0::MODULE, v1_0_0::MODULE];

/// Where a component's functions are, found once for each.
pub(super) trait Indices: Send + Sync {
    /// Those that it has.
    fn hooks(&self) -> Vec<Hook>;
    /// A live guest's functions, with their types checked.
    fn load(&self, store: &mut GuestStore, instance: &Instance) -> wasmtime::Result<Box<dyn Hooks>>;
}

/// A live guest's functions. A hook that is not there is an error.
pub(super) trait Hooks: Send {
    /// Err inside Ok: the plugin says that it is not ready.
    fn init(&self, store: &mut GuestStore, settings: &str) -> wasmtime::Result<Result<(), String>>;
    /// Err inside Ok: the plugin says that it does not work.
    fn self_test(&self, store: &mut GuestStore) -> wasmtime::Result<Result<(), String>>;
    fn authenticate(&self, store: &mut GuestStore, hello: HelloView<'_>) -> wasmtime::Result<Authentication>;
    fn join(&self, store: &mut GuestStore, who: Caller<'_>, join: JoinView<'_>) -> wasmtime::Result<Admission>;
    /// Err inside Ok: the message is refused.
    fn publish(
        &self,
        store: &mut GuestStore,
        sender: Caller<'_>,
        message: MessageView<'_>,
    ) -> wasmtime::Result<Result<(), Refusal>>;
    fn transform(
        &self,
        store: &mut GuestStore,
        sender: Caller<'_>,
        message: MessageView<'_>,
    ) -> wasmtime::Result<Verdict>;
    /// `max`: targets that the answer may have; so for the rest.
    fn route(
        &self,
        store: &mut GuestStore,
        sender: Caller<'_>,
        message: MessageView<'_>,
        max: usize,
    ) -> wasmtime::Result<Routing>;
    fn observe(
        &self,
        store: &mut GuestStore,
        who: Caller<'_>,
        event: EventView<'_>,
        max: usize,
    ) -> wasmtime::Result<Vec<Action>>;
    fn tick(&self, store: &mut GuestStore, moment: MomentView, max: usize) -> wasmtime::Result<Vec<Action>>;
    fn call(
        &self,
        store: &mut GuestStore,
        caller: Caller<'_>,
        method: &str,
        payload: &Payload,
        max: usize,
    ) -> wasmtime::Result<Answer>;
}

/// The version here that a component built for `wanted` may use.
///
/// # Errors
/// Both versions, if there is none.
pub(super) fn find(name: &str, wanted: &str) -> Result<&'static Version, String> {
    VERSIONS.iter().find(|version| track(version.number) == track(wanted)).ok_or_else(|| {
        let mine: Vec<_> = VERSIONS.iter().map(|version| version.number).collect();
        let newest = mine.last().copied().unwrap_or_default();
        format!(
            "`{name}` is of version `{wanted}` of the plugin interface, and this gateway speaks {}; build it against wit/{newest}",
            mine.join(" and ")
        )
    })
}

/// What versions must share to fit together, as semver has it: `1` of 1.2.3,
/// `0.1` of 0.1.2, and a pre-release fits only itself.
fn track(number: &str) -> &str {
    if number.contains('-') {
        return number;
    }
    let mut dots = number.match_indices('.').map(|(at, _)| at);
    let end = if number.starts_with("0.") { dots.nth(1) } else { dots.next() };
    &number[..end.unwrap_or(number.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_fit_as_semver_has_it() {
        for (wanted, here) in [("0.1.0", "0.1.0"), ("0.1.7", "0.1.0"), ("1.0.0", "1.0.0"), ("1.4.2", "1.0.0")] {
            assert_eq!(find("wayleave:plugin/log", wanted).map(|version| version.number), Ok(here), "{wanted}");
        }
        for wanted in ["", "0.2.0", "0.10.0", "2.0.0", "10.0.0", "1.0.0-rc.1"] {
            let refused = find("wayleave:plugin/log", wanted).err();
            let names_all = |text: String| text.contains(&format!("`{wanted}`")) && text.contains("0.1.0 and 1.0.0");
            assert!(refused.is_some_and(names_all), "{wanted}");
        }
    }
}
