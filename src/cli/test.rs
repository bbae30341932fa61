//! `wayleave plugin test`: plugins against files of cases.
//!
//! A case says what a plugin is asked and what it is to answer. It is put to it
//! by the same host as live, with the same grants and limits.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use notify::RecursiveMode;

use self::{
    log::GuestLog,
    report::{Count, Format},
    run::Subject,
    stage::Stage,
};
use super::{EXIT_MISTAKE, build};
use crate::{
    config::{Config, cases::CaseFile},
    plugin::PluginHost,
    reload::{Watcher, settled},
};

mod log;
mod outcome;
mod report;
mod run;
mod stage;
mod update;

/// Puts the cases of files to plugins, and says which answers are not as
/// expected.
#[derive(Debug, clap::Args)]
pub(super) struct Test {
    /// Source folders, which are built if need be, or `.wasm` files; without
    /// any, this folder, or else those of the config that have cases.
    plugins: Vec<PathBuf>,
    /// Files of cases, or folders of them: all of them are put to each plugin;
    /// without it, the folder `cases` beside each plugin.
    #[arg(long, value_name = "PATH")]
    cases: Vec<PathBuf>,
    /// Write what the plugin answers now into the files, where it differs.
    #[arg(long)]
    update: bool,
    /// Go on, and test again whenever a source or a case changes.
    #[arg(long)]
    watch: bool,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    config: super::ConfigArgument,
}

pub(super) fn main(test: &Test) -> ExitCode {
    let log = GuestLog::start();
    if test.watch {
        return super::block_on(watch(test, &log));
    }
    match test.run(&log) {
        Ok(count) if count.mistakes > 0 => ExitCode::from(EXIT_MISTAKE),
        Ok(count) if count.failed > 0 => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(EXIT_MISTAKE)
        }
    }
}

/// Tests, and again after each change, for ever.
async fn watch(test: &Test, log: &GuestLog) -> anyhow::Result<()> {
    let mut watcher = Watcher::new()?;
    loop {
        // A signal is to end it at once, whatever is being built.
        tokio::task::block_in_place(|| {
            if let Err(error) = test.run(log) {
                eprintln!("{error:#}");
            }
        });
        let roots = test.roots();
        let folders: BTreeSet<PathBuf> = roots.iter().filter(|root| root.is_dir()).cloned().collect();
        let watched = folders.clone();
        watcher.watch(&folders, RecursiveMode::Recursive, move |path| {
            watched.iter().any(|root| path.strip_prefix(root).is_ok_and(build::is_source))
        });
        println!("waiting for changes");
        watcher.changed().await;
        settled(&roots.iter().flat_map(|root| build::sources(root).into_keys()).collect()).await;
        println!();
    }
}

/// A plugin to be tested.
struct Tested {
    /// As it is printed.
    label: String,
    /// As the host calls it.
    name: String,
    path: PathBuf,
    files: Vec<CaseFile>,
}

impl Test {
    fn run(&self, log: &GuestLog) -> anyhow::Result<Count> {
        let plugins = self.plugins()?;
        if self.update && plugins.len() > 1 {
            bail!("--update takes one plugin: it is the one that says what is expected");
        }
        let mut count = Count::default();
        let mut tested = Vec::new();
        for path in plugins {
            match self.prepare(&path) {
                Ok(plugin) => tested.push(plugin),
                Err(mistakes) => {
                    count.mistakes += mistakes.len();
                    mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
                }
            }
        }
        // Nothing is asked while there are mistakes to be mended first.
        if count.mistakes == 0 {
            let stage = Stage::new();
            // Compiled code of a gateway that runs here is taken and kept there.
            let cache = Path::new(CACHE);
            let cache = cache.is_dir().then_some(cache);
            let host = PluginHost::open_for_tests(cache, stage.clone(), stage.clone(), stage.time())?;
            for Tested { label, name, path, files } in &tested {
                let subject = Subject { host: &host, stage: &stage, log, name, path };
                self.test(label, &subject, files, &mut count)?;
            }
        }
        count.print(self.format);
        Ok(count)
    }

    fn test(&self, label: &str, subject: &Subject<'_>, files: &[CaseFile], count: &mut Count) -> anyhow::Result<()> {
        for file in files {
            report::print_head(label, file, self.format);
            let reports = match subject.put(file) {
                Ok(reports) => reports,
                Err(reason) => {
                    count.mistakes += 1;
                    eprintln!("{label}: {reason}");
                    continue;
                }
            };
            let written = if self.update { update::write(file, &reports)? } else { vec![false; reports.len()] };
            for ((case, steps), written) in file.cases.iter().zip(&reports).zip(written) {
                report::print_case(label, file, case, steps, written, self.format);
                let is_good = steps.iter().all(run::StepReport::is_good);
                *match (is_good, written) {
                    (true, _) => &mut count.passed,
                    (false, true) => &mut count.written,
                    (false, false) => &mut count.failed,
                } += 1;
            }
        }
        Ok(())
    }

    /// The plugins to be tested, as they are named.
    fn plugins(&self) -> anyhow::Result<Vec<PathBuf>> {
        if !self.plugins.is_empty() {
            return Ok(self.plugins.clone());
        }
        let here = PathBuf::from(".");
        if here.join(CASES).is_dir() || build::is_plugin(&here) {
            return Ok(vec![here]);
        }
        let config = Config::load(&self.config.config)?;
        let has_cases = |path: &PathBuf| !self.cases.is_empty() || path.join(CASES).is_dir();
        let found: Vec<_> = config.plugins.into_iter().map(|plugin| plugin.path).filter(has_cases).collect();
        if found.is_empty() {
            bail!("no plugin of `{}` has a folder `{CASES}`; name a plugin's folder", self.config.config.display());
        }
        Ok(found)
    }

    /// Builds a plugin and reads its cases; else everything that is wrong.
    fn prepare(&self, path: &Path) -> Result<Tested, Vec<String>> {
        let mut mistakes = Vec::new();
        if path.is_dir() {
            if let Err(error) = build::build_if_stale(path) {
                mistakes.push(format!("{}: {error:#}", path.display()));
            }
        } else if !path.is_file() {
            mistakes.push(format!("{}: there is no such plugin", path.display()));
        }
        let mut files = Vec::new();
        for file in self.case_files(path).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            Vec::new()
        }) {
            match CaseFile::load(&file) {
                Ok(file) => files.push(file),
                Err(error) => mistakes.push(error.to_string()),
            }
        }
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = absolute.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let label = if path == Path::new(".") { name.clone() } else { path.display().to_string() };
        if mistakes.is_empty() { Ok(Tested { label, name, path: absolute, files }) } else { Err(mistakes) }
    }

    /// The files of cases for a plugin, in the order of their names.
    fn case_files(&self, plugin: &Path) -> Result<Vec<PathBuf>, String> {
        let beside = match plugin {
            here if here == Path::new(".") => PathBuf::from(CASES),
            folder if folder.is_dir() => folder.join(CASES),
            file => file.with_file_name(CASES),
        };
        let named = if self.cases.is_empty() { std::slice::from_ref(&beside) } else { &self.cases };
        let mut files = Vec::new();
        for path in named {
            if path.is_file() {
                files.push(path.clone());
                continue;
            }
            let there = path.read_dir().map_err(|error| format!("{}: no cases: {error}", path.display()))?;
            let mut found: Vec<_> = there.flatten().map(|entry| entry.path()).filter(|file| is_cases(file)).collect();
            if found.is_empty() {
                return Err(format!("{}: there are no cases, which are `.toml` files", path.display()));
            }
            found.sort();
            files.append(&mut found);
        }
        Ok(files)
    }

    /// What is to be watched.
    fn roots(&self) -> BTreeSet<PathBuf> {
        let absolute = |path: PathBuf| path.canonicalize().unwrap_or(path);
        // A single file is watched with its folder.
        let folder = |path: PathBuf| match path.parent().filter(|_| path.is_file()) {
            Some(parent) => parent.to_owned(),
            None => path,
        };
        let plugins = self.plugins().unwrap_or_default();
        plugins.into_iter().chain(self.cases.iter().cloned()).map(absolute).map(folder).collect()
    }
}

/// The folder beside a plugin's sources that holds its cases.
const CASES: &str = "cases";

/// `server.cache`, where the config says nothing else.
const CACHE: &str = ".wayleave/cache";

fn is_cases(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "toml")
}
