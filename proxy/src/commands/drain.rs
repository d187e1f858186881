//! `sluicegate drain`: has a running gateway close its listeners, and waits for its tunnels.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use tokio::time::sleep;

use super::endpoint::{ControlOption, refused};
use crate::admin::DrainView;
use crate::admin::client::{AskError, Endpoint, ask};

/// Interval of asking the gateway for the number of open tunnels.
const INTERVAL: Duration = Duration::from_millis(200);

/// Failed requests in a row before the command gives the gateway up. A gateway ending at this
/// moment may break off one of them.
const MAX_FAILURES: u32 = 5;

/// The options of `drain`.
#[derive(Args, Debug)]
pub struct Drain {
    /// Wait until the last tunnel and the gateway have ended
    #[arg(long)]
    pub wait: bool,
    /// The gateway's control socket.
    #[command(flatten)]
    pub control: ControlOption,
}

impl Drain {
    /// Starts the drain; the text to print.
    ///
    /// # Errors
    /// The reason why it could not, for the user.
    pub async fn run(&self) -> Result<String, String> {
        let endpoint = self.control.endpoint()?;
        let view = view(&endpoint, Method::POST).await??;
        if view.accepting {
            return Err(format!(
                "{endpoint}: the drain has begun, but listeners are still open; see the gateway's log"
            ));
        }
        if !self.wait {
            return Ok(format!("draining, no more connections are accepted: {}\n", left(&view)));
        }
        wait(&endpoint).await?;
        Ok("no tunnel is left, and the gateway has ended\n".to_owned())
    }
}

/// Waits for the end of the draining gateway.
async fn wait(endpoint: &Endpoint) -> Result<(), String> {
    let mut failures = 0;
    loop {
        match view(endpoint, Method::GET).await {
            Err(AskError::NotRunning(_)) => return Ok(()),
            // Another gateway has taken its place.
            Ok(Ok(view)) if !view.draining => return Ok(()),
            Ok(Ok(_)) => failures = 0,
            Ok(Err(why)) => return Err(why),
            Err(AskError::Failed(why)) => {
                failures += 1;
                if failures == MAX_FAILURES {
                    return Err(why);
                }
            }
        }
        sleep(INTERVAL).await;
    }
}

async fn view(endpoint: &Endpoint, method: Method) -> Result<Result<DrainView, String>, AskError> {
    let (status, body) = ask(endpoint, method, "/api/drain", Bytes::new()).await?;
    if !status.is_success() {
        return Ok(Err(refused(endpoint, status, &body)));
    }
    let view = serde_json::from_slice(&body);
    Ok(view
        .map_err(|error| format!("{endpoint} sent an answer that is not a drain status ({error}); is it a gateway?")))
}

fn left(view: &DrainView) -> String {
    let tunnels = match view.tunnels {
        0 => "no tunnel is left".to_owned(),
        1 => "1 tunnel is left".to_owned(),
        count => format!("{count} tunnels are left"),
    };
    match view.handshakes {
        0 => tunnels,
        1 => format!("{tunnels}, and 1 connection without one"),
        count => format!("{tunnels}, and {count} connections without one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_counted() {
        let left = |tunnels, handshakes| left(&DrainView { draining: true, accepting: false, tunnels, handshakes });
        assert_eq!(left(0, 0), "no tunnel is left");
        assert_eq!(left(1, 0), "1 tunnel is left");
        assert_eq!(left(2, 1), "2 tunnels are left, and 1 connection without one");
        assert_eq!(left(0, 3), "no tunnel is left, and 3 connections without one");
    }
}
