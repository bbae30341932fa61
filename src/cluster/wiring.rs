//! How connections to Redis are made, in its three shapes: one server,
//! sentinels, cluster.

use std::{sync::Arc, time::Duration};

use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_util::sync::CancellationToken;

use super::{
    hearing,
    link::Link,
    socket::{self, Socket},
};
use crate::config::{RedisConfig, RedisMode};

/// How long a new connection may take, name lookup and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long sent bytes may stay unacknowledged before a connection to one of
/// several nodes is given up. A node that only stands still acknowledges.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Takes what the server says unasked, on the connection's own task: it must
/// not wait.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// Takes a message of a channel: the channel and the bytes. As for [`OnPush`].
pub(super) type OnMessage = Arc<dyn Fn(&[u8], &[u8]) + Send + Sync>;

/// Cancels a token when its connection has ended.
pub(super) fn tell_end(lost: &CancellationToken) -> OnPush {
    let lost = lost.clone();
    Arc::new(move |push| {
        if push.kind == PushKind::Disconnection {
            lost.cancel();
        }
    })
}

/// Knows how to connect.
#[derive(Debug, Clone)]
pub(super) struct Wiring {
    config: RedisConfig,
    /// How the server lists our connections.
    name: String,
}

impl Wiring {
    pub(super) fn new(config: RedisConfig, name: &str) -> Self {
        // The library for Redis leaves it to the program how TLS computes. Who
        // has chosen before us is right too.
        let _chosen = rustls::crypto::ring::default_provider().install_default();
        let name = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect();
        Self { config, name }
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.config.mode == RedisMode::Cluster
    }

    /// How long a command may take.
    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    fn certificates(&self) -> RedisResult<Option<TlsCertificates>> {
        let Some(file) = &self.config.ca_file else { return Ok(None) };
        let root_cert = std::fs::read(file)?;
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) }))
    }

    fn info(&self, url: &str) -> RedisResult<ConnectionInfo> {
        let info = url.into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = &self.config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.config.password {
            settings = settings.set_password(password.expose());
        }
        Ok(info.set_redis_settings(settings).set_tcp_settings(prompt()))
    }

    /// A new connection, named after what it is for. `on_push` makes it one
    /// that can subscribe.
    pub(super) async fn connect(&self, role: &str, on_push: Option<OnPush>) -> RedisResult<Link> {
        let mut link = in_time(self.patience(), self.connect_any(on_push)).await?;
        self.present(&mut link, role).await;
        Ok(link)
    }

    /// A new connection for publishing, with its socket where others may write
    /// to that directly.
    pub(super) async fn connect_to_publish(&self, on_push: OnPush) -> RedisResult<(Link, Option<Arc<Socket>>)> {
        let (mut link, socket) = in_time(self.patience(), async {
            let Some((info, at)) = self.single().await? else {
                return Ok((self.connect_any(Some(on_push)).await?, None));
            };
            in_time(CONNECT_TIMEOUT, async {
                let (socket, lent) = socket::lend(dial(at).await?);
                Ok((self.over(lent, &info, on_push).await?, Some(socket)))
            })
            .await
        })
        .await?;
        self.present(&mut link, "publish").await;
        Ok((link, socket))
    }

    /// A new connection for subscribing. Messages go to `on_message`, and all
    /// else that is said unasked to `on_push`.
    pub(super) async fn connect_to_subscribe(&self, on_push: OnPush, on_message: OnMessage) -> RedisResult<Link> {
        // Also of a single server: it may word one in another way than Redis does.
        let on_push = divided(on_push, Arc::clone(&on_message));
        let mut link = in_time(self.patience(), async {
            let Some((info, at)) = self.single().await? else { return self.connect_any(Some(on_push)).await };
            in_time(CONNECT_TIMEOUT, async {
                self.over(hearing::lend(dial(at).await?, on_message), &info, on_push).await
            })
            .await
        })
        .await?;
        self.present(&mut link, "subscribe").await;
        Ok(link)
    }

    /// The one server there is, and its host and port. None: there are several,
    /// or it is reached by other means than plain TCP, which are the library's.
    async fn single(&self) -> RedisResult<Option<(ConnectionInfo, (String, u16))>> {
        let first = self.info(&self.config.nodes[0])?;
        let ConnectionAddr::Tcp(host, port) = first.addr() else { return Ok(None) };
        let at = (host.clone(), *port);
        let master = match &self.config.mode {
            RedisMode::Cluster => return Ok(None),
            RedisMode::Standalone => return Ok(Some((first, at))),
            RedisMode::Sentinel(master) => master,
        };
        let info = self.sentinel(master)?.async_get_client().await?.get_connection_info().clone();
        let ConnectionAddr::Tcp(host, port) = info.addr() else { return Ok(None) };
        let at = (host.clone(), *port);
        Ok(Some((info, at)))
    }

    /// Opens a session over a socket of our own.
    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        info: &ConnectionInfo,
        on_push: OnPush,
    ) -> RedisResult<Link> {
        let options = self.options(Some(on_push));
        let (connection, driver) =
            MultiplexedConnection::new_with_config(info.redis_settings(), stream, options).await?;
        #[expect(clippy::disallowed_methods, reason = "as the library does: it ends with its connection")]
        let _driver = tokio::spawn(driver);
        Ok(Link::Single(connection))
    }

    /// In a cluster, nodes that do not answer are waited for twice, and then
    /// done without.
    fn patience(&self) -> Duration {
        if self.is_cluster() { 4 * CONNECT_TIMEOUT } else { 2 * CONNECT_TIMEOUT }
    }

    /// Tells the server what to call a connection.
    async fn present(&self, link: &mut Link, role: &str) {
        if let Link::Single(connection) = link {
            let mut named = redis::cmd("CLIENT");
            named.arg("SETNAME").arg(format!("wayleave-{}-{role}", self.name));
            // An ACL user may not be allowed to; the name is only for people.
            let _unnamed = connection.send_packed_command(&named).await;
        }
    }

    fn options(&self, on_push: Option<OnPush>) -> AsyncConnectionConfig {
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.config.timeout));
        match on_push {
            Some(on_push) => options.set_push_sender(pushes(on_push)),
            None => options,
        }
    }

    async fn connect_any(&self, on_push: Option<OnPush>) -> RedisResult<Link> {
        match &self.config.mode {
            RedisMode::Cluster => {
                let nodes = self.config.nodes.iter().map(|url| self.info(url)).collect::<RedisResult<Vec<_>>>()?;
                let mut builder = ClusterClient::builder(nodes)
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(self.config.timeout)
                    .tcp_settings(of_many())
                    .overall_response_timeout(Some(self.config.timeout * 2))
                    // The library would send a command again whose fate is not
                    // known. What is refused for a moved slot is tried again by
                    // those who can.
                    .retries(0);
                if let Some(certificates) = self.certificates()? {
                    builder = builder.certs(certificates).tls(TlsMode::Secure);
                }
                if let Some(on_push) = on_push {
                    builder = builder.push_sender(pushes(on_push));
                }
                Ok(Link::Cluster(builder.build()?.get_async_connection().await?))
            }
            RedisMode::Standalone => {
                let options = self.options(on_push);
                let info = self.info(&self.config.nodes[0])?;
                let client = match self.certificates()? {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                };
                Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&options).await?))
            }
            RedisMode::Sentinel(master) => {
                let mut client = self.sentinel(master)?;
                Ok(Link::Single(client.get_async_connection_with_config(&self.options(on_push)).await?))
            }
        }
    }

    fn sentinel(&self, master: &str) -> RedisResult<SentinelClient> {
        let first = self.info(&self.config.nodes[0])?;
        let addresses = self
            .config
            .nodes
            .iter()
            .map(|url| Ok(url.as_str().into_connection_info()?.addr().clone()))
            .collect::<RedisResult<Vec<_>>>()?;
        let is_tls = matches!(first.addr(), ConnectionAddr::TcpTls { .. });
        let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_tcp_settings(prompt())
            .set_client_to_redis_db(first.redis_settings().db());
        if is_tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = self.certificates()? {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        if let Some(username) = first.redis_settings().username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = first.redis_settings().password() {
            builder = builder.set_client_to_redis_password(password);
        }
        builder.build()
    }
}

/// A socket of our own to the first of a host's addresses that answers.
async fn dial(at: (String, u16)) -> RedisResult<TcpStream> {
    let addresses = lookup_host(at).await?;
    let attempts: Vec<_> = addresses.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if attempts.is_empty() {
        return Err(std::io::Error::from(std::io::ErrorKind::NotFound).into());
    }
    let (stream, _slower) = select_ok(attempts).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// No connection is waited for longer than this.
async fn in_time<T>(within: Duration, connecting: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(within, connecting)
        .await
        .map_err(|_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))?
}

/// What is written goes out at once. The library leaves it to the kernel, which
/// would hold back a second message until the first is acknowledged.
fn prompt() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// The same for one of several nodes.
fn of_many() -> TcpSettings {
    #[cfg(target_os = "linux")]
    return prompt().set_user_timeout(UNACKNOWLEDGED);
    #[cfg(not(target_os = "linux"))]
    prompt()
}

/// Takes messages out of what the library has read.
fn divided(on_push: OnPush, on_message: OnMessage) -> OnPush {
    Arc::new(move |push| match (&push.kind, push.data.as_slice()) {
        (PushKind::Message | PushKind::SMessage, [Value::BulkString(topic), Value::BulkString(bytes)]) => {
            on_message(topic, bytes);
        }
        _ => on_push(push),
    })
}

fn pushes(on_push: OnPush) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
    move |info| {
        on_push(info);
        Ok(())
    }
}
