//! The experiment with real failures, as it is told.

use super::super::signals::Interrupt;
use super::super::text::{row, table};
use super::super::{Shared, block_on, emit};
use crate::lab::experiment::failures::{self, Cell, MOST, Plan};
use crate::lab::experiment::report::{Report, Table};
use crate::lab::experiment::{Mean, Step};
use crate::lab::plot::{Figure, Line};

const NAME: &str = "failures";

/// Runs it, a line for each cell and a table at the end; samples, table and figure go to the report, also of a run that did not
/// come to its end.
pub(super) fn run(
    plan: &Plan,
    report: &mut Report,
    interrupt: &Interrupt,
    step: Step<'_>,
    shared: &Shared,
) -> Result<(), String> {
    let mut cells = Vec::new();
    let as_json = shared.json();
    let mut progress = |cell: &Cell| {
        let told = if as_json { Ok(()) } else { emit(format!("{}\n", line(cell))) };
        told.map_err(|trouble| trouble.message)?;
        step()
    };
    let ended = block_on(async {
        tokio::select! {
            ended = failures::run(plan, &mut cells, &mut progress) => Ok(ended),
            () = interrupt.wait() => Ok(Err("interrupted: the run is incomplete".to_owned())),
        }
    })
    .map_err(|trouble| trouble.message)?;
    if !as_json {
        emit(format!("\n{}", summary(&cells))).map_err(|trouble| trouble.message)?;
    }
    report.faults.extend(faults(&cells));
    write(&cells, plan, report)?;
    ended
}

/// Samples, table and figure.
fn write(cells: &[Cell], plan: &Plan, report: &mut Report) -> Result<(), String> {
    let head = [
        "r",
        "w",
        "failed",
        "reads",
        "mean_ms",
        "confidence_ms",
        "theory_ms",
        "ratio",
        "study_ms",
        "refused_share",
        "refused_by_the_ring",
    ];
    let mut told = Table::new(NAME, &head);
    for cell in cells {
        let (mean, ratio) = cell.ratio();
        for (kind, times) in [("get", &cell.reads), ("put", &cell.puts)] {
            let place = format!("{},{},{},{kind}", cell.r, cell.w, cell.failed);
            report.samples(NAME, "r,w,failed,kind", &place, times);
        }
        let all = (mean.count as u64 + cell.weak).max(1) as f64;
        told.row(&[
            cell.r.to_string(),
            cell.w.to_string(),
            cell.failed.to_string(),
            mean.count.to_string(),
            format!("{:.3}", mean.mean),
            format!("{:.3}", mean.half),
            format!("{:.3}", cell.theory),
            format!("{ratio:.3}"),
            cell.study.map_or(String::new(), |study| study.to_string()),
            format!("{:.4}", cell.refused as f64 / all),
            format!("{:.4}", cell.weak_share),
        ]);
    }
    report.table(told)?;
    if cells.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<Line> = Vec::new();
    for cell in cells {
        let (name, mean) = (format!("({},{})", cell.r, cell.w), cell.ratio().0);
        let point = (cell.failed as f64, mean.mean, mean.half);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => {
                let colour = lines.len();
                lines.push(Line { name, points: vec![point], is_beside: false, colour });
            }
        }
    }
    let beside = lines.clone().into_iter().map(|line| {
        let of = |cell: &&Cell| format!("({},{})", cell.r, cell.w) == line.name;
        let told = cells.iter().filter(of);
        let points = told.filter_map(|cell| Some((cell.failed as f64, cell.study?, 0.0))).collect();
        Line { name: format!("{}, study", line.name), points, is_beside: true, ..line }
    });
    let beside: Vec<Line> = beside.filter(|line| !line.points.is_empty()).collect();
    lines.extend(beside);
    report.note(
        NAME,
        "The study has no figures without failures, so what it shows at one and two failed is mostly R; here the lines are flat, as a \
         read asks live homes only. Reads of keys with fewer than R live homes are refused, and counted beside.",
    );
    report.figure(Figure {
        name: NAME.into(),
        title: "Reads with failed nodes, N=5 on 10 nodes (the study's figure 4)".into(),
        caption: format!(
            "Strict reads of keys with at least R live homes; a message takes {} ms on average; {} clients in closed loops.",
            plan.delay_ms, plan.clients
        ),
        x: "daemons killed".into(),
        y: "mean latency of a read (ms)".into(),
        is_log: false,
        lines,
    })
}

fn line(cell: &Cell) -> String {
    let (Mean { count, mean, half }, ratio) = cell.ratio();
    format!(
        "{} failed, (R,W) = ({},{}): {count} reads, {mean:.1} ms +- {half:.1}, theory {:.1}, ratio {ratio:.2}",
        cell.failed, cell.r, cell.w, cell.theory
    )
}

fn faults(cells: &[Cell]) -> Vec<String> {
    let mut faults = Vec::new();
    for cell in cells {
        let place = format!("{} failed, (R,W) = ({},{})", cell.failed, cell.r, cell.w);
        let (_, ratio) = cell.ratio();
        if ratio > MOST {
            faults.push(format!(
                "{place}: {ratio:.2} times what theory gives, and {MOST} is the limit"
            ));
        }
        if let Some(first) = cell.faults.first() {
            faults.push(format!(
                "{place}: {} requests failed, the first: {first}",
                cell.faults.len()
            ));
        }
        if cell.refused < cell.weak {
            let answered = cell.weak - cell.refused;
            faults.push(format!(
                "{place}: {answered} reads were answered by fewer than R live homes"
            ));
        }
    }
    faults
}

/// A row for each (R, W), the failed side by side.
fn summary(cells: &[Cell]) -> String {
    let mut rows = vec![row([
        "(R,W)",
        "failed",
        "mean ms",
        "theory",
        "ratio",
        "study",
        "put ms",
        "refused of all",
        "by the ring",
    ])];
    let mut sorted: Vec<&Cell> = cells.iter().collect();
    sorted.sort_by_key(|cell| (cell.r, cell.w, cell.failed));
    for cell in sorted {
        let (mean, ratio) = cell.ratio();
        let all = (mean.count as u64 + cell.weak).max(1) as f64;
        rows.push(row([
            &format!("({},{})", cell.r, cell.w),
            &cell.failed.to_string(),
            &format!("{:.1} +- {:.1}", mean.mean, mean.half),
            &format!("{:.1}", cell.theory),
            &format!("{ratio:.2}"),
            &cell.study.map_or("-".into(), |study| format!("{study:.0}")),
            &format!("{:.1}", Mean::of(&cell.puts).mean),
            &format!("{:.1} %", 100.0 * cell.refused as f64 / all),
            &format!("{:.1} %", 100.0 * cell.weak_share),
        ]));
    }
    table(&rows)
}
