//! A hook as others have it: a request to a server on loopback for each call,
//! on a connection that stays open, one under way at a time. Both ends are bare
//! hyper, since whatever is built on it costs more.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::SendRequest,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Runtime};

/// What the server answers to a path and a body.
pub(crate) type Answer = dyn Fn(&str, &[u8]) -> String + Send + Sync;

pub(crate) struct HttpHook {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    /// The server's, whose time counts as well.
    pub(crate) thread: u64,
}

impl HttpHook {
    pub(crate) fn start(answer: Arc<Answer>) -> Result<Self> {
        let (started, address) = mpsc::channel();
        thread::spawn(move || {
            let runtime = runtime()?;
            runtime.block_on(serve(&*answer, |address| {
                let _nobody_waits = started.send((address, super::cpu::this_thread()));
            }))
        });
        let (address, thread) = address.recv().context("the server did not start")?;
        let runtime = runtime()?;
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Self { runtime, sender, address, thread })
    }

    pub(crate) fn ask(&mut self, path: &str, body: Vec<u8>) -> Result<Bytes> {
        let request = Request::post(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.runtime.block_on(async {
            let response = self.sender.send_request(request).await?;
            ensure!(response.status().is_success(), "{}", response.status());
            Ok(response.into_body().collect().await?.to_bytes())
        })
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// One connection.
async fn serve(answer: &Answer, started: impl FnOnce(SocketAddr)) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    started(listener.local_addr()?);
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let service = service_fn(|request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
        let text = answer(&path, &body);
        let response =
            Response::builder().header("content-type", "application/json").body(Full::new(Bytes::from(text)));
        Ok::<_, Infallible>(response.unwrap_or_default())
    });
    Ok(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}
