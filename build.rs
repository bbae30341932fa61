//! Makes the engine that runs plugins written in JavaScript, and puts it where
//! the program takes it in. Without a C compiler for WebAssembly it is left out,
//! with a warning; such a program says so when it is given a script.

use std::{
    env,
    fs::{copy, write},
    path::Path,
    process::Command,
};

fn main() {
    let engine = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("plugins/engines/javascript");
    let made = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("javascript.wasm");
    for source in ["build", "Cargo.lock", "src"] {
        println!("cargo::rerun-if-changed={}", engine.join(source).display());
    }
    println!("cargo::rerun-if-env-changed=WASI_SDK_PATH");
    let built = Command::new(engine.join("build")).output().map_err(|error| error.to_string()).and_then(|output| {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(words) }
    });
    let taken = built.and_then(|()| {
        copy(engine.join("target/engine.wasm"), &made).map(drop).map_err(|error| format!("{}: {error}", made.display()))
    });
    if let Err(reason) = taken {
        for line in reason.lines() {
            println!("cargo::warning={line}");
        }
        println!("cargo::warning=this gateway will not run plugins written in JavaScript");
        // There is no such file, so that the next build tries again.
        println!("cargo::rerun-if-changed={}", engine.join("target/absent").display());
        // An empty engine stands for none.
        if let Err(error) = write(&made, []) {
            println!("cargo::error={}: {error}", made.display());
        }
    }
}
