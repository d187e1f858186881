//! Measures each contender once, round by round, with a progress bar.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::contender::Contender;
use crate::interrupt;
use crate::rows::Row;
use crate::stats::Samples;

/// All contenders, with the progress bar.
pub(crate) struct Rounds<'a> {
    contenders: &'a mut [Contender],
    bar: ProgressBar,
}

impl<'a> Rounds<'a> {
    /// Prepares `steps` measurements of one contender each.
    pub(crate) fn new(contenders: &'a mut [Contender], steps: usize) -> Self {
        Self { contenders, bar: bar(steps) }
    }

    /// Number of contenders.
    pub(crate) fn len(&self) -> usize {
        self.contenders.len()
    }

    /// Measures each contender once.
    pub(crate) fn once<T>(&mut self, what: &str, measure: impl Fn(&Contender) -> io::Result<T>) -> io::Result<Vec<T>> {
        (0..self.len()).map(|number| self.step(number, what, &measure)).collect()
    }

    /// Measures each contender once a round. The values of a measurement become rows, one for each
    /// name and unit.
    pub(crate) fn rounds(
        &mut self,
        rounds: usize,
        names: &[(&str, &str)],
        measure: impl Fn(&Contender) -> io::Result<Vec<Option<f64>>>,
    ) -> io::Result<Vec<Row>> {
        let contenders = self.len();
        let row = |(what, unit): &(&str, &str)| Row {
            what: (*what).to_owned(),
            unit: (*unit).to_owned(),
            samples: vec![Samples::default(); contenders],
        };
        let mut rows: Vec<Row> = names.iter().map(row).collect();
        for round in 0..rounds {
            // Rotate the order: no contender is always first, or always behind the same one.
            for number in (0..contenders).map(|place| (place + round) % contenders) {
                let values = self.step(number, names[0].0, &measure)?;
                for (row, value) in rows.iter_mut().zip(values) {
                    row.samples[number].0.extend(value.filter(|value| value.is_finite()));
                }
            }
        }
        Ok(rows)
    }

    fn step<T>(
        &mut self,
        number: usize,
        what: &str,
        measure: impl FnOnce(&Contender) -> io::Result<T>,
    ) -> io::Result<T> {
        interrupt::check()?;
        let contender = &mut self.contenders[number];
        self.bar.set_message(format!("{}: {what}", contender.name));
        let result = measure(contender).map_err(|error| contender.explain(what, &error));
        self.bar.inc(1);
        result
    }
}

impl Drop for Rounds<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(steps: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} ({eta} left)");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
