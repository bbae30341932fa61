//! JavaScript and TypeScript with packages: the `build` script of the folder's
//! package.json. It leaves a script for the gateway's engine, or a component.

use std::{path::Path, process::Command};

use anyhow::ensure;

use super::{COMPONENT, SCRIPT, run};

pub(super) fn build(folder: &Path) -> anyhow::Result<()> {
    let install = "your system's package manager, or https://nodejs.org";
    if !folder.join("node_modules").is_dir() {
        let locked = folder.join("package-lock.json").is_file();
        let how = if locked { "ci" } else { "install" };
        run(Command::new("npm").current_dir(folder).args([how, "--no-audit", "--no-fund"]), install)?;
    }
    run(Command::new("npm").current_dir(folder).args(["run", "--silent", "build"]), install)?;
    let built = [SCRIPT, COMPONENT].iter().any(|file| folder.join(file).is_file());
    ensure!(built, "`npm run build` left neither `{SCRIPT}` nor `{COMPONENT}` in `{}`", folder.display());
    Ok(())
}
