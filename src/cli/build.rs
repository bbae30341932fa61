//! `wayleave plugin build`: the right toolchain for a source folder.
//!
//! Whatever the language, a folder ends up with one `plugin.wasm`. A missing
//! tool is named together with the command that installs it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    time::{Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};

const TARGET: &str = "wasm32-unknown-unknown";

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

fn build_by_kind(folder: &Path) -> anyhow::Result<()> {
    if folder.join("Cargo.toml").is_file() {
        build_rust(folder)
    } else if folder.join("package.json").is_file() {
        build_script(folder)
    } else {
        bail!(
            "`{}` is no plugin's source: there is neither a Cargo.toml (Rust) nor a package.json (JavaScript, TypeScript)",
            folder.display()
        )
    }
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

/// A Rust toolchain that can make wasm.
struct Toolchain {
    cargo: OsString,
    environment: Vec<(&'static str, OsString)>,
    arguments: Vec<&'static str>,
}

/// rustup's, if it has the target; else that of a distribution which ships
/// the standard library's source instead.
fn toolchain() -> anyhow::Result<Toolchain> {
    let sysroot = |rustc: &str| -> Option<PathBuf> {
        let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    };
    let has_target = |root: PathBuf| root.join("lib/rustlib").join(TARGET).join("lib").is_dir();
    if sysroot("rustc").is_some_and(has_target) {
        return Ok(Toolchain { cargo: "cargo".into(), environment: Vec::new(), arguments: Vec::new() });
    }
    let system = Path::new("/usr/bin");
    let source = Path::new("/usr/lib/rustlib/src/rust/library/std").is_dir()
        || sysroot("/usr/bin/rustc").is_some_and(|root| root.join("lib/rustlib/src/rust/library/std").is_dir());
    let linker = ["wasm-ld-22", "wasm-ld-21", "wasm-ld-20", "wasm-ld-19", "wasm-ld"]
        .iter()
        .map(|name| system.join(name))
        .find(|path| path.is_file());
    match linker {
        Some(linker) if source && system.join("cargo").is_file() => Ok(Toolchain {
            cargo: "/usr/bin/cargo".into(),
            environment: vec![
                ("RUSTC", "/usr/bin/rustc".into()),
                ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker.into()),
                // The stable compiler then builds the standard library itself.
                ("RUSTC_BOOTSTRAP", "1".into()),
            ],
            arguments: vec!["-Zbuild-std=std,panic_abort"],
        }),
        _ => bail!(
            "this Rust cannot make WebAssembly; install what it lacks with: rustup target add {TARGET}\n\
             (on Debian without rustup: apt-get install rustc-web cargo-web rust-web-src lld-22)"
        ),
    }
}

fn build_rust(folder: &Path) -> anyhow::Result<()> {
    let Toolchain { cargo, environment, arguments } = toolchain()?;
    // One target folder for all plugins beside each other: the standard
    // library and the bindings' generator are then built once.
    let target = folder.parent().map_or_else(|| folder.join("target"), |parent| parent.join("target"));
    let target = std::path::absolute(target)?;
    run(
        Command::new(cargo)
            .current_dir(folder)
            .envs(environment)
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTUP_TOOLCHAIN")
            .args(["build", "--release", "--color=never", "--quiet", "--target", TARGET])
            .args(arguments),
        "curl https://sh.rustup.rs | sh",
    )?;
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))?;
    let manifest: toml::Table = manifest.parse().context("its Cargo.toml")?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    let name = name.context("its Cargo.toml has no package.name")?.replace('-', "_");
    let built = target.join(TARGET).join("release").join(format!("{name}.wasm"));
    ensure!(built.is_file(), "cargo left no `{}`; is crate-type `[\"cdylib\"]`?", built.display());
    put(&built, &folder.join("plugin.wasm"))
}

fn build_script(folder: &Path) -> anyhow::Result<()> {
    let install = "your system's package manager, or https://nodejs.org";
    if !folder.join("node_modules").is_dir() {
        let locked = folder.join("package-lock.json").is_file();
        let how = if locked { "ci" } else { "install" };
        run(Command::new("npm").current_dir(folder).args([how, "--no-audit", "--no-fund"]), install)?;
    }
    run(Command::new("npm").current_dir(folder).args(["run", "--silent", "build"]), install)?;
    let built = folder.join("plugin.wasm");
    ensure!(built.is_file(), "`npm run build` left no `plugin.wasm` in `{}`", folder.display());
    Ok(())
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
