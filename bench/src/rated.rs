//! The run of the rate limits.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::setup::{far_end, usual_engines};
use sluicegate_bench::contender::Programs;
use sluicegate_bench::{interrupt, namespace, rates};

/// Options of the rate measurements.
#[derive(Args)]
pub(crate) struct Rates {
    /// The gateway to start
    #[arg(long, default_value = "target/release/sluicegate", value_name = "PROGRAM")]
    gateway: PathBuf,
    /// Its engines [default: all of them, `sockmap` for root alone]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    engines: Option<Vec<String>>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Rates {
    /// Programs to start.
    fn programs(&self) -> Programs {
        let plain = || usual_engines().into_iter().filter(|engine| !engine.contains(' ')).collect();
        let engines = self.engines.clone().unwrap_or_else(plain);
        Programs { gateway: self.gateway.clone(), engines, nginx: None, haproxy: None }
    }
}

/// Measures rate limits and reports the largest deviation.
pub(crate) fn rated(task: &Rates) -> io::Result<()> {
    namespace::enter()?;
    interrupt::catch()?;
    let (_process, origin) = far_end(None, false)?;
    println!("| gateway | load | wanted, MiB/s | measured, MiB/s | off, % | stolen, % |\n|---|---|---|---|---|---|");
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let all = rates::rates(&task.programs(), origin, Duration::from_secs_f64(task.seconds), |result| {
        let (wanted, measured) = (mib(result.wanted), mib(result.measured));
        let (off, stolen) = (result.off(), result.stolen * 100.0);
        println!("| {} | {} | {wanted:.0} | {measured:.1} | {off:+.1} | {stolen:.1} |", result.what, result.load);
    })?;
    let worst = all.iter().map(|result| result.off().abs()).fold(0.0, f64::max);
    println!(
        "\n{} measurements of {} s, the calmest of up to three; the worst is {worst:.1} % off.",
        all.len(),
        task.seconds
    );
    Ok(())
}
