//! What a seed determines before a run begins: the cluster, the network, the load, the faults.

use pixii_core::rng::Rng;
use pixii_core::types::{MILLI, Micros, ObjectLimits};
use serde::{Deserialize, Serialize};

/// A hanging disk is noticed after this time. Daemons take longer; all times of a run are shorter.
pub(super) const NOTICED_AFTER: Micros = Micros::from_millis(300);

/// A connection stalls for less than this time, or it ends. Long enough for a GC epoch to end
/// meanwhile, so that a write that is late can meet clocks that have forgotten it.
pub(super) const LONGEST_STALL: Micros = Micros::from_millis(2_500);

/// A write that is given up is carried out this much later at the latest, beside the delays of the
/// network: a host may not run for a moment that its clock sees as shorter.
const LATEST: Micros = Micros::from_millis(500);

/// A fault and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fault {
    /// `kill -9`: unsynced data may be lost. The host starts again after `down`.
    Crash { host: usize, down: Micros },
    /// A clean stop, as by an operator. The host starts again after `down`.
    CleanStop { host: usize, down: Micros },
    /// The node does nothing for `length`; its links stay up.
    Pause { host: usize, length: Micros },
    /// The disk is nearly full for `length`.
    Full { host: usize, length: Micros },
    /// The disk takes a hundred times as long for `length`.
    Slow { host: usize, length: Micros },
    /// The disk neither answers nor fails any request for `length`.
    Hang { host: usize, length: Micros },
    /// No message passes from one host to another for `length`; with `both`, in neither direction.
    Cut { from: usize, to: usize, both: bool, length: Micros },
    /// The link between two hosts breaks and comes up again, `times` times.
    Flap { host: usize, other: usize, times: u64, length: Micros },
    /// No message passes between the hosts whose bit in `side` is set and the others for `length`.
    Partition { side: u64, length: Micros },
    /// A crash after which the disk is empty.
    LoseDisk { host: usize, down: Micros },
    /// A backup of the disk is made.
    BackUp { host: usize },
    /// A crash after which the disk has the content of the last backup.
    RollBack { host: usize, down: Micros },
    /// A crash after which the host starts with the disk of another host, and then with its own
    /// again.
    CopyDisk { host: usize, from: usize, down: Micros },
    /// A bit flips in some record.
    Damage { host: usize },
    /// A crash after which the damaged store is replaced by a new one with the records that are
    /// still readable.
    LosePages { host: usize, down: Micros },
    /// A host dies for good and a new one takes its places in the ring. After `back`, the old host
    /// starts again with its old data.
    Replace { host: usize, back: Micros },
    /// An operator changes the ring: `joins` new hosts come, and the hosts whose bit in `leaves` is
    /// set go. If `cancel` is given, it is cancelled after that time; `again` if it begins anew
    /// then.
    Plan { joins: usize, leaves: u64, cancel: Option<Micros>, again: bool },
    /// All hosts lose power at the same instant.
    PowerCut { down: Micros },
    /// All hosts are stopped cleanly at the same instant and start again.
    StopAll { down: Micros },
    /// A copy is made of every disk, as after a clean stop at this instant.
    CopyAll,
    /// All hosts crash, and each disk is set back to the copy of `CopyAll`.
    RestoreAll { down: Micros },
}

impl Fault {
    /// True if the fault makes no disk lose data, and no node lose track of the hints that are
    /// pending. (A node that starts compares all partitions.)
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

/// The parameters of one run; as JSON, the schedule that a failure keeps.
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
    /// Share of the writes that their issuer may decide.
    #[serde(default)]
    pub(super) decided: f64,
    pub(super) mean_delay: Micros,
    pub(super) drop: f64,
    pub(super) duplicate: f64,
    pub(super) mean_disk: Micros,
    pub(super) timeout_ms: u32,
    /// Maximum time that a client waits between two requests.
    #[serde(default = "brisk")]
    pub(super) think: Micros,
    /// Limit of the hints that a host keeps, in bytes.
    pub(super) hint_limit: u64,
    /// The age after which hints are offered to other owners, in milliseconds.
    pub(super) hint_age_ms: u64,
    /// The clock of each host: its initial value, and its speed in thousandths.
    pub(super) clocks: Vec<(Micros, u64)>,
    /// True if nothing is compared: failures pass, and hints alone bring every owner what was
    /// acknowledged.
    #[serde(default)]
    pub(super) hints_alone: bool,
    /// True if clients send a write to a second node soon, while the first may still carry it out.
    #[serde(default)]
    pub(super) hedges: bool,
    /// True if connections stall: some writes reach their node much later than they were sent.
    #[serde(default)]
    pub(super) stalls: bool,
    /// How many encoded bytes a client's write may make of an object, where that is scaled down so
    /// that merges and hints make objects beyond every limit; N times that, or twice, is the limit
    /// of merges.
    #[serde(default)]
    pub(super) object_limit: Option<usize>,
    pub(super) faults: Vec<(Micros, Fault)>,
}

/// A backup of a host's disk, early in a run, and its restore, late.
fn old_backup(rng: &mut Rng, hosts: usize, span: Micros, longest: Micros) -> [(Micros, Fault); 2] {
    let host = rng.below(hosts as u64) as usize;
    let backup = (rng.within(span / 3), Fault::BackUp { host });
    let down = rng.within(longest) + MILLI;
    [backup, (span / 2 + rng.within(span / 2), Fault::RollBack { host, down })]
}

/// The waiting time of clients in runs that have no time to lose.
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
        // With long waiting times, GC epochs can end and backups can become old.
        let leisure = rng.chance(0.3);
        let think = if leisure { 100 * MILLI + rng.within(400 * MILLI) } else { brisk() };
        // Faults are drawn from the time that the load is expected to take.
        let pace = mean_delay * 6 + 2 * MILLI + think / 2;
        let span = u64::from(operations) * pace / clients as u64;
        // A storm is many short faults: unsynced data is lost again and again.
        let storm = rng.chance(0.1);
        let (faults, longest) =
            if storm { (20 + rng.below(40), 20 * MILLI) } else { (3 + rng.below(6), span / 3) };
        let mut faults: Vec<(Micros, Fault)> =
            (0..faults).map(|_| (rng.within(span), draw_fault(rng, hosts, longest))).collect();
        if leisure {
            faults.extend(old_backup(rng, hosts, span, longest));
        }
        // Drawn from a separate generator, so that all other choices are the same with and without
        // it.
        let others = &mut Rng::new(seed ^ 0x4e90);
        if others.chance(0.1) {
            let host = others.below(hosts as u64) as usize;
            let back = span / 4 + others.within(span) + 1_000 * MILLI;
            let when = others.within(span / 2);
            faults.push((when, Fault::Replace { host, back }));
            faults.extend(second_replacement(seed, hosts, host, back).map(|second| (when, second)));
        }
        faults.extend(plans(seed, hosts, n, span, &faults));
        if faults.iter().any(|(_, fault)| matches!(fault, Fault::Plan { .. })) {
            // What is left elsewhere of a key whose every copy is damaged can never go.
            let mut damaged = 1;
            faults.retain(|(_, fault)| {
                damaged += u8::from(matches!(fault, Fault::Damage { .. }));
                damaged <= n || !matches!(fault, Fault::Damage { .. })
            });
        }
        let replaces = faults
            .iter()
            .any(|(_, fault)| matches!(fault, Fault::Replace { .. } | Fault::Plan { .. }));
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
            decided: decided(seed, blind_seed),
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
            stalls: Rng::new(seed ^ 0x57a1).chance(0.3),
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
            scenario.decided = scenario.decided.min(FEW_DECIDED);
            let host = others.below(hosts as u64) as usize;
            let down = others.within(longest.max(span / 4)) + MILLI;
            scenario.faults.push((others.within(span), Fault::CleanStop { host, down }));
            scenario.faults.sort_by_key(|(at, _)| *at);
        }
        if scenario.faults.iter().any(|(_, fault)| matches!(fault, Fault::Plan { .. })) {
            // A change waits until a client has settled what outgrows every limit.
            scenario.object_limit = None;
        }
        scenario
    }

    /// The object limits of the nodes of this run.
    pub(super) fn object_limits(&self) -> ObjectLimits {
        let scaled =
            |accepted| ObjectLimits { accepted, merged: accepted * usize::from(self.n.max(2)) };
        self.object_limit.map_or(ObjectLimits::of(self.n), scaled)
    }

    /// How long after its client has given it up a write may be carried out; `None` if messages may
    /// be lost, and with them the notice that it is void.
    pub(super) fn lateness(&self) -> Option<Micros> {
        let loses = |fault: &Fault| {
            matches!(
                fault,
                Fault::Cut { .. }
                    | Fault::Flap { .. }
                    | Fault::Partition { .. }
                    | Fault::Pause { .. }
                    | Fault::Hang { .. }
            )
        };
        let whole = self.drop == 0.0 && !self.faults.iter().any(|(_, fault)| loses(fault));
        whole.then(|| LATEST + self.mean_delay * 60)
    }

    /// Checks a scenario that was not drawn. The error says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let hosts = |fault: &Fault| match *fault {
            Fault::PowerCut { .. }
            | Fault::Plan { .. }
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

    /// Shorter variants of the scenario: fewer operations first, then one fault left out at a time.
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

    /// The scenario as text, one line per fact.
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

/// Share of the writes that issuers may decide where many siblings are wanted.
const FEW_DECIDED: f64 = 0.2;

/// The share of writes that issuers may decide. Drawn apart, so that all else is the same with and
/// without them.
fn decided(seed: u64, siblings: bool) -> f64 {
    let rng = &mut Rng::new(seed ^ 0xdec1);
    let share: f64 = [0.0, 0.5, 1.0, 1.0][rng.below(4) as usize];
    if siblings { share.min(FEW_DECIDED) } else { share }
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

/// Changes of the ring, mostly one. Drawn apart, so that all else is the same with and without
/// them. A host that is to be replaced does not leave.
fn plans(
    seed: u64,
    hosts: usize,
    n: u8,
    span: Micros,
    faults: &[(Micros, Fault)],
) -> Vec<(Micros, Fault)> {
    let rng = &mut Rng::new(seed ^ 0x914a);
    if !rng.chance(0.15) {
        return Vec::new();
    }
    let replaced = |host: usize| {
        faults.iter().any(|(_, fault)| {
            matches!(fault,
            Fault::Replace { host: old, .. } if *old == host)
        })
    };
    let (mut left, mut members, mut plans) = (0_u64, hosts, Vec::new());
    for at in 0..1 + rng.below(2) {
        let joins = rng.below(3) as usize;
        let mut leaves = 0_u64;
        for host in (0..hosts).filter(|host| !replaced(*host)) {
            let fewer = members + joins - 1;
            // Client requests go to the hosts of the beginning, and most of these stay.
            let stays = left.count_ones() as usize + 3 > hosts || fewer < usize::from(n).max(2);
            if rng.chance(0.2) && left >> host & 1 == 0 && !stays {
                (leaves, left, members) = (leaves | 1 << host, left | 1 << host, members - 1);
            }
        }
        let joins = if joins + leaves.count_ones() as usize == 0 { 1 } else { joins };
        members += joins;
        let cancel = rng.chance(0.3).then(|| rng.within(3_000 * MILLI));
        let again = rng.chance(0.5);
        let when = at * span / 3 + rng.within(span / 2);
        plans.push((when, Fault::Plan { joins, leaves, cancel, again }));
    }
    plans
}

/// Draws a clock that may be days off and may run fast or slow.
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
