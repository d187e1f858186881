//! `sluicegate kill`: ends one tunnel of a running gateway.

use clap::Args;
use hyper::{Method, StatusCode};

use super::tunnels::{AdminAddress, explanation};
use crate::admin::client;

/// End one tunnel of a running gateway, with a reset to both sides
#[derive(Args, Debug)]
pub struct Kill {
    /// The number of the tunnel, as `sluicegate tunnels` shows it
    pub id: u64,
    /// Where the gateway listens.
    #[command(flatten)]
    pub admin: AdminAddress,
}

impl Kill {
    /// Ends the tunnel; the line to print.
    ///
    /// # Errors
    /// Why it could not, for the user.
    pub async fn run(&self) -> Result<String, String> {
        let Self { id, admin: AdminAddress { admin } } = self;
        match client::ask(admin, Method::DELETE, &format!("/api/tunnels/{id}")).await? {
            (StatusCode::NO_CONTENT, _) => Ok(format!("tunnel {id} is ended\n")),
            (StatusCode::NOT_FOUND, _) => {
                Err(format!("no tunnel {id} is open on {admin}; `sluicegate tunnels` shows those that are"))
            }
            (status, body) => Err(format!("{admin} answered {status}: {}", explanation(&body))),
        }
    }
}
