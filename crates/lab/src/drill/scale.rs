//! A cluster grows and shrinks under an open loop at half the rate that three daemons sustained: 3,
//! 5, 8, 4 and 3 members. Nobody is refused, and nothing is lost.

use std::time::Duration;

use pixii_client::Client;
use pixii_core::message::Staged;
use serde_json::{Value, json};

use super::testbed::{N, PARTITIONS, Testbed, await_equal, reported_of_differing};
use super::timeline::{EventKind, Phase};
use super::{Ending, Plan, Print, Score};
use crate::workload::arrivals::Arrivals;
use crate::workload::choice::{Choice, Sizes};
use crate::workload::{Load, Mix, Report, Spec};

/// Members at the beginning, and after each change.
const SIZES: [usize; 5] = [3, 5, 8, 4, 3];
const VALUE_BYTES: usize = 1_000;
/// Clients of the load that measures what three daemons sustain.
const CLIENTS: usize = 64;
/// Most requests in flight in the open loop.
const IN_FLIGHT: usize = 1_000;
const SUSTAINED: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_secs(1);
/// Maximum time for a change to come to its end.
const WAIT: Duration = Duration::from_secs(300);

/// What clients saw while the members changed, and while they did not.
#[derive(Default)]
struct Seen {
    during: Report,
    calm: Report,
    /// p99 of each change, and of the calm behind it, in microseconds.
    p99: Vec<(u64, u64)>,
    /// How long each change took, in seconds.
    took: Vec<f64>,
}

/// Runs of: three daemons, four changes, verification. The error says why the drill could not go
/// on.
pub(crate) async fn run(plan: &Plan, strict: bool, print: Print<'_>) -> Result<Ending, String> {
    let (mut score, mut all, mut differ) = (Score::default(), Vec::new(), 0);
    for round in 1..=plan.rounds {
        let of_round = Plan {
            dir: plan.dir.join(format!("run-{round}")),
            seed: plan.seed.wrapping_add(round),
            ..plan.clone()
        };
        let (of_this, seen, differs) = once(&of_round, strict, print).await?;
        differ += differs;
        score = add(score, of_this);
        all.push(seen);
    }
    Ok(ending(score, &all, strict, differ))
}

/// One run.
async fn once(plan: &Plan, strict: bool, print: Print<'_>) -> Result<(Score, Seen, usize), String> {
    let mut testbed = Testbed::prepare(plan, SIZES[0])?;
    if strict {
        testbed.cluster.configure("strict = true")?;
    }
    let names = testbed.names();
    if testbed.open(&names).await?.is_none() {
        return Err(testbed.score.notes.join("; "));
    }
    let client = testbed.client().await?;
    testbed.fill(&client, plan.keys, Sizes::fixed(VALUE_BYTES)).await?;
    let rate = sustained(&mut testbed, &client, plan).await? / 2.0;
    print(&format!(
        "{} daemons hold {} keys; {rate:.0} requests a second from here on; seed {}",
        names.len(),
        plan.keys,
        plan.seed
    ))?;
    let (mut seen, mut number) = (Seen::default(), names.len());
    for pair in SIZES.windows(2) {
        let [from, to] = [pair[0], pair[1]];
        let load = open_loop(&mut testbed, plan, rate, None).await?;
        testbed.enter(Phase::During);
        let begun = std::time::Instant::now();
        match to > from {
            true => grow(&mut testbed, to - from, &mut number).await?,
            false => shrink(&mut testbed, from - to).await?,
        }
        let took = begun.elapsed().as_secs_f64();
        let during = load.stop().await?;
        testbed.enter(Phase::After);
        let calm = open_loop(&mut testbed, plan, rate, Some(plan.length)).await?.finish().await?;
        testbed.enter(None);
        let p99 = (during.quantile(0.99), calm.quantile(0.99));
        print(&format!(
            "{from} -> {to} members in {took:.1} s: p99 {:.1} ms, and {:.1} ms in the calm after",
            p99.0 as f64 / 1e3,
            p99.1 as f64 / 1e3
        ))?;
        seen.p99.push(p99);
        seen.took.push(took);
        seen.during.add(during);
        seen.calm.add(calm);
    }
    testbed.note_ended();
    testbed.await_no_hints(WAIT).await?;
    let names = testbed.names();
    await_equal(&testbed.client().await?, &names, WAIT).await?;
    testbed.cluster.stop_all()?;
    let (_, differ) = testbed.compare()?;
    testbed.open(&names).await?;
    let judged = testbed.judge(&testbed.client().await?, false).await?;
    testbed.cluster.stop_all()?;
    print(&judged)?;
    Ok((testbed.score, seen, differ))
}

/// Requests a second that the daemons carry out for clients that wait for each answer.
async fn sustained(testbed: &mut Testbed, client: &Client, plan: &Plan) -> Result<f64, String> {
    let spec = of(testbed, plan);
    let spec = Spec { clients: CLIENTS, duration: Some(SUSTAINED), warm_up: WARM_UP, ..spec };
    let report = Load::start(client, spec, Some(&testbed.ledger)).finish().await?;
    let done: u64 = report.kinds.values().map(crate::workload::Totals::done).sum();
    Ok(done as f64 / SUSTAINED.as_secs_f64())
}

fn of(testbed: &mut Testbed, plan: &Plan) -> Spec {
    let mix = Mix { get: 0.5, put: 0.5, ..Mix::default() };
    let spec = testbed.spec(plan.keys, Choice::Uniform, Sizes::fixed(VALUE_BYTES));
    Spec { mix, ..spec }
}

async fn open_loop(
    testbed: &mut Testbed,
    plan: &Plan,
    rate: f64,
    duration: Option<Duration>,
) -> Result<Load, String> {
    let arrivals = Some(Arrivals { rate, is_random: true, burst: None });
    let spec = Spec { clients: IN_FLIGHT, arrivals, duration, ..of(testbed, plan) };
    Ok(testbed.load(&testbed.client().await?, spec))
}

/// So many daemons join, by one plan.
async fn grow(testbed: &mut Testbed, more: usize, number: &mut usize) -> Result<(), String> {
    let (at, version) = (testbed.names()[0].clone(), testbed.ring.version());
    let mut staged = Vec::new();
    for _ in 0..more {
        *number += 1;
        staged.push(testbed.newcomer(&format!("n{number}")).await?);
    }
    testbed.timeline.note(EventKind::Step, &format!("{more} join"));
    testbed.begin_change(&at, &staged).await?;
    testbed.await_settled(&testbed.names(), version, WAIT).await
}

/// So many members leave, by one plan; they are chosen at random.
async fn shrink(testbed: &mut Testbed, fewer: usize) -> Result<(), String> {
    let version = testbed.ring.version();
    let (mut stay, mut leave) = (testbed.names(), Vec::new());
    for _ in 0..fewer {
        let at = testbed.rng.below(stay.len() as u64) as usize;
        leave.push(stay.remove(at));
    }
    let staged: Vec<Staged> =
        leave.iter().map(|name| Staged::Leave { name: name.clone() }).collect();
    testbed.timeline.note(EventKind::Step, &format!("{} leave", leave.join(", ")));
    testbed.begin_change(&stay[0], &staged).await?;
    testbed.await_settled(&stay, version, WAIT).await?;
    for name in leave {
        testbed.await_left(&name).await?;
    }
    Ok(())
}

fn add(one: Score, other: Score) -> Score {
    let mut sum = other.clone();
    sum.rounds = one.rounds + 1;
    sum.counts.issued += one.counts.issued;
    sum.counts.acknowledged += one.counts.acknowledged;
    sum.counts.refused += one.counts.refused;
    sum.counts.unknown += one.counts.unknown;
    sum.verified += one.verified;
    sum.unread += one.unread;
    sum.lost += one.lost;
    sum.faults += one.faults;
    sum.shut += one.shut;
    sum.findings = one.findings.into_iter().chain(other.findings).collect();
    sum.notes = one.notes.into_iter().chain(other.notes).collect();
    sum
}

fn ending(score: Score, all: &[Seen], strict: bool, differ: usize) -> Ending {
    let mut complaints = if score.is_clean() { Vec::new() } else { score.complaints() };
    complaints.extend(reported_of_differing(differ));
    let (mut refused, mut unknown, mut absent) = (0, 0, 0);
    for report in all.iter().flat_map(|seen| [&seen.during, &seen.calm]) {
        refused += report.kinds.values().map(|totals| totals.refused).sum::<u64>();
        unknown += report.kinds.values().map(|totals| totals.unknown).sum::<u64>();
        absent += report.absent();
        for (kind, totals) in &report.kinds {
            let why = totals.reasons.iter().next();
            complaints.extend(
                why.filter(|_| !strict)
                    .map(|(why, times)| format!("{} {}: {why}", times, kind.name())),
            );
        }
    }
    if refused + unknown > 0 && !strict {
        complaints.push(format!("{refused} requests were refused, and {unknown} are unknown"));
    }
    if absent > 0 {
        complaints.push(format!("{absent} reads of keys that have a value showed none"));
    }
    let steps: Vec<Value> = (0..SIZES.len() - 1)
        .map(|step| {
            let middle = |pick: &dyn Fn(&Seen) -> f64| {
                let mut values: Vec<f64> = all.iter().map(pick).collect();
                values.sort_by(f64::total_cmp);
                values.get(values.len() / 2).copied().unwrap_or_default()
            };
            json!({
                "from": SIZES[step], "to": SIZES[step + 1],
                "took_s": middle(&|seen| seen.took[step]),
                "p99_us_during": middle(&|seen| seen.p99[step].0 as f64),
                "p99_us_calm": middle(&|seen| seen.p99[step].1 as f64),
            })
        })
        .collect();
    let text = |step: &Value| {
        let ms = |name: &str| step[name].as_f64().unwrap_or_default() / 1e3;
        let (during, calm) = (ms("p99_us_during"), ms("p99_us_calm"));
        format!("{} -> {}: {during:.1} and {calm:.1} ms", step["from"], step["to"])
    };
    let p99: Vec<String> = steps.iter().map(text).collect();
    let summary = format!(
        "{} runs: {refused} requests refused or failed, {unknown} unknown, {absent} false absents, \
         {} of {} acknowledged writes lost, {differ} of {} partitions differ\np99 while the \
         members change and in the calm behind it, medians of the runs: {}",
        score.rounds,
        score.lost,
        score.counts.acknowledged,
        u64::from(PARTITIONS) * score.rounds,
        p99.join("; ")
    );
    let figures = json!({
        "strict": strict, "refused": refused, "unknown": unknown, "absent": absent,
        "lost": score.lost, "acknowledged": score.counts.acknowledged,
        "partitions_differ": differ, "steps": steps,
    });
    Ending { summary, complaints, figures }
}

const _: () = assert!(SIZES[0] >= N as usize);
