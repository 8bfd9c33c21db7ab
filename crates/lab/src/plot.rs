//! Figures: lines over a labelled grid, as SVG and as PNG, readable by themselves.

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::register_font;

const SIZE: (u32, u32) = (900, 560);
/// The legend is right of the plot, so that it hides no line; what the axis takes is left of it.
const LEGEND: u32 = 180;
const MARGIN: u32 = 14;
const AXIS: u32 = 66;
const LEGEND_TOP: i32 = 48;
const LEGEND_LINE: i32 = 18;
const FONT: &str = "sans-serif";
/// Lines of a caption, in pixels.
const CAPTION_LINE: u32 = 16;
/// Most characters in a line of the caption.
const CAPTION_CHARS: usize = 165;
/// Room above the largest value.
const HEADROOM: f64 = 1.08;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// What was measured.
    Measured,
    /// What theory or a model gives, beside it.
    Theory,
    /// What the study read.
    Study,
}

impl Style {
    /// Pixels of a dash, and between two; none for a line without.
    fn dash(self) -> Option<(i32, i32)> {
        match self {
            Style::Measured => None,
            Style::Theory => Some((5, 4)),
            Style::Study => Some((2, 5)),
        }
    }
}

/// What stands at the x axis.
#[derive(Clone, Debug)]
pub(crate) enum Axis {
    /// Numbers.
    Numbers,
    /// Names for 0, 1, 2 and so on, of sizes that grow.
    Sizes(Vec<String>),
    /// Names for 0, 1, 2 and so on, of kinds between which there is nothing: the points are not joined.
    Kinds(Vec<String>),
}

/// A line through points, each with half the width of its confidence interval.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its name in the legend.
    pub(crate) name: String,
    /// x, y, and how far y may be off.
    pub(crate) points: Vec<(f64, f64, f64)>,
    /// What it is.
    pub(crate) style: Style,
    /// Lines with the same number have the same colour.
    pub(crate) colour: usize,
}

/// A figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// The file's name, without its ending.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) title: String,
    /// Sample counts, seed, commit, and what else is needed to repeat it.
    pub(crate) caption: String,
    /// What x is, with its unit.
    pub(crate) x: String,
    /// What y is, with its unit.
    pub(crate) y: String,
    /// What stands there.
    pub(crate) axis: Axis,
    /// True: y grows by factors.
    pub(crate) is_log: bool,
    /// The lines.
    pub(crate) lines: Vec<Line>,
}

impl Figure {
    /// Writes `NAME.svg` and `NAME.png` to a folder. The error names the file.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), String> {
        static FONTS: Once = Once::new();
        FONTS.call_once(|| {
            let font = epaint_default_fonts::UBUNTU_LIGHT;
            for style in [FontStyle::Normal, FontStyle::Bold] {
                // It is a font: the crate that has it says so.
                let _ = register_font(FONT, style, font);
            }
        });
        let svg = dir.join(format!("{}.svg", self.name));
        let png = dir.join(format!("{}.png", self.name));
        let fault = |path: &Path, why: String| format!("{}: {why}", path.display());
        self.draw(SVGBackend::new(&svg, SIZE).into_drawing_area()).map_err(|e| fault(&svg, e))?;
        self.draw(BitMapBackend::new(&png, SIZE).into_drawing_area()).map_err(|e| fault(&png, e))
    }

    /// The lowest and highest x, and y.
    fn bounds(&self) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let low = |of: &dyn Fn(&(f64, f64, f64)) -> f64| points().map(of).fold(f64::MAX, f64::min);
        let high = |of: &dyn Fn(&(f64, f64, f64)) -> f64| points().map(of).fold(f64::MIN, f64::max);
        let (left, right) = (low(&|point| point.0), high(&|point| point.0));
        let top = high(&|point| point.1 + point.2) * HEADROOM;
        // A power of ten has a label.
        let least = low(&|point| point.1).max(f64::MIN_POSITIVE);
        let bottom = if self.is_log { 10f64.powf(least.log10().floor()) } else { 0.0 };
        let (left, right) = match self.axis {
            Axis::Kinds(_) => (left - 0.5, right + 0.5),
            _ if right > left => (left, right),
            _ => (left, left + 1.0),
        };
        (left..right, bottom..top.max(bottom + f64::MIN_POSITIVE.max(1e-9)))
    }

    /// Labels of the x axis: one for each place of a point, if these are few.
    fn ticks(&self) -> usize {
        if let Axis::Sizes(names) | Axis::Kinds(names) = &self.axis {
            return names.len() + 1;
        }
        let places = self.lines.iter().map(|line| line.points.len()).max().unwrap_or(0);
        if places <= 10 && self.lines.iter().all(|line| evenly(&line.points)) { places } else { 10 }
    }

    fn draw<B: DrawingBackend>(&self, area: DrawingArea<B, Shift>) -> Result<(), String> {
        let fault = |error: DrawingAreaErrorKind<B::ErrorType>| error.to_string();
        area.fill(&WHITE).map_err(fault)?;
        let caption = wrapped(&self.caption);
        let below = CAPTION_LINE * caption.len() as u32 + 8;
        let (upper, lower) = area.split_vertically(SIZE.1 - below);
        for (nth, line) in caption.iter().enumerate() {
            let at = (16, (CAPTION_LINE * nth as u32) as i32);
            let style = (FONT, 12).into_font().color(&BLACK.mix(0.7));
            lower.draw(&Text::new(line.as_str(), at, style)).map_err(fault)?;
        }
        let (x, y) = self.bounds();
        let mut chart = ChartBuilder::on(&upper);
        chart
            .caption(&self.title, (FONT, 20))
            .margin(MARGIN)
            .margin_right(LEGEND)
            .x_label_area_size(42)
            .y_label_area_size(AXIS);
        match self.is_log {
            true => self.lines_on(chart.build_cartesian_2d(x, y.log_scale()).map_err(fault)?),
            false => self.lines_on(chart.build_cartesian_2d(x, y).map_err(fault)?),
        }
        .map_err(fault)?;
        self.legend(&upper).map_err(fault)?;
        area.present().map_err(fault)
    }

    /// What stands at this place of the x axis.
    fn label(&self, value: f64) -> String {
        match &self.axis {
            Axis::Numbers => short(value),
            Axis::Sizes(names) | Axis::Kinds(names) => {
                let whole = (value - value.round()).abs() < 1e-6 && value > -0.5;
                names
                    .get(value.round().max(0.0) as usize)
                    .filter(|_| whole)
                    .cloned()
                    .unwrap_or_default()
            }
        }
    }

    fn lines_on<B, Y>(
        &self,
        mut chart: ChartContext<'_, B, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64> + AsRangedCoord<Value = f64>,
    {
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .axis_desc_style((FONT, 15))
            .label_style((FONT, 13))
            .x_labels(self.ticks())
            .y_labels(10)
            .x_label_formatter(&|value| self.label(*value))
            .y_label_formatter(&|value| short(*value))
            .max_light_lines(0)
            .bold_line_style(BLACK.mix(0.14))
            .draw()?;
        let is_joined = !matches!(self.axis, Axis::Kinds(_));
        for (nth, line) in self.lines.iter().enumerate() {
            let colour = Palette99::pick(line.colour).to_rgba();
            // Side by side where they are not joined.
            let aside = (nth as f64 + 0.5) / self.lines.len() as f64 - 0.5;
            let aside = if is_joined { 0.0 } else { 0.7 * aside };
            let points = line.points.iter().map(|(x, y, _)| (*x + aside, *y));
            if let Some((dash, gap)) = line.style.dash() {
                let style = colour.mix(0.8).into();
                chart.draw_series(DashedLineSeries::new(points, dash, gap, style))?;
                continue;
            }
            if is_joined {
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            }
            let dot = |at| Circle::new(at, if is_joined { 2 } else { 4 }, colour.filled());
            chart.draw_series(points.map(dot))?;
            let bars = line.points.iter().filter(|(_, _, half)| *half > 0.0);
            let bar = |(x, y, half): &(f64, f64, f64)| {
                let low = if self.is_log { (y - half).max(y / 10.0) } else { (y - half).max(0.0) };
                let ends = vec![(*x + aside, low), (*x + aside, y + half)];
                PathElement::new(ends, colour.stroke_width(1))
            };
            chart.draw_series(bars.map(bar))?;
        }
        Ok(())
    }

    /// Names the lines, right of the plot.
    fn legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let (left, mut top) = ((SIZE.0 - LEGEND + 12) as i32, LEGEND_TOP);
        for line in &self.lines {
            let colour = Palette99::pick(line.colour).to_rgba();
            let (dashes, width): (&[(i32, i32)], u32) = match line.style {
                Style::Measured => (&[(0, 14)], 3),
                Style::Theory => (&[(0, 5), (9, 14)], 1),
                Style::Study => (&[(0, 2), (6, 8), (12, 14)], 1),
            };
            for (from, to) in dashes {
                let ends = vec![(left + from, top + 6), (left + to, top + 6)];
                area.draw(&PathElement::new(ends, colour.stroke_width(width)))?;
            }
            let style = (FONT, 13).into_font().color(&BLACK);
            area.draw(&Text::new(line.name.as_str(), (left + 20, top), style))?;
            top += LEGEND_LINE;
        }
        Ok(())
    }
}

/// True if the points are one apart.
fn evenly(points: &[(f64, f64, f64)]) -> bool {
    points.windows(2).all(|pair| (pair[1].0 - pair[0].0 - 1.0).abs() < 1e-9)
}

/// A number without digits that say nothing.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        1_000.0.. => format!("{value:.0}"),
        10.0.. => format!("{:.1}", value).trim_end_matches(".0").into(),
        0.01.. => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').into(),
        _ => format!("{value:.0e}"),
    }
}

/// A text in lines of at most [`CAPTION_CHARS`], broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if !line.is_empty() && line.len() + word.len() >= CAPTION_CHARS {
            lines.push(word.into());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
