//! Time until all replicas are the same again, after a node was dead, a partition, and a lost disk, by amount of data; in virtual
//! time, so that it is what the protocols take, without disks and processors.

use pixii::message::Response;
use pixii::sim::cluster::Setup;
use pixii::types::{Key, MILLI, Micros};

use super::Step;
use super::driver::{Simulated, TIMEOUT_MS};
use super::report::{Report, Table};
use crate::lab::plot::{Figure, Line};

const NODES: usize = 5;
const N: u8 = 3;
const W: u8 = 2;
/// The node that something befalls, or one side of the partition begins with.
const VICTIM: usize = 4;
/// Mean delay of a message.
const WAYS: &str = "* -> * delay exponential 1ms";
/// Between the two sides.
const CUT: &str =
    "n1 <-> n3 cut; n1 <-> n4 cut; n1 <-> n5 cut; n2 <-> n3 cut; n2 <-> n4 cut; n2 <-> n5 cut";
/// Puts at a time.
const WINDOW: u64 = 64;
/// Everybody believes by then that who is away is down.
const NOTICE: Micros = 10_000 * MILLI;
/// How exactly the end is told, and when it is given up.
const LOOK: Micros = 20 * MILLI;
const PATIENCE: Micros = 600_000 * MILLI;
/// Keys; the last amount only in a full run.
const AMOUNTS: [u64; 4] = [1_000, 3_000, 10_000, 30_000];
const FULL: u64 = 1_000;
const CASES: [&str; 3] = ["dead while all is put", "cut 2|3 while all is put", "a disk lost"];

fn amounts(samples: u64) -> &'static [u64] {
    if samples < FULL { &AMOUNTS[..AMOUNTS.len() - 1] } else { &AMOUNTS }
}

/// How many points a run with so many samples has.
pub(crate) fn points(samples: u64) -> usize {
    amounts(samples).len() * CASES.len()
}

/// Runs all cases; `step` is called after each.
pub(crate) fn run(report: &mut Report, step: Step<'_>) -> Result<(), String> {
    let name = "recovery";
    let mut table = Table::new(name, &["case", "keys", "seconds", "bytes_between_nodes"]);
    let mut lines = Vec::new();
    let amounts = amounts(report.samples);
    report.samples = 1;
    for (colour, case) in CASES.into_iter().enumerate() {
        let mut points = Vec::new();
        for keys in amounts {
            let (took, bytes) = recover(colour, *keys, report.seed ^ keys << 8 ^ colour as u64)?;
            let seconds = took as f64 / 1e6;
            table.row(&[case.into(), keys.to_string(), format!("{seconds:.3}"), bytes.to_string()]);
            points.push((*keys as f64 / 1e3, seconds, 0.0));
            step()?;
        }
        lines.push(Line { name: case.into(), points, is_beside: false, colour });
    }
    report.figure(Figure {
        name: name.into(),
        title: "Time until all replicas are the same, N=3 on 5 nodes".into(),
        caption: "From the return of the node, the end of the partition, or the start with an empty disk, with no command given. Values \
                  of 100 bytes, 1 ms a message on average; disks and processors take no time."
            .into(),
        x: "keys (thousands)".into(),
        y: "seconds of virtual time".into(),
        is_log: false,
        lines,
    })?;
    report.note(name, "The study had no repair: what a failed process missed was lost to it.");
    report.table(table)
}

/// How long it took, and the bytes that nodes sent each other meanwhile.
fn recover(case: usize, keys: u64, seed: u64) -> Result<(Micros, u64), String> {
    let mut simulated = Simulated::found(&Setup::new(NODES, N, seed))?;
    simulated.cluster.emulate(WAYS)?;
    let wait = |simulated: &mut Simulated, time: Micros| {
        let end = simulated.cluster.now() + time;
        simulated.cluster.run_to(end);
    };
    match case {
        0 => simulated.cluster.kill(VICTIM),
        1 => simulated.cluster.emulate(&format!("{WAYS}; {CUT}"))?,
        _ => {}
    }
    wait(&mut simulated, NOTICE);
    let all: Vec<Key> = (0..keys)
        .filter_map(|number| Key::new(format!("recovery/{number:06}").into_bytes()).ok())
        .collect();
    fill(&mut simulated, &all, case)?;
    if case == 2 {
        wait(&mut simulated, NOTICE);
        simulated.cluster.kill(VICTIM);
        wait(&mut simulated, NOTICE);
    }
    let (begun, sent) = (simulated.cluster.now(), simulated.cluster.bytes());
    match case {
        1 => simulated.cluster.emulate(WAYS)?,
        _ => simulated.cluster.restart(VICTIM, case == 2)?,
    }
    // Those that were found to be the same stay so: nothing is put any more.
    let mut left = all.iter().peekable();
    while left.peek().is_some() {
        while left.next_if(|key| simulated.cluster.is_same(key)).is_some() {}
        if simulated.cluster.now() > begun + PATIENCE {
            return Err(format!("{}: replicas still differ after {PATIENCE} us", CASES[case]));
        }
        if left.peek().is_some() {
            wait(&mut simulated, LOOK);
        }
    }
    Ok((simulated.cluster.now() - begun, simulated.cluster.bytes() - sent))
}

/// Puts all keys, each at the first of its homes that lives.
fn fill(simulated: &mut Simulated, keys: &[Key], case: usize) -> Result<(), String> {
    let (mut flying, mut keys) = (0, keys.iter());
    loop {
        while flying < WINDOW
            && let Some(key) = keys.next()
        {
            let homes = (0..usize::from(N)).map(|number| simulated.home(key, number));
            let dead = |home: &usize| case == 0 && *home == VICTIM;
            let home = homes.into_iter().find(|home| !dead(home)).unwrap_or(0);
            let request = simulated.put(key.clone(), W);
            simulated.cluster.ask(0, home, request, TIMEOUT_MS);
            flying += 1;
        }
        if flying == 0 {
            return Ok(());
        }
        match simulated.answer()?.1 {
            Response::Written { .. } => flying -= 1,
            other => return Err(format!("a put was not acknowledged: {other:?}")),
        }
    }
}
