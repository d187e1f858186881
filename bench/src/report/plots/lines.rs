//! Line charts: panels side by side, with one common legend on the right.

use std::io;
use std::ops::Range;

use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::element::{Circle, PathElement, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, ShapeStyle};

use super::canvas::{Area, FONT, GRID, INK, colour, svg};

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (340, 270);
/// Width of the legend in pixels.
const LEGEND: u32 = 118;
const LEGEND_LINE: i32 = 19;

/// A line.
pub(super) struct Series {
    pub(super) name: String,
    /// Number of the contender, for the colour.
    pub(super) number: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// A diagram.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

/// Mapping of values to positions.
pub(super) struct Axis {
    what: String,
    logarithmic: bool,
    /// Labelled values; empty for round numbers.
    ticks: Vec<f64>,
    /// Labels in place of the values 0, 1, 2.
    labels: Vec<String>,
}

impl Axis {
    /// Linear axis from 0.
    pub(super) fn linear(what: &str) -> Self {
        Self { what: what.to_owned(), logarithmic: false, ticks: Vec::new(), labels: Vec::new() }
    }

    /// Logarithmic axis.
    pub(super) fn log(what: &str, ticks: Vec<f64>) -> Self {
        Self { what: what.to_owned(), logarithmic: true, ticks, labels: Vec::new() }
    }

    /// Axis with one position for each label.
    #[expect(clippy::cast_precision_loss, reason = "a place on the axis")]
    pub(super) fn places(what: &str, labels: Vec<String>) -> Self {
        let ticks = (0..labels.len()).map(|place| place as f64).collect();
        Self { what: what.to_owned(), logarithmic: false, ticks, labels }
    }

    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { value.max(1e-9).log10() } else { value }
    }

    /// Scale of the axis for `values`.
    fn over(&self, values: impl Iterator<Item = f64>) -> Scale<'_> {
        let ends = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (least, most) = values.fold((f64::MAX, f64::MIN), ends);
        let ticks = if self.ticks.is_empty() { self.round(least, most) } else { sparse(&self.ticks) };
        let ticks: Vec<f64> = ticks.iter().map(|tick| self.place(*tick)).collect();
        let shown = ticks.iter().copied().chain([self.place(least), self.place(most)]);
        let (low, high) = shown.fold((f64::MAX, f64::MIN), ends);
        let margin = (high - low).max(0.1) * 0.05;
        let below = if self.ticks.is_empty() { 0.0 } else { margin };
        Scale { axis: self, ends: low - below..high + margin, ticks }
    }

    fn round(&self, least: f64, most: f64) -> Vec<f64> {
        if self.logarithmic {
            // 1, 2 and 5 of each power of ten, from the one below to the one above.
            let (first, last) = (least.max(1e-9).log10().floor(), most.max(1e-9).log10().ceil());
            let powers = std::iter::successors(Some(first), move |power| (*power < last).then_some(power + 1.0));
            let all: Vec<f64> =
                powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powf(power))).collect();
            let from = all.iter().rposition(|tick| *tick <= least).unwrap_or(0);
            let to = all.iter().position(|tick| *tick >= most).unwrap_or(all.len() - 1);
            let few = to - from < 8;
            let shown = all[from..=to].iter().enumerate();
            return shown.filter(|(at, _)| few || (at + from) % 3 == 0).map(|(_, tick)| *tick).collect();
        }
        let step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
        let step = step.into_iter().find(|step| most / step <= 7.0).unwrap_or(most / 5.0);
        std::iter::successors(Some(0.0), |tick| (tick + step <= most * 1.001).then_some(tick + step)).collect()
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place is a small number")]
    fn label(&self, place: f64) -> String {
        if !self.labels.is_empty() {
            return self.labels.get(place.round() as usize).cloned().unwrap_or_default();
        }
        let value = if self.logarithmic { 10_f64.powf(place) } else { place };
        let value = (value * 1e6).round() / 1e6;
        match value {
            whole if (whole - whole.round()).abs() < 0.01 => format!("{:.0}", whole.round()),
            part => format!("{part}"),
        }
    }
}

/// Axis with known ends.
struct Scale<'a> {
    axis: &'a Axis,
    ends: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Scale<'_> {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a pixel")]
    fn map(&self, place: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (place - self.ends.start) / (self.ends.end - self.ends.start);
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _hint: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.ends.clone()
    }
}

impl ValueFormatter<f64> for Scale<'_> {
    fn format_ext(&self, place: &f64) -> String {
        self.axis.label(*place)
    }
}

/// Thins out the ticks to as many as fit side by side.
fn sparse(ticks: &[f64]) -> Vec<f64> {
    let step = ticks.len().div_ceil(7);
    ticks.iter().copied().step_by(step.max(1)).collect()
}

/// Draws the panels, `columns` in a row; `None` without panels.
pub(super) fn figure(panels: &[Panel], columns: usize) -> io::Result<Option<String>> {
    if panels.is_empty() {
        return Ok(None);
    }
    let rows = panels.len().div_ceil(columns);
    let size = |pixels: u32, number: usize| pixels * u32::try_from(number).unwrap_or(1);
    let width = size(PANEL.0, columns);
    svg((width + LEGEND, size(PANEL.1, rows)), |root| {
        let (left, right) = root.split_horizontally(width);
        for (area, panel) in left.split_evenly((rows, columns)).iter().zip(panels) {
            draw(area, panel)?;
        }
        legend(&right, panels)
    })
}

fn draw(area: &Area<'_>, panel: &Panel) -> io::Result<()> {
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let (x, y) = (panel.x.over(points().map(|point| point.0)), panel.y.over(points().map(|point| point.1)));
    let labels = (x.ticks.len(), y.ticks.len());
    let text = |pixels: i32| (FONT, pixels).into_font().color(&INK);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, text(15))
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(52)
        .build_cartesian_2d(x, y)
        .map_err(io::Error::other)?;
    chart
        .configure_mesh()
        .x_labels(labels.0)
        .y_labels(labels.1)
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .x_desc(&panel.x.what)
        .y_desc(&panel.y.what)
        .draw()
        .map_err(io::Error::other)?;
    // The baseline, the first contender, is drawn last, on top.
    for series in panel.series.iter().rev() {
        let places: Vec<_> = series.points.iter().map(|(x, y)| (panel.x.place(*x), panel.y.place(*y))).collect();
        let line = LineSeries::new(places.clone(), stroke(series.number));
        chart.draw_series(line).map_err(io::Error::other)?;
        let dots = places.into_iter().map(|place| Circle::new(place, 3, colour(series.number).filled()));
        chart.draw_series(dots).map_err(io::Error::other)?;
    }
    Ok(())
}

fn stroke(number: usize) -> ShapeStyle {
    colour(number).stroke_width(2)
}

fn legend(area: &Area<'_>, panels: &[Panel]) -> io::Result<()> {
    let mut named: Vec<(usize, &str)> = panels
        .iter()
        .flat_map(|panel| panel.series.iter().map(|series| (series.number, series.name.as_str())))
        .collect();
    named.sort_unstable();
    named.dedup();
    let style = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    let mut y = 44;
    for (number, name) in named {
        area.draw(&PathElement::new([(2, y), (20, y)], stroke(number))).map_err(io::Error::other)?;
        area.draw(&Circle::new((11, y), 3, colour(number).filled())).map_err(io::Error::other)?;
        area.draw(&Text::new(name.to_owned(), (26, y), style.clone())).map_err(io::Error::other)?;
        y += LEGEND_LINE;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_values_enclose_what_is_shown() {
        let labels = |axis: &Axis, least, most| -> Vec<String> {
            axis.round(least, most).iter().map(|tick| axis.label(axis.place(*tick))).collect()
        };
        assert_eq!(labels(&Axis::linear("x"), 0.3, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let logarithmic = Axis::log("x", Vec::new());
        assert_eq!(labels(&logarithmic, 30.0, 1500.0), ["20", "50", "100", "200", "500", "1000", "2000"]);
        let axis = Axis::log("x", vec![1.0, 4.0, 9_500.0, 12_000.0]);
        assert_eq!([0.0, 4_f64.log10(), 12_000_f64.log10()].map(|place| axis.label(place)), ["1", "4", "12000"]);
    }
}
