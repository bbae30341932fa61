//! A hook as others have it: a request to a server on loopback for each call, on
//! a connection that stays open, one under way at a time. The server is a process
//! of its own, as it would be.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::SendRequest,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use super::process::Process;

/// What the server answers to a path and a body.
pub(crate) type Answer = dyn Fn(&str, &[u8]) -> String + Send + Sync;

/// With this argument and one of [`Kind`], a bench is the server.
pub(crate) const SERVE: &str = "--serve-hook";

/// What both ends are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// axum with a thread for each core, and a client that keeps a pool for any
    /// origin: how one would write it.
    Usual,
    /// Nothing but hyper on one thread at each end: less is not to be had.
    Bare,
}

/// Serves on a free port, which it prints, until its standard input ends.
pub(crate) fn serve(answer: Arc<Answer>) -> Result<()> {
    // The bench holds the other end, however it ends.
    std::thread::spawn(|| {
        let _until_then = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let is_bare = std::env::args().any(|argument| argument == format!("{:?}", Kind::Bare));
    let runtime = if is_bare { one_thread()? } else { Runtime::new()? };
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        if is_bare { serve_bare(&listener, &*answer).await } else { serve_usual(listener, answer).await }
    })
}

async fn serve_usual(listener: TcpListener, answer: Arc<Answer>) -> Result<()> {
    let app = axum::Router::new().fallback(move |uri: http::Uri, body: Bytes| {
        let text = answer(uri.path(), &body);
        async { ([("content-type", "application/json")], text) }
    });
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream: &mut TcpStream| {
        let _only_slower = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

/// One connection.
async fn serve_bare(listener: &TcpListener, answer: &Answer) -> Result<()> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let service = service_fn(|request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let text = answer(parts.uri.path(), &body.collect().await?.to_bytes());
        let response = Response::builder().header("content-type", "application/json");
        anyhow::Ok(response.body(Full::new(Bytes::from(text)))?)
    });
    Ok(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

fn one_thread() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

enum Way {
    Pooled(Client<HttpConnector, Full<Bytes>>),
    Bare(SendRequest<Full<Bytes>>),
}

pub(crate) struct HttpHook {
    runtime: Runtime,
    way: Way,
    address: SocketAddr,
    server: Process,
}

impl HttpHook {
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no pipe from the server")?).read_line(&mut line)?;
        let address: SocketAddr = line.trim().parse().context("the server did not start")?;
        // Both ways, so that nothing has to be handed to another thread.
        let runtime = one_thread()?;
        let way = if kind == Kind::Bare {
            let bare = async {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                anyhow::Ok(Way::Bare(sender))
            };
            runtime.block_on(bare)?
        } else {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            Way::Pooled(Client::builder(TokioExecutor::new()).build(connector))
        };
        Ok(Self { runtime, way, address, server: Process(child) })
    }

    /// The server's process, whose time counts as well.
    pub(crate) fn server(&self) -> u32 {
        self.server.0.id()
    }

    pub(crate) fn ask(&mut self, path: &str, body: Vec<u8>) -> Result<Bytes> {
        let Self { runtime, way, address, .. } = self;
        let uri = match way {
            Way::Pooled(_) => format!("http://{address}{path}"),
            Way::Bare(_) => path.to_owned(),
        };
        let request = Request::post(uri)
            .header("host", address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        runtime.block_on(async {
            let response: hyper::Response<Incoming> = match way {
                Way::Pooled(client) => client.request(request).await?,
                Way::Bare(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            ensure!(response.status().is_success(), "{}", response.status());
            Ok(response.into_body().collect().await?.to_bytes())
        })
    }
}
