//! JavaScript and TypeScript: the `build` script of the folder's package.json.

use std::{path::Path, process::Command};

use anyhow::ensure;

use super::run;

pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
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
