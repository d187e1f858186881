//! The other end of the admin address: what `sluicegate tunnels`, `kill` and `rates` ask with.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// An answer takes no longer than this, or the gateway hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the JSON of 100,000 tunnels.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Asks the gateway whose admin address is `admin`, as `HOST:PORT`, and returns its status and body.
///
/// # Errors
/// What went wrong and what to do about it, fit to be shown as it is.
pub async fn ask(admin: &str, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
    ask_with(admin, method, path, Bytes::new()).await
}

/// The same with a body.
///
/// # Errors
/// As [`ask`].
pub async fn ask_with(admin: &str, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let (stream, address) = timeout(PATIENCE, connect(admin))
        .await
        .unwrap_or_else(|_| Err("it does not accept the connection".to_owned()))
        .map_err(|why| format!("no gateway answers on {admin}: {why}; is it running? name its address with --admin"))?;
    timeout(PATIENCE, exchange(stream, address, method, path, body))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
        .map_err(|why| format!("what listens on {admin} did not answer: {why}; is it a gateway's admin address?"))
}

/// Connects to the first address that takes it, as `localhost` may be two.
async fn connect(admin: &str) -> Result<(TcpStream, SocketAddr), String> {
    let mut failed = "the name has no address".to_owned();
    for address in lookup_host(admin).await.map_err(|error| error.to_string())? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => failed = error.to_string(),
        }
    }
    Err(failed)
}

/// One request. Its `Host` is the address rather than the name, because a gateway lets nobody end a
/// tunnel by way of a name.
async fn exchange(
    stream: TcpStream,
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    // The connection does nothing unless it is polled beside the request. When it ends first, either
    // the answer is complete or the connection knows better than the request what went wrong.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => answer.await.map_err(|error| ended.err().map_or(error, |e| e.to_string())),
    }
}
