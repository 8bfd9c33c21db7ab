//! OpenMetrics text 1.0: families of samples, each introduced by what it is.

use std::fmt::{Display, Write};

/// How a scraper is notified that the text is OpenMetrics.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The same of the text of Prometheus.
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics text as the older text of Prometheus, with the same samples. There, a family has the
/// name of its samples, and neither units nor the kinds `info` and `stateset`.
pub(super) fn prometheus(openmetrics: &str) -> String {
    let mut text = String::new();
    let mut suffix = "";
    for line in openmetrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                let (shown, of) = match kind {
                    "info" => ("gauge", "_info"),
                    "counter" => ("counter", "_total"),
                    "stateset" => ("gauge", ""),
                    "unknown" => ("untyped", ""),
                    kind => (kind, ""),
                };
                suffix = of;
                let _ = writeln!(text, "# TYPE {name}{suffix} {shown}");
            }
            ["#", "HELP", name, help] => {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            ["#", ..] => {}
            _ => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

/// The labels of a sample, in order.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Counts of what was seen, by size.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last one is for what exceeds all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Nothing was seen yet. `bounds` ascend; each is the largest that its bucket takes.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// This was seen.
    pub(super) fn observe(&mut self, size: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < size);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += size;
    }

    /// How many were seen, and their sum.
    pub(super) fn totals(&self) -> (u64, f64) {
        (self.counts.iter().sum(), self.sum)
    }
}

/// The text under construction.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// From now on, samples are of this family. A name ends with its unit, if that is given; `help`
    /// is one sentence.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        self.line(format_args!("# TYPE {name} {kind}"));
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)) {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.line(format_args!("# HELP {name} {help}"));
    }

    /// A number of the family at hand; `suffix` is what its kind adds to the name.
    pub(super) fn sample(&mut self, suffix: &str, labels: &Labels, value: impl Display) {
        let family = self.family;
        let labels = shown(labels);
        self.line(format_args!("{family}{suffix}{labels} {value}"));
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample("", &Vec::new(), value);
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample("_total", &Vec::new(), value);
    }

    /// The samples of a histogram of the family at hand.
    pub(super) fn histogram(&mut self, labels: &Labels, histogram: &Histogram) {
        let mut below = 0;
        let bounds = histogram.bounds.iter().map(|bound| format!("{bound:?}"));
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&histogram.counts) {
            below += count;
            let labels = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample("_bucket", &labels, below);
        }
        let (count, sum) = histogram.totals();
        self.sample("_count", labels, count);
        self.sample("_sum", labels, sum);
    }

    /// The whole text.
    pub(super) fn end(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        // Writing into a string does not fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }
}

fn shown(labels: &Labels) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escape =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_introduced_and_labels_escaped() {
        let mut page = Page::default();
        page.gauge("a_bytes", "Bytes.", 7);
        page.family("b_seconds", "histogram", "Times.");
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        [0.5, 0.75, 2.0].into_iter().for_each(|size| histogram.observe(size));
        page.histogram(&vec![("who", "a\\\"\nb")], &histogram);
        page.counter("c", "Counts.", 3);
        let expected = r#"# TYPE a_bytes gauge
# UNIT a_bytes bytes
# HELP a_bytes Bytes.
a_bytes 7
# TYPE b_seconds histogram
# UNIT b_seconds seconds
# HELP b_seconds Times.
b_seconds_bucket{who="a\\\"\nb",le="0.5"} 1
b_seconds_bucket{who="a\\\"\nb",le="1.0"} 2
b_seconds_bucket{who="a\\\"\nb",le="+Inf"} 3
b_seconds_count{who="a\\\"\nb"} 3
b_seconds_sum{who="a\\\"\nb"} 3.25
# TYPE c counter
# HELP c Counts.
c_total 3
# EOF
"#;
        assert_eq!(page.end(), expected);
    }

    #[test]
    fn prometheus_has_no_units_and_names_families_by_their_samples() {
        let mut page = Page::default();
        page.family("build", "info", "The program.");
        page.sample("_info", &vec![("version", "1 # 2")], 1);
        page.gauge("a_bytes", "Bytes.", 7);
        page.counter("c", "Counts.", 3);
        let expected = r#"# TYPE build_info gauge
# HELP build_info The program.
build_info{version="1 # 2"} 1
# TYPE a_bytes gauge
# HELP a_bytes Bytes.
a_bytes 7
# TYPE c_total counter
# HELP c_total Counts.
c_total 3
"#;
        assert_eq!(prometheus(&page.end()), expected);
    }
}
