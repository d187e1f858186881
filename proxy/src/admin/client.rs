//! Client of the control socket and of the admin address, for `sluicegate tunnels`, `kill`, `rates`
//! and `drain`.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

/// An answer takes no longer than this, or the gateway hangs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than the JSON of 100,000 tunnels.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Listener of the gateway to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The control socket at this path.
    Control(PathBuf),
    /// The admin address, as `HOST:PORT`.
    Admin(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(path) => path.display().fmt(f),
            Self::Admin(address) => address.fmt(f),
        }
    }
}

/// The gateway did not answer; the text is for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// Nothing accepts there.
    NotRunning(String),
    /// The listener could not be used, or gave no answer.
    Failed(String),
}

impl From<AskError> for String {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NotRunning(what) | AskError::Failed(what) => what,
        }
    }
}

/// Sends a request to the gateway listening on `endpoint`, and returns its status and content.
///
/// # Errors
/// The cause and the remedy, for the user.
pub async fn ask(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    content: Bytes,
) -> Result<(StatusCode, Bytes), AskError> {
    let request = |host: String| {
        let request = Request::builder().method(method).uri(path).header(HOST, host).body(Full::new(content));
        request.map_err(|error| AskError::Failed(error.to_string()))
    };
    match endpoint {
        Endpoint::Control(path) => {
            let stream = match timeout(TIMEOUT, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(not_connected(path, &error)),
                Err(_) => return Err(AskError::Failed(format!("{} does not accept the connection", path.display()))),
            };
            within(endpoint, exchange(stream, request("localhost".to_owned())?)).await
        }
        Endpoint::Admin(admin) => {
            let connected = timeout(TIMEOUT, connect(admin)).await;
            let (stream, address) =
                connected.unwrap_or_else(|_| Err("it does not accept the connection".to_owned())).map_err(|why| {
                    let remedy = "is it running? name its address with --admin";
                    AskError::NotRunning(format!("no gateway answers on {admin}: {why}; {remedy}"))
                })?;
            // Sends the address as `Host`: the API refuses a name.
            within(endpoint, exchange(stream, request(address.to_string())?)).await
        }
    }
}

/// Explains why the control socket could not be connected to.
fn not_connected(path: &Path, error: &io::Error) -> AskError {
    let socket = path.display();
    match error.kind() {
        // As if no process listened on the socket.
        io::ErrorKind::ConnectionRefused if fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket()) => {
            AskError::Failed(format!("{socket} is not a socket; name the gateway's control socket with --control PATH"))
        }
        io::ErrorKind::NotFound => AskError::NotRunning(format!(
            "no control socket at {socket}: {error}; is the gateway running, as this user and without another \
             --control? name its socket with --control PATH"
        )),
        io::ErrorKind::ConnectionRefused => AskError::NotRunning(format!(
            "nothing listens on {socket}: {error}; the gateway that made it has ended: start one, or name another \
             socket with --control PATH"
        )),
        io::ErrorKind::PermissionDenied => AskError::Failed(format!(
            "the control socket {socket} belongs to another user: {error}; only the gateway's user and root may use it: use sudo, or `tunnels --admin ADDR:PORT` to read"
        )),
        _ => AskError::Failed(format!(
            "the control socket {socket} cannot be used: {error}; name the gateway's with --control PATH"
        )),
    }
}

async fn within(
    endpoint: &Endpoint,
    exchange: impl Future<Output = Result<(StatusCode, Bytes), String>>,
) -> Result<(StatusCode, Bytes), AskError> {
    let answer = timeout(TIMEOUT, exchange).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs()))).map_err(|why| {
        AskError::Failed(format!("the listener on {endpoint} did not answer: {why}; is it a gateway's?"))
    })
}

/// Connects to the first address to accept, as `localhost` may have two.
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

/// One request.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let content = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, content.map_err(|error| error.to_string())?.to_bytes()))
    };
    // The connection makes progress only if polled beside the request. If it ends first, the answer
    // is complete or the connection has a better error than the request.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => answer.await.map_err(|error| ended.err().map_or(error, |e| e.to_string())),
    }
}
