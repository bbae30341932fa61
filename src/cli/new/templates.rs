//! The templates of `plugins/templates`, as they are in this binary.
//!
//! A template is a plugin that builds and passes its tests as it stands, under
//! the name `my-plugin`. What belongs to a hook stands between two comments,
//! `[hook]` and `[/hook]`, each alone on its line; they may name several.

/// A language and its files.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) language: &'static str,
    pub(super) files: &'static [File],
}

/// Path and content.
pub(super) type File = (&'static str, &'static str);

macro_rules! template {
    ($language:literal: $($file:literal)*) => {
        Template {
            language: $language,
            files: &[$(($file, include_str!(concat!("../../../plugins/templates/", $language, "/", $file)))),*],
        }
    };
}

macro_rules! interfaces {
    ($($file:literal)*) => {
        &[$((
            concat!("wit/deps/wayleave/", $file),
            include_str!(concat!("../../../wit/1.0.0/", $file)),
        )),*]
    };
}

/// A new language is a folder of `plugins/templates` and a line here.
pub(super) const TEMPLATES: &[Template] = &[template!("rust":
    ".gitignore" "Cargo.lock" "Cargo.toml" "README.md" "cases/my-plugin.toml" "src/lib.rs" "wit/world.wit"
)];

/// The interfaces, which go into every new folder.
pub(super) const INTERFACES: &[File] = interfaces!("hooks.wit" "host.wit" "types.wit" "worlds.wit");

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    /// Files in a folder, but for what tools make and what links lead to.
    fn files(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in folder.read_dir().unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = entry.file_name();
            let is_made = ["target", "node_modules", "dist", "plugin.wasm"].iter().any(|made| name == *made);
            if kind.is_dir() && !is_made {
                files(root, &path, found);
            } else if kind.is_file() && !is_made {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_of_a_template_is_in_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/templates");
        let folders: BTreeSet<_> = root.read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
        let known: BTreeSet<_> = TEMPLATES.iter().map(|template| template.language.into()).collect();
        assert_eq!(folders, known);
        for Template { language, files: embedded } in TEMPLATES {
            let mut there = BTreeSet::new();
            files(&root.join(language), &root.join(language), &mut there);
            let embedded: BTreeSet<_> = embedded.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(there, embedded, "{language}");
        }
        let mut there = BTreeSet::new();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit/1.0.0");
        files(&wit, &wit, &mut there);
        let embedded = INTERFACES.iter().map(|(name, _)| name.rsplit('/').next().unwrap().to_owned());
        assert_eq!(there, embedded.collect());
    }
}
