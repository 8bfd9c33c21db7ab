//! Time until all replicas are the same again, after a node was dead, a partition, and a lost disk,
//! by amount of data: in virtual time what the protocols take, without disks and processors; on
//! real daemons with them.

use pixii_core::types::Micros;
use pixii_sim::cluster::Setup;

use super::Step;
use super::driver::{Driver, Loops};
use super::report::Report;
use super::site::Site;
use crate::plot::{Axis, Figure, Line, Style};

const NAME: &str = "recovery";
const NODES: usize = 5;
const N: u8 = 3;
const W: u8 = 2;
/// The node that something befalls.
const VICTIM: usize = 4;
/// Mean delay of a message.
const WAYS: &str = "* -> * delay exponential 1ms";
/// Between the two sides.
const CUT: &str =
    "n1 <-> n3 cut; n1 <-> n4 cut; n1 <-> n5 cut; n2 <-> n3 cut; n2 <-> n4 cut; n2 <-> n5 cut";
/// Puts at a time.
const WINDOW: u64 = 50;
/// Everybody believes by then that who is away is down.
const NOTICE: Micros = Micros::from_millis(10_000);
/// Real daemons tell when they found each other equal, so that they look often.
const INTERVAL: Micros = Micros::from_millis(1_000);
/// Keys; the last amount only in a full run, and the last two on real daemons.
const AMOUNTS: [u64; 4] = [1_000, 3_000, 10_000, 30_000];
const FULL: u64 = 1_000;
const CASES: [&str; 3] = ["dead while all is put", "cut 2|3 while all is put", "a disk lost"];

fn amounts(is_real: bool, samples: u64) -> &'static [u64] {
    let left_out = if is_real { 2 } else { 1 };
    if samples < FULL { &AMOUNTS[..AMOUNTS.len() - left_out] } else { &AMOUNTS }
}

/// How many points a run with so many samples has.
pub(crate) fn points(is_real: bool, samples: u64) -> usize {
    amounts(is_real, samples).len() * CASES.len()
}

/// Runs all cases; `step` is called after each.
pub(crate) fn run(site: Site<'_>, report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let head = ["case", "keys", "seconds", "bytes_between_nodes"];
    let mut table = report.table(NAME, &head)?;
    let mut lines = Vec::new();
    let amounts = amounts(site.is_real(), report.samples);
    report.samples = 1;
    for (colour, case) in CASES.into_iter().enumerate() {
        let mut points = Vec::new();
        for keys in amounts {
            let seed = report.seed ^ keys << 8 ^ colour as u64;
            let (took, bytes) = recover(site, colour, *keys, seed)?;
            let seconds = took.as_f64() / 1e6;
            table.row(&[case.into(), keys.to_string(), format!("{seconds:.3}"), bytes.to_string()]);
            points.push((*keys as f64 / 1e3, seconds, 0.0));
            step()?;
        }
        lines.push(Line { name: case.into(), points, style: Style::Measured, colour });
    }
    let reported = match site {
        Site::Virtual => "Disks and processors take no time.",
        Site::Real(_) => "The start of a process, disks and processors take their time too.",
    };
    report.figure(Figure {
        name: NAME.into(),
        title: "Time until all replicas are the same, N=3 on 5 nodes".into(),
        caption: format!(
            "From the return of the node, the end of the partition, or the start with an empty \
             disk, with no command given. Values of \
             100 bytes, 1 ms a message on average; replicas compare every second. {reported}"
        ),
        x: "keys (thousands)".into(),
        y: "seconds".into(),
        axis: Axis::Numbers,
        is_log: false,
        lines,
    })?;
    report.note(NAME, "The study had no repair: what a failed process missed was lost to it.");
    report.show(table)
}

/// How long it took, and the bytes that nodes sent each other meanwhile.
fn recover(site: Site<'_>, case: usize, keys: u64, seed: u64) -> Result<(Micros, u64), String> {
    let setup = Setup { repair_interval: INTERVAL, ..Setup::new(NODES, N, seed) };
    let mut driver = site.found(&setup)?;
    driver.emulate(WAYS)?;
    match case {
        0 => driver.kill(VICTIM)?,
        1 => {
            driver.emulate(&format!("{WAYS}; {CUT}"))?;
            driver.wait(NOTICE)?;
        }
        _ => {}
    }
    fill(&mut *driver, keys, seed)?;
    if case == 2 {
        driver.kill(VICTIM)?;
    }
    let before: u64 = driver.sent()?.values().sum();
    match case {
        1 => driver.emulate(WAYS)?,
        _ => driver.restart(VICTIM, case == 2)?,
    }
    let took = driver.converge()?;
    let sent = driver.sent()?.values().sum::<u64>().saturating_sub(before);
    driver.stop()?;
    Ok((took, sent))
}

/// Puts so many keys.
fn fill(driver: &mut dyn Driver, keys: u64, seed: u64) -> Result<(), String> {
    let (requests, reads_of_ten) = (keys / WINDOW, 0);
    let loops = Loops { r: 1, w: W, clients: WINDOW, requests, warm_up: 0, reads_of_ten, seed };
    match driver.run(&loops)?.why {
        Some(why) => Err(format!("a put was not acknowledged: {why}")),
        None => Ok(()),
    }
}
