//! `--update`: writes what plugins answer into their files of cases.
//!
//! Only what is expected changes. Comments, order and the rest of the file stay
//! as they are, which is why it does not go through a tree of values.

use anyhow::{Context, anyhow};
use toml_edit::{DocumentMut, Item, RawString, TableLike, value};

use super::{super::to_toml::to_toml, report::whole, run::StepReport};
use crate::config::cases::CaseFile;

/// Writes the answers of a file's cases, by case and step, where they differ.
/// True for each case that was changed.
///
/// # Errors
/// If the file cannot be written, or an answer has no form in TOML.
pub(super) fn write(file: &CaseFile, reports: &[Vec<StepReport>]) -> anyhow::Result<Vec<bool>> {
    let changed: Vec<bool> = reports.iter().map(|steps| !steps.iter().all(StepReport::is_good)).collect();
    if !changed.contains(&true) {
        return Ok(changed);
    }
    let place = file.path.display();
    let text = std::fs::read_to_string(&file.path).with_context(|| format!("`{place}` cannot be read"))?;
    let mut document: DocumentMut = text.parse().with_context(|| format!("`{place}` does not parse any more"))?;
    for (n, (case, steps)) in file.cases.iter().zip(reports).enumerate() {
        let moved = || anyhow!("`{place}` has changed meanwhile; try again");
        let table = nth(document.as_table_mut().get_mut("cases"), n).ok_or_else(moved)?;
        if !case.has_steps {
            put(table, &steps[0]).with_context(|| format!("case `{}`", case.name))?;
            continue;
        }
        for (n, step) in steps.iter().enumerate() {
            let table = nth(table.0.get_mut("steps"), n).ok_or_else(moved)?;
            put(table, step).with_context(|| format!("case `{}`, step {}", case.name, n + 1))?;
        }
    }
    std::fs::write(&file.path, document.to_string()).with_context(|| format!("`{place}` cannot be written"))?;
    Ok(changed)
}

fn put((table, is_inline): (&mut dyn TableLike, bool), step: &StepReport) -> anyhow::Result<()> {
    if step.is_good() {
        return Ok(());
    }
    let mut new = to_toml(&whole(&step.actual)).ok_or_else(|| {
        anyhow!("TOML has no null: this answer cannot be written as it is, compare a part of it by hand")
    })?;
    // In place of what is there, so that it keeps its place and its comments.
    match table.get_mut("expect") {
        Some(Item::Value(old)) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        _ => {
            let space = if is_inline { take_space(table) } else { None };
            if let Some(space) = space {
                new.decor_mut().set_suffix(space);
            }
            table.insert("expect", value(new));
        }
    }
    Ok(())
}

/// What stands before the brace that closes a table of one line.
fn take_space(table: &mut dyn TableLike) -> Option<RawString> {
    let (_, last) = table.iter_mut().last()?;
    let decor = last.as_value_mut()?.decor_mut();
    let space = decor.suffix().cloned();
    decor.set_suffix("");
    space
}

/// A list of tables is written as `[[list]]` or as `list = [{ … }]`; true: the
/// latter.
fn nth(list: Option<&mut Item>, n: usize) -> Option<(&mut dyn TableLike, bool)> {
    match list? {
        Item::ArrayOfTables(tables) => tables.get_mut(n).map(|table| (table as &mut dyn TableLike, false)),
        Item::Value(toml_edit::Value::Array(items)) => {
            items.get_mut(n)?.as_inline_table_mut().map(|table| (table as &mut dyn TableLike, true))
        }
        _ => None,
    }
}
