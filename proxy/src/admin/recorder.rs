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

/// Makes a recorder without installing it.
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

/// Returns the text of all metrics, sorted by name and labels.
///
/// The exporter collects metrics and series in a new `HashMap` for each scrape, in random order.
pub(super) fn render(handle: &PrometheusHandle) -> String {
    sorted(&handle.render())
}

fn sorted(text: &str) -> String {
    // The exporter ends each metric with an empty line; a line feed in label values and help is
    // escaped.
    let mut metrics: Vec<Vec<&str>> = text
        .split("\n\n")
        .map(|metric| metric.lines().filter(|line| !line.is_empty()).collect())
        .filter(|lines: &Vec<_>| !lines.is_empty())
        .collect();
    for lines in &mut metrics {
        let is_histogram = lines.iter().any(|line| line.starts_with("# TYPE ") && line.ends_with(" histogram"));
        if !is_histogram {
            // Comments first; HELP is before TYPE as it was.
            lines.sort_by_key(|line| if line.starts_with('#') { "" } else { line });
        }
    }
    // Sorts by the line of the type, present in every metric.
    metrics.sort_by_key(|lines| lines.iter().find_map(|line| line.strip_prefix("# TYPE ")).unwrap_or_default());
    let metrics = metrics.iter().map(|lines| lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    metrics.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_series_are_sorted_and_buckets_stay() {
        let text = "# HELP b b\n# TYPE b counter\nb{x=\"2\"} 1\nb{x=\"1\"} 7\n\n\
                    # HELP a a\n# TYPE a histogram\na_bucket{le=\"5\"} 0\na_bucket{le=\"10\"} 1\na_sum 6\na_count 1\n\n\
                    # TYPE a_b gauge\na_b 3\n\n";
        let expected = "# HELP a a\n# TYPE a histogram\na_bucket{le=\"5\"} 0\na_bucket{le=\"10\"} 1\na_sum 6\na_count 1\n\n\
                        # TYPE a_b gauge\na_b 3\n\n\
                        # HELP b b\n# TYPE b counter\nb{x=\"1\"} 7\nb{x=\"2\"} 1\n";
        assert_eq!(sorted(text), expected);
        assert_eq!(sorted(""), "");
    }
}
