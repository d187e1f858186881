//! Bar chart: a bar for each contender, with its value behind it.

use std::io;

use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont};

use super::canvas::{FONT, INK, colour, svg};
use crate::report::markdown::short;

const WIDTH: i32 = 640;
/// Pixels for the names.
const NAMES: i32 = 120;
/// Pixels for the values behind the bars.
const VALUES: i32 = 60;
const TITLE: i32 = 40;
const BAR: i32 = 26;

/// Draws bars of name, number and value; `None` without a positive value.
pub(super) fn figure(title: &str, bars: &[(&str, usize, f64)]) -> io::Result<Option<String>> {
    let most = bars.iter().map(|bar| bar.2).fold(0.0, f64::max);
    if bars.is_empty() || most <= 0.0 {
        return Ok(None);
    }
    let height = TITLE + BAR * i32::try_from(bars.len()).unwrap_or(1) + 10;
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    svg(size, |root| {
        let text = |pixels: i32, side: HPos| (FONT, pixels).into_font().color(&INK).pos(Pos::new(side, VPos::Center));
        let middle = Text::new(title.to_owned(), (WIDTH / 2, TITLE / 2), text(15, HPos::Center));
        root.draw(&middle).map_err(io::Error::other)?;
        let mut y = TITLE;
        for (name, number, value) in bars {
            let end = NAMES + length(value / most);
            let bar = Rectangle::new([(NAMES, y + 3), (end, y + BAR - 4)], colour(*number).filled());
            root.draw(&bar).map_err(io::Error::other)?;
            let place = |x: i32| (x, y + BAR / 2);
            let name = Text::new((*name).to_owned(), place(NAMES - 8), text(13, HPos::Right));
            root.draw(&name).map_err(io::Error::other)?;
            root.draw(&Text::new(short(*value), place(end + 6), text(13, HPos::Left))).map_err(io::Error::other)?;
            y += BAR;
        }
        Ok(())
    })
}

/// Length in pixels of a bar for `share`, from 0 to 1.
#[expect(clippy::cast_possible_truncation, reason = "pixels")]
fn length(share: f64) -> i32 {
    (share * f64::from(WIDTH - NAMES - VALUES)).round() as i32
}
