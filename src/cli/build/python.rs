//! Python: componentize-py, of the folder's `.venv`, else of the path, else
//! installed into that `.venv`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use super::{put, run};

const TOOL: &str = "componentize-py";

/// The module with the hooks.
const APP: &str = "app";

const INSTALL: &str =
    "your system's package manager, or https://python.org (on Debian: apt-get install python3 python3-venv)";

pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
    ensure!(
        folder.join(APP).with_extension("py").is_file(),
        "there is no `{APP}.py` in `{}`; the classes with the hooks are to be there",
        folder.display()
    );
    let project = std::fs::read_to_string(folder.join("pyproject.toml"))?;
    let wanted = requirements(&project.parse().context("its pyproject.toml")?);
    let tool = find_tool(folder, &wanted)?;
    let beside = folder.join("plugin.wasm.part");
    let mut command = Command::new(tool);
    // Without `-s` it would want WASI, which plugins do not get.
    command.current_dir(folder).args(["-q", "-d", "wit", "-w", "plugin", "componentize", "-s", "-p", "."]);
    for path in linked(folder) {
        command.arg("-p").arg(path);
    }
    command.args([APP, "-o", "plugin.wasm.part"]);
    let venv = folder.join(".venv");
    if venv.is_dir() {
        // Its packages go into the plugin.
        command.env("VIRTUAL_ENV", std::path::absolute(venv)?);
    }
    // The plugin's own traceback says what is wrong; the tool's says nothing.
    command.env("RUST_BACKTRACE", "0");
    let built = run(&mut command, &install(&wanted)).and_then(|_| put(&beside, &folder.join("plugin.wasm")));
    let _ = std::fs::remove_file(beside);
    built
}

fn install(wanted: &[String]) -> String {
    format!("python3 -m pip install '{}'", wanted.join("' '"))
}

/// What the project's file asks for, to run and to build.
fn requirements(project: &toml::Table) -> Vec<String> {
    let list = |table: &str, key: &str| {
        let found = project.get(table).and_then(|table| table.get(key)).and_then(toml::Value::as_array);
        found.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut wanted = list("project", "dependencies");
    wanted.extend(list("dependency-groups", "build"));
    if !wanted.iter().any(|name| name.starts_with(TOOL)) {
        wanted.push(TOOL.to_owned());
    }
    wanted
}

/// The tool, with what the plugin needs besides at hand.
fn find_tool(folder: &Path, wanted: &[String]) -> anyhow::Result<PathBuf> {
    let venv = folder.join(".venv");
    let bin = std::path::absolute(venv.join("bin"))?;
    let alone = wanted.iter().all(|name| name.starts_with(TOOL));
    // One for all plugins saves time; but only this folder's has the packages.
    if alone
        && !venv.is_dir()
        && let Some(tool) = on_path(TOOL)
    {
        return Ok(tool);
    }
    // What was installed is noted, so that nothing is asked of the network
    // while it stays the same.
    let note = venv.join("wayleave-installed");
    let list = wanted.join("\n");
    let tool = bin.join(TOOL);
    if tool.is_file() && std::fs::read_to_string(&note).is_ok_and(|noted| noted == list) {
        return Ok(tool);
    }
    if !bin.join("python").exists() {
        run(Command::new("python3").current_dir(folder).args(["-m", "venv", ".venv"]), INSTALL)?;
    }
    run(
        Command::new(bin.join("python"))
            .current_dir(folder)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(wanted),
        INSTALL,
    )
    .with_context(|| format!("what it needs cannot be installed into `{}`", venv.display()))?;
    ensure!(tool.is_file(), "pip left no `{}`; install it with: {}", tool.display(), install(wanted));
    std::fs::write(&note, list).with_context(|| format!("cannot write `{}`", note.display()))?;
    Ok(tool)
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The folders to which links among the modules lead: the tool shows the build
/// only the folders that it is told, and a link would point nowhere.
fn linked(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return BTreeSet::new() };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_symlink() && path.extension().is_some_and(|extension| extension == "py"))
        .filter_map(|path| Some(path.canonicalize().ok()?.parent()?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(project: &str, expected: &[&str]) {
        assert_eq!(requirements(&project.parse().unwrap()), expected);
    }

    #[test]
    fn what_the_project_asks_for_is_installed() {
        check("", &["componentize-py"]);
        check("[dependency-groups]\nbuild = [\"componentize-py==1\"]", &["componentize-py==1"]);
        check(
            "[project]\ndependencies = [\"attrs\"]\n[dependency-groups]\nbuild = [{ include-group = \"x\" }]",
            &["attrs", "componentize-py"],
        );
    }
}
