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
pub(super) const TEMPLATES: &[Template] = &[
    template!("rust":
        ".gitignore" "Cargo.lock" "Cargo.toml" "README.md" "cases/my-plugin.toml" "src/lib.rs" "wit/world.wit"
    ),
    template!("javascript":
        "README.md" "cases/my-plugin.toml" "plugin.js" "wayleave.d.ts"
    ),
    template!("typescript":
        "README.md" "cases/my-plugin.toml" "package-lock.json" "package.json" "src/plugin.ts" "src/wayleave.d.ts" "tsconfig.json"
    ),
    template!("python":
        ".gitignore" "README.md" "cases/my-plugin.toml" "app.py" "pyproject.toml" "settings.py" "test_settings.py" "wayleave.py"
        "wit/world.wit"
    ),
    template!("go":
        ".gitignore" "README.md" "cases/my-plugin.toml" "go.mod" "main.go" "plugin_test.go" "settings.go"
        "wayleave/authenticate/authenticate.go" "wayleave/authenticate/export_wasip1.go"
        "wayleave/authorize/authorize.go" "wayleave/authorize/export_wasip1.go"
        "wayleave/authorizepublish/authorizepublish.go" "wayleave/authorizepublish/export_wasip1.go"
        "wayleave/call/call.go" "wayleave/call/export_wasip1.go" "wayleave/clock/clock.go"
        "wayleave/clock/host_other.go" "wayleave/clock/host_wasip1.go" "wayleave/go.mod"
        "wayleave/http/host_other.go" "wayleave/http/host_wasip1.go" "wayleave/http/http.go"
        "wayleave/internal/abi/hook_wasip1.go" "wayleave/internal/abi/lift_wasip1.go"
        "wayleave/internal/abi/lower_wasip1.go" "wayleave/internal/abi/memory_wasip1.go" "wayleave/kv/host_other.go"
        "wayleave/kv/host_wasip1.go" "wayleave/kv/kv.go" "wayleave/lifecycle/export_wasip1.go"
        "wayleave/lifecycle/lifecycle.go" "wayleave/log/host_other.go" "wayleave/log/host_wasip1.go"
        "wayleave/log/log.go" "wayleave/lookup/host_other.go" "wayleave/lookup/host_wasip1.go"
        "wayleave/lookup/lookup.go" "wayleave/metrics/host_other.go" "wayleave/metrics/host_wasip1.go"
        "wayleave/metrics/metrics.go" "wayleave/observe/export_wasip1.go" "wayleave/observe/observe.go"
        "wayleave/random/host_other.go" "wayleave/random/host_wasip1.go" "wayleave/random/random.go"
        "wayleave/route/export_wasip1.go" "wayleave/route/route.go" "wayleave/secrets/host_other.go"
        "wayleave/secrets/host_wasip1.go" "wayleave/secrets/secrets.go" "wayleave/selftest/export_wasip1.go"
        "wayleave/selftest/selftest.go" "wayleave/tick/export_wasip1.go" "wayleave/tick/tick.go"
        "wayleave/transform/export_wasip1.go" "wayleave/transform/transform.go" "wayleave/wayleave.go"
    ),
    template!("c":
        "README.md" "cases/my-plugin.toml" "src/lib/check.h" "src/lib/json.c" "src/lib/json.h" "src/lib/test" "src/lib/text.c"
        "src/lib/text.h" "src/lib/wayleave.h" "src/plugin.c" "src/settings.c" "src/settings.h" "test/settings_test.c" "wit/world.wit"
    ),
];

/// The interfaces, which go into every new folder that has a world of its own.
pub(super) const INTERFACES: &[File] = interfaces!("hooks.wit" "host.wit" "types.wit" "worlds.wit");

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    const MADE: [&str; 7] = ["target", "node_modules", "dist", "plugin.wasm", ".venv", "bindings", "__pycache__"];

    /// Files in a folder, but for what tools make and the interfaces.
    fn files(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in folder.read_dir().unwrap().flatten() {
            // Through links: what several templates share is in each of them.
            let (path, kind) = (entry.path(), entry.path().metadata().unwrap());
            let name = entry.file_name();
            let is_made = MADE.iter().any(|made| name == *made) || path == root.join("wit/deps");
            let is_bundle = path == root.join("plugin.js") && root.join("package.json").is_file();
            if kind.is_dir() && !is_made {
                files(root, &path, found);
            } else if kind.is_file() && !is_made && !is_bundle {
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
