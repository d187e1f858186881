//! `sluicegate tunnels`: the live tunnels of a running gateway, as a table or as JSON.

use std::fmt::Write;

use clap::Args;
use hyper::{Method, StatusCode};

use crate::account::{TunnelView, clean};
use crate::admin::client;

/// Show the live tunnels of a running gateway
#[derive(Args, Debug)]
pub struct Tunnels {
    /// Print JSON, as /api/tunnels gives it, instead of a table
    #[arg(long)]
    pub json: bool,
    /// Where the gateway listens.
    #[command(flatten)]
    pub admin: AdminAddress,
}

/// Where the gateway to be asked has its admin address.
#[derive(Args, Debug)]
pub struct AdminAddress {
    /// Admin address of the gateway
    #[arg(long, value_name = "ADDR:PORT", env = "SLUICEGATE_ADMIN", default_value = "127.0.0.1:9128")]
    pub admin: String,
}

impl Tunnels {
    /// Asks the gateway; the text to print.
    ///
    /// # Errors
    /// Why there is no answer, for the user.
    pub async fn run(&self) -> Result<String, String> {
        let admin = &self.admin.admin;
        let (status, body) = client::ask(admin, Method::GET, "/api/tunnels").await?;
        if status != StatusCode::OK {
            return Err(format!("{admin} answered {status}: {}", explanation(&body)));
        }
        let tunnels: Vec<TunnelView> = serde_json::from_slice(&body).map_err(|error| {
            format!("{admin} answered with something else than tunnels ({error}); is it a gateway?")
        })?;
        if self.json { Ok(format!("{}\n", String::from_utf8_lossy(&body))) } else { Ok(table(&tunnels)) }
    }
}

/// What an answer that is no success says: the `error` of its JSON, or its first line.
pub(super) fn explanation(body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let error = json.as_ref().and_then(|json| json.get("error")?.as_str());
    let text = String::from_utf8_lossy(body);
    clean(error.unwrap_or_else(|| text.lines().next().unwrap_or_default())).into_owned()
}

const HEAD: [&str; 10] =
    ["ID", "USER", "CLIENT", "TARGET", "ORIGIN", "ENGINE", "AGE", "QUIET", "TO ORIGIN", "TO CLIENT"];
/// Columns of figures, which end rather than begin on a line.
const FIGURES: [bool; 10] = [true, false, false, false, false, false, true, true, true, true];

fn table(tunnels: &[TunnelView]) -> String {
    let rows: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(tunnels.iter().map(row)).collect();
    let widths: [usize; 10] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = std::iter::zip(row, widths)
            .zip(FIGURES)
            .map(|((cell, width), figure)| if figure { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn row(tunnel: &TunnelView) -> [String; 10] {
    [
        tunnel.id.to_string(),
        tunnel.user.as_deref().map_or("-".into(), clean).into_owned(),
        tunnel.client.to_string(),
        clean(&tunnel.target).into_owned(),
        tunnel.origin.to_string(),
        clean(&tunnel.engine).into_owned(),
        time(tunnel.age_seconds),
        time(tunnel.quiet_seconds),
        bytes(tunnel.bytes_to_origin),
        bytes(tunnel.bytes_to_client),
    ]
}

/// Seconds as the two largest units that matter.
fn time(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Bytes in the largest binary unit below them, to three digits or so.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = count as f64;
    let mut unit = "B";
    for next in UNITS {
        // What would be rounded up to 1024 belongs to the next unit already.
        if scaled.round() < 1_024.0 {
            break;
        }
        scaled /= 1_024.0;
        unit = next;
    }
    if unit == "B" || scaled >= 99.95 { format!("{scaled:.0} {unit}") } else { format!("{scaled:.1} {unit}") }
}
