//! A drill's report as a page: what clients got over time, drawn, with what happened marked.

use std::fmt::Write as _;

use pixii_kit::text::html;

use super::report::{Report, Stretch};
use super::timeline::{EventKind, Phase};
use crate::plot::svg::{Drawing, Scale, short};

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

const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
    svg{max-width:100%}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:2px 10px;\
    text-align:left}\
td.n{text-align:right}.bad{color:#b00}";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let (name, ending) = (report.drill.name, report.ending);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>pixii drill \
         {name}</title>\n<style>{STYLE}</style>\n\
         <h1>pixii drill {name}</h1>\n<p>{}.</p>\n",
        html(report.drill.proves)
    );
    let verdict = if ending.complaints.is_empty() { "Passed" } else { "Failed" };
    let _ =
        writeln!(page, "<p><b>{verdict}</b>, seed {}. {}</p>", report.seed, html(&ending.summary));
    for line in &ending.complaints {
        let _ = writeln!(page, "<p class=\"bad\">{}</p>", html(line));
    }
    for line in [report.ledger_reported(), report.recovery_reported()].into_iter().flatten() {
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
    let x = Scale { values: (first, last), pixels: (LEFT, WIDTH - RIGHT), is_log: false };
    let about = "requests per second and their latency over time";
    let mut drawing = Drawing::new((WIDTH, HEIGHT), about);
    shades(&mut drawing, report, &x);
    rates(&mut drawing, report, &x);
    times(&mut drawing, report, &x);
    marks(&mut drawing, report, &x);
    for tick in x.ticks(16) {
        let at = (x.at(tick), TOPS[1] + PANEL + 16.0);
        drawing.text(at, "text-anchor=\"middle\"", &format!("{} s", short(tick)));
    }
    drawing.finish()
}

/// The time of the fault, shaded.
fn shades(drawing: &mut Drawing, report: &Report, x: &Scale) {
    let ends = report.reported.phases.iter().skip(1).map(|(from, _)| *from);
    let spans = report.reported.phases.iter().zip(ends.chain([report.reported.ended]));
    for ((from, phase), to) in spans.filter(|((_, phase), _)| *phase == Some(Phase::During)) {
        let (left, right) = (x.at(from.as_secs_f64()), x.at(to.as_secs_f64()));
        let name = phase.map_or("", Phase::name);
        for top in TOPS {
            drawing.rect((left, top), (right - left, PANEL), "fill=\"#fdf0e0\"", name);
        }
    }
}

/// A panel's y axis, labelled.
fn panel(drawing: &mut Drawing, top: f64, title: &str, scale: (f64, f64), is_log: bool) -> Scale {
    let y = Scale { values: scale, pixels: (top + PANEL, top), is_log };
    drawing.text((LEFT, top - 6.0), "font-weight=\"bold\"", title);
    drawing.rows(&y, (LEFT, WIDTH - RIGHT), 5);
    y
}

/// Requests done per second, and below them those that failed.
fn rates(drawing: &mut Drawing, report: &Report, x: &Scale) {
    let failed = |of: &Stretch| (of.refused + of.unknown) as f64 / of.seconds.max(1e-9);
    let most = report.intervals.iter().map(|(_, of)| of.rate().max(failed(of))).fold(1.0, f64::max);
    let y = panel(drawing, TOPS[0], "requests per second", (0.0, most * 1.05), false);
    let mut points = Vec::new();
    for (from, of) in &report.intervals {
        let (left, right) = (x.at(*from), x.at(from + of.seconds));
        points.extend([(left, y.at(of.rate())), (right, y.at(of.rate()))]);
        if failed(of) > 0.0 {
            // High enough to be seen.
            let top = y.at(failed(of)).min(y.at(0.0) - 2.0);
            let size = ((right - left).max(1.5), y.at(0.0) - top);
            let tip = format!("{:.0} failed per second", failed(of));
            drawing.rect((left, top), size, "fill=\"#c22\"", &tip);
        }
    }
    drawing.path(&points, "stroke=\"#1565a0\" stroke-width=\"1.5\"", "done");
}

/// p50 and p99 over time; each decade has the same height.
fn times(drawing: &mut Drawing, report: &Report, x: &Scale) {
    let all = || report.intervals.iter().filter(|(_, of)| of.done > 0);
    let ms = |us: u32| f64::from(us.max(1)) / 1e3;
    let low = all().map(|(_, of)| ms(of.p50_us)).fold(f64::MAX, f64::min).log10().floor() as i32;
    let high = all().map(|(_, of)| ms(of.p99_us)).fold(0.0, f64::max).log10().ceil() as i32;
    let ends = [low.min(*DECADES.start()), high.max(*DECADES.end())].map(|of| 10f64.powi(of));
    let y = panel(drawing, TOPS[1], "latency in ms", (ends[0], ends[1]), true);
    for (at, name, colour, of) in [
        (220.0, "p99", "#a0430a", (|of| of.p99_us) as fn(&Stretch) -> u32),
        (260.0, "p50", "#2e7d32", |of| of.p50_us),
    ] {
        let point = |(from, stretch): &(f64, Stretch)| {
            (x.at(from + stretch.seconds / 2.0), y.at(ms(of(stretch))))
        };
        let stroke = format!("stroke=\"{colour}\" stroke-width=\"1.5\"");
        // Where nothing was done there is no time, and no line.
        for stretch in report.intervals.split(|(_, of)| of.done == 0) {
            let points: Vec<_> = stretch.iter().map(point).collect();
            drawing.path(&points, &stroke, name);
        }
        drawing.text((at, TOPS[1] - 6.0), &format!("fill=\"{colour}\""), name);
    }
}

/// A line for each event, with its number in the table below.
fn marks(drawing: &mut Drawing, report: &Report, x: &Scale) {
    let events = &report.reported.events;
    let mut free = LEFT;
    let drawn = |at: f64| (x.values.0..=x.values.1).contains(&at);
    for (number, event) in (1..).zip(events).filter(|(_, event)| drawn(event.at.as_secs_f64())) {
        let at = x.at(event.at.as_secs_f64());
        let colour = colour(event.mark);
        let stroke = format!("stroke=\"{colour}\" stroke-dasharray=\"3 3\"");
        drawing.line((at, TOPS[0]), (at, TOPS[1] + PANEL), &stroke, &event.what);
        if events.len() <= MAX_NUMBERED {
            // Numbers of events that are close stand beside each other.
            let at = at.max(free);
            free = at + 18.0;
            let centred = format!("text-anchor=\"middle\" fill=\"{colour}\"");
            drawing.text((at, 14.0), &centred, &format!("{number}"));
        }
    }
}

fn colour(mark: EventKind) -> &'static str {
    match mark {
        EventKind::Fault => "#c22",
        EventKind::Heal => "#7b3fa0",
        EventKind::Recovered => "#2e7d32",
        EventKind::Step => "#777",
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
        "<table><tr><th></th><th>length</th><th>done</th><th>per second</th><th>p50 \
         ms</th><th>p99 ms</th>\
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
        "<table><tr><th>times</th><th>what clients were reported</th><th>the first of \
         them</th></tr>\n{rows}</table>\n"
    )
}

fn events(report: &Report) -> String {
    let mut rows = String::new();
    for (number, event) in (1..).zip(&report.reported.events) {
        let _ = writeln!(
            rows,
            "<tr><td class=\"n\">{number}</td><td class=\"n\">{:.2} s</td><td \
             style=\"color:{}\">{}</td><td>{}</td></tr>",
            event.at.as_secs_f64(),
            colour(event.mark),
            event.mark.name(),
            html(&event.what)
        );
    }
    format!("<table><tr><th></th><th>at</th><th></th><th>what happened</th></tr>\n{rows}</table>\n")
}
