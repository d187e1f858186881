//! `sluicegate kill`: ends tunnels of a running gateway.

use clap::Args;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};

use super::endpoint::{ControlOption, refused, tunnel_id};
use crate::admin::client::{Endpoint, ask};

/// The options of `kill`.
#[derive(Args, Debug)]
pub struct Kill {
    /// Ids of the tunnels, as listed by `sluicegate tunnels`
    #[arg(value_name = "ID", required = true, allow_negative_numbers = true, value_parser = tunnel_id)]
    pub ids: Vec<u64>,
    /// The gateway's control socket.
    #[command(flatten)]
    pub control: ControlOption,
}

impl Kill {
    /// Ends the tunnels. Returns a line for each ended tunnel, and an error with a line for each
    /// failure.
    pub async fn run(&self) -> (String, Result<(), String>) {
        let endpoint = match self.control.endpoint() {
            Ok(endpoint) => endpoint,
            Err(error) => return (String::new(), Err(error)),
        };
        let (mut ended, mut failed) = (String::new(), Vec::new());
        for id in &self.ids {
            match kill(&endpoint, *id).await {
                Ok(Ok(())) => ended += &format!("ended tunnel {id}\n"),
                Ok(Err(why)) => failed.push(why),
                Err(unreachable) => {
                    failed.push(unreachable);
                    break;
                }
            }
        }
        (ended, if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) })
    }
}

async fn kill(endpoint: &Endpoint, id: u64) -> Result<Result<(), String>, String> {
    Ok(match ask(endpoint, Method::DELETE, &format!("/api/tunnels/{id}"), Bytes::new()).await? {
        (StatusCode::NO_CONTENT, _) => Ok(()),
        (StatusCode::NOT_FOUND, _) => {
            Err(format!("no tunnel {id} is open on {endpoint}; `sluicegate tunnels` lists the open ones"))
        }
        (status, body) => Err(refused(endpoint, status, &body)),
    })
}
