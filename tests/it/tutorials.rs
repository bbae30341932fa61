//! `docs/tutorials`: each is followed from its first line to its last.
//!
//! What a page's fences say:
//!
//! - `sh`: commands, which must succeed (`fails`: must not); `sh install` is left
//!   out, and said so; `sh terminal=NAME` goes on in a terminal of its own.
//! - `text`: what the commands before it have printed, `…` standing for anything;
//!   with `terminal=NAME`, all that this terminal has shown by then, soon.
//! - `… file=PATH`: a file, written.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{
    PATIENCE,
    instance::get,
    is_left_out,
    pages::Block,
    process::{Process, ReservedPort},
    until,
};

/// For a build with everything that it is made of.
const BUILD: Duration = Duration::from_secs(600);

const ANYTHING: &str = "…";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Somebody who does what a page says.
struct Reader {
    name: String,
    folder: TempDir,
    port: ReservedPort,
    terminals: BTreeMap<String, Process>,
    /// Of the commands before.
    output: String,
}

impl Reader {
    fn new(name: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
        Self { name: name.to_owned(), folder, port, terminals: BTreeMap::new(), output: String::new() }
    }

    async fn follow(mut self) {
        if is_left_out(&self.name) {
            return;
        }
        let page = std::fs::read_to_string(root().join(format!("docs/tutorials/{}.md", self.name))).unwrap();
        for block in Block::all(&page) {
            let place = format!("docs/tutorials/{}.md, line {}", self.name, block.line);
            if let Some(file) = block.value("file") {
                let file = self.folder.path().join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, &block.text).unwrap();
                continue;
            }
            match (block.language.as_str(), block.value("terminal")) {
                // Not by a macro, whose words are shown of failed tests alone.
                ("sh", _) if block.has("install") => {
                    let what = block.text.trim().replace('\n', "; ");
                    let mut seen = std::io::stderr().lock();
                    writeln!(seen, "{place}: left out: {what}").unwrap();
                }
                ("sh", Some(terminal)) => self.open(terminal, &block.text).await,
                ("sh", None) => self.run(&block.text, !block.has("fails"), &place).await,
                ("text", Some(terminal)) => self.sees(terminal, &block.text, &place).await,
                ("text", None) => assert!(
                    is_like(&self.output, &block.text),
                    "{place}: expected\n{}\nprinted\n{}",
                    block.text,
                    self.output
                ),
                (other, _) => panic!("{place}: nothing is done with this `{other}`"),
            }
        }
    }

    /// What the page takes as given: the program, and a port of its own.
    fn environment(&self) -> [(&'static str, std::ffi::OsString); 3] {
        let program = Path::new(env!("CARGO_BIN_EXE_wayleave")).parent().unwrap().to_owned();
        let before = std::env::var_os("PATH").unwrap();
        let path = [program, root().join("target/tools/bin")].into_iter().chain(std::env::split_paths(&before));
        [
            ("PATH", std::env::join_paths(path).unwrap()),
            // The standard library and its like are built once for all plugins.
            ("CARGO_TARGET_DIR", root().join("plugins/target").into()),
            ("WAYLEAVE_SERVER_LISTEN", self.port.address().to_string().into()),
        ]
    }

    async fn run(&mut self, script: &str, is_good: bool, place: &str) {
        let mut command = Command::new("bash");
        // Both streams in the order in which they are seen.
        command.args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{script}")]).current_dir(self.folder.path());
        command.envs(self.environment()).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(BUILD, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{place}: it does not end: {script}")).unwrap();
        self.output = String::from_utf8_lossy(&output.stdout).into_owned();
        let as_said = output.status.success() == is_good;
        assert!(as_said, "{place}: {script}ended with {}\n{}", output.status, self.output);
    }

    /// Starts what goes on, where there was something else after Ctrl-C. A gateway
    /// is awaited, as its reader waits for the line that says so.
    async fn open(&mut self, terminal: &str, script: &str) {
        let output = self.output_of(terminal);
        if let Some(mut before) = self.terminals.remove(terminal) {
            before.signal("INT");
            before.end(PATIENCE).await;
            std::fs::remove_file(&output).unwrap();
        }
        let variables = self.environment().map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        let inside = format!("cd {:?}; exec {script}", self.folder.path());
        let arguments = variables.into_iter().chain(["bash", "-euc", &inside].map(str::to_owned));
        let process = Process::start(terminal, "env", &arguments.collect::<Vec<_>>(), &output);
        let process = self.terminals.entry(terminal.to_owned()).insert_entry(process).into_mut();
        if script.starts_with("wayleave dev") || script.starts_with("wayleave run") {
            let address = self.port.address();
            until("the gateway listens", async || {
                assert!(process.ended().is_none(), "it has ended:\n{}", process.output());
                get(address, "/health").await.is_ok()
            })
            .await;
        }
    }

    fn output_of(&self, terminal: &str) -> PathBuf {
        // Not where `wayleave dev` looks.
        self.folder.path().join(format!(".{terminal}.output"))
    }

    async fn sees(&mut self, terminal: &str, expected: &str, place: &str) {
        let file = self.output_of(terminal);
        let deadline = tokio::time::Instant::now() + BUILD;
        loop {
            let shown = std::fs::read_to_string(&file).unwrap();
            if is_like(&shown, expected) {
                return;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{place}: expected in this terminal\n{expected}\nshown\n{shown}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Whether a text has the parts between the marks, in order, and ends with the last.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.trim(), pattern.trim());
    let mut parts = pattern.split(ANYTHING);
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    true
}

#[test]
fn marks_stand_for_anything() {
    for (text, pattern) in [("a", "a"), ("a b c\n", "a … c"), ("abc", "…"), ("x 12 ms\ny", "x … ms\n…"), ("ac", "a…c")]
    {
        assert!(is_like(text, pattern), "{text:?} {pattern:?}");
    }
    for (text, pattern) in [("ab", "a"), ("a b", "… c"), ("b a", "a…b"), ("a", "a…b"), ("a b d", "a…c…d")] {
        assert!(!is_like(text, pattern), "{text:?} {pattern:?}");
    }
}

const PAGES: [&str; 6] = ["c", "go", "javascript", "python", "rust", "typescript"];

#[test]
fn each_tutorial_is_linked_and_followed() {
    let pages = root().join("docs/tutorials").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let pages: BTreeSet<String> = pages.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(pages, PAGES.iter().map(|name| format!("{name}.md")).collect());
    for document in ["README.md", "docs/plugins.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for page in &pages {
            assert!(text.contains(&format!("tutorials/{page})")), "{document} has no link to {page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript() {
    Reader::new("javascript").follow().await;
}

/// The others need their languages' toolchains, and some minutes: `make
/// test-plugins`, which has them set up, runs these.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the toolchains; `make test-plugins` runs it"]
async fn c() {
    Reader::new("c").follow().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the toolchains; `make test-plugins` runs it"]
async fn go() {
    Reader::new("go").follow().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the toolchains; `make test-plugins` runs it"]
async fn python() {
    Reader::new("python").follow().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the toolchains; `make test-plugins` runs it"]
async fn rust() {
    Reader::new("rust").follow().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the toolchains; `make test-plugins` runs it"]
async fn typescript() {
    Reader::new("typescript").follow().await;
}
