//! A drill's report as a page: what clients got over time, drawn, with what happened marked.

use std::fmt::Write as _;

use pixii_kit::text::html;

use super::chronicle::{Mark, Phase};
use super::report::{Report, Stretch};

const WIDTH: f64 = 920.0;
/// Left of the plots, for the labels of their axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const PANEL: f64 = 170.0;
/// The top of each panel.
const TOPS: [f64; 2] = [34.0, 244.0];
const HEIGHT: f64 = 446.0;
/// Beyond so many, events are drawn without their numbers.
const MAX_NUMBERED: usize = 40;
/// Decades of the axis of times end at such powers of ten of a millisecond, at least.
const DECADES: std::ops::RangeInclusive<i32> = -1..=1;

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}svg{max-width:100%}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:2px 10px;text-align:left}\
td.n{text-align:right}.bad{color:#b00}";

/// The plots' x axis: seconds from the beginning of the drill.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn x(&self, at: f64) -> f64 {
        let share = (at - self.from) / (self.to - self.from).max(1e-9);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let (name, ending) = (report.drill.name, report.ending);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>pixii drill {name}</title>\n<style>{STYLE}</style>\n\
         <h1>pixii drill {name}</h1>\n<p>{}.</p>\n",
        html(report.drill.proves)
    );
    let verdict = if ending.complaints.is_empty() { "Passed" } else { "Failed" };
    let _ =
        writeln!(page, "<p><b>{verdict}</b>, seed {}. {}</p>", report.seed, html(&ending.summary));
    for line in &ending.complaints {
        let _ = writeln!(page, "<p class=\"bad\">{}</p>", html(line));
    }
    for line in [report.ledger_told(), report.recovery_told()].into_iter().flatten() {
        let _ = writeln!(page, "<p>{}.</p>", html(&line));
    }
    if !report.intervals.is_empty() {
        page += &drawn(report);
    }
    page += &phases(report);
    page += &failures(report);
    page += &events(report);
    page + "</html>\n"
}

fn drawn(report: &Report) -> String {
    let first = report.intervals.first().map_or(0.0, |(from, _)| *from);
    let last = report.intervals.last().map_or(1.0, |(from, of)| from + of.seconds);
    let axis = Axis { from: first, to: last };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\" \
         font-size=\"12\" role=\"img\" aria-label=\"requests per second and their latency over time\">\n"
    );
    svg += &shades(report, &axis);
    svg += &rates(report, &axis);
    svg += &times(report, &axis);
    svg += &marks(report, &axis);
    svg += &seconds(&axis);
    svg + "</svg>\n"
}

/// The time of the fault, shaded.
fn shades(report: &Report, axis: &Axis) -> String {
    let mut svg = String::new();
    let ends = report.told.phases.iter().skip(1).map(|(from, _)| *from);
    let spans = report.told.phases.iter().zip(ends.chain([report.told.ended]));
    for ((from, phase), to) in spans.filter(|((_, phase), _)| *phase == Some(Phase::During)) {
        let (left, right) = (axis.x(from.as_secs_f64()), axis.x(to.as_secs_f64()));
        let name = phase.map_or("", Phase::name);
        for top in TOPS {
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\" fill=\"#fdf0e0\"><title>{name}</title></rect>",
                right - left
            );
        }
    }
    svg
}

/// Requests done per second, and below them those that failed.
fn rates(report: &Report, axis: &Axis) -> String {
    let failed = |of: &Stretch| (of.refused + of.unknown) as f64 / of.seconds.max(1e-9);
    let most = report.intervals.iter().map(|(_, of)| of.rate().max(failed(of))).fold(1.0, f64::max);
    let y = |rate: f64| TOPS[0] + PANEL * (1.0 - rate / (most * 1.05));
    let mut svg =
        grid(TOPS[0], "requests per second", &[0.0, most / 2.0, most], &y, &|r| format!("{r:.0}"));
    let mut points = String::new();
    for (from, of) in &report.intervals {
        let (x, right) = (axis.x(*from), axis.x(from + of.seconds));
        let _ = write!(points, "{x:.1},{0:.1} {right:.1},{0:.1} ", y(of.rate()));
        if failed(of) > 0.0 {
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{0:.1}\" width=\"{1:.1}\" height=\"{2:.1}\" fill=\"#c22\"><title>{3:.0} failed per second</title></rect>",
                y(failed(of)).min(y(0.0) - 2.0),
                (right - x).max(1.5),
                (y(0.0) - y(failed(of))).max(2.0),
                failed(of)
            );
        }
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"#1565a0\" stroke-width=\"1.5\"/>"
    );
    svg
}

/// p50 and p99 over time; each decade has the same height.
fn times(report: &Report, axis: &Axis) -> String {
    let all = || report.intervals.iter().filter(|(_, of)| of.done > 0);
    let ms = |us: u32| f64::from(us.max(1)) / 1e3;
    let low = all().map(|(_, of)| ms(of.p50_us)).fold(f64::MAX, f64::min).log10().floor() as i32;
    let high = all().map(|(_, of)| ms(of.p99_us)).fold(0.0, f64::max).log10().ceil() as i32;
    let (low, high) = (low.min(*DECADES.start()), high.max(*DECADES.end()));
    let y = |ms: f64| TOPS[1] + PANEL * (f64::from(high) - ms.log10()) / f64::from(high - low);
    let labels: Vec<f64> = (low..=high).map(|power| 10f64.powi(power)).collect();
    let mut svg = grid(TOPS[1], "latency in ms", &labels, &y, &|ms| format!("{ms}"));
    for (name, colour, of) in [
        ("p99", "#a0430a", (|of| of.p99_us) as fn(&Stretch) -> u32),
        ("p50", "#2e7d32", |of| of.p50_us),
    ] {
        let point = |(from, stretch): &(f64, Stretch)| {
            format!("{:.1},{:.1} ", axis.x(from + stretch.seconds / 2.0), y(ms(of(stretch))))
        };
        // Where nothing was done there is no time, and no line.
        for stretch in report.intervals.split(|(_, of)| of.done == 0) {
            let points: String = stretch.iter().map(point).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"><title>{name}</title></polyline>"
            );
        }
    }
    let y = TOPS[1] - 6.0;
    for (at, name, colour) in [(220.0, "p99", "#a0430a"), (260.0, "p50", "#2e7d32")] {
        let _ = writeln!(svg, "<text x=\"{at}\" y=\"{y}\" fill=\"{colour}\">{name}</text>");
    }
    svg
}

fn grid(
    top: f64,
    title: &str,
    labels: &[f64],
    y: &dyn Fn(f64) -> f64,
    told: &dyn Fn(f64) -> String,
) -> String {
    let mut svg =
        format!("<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>\n", top - 6.0);
    for label in labels {
        let (at, right) = (y(*label), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            told(*label)
        );
    }
    svg
}

/// A line for each event, with its number in the table below.
fn marks(report: &Report, axis: &Axis) -> String {
    let events = &report.told.events;
    let mut svg = String::new();
    let mut free = LEFT;
    let drawn = |at: f64| (axis.from..=axis.to).contains(&at);
    for (number, event) in (1..).zip(events).filter(|(_, event)| drawn(event.at.as_secs_f64())) {
        let x = axis.x(event.at.as_secs_f64());
        let colour = colour(event.mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"{colour}\" stroke-dasharray=\"3 3\">\
             <title>{}</title></line>",
            TOPS[0],
            TOPS[1] + PANEL,
            html(&event.what)
        );
        if events.len() <= MAX_NUMBERED {
            // Numbers of events that are close stand beside each other.
            let at = x.max(free);
            free = at + 18.0;
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"14\" text-anchor=\"middle\" fill=\"{colour}\">{number}</text>"
            );
        }
    }
    svg
}

fn seconds(axis: &Axis) -> String {
    let length = axis.to - axis.from;
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
    let step = step.into_iter().find(|step| length / step <= 16.0).unwrap_or(1_800.0);
    let mut svg = String::new();
    let mut at = (axis.from / step).ceil() * step;
    while at <= axis.to {
        let (x, y) = (axis.x(at), TOPS[1] + PANEL + 16.0);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{at} s</text>");
        at += step;
    }
    svg
}

fn colour(mark: Mark) -> &'static str {
    match mark {
        Mark::Fault => "#c22",
        Mark::Heal => "#7b3fa0",
        Mark::Recovered => "#2e7d32",
        Mark::Step => "#777",
    }
}

fn phases(report: &Report) -> String {
    if report.phases.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for (phase, of) in &report.phases {
        let numbers = [
            format!("{:.1} s", of.seconds),
            of.done.to_string(),
            format!("{:.0}", of.rate()),
            format!("{:.2}", f64::from(of.p50_us) / 1e3),
            format!("{:.2}", f64::from(of.p99_us) / 1e3),
            of.refused.to_string(),
            of.unknown.to_string(),
        ];
        let cells: String =
            numbers.iter().map(|cell| format!("<td class=\"n\">{cell}</td>")).collect();
        let _ = writeln!(rows, "<tr><td>{}</td>{cells}</tr>", phase.name());
    }
    format!(
        "<table><tr><th></th><th>length</th><th>done</th><th>per second</th><th>p50 ms</th><th>p99 ms</th>\
         <th>refused</th><th>unknown</th></tr>\n{rows}</table>\n"
    )
}

fn failures(report: &Report) -> String {
    if report.whys.is_empty() {
        return "<p>No request failed.</p>\n".into();
    }
    let row = |why: &super::super::workload::trace::Why, kind: &str| {
        let first = html(&why.first);
        format!(
            "<tr><td class=\"n\">{}</td><td>{}</td><td>{first}</td></tr>\n",
            why.times,
            html(kind)
        )
    };
    let rows: String = report.whys.iter().map(|(kind, why)| row(why, kind)).collect();
    format!(
        "<table><tr><th>times</th><th>what clients were told</th><th>the first of them</th></tr>\n{rows}</table>\n"
    )
}

fn events(report: &Report) -> String {
    let mut rows = String::new();
    for (number, event) in (1..).zip(&report.told.events) {
        let _ = writeln!(
            rows,
            "<tr><td class=\"n\">{number}</td><td class=\"n\">{:.2} s</td><td style=\"color:{}\">{}</td><td>{}</td></tr>",
            event.at.as_secs_f64(),
            colour(event.mark),
            event.mark.name(),
            html(&event.what)
        );
    }
    format!("<table><tr><th></th><th>at</th><th></th><th>what happened</th></tr>\n{rows}</table>\n")
}
