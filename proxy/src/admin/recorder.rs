//! The Prometheus recorder, with the buckets of [`metrics::ALL`] and no listener of its own.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::metrics::{self, Kind};

/// Installs the recorder for the whole process and describes every metric; the handle renders it.
///
/// # Panics
/// If a recorder is installed already: main does this once.
#[must_use]
pub fn recorder() -> PrometheusHandle {
    let recorder = build();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).expect("the recorder is installed once");
    metrics::describe();
    handle
}

/// A recorder that is not installed.
#[must_use]
pub fn build() -> PrometheusRecorder {
    let histograms = metrics::ALL.iter().filter_map(|metric| match metric.kind {
        Kind::Histogram(buckets) => Some((metric.name, buckets)),
        Kind::Counter | Kind::Gauge => None,
    });
    histograms
        .fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
            // Without buckets the exporter would make a summary of it.
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets).expect("no bucket list is empty")
        })
        .build_recorder()
}
