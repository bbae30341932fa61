//! What is told of cases: a line each for people, or an object each for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::run::StepReport;
use crate::config::cases::{Case, CaseFile, Expect};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// An object a line, for programs.
    Json,
}

/// How many cases went which way.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) written: usize,
    /// Files and plugins that cannot be used.
    pub(super) mistakes: usize,
}

impl Count {
    pub(super) fn print(self, format: Format) {
        let Self { passed, failed, written, mistakes } = self;
        if format == Format::Json {
            let summary = json!({ "passed": passed, "failed": failed, "written": written, "mistakes": mistakes });
            return println!("{}", json!({ "summary": summary }));
        }
        let mut parts = vec![format!("{passed} passed"), format!("{failed} failed")];
        if written > 0 {
            parts.push(format!("{written} written"));
        }
        if mistakes > 0 {
            parts.push(format!("{mistakes} {}", if mistakes == 1 { "mistake" } else { "mistakes" }));
        }
        println!("{}", parts.join(", "));
    }
}

/// What stands above the cases of a file.
pub(super) fn print_head(plugin: &str, file: &CaseFile, format: Format) {
    if format == Format::Text {
        println!("{plugin}: {}", file.path.display());
    }
}

/// One case.
pub(super) fn print_case(
    plugin: &str,
    file: &CaseFile,
    case: &Case,
    steps: &[StepReport],
    is_written: bool,
    format: Format,
) {
    let took: Duration = steps.iter().map(|step| step.took).sum();
    let is_good = steps.iter().all(StepReport::is_good);
    if format == Format::Json {
        let reports = steps.iter().map(step_json).collect::<Vec<_>>();
        let line = json!({
            "plugin": plugin, "file": file.path, "line": steps[0].line, "case": case.name, "ok": is_good || is_written,
            "written": is_written && !is_good, "micros": micros(took), "steps": reports,
        });
        return println!("{line}");
    }
    let (mark, what) = match (is_good, is_written) {
        (true, _) => ("✓", ""),
        (false, true) => ("✎", ", written"),
        (false, false) => ("✗", ""),
    };
    println!("  {mark} {} ({} µs{what})", case.name, micros(took));
    if is_good || is_written {
        return;
    }
    for (n, step) in steps.iter().enumerate().filter(|(_, step)| !step.is_good()) {
        let place = format!("{}:{}", file.path.display(), step.line);
        let which = if case.has_steps { format!("step {}, {place}", n + 1) } else { place };
        println!("      {which}");
        if let Some(note) = &step.note {
            println!("      {}", note.replace('\n', "\n      "));
        }
        step.log.iter().for_each(|line| println!("      log: {line}"));
        match &step.expected {
            None => {
                println!("      has no `expect`; --update writes what it answers now:");
                pretty(&whole(&step.actual)).iter().for_each(|line| println!("        {line}"));
            }
            Some(expected) => {
                let lines = difference(&pretty(&whole(expected)), &pretty(&whole(&step.actual)));
                println!("      - expected  + answered");
                lines.iter().for_each(|line| println!("      {line}"));
            }
        }
    }
}

fn step_json(step: &StepReport) -> Value {
    json!({
        "line": step.line,
        "ok": step.is_good(),
        "micros": micros(step.took),
        "expected": step.expected.as_ref().map(whole),
        "actual": whole(&step.actual),
        "note": step.note,
        "log": step.log,
    })
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Answer and store in one.
pub(super) fn whole(side: &Expect) -> Value {
    let Some(kv) = &side.kv else { return side.answer.clone() };
    match &side.answer {
        Value::Object(fields) => {
            let mut fields = fields.clone();
            fields.insert("kv".to_owned(), Value::Object(kv.clone()));
            Value::Object(fields)
        }
        word => json!({ "verdict": word, "kv": kv }),
    }
}

fn pretty(value: &Value) -> Vec<String> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The lines of both, those of one side marked, in the order that keeps most of
/// them together (the longest common subsequence).
fn difference(old: &[String], new: &[String]) -> Vec<String> {
    let mut longest = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] =
                if old[i] == new[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(format!("  {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(format!("- {}", old[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_keeps_what_both_have_together() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(difference(&lines("{ a b }"), &lines("{ a c d }")), ["  {", "  a", "- b", "+ c", "+ d", "  }"]);
        assert_eq!(difference(&lines("x"), &lines("x")), ["  x"]);
    }
}
