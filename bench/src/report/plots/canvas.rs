//! Canvas of the plots: size, colours and font.

use std::io;

use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, RGBColor, SVGBackend, WHITE};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours: no proxy, then one for each contender, distinguishable also in colour blindness.
const COLOURS: [RGBColor; 11] = [
    RGBColor(90, 90, 90),
    RGBColor(0, 90, 181),
    RGBColor(0, 158, 155),
    RGBColor(86, 180, 233),
    RGBColor(0, 135, 60),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(160, 110, 40),
    RGBColor(126, 60, 180),
    RGBColor(200, 30, 60),
    RGBColor(120, 140, 20),
];

/// Colour of text and axes.
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
pub(super) const GRID: RGBColor = RGBColor(222, 222, 222);
pub(super) const FONT: &str = "sans-serif";

/// An SVG of `size`, drawn by `draw`.
pub(super) fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> io::Result<()>) -> io::Result<Option<String>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(io::Error::other)?;
        draw(&root)?;
        root.present().map_err(io::Error::other)?;
    }
    Ok(Some(text))
}

pub(super) fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}
