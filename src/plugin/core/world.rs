//! The component type of a core module whose imports and exports say it all:
//! their names tell which of our interfaces it speaks.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

/// The versions that can be spoken, with their text.
const VERSIONS: &[(&str, &[&str])] = &[
    (
        "0.1.0",
        &[
            include_str!("../../../wit/0.1.0/types.wit"),
            include_str!("../../../wit/0.1.0/hooks.wit"),
            include_str!("../../../wit/0.1.0/host.wit"),
        ],
    ),
    (
        "1.0.0",
        &[
            include_str!("../../../wit/1.0.0/types.wit"),
            include_str!("../../../wit/1.0.0/hooks.wit"),
            include_str!("../../../wit/1.0.0/host.wit"),
        ],
    ),
];

/// Adds to a module the type that follows from the names of its imports and
/// exports.
///
/// # Errors
/// If there is no such version or interface.
pub(super) fn embed(module: &[u8], names: &Names) -> anyhow::Result<Vec<u8>> {
    let version = names.version();
    let (resolve, world) = resolve(version, &names.text(version))?;
    let mut typed = module.to_owned();
    embed_component_metadata(&mut typed, &resolve, world, StringEncoding::UTF8)?;
    Ok(typed)
}

/// Interfaces of ours by their whole names, with the version.
#[derive(Debug)]
pub(super) struct Names {
    /// What the world is called: those that come together must differ.
    pub(super) world: &'static str,
    pub(super) imports: BTreeSet<String>,
    pub(super) exports: BTreeSet<String>,
}

impl Names {
    /// The version of all of them: one speaks one.
    fn version(&self) -> &str {
        let first = self.exports.iter().chain(&self.imports).next();
        first.and_then(|name| name.split_once('@')).map(|(_, version)| version).unwrap_or_default()
    }

    fn text(&self, version: &str) -> String {
        let imports = self.imports.iter().map(|name| format!("  import {name};\n"));
        let exports = self.exports.iter().map(|name| format!("  export {name};\n"));
        let lines: String = imports.chain(exports).collect();
        format!("package built:{0}@{version};\nworld {0} {{\n{lines}}}\n", self.world)
    }
}

fn resolve(version: &str, text: &str) -> anyhow::Result<(Resolve, WorldId)> {
    let Some((_, files)) = VERSIONS.iter().find(|(number, _)| *number == version) else {
        let known: Vec<_> = VERSIONS.iter().map(|(number, _)| *number).collect();
        bail!("it speaks version `{version}` of the plugin interface; this program knows {}", known.join(", "));
    };
    let mut resolve = Resolve::default();
    resolve.push_source("wayleave.wit", &one(files))?;
    let package = resolve.push_source("world.wit", text).with_context(|| format!("not a world:\n{text}"))?;
    let world = resolve.select_world(&[package], None)?;
    Ok((resolve, world))
}

/// Several files of one package as one: it may say only once which it is.
fn one(files: &[&str]) -> String {
    let mut text = String::new();
    for (i, file) in files.iter().enumerate() {
        for line in file.lines().filter(|line| i == 0 || !line.starts_with("package ")) {
            text += line;
            text.push('\n');
        }
    }
    text
}
