//! Figures: lines over a labelled grid, as SVG, readable by themselves.

use std::path::Path;

use self::svg::{Drawing, GRID, Scale, short};

pub(crate) mod svg;

const SIZE: (f64, f64) = (900.0, 560.0);
/// The legend is right of the plot, so that it hides no line.
const RIGHT: f64 = 720.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 44.0;
/// Below the plot, for the labels and the name of the x axis.
const AXIS: f64 = 56.0;
const LEGEND_LINE: f64 = 18.0;
/// Height of a line of the caption, in pixels, and its font's.
const CAPTION_LINE: f64 = 16.0;
const CAPTION_FONT: f64 = 10.0;
/// Most characters in a line of the caption.
const CAPTION_CHARS: usize = 165;
/// Room above the largest value.
const HEADROOM: f64 = 1.08;
/// Reported apart also by those who see no red or green; again from the first for the ninth line.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333", "#8c564b"];

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
    /// How SVG draws it.
    fn stroke(self, colour: &str) -> String {
        let rest = match self {
            Style::Measured => "stroke-width=\"2\"",
            Style::Theory => "stroke-dasharray=\"5 4\"",
            Style::Study => "stroke-dasharray=\"2 5\"",
        };
        format!("stroke=\"{colour}\" {rest}")
    }
}

/// What stands at the x axis.
#[derive(Clone, Debug)]
pub(crate) enum Axis {
    /// Numbers.
    Numbers,
    /// Names for 0, 1, 2 and so on, of sizes that grow.
    Sizes(Vec<String>),
    /// Names for 0, 1, 2 and so on, of kinds between which there is nothing: the points are not
    /// joined.
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

impl Line {
    fn colour(&self) -> &'static str {
        COLOURS[self.colour % COLOURS.len()]
    }
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
    /// Writes `NAME.svg` to a folder. The error names the file.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), String> {
        let path = dir.join(format!("{}.svg", self.name));
        std::fs::write(&path, self.draw()).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The lowest and highest x, and y.
    fn bounds(&self) -> ((f64, f64), (f64, f64)) {
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
        ((left, right), (bottom, top.max(bottom + 1e-9)))
    }

    /// Values of the x axis to label: one for each place of a point, if these are few.
    fn ticks(&self, x: &Scale) -> Vec<f64> {
        if let Axis::Sizes(names) | Axis::Kinds(names) = &self.axis {
            return (0..names.len()).map(|nth| nth as f64).collect();
        }
        let places = self.lines.iter().map(|line| line.points.len()).max().unwrap_or(0);
        let is_whole = places <= 10 && self.lines.iter().all(|line| evenly(&line.points));
        x.ticks(if is_whole { places.saturating_sub(1) } else { 10 })
    }

    /// What stands at a labelled place of the x axis.
    fn label(&self, value: f64) -> String {
        match &self.axis {
            Axis::Numbers => short(value),
            Axis::Sizes(names) | Axis::Kinds(names) => {
                names.get(value as usize).cloned().unwrap_or_default()
            }
        }
    }

    fn draw(&self) -> String {
        let mut drawing = Drawing::new(SIZE, &self.title);
        let caption = wrapped(&self.caption);
        let below = SIZE.1 - CAPTION_LINE * caption.len() as f64;
        for (nth, line) in caption.iter().enumerate() {
            let at = (16.0, below + CAPTION_LINE * nth as f64);
            drawing.text(at, &format!("fill=\"#444\" font-size=\"{CAPTION_FONT}\""), line);
        }
        let (values, heights) = self.bounds();
        let bottom = below - CAPTION_LINE - AXIS;
        let x = Scale { values, pixels: (LEFT, RIGHT), is_log: false };
        let y = Scale { values: heights, pixels: (bottom, TOP), is_log: self.is_log };
        self.frame(&mut drawing, &x, &y);
        for nth in 0..self.lines.len() {
            self.line(&mut drawing, nth, &x, &y);
        }
        self.legend(&mut drawing);
        drawing.finish()
    }

    /// The grid, and what the axes are.
    fn frame(&self, drawing: &mut Drawing, x: &Scale, y: &Scale) {
        let bottom = y.pixels.0;
        drawing.rows(y, x.pixels, 10);
        for tick in self.ticks(x) {
            let at = x.at(tick);
            drawing.line((at, TOP), (at, bottom), GRID, "");
            drawing.text((at, bottom + 17.0), "text-anchor=\"middle\"", &self.label(tick));
        }
        for end in [(LEFT, TOP), (RIGHT, bottom)] {
            drawing.line((LEFT, bottom), end, "stroke=\"#333\"", "");
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        let title = "text-anchor=\"middle\" font-size=\"16\"";
        drawing.text((middle, TOP - 16.0), title, &self.title);
        let name = "text-anchor=\"middle\" font-size=\"13\"";
        drawing.text((middle, bottom + 40.0), name, &self.x);
        let at = (20.0, f64::midpoint(TOP, bottom));
        let turned = format!("{name} transform=\"rotate(-90 {} {})\"", at.0, at.1);
        drawing.text(at, &turned, &self.y);
    }

    fn line(&self, drawing: &mut Drawing, nth: usize, x: &Scale, y: &Scale) {
        let line = &self.lines[nth];
        let colour = line.colour();
        let is_joined = !matches!(self.axis, Axis::Kinds(_));
        // Side by side where they are not joined.
        let aside = (nth as f64 + 0.5) / self.lines.len() as f64 - 0.5;
        let aside = if is_joined { 0.0 } else { 0.7 * aside };
        let place = |(at, value, _): &(f64, f64, f64)| (x.at(at + aside), y.at(*value));
        let points: Vec<svg::Point> = line.points.iter().map(place).collect();
        if is_joined || line.style != Style::Measured {
            drawing.path(&points, &line.style.stroke(colour), &line.name);
        }
        if line.style != Style::Measured {
            return;
        }
        for at in points {
            drawing.dot(at, if is_joined { 2.0 } else { 4.0 }, colour);
        }
        for (at, value, half) in line.points.iter().filter(|(_, _, half)| *half > 0.0) {
            let low = if self.is_log { (value - half).max(value / 10.0) } else { value - half };
            let at = x.at(at + aside);
            let ends = [(at, y.at(low)), (at, y.at(value + half))];
            drawing.line(ends[0], ends[1], &format!("stroke=\"{colour}\""), "");
        }
    }

    /// Names the lines, right of the plot.
    fn legend(&self, drawing: &mut Drawing) {
        let (left, mut top) = (RIGHT + 12.0, TOP + 10.0);
        for line in &self.lines {
            let stroke = line.style.stroke(line.colour());
            drawing.line((left, top - 4.0), (left + 14.0, top - 4.0), &stroke, "");
            drawing.text((left + 20.0, top), "font-size=\"11\"", &line.name);
            top += LEGEND_LINE;
        }
    }
}

/// True if the points are one apart.
fn evenly(points: &[(f64, f64, f64)]) -> bool {
    points.windows(2).all(|pair| (pair[1].0 - pair[0].0 - 1.0).abs() < 1e-9)
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
