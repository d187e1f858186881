//! `sluicegate rates`: how fast the tunnels of a running gateway may be, to see and to change.

use std::fmt::Write as _;

use clap::{ArgGroup, Args};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::endpoint::{ControlOption, refused, tunnel_id};
use crate::account::{Limit, RatesView, sanitize};
use crate::admin::client::ask;
use crate::invalid_value::InvalidValue;

/// The options of `rates`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whose").args(["tunnel", "user", "each_tunnel", "each_user"]).requires("rate"))]
pub struct Rates {
    /// Change the limit of this tunnel
    ///
    /// Its id as listed by `sluicegate tunnels`. The lesser of the tunnel's limit and its share of
    /// the user's limit is in force.
    #[arg(long, value_name = "ID", value_parser = tunnel_id)]
    tunnel: Option<u64>,
    /// Change the limit of all tunnels of this user together
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Change the limit of each tunnel
    #[arg(long)]
    each_tunnel: bool,
    /// Change the limit of each user's tunnels together
    #[arg(long)]
    each_user: bool,
    /// New limit: 100MiB or 1Gbit per second and direction, none, or configured
    #[arg(value_name = "RATE", requires = "whose", value_parser = setting)]
    rate: Option<Setting>,
    /// The gateway's control socket.
    #[command(flatten)]
    control: ControlOption,
}

/// New value of a rate limit; `None` for the configured one.
#[derive(Clone, Copy, Debug)]
struct Setting(Option<Limit>);

fn setting(text: &str) -> Result<Setting, InvalidValue> {
    if text == "configured" { Ok(Setting(None)) } else { text.parse().map(|limit| Setting(Some(limit))) }
}

impl Rates {
    /// Asks the gateway, or has it change a rate; the text to print.
    ///
    /// # Errors
    /// Why it could not, for the user.
    pub async fn run(&self) -> Result<String, String> {
        let endpoint = self.control.endpoint()?;
        let (method, content) = match self.change() {
            Some(change) => (Method::PATCH, change.to_string().into()),
            None => (Method::GET, Bytes::new()),
        };
        let (status, body) = ask(&endpoint, method, "/api/rates", content).await?;
        if status != StatusCode::OK {
            return Err(refused(&endpoint, status, &body));
        }
        let rates: RatesView = serde_json::from_slice(&body).map_err(|error| {
            format!("{endpoint} sent an answer that is not a list of rates ({error}); is it a gateway?")
        })?;
        Ok(shown(&rates))
    }

    fn change(&self) -> Option<Value> {
        let limit = self.rate?.0;
        let (tunnel, user) = (self.tunnel.map(|id| id.to_string()), self.user.as_deref());
        Some(match (tunnel, user) {
            (Some(id), _) => json!({ "tunnels": { id: limit } }),
            (None, Some(name)) => json!({ "users": { name: limit } }),
            (None, None) if self.each_user => json!({ "user": limit }),
            (None, None) => json!({ "tunnel": limit }),
        })
    }
}

fn shown(rates: &RatesView) -> String {
    let mut text = format!("each tunnel: {}\neach user: {}\n", rates.tunnel, rates.user);
    for (name, limit) in &rates.users {
        let _ = writeln!(text, "user {}: {limit}", sanitize(name));
    }
    for (id, limit) in &rates.tunnels {
        let _ = writeln!(text, "tunnel {id}: {limit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        rates: Rates,
    }

    fn change(line: &str) -> Result<Option<Value>, String> {
        let words = std::iter::once("rates").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.rates.change()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_names_one_rate_or_none() {
        for (line, json) in [
            ("", None),
            ("--tunnel 17 1MiB", Some(json!({ "tunnels": { "17": 1 << 20 } }))),
            ("--user ann none", Some(json!({ "users": { "ann": "none" } }))),
            ("--each-tunnel configured", Some(json!({ "tunnel": null }))),
            ("--each-user 1Gbit", Some(json!({ "user": 125_000_000 }))),
        ] {
            assert_eq!(change(line), Ok(json), "{line}");
        }
        for line in ["1MiB", "--user ann", "--user ann --tunnel 1 1MiB", "--user ann fast"] {
            assert!(change(line).is_err(), "{line}");
        }
    }
}
