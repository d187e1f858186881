//! Options for the listener of a running gateway, and messages about its answers.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use hyper::StatusCode;
use hyper::body::Bytes;

use crate::account::sanitize;
use crate::admin::client::Endpoint;
use crate::admin::default_path;

/// The control socket of the gateway that is asked.
#[derive(Args, Clone, Debug, Default)]
pub struct ControlOption {
    /// Control socket of the gateway
    ///
    /// The default is /run/sluicegate/control.sock for root and
    /// $XDG_RUNTIME_DIR/sluicegate/control.sock for other users; variable SLUICEGATE_CONTROL.
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_CONTROL", value_parser = PathBufValueParser::new().try_map(some_socket))]
    pub control: Option<PathBuf>,
}

impl ControlOption {
    /// The endpoint to ask.
    ///
    /// # Errors
    /// No socket is named, and there is no default.
    pub fn endpoint(&self) -> Result<Endpoint, String> {
        match &self.control {
            Some(path) => Ok(Endpoint::Control(path.clone())),
            None => default_path().map(Endpoint::Control).ok_or_else(|| {
                "no default control socket: XDG_RUNTIME_DIR is not set; name the gateway's with --control PATH"
                    .to_owned()
            }),
        }
    }
}

/// Refuses `none`, by which a gateway is started without a socket.
fn some_socket(path: PathBuf) -> Result<PathBuf, String> {
    if path != Path::new("none") {
        return Ok(path);
    }
    let cause = "a gateway without a control socket cannot be reached";
    Err(format!("{cause}; start it with --control PATH, and use that path here"))
}

/// `HOST:PORT` of an admin address on the command line.
pub(super) fn admin_address(text: &str) -> Result<String, String> {
    let is_sound = |(host, port): (&str, &str)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok();
    if text.rsplit_once(':').is_some_and(is_sound) {
        return Ok(text.to_owned());
    }
    Err("not an address and a port; write ADDR:PORT, that of the gateway's --admin".to_owned())
}

/// Number of a tunnel on the command line.
pub(super) fn tunnel_id(text: &str) -> Result<u64, String> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| {
        "a tunnel is named by its number, as in `sluicegate kill 17 18`; `sluicegate tunnels` lists the numbers"
            .to_owned()
    })
}

/// Describes an answer other than success, for the user.
pub(super) fn refused(endpoint: &Endpoint, status: StatusCode, body: &Bytes) -> String {
    format!("{endpoint} answered {status}: {}", explanation(body))
}

/// Returns the text of an answer other than success: the `error` of its JSON, or its first line.
fn explanation(body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let error = json.as_ref().and_then(|json| json.get("error")?.as_str());
    let text = String::from_utf8_lossy(body);
    sanitize(error.unwrap_or_else(|| text.lines().next().unwrap_or_default())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_a_number() {
        assert_eq!(tunnel_id("17"), Ok(17));
        for text in ["all", "", "+1", "-1", "1.5", "18446744073709551616", "\u{661}"] {
            assert!(tunnel_id(text).unwrap_err().contains("`sluicegate kill 17 18`"), "{text}");
        }
    }

    #[test]
    fn a_named_socket_is_the_one_that_is_asked() {
        let named = |path: &str| ControlOption { control: Some(path.into()) }.endpoint();
        assert_eq!(named("/a/b"), Ok(Endpoint::Control("/a/b".into())));
        assert_eq!(named("./none"), Ok(Endpoint::Control("./none".into())));
        assert!(some_socket("none".into()).unwrap_err().contains("start it with --control PATH"));
    }

    #[test]
    fn an_admin_address_has_a_port() {
        for sound in ["127.0.0.1:1", "[::1]:1", "localhost:65535"] {
            assert_eq!(admin_address(sound).as_deref(), Ok(sound));
        }
        for text in ["foo", "foo:", ":1", "1", "foo:65536", "http://foo:1", ""] {
            assert!(admin_address(text).unwrap_err().contains("write ADDR:PORT"), "{text}");
        }
    }
}
