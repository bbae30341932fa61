//! Go: the usual compiler, for `wasip1`. What it makes is a core module, to
//! which the component's type is added here: an author installs nothing else.

use std::{path::Path, process::Command};

use anyhow::Context;

use super::{put, run};
use crate::plugin::core;

const INSTALL: &str = "your system's package manager, or https://go.dev/dl (Go 1.24 or newer)";

pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
    let linked = folder.join("target/plugin.wasm");
    std::fs::create_dir_all(folder.join("target"))
        .with_context(|| format!("cannot make `{}/target`", folder.display()))?;
    let mut command = Command::new("go");
    command
        .current_dir(folder)
        .envs([("GOOS", "wasip1"), ("GOARCH", "wasm"), ("CGO_ENABLED", "0")])
        // A library, not a program that ends: the hooks are called after `main`
        // was not. Names of functions stay for what a panic says.
        .args(["build", "-buildmode=c-shared", "-ldflags=-s -w", "-trimpath", "-o", "target/plugin.wasm", "."]);
    run(&mut command, INSTALL)?;
    let module = std::fs::read(&linked)?;
    let typed = core::embed(&module).context("what was compiled is no plugin")?;
    // What the gateway would say when loading it is better told now.
    core::encode(&typed).context("what was compiled cannot become a component")?;
    std::fs::write(&linked, &typed).with_context(|| format!("cannot write `{}`", linked.display()))?;
    put(&linked, &folder.join("plugin.wasm"))
}
