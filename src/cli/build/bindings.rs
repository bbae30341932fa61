//! What a language needs to speak our interfaces, made from a folder's `wit/`:
//! an author installs a compiler and no generator.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use wit_bindgen_core::{
    Files, WorldGenerator,
    wit_parser::{Resolve, WorldId},
};

/// Where they are put, in the plugin's folder; nobody edits or keeps them.
const FOLDER: &str = "target/bindings";

/// The bindings of a folder's world.
pub(super) struct Bindings {
    /// Where they are.
    pub(super) folder: PathBuf,
    /// As the folder's `wit/` calls it.
    pub(super) world: String,
}

/// C: `WORLD.h`, `WORLD.c` and `WORLD_component_type.o`, which carries the
/// component's type into what is linked.
pub(super) fn c(plugin: &Path) -> anyhow::Result<Bindings> {
    write(plugin, wit_bindgen_c::Opts::default().build().as_mut())
}

fn write(plugin: &Path, generator: &mut dyn WorldGenerator) -> anyhow::Result<Bindings> {
    let (mut resolve, world) = read(&plugin.join("wit"))?;
    let name = resolve.worlds[world].name.clone();
    let mut files = Files::default();
    generator.generate(&mut resolve, world, &mut files).with_context(|| format!("no bindings for world `{name}`"))?;
    let folder = plugin.join(FOLDER);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    for (file, content) in files.iter() {
        let path = folder.join(file);
        // What stays the same keeps its date, for editors and compilers.
        if !std::fs::read(&path).is_ok_and(|old| old == content) {
            std::fs::write(&path, content).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
    }
    Ok(Bindings { folder, world: name })
}

/// The one world of the folder's own package.
fn read(wit: &Path) -> anyhow::Result<(Resolve, WorldId)> {
    let place = wit.display();
    ensure!(
        wit.is_dir(),
        "there is no `{place}`; it holds a `world` with the hooks that the plugin exports, and our interfaces in \
         `deps/wayleave` (copy them from the gateway's `wit/`)"
    );
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).with_context(|| format!("`{place}` cannot be read"))?;
    let world = resolve.select_world(&[package], None).with_context(|| format!("`{place}` must have one world"))?;
    Ok((resolve, world))
}
