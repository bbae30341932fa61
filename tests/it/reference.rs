//! The reference of the plugin interface, made from the WIT files.

use std::{fmt::Write, fs, path::Path};

use wayleave::plugin::{Grant, Hook};
use wit_parser::{Docs, Function, Interface, Resolve, Type, TypeDef, TypeDefKind};

const HEAD: &str = "# The plugin interface, 1.0.0

Made from [`wit/1.0.0`](../wit/1.0.0) by a test, which says how to make it anew. [Writing plugins](plugins.md) says what stands
in no interface: what a failure leads to, grants, limits, languages.

A plugin exports the hooks that it wants and imports what its grants allow. A field or case without words is what its name says.
";

/// One table row cannot hold lines.
fn line(docs: &Docs) -> String {
    docs.contents.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn prose(docs: &Docs) -> String {
    docs.contents.as_deref().map(|text| format!("\n{}\n", text.trim())).unwrap_or_default()
}

fn name(resolve: &Resolve, kind: &Type) -> String {
    let inner = |kind: &Type| name(resolve, kind);
    match kind {
        Type::Bool => "bool".into(),
        Type::U8 => "u8".into(),
        Type::U16 => "u16".into(),
        Type::U32 => "u32".into(),
        Type::U64 => "u64".into(),
        Type::S64 => "s64".into(),
        Type::F64 => "f64".into(),
        Type::String => "string".into(),
        Type::Id(id) => {
            let TypeDef { name, kind, .. } = &resolve.types[*id];
            match (name, kind) {
                (Some(name), _) => name.clone(),
                (None, TypeDefKind::List(item)) => format!("list<{}>", inner(item)),
                (None, TypeDefKind::Option(item)) => format!("option<{}>", inner(item)),
                (None, TypeDefKind::Tuple(tuple)) => {
                    format!("tuple<{}>", tuple.types.iter().map(inner).collect::<Vec<_>>().join(", "))
                }
                (None, other) => panic!("no name for {other:?}"),
            }
        }
        other => panic!("no name for {other:?}"),
    }
}

fn table(text: &mut String, head: [&str; 3], rows: impl Iterator<Item = [String; 3]>) {
    let rows: Vec<_> = rows.collect();
    writeln!(text, "\n| {} | {} | |\n|---|---|---|", head[0], head[1]).unwrap();
    for [one, two, three] in rows {
        let two = if two.is_empty() { two } else { format!("`{two}`") };
        writeln!(text, "| `{one}` | {two} | {three} |").unwrap();
    }
}

fn definition(text: &mut String, resolve: &Resolve, TypeDef { name: of, kind, docs, .. }: &TypeDef) {
    let of = of.as_deref().unwrap_or_default();
    let ty = |kind: &Type| name(resolve, kind);
    match kind {
        TypeDefKind::Record(record) => {
            writeln!(text, "\n**record `{of}`**\n{}", prose(docs).trim_end()).unwrap();
            table(
                text,
                ["field", "type", ""],
                record.fields.iter().map(|it| [it.name.clone(), ty(&it.ty), line(&it.docs)]),
            );
        }
        TypeDefKind::Variant(variant) => {
            writeln!(text, "\n**variant `{of}`**\n{}", prose(docs).trim_end()).unwrap();
            let holds = |kind: &Option<Type>| kind.as_ref().map(ty).unwrap_or_default();
            table(
                text,
                ["case", "holds", ""],
                variant.cases.iter().map(|it| [it.name.clone(), holds(&it.ty), line(&it.docs)]),
            );
        }
        TypeDefKind::Enum(cases) => {
            writeln!(text, "\n**enum `{of}`**\n{}", prose(docs).trim_end()).unwrap();
            table(
                text,
                ["case", "", ""],
                cases.cases.iter().map(|it| [it.name.clone(), String::new(), line(&it.docs)]),
            );
        }
        // What another interface defines is shown there.
        TypeDefKind::Type(Type::Id(_)) => {}
        TypeDefKind::List(item) => {
            let is = format!("list<{}>", ty(item));
            writeln!(text, "\n**type `{of}`** = `{is}`\n{}", prose(docs).trim_end()).unwrap();
        }
        other => panic!("no words for `{of}`: {other:?}"),
    }
}

fn function(text: &mut String, resolve: &Resolve, Function { name: of, params, result, docs, .. }: &Function) {
    let params: Vec<_> = params.iter().map(|it| format!("{}: {}", it.name, name(resolve, &it.ty))).collect();
    let result = result.as_ref().map(|kind| format!(" -> {}", name(resolve, kind))).unwrap_or_default();
    writeln!(text, "\n**`{of}({}){result}`**\n{}", params.join(", "), prose(docs).trim_end()).unwrap();
}

fn interface(text: &mut String, resolve: &Resolve, it: &Interface) {
    writeln!(text, "\n### `{}`\n{}", it.name.as_deref().unwrap_or_default(), prose(&it.docs).trim_end()).unwrap();
    it.functions.values().for_each(|one| function(text, resolve, one));
    it.types.values().for_each(|id| definition(text, resolve, &resolve.types[*id]));
}

#[test]
fn the_reference_is_what_the_interfaces_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root.join("wit/1.0.0")).unwrap();
    let all = &resolve.packages[package].interfaces;
    let is_hook = |name: &str| {
        ["lifecycle", "self-test"].contains(&name) || Hook::ALL.iter().any(|hook| hook.interface() == name)
    };
    let mut text = HEAD.to_owned();
    type IsHere<'a> = &'a dyn Fn(&str) -> bool;
    let parts: [(&str, IsHere<'_>); 3] = [
        ("Hooks, which plugins export", &is_hook),
        ("What plugins import", &|name| Grant::from_name(name).is_some()),
        ("Types", &|name| name == "types"),
    ];
    let mut told = 0;
    for (title, is_here) in parts {
        writeln!(text, "\n## {title}").unwrap();
        for (_, id) in all.iter().filter(|(name, _)| is_here(name)) {
            interface(&mut text, &resolve, &resolve.interfaces[*id]);
            told += 1;
        }
    }
    assert_eq!(told, all.len(), "an interface is neither hook nor grant nor `types`");
    // More than one empty line is none in Markdown.
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    let file = root.join("docs/interface.md");
    if std::env::var_os("WAYLEAVE_UPDATE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&file).is_ok_and(|there| there == text),
        "docs/interface.md is not what wit/1.0.0 says; make it anew: WAYLEAVE_UPDATE=1 cargo test --test it reference::"
    );
}

/// 1.0.0 is frozen: what was built for it must go on fitting.
#[test]
fn the_frozen_interface_does_not_change() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
    for (version, frozen) in [("0.1.0", "315e394f882d935a"), ("1.0.0", "7f2af4860e333346")] {
        let mut hash = blake3::Hasher::new();
        for file in ["hooks.wit", "host.wit", "types.wit", "worlds.wit"] {
            let text = fs::read_to_string(folder.join(version).join(file)).unwrap();
            // Words may become better; what counts is what stands between them.
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                hash.update(line.trim().as_bytes());
            }
        }
        let now = hash.finalize().to_hex()[..16].to_owned();
        assert_eq!(
            now, frozen,
            "wit/{version} has changed, and plugins that were built for it no longer fit; add a version beside it"
        );
    }
}
