//! What one seed decides before a run begins: the cluster, the network, the load, the faults.

use pixii_core::rng::Rng;
use pixii_core::types::{MILLI, Micros, ObjectLimits};
use serde::{Deserialize, Serialize};

/// A disk that hangs is noticed after this time: sooner than by a daemon, as all times of a run are
/// shorter.
pub(super) const NOTICED_AFTER: Micros = Micros::from_millis(300);

/// A fault and its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fault {
    /// kill -9: what was not synced may be gone. Up again after this long.
    Crash { host: usize, down: Micros },
    /// A stop as an operator does it. Up again after this long.
    CleanStop { host: usize, down: Micros },
    /// The node does nothing for a while; its links stay up.
    Pause { host: usize, length: Micros },
    /// The disk is nearly full for a while.
    Full { host: usize, length: Micros },
    /// The disk takes a hundred times as long for a while.
    Slow { host: usize, length: Micros },
    /// The disk answers nothing for a while, and fails nothing.
    Hang { host: usize, length: Micros },
    /// Nothing passes from one host to another for a while, or between the two.
    Cut { from: usize, to: usize, both: bool, length: Micros },
    /// The link between two hosts breaks and comes up again, so many times.
    Flap { host: usize, other: usize, times: u64, length: Micros },
    /// Nothing passes between the hosts whose bit is set and the others for a while.
    Partition { side: u64, length: Micros },
    /// A crash after which the disk is empty.
    LoseDisk { host: usize, down: Micros },
    /// A backup of the disk is made.
    BackUp { host: usize },
    /// A crash after which the disk is as it was at the last backup.
    RollBack { host: usize, down: Micros },
    /// A crash after which another host's disk is tried here, and then the own one again.
    CopyDisk { host: usize, from: usize, down: Micros },
    /// A bit flips in some record.
    Damage { host: usize },
    /// A crash after which a new store has the place of a damaged one, with what that still shows.
    LosePages { host: usize, down: Micros },
    /// A host dies for good, and a new one gets its places; after this long it starts again with
    /// what it had.
    Replace { host: usize, back: Micros },
    /// Every host loses its power at the same instant.
    PowerCut { down: Micros },
    /// Every host is stopped cleanly at the same instant, and started again.
    StopAll { down: Micros },
    /// A copy is made of every disk, as after a clean stop at this instant.
    CopyAll,
    /// Every host crashes, and every disk is as it was when the copies were made.
    RestoreAll { down: Micros },
}

impl Fault {
    /// True if it makes no disk forget anything, and no node forget whom it owes something. (A
    /// start compares all.)
    fn passes(&self) -> bool {
        matches!(
            self,
            Fault::Pause { .. }
                | Fault::Slow { .. }
                | Fault::Cut { .. }
                | Fault::Flap { .. }
                | Fault::Partition { .. }
        )
    }
}

/// One run's circumstances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) hosts: usize,
    pub(super) n: u8,
    pub(super) partitions: u16,
    pub(super) keys: u64,
    pub(super) clients: usize,
    pub(super) operations: u32,
    /// Shares of gets, puts with a context, puts without one; the rest are deletes.
    pub(super) mix: [f64; 3],
    pub(super) mean_delay: Micros,
    pub(super) drop: f64,
    pub(super) duplicate: f64,
    pub(super) mean_disk: Micros,
    pub(super) timeout_ms: u32,
    /// How long a client thinks between two requests, at most.
    #[serde(default = "brisk")]
    pub(super) think: Micros,
    /// Most bytes of hints that a host keeps.
    pub(super) hint_limit: u64,
    /// The age after which hints are offered to other owners, in milliseconds.
    pub(super) hint_age_ms: u64,
    /// Each host's clock: what it shows at the beginning, and how fast it runs in thousandths.
    pub(super) clocks: Vec<(Micros, u64)>,
    /// True if nothing is compared: failures pass, and hints alone bring every owner what was
    /// acknowledged.
    #[serde(default)]
    pub(super) hints_alone: bool,
    /// True if clients send a write to a second node soon, while the first one may yet carry it
    /// out.
    #[serde(default)]
    pub(super) hedges: bool,
    /// How many encoded bytes a client's write may make of an object, where that is scaled down so
    /// that merges and hints make objects beyond every limit; N times that, or twice, is the limit
    /// of merges.
    #[serde(default)]
    pub(super) object_limit: Option<usize>,
    pub(super) faults: Vec<(Micros, Fault)>,
}

/// How long a client thinks between two requests where it has no time to lose.
fn brisk() -> Micros {
    4 * MILLI
}

impl Scenario {
    /// Draws the circumstances of a run; the chances of faults are drawn too.
    pub(super) fn draw(seed: u64, operations: u32) -> Self {
        let rng = &mut Rng::new(seed);
        let hosts = 3 + rng.below(5) as usize;
        let n = if rng.chance(0.7) { 3 } else { 1 + rng.below(hosts.min(5) as u64) as u8 };
        let blind_seed = rng.chance(0.1);
        let mix = if blind_seed { [0.1, 0.05, 0.8] } else { [0.35, 0.35, 0.2] };
        let mean_delay = Micros(100) + rng.within(8 * MILLI);
        let clients = 3 + rng.below(6) as usize;
        // At leisure there is time for GC epochs to end, and for backups of the disk to grow old.
        let leisure = rng.chance(0.3);
        let think = if leisure { 100 * MILLI + rng.within(400 * MILLI) } else { brisk() };
        // The faults fall into the time that the load takes, more or less.
        let pace = mean_delay * 6 + 2 * MILLI + think / 2;
        let span = u64::from(operations) * pace / clients as u64;
        // A storm is many short faults: what is unsynced is lost again and again.
        let storm = rng.chance(0.1);
        let (faults, longest) =
            if storm { (20 + rng.below(40), 20 * MILLI) } else { (3 + rng.below(6), span / 3) };
        let mut faults: Vec<(Micros, Fault)> =
            (0..faults).map(|_| (rng.within(span), draw_fault(rng, hosts, longest))).collect();
        if leisure {
            let host = rng.below(hosts as u64) as usize;
            faults.push((rng.within(span / 3), Fault::BackUp { host }));
            let down = rng.within(longest) + MILLI;
            faults.push((span / 2 + rng.within(span / 2), Fault::RollBack { host, down }));
        }
        // Drawn apart, so that all else is the same with and without it.
        let others = &mut Rng::new(seed ^ 0x4e90);
        if others.chance(0.1) {
            let host = others.below(hosts as u64) as usize;
            let back = span / 4 + others.within(span) + 1_000 * MILLI;
            let when = others.within(span / 2);
            faults.push((when, Fault::Replace { host, back }));
            faults.extend(second_replacement(seed, hosts, host, back).map(|second| (when, second)));
        }
        let replaces = faults.iter().any(|(_, fault)| matches!(fault, Fault::Replace { .. }));
        faults.extend(whole_cluster(seed, span, replaces));
        faults.extend(lost_pages(seed, span, hosts).filter(|_| !replaces));
        faults.extend(hang(seed, hosts, span));
        faults.sort_by_key(|(at, _)| *at);
        let mut scenario = Scenario {
            seed,
            hosts,
            n,
            partitions: 8,
            keys: if blind_seed { 2 } else { 1 + rng.below(12) },
            clients,
            operations,
            mix,
            mean_delay,
            drop: if rng.chance(0.5) { rng.unit() * 0.08 } else { 0.0 },
            duplicate: if rng.chance(0.5) { rng.unit() * 0.08 } else { 0.0 },
            mean_disk: Micros(100) + rng.within(10 * MILLI),
            timeout_ms: 100 + rng.below(400) as u32,
            think,
            hint_limit: if rng.chance(0.1) { rng.below(2_000) } else { 1 << 20 },
            hint_age_ms: if rng.chance(0.3) { 1_000 + rng.below(2_000) } else { 3_600_000 },
            clocks: (0..hosts).map(|_| draw_clock(rng)).collect(),
            hints_alone: others.chance(0.1),
            hedges: others.chance(0.3),
            object_limit: None,
            faults,
        };
        if scenario.hints_alone {
            scenario.faults.retain(|(_, fault)| fault.passes());
            (scenario.drop, scenario.hint_limit) = (others.unit() * 0.3, 1 << 20);
        } else if others.chance(0.15) {
            scenario.object_limit = Some(150 + others.below(250) as usize);
            scenario.keys = scenario.keys.min(2);
            scenario.mix = [0.15, 0.05, 0.75];
            let host = others.below(hosts as u64) as usize;
            let down = others.within(longest.max(span / 4)) + MILLI;
            scenario.faults.push((others.within(span), Fault::CleanStop { host, down }));
            scenario.faults.sort_by_key(|(at, _)| *at);
        }
        scenario
    }

    /// The limits of the run's nodes.
    pub(super) fn object_limits(&self) -> ObjectLimits {
        let scaled =
            |accepted| ObjectLimits { accepted, merged: accepted * usize::from(self.n.max(2)) };
        self.object_limit.map_or(ObjectLimits::of(self.n), scaled)
    }

    /// Says what is wrong with a scenario that was not drawn.
    pub(super) fn check(&self) -> Result<(), String> {
        let hosts = |fault: &Fault| match *fault {
            Fault::PowerCut { .. }
            | Fault::StopAll { .. }
            | Fault::CopyAll
            | Fault::RestoreAll { .. }
            | Fault::Partition { .. } => vec![],
            Fault::Cut { from, to, .. } => vec![from, to],
            Fault::Flap { host, other, .. } => vec![host, other],
            Fault::CopyDisk { host, from, .. } => vec![host, from],
            Fault::Crash { host, .. }
            | Fault::CleanStop { host, .. }
            | Fault::Pause { host, .. }
            | Fault::Full { host, .. }
            | Fault::Slow { host, .. }
            | Fault::Hang { host, .. }
            | Fault::LoseDisk { host, .. }
            | Fault::LosePages { host, .. }
            | Fault::BackUp { host }
            | Fault::RollBack { host, .. }
            | Fault::Replace { host, .. }
            | Fault::Damage { host } => vec![host],
        };
        let named = self.faults.iter().flat_map(|(_, fault)| hosts(fault));
        let clocks = self.clocks.len() == self.hosts && self.clocks.iter().all(|c| c.1 > 0);
        let sound = (1..=100).contains(&self.hosts)
            && (1..=self.hosts.min(7)).contains(&usize::from(self.n))
            && (1..=1_000).contains(&self.clients)
            && self.keys > 0
            && (1..=4_096).contains(&self.partitions)
            && self.timeout_ms > 0;
        let replaced: Vec<usize> = self
            .faults
            .iter()
            .filter_map(|(_, fault)| match fault {
                Fault::Replace { host, .. } => Some(*host),
                _ => None,
            })
            .collect();
        // More than half of the members have to agree.
        let sound = sound
            && match replaced[..] {
                [] => true,
                [_] => self.hosts > 2,
                [one, other] => self.hosts > if one == other { 2 } else { 4 },
                _ => false,
            };
        if !sound || !clocks || named.into_iter().any(|host| host >= self.hosts) {
            return Err("the schedule's numbers do not fit each other".into());
        }
        Ok(())
    }

    /// The scenario with something left out: operations first, then one fault after the other.
    pub(super) fn shorter(&self) -> Vec<Scenario> {
        let halves = [2, 4].map(|part| self.operations - self.operations / part);
        let fewer = halves.into_iter().filter(|operations| *operations < self.operations);
        let mut shorter: Vec<Scenario> =
            fewer.map(|operations| Scenario { operations, ..self.clone() }).collect();
        shorter.extend((0..self.faults.len()).map(|at| {
            let mut scenario = self.clone();
            scenario.faults.remove(at);
            scenario
        }));
        for plain in
            [Scenario { drop: 0.0, ..self.clone() }, Scenario { duplicate: 0.0, ..self.clone() }]
        {
            if (plain.drop, plain.duplicate) != (self.drop, self.duplicate) {
                shorter.push(plain);
            }
        }
        shorter
    }

    /// The scenario in words, a line each.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "seed {}: {} nodes, N={}, {} keys, {} clients, {} operations, delay {} us, drop {:.3}, \
             duplicate {:.3}, disk {} us, timeout {} ms",
            self.seed,
            self.hosts,
            self.n,
            self.keys,
            self.clients,
            self.operations,
            self.mean_delay.0,
            self.drop,
            self.duplicate,
            self.mean_disk.0,
            self.timeout_ms
        )];
        lines.extend(
            self.faults.iter().map(|(at, fault)| format!("fault at {} us: {fault:?}", at.0)),
        );
        lines
    }
}

/// What befalls all hosts at once: clean restarts, one after the other, or disks that are all put
/// back to copies of themselves, once or twice to the same. Drawn apart, so that all else is the
/// same with and without it. A copy of a cluster whose members have changed since is another
/// matter.
fn whole_cluster(seed: u64, span: Micros, replaces: bool) -> Vec<(Micros, Fault)> {
    let rng = &mut Rng::new(seed ^ 0x0a11);
    let (restarts, restores) = (rng.chance(0.08), rng.chance(0.08) && !replaces);
    let mut down = || rng.within(200 * MILLI) + MILLI;
    let mut faults = Vec::new();
    if restarts {
        faults.extend((1..=3).map(|at| (at * span / 4, Fault::StopAll { down: down() })));
    }
    if restores {
        faults.push((span / 4, Fault::CopyAll));
        faults.extend((2..=3).map(|at| (at * span / 4, Fault::RestoreAll { down: down() })));
    }
    faults
}

/// Stores that are made anew of what damaged ones still show, some of them at once. Drawn apart, so
/// that all else is the same with and without them.
fn lost_pages(
    seed: u64,
    span: Micros,
    hosts: usize,
) -> impl Iterator<Item = (Micros, Fault)> + use<> {
    let rng = &mut Rng::new(seed ^ 0xba6e);
    let (happens, when) = (rng.chance(0.08), rng.within(span));
    let mut damaged = Vec::new();
    for host in (0..hosts).filter(|_| happens) {
        if rng.chance(0.4) {
            damaged.push((when, Fault::LosePages { host, down: rng.within(300 * MILLI) + MILLI }));
        }
    }
    damaged.into_iter()
}

/// A disk that hangs, longer than it takes to notice. Drawn apart, so that all else is the same
/// with and without it.
fn hang(seed: u64, hosts: usize, span: Micros) -> Option<(Micros, Fault)> {
    let rng = &mut Rng::new(seed ^ 0x4a06);
    let drawn = rng.chance(0.2);
    let host = rng.below(hosts as u64) as usize;
    let length = NOTICED_AFTER + MILLI + rng.within((span / 2).max(2 * NOTICED_AFTER));
    drawn.then(|| (rng.within(span), Fault::Hang { host, length }))
}

/// A second replacement, which another operator orders at the same time: of another member if the
/// cluster can be without two, or of the same member by another newcomer. Drawn apart, so that all
/// else is the same with and without it.
fn second_replacement(seed: u64, hosts: usize, first: usize, back: Micros) -> Option<Fault> {
    let rng = &mut Rng::new(seed ^ 0x7b1c);
    if !rng.chance(0.3) {
        return None;
    }
    let other = (first + 1 + rng.below(hosts as u64 - 1) as usize) % hosts;
    let host = if hosts > 4 && rng.chance(0.7) { other } else { first };
    Some(Fault::Replace { host, back })
}

/// A clock that may be days off and run fast or slow.
fn draw_clock(rng: &mut Rng) -> (Micros, u64) {
    if rng.chance(0.5) {
        (Micros::ZERO, 1_000)
    } else {
        (rng.within(200_000_000 * MILLI), 700 + rng.below(800))
    }
}

fn draw_fault(rng: &mut Rng, hosts: usize, longest: Micros) -> Fault {
    // Some pauses and cuts outlast every timeout.
    let length = if rng.chance(0.1) { 8_000 * MILLI } else { rng.within(longest) + MILLI };
    let down = length;
    let host = rng.below(hosts as u64) as usize;
    let other = (host + 1 + rng.below(hosts as u64 - 1) as usize) % hosts;
    match rng.below(24) {
        0..=4 => Fault::Crash { host, down },
        5 | 6 => Fault::CleanStop { host, down },
        7 | 8 => Fault::Pause { host, length },
        9..=11 => Fault::Cut { from: host, to: other, both: rng.chance(0.5), length },
        12 => Fault::Full { host, length },
        13 => Fault::Slow { host, length },
        14 => Fault::LoseDisk { host, down },
        15 => Fault::BackUp { host },
        16 => Fault::RollBack { host, down },
        17 => Fault::CopyDisk { host, from: other, down },
        18 => Fault::Damage { host },
        19 | 20 => Fault::Flap { host, other, times: 1 + rng.below(6), length },
        21..=22 => {
            let side = 1 + rng.below((1 << hosts) - 2);
            Fault::Partition { side, length }
        }
        _ => Fault::PowerCut { down: down.min(200 * MILLI) },
    }
}
