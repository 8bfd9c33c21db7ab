//! SVG, written directly: shapes, text, and the scales of axes. Text uses the reader's sans-serif
//! font; no font is embedded, and no code here depends on the width of a word.

use std::fmt::Write as _;

use pixii_kit::text::html;

/// Attributes of the lines of a grid.
pub(crate) const GRID: &str = "stroke=\"#ddd\"";

/// Pixels from the left and from the top.
pub(crate) type Point = (f64, f64);

/// The mapping from values to places along an axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// The lowest and the highest value.
    pub(crate) values: (f64, f64),
    /// The pixels at which these lie.
    pub(crate) pixels: (f64, f64),
    /// If true, the scale is logarithmic.
    pub(crate) is_log: bool,
}

impl Scale {
    /// The pixel of a value; values beyond the ends have the pixel of the nearest end.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let measure = |value: f64| match self.is_log {
            true => value.max(f64::MIN_POSITIVE).log10(),
            false => value,
        };
        let (low, high) = (measure(self.values.0), measure(self.values.1));
        let share = (measure(value) - low) / (high - low).max(f64::MIN_POSITIVE);
        self.pixels.0 + share.clamp(0.0, 1.0) * (self.pixels.1 - self.pixels.0)
    }

    /// Round values to label, with at most `most` steps of 1, 2 or 5 times a power of ten. On a
    /// logarithmic scale: the powers of ten, with 2 and 5 times them if these are few.
    pub(crate) fn ticks(&self, most: usize) -> Vec<f64> {
        let (low, high) = self.values;
        let length = high - low;
        if !length.is_finite() || length <= 0.0 || (self.is_log && low <= 0.0) {
            return Vec::new();
        }
        if self.is_log {
            let (first, last) = (low.log10().floor() as i32, high.log10().floor() as i32);
            let parts: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let apart = (last - first).unsigned_abs() as usize / most.max(1) + 1;
            let decades = (first..=last).step_by(apart).map(|power| 10f64.powi(power));
            let all = decades.flat_map(|decade| parts.iter().map(move |part| part * decade));
            return all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect();
        }
        let least = length / most.max(1) as f64;
        let decade = 10f64.powf(least.log10().floor());
        let steps = [1.0, 2.0, 5.0].map(|part| part * decade);
        let step = steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * decade);
        let first = (low / step - 1e-6).ceil();
        let count = (high / step + 1e-6).floor() - first;
        (0..=count.max(0.0) as usize).map(|nth| (first + nth as f64) * step).collect()
    }
}

/// A drawing in progress. The attributes of shapes are given in the syntax of SVG.
#[derive(Clone, Debug)]
pub(crate) struct Drawing(String);

impl Drawing {
    /// An empty drawing; `about` describes it for screen readers.
    pub(crate) fn new((width, height): (f64, f64), about: &str) -> Self {
        let about = html(about);
        Drawing(format!(
            "<svg viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\" \
             font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"{about}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
        ))
    }

    fn shape(&mut self, tag: &str, place: &str, attributes: &str, tip: &str) {
        let _ = match tip {
            "" => writeln!(self.0, "<{tag} {place} {attributes}/>"),
            tip => {
                let tip = html(tip);
                writeln!(self.0, "<{tag} {place} {attributes}><title>{tip}</title></{tag}>")
            }
        };
    }

    /// A rectangle from its upper left corner. `tip` is shown under the pointer.
    pub(crate) fn rect(&mut self, at: Point, size: Point, attributes: &str, tip: &str) {
        let ((x, y), (width, height)) = (at, size);
        let place =
            format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
        self.shape("rect", &place, attributes, tip);
    }

    /// A straight line. `tip` is shown under the pointer; an empty one is left out.
    pub(crate) fn line(&mut self, from: Point, to: Point, attributes: &str, tip: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let place = format!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
        self.shape("line", &place, attributes, tip);
    }

    /// A line through these points, not filled.
    pub(crate) fn path(&mut self, points: &[Point], attributes: &str, tip: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let place = format!("points=\"{}\" fill=\"none\"", points.join(" "));
        self.shape("polyline", &place, attributes, tip);
    }

    /// A filled circle with this radius in pixels, without a tip.
    pub(crate) fn dot(&mut self, (x, y): Point, radius: f64, colour: &str) {
        let place = format!("cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"");
        self.shape("circle", &place, &format!("fill=\"{colour}\""), "");
    }

    /// A text that begins at `at`, unless the attributes say otherwise.
    pub(crate) fn text(&mut self, (x, y): Point, attributes: &str, text: &str) {
        let text = html(text);
        let _ = writeln!(self.0, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
    }

    /// A horizontal line for each tick of a y axis, with its label at the left.
    pub(crate) fn rows(&mut self, y: &Scale, (left, right): (f64, f64), most: usize) {
        for tick in y.ticks(most) {
            let at = y.at(tick);
            self.line((left, at), (right, at), GRID, "");
            self.text((left - 6.0, at + 4.0), "text-anchor=\"end\"", &short(tick));
        }
    }

    /// The text of the drawing, for a file or as a part of a page.
    pub(crate) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}

/// A number as a short label: rounded, and without trailing zeros.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        1_000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}").trim_end_matches(".0").into(),
        0.01.. => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').into(),
        _ => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(low: f64, high: f64, is_log: bool) -> Scale {
        Scale { values: (low, high), pixels: (100.0, 0.0), is_log }
    }

    #[test]
    fn ticks_are_round_and_lie_within_the_axis() {
        assert_eq!(scale(0.0, 10.8, false).ticks(6), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(scale(1.0, 3.0, false).ticks(2), [1.0, 2.0, 3.0]);
        assert_eq!(scale(0.1, 100.0, true).ticks(10), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(scale(1.0, 30.0, true).ticks(10), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert!(scale(f64::MIN_POSITIVE, 1.0, true).ticks(10).len() <= 11);
        for (low, high) in [(0.0, 1e-9), (3.3, 3.4), (0.0, 7e8), (-2.0, 5.0)] {
            let ticks = scale(low, high, false).ticks(10);
            assert!((2..=11).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
        }
        for (low, high) in [(f64::MAX, f64::MIN), (0.0, 0.0), (0.0, f64::NAN), (0.0, f64::INFINITY)]
        {
            assert!(scale(low, high, false).ticks(10).is_empty(), "{low} to {high}");
        }
        assert!(scale(0.0, 1.0, true).ticks(10).is_empty());
    }

    #[test]
    fn values_beyond_an_axis_are_drawn_at_its_end() {
        let linear = scale(0.0, 4.0, false);
        assert_eq!(
            [-1.0, 0.0, 1.0, 4.0, 9.0].map(|v| linear.at(v)),
            [100.0, 100.0, 75.0, 0.0, 0.0]
        );
        let log = scale(1.0, 100.0, true);
        assert_eq!([0.0, 1.0, 10.0, 100.0].map(|v| log.at(v)), [100.0, 100.0, 50.0, 0.0]);
    }

    #[test]
    fn texts_cannot_become_markup() {
        let mut drawing = Drawing::new((10.0, 10.0), "\"><script>");
        drawing.text((0.0, 0.0), "", "a<b & c");
        drawing.line((0.0, 0.0), (1.0, 1.0), GRID, "</title>");
        let svg = drawing.finish();
        assert!(!svg.contains("<script>") && !svg.contains("<b") && !svg.contains("></title></"));
        assert!(svg.contains("a&lt;b &amp; c"));
    }
}
