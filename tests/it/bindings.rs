//! What is written by hand for a language is held to the interfaces: the types of
//! scripts, the engine's tables, the library for Go.

use std::{collections::BTreeSet, fs, path::Path};

use wit_parser::{Function, Resolve, TypeDefKind, TypeOwner};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn interfaces() -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit/1.0.0")).unwrap();
    resolve
}

/// A type of an interface: a record by its fields, a variant or enum by its cases.
struct Named {
    interface: String,
    name: String,
    is_record: bool,
    parts: Vec<String>,
}

fn types(resolve: &Resolve) -> Vec<Named> {
    let named = |(_, def): (_, &wit_parser::TypeDef)| {
        let TypeOwner::Interface(owner) = def.owner else { return None };
        let names = |parts: Vec<&String>| parts.into_iter().cloned().collect::<Vec<_>>();
        let (is_record, parts) = match &def.kind {
            TypeDefKind::Record(record) => (true, names(record.fields.iter().map(|field| &field.name).collect())),
            TypeDefKind::Variant(variant) => (false, names(variant.cases.iter().map(|case| &case.name).collect())),
            TypeDefKind::Enum(of) => (false, names(of.cases.iter().map(|case| &case.name).collect())),
            _ => return None,
        };
        let interface = resolve.interfaces[owner].name.clone()?;
        Some(Named { interface, name: def.name.clone()?, is_record, parts })
    };
    let found: Vec<_> = resolve.types.iter().filter_map(named).collect();
    assert!(found.len() > 30, "{} types", found.len());
    found
}

/// All functions of the host's interfaces, which plugins import, or of its hooks.
fn functions(resolve: &Resolve, of_hooks: bool) -> Vec<(String, &Function)> {
    let hooks = read("wit/1.0.0/hooks.wit");
    let all = resolve.interfaces.iter().flat_map(|(_, interface)| {
        let name = interface.name.clone().unwrap();
        interface.functions.values().map(move |function| (name.clone(), function))
    });
    let all: Vec<_> = all.filter(|(name, _)| hooks.contains(&format!("interface {name} {{")) == of_hooks).collect();
    assert!(all.len() >= 10, "{} functions", all.len());
    all
}

fn camel(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |text, word| text + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn the_types_of_scripts_are_the_same_everywhere() {
    let one = read("plugins/engines/javascript/wayleave.d.ts");
    for copy in [
        "plugins/templates/javascript/wayleave.d.ts",
        "plugins/templates/typescript/src/wayleave.d.ts",
        "plugins/typescript/demo-users/src/wayleave.d.ts",
        "plugins/typescript/members-only/src/wayleave.d.ts",
        "plugins/typescript/mentions/src/wayleave.d.ts",
        "plugins/typescript/moderation/src/wayleave.d.ts",
    ] {
        assert!(read(copy) == one, "{copy} differs from plugins/engines/javascript/wayleave.d.ts");
    }
}

#[test]
fn the_types_of_scripts_have_what_the_interfaces_have() {
    let resolve = interfaces();
    let text = read("plugins/engines/javascript/wayleave.d.ts");
    let mut missing = Vec::new();
    for Named { interface, name, is_record, parts } in types(&resolve) {
        for part in parts {
            let (one, other) = (format!("{}: ", camel(&part)), format!("{}?: ", camel(&part)));
            let is_there = if is_record {
                text.contains(&one) || text.contains(&other)
            } else {
                text.contains(&format!("\"{part}\""))
            };
            if !is_there {
                missing.push(format!("{interface}.{name}.{part}"));
            }
        }
    }
    for (interface, function) in functions(&resolve, false) {
        let module = text.split(&format!("declare module \"wayleave:plugin/{interface}\" {{")).nth(1);
        let module = module.and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
        // A word that JavaScript keeps for itself.
        let name = if function.name == "delete" { "remove" } else { &function.name };
        let head = module.split(&format!("function {name}(")).nth(1).and_then(|rest| rest.split("):").next());
        let parameters = head.unwrap_or("?").split(',').filter_map(|it| it.split([':', '?']).next());
        let parameters: Vec<_> = parameters.map(str::trim).filter(|name| !name.is_empty()).collect();
        let expected: Vec<_> = function.params.iter().map(|parameter| camel(&parameter.name)).collect();
        if parameters != expected {
            missing.push(format!("{interface}.{}({}), there: {parameters:?}", function.name, expected.join(", ")));
        }
    }
    for (_, function) in functions(&resolve, true) {
        // By the interface where it has one function of another name.
        let names: Vec<_> = function.params.iter().map(|parameter| camel(&parameter.name)).collect();
        if !text.contains(&format!("({})", names.join(", "))) {
            missing.push(format!("the hook {}({})", function.name, names.join(", ")));
        }
    }
    assert!(missing.is_empty(), "wayleave.d.ts has not: {missing:#?}");
}

/// The engine for scripts reads and writes values by tables, in their order.
#[test]
fn the_engine_for_scripts_has_the_types_in_their_order() {
    let text = read("plugins/engines/javascript/src/types.c");
    let tables = text.split("static part ").skip(1).map(|table| {
        let (head, body) = table.split_once("] = ").unwrap();
        let body = body.split("};").next().unwrap();
        let parts: Vec<_> = body.split("{\"").skip(1).map(|part| part.split('"').next().unwrap().to_owned()).collect();
        (head.contains("_FIELDS"), parts)
    });
    let tables: BTreeSet<_> = tables.collect();
    let wanted = types(&interfaces());
    let wanted: BTreeSet<_> = wanted.into_iter().map(|it| (it.is_record, it.parts)).collect();
    assert_eq!(tables.difference(&wanted).collect::<Vec<_>>(), wanted.difference(&tables).collect::<Vec<_>>());
}

/// The library for Go has a struct for each record, with its fields in order.
#[test]
fn the_library_for_go_has_the_records_in_their_order() {
    let resolve = interfaces();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/go/wayleave");
    let mut structs = BTreeSet::new();
    for file in std::iter::once(root.clone()).chain(fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path())) {
        let files = fs::read_dir(&file).into_iter().flatten().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "go")) {
            let text = fs::read_to_string(&file).unwrap();
            for found in
                text.split("\ntype ").skip(1).filter_map(|rest| rest.split_once(" struct").map(|(_, body)| body))
            {
                let Some(body) = found.trim_start().strip_prefix('{') else { continue };
                let body = body.split('}').next().unwrap();
                let lines =
                    body.lines().map(|line| line.split("//").next().unwrap().trim()).filter(|line| !line.is_empty());
                // `A, B string` has two.
                let fields = lines.flat_map(|line| {
                    let names = line.rsplit_once(' ').map_or(line, |(names, _)| names);
                    names.split(',').map(|name| name.trim().to_lowercase()).collect::<Vec<_>>()
                });
                structs.insert(fields.collect::<Vec<_>>());
            }
        }
    }
    // The counts of a look-up are two results.
    let records = types(&resolve).into_iter().filter(|it| it.is_record && it.name != "counts");
    let missing: Vec<_> = records
        .filter(|it| !structs.contains(&it.parts.iter().map(|part| part.replace('-', "")).collect::<Vec<_>>()))
        .map(|it| format!("{}.{} {:?}", it.interface, it.name, it.parts))
        .collect();
    assert!(missing.is_empty(), "no struct in plugins/go/wayleave for: {missing:#?}\nthere are: {structs:#?}");
}
