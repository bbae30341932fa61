//! A connection to Redis and the commands that go over it, whichever of its
//! shapes it has; `wiring` makes it.

use std::{collections::HashMap, fmt, time::Duration};

use redis::{
    Cmd, Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cluster_routing::{
        MultipleNodeRoutingInfo, ResponsePolicy, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr,
    },
};

use super::script;

/// A node that refuses a frame may only have moved its slot, or have just come
/// back; the library finds that out by the refusal.
const AGAIN: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(50), Duration::ZERO];

/// How a server calls a connection.
#[derive(Debug)]
pub(super) struct Former {
    id: String,
    address: String,
}

/// One connection; to every node, in a cluster.
#[derive(Clone)]
pub(super) enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Link::Single",
            Self::Cluster(_) => "Link::Cluster",
        })
    }
}

impl Link {
    /// True if several servers are behind it.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Sends commands in one go and waits for all answers, in order. Of those
    /// with the same hash tag each is carried out after the one before.
    ///
    /// # Errors
    /// Those of single commands are in the list; this one is the connection's,
    /// and what had been carried out by then is not known.
    pub(super) async fn send(&mut self, commands: Vec<(Cmd, String)>) -> RedisResult<Vec<RedisResult<Value>>> {
        if commands.is_empty() {
            // The library takes that for an error.
            return Ok(Vec::new());
        }
        match self {
            Self::Single(connection) => {
                let count = commands.len();
                let mut pipeline = Pipeline::with_capacity(count);
                for (command, _) in commands {
                    pipeline.add_command(command);
                }
                pipeline.ignore_errors();
                let values = connection.send_packed_commands(&pipeline, 0, count).await?;
                Ok(values.into_iter().map(each).collect())
            }
            Self::Cluster(connection) => {
                // One pipeline a slot, since they go to different nodes.
                let mut slots: HashMap<Slot, (Pipeline, Vec<usize>)> = HashMap::new();
                let total = commands.len();
                for (n, (command, key)) in commands.into_iter().enumerate() {
                    let (pipeline, places) = slots.entry(Slot::for_key(&key)).or_default();
                    pipeline.add_command(command);
                    places.push(n);
                }
                let sent = slots.into_iter().map(|(slot, (mut pipeline, places))| {
                    pipeline.ignore_errors();
                    let route = SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master));
                    let mut connection = connection.clone();
                    async move { (connection.route_pipeline(pipeline, 0, places.len(), route).await, places) }
                });
                let mut results: Vec<Option<RedisResult<Value>>> = (0..total).map(|_| None).collect();
                for (values, places) in futures_util::future::join_all(sent).await {
                    match values {
                        Ok(values) => {
                            for (n, value) in places.into_iter().zip(values) {
                                results[n] = Some(each(value));
                            }
                        }
                        // One node's trouble is not the others'.
                        Err(error) => {
                            // The library makes one refusal the answer to all.
                            let is_of_one = error.code().is_some() && places.len() > 1;
                            let error = if is_of_one { std::io::Error::other(error).into() } else { error };
                            for n in places {
                                results[n] = Some(Err(error.clone()));
                            }
                        }
                    }
                }
                let lost = || RedisError::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                Ok(results.into_iter().map(|result| result.unwrap_or_else(|| Err(lost()))).collect())
            }
        }
    }

    /// Takes the place of a connection that was given up: what it had sent and
    /// Redis has not read yet would otherwise be carried out behind what this
    /// one sends. In a cluster each node has connections of its own, and this
    /// is not done.
    pub(super) async fn succeed(&mut self, former: &mut Option<Former>) -> RedisResult<()> {
        let Self::Single(connection) = self else { return Ok(()) };
        if let Some(Former { id, address }) = former {
            let mut kill = redis::cmd("CLIENT");
            // Another server may have given the number to somebody else.
            kill.arg("KILL").arg("ID").arg(&*id).arg("ADDR").arg(&*address);
            match connection.send_packed_command(&kill).await.and_then(each) {
                Ok(_) => {}
                Err(error) if error.code().is_some() => tracing::debug!(%error, "a former connection is not ended"),
                Err(error) => return Err(error),
            }
        }
        let mut info = redis::cmd("CLIENT");
        info.arg("INFO");
        let info = connection.send_packed_command(&info).await.and_then(each);
        let info = info.and_then(|value| Ok(redis::from_redis_value::<String>(value)?)).unwrap_or_default();
        let field = |name: &str| info.split(' ').find_map(|field| field.strip_prefix(name)).map(str::to_owned);
        *former = field("id=").zip(field("addr=")).map(|(id, address)| Former { id, address });
        Ok(())
    }

    /// From here on the server answers nothing: of what is published nobody
    /// makes anything, and an answer would cost as much as the message.
    pub(super) async fn silence(&mut self) -> RedisResult<()> {
        if let Self::Single(connection) = self {
            let mut off = redis::cmd("CLIENT");
            off.arg("REPLY").arg("OFF").set_no_response(true);
            connection.send_packed_command(&off).await?;
        }
        Ok(())
    }

    /// Publishes frames, each to its channel; in a cluster all lie in one slot.
    /// Returns how many failed, as far as that is known.
    pub(super) async fn publish(&mut self, frames: Vec<(String, Vec<u8>)>) -> RedisResult<usize> {
        match self {
            Self::Single(connection) => {
                for (topic, frame) in frames {
                    // The answer comes and is not waited for.
                    let mut command = redis::cmd("PUBLISH");
                    command.arg(topic).arg(frame).set_no_response(true);
                    connection.send_packed_command(&command).await?;
                }
                Ok(0)
            }
            Self::Cluster(connection) => {
                let Some((topic, _)) = frames.first() else { return Ok(0) };
                let route = Route::with_slot(Slot::for_key(topic), SlotAddr::Master);
                let count = frames.len();
                let mut pipeline = Pipeline::with_capacity(count);
                for (topic, frame) in frames {
                    pipeline.cmd("SPUBLISH").arg(topic).arg(frame);
                }
                pipeline.ignore_errors();
                for pause in AGAIN {
                    let route = SingleNodeRoutingInfo::SpecificNode(route);
                    match connection.route_pipeline(pipeline.clone(), 0, count, route).await {
                        Ok(answers) => {
                            return Ok(answers.iter().filter(|answer| matches!(answer, Value::ServerError(_))).count());
                        }
                        Err(error) if error.code().is_some() => tokio::time::sleep(pause).await,
                        // They may have been published.
                        Err(_) => break,
                    }
                }
                Ok(count)
            }
        }
    }

    /// Sends one command, whose first key is `key`.
    pub(super) async fn one(&mut self, command: Cmd, key: &str) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => each(connection.req_packed_command(&command).await?),
            Self::Cluster(connection) => {
                let route = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                let routing = RoutingInfo::SingleNode(route);
                each(connection.route_command(command, routing).await?)
            }
        }
    }

    /// Puts all scripts where they are looked for, on every node: if the first
    /// of several calls found none and the next did, they would be carried out
    /// in another order.
    pub(super) async fn load_scripts(&mut self) -> RedisResult<()> {
        let load = |script: &script::Script| {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(&script.source);
            command
        };
        let commands = script::all().into_iter().map(load);
        match self {
            Self::Single(_) => {
                self.send(commands.map(|command| (command, String::new())).collect()).await?;
            }
            Self::Cluster(connection) => {
                for command in commands {
                    let every = MultipleNodeRoutingInfo::AllMasters;
                    let routing = RoutingInfo::MultiNode((every, Some(ResponsePolicy::AllSucceeded)));
                    connection.route_command(command, routing).await?;
                }
            }
        }
        Ok(())
    }

    /// The replication ids of all nodes but for a single server: which of them
    /// began anew is seen by it.
    pub(super) async fn lines(&mut self) -> RedisResult<String> {
        let Self::Cluster(connection) = self else { return Ok(String::new()) };
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        let routing = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let mut lines = Vec::new();
        replication_ids(connection.route_command(command, routing).await?, &mut lines);
        lines.sort();
        Ok(lines.join(" "))
    }

    /// Subscribes to channels; they are heard once this returns.
    pub(super) async fn subscribe(&mut self, topics: &[String]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => connection.subscribe(topics).await,
            Self::Cluster(connection) => {
                let each = topics.iter().map(|topic| {
                    let mut connection = connection.clone();
                    async move { connection.ssubscribe(topic.as_str()).await }
                });
                futures_util::future::try_join_all(each).await.map(|_| ())
            }
        }
    }

    /// Unsubscribes from channels.
    pub(super) async fn unsubscribe(&mut self, topics: &[String]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => connection.unsubscribe(topics).await,
            Self::Cluster(connection) => {
                let each = topics.iter().map(|topic| {
                    let mut connection = connection.clone();
                    async move { connection.sunsubscribe(topic.as_str()).await }
                });
                futures_util::future::try_join_all(each).await.map(|_| ())
            }
        }
    }
}

fn replication_ids(value: Value, into: &mut Vec<String>) {
    match value {
        Value::Map(pairs) => pairs.into_iter().for_each(|(_, value)| replication_ids(value, into)),
        Value::Array(values) => values.into_iter().for_each(|value| replication_ids(value, into)),
        text => {
            let text = redis::from_redis_value::<String>(text).unwrap_or_default();
            let found = text.lines().find_map(|line| line.strip_prefix("master_replid:"));
            into.extend(found.map(|id| id.trim().to_owned()));
        }
    }
}

/// An error of one command stands where its answer would.
fn each(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}
