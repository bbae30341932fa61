//! Rust: cargo, for `wasm32-unknown-unknown`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};

use super::{put, run};

const TARGET: &str = "wasm32-unknown-unknown";

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

pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
    let Toolchain { cargo, environment, arguments } = toolchain()?;
    // One target folder for all plugins beside each other: the standard
    // library and the bindings' generator are then built once.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || folder.parent().map_or_else(|| folder.join("target"), |parent| parent.join("target")),
        PathBuf::from,
    );
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
