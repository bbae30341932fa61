//! `wayleave plugin build`: the right toolchain for a source folder.
//!
//! Whatever the language, a folder ends up with one `plugin.wasm`, or with one
//! `plugin.js`, which the gateway's own engine runs. A missing tool is named
//! together with the command that installs it.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    time::{Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};

mod bindings;
mod c;
mod go;
mod python;
mod rust;
mod script;

pub(super) fn main(folders: Vec<PathBuf>, config: &Path) -> ExitCode {
    let folders = if folders.is_empty() {
        match super::load(config) {
            Ok(config) => {
                config.plugins.iter().filter(|plugin| plugin.is_source()).map(|plugin| plugin.path.clone()).collect()
            }
            Err(code) => return code,
        }
    } else {
        folders
    };
    let mut code = ExitCode::SUCCESS;
    for folder in folders {
        let started = Instant::now();
        println!("building {}", folder.display());
        match build_if_stale(&folder) {
            Ok(true) => println!("  {} in {:.1} s", made(&folder), started.elapsed().as_secs_f64()),
            Ok(false) => println!("  {} is newer than its sources", made(&folder)),
            Err(error) => {
                eprintln!("{error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// What a build leaves, and the gateway loads: a script is for its engine.
const SCRIPT: &str = "plugin.js";
const COMPONENT: &str = "plugin.wasm";

/// The one that there is, a script first, as `PluginConfig::file` has it.
fn made(folder: &Path) -> &'static str {
    if folder.join(SCRIPT).is_file() { SCRIPT } else { COMPONENT }
}

/// Builds one folder, unless what it made is newer than every source.
/// True: it was built.
///
/// # Errors
/// What the toolchain said, or what is missing.
pub(super) fn build_if_stale(folder: &Path) -> anyhow::Result<bool> {
    if !is_stale(folder) {
        return Ok(false);
    }
    build(folder).map(|()| true)
}

/// True if nothing was made that is newer than every source.
pub(super) fn is_stale(folder: &Path) -> bool {
    if language(folder).is_some_and(|language| language.build.is_none()) {
        return false;
    }
    let built = folder.join(made(folder)).metadata().and_then(|file| file.modified()).ok();
    built.is_none() || built <= sources(folder).into_values().flatten().max()
}

/// True if it is the source folder of a plugin.
pub(super) fn is_plugin(folder: &Path) -> bool {
    LANGUAGES.iter().any(|language| folder.join(language.mark).is_file())
}

/// Builds one folder.
///
/// # Errors
/// What the toolchain said, or what is missing.
pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
    // What is saved from now on may not be in the build.
    let started = SystemTime::now();
    let Some(language) = language(folder) else {
        let marks = LANGUAGES.iter().map(|Language { mark, name, .. }| format!("{mark} ({name})")).collect::<Vec<_>>();
        bail!("`{}` is no plugin's source: there is none of {}", folder.display(), marks.join(", "))
    };
    let Some(build) = language.build else { return Ok(()) };
    build(folder)?;
    let built = File::options().append(true).open(folder.join(made(folder)))?;
    Ok(built.set_modified(started)?)
}

/// Folders inside a plugin's that hold what tools make.
const MADE: &[&str] = &["target", "node_modules", "dist", "build", ".venv", "__pycache__", ".git"];

/// How deep sources are looked for; a link may lead in a circle.
const DEPTH_MAX: usize = 8;

/// Source files with the moment of their last change.
pub(super) type SourceState = BTreeMap<PathBuf, Option<SystemTime>>;

/// True for what a person may have written; the path starts at the plugin's
/// folder, since what is above it may have any name.
pub(super) fn is_source(path: &Path) -> bool {
    let made = path.components().any(|part| MADE.iter().any(|made| part.as_os_str() == *made));
    let wasm = path.extension().is_some_and(|extension| extension == "wasm" || extension == "part");
    // Where it is a person's own there is nothing to build, and where it was
    // made it is no source.
    !made && !wasm && path != Path::new(SCRIPT)
}

/// The sources in a folder, through links too: the interfaces may be one.
pub(super) fn sources(folder: &Path) -> SourceState {
    let mut files = SourceState::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((inner, depth)) = folders.pop() {
        let Ok(entries) = inner.read_dir() else { continue };
        let paths = entries.flatten().map(|entry| entry.path());
        for path in paths.filter(|path| path.strip_prefix(folder).is_ok_and(is_source)) {
            match path.metadata() {
                Ok(data) if data.is_dir() && depth < DEPTH_MAX => folders.push((path, depth + 1)),
                Ok(data) if data.is_file() => {
                    files.insert(path, data.modified().ok());
                }
                _ => {}
            }
        }
    }
    files
}

/// A language: the file by which its folders are known, and what builds them.
struct Language {
    mark: &'static str,
    name: &'static str,
    /// None: there is nothing to build.
    build: Option<fn(&Path) -> anyhow::Result<()>>,
}

const LANGUAGES: &[Language] = &[
    Language { mark: "Cargo.toml", name: "Rust", build: Some(rust::build) },
    Language { mark: "package.json", name: "JavaScript, TypeScript", build: Some(script::build) },
    Language { mark: "pyproject.toml", name: "Python", build: Some(python::build) },
    Language { mark: "go.mod", name: "Go", build: Some(go::build) },
    // For the engine as it stands.
    Language { mark: SCRIPT, name: "JavaScript", build: None },
    Language { mark: "src/plugin.c", name: "C", build: Some(c::build) },
];

fn language(folder: &Path) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| folder.join(language.mark).is_file())
}

/// Runs a command in a folder; its words are the error if it fails.
fn run(command: &mut Command, install: &str) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{name}` does not start; install it with: {install}"))?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Puts a file in its place whole: whoever watches it must not see half of it.
/// One that is there already with the same content stays as it is.
fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    let new = std::fs::read(from)?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let beside = to.with_extension("wasm.part");
    std::fs::write(&beside, new).with_context(|| format!("cannot write `{}`", beside.display()))?;
    std::fs::rename(&beside, to).with_context(|| format!("cannot write `{}`", to.display()))
}
