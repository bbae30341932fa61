//! C: clang of wasi-sdk or of a distribution, or the one inside Zig.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};
use wit_component::ComponentEncoder;

use super::{bindings, put, run};

const INSTALL: &str = "one of: apt-get install clang lld libclang-rt-dev-wasm32 wasi-libc (Debian, Ubuntu; of one version), \
                       pip install ziglang, https://ziglang.org/download, or wasi-sdk with WASI_SDK_PATH set";

/// A stack that overflows must trap, not write over what lies below it. Zig's
/// linker does not know this word, and puts the stack first by itself.
const STACK_FIRST: &str = "-Wl,--stack-first";

/// A C compiler for wasm, and what it wants to hear before anything else.
struct Compiler {
    program: OsString,
    arguments: Vec<String>,
}

impl Compiler {
    fn new(program: impl Into<OsString>, arguments: &[&str]) -> Self {
        Self { program: program.into(), arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// The first of: wasi-sdk where it was named, a clang that has all it needs,
/// Zig.
fn compiler() -> anyhow::Result<Compiler> {
    if let Some(sdk) = std::env::var_os("WASI_SDK_PATH").map(PathBuf::from) {
        let clang = sdk.join("bin/clang");
        ensure!(clang.is_file(), "WASI_SDK_PATH is set, and there is no `{}`", clang.display());
        return Ok(Compiler::new(clang, &["--target=wasm32-wasip1", STACK_FIRST]));
    }
    let names = (16..=24).rev().map(|version| format!("clang-{version}")).chain(["clang".to_owned()]);
    // The old name of the target is what Debian's libc has its folders by.
    let clang = names
        .flat_map(|name| ["wasm32-wasip1", "wasm32-wasi"].map(|target| (name.clone(), target)))
        .find(|(name, target)| has_libc(name, target));
    if let Some((name, target)) = clang {
        return Ok(Compiler::new(name, &[&format!("--target={target}"), "-Wno-deprecated", STACK_FIRST]));
    }
    let zig = [("zig", &["cc"][..]), ("python3", &["-m", "ziglang", "cc"]), ("python", &["-m", "ziglang", "cc"])];
    for (program, arguments) in zig {
        let mut compiler = Compiler::new(program, arguments);
        if compiler.command().arg("--version").output().is_ok_and(|output| output.status.success()) {
            compiler.arguments.extend(["-target".to_owned(), "wasm32-wasi".to_owned()]);
            return Ok(compiler);
        }
    }
    bail!("there is no C compiler that makes WebAssembly; install {INSTALL}")
}

/// True if this clang has a libc, a linker and its own builtins for the target.
fn has_libc(clang: &str, target: &str) -> bool {
    ["-print-file-name=libc.a", "-print-prog-name=wasm-ld", "-print-libgcc-file-name"].iter().all(|what| {
        // It answers with the bare name if there is no such file.
        let output = Command::new(clang).args([&format!("--target={target}"), *what]).output();
        output.is_ok_and(|output| {
            let path = String::from_utf8_lossy(&output.stdout);
            Path::new(path.trim()).is_absolute() && Path::new(path.trim()).is_file()
        })
    })
}

pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
    let compiler = compiler()?;
    let bindings = bindings::c(folder)?;
    let linked = folder.join("target/plugin.wasm");
    let generated = |end: &str| bindings.folder.join(format!("{}{end}", bindings.world));
    let mut command = compiler.command();
    command
        // Speed before size: it runs for every message. Then a library, not a
        // program: there is no `main`.
        .args(["-std=c11", "-O3", "-flto", "-msimd128", "-Wall", "-Wextra", "-mexec-model=reactor"])
        .args(["-Wl,-z,stack-size=262144", "-Wl,--strip-debug"])
        .arg("-I")
        .arg(&bindings.folder)
        .args(c_files(&folder.join("src"))?)
        .args([generated(".c"), generated("_component_type.o")])
        .arg("-o")
        .arg(&linked);
    run(&mut command, INSTALL)?;
    check(&linked)?;
    put(&linked, &folder.join("plugin.wasm"))
}

/// The C files below a folder, in an order that does not change.
fn c_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<_> = super::sources(folder).into_keys().collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
    files.sort();
    ensure!(!files.is_empty(), "there is no C file in `{}`", folder.display());
    Ok(files)
}

/// What the gateway would say when loading it is better told now.
fn check(linked: &Path) -> anyhow::Result<()> {
    let module = std::fs::read(linked)?;
    let encoded = ComponentEncoder::default().validate(true).module(&module).and_then(|mut encoder| encoder.encode());
    let stdio = "is it printf, a file, a clock or exit? A plugin has no WASI: log, clock and random are the gateway's";
    let is_wasi = |error: &anyhow::Error| format!("{error:#}").contains("wasi_snapshot_preview1");
    match encoded {
        Err(error) if is_wasi(&error) => Err(error).context(format!("it uses what only WASI has; {stdio}")),
        other => other.map(drop).context("what was linked cannot become a component"),
    }
}
