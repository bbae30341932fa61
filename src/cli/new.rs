//! `wayleave plugin new`: a folder to begin with.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};

use self::templates::{INTERFACES, TEMPLATES, Template};
use super::EXIT_MISTAKE;
use crate::{
    config::{PLUGIN_NAME, is_plugin_name},
    plugin::Hook,
};

mod templates;

/// Makes a folder with a plugin that builds, passes its tests, and lets
/// everything be.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// What it is written in; any other word lists what there is.
    language: String,
    /// The folder to be made; its last part is the plugin's name.
    folder: PathBuf,
    /// The hooks that it has, as in `transform,route`; without it, all.
    #[arg(long, value_delimiter = ',', value_parser = hook)]
    hooks: Vec<Hook>,
}

fn hook(word: &str) -> Result<Hook, String> {
    let known = || Hook::ALL.iter().map(|hook| hook.key()).collect::<Vec<_>>().join(", ");
    let found = Hook::ALL.iter().find(|hook| hook.key() == word || hook.interface() == word);
    found.copied().ok_or_else(|| format!("there is no such hook; there are {}", known()))
}

pub(super) fn main(new: &New) -> ExitCode {
    match new.make() {
        Ok(name) => {
            println!("{}", new.what_next(&name));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(EXIT_MISTAKE)
        }
    }
}

/// What templates are called, and what they call themselves where a dash may
/// not be.
const STAND_INS: [&str; 2] = ["my-plugin", "my_plugin"];

impl New {
    /// Makes the folder and returns the plugin's name.
    fn make(&self) -> anyhow::Result<String> {
        let template = TEMPLATES.iter().find(|template| template.language == self.language);
        let Some(template) = template else {
            let known: Vec<_> = TEMPLATES.iter().map(|template| template.language).collect();
            bail!("there is no template in `{}`; there are: {}", self.language, known.join(", "));
        };
        let name = self.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        // Toolchains want a letter first.
        let is_good = is_plugin_name(&name) && name.starts_with(|c: char| c.is_ascii_lowercase());
        ensure!(is_good, "`{name}` is not a plugin's name; expected {PLUGIN_NAME}, with a letter first");
        let has_parts = template.files.iter().any(|(_, text)| text.lines().any(|line| mark(line).is_some()));
        ensure!(
            self.hooks.is_empty() || has_parts,
            "the template in `{}` has all hooks; leave out --hooks, and then the functions that you do not want",
            self.language
        );
        let place = self.folder.display();
        ensure!(!self.folder.exists(), "`{place}` is there already; nothing was changed");
        let written = write(template, &self.folder, &name, self.hooks());
        if written.is_err() {
            // It was not there before, so nothing of anybody's is lost.
            let _gone = std::fs::remove_dir_all(&self.folder);
        }
        written.map(|()| name)
    }

    fn hooks(&self) -> &[Hook] {
        if self.hooks.is_empty() { Hook::ALL } else { &self.hooks }
    }

    fn what_next(&self, name: &str) -> String {
        let place = self.folder.display();
        let has = |wanted: &[Hook]| wanted.iter().any(|hook| self.hooks().contains(hook));
        let mut text = format!(
            "made {place}\n\nBuild and test it:\n\n    wayleave plugin test {place}\n\nAdd it to config.toml, and serve:\n\n    \
             [[plugins]]\n    name = \"{name}\"\n    path = \"{place}\"\n    grants = [\"log\"]\n"
        );
        if has(&[Hook::Tick]) {
            text += "    tick = \"10s\"\n";
        }
        if has(&[Hook::Authenticate]) {
            text += &format!("\n    [auth]\n    plugins = [\"{name}\"]\n");
        }
        if has(&[Hook::Authorize, Hook::AuthorizePublish, Hook::Transform, Hook::Route, Hook::Observe]) {
            text += &format!(
                "\n    [[rooms]]\n    match = \"chat:*\"\n    publish = \"members\"\n    plugins = [\"{name}\"]\n"
            );
        }
        text + "\n    wayleave dev"
    }
}

fn write(template: &Template, folder: &Path, name: &str, hooks: &[Hook]) -> anyhow::Result<()> {
    let named = |text: &str| text.replace(STAND_INS[0], name).replace(STAND_INS[1], &name.replace('-', "_"));
    let own = template.files.iter().map(|(path, text)| (named(path), named(&only(text, hooks))));
    let has_world = template.files.iter().any(|(path, _)| path.starts_with("wit/"));
    let interfaces = INTERFACES.iter().filter(|_| has_world);
    let interfaces = interfaces.map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    for (path, text) in own.chain(interfaces) {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("`{}` cannot be made", parent.display()))?;
        let mode = if text.starts_with("#!") { 0o777 } else { 0o666 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    Ok(())
}

/// The text without what belongs to other hooks, and without the marks.
fn only(text: &str, hooks: &[Hook]) -> String {
    let mut kept = String::new();
    let mut is_kept = true;
    for line in text.split_inclusive('\n') {
        match mark(line) {
            Some((marked, begins)) => is_kept = !begins || marked.iter().any(|hook| hooks.contains(hook)),
            None if is_kept => kept += line,
            None => {}
        }
    }
    kept
}

/// The hooks that a line marks, and whether it begins their part.
fn mark(line: &str) -> Option<(Vec<Hook>, bool)> {
    let comment = line.trim();
    let words = comment.trim_matches(|c: char| "/#*-;<>! ".contains(c));
    // A table's head of TOML is no comment.
    let words = words.strip_prefix('[').filter(|_| words.len() < comment.len())?.strip_suffix(']')?;
    let (words, begins) = words.strip_prefix('/').map_or((words, true), |words| (words, false));
    let hooks = words.split(' ').map(|word| Hook::ALL.iter().find(|hook| hook.key() == word).copied());
    Some((hooks.collect::<Option<_>>()?, begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_other_hooks_are_left_out() {
        let text = "a\n// [transform]\nb\n// [/transform]\n  # [route call]\nc\n  # [/route call]\n[call]\nd\n";
        assert_eq!(only(text, &[Hook::Transform]), "a\nb\n[call]\nd\n");
        assert_eq!(only(text, &[Hook::Call]), "a\nc\n[call]\nd\n");
        assert_eq!(only("/* [tick] */\nx\n/* [/tick] */\n<!-- [tick] -->\ny\n", &[]), "");
    }

    #[test]
    fn templates_close_what_they_open() {
        for (path, text) in TEMPLATES.iter().flat_map(|template| template.files) {
            let mut open = None;
            for (hooks, begins) in text.lines().filter_map(mark) {
                if begins {
                    assert_eq!(open.replace(hooks), None, "{path}");
                } else {
                    assert_eq!(open.take(), Some(hooks), "{path}");
                }
            }
            assert_eq!(open, None, "{path}");
        }
    }
}
