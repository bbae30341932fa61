//! Core modules: what compilers make, turned into a component.
//!
//! A module that imports WASI preview 1, as those of whole languages do, gets
//! one of ours (`preview1.wat`), so that nothing of WASI is left to import.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

mod world;

use self::world::Names;

const WASI: &str = "wasi_snapshot_preview1";

const PREVIEW1: &str = include_str!("preview1.wat");

/// Where the text has its imports, which stand before everything else.
const PLACE: &str = "(;imports;)";

/// A component of a core module that embeds its component type.
///
/// # Errors
/// If it does not embed it, or imports what nobody has.
pub(crate) fn encode(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let imports = imports(module)?;
    let mut encoder = ComponentEncoder::default().validate(true).module(module)?;
    if imports.iter().any(|(from, _)| from == WASI) {
        encoder = encoder.adapter(WASI, &preview1(&imports)?)?;
    }
    let known = known()?;
    for (from, name) in &imports {
        match from.as_str() {
            WASI if known.contains(name) => {}
            other if other.starts_with("wasi_") || other.starts_with("wasix_") => bail!(
                "it imports `{name}` of `{from}`, which plugins do not get; the gateway stands in for \
                 {WASI} alone, the one of the target wasm32-wasip1"
            ),
            "env" => bail!(
                "it imports `{name}` of `env`: what it was linked from lacks that function, or it was \
                 linked for a page in a browser"
            ),
            _ => {}
        }
    }
    encoder.encode()
}

/// Adds the component type to a module that does not embed it: it follows from
/// what it imports and exports of ours.
///
/// # Errors
/// If it has no hook, or names of ours that there are not.
pub(crate) fn embed(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let imports = imports(module)?.into_iter().map(|(from, _)| from).filter(|from| is_ours(from)).collect();
    let interface = |name: &String| name.split('#').next().filter(|name| is_ours(name)).map(str::to_owned);
    let exports: BTreeSet<_> = exports(module)?.iter().filter_map(interface).collect();
    if exports.is_empty() {
        bail!("it has no hook; in Go, a plugin has those whose packages it imports, such as `wayleave/transform`");
    }
    world::embed(module, &Names { world: "plugin", imports, exports })
}

fn is_ours(name: &str) -> bool {
    name.starts_with("wayleave:plugin/")
}

/// The functions that a module imports, and from where.
fn imports(module: &[u8]) -> anyhow::Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload? {
            for import in section.into_imports() {
                let import = import?;
                found.insert((import.module.to_owned(), import.name.to_owned()));
            }
        }
    }
    Ok(found)
}

/// The names of what a module exports.
fn exports(module: &[u8]) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ExportSection(section) = payload? {
            for export in section {
                found.insert(export?.name.to_owned());
            }
        }
    }
    Ok(found)
}

/// What our WASI has.
fn known() -> anyhow::Result<BTreeSet<String>> {
    exports(&preview1(&BTreeSet::new())?)
}

/// Our WASI for a module with these imports: it may use what the module does,
/// of the module's version, and nothing else, as that has been granted.
fn preview1(imports: &BTreeSet<(String, String)>) -> anyhow::Result<Vec<u8>> {
    let find = |interface: &str| {
        let start = format!("wayleave:plugin/{interface}@");
        imports.iter().map(|(from, _)| from).find(|from| from.starts_with(&start))
    };
    let import =
        |from: &String, name: &str, kind: &str| format!("(import \"{from}\" \"{name}\" (func ${name} {kind}))");
    let (mut head, mut rest, mut uses) = (Vec::new(), Vec::new(), BTreeSet::new());
    match find("log") {
        Some(from) => {
            head.push(import(from, "log", "(param i32 i32 i32)"));
            uses.insert(from.clone());
        }
        None => rest.push("(func $log (param i32 i32 i32))"),
    }
    match find("random") {
        Some(from) => {
            head.push(import(from, "number", "(result i64)"));
            rest.push("(global $is_random i32 (i32.const 1))");
            uses.insert(from.clone());
        }
        None => {
            rest.push("(global $is_random i32 (i32.const 0))");
            rest.push("(func $number (result i64) (unreachable))");
        }
    }
    let text = PREVIEW1.replace(PLACE, &(head.join("\n") + &rest.join("\n")));
    let adapter = wat::parse_str(text).context("preview1.wat")?;
    if uses.is_empty() {
        return Ok(adapter);
    }
    world::embed(&adapter, &Names { world: "preview1", imports: uses, exports: BTreeSet::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        format!("{:#}", encode(&module(text)).unwrap_err())
    }

    #[test]
    fn no_import_of_wasi_is_left() {
        for name in known().unwrap() {
            let adapter = preview1(&BTreeSet::new()).unwrap();
            assert!(imports(&adapter).unwrap().iter().all(|(from, _)| from == "env"), "{name}");
        }
        let component = encode(&module(&format!(
            r#"(module
              (import "{WASI}" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
              (import "{WASI}" "clock_time_get" (func (param i32 i64 i32) (result i32)))
              (memory (export "memory") 1))"#
        )))
        .unwrap();
        assert_eq!(
            imports(&component).unwrap_or_default().iter().filter(|(from, _)| from.contains("wasi:")).count(),
            0
        );
    }

    #[test]
    fn what_nobody_has_is_named() {
        let text = refused(r#"(module (import "wasi_unstable" "fd_write" (func)))"#);
        assert!(text.contains("`fd_write` of `wasi_unstable`") && text.contains("wasm32-wasip1"), "{text}");
        let text = refused(&format!(r#"(module (import "{WASI}" "proc_fork" (func)) (memory (export "memory") 1))"#));
        assert!(text.contains("`proc_fork`"), "{text}");
        let text = refused(r#"(module (import "env" "sqrtf" (func)))"#);
        assert!(text.contains("`sqrtf` of `env`"), "{text}");
    }

    fn typed(hook: &str, import: &str) -> anyhow::Result<Vec<u8>> {
        let text = format!(
            r#"(module
              (import "{import}" "log" (func (param i32 i32 i32)))
              (import "{WASI}" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 1)
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
              (func (export "{hook}") (param i32) (result i32) (unreachable)))"#
        );
        encode(&embed(&module(&text))?)
    }

    #[test]
    fn the_names_of_a_module_are_its_type() {
        for version in ["0.1.0", "1.0.0"] {
            let hook = format!("wayleave:plugin/transform@{version}#transform");
            typed(&hook, &format!("wayleave:plugin/log@{version}")).unwrap();
        }
    }

    #[test]
    fn interfaces_that_there_are_not_are_named() {
        let error = |hook: &str| format!("{:#}", typed(hook, "wayleave:plugin/log@1.0.0").unwrap_err());
        assert!(error("transform").contains("no hook"));
        let text = error("wayleave:plugin/transform@9.0.0#transform");
        assert!(text.contains("`9.0.0`") && text.contains("1.0.0"), "{text}");
        let text = error("wayleave:plugin/transfrom@1.0.0#transform");
        assert!(text.contains("transfrom"), "{text}");
    }
}
