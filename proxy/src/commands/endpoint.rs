//! Options for the listener of a running gateway, and messages about its answers.

use std::path::{Path, PathBuf};

use clap::Args;
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
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_CONTROL")]
    pub control: Option<PathBuf>,
}

impl ControlOption {
    /// The endpoint to ask.
    ///
    /// # Errors
    /// No socket is named, and there is no default.
    pub fn endpoint(&self) -> Result<Endpoint, String> {
        match &self.control {
            Some(path) if path == Path::new("none") => Err(
                "--control none: a gateway without a control socket cannot be reached; start it with --control PATH, and use that path here"
                    .to_owned(),
            ),
            Some(path) => Ok(Endpoint::Control(path.clone())),
            None => default_path().map(Endpoint::Control).ok_or_else(|| {
                "no default control socket: XDG_RUNTIME_DIR is not set; name the gateway's with --control PATH"
                    .to_owned()
            }),
        }
    }
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
        assert!(named("none").unwrap_err().contains("start it with --control PATH"));
    }
}
