//! Real Redis servers: one, with replicas, with Sentinels, a Cluster.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use redis::{FromRedisValue, RedisResult, Value, aio::MultiplexedConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{
    PATIENCE,
    process::{Process, ReservedPort},
    until,
};

/// How long one command may take, unless the server is to be found frozen.
const ANSWER: Duration = Duration::from_secs(5);

/// A `redis-server` on a port of its own that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Process>,
    arguments: Vec<String>,
    folder: TempDir,
    port: ReservedPort,
    /// Of a node of a cluster.
    _bus_port: Option<ReservedPort>,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments; of an option that is given twice the last counts.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_node(arguments, None).await
    }

    /// A replica that has caught up with its master.
    pub async fn replica_of(master: &Self) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await;
        until("the replica has caught up", async || {
            replica.info("replication").await.get("master_link_status").is_some_and(|status| status == "up")
        })
        .await;
        replica
    }

    async fn start_node(more: &[&str], bus_port: Option<ReservedPort>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = ReservedPort::new();
        let mut arguments = own_arguments(folder.path(), &port);
        // The delay is there to wait for other replicas; ours come one by one.
        let defaults = "--appendonly no --enable-debug-command local --repl-diskless-sync-delay 0";
        arguments.extend(["--save".to_owned(), String::new()]);
        arguments.extend(defaults.split(' ').map(str::to_owned));
        if let Some(bus_port) = &bus_port {
            arguments.extend(["--cluster-port".to_owned(), bus_port.port().to_string()]);
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let mut server =
            Self { process: None, arguments, folder, port, _bus_port: bus_port, connection: Mutex::default() };
        server.restart().await;
        server
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Ends it as a crash would. [`Self::restart`] brings it back.
    pub fn kill(&mut self) {
        *self.connection.get_mut() = None;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Freezes it: its sockets stay, nothing moves.
    pub fn stop(&mut self) {
        self.process.as_mut().expect("it runs").stop();
    }

    /// Ends [`Self::stop`].
    pub fn cont(&mut self) {
        self.process.as_mut().expect("it runs").signal("CONT");
    }

    /// Kills it if it runs and starts it on the same port, with what it has
    /// on disk: nothing, unless it was started with `--appendonly yes`.
    pub async fn restart(&mut self) {
        self.kill();
        let output = self.folder.path().join("output");
        let name = format!("redis-server on {}", self.port());
        self.process = Some(Process::start(&name, "redis-server", &self.arguments, &output));
        self.answers().await;
    }

    /// Like [`Self::restart`], with an empty disk.
    pub async fn restart_empty(&mut self) {
        self.kill();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(&path).unwrap(),
                false if path.ends_with("output") => {}
                false => std::fs::remove_file(&path).unwrap(),
            }
        }
        self.restart().await;
    }

    /// Waits until it answers and has loaded what it has.
    async fn answers(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.try_command(&["PING"]).await.is_err() {
            let process = self.process.as_mut().expect("it runs");
            let runs = process.ended().is_none() && tokio::time::Instant::now() < deadline;
            assert!(runs, "redis-server does not answer:\n{}", process.output());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Runs a command that succeeds.
    #[track_caller]
    pub fn command<'a>(&'a self, words: &'a [&'a str]) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move { self.try_command(words).await.unwrap_or_else(|error| panic!("{caller}: {words:?}: {error}")) }
    }

    /// Runs a command; a server that is gone or frozen is an error within seconds.
    pub async fn try_command(&self, words: &[&str]) -> RedisResult<Value> {
        let mut command = redis::Cmd::new();
        command.arg(words);
        let mut connection = self.connection.lock().await;
        if let Some(open) = &mut *connection {
            match command.query_async(open).await {
                // It was restarted, or our connection was killed among others.
                Err(error) if error.is_unrecoverable_error() => *connection = None,
                answer => return answer,
            }
        }
        let client = redis::Client::open(self.url())?;
        let config =
            redis::AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
        let open = connection.insert(client.get_multiplexed_async_connection_with_config(&config).await?);
        command.query_async(open).await
    }

    /// A command's answer as something of Rust.
    async fn read<T: FromRedisValue>(&self, words: &[&str]) -> T {
        redis::from_redis_value(self.command(words).await).unwrap()
    }

    /// The keys that have this text anywhere in their name; all for "".
    pub async fn keys_containing(&self, text: &str) -> Vec<String> {
        let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
        loop {
            let found: (String, Vec<Vec<u8>>) = self.read(&["SCAN", &cursor, "COUNT", "1000"]).await;
            keys.extend(found.1.iter().map(|key| String::from_utf8_lossy(key).into_owned()));
            cursor = found.0;
            if cursor == "0" {
                break;
            }
        }
        keys.retain(|key| key.contains(text));
        keys.sort();
        keys.dedup();
        keys
    }

    /// The channels that anybody is subscribed to.
    pub async fn channels(&self) -> Vec<String> {
        self.names("CHANNELS").await
    }

    /// The same for the sharded ones.
    pub async fn shard_channels(&self) -> Vec<String> {
        self.names("SHARDCHANNELS").await
    }

    async fn names(&self, kind: &str) -> Vec<String> {
        let names: Vec<Vec<u8>> = self.read(&["PUBSUB", kind]).await;
        let mut names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        names.sort();
        names
    }

    /// How many connections are subscribed to a channel.
    pub async fn numsub(&self, channel: &str) -> u64 {
        self.read::<(String, u64)>(&["PUBSUB", "NUMSUB", channel]).await.1
    }

    /// The same for a sharded one.
    pub async fn shard_numsub(&self, channel: &str) -> u64 {
        self.read::<(String, u64)>(&["PUBSUB", "SHARDNUMSUB", channel]).await.1
    }

    /// A section of `INFO`.
    pub async fn info(&self, section: &str) -> HashMap<String, String> {
        fields(&self.read::<String>(&["INFO", section]).await)
    }

    /// A number of `INFO`.
    pub async fn number(&self, section: &str, key: &str) -> u64 {
        let info = self.info(section).await;
        info.get(key).unwrap_or_else(|| panic!("no {key} in {info:?}")).parse().unwrap()
    }

    /// Bytes it has read and written since its start.
    pub async fn net_bytes(&self) -> (u64, u64) {
        let info = self.info("stats").await;
        let number = |key: &str| info[key].parse().unwrap();
        (number("total_net_input_bytes"), number("total_net_output_bytes"))
    }

    /// Makes a replica a master, whatever it lacks.
    pub async fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]).await;
        assert_eq!(self.info("replication").await["role"], "master");
    }
}

/// What stands in the config of every server. The port must be named: it would
/// be 6379.
fn own_arguments(folder: &Path, port: &ReservedPort) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let port = port.port().to_string();
    ["--port", &port, "--bind", "127.0.0.1", "--dir", folder].map(str::to_owned).to_vec()
}

/// Lines of `key:value`.
fn fields(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_end().to_owned())).collect()
}

/// Sentinels over one master.
#[derive(Debug)]
pub struct Sentinels {
    sentinels: Vec<RedisServer>,
}

impl Sentinels {
    const MASTER: &str = "tests";

    /// Returns when all of them know each other and the master's replicas,
    /// which must be there before: a failover can begin.
    pub async fn start(master: &RedisServer, n: usize) -> Self {
        let mut sentinels = Vec::new();
        for _ in 0..n {
            sentinels.push(Self::start_one(master.port(), n / 2 + 1).await);
        }
        let n_replicas = master.number("replication", "connected_slaves").await;
        for sentinel in &sentinels {
            until("the Sentinels know each other", async || {
                let known: HashMap<String, String> = sentinel.read(&["SENTINEL", "MASTER", Self::MASTER]).await;
                known["num-other-sentinels"] == (n - 1).to_string() && known["num-slaves"] == n_replicas.to_string()
            })
            .await;
        }
        Self { sentinels }
    }

    async fn start_one(master: u16, quorum: usize) -> RedisServer {
        let (folder, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
        let file = Self::config(folder.path(), port.port(), master, quorum);
        let arguments = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        let connection = Mutex::default();
        let mut server = RedisServer { process: None, arguments, folder, port, _bus_port: None, connection };
        server.restart().await;
        server
    }

    /// A Sentinel keeps what it learns in its config, so that must be a file.
    fn config(folder: &Path, port: u16, master: u16, quorum: usize) -> PathBuf {
        let (name, file) = (Self::MASTER, folder.join("sentinel.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {name} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 3000\n",
            folder = folder.display()
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// What the master is called in the config of a client.
    pub fn master_name(&self) -> &'static str {
        Self::MASTER
    }

    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// The processes, to do harm to.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.sentinels
    }

    /// The port of the master as the first Sentinel sees it.
    pub async fn master_port(&self) -> u16 {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER];
        self.sentinels[0].read::<(String, u16)>(&words).await.1
    }
}

/// A Redis Cluster of masters, the slots shared out evenly.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    const N_SLOTS: usize = 16384;

    /// Returns when every node says that the cluster is whole.
    pub async fn start(n: usize) -> Self {
        let mut ports = Vec::new();
        let mut nodes = Vec::new();
        for _ in 0..n {
            // Without this it would be the port + 10000, which is often too high.
            let bus_port = ReservedPort::new();
            ports.push(bus_port.port().to_string());
            let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
            nodes.push(RedisServer::start_node(&arguments, Some(bus_port)).await);
        }
        for (i, node) in nodes.iter().enumerate() {
            let (first, end) = (i * Self::N_SLOTS / n, (i + 1) * Self::N_SLOTS / n);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]).await;
            // Nodes of one epoch would first have to settle who is who.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]).await;
            if i > 0 {
                let port = node.port().to_string();
                nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &ports[i]]).await;
            }
        }
        for node in &nodes {
            until("the cluster is whole", async || {
                let info = fields(&node.read::<String>(&["CLUSTER", "INFO"]).await);
                info["cluster_state"] == "ok" && info["cluster_known_nodes"] == n.to_string()
            })
            .await;
        }
        Self { nodes }
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The processes, to do harm to.
    pub fn nodes_mut(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// The node that has the slot of a key.
    pub async fn node_of(&self, key: &str) -> &RedisServer {
        let slot: usize = self.nodes[0].read(&["CLUSTER", "KEYSLOT", key]).await;
        // The first slot of node i is i * N / n, rounded down.
        let n = self.nodes.len();
        let node = (0..n).rev().find(|i| i * Self::N_SLOTS / n <= slot);
        &self.nodes[node.unwrap()]
    }
}
