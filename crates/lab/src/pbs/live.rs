//! The model over a cluster's own links, from round trips that its daemons have sampled.
//!
//! **One-way times.** Only round trips can be measured: no two clocks agree. Of a round trip T of a
//! read, with m the shortest one of the link, the way there takes m/2 + U (T - m) and the way back
//! the rest, U drawn evenly from 0 to 1. That is right where a way takes a constant and an
//! exponential time; where all of a delay is in one direction, half of it is notified of each.
//!
//! **The disk.** A confirmation of a write includes the fsync, its arrival does not: a replica that
//! has an object shows it to every question that comes later, and answers once it is synced. So a
//! write is there after one way; confirmed it is after that, what a write takes at the replica's
//! own disk, and the way back.

use pixii_core::message::{RecentTrips, SampleReport};
use pixii_core::node::EXPLORE;
use pixii_core::ring::Ring;
use pixii_core::rng::Rng;
use pixii_core::types::{NodeId, Partition};

use super::Reads;
use super::trial::{Replica, Trial, timeout};

/// With fewer samples than this, nothing is said.
const MIN_SAMPLES: usize = 30;

/// What was measured of a cluster.
pub(crate) struct Links {
    nodes: Vec<NodeId>,
    /// The owners of each partition, by place in `nodes`.
    owners: Vec<Vec<usize>>,
    /// From each node to each; none where they share no partition.
    links: Vec<Vec<Option<Link>>>,
    /// What a write takes at each node's own disk.
    disks: Vec<Vec<u64>>,
}

/// From one node to another, or to itself. Times are in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Round trips of reads; of writes without their fsync, if `is_of_writes`.
    pub(crate) trips: Vec<u64>,
    /// Round trips of writes, fsync included.
    pub(crate) writes: Vec<u64>,
    /// True if too few reads were sampled.
    pub(crate) is_of_writes: bool,
    shortest: u64,
    mean: f64,
    timeout: u64,
}

impl Link {
    fn new(trips: Vec<u64>, writes: Vec<u64>, is_of_writes: bool) -> Self {
        let shortest = trips.iter().copied().min().unwrap_or(0);
        let (mean, timeout) = (mean(&trips), timeout(&trips));
        Link { trips, writes, is_of_writes, shortest, mean, timeout }
    }

    /// What the ways there and back take.
    fn ways(&self, rng: &mut Rng) -> (u64, u64) {
        let trip = drawn(&self.trips, rng);
        let there = self.shortest as f64 / 2.0 + rng.unit() * (trip - self.shortest) as f64;
        let there = there as u64;
        (there, trip - there)
    }
}

fn drawn(samples: &[u64], rng: &mut Rng) -> u64 {
    rng.pick(samples).copied().unwrap_or(0)
}

/// The mean, in microseconds.
pub(crate) fn mean(samples: &[u64]) -> f64 {
    samples.iter().sum::<u64>() as f64 / samples.len().max(1) as f64
}

/// The value that this share of the samples, 0 to 1, is not above.
pub(crate) fn quantile(samples: &[u64], share: f64) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

impl Links {
    /// From what every member has reported. `name` reports members' names; the error says of which
    /// two too little is known.
    pub(crate) fn new(
        ring: &Ring,
        reports: &[SampleReport],
        name: impl Fn(NodeId) -> String,
    ) -> Result<Self, String> {
        let nodes: Vec<NodeId> = reports.iter().map(|report| NodeId::of(&report.name)).collect();
        let place = |id: &NodeId| {
            let found = nodes.iter().position(|node| node == id);
            found.ok_or_else(|| format!("{} has reported no samples", name(*id)))
        };
        let owners = (0..ring.partitions()).map(Partition);
        let owners = owners.map(|one| ring.owners(one).iter().map(place).collect());
        let owners = owners.collect::<Result<Vec<Vec<usize>>, String>>()?;
        let trips = |from: usize, to: usize| {
            let found = reports[from].trips.iter().find(|trips| trips.node == nodes[to]);
            let micros =
                |samples: &[u32]| samples.iter().map(|micros| u64::from(*micros)).collect();
            found.map_or_else(Default::default, |RecentTrips { reads_us, writes_us, .. }| {
                (micros(reads_us), micros(writes_us))
            })
        };
        let all = || 0..nodes.len();
        let disks: Vec<Vec<u64>> = all().map(|at| trips(at, at).1).collect();
        let mut links = vec![vec![None; nodes.len()]; nodes.len()];
        for (from, to) in all().flat_map(|from| all().map(move |to| (from, to))) {
            if owners.iter().any(|owners| owners.contains(&from) && owners.contains(&to)) {
                let link = link(trips(from, to), &disks[to], from == to);
                let link = link.map_err(|(reads, writes)| {
                    let (from, to) = (name(nodes[from]), name(nodes[to]));
                    format!(
                        "too little is known of the way from {from} to {to}: {reads} reads and \
                         {writes} writes were sampled \
                         there, and {MIN_SAMPLES} are needed; let the cluster have its usual load \
                         first, or that of \
                         `pixii lab load`"
                    )
                })?;
                links[from][to] = Some(link);
            }
        }
        Ok(Links { nodes, owners, links, disks })
    }

    /// Replicas of each key.
    pub(crate) fn n(&self) -> usize {
        self.owners.first().map_or(0, Vec::len)
    }

    /// Every link that matters: from whom, to whom, what was measured, and what a write takes at
    /// the other end's disk.
    pub(crate) fn each(&self) -> impl Iterator<Item = (NodeId, NodeId, &Link, &[u64])> {
        self.links.iter().zip(&self.nodes).flat_map(move |(row, from)| {
            let ends = row.iter().zip(&self.nodes).zip(&self.disks);
            ends.filter_map(|((link, to), disk)| Some((*from, *to, link.as_ref()?, &disk[..])))
        })
    }

    fn link(&self, from: usize, to: usize) -> Option<&Link> {
        self.links[from][to].as_ref()
    }

    /// Draws a key, owners of it that coordinate a write and a read, and what these take.
    pub(super) fn draw(&self, trial: &mut Trial, reads: Reads, rng: &mut Rng) {
        trial.clear();
        let Some(owners) = rng.pick(&self.owners) else { return };
        let mut end = || owners[rng.below(owners.len() as u64) as usize];
        let (writer, reader) = (end(), end());
        for (at, owner) in owners.iter().enumerate() {
            let mut ways = |from: usize| match self.link(from, *owner) {
                Some(link) if from == *owner => (0, drawn(&link.trips, rng)),
                Some(link) => link.ways(rng),
                None => (0, 0),
            };
            let ((there, back), (question, answer)) = (ways(writer), ways(reader));
            let back = if *owner == writer { 0 } else { back };
            trial.there.push(there);
            trial.acks.push(there + drawn(&self.disks[*owner], rng) + back);
            let timeout = self.link(reader, *owner).map_or(u64::MAX, |link| link.timeout);
            let timeout = if reads == Reads::Hedged { timeout } else { u64::MAX };
            let answer = question + answer;
            trial.replicas.push(Replica { answer, question, timeout, chance: rng.next_u64(), at });
        }
        trial.acks.sort_unstable();
        if matches!(reads, Reads::Owners | Reads::All) {
            trial.replicas.sort_unstable_by_key(|one| (one.answer, one.chance));
            return;
        }
        let explores = rng.below(EXPLORE) == 0;
        let pace = |one: &Replica| {
            let link = self.link(reader, owners[one.at]);
            if explores { 0.0 } else { link.map_or(0.0, |link| link.mean) }
        };
        // The own copy is the first of equals, and then as the ring has it.
        trial.replicas.sort_by(|one, other| {
            let key = |one: &Replica| (owners[one.at] != reader, one.at);
            pace(one).total_cmp(&pace(other)).then(key(one).cmp(&key(other)))
        });
    }
}

/// What is known of a link, if it suffices; else how many reads and writes there are. Where reads
/// are few, because an owner is the slowest of all, its writes tell: each without what the disk
/// takes there half of the time.
fn link(
    (reads, writes): (Vec<u64>, Vec<u64>),
    disk: &[u64],
    is_own: bool,
) -> Result<Link, (usize, usize)> {
    let known = [&reads, &writes].map(|samples| samples.len() >= MIN_SAMPLES);
    match known {
        [true, true] => Ok(Link::new(reads, writes, false)),
        [true, false] if !is_own => Ok(Link::new(reads, writes, false)),
        [false, true] if !is_own => {
            let synced = quantile(disk, 0.5);
            let trips = writes.iter().map(|took| took.saturating_sub(synced)).collect();
            Ok(Link::new(trips, writes, true))
        }
        _ => Err((reads.len(), writes.len())),
    }
}

#[cfg(test)]
mod tests {
    use pixii_core::emulation::parse_delay;

    use super::super::{Leg, Wars, ms, predict, predict_links};
    use super::*;

    const NAMES: [&str; 3] = ["n1", "n2", "n3"];

    fn ring() -> Ring {
        Ring::new(&NAMES.map(NodeId::of), 3, 16).unwrap()
    }

    /// Round trips of two draws each, none to a node itself, and what writes take at each disk.
    fn reports(delay: &str, disk_us: u32, count: usize) -> Vec<SampleReport> {
        let (delay, mut rng) = (parse_delay(delay).unwrap(), Rng::new(9));
        let mut trip = move || (delay.sample(&mut rng) + delay.sample(&mut rng)).0 as u32;
        let mut to = |from: &str, to: &str| {
            let own = from == to;
            let mut trips =
                |disk: u32| (0..count).map(|_| disk + if own { 0 } else { trip() }).collect();
            RecentTrips { node: NodeId::of(to), reads_us: trips(0), writes_us: trips(disk_us) }
        };
        let report = |from: &str| SampleReport {
            name: from.into(),
            trips: NAMES.iter().map(|name| to(from, name)).collect(),
        };
        NAMES.map(report).into()
    }

    fn links(reports: &[SampleReport]) -> Result<Links, String> {
        Links::new(&ring(), reports, |id| {
            NAMES.into_iter().find(|name| NodeId::of(name) == id).unwrap_or("?").into()
        })
    }

    #[test]
    fn round_trips_of_fixed_and_exponential_ways_predict_what_the_ways_do() {
        for way in ["exponential 5ms", "fixed 4ms"] {
            let links = links(&reports(way, 0, 20_000)).unwrap();
            let leg = Leg::Drawn(parse_delay(way).unwrap());
            let wars = Wars { w: leg.clone(), a: leg.clone(), r: leg.clone(), s: leg, wan: None };
            for reads in [Reads::All, Reads::Hedged] {
                let found = predict_links(&links, reads, 200_000, 1);
                // All are alike, and the first of others is the one with the least mean.
                let wanted = predict(&wars, 3, reads, 200_000, 2);
                for (found, wanted) in found.reads.iter().zip(&wanted.reads) {
                    let [found, wanted] = [found, wanted].map(|h| ms(h.value_at_quantile(0.99)));
                    // Where all read, the coordinator is a replica here, and none there.
                    let alike = reads == Reads::All || (found - wanted).abs() <= 0.05 * wanted;
                    assert!(alike, "{way}, {reads:?}: {found} ms, not {wanted}");
                }
                if reads == Reads::All {
                    continue;
                }
                for (found, wanted) in found.cells.iter().zip(&wanted.cells) {
                    let place = format!("{way}, ({},{})", found.r, found.w);
                    for t in [0, 2_000, 5_000, 10_000, 20_000] {
                        let [found, wanted] = [found.fresh_at(t), wanted.fresh_at(t)];
                        assert!(
                            (found - wanted).abs() < 0.01,
                            "{place} at {t}: {found}, not {wanted}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_disk_delays_a_confirmation_and_not_the_arrival() {
        let links = links(&reports("fixed 4ms", 10_000, 100)).unwrap();
        let reported = predict_links(&links, Reads::Owner, 50_000, 1);
        // With W = 1 the own disk confirms after 10 ms, and the object is everywhere since 4.
        assert!(reported.cells.iter().all(|cell| cell.fresh_at(0) == 1.0));
        let most = reported.writes.iter().map(|writes| ms(writes.max()).round() as u64);
        assert_eq!(most.collect::<Vec<_>>(), [10, 18, 18]);
        assert_eq!(ms(reported.reads[1].max()).round() as u64, 8);
    }

    #[test]
    fn few_reads_are_recognised_by_writes_and_too_little_is_said_by_name() {
        let mut reported = reports("fixed 4ms", 1_000, 40);
        reported[0].trips[2].reads_us.truncate(5);
        let known = links(&reported).unwrap();
        let (_, _, link, _) = known.each().nth(2).unwrap();
        assert!(link.is_of_writes && link.trips.iter().all(|trip| *trip == 8_000), "{link:?}");
        reported[0].trips[2].writes_us.truncate(7);
        let why = links(&reported).err().unwrap();
        let stated = "too little is known of the way from n1 to n3: 5 reads and 7 writes were \
            sampled there, and 30 are needed";
        assert!(why.starts_with(stated), "{why}");
        reported[1].trips.remove(1);
        reported[0].trips[2] = reported[0].trips[1].clone();
        assert!(links(&reported).is_err(), "its own disk is not known");
        let why = links(&reported[..2]).err().unwrap();
        assert_eq!(why, "n3 has reported no samples");
    }
}
