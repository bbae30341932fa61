//! `wayleave plugin build`: the right toolchain for a source folder.
//!
//! Whatever the language, a folder ends up with one `plugin.wasm`. A missing
//! tool is named together with the command that installs it.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    time::{Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};

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
            Ok(true) => println!("  plugin.wasm in {:.1} s", started.elapsed().as_secs_f64()),
            Ok(false) => println!("  plugin.wasm is newer than its sources"),
            Err(error) => {
                eprintln!("{error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// Builds one folder, unless its `plugin.wasm` is newer than every source.
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

/// True if there is no `plugin.wasm` that is newer than every source.
pub(super) fn is_stale(folder: &Path) -> bool {
    let built = folder.join("plugin.wasm").metadata().and_then(|file| file.modified()).ok();
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
    build_by_kind(folder)?;
    let built = File::options().append(true).open(folder.join("plugin.wasm"))?;
    Ok(built.set_modified(started)?)
}

/// Folders inside a plugin's that hold what tools make.
const MADE: &[&str] = &["target", "node_modules", "dist", "build", ".git"];

/// How deep sources are looked for; a link may lead in a circle.
const DEPTH_MAX: usize = 8;

/// Source files with the moment of their last change.
pub(super) type SourceState = BTreeMap<PathBuf, Option<SystemTime>>;

/// True for what a person may have written; the path starts at the plugin's
/// folder, since what is above it may have any name.
pub(super) fn is_source(path: &Path) -> bool {
    let made = path.components().any(|part| MADE.iter().any(|made| part.as_os_str() == *made));
    let wasm = path.extension().is_some_and(|extension| extension == "wasm" || extension == "part");
    !made && !wasm
}

/// The sources in a folder, through links too: the interfaces may be one.
pub(super) fn sources(folder: &Path) -> SourceState {
    let mut files = SourceState::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = folder.read_dir() else { continue };
        for path in entries.flatten().filter(|entry| is_source(Path::new(&entry.file_name()))).map(|entry| entry.path())
        {
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
    build: fn(&Path) -> anyhow::Result<()>,
}

const LANGUAGES: &[Language] = &[
    Language { mark: "Cargo.toml", name: "Rust", build: rust::build },
    Language { mark: "package.json", name: "JavaScript, TypeScript", build: script::build },
];

fn build_by_kind(folder: &Path) -> anyhow::Result<()> {
    if let Some(language) = LANGUAGES.iter().find(|language| folder.join(language.mark).is_file()) {
        return (language.build)(folder);
    }
    let marks = LANGUAGES.iter().map(|Language { mark, name, .. }| format!("{mark} ({name})")).collect::<Vec<_>>();
    bail!("`{}` is no plugin's source: there is none of {}", folder.display(), marks.join(", "))
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
