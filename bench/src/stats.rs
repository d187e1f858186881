//! Medians, spreads and percentiles.

/// Samples of one repeated measurement.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// Median: the middle sample, or the mean of the two in the middle; NaN without samples.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }

    /// Smallest sample not exceeded by `share` of the samples (nearest rank).
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    pub fn percentile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    /// Minimum and maximum.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_the_ends_and_the_ranks() {
        let samples = Samples(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!((samples.median(), samples.spread()), (2.5, (1.0, 10.0)));
        assert_eq!(Samples(vec![5.0, 1.0, 9.0]).median(), 5.0);
        let hundred = Samples((1..=100).map(f64::from).collect());
        assert_eq!([0.5, 0.99, 1.0, 0.0].map(|share| hundred.percentile(share)), [50.0, 99.0, 100.0, 1.0]);
        assert!(Samples::default().median().is_nan() && Samples::default().percentile(0.5).is_nan());
    }
}
