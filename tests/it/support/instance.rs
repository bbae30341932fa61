//! A gateway as its operator runs it: a process.

use std::{
    io,
    net::SocketAddr,
    process::ExitStatus,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    PATIENCE, SECRET, TestClient,
    process::{Process, ReservedPort},
    token, until,
};

/// How long a page may take; a frozen gateway is found out by this.
const PAGE: Duration = Duration::from_secs(2);

/// A running `wayleave`.
#[derive(Debug)]
pub struct Instance {
    name: String,
    process: Option<Process>,
    folder: TempDir,
    /// Known before it runs, and the same after a restart.
    port: ReservedPort,
}

impl Instance {
    /// Starts one and waits until it listens; it need not be ready by then.
    ///
    /// The config is written by the test but for what it leaves out here: that
    /// it listens, that anybody may connect or has a token by [`SECRET`], its
    /// metrics and, with a Redis or a `[bus]`, its cluster. Keys and sections
    /// that the test does write are left alone.
    pub async fn start(config: &str, redis_url: Option<&str>, name: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
        let text = complete(config, redis_url, name, port.address());
        let mut instance = Self { name: name.to_owned(), process: None, folder, port };
        instance.configure(&text);
        instance.restart().await;
        instance
    }

    /// What one says that does not start.
    pub async fn refused(config: &str, redis_url: Option<&str>, name: &str) -> String {
        let (folder, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
        let (file, output) = (folder.path().join("config.toml"), folder.path().join("output"));
        std::fs::write(&file, complete(config, redis_url, name, port.address())).unwrap();
        let arguments = ["run", "--config", file.to_str().unwrap()].map(str::to_owned);
        let mut process = Process::start(name, env!("CARGO_BIN_EXE_wayleave"), &arguments, &output);
        let status = process.end(PATIENCE).await;
        assert!(!status.success(), "{}", process.output());
        process.output()
    }

    /// Writes its config file; it takes that over by itself, or at a restart.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.folder.path().join("config.toml"), text).unwrap();
    }

    /// Its whole config, with what [`Self::start`] added.
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("config.toml")).unwrap()
    }

    /// Kills it if it runs and starts it anew, at the same address.
    pub async fn restart(&mut self) {
        self.kill();
        let (file, output) = (self.folder.path().join("config.toml"), self.folder.path().join("output"));
        let arguments = ["run", "--config", file.to_str().unwrap()].map(str::to_owned);
        let process = Process::start(&self.name, &program(), &arguments, &output);
        let process = self.process.insert(process);
        let deadline = Instant::now() + PATIENCE;
        while get(self.port.address(), "/health").await.is_err() {
            let runs = process.ended().is_none() && Instant::now() < deadline;
            assert!(runs, "{} does not listen:\n{}", self.name, process.output());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}/connection/websocket", self.addr())
    }

    /// Where its pages are, without a slash at the end.
    pub fn http(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Ends it as a crash would, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Freezes it: its sockets stay, nothing moves.
    pub fn stop(&mut self) {
        self.running().stop();
    }

    /// Ends [`Self::stop`].
    pub fn cont(&mut self) {
        self.running().signal("CONT");
    }

    /// Tells it to end and waits until it has; [`Self::restart`] brings it back.
    /// It waits for clients that do not answer its close: let them be closed
    /// and leave meanwhile.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.terminate_soon();
        self.ended(PATIENCE).await
    }

    /// Tells it to end.
    pub fn terminate_soon(&mut self) {
        self.running().signal("TERM");
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        self.running().end(within).await
    }

    #[track_caller]
    fn running(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// All it has logged so far, over all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&mut self) -> u32 {
        self.running().pid()
    }

    /// Memory in use, in bytes; of Linux.
    pub fn resident_bytes(&mut self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// The part of [`Self::resident_bytes`] that no file backs: a kernel takes
    /// pages of the program back and reads them again as it likes.
    pub fn anonymous_bytes(&mut self) -> u64 {
        self.status("RssAnon:") * 1024
    }

    /// How many threads it has; of Linux.
    pub fn threads(&mut self) -> u64 {
        self.status("Threads:")
    }

    fn status(&mut self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running().pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Time that its threads have computed, in steps of ten milliseconds.
    pub fn cpu(&mut self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.running().pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // User and system time, the 14th and 15th field, in hundredths of a second.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// How many files and sockets it has open; of Linux.
    pub fn open_files(&mut self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.running().pid())).unwrap().count()
    }

    /// The status and text of a page.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        get(self.addr(), path).await
    }

    /// Whether a load balancer would send clients here. One that does not
    /// answer is not ready.
    pub async fn is_ready(&self) -> bool {
        self.get("/ready").await.is_ok_and(|(status, _)| status == 200)
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        until("it is ready", async || self.is_ready().await).await;
    }

    /// The value of a metric, labels and all: `name{label="x"}`; 0 if absent.
    pub async fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get("/metrics").await.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(status, 200, "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// A connected anonymous client.
    pub async fn client(&self) -> TestClient {
        TestClient::connect(&self.url(), json!({})).await
    }

    /// A client of a user, by token.
    pub async fn user(&self, user: &str) -> TestClient {
        TestClient::connect(&self.url(), json!({ "token": token(&json!({ "sub": user })) })).await
    }

    /// A client with a hello of its own.
    pub async fn client_with(&self, hello: Value) -> TestClient {
        TestClient::connect(&self.url(), hello).await
    }
}

/// The program of this build, or the one that the environment names.
fn program() -> String {
    std::env::var("GATEWAY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_wayleave").to_owned())
}

/// One request by hand on a connection of its own: whatever keeps connections
/// would blur who is gone.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, io::Error>(text)
    };
    let text = tokio::time::timeout(PAGE, exchange).await.map_err(io::Error::from)??;
    let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("no response: {text:?}")))
}

/// The config with what every instance needs.
fn complete(config: &str, redis_url: Option<&str>, name: &str, listen: SocketAddr) -> String {
    let quoted = |text: &str| format!("{text:?}");
    let listen = quoted(&listen.to_string());
    let mut config = with_keys(config, "server", &[("listen", &listen), ("cache", "\"\"")]);
    if !has_section(&config, "auth") {
        config = with_keys(&config, "auth", &[("anonymous", "true")]);
        config = with_keys(&config, "auth.jwt", &[("hmac_secret", &quoted(SECRET))]);
    }
    config = with_keys(&config, "metrics", &[("enabled", "true")]);
    if let Some(url) = redis_url {
        config = with_keys(&config, "bus", &[("kind", "\"redis\""), ("url", &quoted(url))]);
    }
    if has_section(&config, "bus") {
        let name = quoted(name);
        let keys = [("name", name.as_str()), ("heartbeat", "\"2s\""), ("ttl", "\"6s\""), ("sweep", "\"1s\"")];
        config = with_keys(&config, "cluster", &keys);
    }
    config
}

fn has_section(config: &str, section: &str) -> bool {
    config.lines().any(|line| line.trim() == format!("[{section}]"))
}

/// The config with those of these keys that its section does not have yet.
fn with_keys(config: &str, section: &str, keys: &[(&str, &str)]) -> String {
    let header = format!("[{section}]");
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    let start = lines.iter().position(|line| line.trim() == header).unwrap_or_else(|| {
        lines.push(header);
        lines.len() - 1
    });
    let end = lines[start + 1..].iter().position(|line| line.trim().starts_with('[')).map(|n| start + 1 + n);
    let present = lines[start + 1..end.unwrap_or(lines.len())].to_vec();
    let is_absent = |key: &str| !present.iter().any(|line| line.split('=').next().is_some_and(|it| it.trim() == key));
    let absent = keys.iter().filter(|(key, _)| is_absent(key)).map(|(key, value)| format!("{key} = {value}"));
    lines.splice(start + 1..start + 1, absent.collect::<Vec<_>>());
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_completed_where_it_says_nothing() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 1));
        let text = complete("[[rooms]]\nmatch = \"r\"\n", None, "a", listen);
        assert_eq!(
            text,
            format!(
                "[[rooms]]\nmatch = \"r\"\n[server]\nlisten = \"127.0.0.1:1\"\ncache = \"\"\n[auth]\n\
                 anonymous = true\n[auth.jwt]\nhmac_secret = {SECRET:?}\n[metrics]\nenabled = true\n"
            )
        );
        let own = "[cluster]\nttl = \"1s\"\n[metrics]\nenabled = false\n[auth]\n[server]\ncache = \"x\"\n";
        assert_eq!(
            complete(own, Some("redis://x"), "a", listen),
            "[cluster]\nname = \"a\"\nheartbeat = \"2s\"\nsweep = \"1s\"\nttl = \"1s\"\n\
             [metrics]\nenabled = false\n[auth]\n[server]\nlisten = \"127.0.0.1:1\"\ncache = \"x\"\n\
             [bus]\nkind = \"redis\"\nurl = \"redis://x\"\n"
        );
    }
}
